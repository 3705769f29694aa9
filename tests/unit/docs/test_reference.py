"""The reference pages agree with the code."""

from __future__ import annotations

import importlib
import re
from inspect import isclass

import pytest

import lambda_migrate
from lambda_migrate import check_events, errors, events
from lambda_migrate.aws import telemetry
from lambda_migrate.commands.errors import get_exit_code
from lambda_migrate.conninfo import IGNORED_PARAMETERS
from lambda_migrate.database_address import LIBPQ_VARIABLES
from lambda_migrate.errors import MigrateError
from lambda_migrate.events import CheckFailed, CheckSucceeded, Event
from lambda_migrate.lease import codec
from lambda_migrate.postgresql.queries import Queries
from lambda_migrate.postgresql.sql_fragments import ServerTimeouts
from tests.unit.docs.pages import DOCS, ROOT, rows, section

CLASSES = [name for name in errors.__all__ if name != "escape_text"]
PAGE = {path.stem: path.read_text() for path in (DOCS / "reference").glob("*.md")}


def make_error(name: str) -> MigrateError:
    kind: type[MigrateError] = getattr(errors, name)
    return kind("why")


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_on_its_page_with_what_to_do(name: str) -> None:
    [row] = [row for row in rows(PAGE["errors"]) if row[0] == f"[`{name}`](#{name.lower()})"]
    error = make_error(name)
    assert row[1:3] == ["yes" if error.retryable else "no", str(get_exit_code(error))]
    assert len(row[3]) > 10
    assert section(PAGE["errors"], f"`{name}`").strip()


def test_every_error_on_the_page_exists() -> None:
    assert set(re.findall(r"^## `(\w+)`$", PAGE["errors"], re.M)) == set(CLASSES)


def test_the_page_of_connection_settings_has_every_parameter_and_why_some_are_ignored() -> None:
    table = rows(PAGE["connection"])
    assert {row[0]: row[1] for row in table if row[1].startswith("`PG")} == {
        f"`{name}`": f"`{variable}`" for variable, name in LIBPQ_VARIABLES.items()
    }
    reasons = {name: row[1] for row in table for name in re.findall(r"`(\w+)`", row[0])}
    for name, reason in IGNORED_PARAMETERS.items():
        assert reasons.get(name) == reason


PUBLIC_MODULES = ("asgi", "errors", "events", "local", "testing", "wsgi")


def _all_of(module: str) -> list[str]:
    return list(importlib.import_module(f"lambda_migrate.{module}").__all__)


def members(module: str) -> list[str]:
    """The names that the API page shows of a module of which it shows some."""
    page = PAGE["api"].partition(f"::: lambda_migrate.{module}\n")[2].partition("\n#")[0]
    return re.findall(r"^        - (\w+)$", page, re.M)


def test_the_api_shows_every_error() -> None:
    assert sorted(members("errors")) == sorted(CLASSES)


def test_the_api_shows_every_event() -> None:
    kinds = [getattr(events, name) for name in events.__all__]
    shown = [kind.__name__ for kind in kinds if isclass(kind) and issubclass(kind, Event)]
    assert len(shown) > 12
    assert sorted(members("events")) == sorted(shown)


def test_the_api_shows_the_public_names_and_no_others() -> None:
    shown = re.findall(r"^::: lambda_migrate\.(.+)$", PAGE["api"], re.M)
    names = {name for name in shown if name.partition(".")[0] not in PUBLIC_MODULES}
    elsewhere = {"__version__", "errors", "Event"}  # the latter two: in sections of their own
    assert names == set(lambda_migrate.__all__) - elsewhere
    local = {name.removeprefix("local.") for name in shown if name.startswith("local.")}
    middlewares = {f"{module}.{name}" for module in ("asgi", "wsgi") for name in _all_of(module)}
    others = {"errors", "events", "testing"} | middlewares
    assert set(shown) - names == others | {f"local.{n}" for n in local}
    assert all(hasattr(importlib.import_module("lambda_migrate.local"), name) for name in local)


def test_every_metric_is_on_its_page_with_its_unit() -> None:
    listed = {
        row[0].strip("`"): row[1] for row in rows(section(PAGE["metrics-and-logs"], "Metrics"))
    }
    assert set(listed) == set(telemetry.METRICS)
    documented = re.findall(r"^``(\w+)``\s+(\w+)", telemetry.__doc__ or "", re.M)
    assert dict(documented) == listed


def test_every_key_of_the_line_is_on_its_page() -> None:
    keys = {row[0].strip("`") for row in rows(section(PAGE["metrics-and-logs"], "The log line"))}
    for event in (CheckSucceeded, CheckFailed):
        fields = set(event.__slots__) - {"message", "seconds", "waited_seconds"}
        assert fields | {"duration_ms", "waited_ms"} <= keys


def test_every_message_of_a_ready_line_is_on_its_page() -> None:
    table = rows(section(PAGE["metrics-and-logs"], "The log line"))
    listed = {row[0].strip("`"): row[2].strip("`") for row in table if len(row) == 3}
    for outcome, message in check_events.MESSAGES_BY_OUTCOME.items():
        assert listed[message] == outcome


def test_every_attribute_of_the_item_is_on_its_page() -> None:
    listed = {
        row[0].strip("`"): row[1] for row in rows(section(PAGE["stored"], "The item in DynamoDB"))
    }
    layout = dict(re.findall(r"^``(\w+)``\s+([SNML]) ", codec.__doc__ or "", re.M))
    assert listed == {**layout, "target": "S"}


@pytest.mark.parametrize("table", ["fence", "history"])
def test_every_column_is_on_its_page_with_its_type(table: str) -> None:
    listed = {row[0].strip("`"): row[1] for row in rows(section(PAGE["stored"], f"`{table}`"))}
    timeouts = ServerTimeouts(lock=0, statement=1, server_version=0)
    script = Queries("s").create_tables(timeouts, create_schema=True)
    [body] = re.findall(rf'NOT EXISTS "s"\.{table} \((.*?)\n            \);', script, re.S)
    assert listed == dict(re.findall(r"^ +(\w+) +(?:pg_catalog\.)?(\w+)", body, re.M))


def test_every_test_and_page_that_a_requirement_names_exists() -> None:
    table = rows((DOCS / "requirements.md").read_text().partition("\n## ")[0])
    for requirement, tests, page in table:
        named = re.findall(r"`((?:tests|examples)/[^`]+)`", tests)
        linked = re.findall(r"\]\(([^)#]+)", page)
        assert named, requirement
        assert linked, requirement
        assert [path for path in named if not (ROOT / path).exists()] == []
        assert [path for path in linked if not (DOCS / path).exists()] == []


def test_the_targets_of_make_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        named = set(re.findall(r"(?:`|^|\$ )make ([a-z-]+)", path.read_text(), re.M))
        assert named <= targets, path
