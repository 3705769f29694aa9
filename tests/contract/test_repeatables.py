"""Repeatable migrations: the newest text is applied, on a real server and in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_migrate.engine import rollback
from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.errors import ConfigurationError, LeaseLost, MigrationFailed, NotReady
from lambda_migrate.manifest_digest import compute_checksum
from lambda_migrate.migrations import Manifest, Migration, RowState, Script
from lambda_migrate.migrations import repeatable as repeatable_migrations
from lambda_migrate.migrations.version import RepeatableVersion
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.ports import Database
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import InMemoryDatabase, InMemoryLeaseStore
from tests.contract.databases import (
    FIRST,
    SECOND,
    THIRD,
    DatabaseUnderTest,
    PostgreSQLUnderTest,
    grant,
    soon,
)

VERSIONED = (FIRST, SECOND, THIRD)


def repeatable(name: str, text: str) -> Migration:
    """A view whose only row is its text."""
    sql = f"DROP VIEW IF EXISTS {name}; CREATE VIEW {name} AS SELECT '{text}'::text AS text"
    full = f"R__{name}"
    return Migration(RepeatableVersion(full), full, Script(sql), None, compute_checksum(text))


def release(count: int, **texts: str) -> Manifest:
    """Code with the first versioned migrations and these repeatable ones."""
    return Manifest([*VERSIONED[:count], *(repeatable(*item) for item in texts.items())])


class Service:
    """Functions of one database, whatever code they have."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.table = InMemoryLeaseStore()

    def target(self, mode: str = "migrate") -> Target:
        policy = Policy(mode=mode, wait_seconds=0.2)
        return Target("orders", self.table, self.database, policy=policy)

    def start(self, code: Manifest, mode: str = "migrate") -> Outcome:
        return MigrationRunner(code, self.target(mode)).ensure(soon())

    def operations(self, code: Manifest) -> Operations:
        return Operations(code, self.target())

    def texts(self) -> dict[str, str]:
        """Checksums of the texts that stand, by name."""
        rows = sorted(self.database.read_history(soon()), key=lambda row: row.fence)
        return {
            row.name: row.checksum
            for row in rows
            if str(row.version).startswith("R__") and row.state is RowState.APPLIED
        }

    def has(self, **texts: str) -> bool:
        expected = {f"R__{name}": compute_checksum(text) for name, text in texts.items()}
        return self.texts() == expected


@pytest.fixture
def service(db: DatabaseUnderTest) -> Service:
    return Service(db.database)


def test_they_follow_the_versions_in_the_order_of_names_and_run_once(service: Service) -> None:
    code = release(2, b="1", a="1")
    plan, _ = service.operations(code).plan(soon())
    assert [each.name for each in plan.pending] == ["0001_a", "0002_b", "R__a", "R__b"]
    assert service.start(code) is Outcome.MIGRATED
    assert service.start(code) is Outcome.UP_TO_DATE
    assert service.operations(code).up(soon()) == ()
    changed = release(2, b="2", a="1")
    assert service.operations(changed).up(soon()) == ("R__b",)
    assert service.start(changed) is Outcome.UP_TO_DATE
    assert service.has(a="1", b="2")


def test_older_code_is_served_and_restores_no_older_text(service: Service) -> None:
    older = [release(1, a="1"), release(1, a="2"), release(2, a="2"), release(2, a="3")]
    for code in older:
        service.start(code)
    for code in older:
        assert service.start(code) is Outcome.UP_TO_DATE
        assert service.start(code, "require") is Outcome.UP_TO_DATE
        assert service.operations(code).up(soon()) == ()
    assert service.has(a="3")
    status = service.operations(older[0]).status(soon())
    assert [row.name for row in status.plan.ahead] == ["0002_b", "R__a"]


def test_older_code_whose_text_was_never_applied_is_served_without_another_check(
    service: Service,
) -> None:
    service.start(release(2, a="newer"))
    skipped = release(1, a="skipped")
    assert service.start(skipped) is Outcome.MIGRATED, "one check records it"
    assert service.start(skipped) is Outcome.UP_TO_DATE
    assert service.has(a="newer")
    service.start(release(3, a="newer"))  # whose text was applied with version 2
    assert service.operations(release(2, a="skipped")).up(soon()) == ()
    assert service.has(a="newer")


def test_older_code_applies_a_text_that_newer_code_lacks(service: Service) -> None:
    service.start(release(3))
    service.start(release(1, a="old"))
    assert service.has(a="old")
    service.start(release(3, a="new"))
    assert service.has(a="new")


