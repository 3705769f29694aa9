"""The reference page of the command line: every command, option and JSON shape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.cli import main
from lambda_migrate.cli.app import HELP
from lambda_migrate.cli.help import CommandHelp
from lambda_migrate.commands.registry import COMMANDS, Option
from lambda_migrate.commands.result import EXIT_CODES
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import DatabaseRecord, LeaseState
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.postgresql.dry_run_effects import (
    AdvancedSequence,
    MigrationEffects,
    RelationLock,
    TableChange,
)
from lambda_migrate.testing import InMemoryDatabase, InMemoryFlags
from tests.unit.docs.command_tables import PAGE, make_sections, read_sections, read_table

COMMANDS_WITH_HELP = {name: each for name, each in HELP.items() if isinstance(each, CommandHelp)}


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    others = {
        "Common options",
        "`--env-file`",
        "`--function`",
        "Exit codes",
        "Help and completion",
        "JSON",
        "Progress, colors, interruption",
        "With Alembic and Django",
    }
    titles = {f"`{name}`" for name in COMMANDS_WITH_HELP}
    assert read_sections(PAGE.read_text()).keys() - others == titles


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    on_page = {title: read_table(text) for title, text in read_sections(PAGE.read_text()).items()}
    tables = make_sections()
    assert on_page == {title: tables.get(title, "") for title in on_page}


@pytest.mark.parametrize("name", COMMANDS_WITH_HELP)
def test_the_usage_line_of_the_page_is_that_of_the_help(name: str) -> None:
    usage = f"lambda-migrate {name} {COMMANDS_WITH_HELP[name].usage}".strip()
    assert f"\nUsage: `{usage}`\n" in read_sections(PAGE.read_text())[f"`{name}`"]


@pytest.mark.parametrize("width", [80, 50, 40])
@pytest.mark.parametrize("name", list(COMMANDS_WITH_HELP))
def test_help_names_every_option_within_the_width(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*name.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > width and len(line.split()) > 1] == []
    words = " ".join(" ".join(lines).split())
    command = COMMANDS_WITH_HELP[name]
    for option in (*command.options, *command.common_options):
        assert " ".join((option.flags or (option.name.upper(),))[-1:]) in words
        assert option.full_help in words
        assert option.type is bool or option.is_positional or _explains_its_absence(option)
    for code in command.exit_codes:
        assert f"{code} {EXIT_CODES[code]}" in words
    assert f"lambda-migrate {name}" in words.partition("Examples:")[2]


def _explains_its_absence(option: Option) -> bool:
    """``down`` needs one of its options, and so does ``repair``; the others have a default."""
    is_required = option.name in ("to", "steps", "only", "as", "environment", "function")
    return "default:" in option.full_help or is_required


@pytest.mark.parametrize(
    ("command", "option"),
    [("new x", "--function f"), ("table create", "--function f"), ("demo", "--function f")],
)
def test_an_option_that_a_command_refuses_is_not_in_its_help(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *option.split()]) == 2
    assert main([*command.split(), "--help"]) == 0
    assert option.split()[0] not in capsys.readouterr().out


def test_the_help_of_a_command_lists_only_settings_that_it_uses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lease", "show", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--table" in out
    assert "--directory" not in out


@pytest.mark.parametrize(
    ("words", "completions"),
    [("lambda-migrate ba", ["baseline"]), ("lambda-migrate repair 1 --as p", ["pending"])],
)
def test_bash_completes_commands_and_values(
    words: str,
    completions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_LAMBDA_MIGRATE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == completions


def get_shape(value: Any) -> Any:
    """Return the keys of nested dictionaries, and the shape of each list's first element."""
    if isinstance(value, dict):
        return {key: get_shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [get_shape(each) for each in value[:1]]
    return None


def read_documented_shape(title: str, *, block: int = 0) -> Any:
    sections = read_sections(PAGE.read_text())
    text = sections.get(f"`{title}`") or sections[title]
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    return get_shape(json.loads(blocks[block]))


@pytest.fixture
def database() -> InMemoryDatabase:
    return InMemoryDatabase()


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: InMemoryDatabase
) -> InMemoryLeaseStore:
    store, database = InMemoryLeaseStore(), database
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
        ("repair", [["up"]], ["repair", "2", "--as", "pending", "--force", "--yes"]),
        ("lease show", [], ["lease", "show"]),
        ("lease release", [], ["lease", "release", "--yes"]),
        ("table create", [], ["table", "create"]),
        ("JSON", [], ["down", "--steps", "0"]),
    ],
)
def test_json_results_have_the_documented_shape(
    store: InMemoryLeaseStore,
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
        answer["pending"][0]["hooks"] = expected["pending"][0]["hooks"]
        answer["repeatables_ahead"] = expected["repeatables_ahead"]
    if title == "verify":
        answer["problems"] = expected["problems"]
    assert answer == expected


def test_a_dry_run_has_the_documented_shape(
    store: InMemoryLeaseStore,
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
