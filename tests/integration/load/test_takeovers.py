"""The measurement of takeovers, with a real holder that is killed during its migration."""

from __future__ import annotations

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from load.bench.takeovers import measure
from load.bench.workspace import Workspace


def test_the_migration_of_a_killed_holder_takes_effect_once_and_all_waiters_serve() -> None:
    with Workspace.open(LocalDynamoDB()) as workspace:
        section = measure(workspace, kills=1)
    _, failed, wrong = section.limits
    assert (failed.values, wrong.values) == ([0], [0])
    acquired, started, served = (float(row[1]) for row in section.tables[0].rows)
    assert 0 < acquired < served
    assert 0 < started <= served