def test_an_earlier_text_is_applied_again_only_with_a_new_version(service: Service) -> None:
    service.start(release(1, a="1"))
    service.start(release(1, a="2"))
    again = service.operations(release(1, a="1"))
    assert again.up(soon()) == ()
    assert service.operations(release(2, a="1")).up(soon()) == ("0002_b", "R__a")
    assert service.has(a="1")


def test_an_earlier_text_is_applied_again_on_request(service: Service) -> None:
    service.start(release(1, a="1", b="1"))
    service.start(release(1, a="2", b="1"))
    again = service.operations(release(1, a="1", b="1"))
    name = RepeatableVersion("R__a")
    assert again.repair(name, soon(), declared_state="pending") == "R__a"
    with pytest.raises(ConfigurationError, match="R__a is pending already"):
        again.repair(name, soon(), declared_state="pending")
    assert again.up(soon()) == ("R__a",)
    assert service.has(a="1", b="1")
    assert service.start(release(1, a="2", b="1")) is Outcome.MIGRATED
    assert service.has(a="1", b="1"), "the other text is the older one now"


def test_the_name_of_a_repeatable_migration_is_not_a_version(service: Service) -> None:
    operations, name = service.operations(release(1, a="1")), RepeatableVersion("R__a")
    with pytest.raises(ConfigurationError, match="R__a is repeatable and has no version"):
        operations.up(soon(), to=name)
    with pytest.raises(ConfigurationError, match="R__a is repeatable and has no version"):
        operations.baseline(name, soon())
    with pytest.raises(ConfigurationError, match=r"no migration file R__z\.sql"):
        operations.repair(RepeatableVersion("R__z"), soon(), declared_state="pending")


def test_repair_records_a_text_without_running_it(service: Service) -> None:
    code = release(1, a="1")
    service.start(release(1))
    name = RepeatableVersion("R__a")
    assert service.operations(code).repair(name, soon(), declared_state="applied") == "R__a"
    assert service.operations(code).up(soon()) == ()
    with pytest.raises(ConfigurationError, match="R__a is repeatable"):
        service.operations(code).repair(name, soon(), declared_state="edited")


def test_after_a_rollback_each_text_is_applied_again(service: Service) -> None:
    older, newer = release(1, a="1", b="1"), release(2, a="2", b="1")
    service.start(older)
    service.start(newer)
    assert service.operations(newer).down(soon(), steps=1) == ("0002_b",)
    assert not service.operations(older).status(soon()).is_marked_ready
    with pytest.raises(NotReady):
        service.start(older, "require")
    assert service.operations(older).up(soon()) == ("R__a", "R__b")
    assert service.has(a="1", b="1")
    assert service.start(older, "require") is Outcome.UP_TO_DATE
    assert service.operations(newer).up(soon()) == ("0002_b", "R__a")
    assert service.has(a="2", b="1")


def test_a_rollback_chooses_versions_only(service: Service) -> None:
    code = release(2, a="1")
    service.start(code)
    with pytest.raises(ConfigurationError, match="no such version"):
        service.operations(code).down(soon(), only=RepeatableVersion("R__a"))
    assert service.operations(code).down(soon(), to=0) == ("0002_b", "0001_a")
    assert service.operations(code).up(soon()) == ("0001_a", "0002_b", "R__a")


def test_a_removed_file_changes_nothing(service: Service) -> None:
    service.start(release(1, a="1", b="1"))
    without = release(1, b="1")
    assert service.operations(without).up(soon()) == ()
    assert service.start(without) is Outcome.UP_TO_DATE
    assert service.start(release(1, a="1", b="1")) is Outcome.UP_TO_DATE
    assert service.operations(without).status(soon()).plan.ahead == ()


def test_services_with_different_files_do_not_disturb_each_other(service: Service) -> None:
    first, second = release(1, a="1"), release(1, b="1")
    assert [service.start(first), service.start(second)] == [Outcome.MIGRATED] * 2
    for _ in range(2):
        assert service.start(first) is Outcome.UP_TO_DATE
        assert service.start(second) is Outcome.UP_TO_DATE
    assert service.has(a="1", b="1")


def test_repeatables_without_versions_are_a_manifest(service: Service) -> None:
    code = release(0, a="1")
    assert service.start(code) is Outcome.MIGRATED
    assert service.start(code) is Outcome.UP_TO_DATE
    assert service.start(release(1, a="1")) is Outcome.MIGRATED


def test_up_to_an_earlier_version_leaves_them_pending(service: Service) -> None:
    code = release(2, a="1")
    assert service.operations(code).up(soon(), to=1) == ("0001_a",)
    assert service.operations(code).up(soon(), to=2) == ("0002_b", "R__a")


