"""A BeforeAllowTraffic hook that migrates: ``lambda_migrate.deploy.codedeploy.handler``.

CodeDeploy runs it when a new version is there and before the first user's request reaches it. It
migrates, and answers ``Succeeded`` or ``Failed``, always, once, before the invocation's deadline.
On ``Failed`` CodeDeploy ends the deployment: no request ever reaches the new code.

In a deployment that is itself a rollback (``creator`` is ``codeDeployRollback`` or
``CloudFormationRollback``) it only looks, and answers ``Succeeded`` whatever it sees: code older
than the schema is served, and each cold start still checks for itself. To know that it calls
``codedeploy:GetDeployment``, once. Where that is not allowed or not answered, a deployment counts
as one that goes forward: a schema that is ahead is ready for it all the same.

A process that is killed cannot answer; CodeDeploy then fails the deployment when its own time for
the hook is over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.deploy.deliver import Overdue, Schedule, deliver, in_time
from lambda_migrate.deploy.hook import Ending, ending_of, look, migrate, tell
from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["handler"]

_LOG = logging.getLogger(__name__)

_ROLLBACKS = ("codeDeployRollback", "CloudFormationRollback")

_SHORTEST_SECONDS = 0.05  # botocore refuses 0
_ASKING_SECONDS = 5.0
"""For asking who created the deployment; no more than a tenth of what there is."""


@dataclass(frozen=True, slots=True)
class _Hook:
    """One run of a hook.

    Attributes:
        deployment: ``d-...``.
        execution: Names this run of it.
    """

    deployment: str
    execution: str

    @classmethod
    def read(cls, event: Any) -> _Hook:
        event = event if isinstance(event, dict) else {}
        deployment = event.get("DeploymentId")
        execution = event.get("LifecycleEventHookExecutionId")
        if not (isinstance(deployment, str) and isinstance(execution, str)):
            raise ConfigurationError(
                "this is no lifecycle event of CodeDeploy's: it has no DeploymentId or no "
                "LifecycleEventHookExecutionId; `lambda-migrate --function` is for people"
            )
        return cls(deployment, execution)


def handler(event: Any, context: Any) -> dict[str, str]:
    """Answer a lifecycle event of CodeDeploy's; settings come from the environment, as always.

    Args:
        event: Has ``DeploymentId`` and ``LifecycleEventHookExecutionId``.
        context: Lambda's.

    Returns:
        The status that was delivered, and why.

    Raises:
        ConfigurationError: The event does not say what to answer.
        Undelivered: CodeDeploy did not take the answer.
    """
    return respond(event, context)


def respond(event: Any, context: Any, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, str]:
    """`handler`, on a clock of the caller's."""
    schedule = Schedule.of(context, clock)
    hook = _Hook.read(event)
    request_id = str(getattr(context, "aws_request_id", None) or "")
    is_rollback = _is_rollback(hook, schedule.work)
    ending = _ending(schedule.work, request_id, is_rollback=is_rollback)
    status = "Failed" if ending.failed and not is_rollback else "Succeeded"
    deliver(lambda seconds: _report(hook, status, seconds), schedule.answer)
    log = _LOG.warning if ending.failed else _LOG.info
    log("answered %s for deployment %s: %s", status, hook.deployment, ending)
    tell(ending)
    return {"status": status, "reason": str(ending)}


def _ending(deadline: Deadline, request_id: str, *, is_rollback: bool) -> Ending:
    if is_rollback:
        return ending_of(look, deadline)
    return ending_of(lambda until: migrate(until, request_id=request_id), deadline)


def _is_rollback(hook: _Hook, deadline: Deadline) -> bool:
    limit = deadline.at_most(min(_ASKING_SECONDS, deadline.remaining() / 10))
    try:
        creator = in_time(lambda: _creator(hook, limit.remaining()), limit)
    except Overdue:
        fault = "no answer in time"
    except Exception as error:  # noqa: BLE001 - whatever it was, the deployment must be answered
        fault = f"{type(error).__name__}: {error}"
    else:
        return creator in _ROLLBACKS
    _LOG.warning(
        "CodeDeploy did not say who created deployment %s (%s); it counts as one that goes "
        "forward. Allow codedeploy:GetDeployment on its deployment group",
        hook.deployment,
        fault,
    )
    return False


# --- CodeDeploy


def _creator(hook: _Hook, seconds: float) -> str:
    answer = _client(seconds).get_deployment(deploymentId=hook.deployment)
    return str(answer["deploymentInfo"].get("creator", ""))


def _report(hook: _Hook, status: str, seconds: float) -> None:
    client = _client(seconds)
    try:
        client.put_lifecycle_event_hook_execution_status(
            deploymentId=hook.deployment,
            lifecycleEventHookExecutionId=hook.execution,
            status=status,
        )
    except client.exceptions.LifecycleEventAlreadyCompletedException:
        _LOG.warning("deployment %s had its answer already", hook.deployment)


def _client(seconds: float) -> Any:
    """One attempt within ``seconds``: what calls it counts, and tries again."""
    import boto3
    from botocore.config import Config

    seconds = max(seconds, _SHORTEST_SECONDS)
    config = Config(
        connect_timeout=seconds,
        read_timeout=seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
    )
    return boto3.session.Session().client("codedeploy", config=config)
