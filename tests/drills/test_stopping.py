"""Drill: nobody is to migrate any more, now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from load.emulators.appconfig import LocalAppConfig
from tests.drills.play import Play
from tests.drills.service import ADD_STATUS, SLOW, V1, Deployments, code
from tests.stage import Stage, running, until

PROFILE = "orders/production/lambda-migrate"


def test_an_emergency_stop(stage: Stage) -> None:
    old = code(stage, V1)
    current = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=300)})
    nothing = {"lambda_migrate_paused": {"default": False}}
    with LocalAppConfig(PROFILE, nothing) as appconfig, ExitStack() as stack:
        with_flags = {**appconfig.extension(), "LAMBDA_MIGRATE_FLAGS": PROFILE}
        deployments = Deployments(stack, stage, with_flags)
        before = deployments.of(old)
        assert before.invoke().payload["statusCode"] == 200
        holding = deployments.of(current, timeout=300)
        answer = holding.submit()
        until(running(stage, "pg_sleep"), what="the migration runs")
        until(lambda: stage.item().progress is not None, what="its progress is published")

        def write(document: Mapping[str, Any]) -> None:
            (play.code / "flags.json").write_text(json.dumps(document))

        def mend() -> None:
            until(answer.done, what="the holder has noticed")
            assert holding.invoke().payload["statusCode"] == 503, "nobody begins again"
            assert before.storm(1)[0].payload["statusCode"] == 200, "others are served"
            rewrite(current, ADD_STATUS)

        def deploy(_command: str) -> None:
            mended = deployments.of(current)
            assert mended.invoke().payload["statusCode"] == 503, "the stop is still there"

        play = Play(
            "emergency-stop.md",
            stage,
            current,
            stand_ins={"sam": deploy},
            documents=write,
            APPLICATION="orders",
            ENVIRONMENT="production",
            PROFILE="lambda-migrate",
            **with_flags,
            **appconfig.operator(),
        )
        play.see()
        assert not play.is_over()
        play.do(by_hand={4: mend})
        assert play.is_over()
        play.finish()
        assert stage.history() == [(1, "applied"), (2, "applied")]


def rewrite(code: Path, migration: str) -> None:
    (code / "migrations" / "0002_add_status.sql").write_text(migration.lstrip())
