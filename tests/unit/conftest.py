"""What all unit tests share."""

from __future__ import annotations

import functools
from typing import Any

import botocore.loaders

_load = functools.cache(botocore.loaders.JSONFileLoader().load_file)


def _load_once(_loader: object, file_path: str) -> Any:
    """A client's service model is 0.3 s of JSON, the same for every client of every test."""
    return _load(file_path)


botocore.loaders.JSONFileLoader.load_file = _load_once  # type: ignore[method-assign]  # see above
