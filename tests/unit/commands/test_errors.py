"""An error converted to JSON and back is rendered like the original."""

from __future__ import annotations

import json

import pytest

from lambda_migrate.cli.errors import render_error
from lambda_migrate.commands.errors import build_error_document, get_exit_code, parse_error_document
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Diverged,
    FlagsUnavailable,
    LeaseHeld,
    LeaseLost,
    LeaseStoreUnavailable,
    ManifestError,
    MigrateError,
    MigrationFailed,
    NotReady,
    RepairRequired,
)
from tests.unit.cli.test_cli_render import render_lines

DETAIL = "0002_b failed: no [42601]\n  b.sql:3:4\n  3 | select nott\n             ^\n  hint: h"
ERRORS: list[MigrateError] = [
    ConfigurationError("set it"),
    ConfigurationError(["a", "b"]),
    ConfigurationError(["a", "b"], heading="two things:"),
    ManifestError(["a.sql:1: no"], heading="1 file cannot be used:"),
    MigrationFailed("no"),
    MigrationFailed("no", migration="0002_b", sqlstate="42601", detail=DETAIL, attempts=3),
    MigrationFailed("late", migration="0002_b", detail=DETAIL, is_timeout=True),
    Diverged("they disagree", detail="0001_a: edited"),
    RepairRequired("in doubt", migration="0003_c"),
    NotReady("later"),
    LeaseHeld("another process holds the lease"),
    LeaseLost("lost"),
    LeaseStoreUnavailable("away"),
    DatabaseUnavailable("away"),
    FlagsUnavailable("away"),
    MigrateError("else"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: f"{type(each).__name__}")
def test_an_error_of_the_function_is_rendered_like_a_local_one(error: MigrateError) -> None:
    travelled = parse_error_document(json.loads(json.dumps(build_error_document(error))))
    assert type(travelled) is type(error)
    assert get_exit_code(travelled) == get_exit_code(error)
    for width in (60, 100):
        shown = [
            render_lines(render_error(each, committed_migrations=[], width=width), width=width)
            for each in (error, travelled)
        ]
        assert shown[0] == shown[1]


@pytest.mark.parametrize(
    "kind", ["Newfangled", "TYPE_CHECKING", "escape_text", "", None, "Exception"]
)
def test_an_unknown_kind_of_error_is_shown_by_its_message(kind: object) -> None:
    error = parse_error_document({"kind": kind, "message": "it is so"})
    assert (type(error), str(error)) == (MigrateError, "it is so")
