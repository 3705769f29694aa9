"""What all unit tests share."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader


@pytest.fixture(scope="session", autouse=True)
def service_models_are_read_once() -> Iterator[None]:
    """A client's service model is 0.3 s of JSON, the same for every client of every test."""
    load = functools.cache(JSONFileLoader().load_file)

    def load_once(_loader: object, file_path: str) -> Any:
        return load(file_path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_once)
        yield
