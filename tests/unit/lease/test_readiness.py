"""Database records contain only what a check through the same address has confirmed."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lambda_migrate.lease.codec import decode, encode_databases
from lambda_migrate.lease.readiness import (
    MAX_OLDER_DIGESTS,
    UNKNOWN_IDENTITY,
    CheckedDatabase,
    find_conflicting_records,
    record_check,
    remove_ready_digests,
)
from lambda_migrate.lease.record import (
    MAX_READY_DIGESTS,
    SHORT_DIGEST_BYTES,
    DatabaseRecord,
    LeaseState,
    join_digests,
    split_digests,
)
from lambda_migrate.manifest_digest import EMPTY_DIGEST
from lambda_migrate.postgresql.ports import FenceRow, is_behind_last_completion
from tests.unit.engine.fakes import item_size

HERE, TUNNEL, ELSEWHERE = "db:5432/orders", "localhost:15432/orders", "other:5432/orders"
ONE, TWO = "identity one", "identity two"

Databases = dict[str, DatabaseRecord]


@functools.cache
def digest(number: int, kind: str = "0") -> str:
    """The ``number``th manifest of a history; ``kind`` distinguishes histories."""
    return EMPTY_DIGEST if not number else f"{number:015x}{kind}".ljust(64, kind)


def digests(length: int, kind: str = "0") -> list[str]:
    return [digest(number, kind) for number in range(length + 1)]


def check(length: int | list[str], fence: int = 1, **fields: Any) -> CheckedDatabase:
    """A check of a database with so many migrations."""
    seen = digests(length) if isinstance(length, int) else length
    known: dict[str, Any] = {"identity": ONE, "address": HERE, "owner": "o", "at_ms": fence}
    return CheckedDatabase(digests=seen, fence=fence, **{**known, **fields})


def records_after(*checks: CheckedDatabase, databases: Databases | None = None) -> Databases:
    found = databases or {}
    for each in checks:
        found = record_check(found, each)
    return found


def ready(databases: Databases, address: str, most: int = 400, kind: str = "0") -> list[int]:
    """Which of the manifests are ready at an address."""
    state = LeaseState(databases=databases)
    return [n for n in range(most + 1) if state.is_ready(digest(n, kind), address)]


# --- one address


def test_a_check_marks_exactly_the_manifests_that_the_history_proves() -> None:
    assert ready(records_after(check(3)), HERE) == [0, 1, 2, 3]


def test_an_address_without_a_check_has_nothing() -> None:
    assert ready(records_after(check(3)), TUNNEL) == []


@pytest.mark.slow
@pytest.mark.parametrize("manifests", [22, 260])
def test_an_old_manifest_that_was_served_stays_ready_however_many_come_after(
    manifests: int,
) -> None:
    databases = records_after(check(1, manifest_digest=digest(1)))
    for length in range(2, manifests + 1):
        databases = records_after(
            check(
                length,
                length,
                manifest_digest=digest(length),
                digests_before_migration=digests(length - 1),
            ),
            databases=databases,
        )
    listed = ready(databases, HERE)
    assert listed[-200:] == list(range(manifests + 1))[-200:]
    assert 1 in ready(
        records_after(check(manifests, 500, manifest_digest=digest(1)), databases=databases), HERE
    )


def test_the_newest_are_listed_and_the_others_are_counted() -> None:
    record = records_after(check(300))[ONE]
    assert len(record.ready_digests) == MAX_READY_DIGESTS * SHORT_DIGEST_BYTES
    assert (record.unlisted_count, record.addresses[HERE]) == (101, (MAX_READY_DIGESTS, 1))
    assert ready({ONE: record}, HERE) == list(range(101, 301))


def test_a_version_older_than_the_list_is_kept_once_it_was_served() -> None:
    databases = records_after(check(300), check(300, 2, manifest_digest=digest(5)))
    assert ready(databases, HERE) == [5, *range(101, 301)]


def test_the_older_versions_that_were_served_last_are_kept() -> None:
    databases = records_after(check(300))
    for number in range(1, MAX_OLDER_DIGESTS + 11):
        databases = records_after(
            check(300, number, manifest_digest=digest(number)), databases=databases
        )
    assert ready(databases, HERE) == [*range(11, MAX_OLDER_DIGESTS + 11), *range(101, 301)]


def test_versions_from_before_a_repair_stay_ready() -> None:
    edited = [*digests(1), digest(2, "e")]
    databases = records_after(
        check(2), check(edited, 2, digests_before_migration=digests(2), manifest_digest=edited[-1])
    )
    assert ready(databases, HERE) == [0, 1, 2]
    assert ready(databases, HERE, kind="e") == [0, 2]


def test_a_served_digest_that_the_check_did_not_prove_is_not_kept() -> None:
    assert ready(records_after(check(2, manifest_digest=digest(9))), HERE) == [0, 1, 2]


# --- two addresses of one database


def test_a_check_through_a_new_address_changes_no_other_address() -> None:
    databases = records_after(check(2), check(3, 2, address=TUNNEL))
    assert ready(databases, HERE) == [0, 1, 2]
    assert ready(databases, TUNNEL) == [0, 1, 2, 3]
    assert ready(records_after(check(3, 3), databases=databases), HERE) == [0, 1, 2, 3]


def test_older_versions_confirmed_at_another_address_do_not_count() -> None:
    edited = [*digests(1), digest(2, "e")]
    databases = records_after(
        check(2), check(edited, 2, address=TUNNEL, digests_before_migration=digests(2))
    )
    assert ready(databases, TUNNEL) == [0, 1, 2]
    assert ready(databases, HERE) == [0, 1]


def test_an_address_keeps_what_it_confirmed_while_the_list_moves_on() -> None:
    databases = records_after(check(150), check(300, 2, address=TUNNEL))
    assert ready(databases, HERE) == list(range(101, 151))
    assert ready(databases, TUNNEL) == list(range(101, 301))
    assert ready(records_after(check(400, 3, address=TUNNEL), databases=databases), HERE) == []


@pytest.mark.parametrize(
    ("agreed", "now", "left"),
    [(3, "0", [0, 1, 2, 3]), (2, "e", [0, 1, 2]), (1, "e", [0, 1]), (0, "e", [0])],
)
def test_an_address_keeps_what_still_agrees_with_the_history(
    agreed: int, now: str, left: list[int]
) -> None:
    history = [*digests(agreed), *(digest(n, now) for n in range(agreed + 1, 5))]
    databases = records_after(check(3), check(history, 2, address=TUNNEL))
    assert ready(databases, HERE) == left


def test_the_newest_addresses_are_kept() -> None:
    databases = records_after(*(check(1, n, address=f"localhost:{n}/orders") for n in range(1, 21)))
    assert len(databases[ONE].addresses) == 16
    assert set(databases[ONE].addresses) == {f"localhost:{n}/orders" for n in range(5, 21)}


# --- rollbacks


def test_a_rollback_withdraws_readiness_at_every_address_before_it_begins() -> None:
    databases = records_after(check(3), check(3, 2, address=TUNNEL))
    databases = remove_ready_digests(databases, ONE, TUNNEL, digests(1))
    assert (ready(databases, HERE), ready(databases, TUNNEL)) == ([0, 1], [0, 1])


def test_a_rollback_keeps_the_older_versions_that_stay_satisfied() -> None:
    databases = records_after(
        check(300),
        check(300, 2, manifest_digest=digest(5)),
        check(300, 3, manifest_digest=digest(60)),
    )
    databases = remove_ready_digests(databases, ONE, HERE, digests(250))
    assert ready(databases, HERE) == [5, *range(51, 251)]
    databases = remove_ready_digests(databases, ONE, HERE, digests(10))
    assert ready(databases, HERE) == []
    assert ready(records_after(check(10, 4), databases=databases), HERE) == list(range(11))


def test_a_history_without_a_common_listed_digest_confirms_nothing_below_the_list() -> None:
    """A copy with the same identity may have been rolled back and gone another way since."""
    databases = records_after(check(300), check(digests(50, "e"), 2, address=ELSEWHERE))
    assert ready(databases, HERE, kind="e") == ready(databases, HERE) == []


def test_a_rollback_through_a_new_address_withdraws_readiness_at_the_old_ones() -> None:
    databases = remove_ready_digests(records_after(check(3)), ONE, TUNNEL, digests(1))
    assert (ready(databases, HERE), ready(databases, TUNNEL)) == ([0, 1], [])


def test_a_rollback_withdraws_readiness_that_its_address_had_in_another_database() -> None:
    databases = remove_ready_digests(records_after(check(3)), TWO, HERE, digests(1))
    assert ready(databases, HERE) == []


# --- copies, restores, moves


def test_an_address_that_leads_to_another_database_has_only_what_was_checked_there() -> None:
    first = records_after(check(3), check(1, 2, identity=TWO, address=ELSEWHERE), check(3, 3))
    databases = records_after(
        check(3, 4, address=TUNNEL), check(1, 5, identity=TWO), databases=first
    )
    assert (ready(databases, HERE), ready(databases, TUNNEL)) == ([0, 1], [0, 1, 2, 3])


@pytest.mark.parametrize("is_rollback", [False, True])
def test_an_unknown_database_may_be_one_that_is_known_by_another_identity(
    is_rollback: bool,
) -> None:
    """A holder gave what seemed a copy a new identity, and died before it recorded that."""
    databases = records_after(check(3), check(3, 2, address=TUNNEL))
    if is_rollback:
        databases = remove_ready_digests(databases, TWO, HERE, digests(1))
        assert ready(databases, HERE) == []
    else:
        databases = records_after(check(1, 3, identity=TWO), databases=databases)
        assert ready(databases, HERE) == [0, 1]
    assert ready(databases, TUNNEL) == []


def test_a_database_without_an_address_is_dropped() -> None:
    assert set(records_after(check(3), check(1, 2, identity=TWO))) == {TWO}


def test_a_distrusted_record_is_emptied_for_every_address() -> None:
    databases = records_after(
        check(3),
        check(3, 2, address=TUNNEL),
        check(1, 3, identity=TWO, distrusted_identity=ONE),
    )
    assert (ready(databases, HERE), ready(databases, TUNNEL)) == ([0, 1], [])
    assert databases[ONE].fence == 2, "else it would not be known that a copy is behind"


def test_after_a_resync_other_addresses_check_again() -> None:
    databases = records_after(
        check(3), check(3, 2, address=TUNNEL), check(2, 3, distrusted_identity=ONE)
    )
    assert (ready(databases, HERE), ready(databases, TUNNEL)) == ([0, 1, 2], [])


def test_the_three_newest_other_databases_are_kept() -> None:
    def of(number: int, fence: int) -> CheckedDatabase:
        return check(100, fence, identity=f"i{number}", address=f"a{number}")

    databases = records_after(
        *(of(n, n) for n in range(1, 8)), *(of(n, 3 + n) for n in range(7, 3, -1))
    )
    assert set(databases) == {"i7", "i6", "i5", "i4"}
    assert ready(databases, "a4") == list(range(101))
    assert ready(databases, "a5") == list(range(61, 101))


# --- inspections


def test_an_inspection_changes_neither_owner_nor_token_of_the_last_completion() -> None:
    databases = records_after(
        check(3), check(3, 9, owner="inspector", address=TUNNEL, is_token_written=False)
    )
    assert (databases[ONE].fence, databases[ONE].owner) == (1, "o")
    assert ready(databases, TUNNEL) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("databases", "address", "length", "may_be"),
    [
        ({}, HERE, 3, False),
        (records_after(check(3)), HERE, 3, False),
        (records_after(check(3)), TUNNEL, 3, True),
        (records_after(check(3), check(3, 2, address=TUNNEL)), HERE, 3, True),
        (records_after(check(3), check(3, 2, address=TUNNEL)), TUNNEL, 3, False),
        (records_after(check(300)), HERE, 5, True),
        (records_after(check(300)), HERE, 300, False),
        (
            records_after(check(3), check([], 2, address=TUNNEL, identity=UNKNOWN_IDENTITY)),
            TUNNEL,
            3,
            False,
        ),
    ],
    ids=[
        "no completion",
        "checked through this address",
        "unknown address",
        "behind",
        "newest",
        "older than the list",
        "in the list",
        "inspected without a result",
    ],
)
def test_an_inspection_may_help_where_another_check_came_after_this_addresss(
    databases: Databases, address: str, length: int, may_be: bool
) -> None:
    for record in databases.values():
        if record.fence == 0:
            assert UNKNOWN_IDENTITY in databases
    if UNKNOWN_IDENTITY in databases:
        databases = {**databases, UNKNOWN_IDENTITY: databases[UNKNOWN_IDENTITY]._replace(fence=0)}
    assert LeaseState(databases=databases).may_be_ready(address, length) is may_be


# --- a shared target


@pytest.mark.parametrize(
    ("other_digests", "is_shared"),
    [
        (digests(3), False),
        (digests(2), False),
        (digests(5), False),
        ([*digests(1), digest(2, "e")], True),
        ([EMPTY_DIGEST, digest(1, "e")], True),
        ([], False),
    ],
    ids=["the same", "behind", "ahead", "forked", "nothing in common", "empty"],
)
def test_a_target_is_shared_by_databases_whose_histories_diverge(
    other_digests: list[str], is_shared: bool
) -> None:
    mine = check(3, 2)
    databases = records_after(check(other_digests, identity=TWO, address=ELSEWHERE))
    assert bool(list(find_conflicting_records(databases, mine))) is is_shared


def test_an_address_that_was_moved_shares_its_target_with_no_other() -> None:
    assert not list(
        find_conflicting_records(records_after(check([digest(1, "e")], identity=TWO)), check(3, 2))
    )


# --- the size of the item


def addresses(count: int, length: int = 90) -> list[str]:
    return [f"{n:03d}".ljust(length, "x") for n in range(count)]


def test_one_database_with_eight_addresses_stays_below_one_read_unit() -> None:
    databases: Databases = {}
    history = digests(MAX_READY_DIGESTS + 60)
    for number in range(60):
        each = check(
            history, number, address=addresses(8)[number % 8], manifest_digest=history[number]
        )
        each = replace(each, identity="i" * 36, owner="o" * 100)
        databases = records_after(each, databases=databases)
    record = databases["i" * 36]
    assert len(record.addresses) == 8
    assert len(record.older_digests) == MAX_OLDER_DIGESTS * SHORT_DIGEST_BYTES
    assert item_size(encode_databases(databases)) < 4_000


def test_the_largest_item_stays_below_two_read_units() -> None:
    databases: Databases = {}
    histories = [[digest(n, f"{kind}") for n in range(MAX_READY_DIGESTS + 61)] for kind in range(4)]
    for fence, kind in enumerate([*[0, 1, 2, 3] * 24, *[0] * 60]):
        address = addresses(32)[8 * kind + fence // 4 % 8]
        each = check(histories[kind], fence, identity=f"{kind}" * 36, address=address)
        each = replace(each, manifest_digest=histories[kind][fence % 61], owner="o" * 100)
        databases = records_after(each, databases=databases)
    sizes = [
        (
            len(record.ready_digests) // SHORT_DIGEST_BYTES,
            len(record.older_digests) // SHORT_DIGEST_BYTES,
            len(record.addresses),
        )
        for record in databases.values()
    ]
    assert sizes == [(MAX_READY_DIGESTS, MAX_OLDER_DIGESTS, 8), *[(40, 20, 4)] * 3]
    assert item_size(encode_databases(databases)) < 8_000


# --- any sequence of events


@dataclass
class Database:
    """A database: what it satisfies, though its history may not contain it, and its fence row."""

    history: list[str] = field(default_factory=lambda: [EMPTY_DIGEST])
    still_satisfied: set[str] = field(default_factory=set)
    token: int = 0
    owner: str = ""
    identity: str = ""


class ReadinessMachine(RuleBasedStateMachine):
    """Holders use any address of databases that are copied, restored and moved.

    Law: the database at an address satisfies what is marked ready there. The fast path reads only
    the item, so an address that is moved or a database that is restored is checked before anything
    is served there, as the runbooks require.
    """

    def __init__(self) -> None:
        super().__init__()
        self.databases: Databases = {}
        self.database_at = {address: Database(identity=ONE) for address in ("a", "b")}
        self.database_at["b"] = self.database_at["a"]
        self.backups: list[Database] = []
        self.fence = 0
        self.created = 0

    def new_identity(self) -> str:
        self.created += 1
        return f"new {self.created}"

    def take_fence(self, address: str) -> tuple[Database, str]:
        """Take the fence as a holder does, with a new identity if the database is behind."""
        database = self.database_at[address]
        self.fence += 1
        known = {i: (record.fence, record.owner) for i, record in self.databases.items()}
        row = FenceRow(database.token, database.owner, "", database.identity)
        distrusted = database.identity if is_behind_last_completion(row, known) else ""
        if distrusted:
            database.identity = self.new_identity()
        database.token, database.owner = self.fence, f"owner {self.fence}"
        return database, distrusted

    def complete(self, address: str, distrusted: str, before: list[str], served: str = "") -> None:
        database = self.database_at[address]
        self.databases = record_check(
            self.databases,
            CheckedDatabase(
                identity=database.identity,
                address=address,
                digests=list(database.history),
                fence=database.token,
                owner=database.owner,
                at_ms=self.fence,
                manifest_digest=served,
                digests_before_migration=before,
                distrusted_identity=distrusted,
            ),
        )

    @rule(
        address=st.sampled_from("abcd"),
        count=st.integers(0, 3) | st.just(150),
        dies=st.booleans(),
        served=st.integers(0, 5),
    )
    def migrate(self, address: str, count: int, dies: bool, served: int) -> None:
        if address in self.database_at:
            database, distrusted = self.take_fence(address)
            before = list(database.history)
            database.history += [self._digest() for _ in range(count)]
            if not dies:
                old = database.history[min(served, len(database.history) - 1)]
                self.complete(address, distrusted, before, old)

    def _digest(self) -> str:
        self.created += 1
        return f"{self.created:016x}".ljust(64, "d")

    @rule(address=st.sampled_from("abcd"), left=st.integers(0, 4), dies=st.sampled_from([0, 1, 2]))
    def roll_back(self, address: str, left: int, dies: int) -> None:
        if address in self.database_at:
            database, distrusted = self.take_fence(address)
            kept = database.history[: left + 1]
            self.databases = remove_ready_digests(self.databases, database.identity, address, kept)
            if dies != 1:
                database.history = kept
                database.still_satisfied &= set(kept)
            if not dies:
                self.complete(address, distrusted, [])

    @rule(address=st.sampled_from("abcd"))
    def repair(self, address: str) -> None:
        """Change the file of the newest migration after it was applied."""
        if address in self.database_at and len(self.database_at[address].history) > 1:
            database, distrusted = self.take_fence(address)
            before = list(database.history)
            database.still_satisfied |= set(before)
            database.history = [*before[:-1], self._digest()]
            self.complete(address, distrusted, before)

    @rule(source=st.sampled_from("ab"), address=st.sampled_from("cd"))
    def copy(self, source: str, address: str) -> None:
        """Copy everything, identity included; the address is new, or checked at once."""
        was_known = address in self.database_at
        self.database_at[address] = copy_database(self.database_at[source])
        if was_known:
            self.migrate(address, 0, False, 0)

    @rule(address=st.sampled_from("abcd"))
    def back_up(self, address: str) -> None:
        if address in self.database_at:
            self.backups.append(copy_database(self.database_at[address]))

    @precondition(lambda self: self.backups)
    @rule(address=st.sampled_from("abcd"), which=st.integers(0, 9))
    def restore(self, address: str, which: int) -> None:
        """Restore in place; each address is checked afterwards, as the runbook requires."""
        if address in self.database_at:
            database = self.database_at[address]
            backup = copy_database(self.backups[which % len(self.backups)])
            database.__dict__.update(backup.__dict__)
            same_database = [
                new_identity for new_identity, each in self.database_at.items() if each is database
            ]
            for new_identity in same_database:
                self.migrate(new_identity, 0, False, 0)

    @invariant()
    def nothing_is_marked_ready_that_is_not(self) -> None:
        state = LeaseState(databases=self.databases)
        for address, database in self.database_at.items():
            record = state.find_record(address)
            if record is not None:
                satisfied = set(
                    split_digests(join_digests([*database.history, *database.still_satisfied]))
                )
                for short in {
                    *split_digests(record.ready_digests),
                    *split_digests(record.older_digests),
                } - satisfied:
                    assert not state.is_ready(short.hex(), address), f"{address}: {short.hex()}"

    @invariant()
    def an_address_leads_to_one_database_and_the_item_can_be_read_again(self) -> None:
        addresses_of_all = [
            address for record in self.databases.values() for address in record.addresses
        ]
        assert len(addresses_of_all) == len(set(addresses_of_all))
        item = {"format": {"N": "2"}, "databases": encode_databases(self.databases)}
        assert decode(item, target="t").databases == self.databases


def copy_database(database: Database) -> Database:
    return replace(
        database, history=list(database.history), still_satisfied=set(database.still_satisfied)
    )


TestReadiness = ReadinessMachine.TestCase
TestReadiness.settings = settings(
    max_examples=3 * settings().max_examples // 2, stateful_step_count=25, deadline=None
)
