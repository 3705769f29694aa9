"""The measurement of takeovers: a real holder, killed in the middle of its migration."""

from __future__ import annotations

import random

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.bench.takeovers import WAITERS, measure
from load.bench.workspace import Workspace


def test_the_migration_of_a_killed_holder_takes_effect_once_and_all_waiters_serve() -> None:
    with Workspace.open(LocalDynamoDB()) as workspace:
        section = measure(workspace, kills=1, rng=random.Random(1))
    [kill] = section.data["kills"]
    assert (kill["failed"], kill["effects"], len(kill["served"])) == (0, 1, WAITERS)
    assert 0 < kill["started"] <= max(kill["served"])