def test_a_baseline_leaves_them_pending(service: Service) -> None:
    code = release(2, a="1")
    service.operations(code).baseline(2, soon())
    assert service.operations(code).up(soon()) == ("R__a",)


def test_a_dry_run_runs_them(service: Service) -> None:
    service.start(release(1))
    result = service.operations(release(1, a="1")).dry_run(soon())
    assert result is not None
    assert [(step.name, step.outcome) for step in result.steps] == [("R__a", "ran")]
    assert service.has()


def test_verify_reports_nothing(service: Service) -> None:
    older, code = release(1, a="1"), release(2, a="2")
    service.start(older)
    service.start(code)
    assert service.operations(code).verify(soon()).problems == ()
    assert service.operations(older).verify(soon(), resync=True).problems == ()
    assert service.start(older, "require") is Outcome.UP_TO_DATE


def test_a_broken_text_fails_only_its_own_manifest(db: DatabaseUnderTest, service: Service) -> None:
    service.start(release(1, a="1"))
    broken = db.breaking(repeatable("a", "2"), "22012")
    code = Manifest([FIRST, SECOND, broken])
    with pytest.raises(MigrationFailed, match="as planned"):
        service.start(code)
    failure = service.table.state.failure
    assert failure is not None
    assert (failure.digest, failure.migration, failure.version) == (code.digest, "R__a", "")
    db.fix(broken)
    assert service.start(release(1, a="1")) is Outcome.UP_TO_DATE
    assert service.operations(release(2, a="3")).up(soon()) == ("R__a",), "0002_b had committed"
    assert service.has(a="3")


def test_a_holder_killed_before_it_records_the_set_has_nothing_applied_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = release(1, a="1")
    with monkeypatch.context() as patch:
        patch.setattr(repeatable_migrations, "make_manifest_row", _killed)
        with pytest.raises(RuntimeError, match="killed"):
            service.start(code)
    assert service.has(a="1")
    assert service.operations(code).up(soon()) == ()
    assert service.start(code, "require") is Outcome.UP_TO_DATE


def _killed(*_: object) -> Migration:
    raise RuntimeError("killed")


def test_a_holder_whose_fence_is_taken_over_applies_nothing(
    db: DatabaseUnderTest, service: Service
) -> None:
    service.start(release(1, a="1"))
    version = RepeatableVersion.of_row("R__a", 1, 50)
    with service.database.open_session(grant(50), soon()) as session:
        error = db.in_the_middle(
            lambda one: session.apply(one, "digest", soon()),
            replace(repeatable("a", "2"), version=version),
            lambda: service.database.open_session(grant(51), soon()).close(),
        )
    assert isinstance(error, LeaseLost)
    assert service.has(a="1")


def test_a_rollback_killed_after_it_began_leaves_texts_pending(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = release(2, a="1")
    service.start(code)
    with monkeypatch.context() as patch:
        patch.setattr(rollback, "_resolve_in_doubt", lambda *_: _killed(code))
        with pytest.raises(RuntimeError, match="killed"):
            service.operations(code).down(soon(), steps=1)
    assert service.operations(code).up(soon()) == ("R__a",)


def test_the_view_is_the_newest_text(fresh_database: PostgreSQLUnderTest) -> None:
    service = Service(fresh_database.database)
    for code in (release(1, a="1"), release(2, a="2"), release(1, a="1")):
        service.start(code)
    assert fresh_database.run("SELECT text FROM a") == [["2"]]


RELEASES = [
    release(1),
    release(1, a="1"),
    release(1, a="2", b="1"),
    release(2, a="2", b="1"),
    release(2, a="3"),
    release(2, a="3", b="1"),
    release(3, a="1", b="2"),
    release(3, a="4", b="2"),
]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, len(RELEASES) - 1), max_size=12))
def test_after_any_order_of_starts_the_newest_release_has_its_repeatables(
    starts: list[int],
) -> None:
    """Code that was never here, with as many versions as the newest, would count as newer."""
    service = Service(InMemoryDatabase())
    newest = RELEASES[0]
    started = [newest]
    for code in (RELEASES[number] for number in starts):
        is_newer = RELEASES.index(code) > RELEASES.index(newest)
        if not is_newer and code not in started and len(code) == len(newest):
            continue
        service.start(code)
        started.append(code)
        newest = code if is_newer else newest
        texts = service.texts()
        expected = {each.name: each.checksum for each in newest.repeatables}
        assert {name: texts[name] for name in expected} == expected
        assert service.start(code) is Outcome.UP_TO_DATE
