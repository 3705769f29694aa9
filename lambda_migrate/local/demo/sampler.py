"""Counts PostgreSQL connections, up to fifty times a second, in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lambda_migrate.clock import SYSTEM_CLOCK, Clock

__all__ = ["INTERVAL_SECONDS", "LIBRARY_PREFIX", "ConnectionSampler", "Sample"]

LIBRARY_PREFIX = "lambda-migrate"
"""The prefix of the application names of lambda-migrate's connections."""

INTERVAL_SECONDS = 0.02

_QUERY = """
SELECT application_name, count(*), extract(epoch FROM min(backend_start))::float8
FROM pg_stat_activity
WHERE datname = :database AND backend_type = 'client backend'
GROUP BY application_name
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """The number of connections to a database at one time.

    Attributes:
        at: Monotonic seconds.
        library_connections: Connections of lambda-migrate.
        application_connections: Connections of the application.
    """

    at: float
    library_connections: int
    application_connections: int


class ConnectionSampler:
    """Counts connections in a background thread, through a connection to another database.

    Args:
        connect: Opens that connection (pg8000's native one).
        database: The database whose connections are counted.
        application: The application's ``application_name``.
        clock: The clock of `Sample.at`.
        interval: Seconds between two samples; more on a busy machine.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        database: str,
        application: str,
        clock: Clock = SYSTEM_CLOCK,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._connect = connect
        self._database = database
        self._application = application
        self._clock = clock
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[Sample] = []
        self._sessions: dict[str, float] = {}
        self.fault = ""

    def __enter__(self) -> ConnectionSampler:
        connection = self._connect()
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name="connections", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the last sample and close the connection. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def samples(self) -> list[Sample]:
        """All samples so far, in order."""
        return list(self._samples)

    @property
    def latest(self) -> Sample:
        """The newest sample."""
        return self._samples[-1] if self._samples else Sample(self._clock.monotonic(), 0, 0)

    @property
    def sessions(self) -> dict[str, float]:
        """When each connection of lambda-migrate was opened (epoch seconds), by its name."""
        return dict(self._sessions)

    def _run(self, connection: Any) -> None:
        import pg8000.exceptions

        try:
            while not self._stop.is_set():
                self._sample(connection)
                self._stop.wait(self._interval)
            self._sample(connection)
            connection.close()
        except (pg8000.exceptions.Error, OSError) as error:
            self.fault = f"The connections could not be counted any more: {error}"

    def _sample(self, connection: Any) -> None:
        rows = connection.run(_QUERY, database=self._database)
        library = [
            (name, count, since) for name, count, since in rows if name.startswith(LIBRARY_PREFIX)
        ]
        for name, _, since in library:
            self._sessions.setdefault(name, since)
        self._samples.append(
            Sample(
                self._clock.monotonic(),
                sum(count for _, count, _ in library),
                sum(count for name, count, _ in rows if name == self._application),
            )
        )
