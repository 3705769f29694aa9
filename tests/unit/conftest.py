"""Fixtures and settings of all unit tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from botocore.loaders import JSONFileLoader, Loader


@pytest.fixture(scope="session", autouse=True)
def service_models_are_read_once() -> Iterator[None]:
    """A client's service model is 0.3 s of JSON, the same for every client of every test.

    The list of services, for which each new session reads hundreds of folders, is the same, too.
    """
    load = functools.cache(JSONFileLoader().load_file)
    services = functools.cache(Loader().list_available_services)

    def load_once(_loader: object, file_path: str) -> Any:
        return load(file_path)

    def list_once(_loader: object, type_name: str) -> Any:
        return list(services(type_name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_once)
        patch.setattr(Loader, "list_available_services", list_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def the_command_line_is_built_once() -> Iterator[None]:
    """Typer reads every command's signature: 0.05 s, the same for every command line of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield
