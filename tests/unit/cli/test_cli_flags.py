"""Feature flags on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lambda_migrate.engine.flags import PAUSED
from lambda_migrate.testing import InMemoryFlags

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def flags() -> InMemoryFlags:
    return InMemoryFlags()


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, flags: InMemoryFlags) -> Run:
    monkeypatch.setattr("lambda_migrate.wiring.make_flags", lambda *_, **__: flags)
    return run


def run_json(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(*arguments, "--format", "json")
    document: dict[str, Any] = json.loads(out)
    return code, document


def test_up_is_refused_while_paused_and_names_the_option(run: Run, flags: InMemoryFlags) -> None:
    flags.set(paused=True)
    code, _, err = run("up")
    assert code == 1
    assert PAUSED in err
    assert "--despite-flags" in err
    code, document = run_json(run, "up")
    assert (code, document["error"]["kind"]) == (1, "NotReady")
    assert run_json(run, "up", "--despite-flags")[1]["applied"][0] == "0001_orders"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "migrations are allowed"),
        ({"paused": True}, "paused"),
        ({"hold_back_at": 7, "mode": "require"}, "held back at 7, mode require"),
    ],
)
def test_status_shows_the_flags_in_force(
    run: Run, flags: InMemoryFlags, said: dict[str, Any], shown: str
) -> None:
    flags.set(**said)
    assert shown in run("status")[1]
    document = run_json(run, "status")[1]["flags"]
    assert document == {
        "mode": "migrate",
        "hold_back_at": 0,
        "paused": False,
        "unavailable": None,
        **said,
    }


def test_up_does_not_start_while_the_flags_cannot_be_read(run: Run, flags: InMemoryFlags) -> None:
    flags.is_down = True
    code, _, err = run("up")
    assert code == 1
    assert "the feature flags cannot be read" in err
    assert "next: fix the access to the flags, or run `lambda-migrate up --despite-flags`" in err
    assert run_json(run, "up")[1]["error"]["kind"] == "FlagsUnavailable"


def test_a_dry_run_is_not_advised_to_migrate_while_the_flags_cannot_be_read(
    run: Run, flags: InMemoryFlags
) -> None:
    flags.is_down = True
    code, _, err = run("plan", "--dry-run", "--yes")
    assert code == 1
    assert "next: fix the access to the flags, then run the command again" in err
    assert "--despite-flags" not in err


def test_status_shows_why_the_flags_cannot_be_read(run: Run, flags: InMemoryFlags) -> None:
    flags.is_down = True
    code, out, _ = run("status")
    assert code == 0
    assert "flags are down" in out
    document = run_json(run, "status")[1]["flags"]
    assert document["paused"] is None
    assert "flags are down" in document["unavailable"]


def test_status_without_configured_flags_does_not_mention_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_migrate.wiring.make_flags", lambda *_, **__: None)
    assert "\nflags " not in run("status")[1]
    assert run_json(run, "status")[1]["flags"] is None
