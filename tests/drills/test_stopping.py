"""Drill of an emergency stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.callback_server import read_statuses, run_callback_server
from tests.drills.drill import Drill
from tests.drills.service import ADD_STATUS, SLOW, V1, Deployments, code, deploy_version
from tests.integration.deploy.hooks import deployment
from tests.local_appconfig import LocalAppConfig
from tests.sandbox import Sandbox, running, until

HOOK = "lambda_migrate.deploy.codedeploy.handler"
PROFILE = "orders/production/lambda-migrate"


def test_an_emergency_stop(sandbox: Sandbox) -> None:
    old = code(sandbox, V1)
    current = code(sandbox, {**V1, "0002_add_status": SLOW.format(seconds=300)})
    nothing = {"lambda_migrate_paused": {"default": False}}
    with (
        LocalAppConfig(PROFILE, nothing) as appconfig,
        run_callback_server() as codedeploy,
        ExitStack() as stack,
    ):
        with_flags = {**appconfig.extension(), "LAMBDA_MIGRATE_FLAGS": PROFILE}
        deployments = Deployments(stack, sandbox, with_flags)
        before = deployments.deploy(old)
        assert before.invoke().payload["statusCode"] == 200
        holding = deployments.deploy(current, timeout=300)
        answer = holding.submit()
        until(running(sandbox, "pg_sleep"), what="the migration runs")
        until(lambda: sandbox.item().progress is not None, what="its progress is published")

        def write(document: Mapping[str, Any]) -> None:
            (drill.code / "flags.json").write_text(json.dumps(document))

        def fix() -> None:
            until(answer.done, what="the holder notices")
            assert holding.invoke().payload["statusCode"] == 503, "no migration starts"
            assert before.storm(1)[0].payload["statusCode"] == 200, "the previous version is served"
            rewrite(current, ADD_STATUS)
            fixed = deployments.deploy(current)
            assert fixed.invoke().payload["statusCode"] == 503, "migrations are still paused"
            assert run_hook() == "Failed", "so a deployment with a hook must wait"

        def run_hook() -> str:
            variables = {**with_flags, "AWS_ENDPOINT_URL_CODEDEPLOY": codedeploy.base}
            with deploy_version(sandbox, current, variables=variables, handler=HOOK) as hook:
                assert hook.invoke(deployment()).ok
            return read_statuses(codedeploy.list_deliveries())[-1]

        def deploy() -> None:
            assert run_hook() == "Succeeded"
            assert deployments.deploy(current).invoke().payload["statusCode"] == 200

        drill = Drill(
            "emergency-stop.md",
            sandbox,
            current,
            deploy=deploy,
            documents=write,
            APPLICATION="orders",
            ENVIRONMENT="production",
            PROFILE="lambda-migrate",
        )
        drill.variables.update(with_flags | appconfig.operator())
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps(manual_steps={4: fix})
        assert drill.is_over()
        drill.require_all_blocks_ran()
        assert sandbox.history() == [(1, "applied"), (2, "applied")]


def rewrite(code: Path, migration: str) -> None:
    (code / "migrations" / "0002_add_status.sql").write_text(migration.lstrip())
