"""Each retry policy does what its name says, and backs off after throttling."""

from __future__ import annotations

from random import Random

import pytest

from lambda_migrate.lease.backoff import Backoff
from load.simulation.policies import LIBRARY, POLICIES, exponential, fixed, growing


def test_default_is_the_librarys_own() -> None:
    assert LIBRARY is Backoff


def test_fixed_interval_starts_at_a_random_phase() -> None:
    firsts, laters = zip(
        *(
            (one.delay(0.0), one.delay(1.0))
            for one in (fixed(2.0)(Random(seed)) for seed in range(200))
        ),
        strict=True,
    )
    assert min(firsts) < 0.1
    assert max(firsts) > 1.9
    assert set(laters) == {2.0}


def test_exponential_doubles_up_to_its_cap() -> None:
    longest = [0.0] * 8
    for seed in range(500):
        one = exponential(3.2)(Random(seed))
        longest = [max(most, one.delay(0.0)) for most in longest]
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2, 3.2]
    assert longest == pytest.approx(bounds, rel=0.05)
    assert all(most <= bound for most, bound in zip(longest, bounds, strict=True))


@pytest.mark.parametrize("min_share", [0.0, 0.5])
def test_growing_is_a_share_of_the_time_waited(min_share: float) -> None:
    policies = [growing(0.4, min_share=min_share)(Random(seed)) for seed in range(500)]
    delays = [policy.delay(10.0) for policy in policies]
    assert min(delays) == pytest.approx(4 * min_share, abs=0.05)
    assert max(delays) == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_backs_off_after_throttling(name: str) -> None:
    _, make_policy = POLICIES[name][0]
    late = [make_policy(Random(seed)) for seed in range(50)]
    assert max(one.delay(1.0, error_count=5) for one in late) > 10
    assert max(one.delay(1.0, error_count=1) for one in late) < 2
