"""Control characters that others wrote are shown escaped, on terminals and in logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate import errors
from lambda_migrate.cli import main
from lambda_migrate.errors import MigrationFailed, escape_text
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import DatabaseRecord, LeaseState
from lambda_migrate.migrations import HistoryRow, RowState
from lambda_migrate.testing import InMemoryDatabase

from .hostile import CONTROL_CHARACTERS, SQL, find_control_characters

FAR = 10**18
Run = Callable[..., tuple[int, str]]


@pytest.fixture(params=["terminal", "pipe"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the answer goes."""
    if request.param == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    return str(request.param)


@pytest.fixture
def store() -> InMemoryLeaseStore:
    return InMemoryLeaseStore()


@pytest.fixture
def database() -> InMemoryDatabase:
    return InMemoryDatabase()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "0001_a.sql").write_text("-- migrate:up\nselect 1;\n-- migrate:down\nselect 2;\n")
    return made


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    store: InMemoryLeaseStore,
    database: InMemoryDatabase,
    folder: Path,
    tmp_path: Path,
) -> Iterator[Run]:
    monkeypatch.setattr("lambda_migrate.wiring.make_database", lambda _settings: database)
    monkeypatch.setattr("lambda_migrate.wiring.make_store", lambda _settings, **_parts: store)
    monkeypatch.setenv("LAMBDA_MIGRATE_DATABASE_URL", "postgresql://app:hunter2@localhost/orders")
    monkeypatch.setenv("LAMBDA_MIGRATE_DIRECTORY", str(folder))
    monkeypatch.setenv("LAMBDA_MIGRATE_TABLE", "leases")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        written = captured.out + captured.err
        assert find_control_characters(written) == ""
        assert "hunter2" not in written
        assert "should not happen" not in written
        return code, written

    yield call
    # Rich remembers what it was told of the terminal for as long as a console lives.
    assert not sys.stdout.isatty()


def planted(text: str, *, now_ms: int = FAR) -> LeaseState:
    """An item in which everything that is a text is this one."""
    return LeaseState(
        fence=FAR,
        owner=text,
        lease_until_ms=now_ms,
        databases={text: DatabaseRecord(addresses={text: (FAR, FAR)}, fence=FAR, owner=text)},
        progress=Progress(text, -1, FAR, -FAR, FAR),
        failure=Failure(text, text, text, text, text, FAR, FAR, FAR),
    )


COMMANDS = [
    ("lease", "show"),
    ("status",),
    ("plan",),
    ("verify",),
    ("up",),
    ("down", "--steps", "1", "--yes"),
    ("repair", "1", "--as", "pending", "--yes"),
    ("lease", "release", "--yes"),
]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("kind", CONTROL_CHARACTERS)
def test_no_command_prints_control_characters_of_an_item(
    run: Run, store: InMemoryLeaseStore, kind: str
) -> None:
    for command in COMMANDS:
        store.state = planted(CONTROL_CHARACTERS[kind])
        _, written = run(*command)
        assert "\nerror: all is lost" not in written
        store.state = planted(CONTROL_CHARACTERS[kind])
        code, _ = run(*command, "--format", "json")
        assert code in (0, 1, 2, 4)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("kind", CONTROL_CHARACTERS)
def test_no_command_prints_control_characters_of_a_history_row(
    run: Run, database: InMemoryDatabase, kind: str
) -> None:
    text = CONTROL_CHARACTERS[kind]
    row = HistoryRow(7, text, text, text, owner=text, applied_at="2026-01-01T00:00:00.000Z")
    for state in (RowState.APPLIED, RowState.STARTED):
        for command in (("status", "--all"), ("plan",), ("verify",), ("down", "--only", "7")):
            database._rows[7] = replace(row, state=state)
            run(*command)
            run(*command, "--format", "json")


@pytest.mark.parametrize("text", SQL.values(), ids=SQL)
def test_printable_text_is_shown_unchanged(run: Run, store: InMemoryLeaseStore, text: str) -> None:
    """Markup, formats and quotes have no meaning here."""
    store.state = planted(text)
    assert f"held by {text}" in run("lease", "show")[1]


def test_escaped_characters_are_shown_by_their_code(run: Run, store: InMemoryLeaseStore) -> None:
    store.state = planted("a\x1b[2J\u202eb\nc")
    assert r"held by a\x1b[2J\u202eb\nc, fence" in run("lease", "show")[1]


@pytest.mark.parametrize("kind", CONTROL_CHARACTERS)
def test_json_has_every_text_unchanged(run: Run, store: InMemoryLeaseStore, kind: str) -> None:
    store.state = planted(CONTROL_CHARACTERS[kind])
    document: dict[str, Any] = json.loads(run("lease", "show", "--format", "json")[1])
    assert document["owner"] == CONTROL_CHARACTERS[kind]
    assert document["failure"]["cause"] == CONTROL_CHARACTERS[kind]


@pytest.mark.parametrize("moment", [FAR, -FAR, 10**19, 253_402_300_800_000])
def test_a_time_out_of_range_is_shown_as_none(
    run: Run, store: InMemoryLeaseStore, moment: int
) -> None:
    store.state = planted("another", now_ms=moment)
    document = json.loads(run("lease", "show", "--format", "json")[1])
    assert document["lease_until"] is None
    assert f"invalid time: {moment} ms" in run("lease", "show")[1]


# --- what is typed


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "arguments",
    [
        *(("new", text) for text in CONTROL_CHARACTERS.values()),
        *(("status", "--target", text) for text in CONTROL_CHARACTERS.values()),
        *(("status", "--directory", text) for text in CONTROL_CHARACTERS.values()),
        *(("status", f"--{text}") for text in CONTROL_CHARACTERS.values()),
        ("new", "../../x"),
        ("new", "/etc/x"),
        ("new", "a/b"),
        ("new", ""),
        ("new", "x" * 5_000),
        ("new", "x", "--directory", "/dev/zero"),
        ("status", "--directory", "/dev/zero"),
        ("plan", "--to", str(10**40)),
        ("up", "--to", str(10**40)),
        ("up", "--to", "-1"),
        ("up", "--to", "9" * 5_000),
        ("down", "--to", str(10**40)),
        ("down", "--steps", "-1"),
        ("down", "--steps", "0"),
        ("baseline", str(10**40), "--yes"),
        ("repair", str(10**40), "--as", "applied", "--yes"),
        ("status", "--timeout", "nan"),
        ("status", "--timeout", "inf"),
        ("status", "--timeout", "-1"),
        ("status", "--database-url", "postgresql://app:hunter2\x1b@h/d"),
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:50],
)
def test_invalid_arguments_are_a_usage_error_and_write_nothing(
    run: Run, folder: Path, arguments: tuple[str, ...]
) -> None:
    before = sorted(folder.parent.rglob("*"))
    assert run(*arguments)[0] == 2
    assert sorted(folder.parent.rglob("*")) == before


def test_a_huge_number_of_steps_means_all(run: Run) -> None:
    run("up")
    assert run("down", "--steps", str(10**40), "--yes")[0] == 0


def test_a_huge_timeout_is_accepted(run: Run) -> None:
    assert run("up", "--timeout", "1e300")[0] == 0


# --- errors, wherever they surface

ERRORS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("text", CONTROL_CHARACTERS.values(), ids=CONTROL_CHARACTERS)
def test_no_error_contains_control_characters(kind: type[Exception], text: str) -> None:
    reported = str(kind(text))
    assert find_control_characters(reported) == ""
    if issubclass(kind, (errors.NotReady, MigrationFailed)):
        assert "\n" not in reported


def test_messages_of_the_server_in_any_language_are_unchanged() -> None:
    for words in (
        "la relation \u00ab\u00a0x\u00a0\u00bb n'existe pas",
        "\u8868 \u300cx\u300d",
        "a\tb",
    ):
        assert str(errors.DatabaseUnavailable(words)) == words


@pytest.mark.parametrize("text", CONTROL_CHARACTERS.values(), ids=CONTROL_CHARACTERS)
def test_the_attributes_of_a_failure_are_escaped_too(text: str) -> None:
    failed = MigrationFailed(text, migration=text, sqlstate=text, detail=text)
    for reported in (failed.summary, failed.cause, failed.migration, failed.sqlstate):
        assert find_control_characters(reported, keep="") == ""
    assert find_control_characters(str(failed)) == ""


def test_escaping_is_idempotent() -> None:
    for text in (*CONTROL_CHARACTERS.values(), *SQL.values(), "a\ud800b"):
        assert escape_text(escape_text(text)) == escape_text(text)
        assert escape_text(text).isprintable()
