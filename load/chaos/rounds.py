"""Many schedules, several at a time, each judged by the laws."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint, LocalDynamoDB
from load.chaos.evidence import Evidence
from load.chaos.lane import Lane
from load.chaos.laws import broken_laws
from load.chaos.looking import TABLE
from load.chaos.relay import Loop
from load.chaos.schedule import Schedule

__all__ = ["Result", "Rounds"]


@dataclass(frozen=True)
class Result:
    """One schedule's outcome.

    Attributes:
        evidence: What was seen.
        broken: One sentence for each law that was broken.
    """

    evidence: Evidence
    broken: list[str] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        """What was played."""
        return self.evidence.schedule


class Rounds:
    """Lanes that play schedules side by side.

    Args:
        workers: How many lanes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._stack = contextlib.ExitStack()
        self._lanes: list[Lane] = []

    def __enter__(self) -> Rounds:
        with contextlib.ExitStack() as stack:
            # PostgreSQL's own account must be able to pass through.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lm-chaos-")))
            loop = stack.enter_context(Loop())
            engine: DynamoDBEndpoint = stack.enter_context(LocalDynamoDB())
            engine.create_table(TABLE)
            self._lanes = [
                stack.enter_context(Lane(folder / f"lane-{number}", loop, engine))
                for number in range(self._workers)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, schedules: Iterable[Schedule]) -> Iterator[Result]:
        """Play them all; results come as they are ready."""
        waiting: queue.Queue[Schedule | None] = queue.Queue()
        for schedule in schedules:
            waiting.put(schedule)
        results: queue.Queue[Result | BaseException | None] = queue.Queue()
        for lane in self._lanes:
            waiting.put(None)
            work = _worker(lane, waiting, results)
            threading.Thread(target=work, daemon=True).start()
        ended = 0
        while ended < len(self._lanes):
            result = results.get()
            if result is None:
                ended += 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def play_one(self, schedule: Schedule) -> Result:
        """Play one, on the first lane."""
        return judge(self._lanes[0].play(schedule))


def judge(evidence: Evidence) -> Result:
    """The evidence, held against the laws."""
    return Result(evidence, broken_laws(evidence))


def _worker(
    lane: Lane,
    waiting: queue.Queue[Schedule | None],
    results: queue.Queue[Result | BaseException | None],
) -> Callable[[], None]:
    def work() -> None:
        try:
            while (schedule := waiting.get()) is not None:
                results.put(judge(lane.play(schedule)))
        except BaseException as error:  # noqa: BLE001 - the thread that waits for results raises it
            results.put(error)
        else:
            results.put(None)

    return work
