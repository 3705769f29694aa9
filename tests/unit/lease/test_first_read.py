"""The first read finds a manifest ready only if the decoded item does."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable
from lambda_migrate.lease.codec import decode, encode_databases
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.first_read import ITEM_LAYOUT, FirstRead, is_marked_ready
from lambda_migrate.lease.record import DatabaseRecord, join_digests
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_database

DIGESTS = [f"{number:064x}"[::-1] for number in range(4)]
ADDRESSES = ["db:5432/shop", "tunnel:1/shop"]

digests = st.lists(st.sampled_from(DIGESTS), max_size=3, unique=True).map(join_digests)
records = st.builds(
    DatabaseRecord,
    ready_digests=digests,
    older_digests=digests,
    addresses=st.dictionaries(
        st.sampled_from(ADDRESSES), st.tuples(st.integers(-2, 4), st.integers(0, 9))
    ),
)
databases = st.dictionaries(st.sampled_from("ab"), records, max_size=2)

VALUES: list[Any] = [{"N": "1"}, {"N": "-1"}, {"S": "x"}, {"B": "eA=="}, {"B": "!"}, {"M": {}}]


def to_item(databases: dict[str, DatabaseRecord]) -> dict[str, Any]:
    """The item as the fast client returns it."""
    text = json.dumps(encode_databases(databases), default=lambda raw: b64encode(raw).decode())
    return {
        "target": {"S": "shop"},
        "format": {"N": str(ITEM_LAYOUT)},
        "fence": {"N": "3"},
        "databases": json.loads(text),
    }


def find_attributes(fields: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every attribute in a map of attributes and below: the map that has it, and its name."""
    below = [find_attributes(value["M"]) for value in fields.values() if "M" in value]
    return [(fields, name) for name in fields] + [pair for pairs in below for pair in pairs]


@given(databases, st.sampled_from(DIGESTS), st.sampled_from(ADDRESSES))
def test_it_agrees_with_the_decoded_item(
    databases: dict[str, DatabaseRecord], digest: str, address: str
) -> None:
    item = to_item(databases)
    expected = decode(item, target="shop").is_ready(digest, address)
    assert is_marked_ready(item, digest, address) is expected


READY = {"a": DatabaseRecord(join_digests(DIGESTS[:2]), addresses={ADDRESSES[0]: (2, 3)})}


@given(st.data())
def test_no_malformed_item_marks_anything_ready_that_the_codec_does_not(data: Any) -> None:
    item = to_item(READY)
    fields, name = data.draw(st.sampled_from(find_attributes(item)))
    fields[name] = data.draw(st.sampled_from(VALUES))
    found = [digest for digest in DIGESTS if is_marked_ready(item, digest, ADDRESSES[0])]
    try:
        state = decode(item, target="shop")
    except ConfigurationError:
        assert found in ([], DIGESTS[:2])  # as before, or nothing
    else:
        assert all(state.is_ready(digest, ADDRESSES[0]) for digest in found)


@pytest.mark.parametrize("layout", ["1", "3", "02", ""])
def test_an_item_of_another_layout_marks_nothing_ready(layout: str) -> None:
    item = to_item(READY)
    assert is_marked_ready(item, DIGESTS[0], ADDRESSES[0])
    item["format"] = {"N": layout}
    assert not is_marked_ready(item, DIGESTS[0], ADDRESSES[0])


@pytest.mark.parametrize("count", ["-1", "", "2.5", "9" * 5000, " 2", "1_0"])
def test_an_invalid_count_marks_nothing_ready(count: str) -> None:
    item = to_item(READY)
    checked = item["databases"]["M"]["a"]["M"]["addresses"]["M"][ADDRESSES[0]]["M"]
    checked["confirmed"] = {"N": count}
    assert not is_marked_ready(item, DIGESTS[0], ADDRESSES[0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"database_url": "postgresql://app@DB.example:1/x"},
        {"database_url": "postgresql://app@[::1]/x", "schema": "other"},
        {"database_secret": "shop/db", "schema": "other"},
        {"database_url": "postgresql://app@h/x", "source": "alembic", "schema": "other"},
        {
            "database_url": "postgresql://app@h/x",
            "mode": "require",
            "ready_when": "flyway:1.7",
            "schema": "other",
        },
    ],
)
def test_it_looks_for_the_address_that_the_database_has(arguments: dict[str, Any]) -> None:
    settings = Settings.load({}, **arguments)
    assert settings.database_address_text == make_database(settings).address_text


def test_what_was_read_first_is_not_read_again() -> None:
    def client() -> Any:
        raise AssertionError("read again")

    def table(first_read: FirstRead) -> DynamoDBLeaseStore:
        return DynamoDBLeaseStore("leases", "shop", client=client, first_read=first_read)

    first_read = FirstRead({}, "leases", "shop", clock=SYSTEM_CLOCK)  # no credentials: for boto3
    assert (first_read.item, first_read.error) == (None, None)
    with pytest.raises(AssertionError, match="read again"):
        table(first_read).read()
    first_read.item = to_item(READY)
    once = table(first_read)
    assert once.read() == decode(first_read.item, target="shop")
    with pytest.raises(AssertionError, match="read again"):
        once.read()
    first_read.error = LeaseStoreUnavailable("throttled")
    with pytest.raises(LeaseStoreUnavailable):
        table(first_read).read()
