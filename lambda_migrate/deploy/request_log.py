"""What became of the commands that the admin function was asked for, by their ids.

An answer may be lost on its way, and whoever asked asks again; Lambda itself invokes a function
again whose asynchronous invocation failed. Neither may run a command twice that changes something.
So each of these is written down before it begins, and its answer when it has ended, in an item of
its own beside the target's, ``<target>/requests``: the newest 20 that did anything.

PostgreSQL keeps what is safe; this only keeps a person from hearing of, or doing, the wrong thing.
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.deploy.truncate import abridged
from lambda_migrate.errors import LeaseStoreUnavailable, MigrateError
from lambda_migrate.lease.dynamodb import TableItem, make_client
from lambda_migrate.lease.dynamodb_errors import CALL_TIMEOUT_SECONDS, ConditionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["RequestLog", "RequestTable", "Run"]

KEPT = 20
_BYTES = 15_000
"""Of one stored answer, compressed. Twenty of them stay below DynamoDB's 400 KB for an item."""

_LIMITS = (400_000, 100_000, 30_000, 10_000)
"""Of an answer before it is compressed, tried in turn."""

_TRIES = 4
_PAUSE_SECONDS = 0.5
_NAME = "request:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One command, from its beginning on.

    Attributes:
        asked: What was asked for; see `Errand.asked`.
        attempt: Fresh for every run: the tries of an asynchronous invocation share their id.
        invocation: Lambda's id of the invocation that runs it.
        began_ms: Milliseconds since the epoch.
        until_ms: Past this its invocation has ended, one way or another.
        concerned: Names of the migrations that it set out to take back.
        answer: What it answered; None while it runs, or if it could not.
    """

    asked: str
    attempt: str
    invocation: str
    began_ms: int
    until_ms: int
    concerned: tuple[str, ...] = ()
    answer: dict[str, Any] | None = None


class RequestLog(Protocol):
    """The port to wherever runs are written down.

    Every method but `end` and `forget` may raise `LeaseStoreUnavailable` or `ConfigurationError`.
    """

    def begin(self, request: str, run: Run) -> Run | None:
        """Write ``run`` down unless there is one of this id.

        Returns:
            None: it may begin. Else the one that is there.
        """

    def read(self, request: str) -> Run | None:
        """The run of this id, as it is now."""

    def concern(self, request: str, run: Run) -> None:
        """Write down what the run is about to take back."""

    def end(self, request: str, run: Run, deadline: Deadline) -> None:
        """Write its answer down, as far as that can be done before the invocation's end."""

    def forget(self, request: str, run: Run) -> None:
        """The run changed nothing, and may be run again; as far as that can be written."""


class RequestTable:
    """`RequestLog` on one DynamoDB item.

    Args:
        table: The lease table.
        target: The target; the item's key is ``<target>/requests``.
        client: Makes the boto3 client when it is first needed.
        clock: Time.
    """

    def __init__(
        self,
        table: str,
        target: str,
        *,
        client: Callable[[], Any] = make_client,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._item = TableItem(table, f"{target}/requests", client=client)
        self._clock = clock

    def begin(self, request: str, run: Run) -> Run | None:
        """See `RequestLog.begin`."""
        for _ in range(_TRIES - 1):
            try:
                return self._begin(request, run)
            except LeaseStoreUnavailable:
                self._clock.sleep(_PAUSE_SECONDS)
        return self._begin(request, run)

    def _begin(self, request: str, run: Run) -> Run | None:
        runs = self._runs()
        if request not in runs:
            try:
                drop = _outlived(runs, now_ms=self._clock.wall_ms())
                self._write(request, run, "attribute_not_exists(#run)", drop=drop)
                return None
            except ConditionFailed:
                runs = self._runs()
        found = runs.get(request)
        # The answer to our own writing may have been lost.
        return None if found is None or found.attempt == run.attempt else found

    def read(self, request: str) -> Run | None:
        """See `RequestLog.read`."""
        return self._runs().get(request)

    def concern(self, request: str, run: Run) -> None:
        """See `RequestLog.concern`."""
        self._overwrite(request, run)

    def end(self, request: str, run: Run, deadline: Deadline) -> None:
        """See `RequestLog.end`."""
        for _ in range(_TRIES):
            with suppress(MigrateError):  # whoever asked is about to hear it anyway
                self._overwrite(request, run)
                return
            if deadline.remaining() < _PAUSE_SECONDS + CALL_TIMEOUT_SECONDS:
                return
            self._clock.sleep(_PAUSE_SECONDS)

    def forget(self, request: str, run: Run) -> None:
        """See `RequestLog.forget`."""
        names = {"#run": _NAME + request, "#attempt": "attempt"}
        values = {":mine": {"S": run.attempt}}
        with suppress(ConditionFailed, MigrateError):  # else it is told as it was
            self._item.update("REMOVE #run", "#run.#attempt = :mine", values, names=names)

    def _overwrite(self, request: str, run: Run) -> None:
        with suppress(ConditionFailed):  # twenty others have begun since
            self._write(request, run, "attribute_exists(#run)")

    def _write(self, request: str, run: Run, condition: str, *, drop: Sequence[str] = ()) -> None:
        names = {"#run": _NAME + request}
        names |= {f"#old{n}": _NAME + each for n, each in enumerate(drop)}
        removed = ", ".join(f"#old{n}" for n in range(len(drop)))
        changes = "SET #run = :run" + (f" REMOVE {removed}" if removed else "")
        self._item.update(changes, condition, {":run": _encode(run)}, names=names)

    def _runs(self) -> dict[str, Run]:
        item = self._item.get(consistent=True) or {}
        return {
            name.removeprefix(_NAME): _decode(value["M"])
            for name, value in item.items()
            if name.startswith(_NAME) and "M" in value
        }


def _outlived(runs: Mapping[str, Run], *, now_ms: int) -> list[str]:
    """Those to be forgotten, so that with one more there are `KEPT`; none that may still run."""
    ended = [each for each, run in runs.items() if run.answer is not None or run.until_ms < now_ms]
    oldest = sorted(ended, key=lambda request: runs[request].began_ms)
    return oldest[: max(0, len(runs) - KEPT + 1)]


def _encode(run: Run) -> dict[str, Any]:
    return {
        "M": {
            "asked": {"S": run.asked},
            "attempt": {"S": run.attempt},
            "invocation": {"S": run.invocation},
            "began": {"N": str(run.began_ms)},
            "until": {"N": str(run.until_ms)},
            "rest": {"B": _packed(run)},
        }
    }


def _packed(run: Run) -> bytes:
    """What may be long, as small as it gets."""
    packed = b""
    for limit in _LIMITS:
        answer = None if run.answer is None else abridged(run.answer, limit=limit)
        kept = run.concerned if run.answer is None else ()
        packed = zlib.compress(json.dumps([kept[: limit // 100], answer]).encode(), 9)
        if len(packed) <= _BYTES:
            break
    return packed


def _decode(value: Mapping[str, Any]) -> Run:
    concerned, answer = json.loads(zlib.decompress(bytes(value["rest"]["B"])))
    run = Run(
        asked=value["asked"]["S"],
        attempt=value["attempt"]["S"],
        invocation=value["invocation"]["S"],
        began_ms=int(value["began"]["N"]),
        until_ms=int(value["until"]["N"]),
    )
    return replace(run, concerned=tuple(concerned), answer=answer)
