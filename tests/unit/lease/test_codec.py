"""An item is read as it was written, and an item of any other form is refused."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.lease.codec import (
    ITEM_LAYOUT,
    decode,
    encode_databases,
    encode_failure,
    encode_failures,
    encode_progress,
)
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import SHORT_DIGEST_BYTES, DatabaseRecord, LeaseState

whole_numbers = st.integers(-(10**19) + 1, 10**19 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=40)

short_digests = st.lists(
    st.binary(min_size=SHORT_DIGEST_BYTES, max_size=SHORT_DIGEST_BYTES), max_size=4
).map(b"".join)
counts = st.integers(0, 10**19 - 1)
progresses = st.builds(Progress, texts, whole_numbers, whole_numbers, whole_numbers, whole_numbers)
failures = st.builds(
    Failure,
    texts,
    texts,
    texts,
    texts,
    texts,
    whole_numbers,
    whole_numbers,
    whole_numbers,
    st.none() | whole_numbers,
    st.booleans(),
    texts,
)
records = st.builds(
    DatabaseRecord,
    short_digests,
    short_digests,
    counts,
    st.dictionaries(texts, st.tuples(counts, whole_numbers), max_size=3),
    whole_numbers,
    texts,
    whole_numbers,
)
states = st.builds(
    LeaseState,
    fence=whole_numbers,
    owner=st.none() | texts,
    lease_until_ms=whole_numbers,
    lease_ms=whole_numbers,
    databases=st.dictionaries(texts, records, max_size=4),
    progress=st.none() | progresses,
    failure=st.none() | failures,
    older_failures=st.lists(failures, max_size=2).map(tuple),
)


def encode(state: LeaseState) -> dict[str, Any]:
    """An item as the table's writes leave it."""
    item: dict[str, Any] = {
        "target": {"S": "orders"},
        "format": {"N": str(ITEM_LAYOUT)},
        "fence": {"N": str(state.fence)},
        "lease_until": {"N": str(state.lease_until_ms)},
        "lease_ms": {"N": str(state.lease_ms)},
        "databases": encode_databases(state.databases),
    }
    if state.owner is not None:
        item["owner"] = {"S": state.owner}
    if state.progress is not None:
        item["progress"] = encode_progress(state.progress)
    if state.failure is not None:
        item["failure"] = encode_failure(state.failure)
    if state.older_failures:
        item["failures"] = encode_failures(state.older_failures)
    return item


FULL = encode(
    LeaseState(
        fence=7,
        owner="a",
        lease_until_ms=1,
        lease_ms=20_000,
        databases={
            "5f": DatabaseRecord(b"8 bytes.", b"8 more..", 1, {"db:5432/orders": (1, 2)}, 2, "b", 3)
        },
        progress=Progress("0003_c", 1, 3, 1_700_000_000_000, 2),
        failure=Failure("d" * 64, "0003_c", "3", "42P01", "no such table", 2, 1, 2, 7),
    )
)

WRONG: dict[str, list[Any]] = {
    "N": [
        *({"N": number} for number in ("", "1.5", "1E+3", "--7", "seven", "9" * 21)),
        *({"S": "7"}, {"M": {}}, {"NULL": True}, {"L": []}, {}, "7", 7),
    ],
    "S": [{"N": "7"}, {"M": {}}, {"NULL": True}, {"BOOL": True}, {"B": b"x"}, {}, "text"],
    "M": [{"S": "x"}, {"N": "7"}, {"L": []}, {"NULL": True}, {}, "map"],
    "B": [{"S": "x"}, {"M": {}}, {"B": b"7 bytes"}, {"B": "not base64!"}, {"B": "AAAA"}, {}, b"x"],
}


def paths(fields: dict[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    """Every attribute but the key, and within maps every field."""
    for name, value in fields.items():
        if name == "target":
            continue
        yield (*above, name)
        if "M" in value:
            yield from paths(value["M"], *above, name)


def at(item: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The map that holds the last name of ``path``."""
    for name in path[:-1]:
        item = item[name]["M"]
    return item


OPTIONAL = {
    ("fence",),
    ("owner",),
    ("lease_until",),
    ("lease_ms",),
    ("databases",),
    ("databases", "5f"),
    ("databases", "5f", "addresses"),
    ("databases", "5f", "addresses", "db:5432/orders"),
    ("progress",),
    ("failure",),
    ("failure", "available_ms"),
}


@given(state=states)
@settings(deadline=None)
def test_a_state_is_read_as_it_was_written(state: LeaseState) -> None:
    assert decode(encode(state), target="orders") == state


@pytest.mark.parametrize("item", [None, {}, {"target": {"S": "orders"}}])
def test_an_empty_item_reads_as_an_empty_state(item: dict[str, Any] | None) -> None:
    assert decode(item, target="orders") == LeaseState()


def test_unknown_attributes_are_ignored() -> None:
    item = FULL | {"note": {"S": "newer"}}
    assert decode(item, target="orders") == decode(FULL, target="orders")


@pytest.mark.parametrize("path", list(paths(FULL)), ids=lambda path: ".".join(path)[-30:])
def test_a_wrong_type_or_size_is_refused_with_the_name_of_the_attribute(
    path: tuple[str, ...],
) -> None:
    planted = [wrong for kind in at(FULL, path)[path[-1]] for wrong in WRONG[kind]]
    assert planted
    for wrong in planted:
        item = copy.deepcopy(FULL)
        at(item, path)[path[-1]] = wrong
        with pytest.raises(ConfigurationError) as caught:
            decode(item, target="orders")
        message = str(caught.value)
        assert f"attribute '{path[-1]}' is not a" in message, wrong
        assert "item 'orders'" in message
        assert all(f"'{name}'" in message for name in path)


@pytest.mark.parametrize("path", list(paths(FULL)), ids=lambda path: ".".join(path)[-30:])
def test_a_missing_attribute_is_refused_unless_it_is_optional(path: tuple[str, ...]) -> None:
    item = copy.deepcopy(FULL)
    del at(item, path)[path[-1]]
    if path in OPTIONAL:
        decode(item, target="orders")
        return
    with pytest.raises(ConfigurationError, match=f"'{path[-1]}'"):
        decode(item, target="orders")


def test_short_digests_are_read_as_bytes_and_as_base64() -> None:
    as_json = copy.deepcopy(FULL)
    as_json["databases"]["M"]["5f"]["M"]["ready"] = {"B": base64.b64encode(b"8 bytes.").decode()}
    assert decode(as_json, target="orders") == decode(FULL, target="orders")


@pytest.mark.parametrize(
    ("layout", "advice"),
    [
        ("-1", "delete the item"),
        ("1", "delete the item"),
        ("3", "Deploy the newer library"),
        ("999", "Deploy the newer library"),
    ],
)
def test_another_layout_is_refused_with_the_next_step(layout: str, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        decode(FULL | {"format": {"N": layout}}, target="orders")
    message = str(caught.value)
    assert (
        f"has layout {layout}, and this version of lambda-migrate reads {ITEM_LAYOUT} only"
        in message
    )
    assert "nothing was changed" in message
    assert advice in message


def test_another_layout_is_refused_before_anything_else_is_read() -> None:
    with pytest.raises(ConfigurationError, match="has layout 3"):
        decode({"format": {"N": "3"}, "fence": {"M": {}}}, target="orders")
