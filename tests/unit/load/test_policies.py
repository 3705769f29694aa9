"""Policies are what their names say, and none defends a table less than the library does."""

from __future__ import annotations

from random import Random

import pytest

from lambda_migrate.lease.backoff import Backoff
from load.simulation.policies import LIBRARY, POLICY_FAMILIES, Policy, PolicyFamily

NOW = 1_700_000_000_000


def policy(name: str, number: float, seed: int = 1) -> Policy:
    family = next(family for family in POLICY_FAMILIES if family.name == name)
    return family.make(number)(Random(seed))


def test_default_is_the_librarys_own() -> None:
    assert LIBRARY is Backoff


def test_fixed_interval_starts_at_a_random_phase() -> None:
    firsts, laters = zip(
        *(
            (fixed.delay(0.0), fixed.delay(1.0))
            for fixed in (policy("fixed", 2.0, seed) for seed in range(200))
        ),
        strict=True,
    )
    assert min(firsts) < 0.1
    assert max(firsts) > 1.9
    assert set(laters) == {2.0}


def test_exponential_doubles_up_to_its_cap() -> None:
    longest = [0.0] * 8
    for seed in range(500):
        one = policy("exponential, full jitter", 3.2, seed)
        longest = [max(most, one.delay(0.0)) for most in longest]
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2, 3.2]
    assert longest == pytest.approx(bounds, rel=0.05)
    assert all(most <= bound for most, bound in zip(longest, bounds, strict=True))


@pytest.mark.parametrize(("kind", "lowest"), [("full", 0.0), ("half", 0.5)])
def test_growing_is_a_share_of_the_time_waited(kind: str, lowest: float) -> None:
    delays = [policy(f"growing, {kind} jitter", 0.4, seed).delay(10.0) for seed in range(500)]
    assert min(delays) == pytest.approx(4 * lowest, abs=0.05)
    assert max(delays) == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("family", POLICY_FAMILIES, ids=lambda family: str(family.name))
def test_every_family_backs_off_after_throttling(family: PolicyFamily) -> None:
    late = [family.make(family.values[0])(Random(seed)) for seed in range(50)]
    assert max(one.delay(1.0, error_count=5) for one in late) > 10
    assert max(one.delay(1.0, error_count=1) for one in late) < 2
