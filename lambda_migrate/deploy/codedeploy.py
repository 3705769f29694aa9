"""A BeforeAllowTraffic hook that migrates: ``lambda_migrate.deploy.codedeploy.handler``.

CodeDeploy invokes it after a new version is published and before it receives traffic. The hook
migrates and reports ``Succeeded`` or ``Failed``, always, once, before the invocation's deadline. On
``Failed`` CodeDeploy stops the deployment: no request reaches the new code.

In a deployment that is itself a rollback (``creator`` is ``codeDeployRollback`` or
``CloudFormationRollback``) the hook only checks the schema and reports ``Succeeded`` in any case:
code older than the schema serves, and each cold start still makes its own check. To find out, it
calls ``codedeploy:GetDeployment`` once. If that is denied or fails, the deployment counts as a
forward one: a schema that is ahead is ready for it as well.

A process that is killed reports nothing; CodeDeploy then fails the deployment when the hook times
out.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.deploy.deliver import (
    InvocationDeadlines,
    WorkTimeout,
    deliver_response,
    run_with_deadline,
)
from lambda_migrate.deploy.hook import HookResult, check_schema, log_result, migrate, run_hook
from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["handler"]

_LOG = logging.getLogger(__name__)

_ROLLBACK_CREATORS = ("codeDeployRollback", "CloudFormationRollback")

_MIN_TIMEOUT_SECONDS = 0.05  # botocore refuses 0
_LOOKUP_SECONDS = 5.0
"""For looking up who created the deployment; at most a tenth of the remaining time."""


@dataclass(frozen=True, slots=True)
class _LifecycleEvent:
    """A lifecycle event of CodeDeploy.

    Attributes:
        deployment: ``d-...``.
        execution: The id of this run of the hook.
    """

    deployment: str
    execution: str

    @classmethod
    def parse(cls, event: Any) -> _LifecycleEvent:
        event = event if isinstance(event, dict) else {}
        deployment = event.get("DeploymentId")
        execution = event.get("LifecycleEventHookExecutionId")
        if not (isinstance(deployment, str) and isinstance(execution, str)):
            raise ConfigurationError(
                "this is not a lifecycle event of CodeDeploy: it has no DeploymentId or no "
                "LifecycleEventHookExecutionId; to run a command, use `lambda-migrate --function`"
            )
        return cls(deployment, execution)


def handler(event: Any, context: Any) -> dict[str, str]:
    """Migrate, and report the result to CodeDeploy; settings come from the environment.

    Args:
        event: Has ``DeploymentId`` and ``LifecycleEventHookExecutionId``.
        context: Lambda's.

    Returns:
        The status that was reported, and why.

    Raises:
        ConfigurationError: The event is not one of CodeDeploy.
        DeliveryFailed: CodeDeploy did not accept the status.
    """
    return handle(event, context)


def handle(event: Any, context: Any, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, str]:
    """Do what `handler` does, with a clock."""
    deadlines = InvocationDeadlines.from_context(context, clock)
    lifecycle_event = _LifecycleEvent.parse(event)
    request_id = str(getattr(context, "aws_request_id", None) or "")
    is_rollback = _is_rollback(lifecycle_event, deadlines.work)
    result = _run(deadlines.work, request_id, is_rollback=is_rollback)
    status = "Failed" if result.has_failed and not is_rollback else "Succeeded"
    deliver_response(lambda seconds: _report(lifecycle_event, status, seconds), deadlines.response)
    log = _LOG.warning if result.has_failed else _LOG.info
    log("reported %s for deployment %s: %s", status, lifecycle_event.deployment, result)
    log_result(result)
    return {"status": status, "reason": str(result)}


def _run(deadline: Deadline, request_id: str, *, is_rollback: bool) -> HookResult:
    if is_rollback:
        return run_hook(check_schema, deadline)
    return run_hook(lambda until: migrate(until, request_id=request_id), deadline)


def _is_rollback(event: _LifecycleEvent, deadline: Deadline) -> bool:
    limit = deadline.limited_to(min(_LOOKUP_SECONDS, deadline.remaining() / 10))
    try:
        creator = run_with_deadline(lambda: _get_creator(event, limit.remaining()), limit)
    except WorkTimeout:
        fault = "no response in time"
    except Exception as error:  # noqa: BLE001 - the hook has to report in any case
        fault = f"{type(error).__name__}: {error}"
    else:
        return creator in _ROLLBACK_CREATORS
    _LOG.warning(
        "cannot look up who created deployment %s (%s); it is treated as a forward "
        "deployment. Allow codedeploy:GetDeployment on its deployment group",
        event.deployment,
        fault,
    )
    return False


# --- CodeDeploy


def _get_creator(event: _LifecycleEvent, seconds: float) -> str:
    response = _make_client(seconds).get_deployment(deploymentId=event.deployment)
    return str(response["deploymentInfo"].get("creator", ""))


def _report(event: _LifecycleEvent, status: str, seconds: float) -> None:
    client = _make_client(seconds)
    try:
        client.put_lifecycle_event_hook_execution_status(
            deploymentId=event.deployment,
            lifecycleEventHookExecutionId=event.execution,
            status=status,
        )
    except client.exceptions.LifecycleEventAlreadyCompletedException:
        _LOG.warning("the status of deployment %s was reported before", event.deployment)


def _make_client(seconds: float) -> Any:
    """Create a client that makes one attempt within ``seconds``; the caller retries."""
    import boto3
    from botocore.config import Config

    seconds = max(seconds, _MIN_TIMEOUT_SECONDS)
    config = Config(
        connect_timeout=seconds,
        read_timeout=seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
    )
    return boto3.session.Session().client("codedeploy", config=config)
