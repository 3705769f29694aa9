"""A simulated partition serves its limit and throttles the requests above it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from load.simulation.lease_table import (
    BUCKET_SECONDS,
    CONSISTENT_READ_UNITS,
    READ_UNITS,
    WRITE_UNITS,
    Partition,
)

requests = st.lists(st.tuples(st.floats(0, 0.05), st.booleans()), min_size=1, max_size=400)


@given(requests=requests)
@settings(deadline=None)
def test_no_interval_serves_more_than_the_limit_and_one_bucket(
    requests: list[tuple[float, bool]],
) -> None:
    partition = Partition(read_units=30, write_units=10)
    now, served = 0.0, [(0.0, 0.0)]
    for pause, reads in requests:
        now += pause
        units = {"read_units": READ_UNITS} if reads else {"write_units": WRITE_UNITS}
        if partition.try_serve(now, **units):
            served.append((now, READ_UNITS / 30 if reads else WRITE_UNITS / 10))
    largest = WRITE_UNITS / 10
    for first, (began, _) in enumerate(served):
        seconds = sum(cost for _, cost in served[first:])
        assert seconds <= now - began + BUCKET_SECONDS + 2 * largest + 1e-9


def test_requests_above_the_limit_are_throttled() -> None:
    at_limit, beyond = Partition(3_000, 1_000), Partition(3_000, 1_000)
    for number in range(60_000):
        at_limit.try_serve(number / 6_000, read_units=READ_UNITS)
        beyond.try_serve(number / 12_000, read_units=READ_UNITS)
    assert at_limit.throttled == 0
    assert beyond.throttled / beyond.requests > 0.35


def test_reads_and_writes_share_the_partition() -> None:
    partition = Partition(read_units=3_000, write_units=1_000)
    while partition.try_serve(0.0, write_units=WRITE_UNITS):
        pass
    assert not partition.try_serve(0.0, read_units=READ_UNITS)
    assert partition.try_serve(0.01, read_units=READ_UNITS)


def test_throttled_requests_cost_nothing() -> None:
    partition = Partition(read_units=10, write_units=10)
    answers = [partition.try_serve(0.0, read_units=READ_UNITS) for _ in range(100)]
    assert partition.read_units == answers.count(True) * READ_UNITS
    assert partition.throttled == answers.count(False) > 0
    assert partition.requested_units_in[0] == 100 * READ_UNITS


def test_consistent_read_costs_twice_as_much() -> None:
    partition = Partition(read_units=10, write_units=10)
    assert partition.try_serve(0.0, read_units=CONSISTENT_READ_UNITS)
    assert partition.read_units == 2 * READ_UNITS == 1.0
