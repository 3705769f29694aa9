"""The setting ``ready_when``: how it is read, and how it is compared with a tool's history."""

from __future__ import annotations

import pytest

from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.migrations.requirement_check import check_requirement
from lambda_migrate.migrations.requirements import Requirement, parse_requirements
from lambda_migrate.migrations.version import DottedVersion, Version
from lambda_migrate.postgresql.other_tools import TOOLS


def requirement(text: str) -> Requirement:
    [parsed] = parse_requirements(text).entries
    return parsed


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("prisma:20260101_add", Requirement("prisma", "20260101_add")),
        (" Prisma : 20260101_add ", Requirement("prisma", "20260101_add")),
        ("flyway@billing:1.7", Requirement("flyway", "1.7", "billing")),
        ("knex@app.moves:1_a.js", Requirement("knex", "1_a.js", "app", "moves")),
        ("liquibase:x.xml:ada:1", Requirement("liquibase", "x.xml:ada:1")),
        ("EF Core:Init", Requirement("ef-core", "Init")),
    ],
)
def test_a_requirement_names_a_tool_perhaps_a_table_and_a_version(
    text: str, parsed: Requirement
) -> None:
    assert requirement(text) == parsed


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("20260101_add", "is not TOOL:VERSION"),
        ("prisma:", "is not TOOL:VERSION"),
        (":20260101_add", "is not TOOL:VERSION"),
        ("prisma@:20260101_add", "is not TOOL:VERSION"),
        ("prisma:a,", "is not TOOL:VERSION"),
        ("prisam:a", "write one of alembic, db-migrate"),
        ("dbmate:add_status", "dbmate stores numbers"),
        ("flyway:R__views", "flyway stores numbers"),
    ],
)
def test_a_requirement_that_cannot_be_used_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_requirements(text)


def test_every_tool_whose_history_is_read_can_be_required() -> None:
    for tool in TOOLS:
        assert requirement(f"{tool.setting_name}:1").number == (
            "1" if tool.key in ("version", "version_id") else ""
        )


def test_the_digest_names_the_requirements_in_any_order() -> None:
    digest = parse_requirements("prisma:a, django:b.c").digest
    assert digest == parse_requirements("django:b.c,prisma:a,prisma:a").digest
    others = ("prisma:a", "prisma:b, django:b.c", "prisma@x:a, django:b.c")
    assert digest not in {parse_requirements(other).digest for other in others}


def entry(
    label: str, state: str = "applied", version: Version | None = None, covers: bool = False
) -> ToolHistoryEntry:
    return ToolHistoryEntry(label, state, version, covers)


@pytest.mark.parametrize(
    ("text", "entries", "reason"),
    [
        ("prisma:a", [entry("a")], ""),
        ("prisma:a", [entry("ab")], "has not applied it"),
        ("prisma:a", [entry("a", "rolled back")], "rolled it back"),
        ("prisma:a", [entry("a", "failed")], "started it and not finished it"),
        ("knex:1_a", [ToolHistoryEntry("1_a.js")], "has not applied it"),
        ("knex:1_a", [ToolHistoryEntry("x", key="1_a.js")], ""),
        ("flyway:V1_7__add.sql", [entry("1.7 add", version=DottedVersion("1.7"))], ""),
        ("flyway:2", [entry("2 x", "failed", 2)], "it failed in"),
        ("flyway:2", [entry("5 x", version=5, covers=True)], ""),
        ("flyway:6", [entry("5 x", version=5, covers=True)], "has not applied it"),
        ("golang-migrate:6", [entry("7", "failed", 7, covers=True)], ""),
        ("golang-migrate:7", [entry("7", "failed", 7, covers=True)], "started it and not"),
        ("golang-migrate:8", [entry("7", version=7, covers=True)], "has not applied it"),
        ("rails:20260101120000_add.rb", [entry("20260101120000", version=20260101120000)], ""),
        ("diesel:2026-01-01-120000_a", [entry("20260101120000", version=20260101120000)], ""),
        ("tern:004", [entry("3", version=3, covers=True)], "has not applied it"),
        ("dbmate:1", [entry("11", version=11)], "has not applied it"),
    ],
)
def test_a_requirement_is_met_by_the_state_of_exactly_its_version(
    text: str, entries: list[ToolHistoryEntry], reason: str
) -> None:
    history = ToolHistory("The tool", "public.t", tuple(entries))
    status = check_requirement(requirement(text), "The tool", [history])
    assert status.is_applied == (not reason)
    assert reason in status.reason
    assert status.has_failed == ("it failed in" in reason)


def test_a_table_that_is_missing_or_cannot_be_read_is_waited_for() -> None:
    required = requirement("prisma:a")
    assert "no history table of Prisma" in check_requirement(required, "Prisma", []).reason
    locked = ToolHistory("Prisma", "public.t", (entry("a"),), unreadable_reason="is locked")
    status = check_requirement(required, "Prisma", [locked])
    assert (status.is_applied, status.has_failed) == (False, False)
