"""Time as a parameter: the clock, the deadline, and limits for calls that have none of their own.

``getaddrinfo`` cannot be interrupted and has no timeout. By default, glibc asks each of its servers
twice for 5 s (resolv.conf(5)), longer than many invocations last. So such calls run in a thread
with a time limit. A thread that was given up only computes a value that is dropped.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

__all__ = [
    "CALL_TIMEOUT_SECONDS",
    "CONNECT_TIMEOUT_SECONDS",
    "READ_TIMEOUT_SECONDS",
    "SYSTEM_CLOCK",
    "CallTimeout",
    "Clock",
    "Deadline",
    "connect_tcp",
    "run_with_timeout",
]


class Clock:
    """The operating system's clock; tests pass a subclass."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; for everything that is measured or waited for."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; only for times that other processes read."""
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``."""
        time.sleep(seconds)


SYSTEM_CLOCK = Clock()


class Deadline:
    """The moment by which everything must end, on a clock's monotonic scale.

    Attributes:
        at: Monotonic seconds.
        clock: The clock of ``at``.
    """

    def __init__(self, at: float, clock: Clock) -> None:
        self.at = at
        self.clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline ``seconds`` from now.

        Args:
            seconds: Seconds from now; a deadline that has passed if negative.
            clock: The clock of the deadline.
        """
        return cls(clock.monotonic() + seconds, clock)

    @classmethod
    def from_context(cls, context: Any, clock: Clock = SYSTEM_CLOCK) -> Deadline | None:
        """The end of a Lambda invocation, or None if the context has no remaining time.

        Lambda kills the process slightly *after* its deadline, and the remaining time is 0 then. So
        the test is for the method, not for a remaining time above 0.

        Args:
            context: The Lambda context, or anything with its ``get_remaining_time_in_millis``.
            clock: The clock of the deadline.
        """
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        return None if remaining is None else cls.after(remaining() / 1000, clock)

    def remaining(self) -> float:
        """Seconds left; 0 when it has passed."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether it has passed."""
        return self.clock.monotonic() >= self.at

    def shortened_by(self, seconds: float) -> Deadline:
        """The deadline ``seconds`` before this one.

        Args:
            seconds: How much earlier it is, in seconds.
        """
        return Deadline(self.at - seconds, self.clock)

    def extended_by(self, seconds: float) -> Deadline:
        """The deadline ``seconds`` after this one.

        Args:
            seconds: How much later it is, in seconds.
        """
        return Deadline(self.at + seconds, self.clock)

    def limited_to(self, seconds: float) -> Deadline:
        """This deadline, or the one ``seconds`` from now if that is earlier.

        Args:
            seconds: The longest time from now, in seconds.
        """
        return Deadline(min(self.at, self.clock.monotonic() + seconds), self.clock)


CONNECT_TIMEOUT_SECONDS = 0.8
READ_TIMEOUT_SECONDS = 0.9
"""Together less than the default safety margin of 2 s, so that a call that starts before the
deadline ends before the invocation does. DynamoDB responds within milliseconds; botocore's own
default is 60 s each."""

CALL_TIMEOUT_SECONDS = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS + 0.1
"""For a whole call of boto3, whose own timeouts apply to each address and each read and do not
include name resolution. Less than the default safety margin, see `CONNECT_TIMEOUT_SECONDS`."""

_IPV4_CHARACTERS = frozenset("0123456789.")


class CallTimeout(Exception):
    """The function that `run_with_timeout` ran has not ended; its result will be dropped."""


def run_with_timeout(seconds: float, function: Callable[[], T]) -> T:
    """Run ``function`` in a thread and wait for it.

    Args:
        seconds: How long to wait at most; real time.
        function: Must do no harm if it ends later. Its thread keeps no process alive.

    Raises:
        CallTimeout: It has not ended. Any other error is the function's own.
    """
    done = threading.Event()
    values: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    if not done.wait(min(max(0.0, seconds), threading.TIMEOUT_MAX)):
        raise CallTimeout
    if errors:
        raise errors.pop()
    return values[0]


def connect_tcp(host: str | bytes, port: int, deadline: Deadline) -> socket.socket:
    """Connect by TCP; the remaining time is divided among the addresses of the host.

    Args:
        host: A name or an address. A name as text goes through IDNA, which takes 3 ms to import.
        port: Port.
        deadline: When to give up, including the name resolution.

    Raises:
        OSError: No server answers, or not in time; `socket.gaierror` if the name is unknown or was
            not resolved in time.
        UnicodeError: The name is not valid in DNS.
    """
    import socket  # only when needed: this module is imported by every cold start

    last_error: OSError = socket.gaierror(socket.EAI_NONAME, "it has no address")
    addresses = _resolve(host, port, deadline)
    for index, address in enumerate(addresses):
        seconds = deadline.remaining()
        if seconds <= 0:
            raise TimeoutError("timed out")
        try:
            return _connect_address(address, seconds / (len(addresses) - index))
        except OSError as error:
            last_error = error
    raise last_error


def _resolve(host: str | bytes, port: int, deadline: Deadline) -> list[tuple[Any, ...]]:
    import socket

    def resolve() -> list[tuple[Any, ...]]:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    if _is_address(host):
        return resolve()  # asks no server, so it needs no thread
    seconds = deadline.remaining()
    try:
        return run_with_timeout(seconds, resolve)
    except CallTimeout:
        raise socket.gaierror(
            socket.EAI_AGAIN, f"the name was not resolved within {seconds:.1f} s"
        ) from None


def _is_address(host: str | bytes) -> bool:
    text = host.decode("latin-1") if isinstance(host, bytes) else host
    return ":" in text or _IPV4_CHARACTERS.issuperset(text)


def _connect_address(address_info: tuple[Any, ...], seconds: float) -> socket.socket:
    import socket

    family, kind, protocol, _, address = address_info
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(seconds)
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection
