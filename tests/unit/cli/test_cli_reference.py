"""The reference page of the command line: every command, option and JSON shape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from lambda_migrate.cli import main
from lambda_migrate.cli.app import COMMON_OPTIONS, app
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.lease.memory import InMemoryLeaseTable
from lambda_migrate.lease.record import DatabaseRecord, Failure, LeaseState, Progress
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.postgresql.dry_run_effects import (
    AdvancedSequence,
    MigrationEffects,
    RelationLock,
    TableChange,
)
from lambda_migrate.testing import InMemoryDatabase, InMemoryFlags

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "command-line.md"


def list_commands() -> dict[str, Any]:
    root: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {n}": c for n, c in inner.items()}
    return found


def read_sections() -> dict[str, str]:
    """Return the text below each heading ``## `name` ``."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return {title.strip("`"): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def format_option_row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    text = str(parameter.help).replace("[", "\\[")  # else it is a link
    return f"| {names} | {text} |"


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    others = {
        "Common options",
        "--function",
        "Exit codes",
        "JSON",
        "Progress, colours, interruption",
    }
    assert set(read_sections()) - others == set(list_commands())


@pytest.mark.parametrize("name", list(list_commands()))
def test_every_option_of_a_command_is_described_as_its_help_does(name: str) -> None:
    command = list_commands()[name]
    own = [
        each
        for each in command.params
        if each.name not in COMMON_OPTIONS and each.opts[0][0] == "-"
    ]
    rows = [row for row in read_sections()[name].splitlines() if row.startswith("| `-")]
    assert rows == [format_option_row(each) for each in own]


@pytest.mark.parametrize("name", [name for name in list_commands() if name != "demo"])
def test_the_common_options_are_those_of_every_command(name: str) -> None:
    common = [each for each in list_commands()[name].params if each.name in COMMON_OPTIONS]
    rows = [row for row in read_sections()["Common options"].splitlines() if row.startswith("| `-")]
    assert rows == [format_option_row(each) for each in common]


def get_shape(value: Any) -> Any:
    """Return the keys of nested dictionaries, and the shape of each list's first element."""
    if isinstance(value, dict):
        return {key: get_shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [get_shape(each) for each in value[:1]]
    return None


def read_documented_shape(title: str, *, block: int = 0) -> Any:
    blocks = re.findall(r"```json\n(.*?)```", read_sections()[title], re.DOTALL)
    return get_shape(json.loads(blocks[block]))


@pytest.fixture
def database() -> InMemoryDatabase:
    return InMemoryDatabase()


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: InMemoryDatabase
) -> InMemoryLeaseTable:
    store, database = InMemoryLeaseTable(), database
    for version, name in ((1, "create_orders"), (2, "add_status")):
        text = (
            f"-- migrate:up\ncreate table t{version} ();\n-- migrate:down\ndrop table t{version};\n"
        )
        (tmp_path / f"000{version}_{name}.sql").write_text(text)
    monkeypatch.setattr("lambda_migrate.wiring.make_database", lambda _settings: database)
    monkeypatch.setattr("lambda_migrate.wiring.make_store", lambda _settings, **_parts: store)
    monkeypatch.setattr(
        "lambda_migrate.wiring.make_flags", lambda _settings, **_parts: InMemoryFlags()
    )
    monkeypatch.setattr("lambda_migrate.cli.create_table.make_client", lambda: None)
    monkeypatch.setattr(
        "lambda_migrate.cli.create_table.create_table", lambda *_args, **_named: True
    )
    monkeypatch.setenv("LAMBDA_MIGRATE_TABLE", "leases")
    monkeypatch.setenv("LAMBDA_MIGRATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("LAMBDA_MIGRATE_DATABASE_URL", "postgresql://app@localhost/orders")
    return store


BUSY = LeaseState(
    fence=7,
    owner="orders/8/ab",
    databases={"d": DatabaseRecord(addresses={"memory:5432/test": (0, 7)}, fence=7)},
    progress=Progress("0002_add_status", 1, 2, 1),
    failure=Failure("d", "0002_add_status", "2", "42P01", "no such table", 1, 1, 1),
)


@pytest.mark.parametrize(
    ("title", "before", "arguments"),
    [
        ("new", [], ["new", "another"]),
        ("status", [["up", "--to", "1"]], ["status"]),
        ("plan", [], ["plan"]),
        ("up", [], ["up"]),
        ("down", [["up"]], ["down", "--to", "0", "--yes"]),
        ("verify", [], ["verify"]),
        ("baseline", [], ["baseline", "--yes"]),
        ("repair", [["up"]], ["repair", "2", "--as", "pending", "--yes"]),
        ("lease show", [], ["lease", "show"]),
        ("lease release", [], ["lease", "release", "--yes"]),
        ("table create", [], ["table", "create"]),
        ("JSON", [], ["down", "--steps", "0"]),
    ],
)
def test_json_results_have_the_documented_shape(
    store: InMemoryLeaseTable,
    database: InMemoryDatabase,
    capsys: pytest.CaptureFixture[str],
    title: str,
    before: list[list[str]],
    arguments: list[str],
) -> None:
    for each in before:
        assert main(each) == 0
    capsys.readouterr()
    if title in ("status", "lease show"):
        store.state = BUSY
    if title == "baseline":
        entries = (ToolHistoryEntry("0002", version=2),)
        database.other_histories = [ToolHistory("dbmate", "public.schema_migrations", entries)]
    main([*arguments, "--format", "json"])
    answer = get_shape(json.loads(capsys.readouterr().out))
    expected = read_documented_shape(title)
    if title == "status":
        # the history of this test has none; see `plan`
        answer["divergences"] = expected["divergences"]
        answer["in_doubt"] = expected["in_doubt"]
    if title == "plan":
        answer["divergences"] = expected["divergences"]
        answer["in_doubt"] = expected["in_doubt"]
        answer["pending"][0]["faults"] = expected["pending"][0]["faults"]
    if title == "verify":
        answer["problems"] = expected["problems"]
    assert answer == expected


def test_a_dry_run_has_the_documented_shape(
    store: InMemoryLeaseTable,
    database: InMemoryDatabase,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = "public.orders"
    change = TableChange(table, inserted=1)
    database.dry_run_effects = {
        1: MigrationEffects(0, (RelationLock(table, "table", "SHARE"),), (change,))
    }
    database.moved_sequences = (AdvancedSequence("public.s", 1, 2),)
    assert main(["plan", "--dry-run", "--yes", "--format", "json"]) == 0
    answer = get_shape(json.loads(capsys.readouterr().out))
    found = answer["dry_run"]
    found["retried"] = found["advice"] = found["not_undone"]["effects"] = [None]
    assert {"dry_run": answer.pop("dry_run")} == read_documented_shape("plan", block=1)
    assert answer.keys() == read_documented_shape("plan").keys()
    assert store.state.owner is None


def test_the_page_of_the_admin_function_names_every_command_and_option() -> None:
    page = (PAGE.parents[1] / "how-to" / "run-commands-in-the-vpc.md").read_text()
    rows = dict(re.findall(r"^\| `(command|options)` \| (.*) \|$", page, re.MULTILINE))
    assert re.findall(r"`([^`]+)`", rows["command"]) == list(COMMANDS)
    options = {option.name for command in COMMANDS.values() for option in command.options}
    named = set(re.findall(r"`([^`]+)`", rows["options"].partition(";")[0]))
    assert named == options
