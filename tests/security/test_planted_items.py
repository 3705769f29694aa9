"""An item that another program wrote causes a clear error or a bounded wait, never a crash."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.failure import make_failure
from lambda_migrate.errors import ConfigurationError, MigrationFailed, NotReady
from lambda_migrate.lease.backoff import Backoff
from lambda_migrate.lease.codec import decode, encode_databases, encode_failure, encode_progress
from lambda_migrate.lease.decision import MAX_FAILURE_PAUSE_MS, MAX_LEASE_MS
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import CLOCK_SKEW_MS, DatabaseRecord, LeaseState, join_digests
from lambda_migrate.outcome import Outcome
from lambda_migrate.testing import FixedRandom
from tests.integration.postgresql.empty_database import EmptyDatabase, migration
from tests.unit.engine.fakes import LEASE_SECONDS, Fakes, item_size, manifest, prefixes

from .hostile import CONTROL_CHARACTERS, SQL, find_control_characters

FAR = 10**18
NUMBERS = [
    "1e400",
    "NaN",
    "-Infinity",
    "-0",
    "1.0",
    "0x10",
    "9" * 38,
    "-" + "9" * 38,
    "1_000",
    " 7",
]

values = st.recursive(
    st.fixed_dictionaries({"S": st.text(max_size=9)})
    | st.fixed_dictionaries({"N": st.sampled_from(NUMBERS) | st.integers().map(str)})
    | st.sampled_from([{"NULL": True}, {"BOOL": False}, {"B": b"\0"}, {"SS": ["a"]}, {}, None, 7]),
    lambda inner: (
        st.fixed_dictionaries({"M": st.dictionaries(st.text(max_size=9), inner, max_size=3)})
        | st.fixed_dictionaries({"L": st.lists(inner, max_size=3)})
    ),
    max_leaves=6,
)
known = st.sampled_from(
    ["format", "fence", "owner", "lease_until", "lease_ms", "databases", "progress", "failure", "x"]
)


@given(item=st.dictionaries(known, values, max_size=6))
@settings(deadline=None, max_examples=400)
def test_any_item_is_decoded_or_a_configuration_error(item: dict[str, Any]) -> None:
    for planted in (item, {**item, "format": {"N": "2"}}):
        reported = ""
        try:
            assert isinstance(decode(planted, target="orders"), LeaseState)
        except ConfigurationError as error:
            reported = str(error)
        assert find_control_characters(reported) == ""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_that_is_not_an_integer_is_an_error_that_names_the_attribute(number: str) -> None:
    if number == "-0":
        assert decode({"format": {"N": "2"}, "fence": {"N": number}}, target="o").fence == 0
        return
    with pytest.raises(ConfigurationError, match="'fence' is not a whole number"):
        decode({"format": {"N": "2"}, "fence": {"N": number}}, target="orders")


def test_a_deeply_nested_map_is_an_error_that_names_the_attribute() -> None:
    deep: dict[str, Any] = {"S": "x" * 1000}
    for _ in range(31):
        deep = {"M": {"progress": deep}}
    with pytest.raises(ConfigurationError, match="'migration' is not a string"):
        decode({"format": {"N": "2"}, "progress": deep}, target="orders")


@pytest.mark.parametrize("kind", CONTROL_CHARACTERS)
def test_the_name_of_a_forged_attribute_is_escaped(kind: str) -> None:
    item: dict[str, Any] = {
        "format": {"N": "2"},
        "databases": {"M": {CONTROL_CHARACTERS[kind]: {"S": "x"}}},
    }
    with pytest.raises(ConfigurationError) as caught:
        decode(item, target="orders")
    assert find_control_characters(str(caught.value)) == ""


# --- what could block other processes without end


PLANTED = {
    str(number): DatabaseRecord(
        ready_digests=join_digests(f"{digest:064x}" for digest in range(3_000)),
        older_digests=join_digests(f"{digest:064x}" for digest in range(3_000)),
        unlisted_count=FAR,
        addresses={f"{number} {n}": (FAR, FAR) for n in range(50)},
        fence=FAR,
        at_ms=FAR,
    )
    for number in range(20)
}


def held_lease(until_ms: int, **more: Any) -> LeaseState:
    return LeaseState(fence=7, owner="a stranger", lease_until_ms=until_ms, **more)


@pytest.mark.parametrize(
    "planted",
    [
        held_lease(FAR),
        held_lease(FAR, progress=Progress("0001_m", 0, 1, FAR, 1)),
        held_lease(FAR, progress=Progress("0001_m", -5, -9, -FAR, -FAR)),
        held_lease(FAR, databases=PLANTED),
    ],
    ids=["owner", "endless progress", "progress of the past", "many digests"],
)
@pytest.mark.parametrize(
    ("length_ms", "most"),
    [
        (round(LEASE_SECONDS * 1000), 2 * LEASE_SECONDS),
        (0, MAX_LEASE_MS / 1000 + LEASE_SECONDS),
        (-FAR, MAX_LEASE_MS / 1000 + LEASE_SECONDS),
        (FAR, MAX_LEASE_MS / 1000 + LEASE_SECONDS),
    ],
)
def test_a_lease_without_end_is_taken_over(
    planted: LeaseState, length_ms: int, most: float
) -> None:
    """Within two of the leases that it names, and within the longest one that settings allow."""
    fakes = Fakes()
    fakes.table.state = planted._replace(lease_ms=length_ms)
    began = fakes.clock.monotonic()
    deadline = Deadline.after(2_000.0, fakes.clock)
    assert fakes.runner(manifest(1), wait_seconds=2_000).ensure(deadline) is Outcome.MIGRATED
    assert fakes.clock.monotonic() - began < most
    assert item_size(encode_databases(fakes.table.state.databases)) < 8_000


def test_forged_failures_cost_one_pause() -> None:
    fakes = Fakes()
    fakes.table.state = LeaseState(progress=Progress("0001_m", 0, 1, 0, attempts=FAR))
    with pytest.raises(MigrationFailed, match="in a row ended"):
        fakes.runner(manifest(1)).ensure(fakes.deadline())
    fakes.clock.advance(MAX_FAILURE_PAUSE_MS / 1000)
    assert fakes.runner(manifest(1)).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_an_endless_pause_is_limited() -> None:
    fakes = Fakes()
    runner = fakes.runner(manifest(1))
    digest = runner.manifest.digest
    now = fakes.clock.wall_ms()
    for retry in (FAR, now + MAX_FAILURE_PAUSE_MS + 2 * CLOCK_SKEW_MS + 1):
        fakes.table.state = LeaseState(
            failure=Failure(digest, "m", "1", "", "planted", 1, now, retry)
        )
        assert fakes.runner(manifest(1)).ensure(Deadline.after(60.0, fakes.clock)) is not None


@given(
    waited=st.floats(0, 900),
    until=st.integers(-FAR, FAR),
    started=st.integers(-FAR, FAR),
    failures=st.integers(0, 10**6),
)
@settings(deadline=None)
def test_forged_progress_does_not_prolong_a_wait(
    waited: float, until: int, started: int, failures: int
) -> None:
    state = held_lease(until, progress=Progress("m", 0, 1, started))
    backoff = Backoff(FixedRandom(0.999))
    delay = backoff.delay(waited, state=state, now_ms=10**12, error_count=failures)
    assert 0 <= delay <= backoff.delay(waited, error_count=failures)


@pytest.mark.parametrize("attempts", [-FAR, -4, -1, 0, FAR])
def test_a_failure_after_a_forged_one_is_readable(attempts: int) -> None:
    shipped = manifest(1)
    planted = LeaseState(failure=Failure(shipped.digest, "m", "1", "", "planted", attempts, 0, 0))
    failure = make_failure(
        planted,
        MigrationFailed("no"),
        manifest=shipped,
        address="a",
        pause_seconds=10,
        now_ms=10**12,
    )
    state = decode({"format": {"N": "2"}, "failure": encode_failure(failure)}, target="orders")
    assert state.failure is not None
    assert 0 <= state.failure.retry_at_ms - 10**12 <= MAX_FAILURE_PAUSE_MS


def test_a_forged_ready_digest_is_removed_by_the_next_holder() -> None:
    fakes = Fakes()
    address = fakes.database.address_text
    lying = {fakes.database.identity: PLANTED["0"]._replace(addresses={address: (FAR, FAR)})}
    fakes.change(fence=7, databases=lying)
    fakes.operations(manifest(1, 2)).up(fakes.deadline())
    record = fakes.table.state.databases[fakes.database.identity]
    assert record.ready_digests == join_digests(prefixes(manifest(1, 2)))
    assert fakes.ready(manifest(1), manifest(1, 2)) == [manifest(1), manifest(1, 2)]


def test_the_largest_item_stays_far_below_400_kb() -> None:
    """Names as long as file names get, every number at its longest, 4-byte characters."""
    wide = "\U0001f418"
    progress = Progress(wide * 63, 10**6, 10**6, FAR, FAR)
    failure = Failure(
        "d" * 64,
        wide * 63,
        str(FAR),
        "42P01",
        wide * 300,
        10**6,
        FAR,
        FAR,
        FAR,
        is_process_killed=True,
    )
    assert item_size(encode_progress(progress)) + item_size(encode_failure(failure)) < 2_500


# --- in PostgreSQL


@pytest.mark.parametrize("planted", [10**13, 2**62, 2**63 - 1, 2**63, 10**19])
def test_a_forged_fence_does_not_reach_postgresql(db: EmptyDatabase, planted: int) -> None:
    """The item can be created again; a token with no room above it could not be passed again."""
    db.apply(migration("CREATE TABLE a (x int)"), fence=1)
    with pytest.raises(ConfigurationError, match="Delete the item"), db.holder(planted):
        pass
    assert db.column("SELECT token FROM lambda_migrate.fence") == [1]
    db.apply(migration("CREATE TABLE b (x int)", 2), fence=2)
    assert db.versions() == [1, 2]


def test_a_fence_after_a_year_of_cold_starts_is_accepted(db: EmptyDatabase) -> None:
    db.apply(migration("CREATE TABLE a (x int)"), fence=3 * 10**10)
    assert db.versions() == [1]


@pytest.mark.parametrize(
    "owner", [*CONTROL_CHARACTERS.values(), *SQL.values()], ids=[*CONTROL_CHARACTERS, *SQL]
)
def test_a_forged_owner_is_only_printed(owner: str) -> None:
    fakes = Fakes()
    until = fakes.clock.wall_ms() + 60_000
    fakes.table.state = LeaseState(fence=1, owner=owner, lease_until_ms=until)
    with pytest.raises(NotReady) as caught:
        fakes.runner(manifest(1)).ensure(Deadline.after(5.0, fakes.clock))
    assert find_control_characters(str(caught.value)) == ""


def test_a_forged_ready_digest_is_served_and_verify_detects_it() -> None:
    """The limit of what can be defended: the table is what the fast path believes."""
    fakes = Fakes()
    files = manifest(1, 2)
    fakes.migrated(manifest(1))
    record = fakes.table.state.databases[fakes.database.identity]
    marks = join_digests(prefixes(files))
    lying = record._replace(ready_digests=marks, addresses={fakes.database.address_text: (3, 1)})
    fakes.change(databases={fakes.database.identity: lying})
    assert fakes.runner(files).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    found = fakes.operations(files).verify(fakes.deadline())
    assert "the history does not support that" in found.problems[0]
