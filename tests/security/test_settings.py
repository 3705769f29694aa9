"""Hostile settings are treated as plain names, or refused with one clear error."""

from __future__ import annotations

import socket
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_migrate.database_address import DatabaseAddress
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.postgresql.connection import ConnectionFailed, connect
from lambda_migrate.settings import SETTINGS, Settings

from .hostile import CONTROL_CHARACTERS, SQL, find_control_characters

NAMES = list(SETTINGS)
TEXTS = ("table", "target", "environment", "schema", "database_secret")
NUL = {"nul": "a\0b", "half a pair": "a\ud800b"}


def refused(**arguments: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({}, **arguments)
    fault = str(caught.value)
    assert find_control_characters(fault) == ""
    return fault


def reported(arguments: dict[str, object]) -> str:
    """What is wrong with settings, or ""; any other error is a defect."""
    try:
        assert isinstance(Settings.load({}, **arguments), Settings)
    except ConfigurationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", [*CONTROL_CHARACTERS, *NUL])
def test_a_name_with_an_invisible_character_is_rejected(name: str, kind: str) -> None:
    fault = refused(**{name: {**CONTROL_CHARACTERS, **NUL}[kind]})
    assert f"LAMBDA_MIGRATE_{name.upper()}" in fault
    assert "without NUL, control or invisible characters" in fault


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", SQL.values(), ids=SQL)
def test_a_name_may_contain_any_visible_text(name: str, text: str) -> None:
    assert getattr(Settings.load({}, **{name: text}), name) == text


@given(name=st.sampled_from(NAMES), value=st.text(max_size=30) | st.binary() | st.floats())
@settings(deadline=None, max_examples=300)
def test_an_invalid_value_raises_only_a_configuration_error(name: str, value: object) -> None:
    assert find_control_characters(reported({name: value})) == ""


@given(value=st.text(st.characters(exclude_characters="\0"), max_size=30))
@settings(deadline=None)
def test_an_invalid_url_raises_only_a_configuration_error(value: str) -> None:
    for url in (value, f"postgresql://u:p@h/{value}", f"postgresql://u:{value}@h/d?{value}"):
        assert find_control_characters(reported({"database_url": url})) == ""


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app\0database\0other:hunter2@h/d",
        "postgresql://app:hunter2\0@h/d",
        "postgresql://app:hunter2@h/d\n",
        "postgresql://app:hunter2@h/d\u202e",
        "postgresql://app:hunter2\ud800@h/d",
        "postgresql://app:hunter2@h/d?application_name=\x1b[2J",
    ],
    ids=ascii,
)
def test_an_ambiguous_url_is_rejected(url: str) -> None:
    fault = refused(database_url=url)
    assert "control or invisible character" in fault
    assert "hunter2" not in fault


@pytest.mark.parametrize(
    ("what", "login"),
    [
        ("user", {"user": "app\0database\0other", "password": "hunter2"}),
        ("password", {"user": "app", "password": "hunter2\0x"}),
        ("password", {"user": "app", "password": "hunter2\ud800"}),
        ("database name", {"user": "app", "password": "hunter2", "database": "d\0user\0root"}),
    ],
)
def test_an_ambiguous_login_is_not_sent(what: str, login: dict[str, str]) -> None:
    """A secret's fields come as they are: a NUL would end one, and begin another of the message."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        place = DatabaseAddress(**{"database": "d", "host": "127.0.0.1", "port": port, **login})
        with pytest.raises(ConnectionFailed) as caught:
            connect(place, application_name="test", timeout=5)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert caught.value.permanent
    assert f"the {what} contains a NUL or an unpaired surrogate" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
