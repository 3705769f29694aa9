"""An error that has travelled is told as it would have been told at home."""

from __future__ import annotations

import json

import pytest

from lambda_migrate.cli.errors import told
from lambda_migrate.commands.errors import error_of, exit_code_of, failure_document
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
from tests.unit.cli.test_cli_render import printed

DETAIL = "0002_b failed: no [42601]\n  b.sql:3:4\n  3 | select nott\n             ^\n  hint: h"
ERRORS: list[MigrateError] = [
    ConfigurationError("set it"),
    ConfigurationError(["a", "b"]),
    ConfigurationError(["a", "b"], heading="two things:"),
    ManifestError(["a.sql:1: no"], heading="1 file cannot be used:"),
    MigrationFailed("no"),
    MigrationFailed("no", migration="0002_b", sqlstate="42601", detail=DETAIL, attempts=3),
    Diverged("they disagree", detail="0001_a: edited"),
    RepairRequired("in doubt", migration="0003_c"),
    NotReady("later"),
    LeaseHeld("somebody is at it"),
    LeaseLost("lost"),
    LeaseStoreUnavailable("away"),
    DatabaseUnavailable("away"),
    FlagsUnavailable("away"),
    MigrateError("else"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: f"{type(each).__name__}")
def test_an_error_is_told_from_afar_as_from_here(error: MigrateError) -> None:
    travelled = error_of(json.loads(json.dumps(failure_document(error))))
    assert type(travelled) is type(error)
    assert exit_code_of(travelled) == exit_code_of(error)
    for width in (60, 100):
        shown = [
            printed(told(each, committed=[], width=width), width=width)
            for each in (error, travelled)
        ]
        assert shown[0] == shown[1]


@pytest.mark.parametrize(
    "kind", ["Newfangled", "TYPE_CHECKING", "escape_text", "", None, "Exception"]
)
def test_a_kind_that_nobody_knows_is_told_by_its_message(kind: object) -> None:
    error = error_of({"kind": kind, "message": "it is so"})
    assert (type(error), str(error)) == (MigrateError, "it is so")
