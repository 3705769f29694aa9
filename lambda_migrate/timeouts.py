"""Calls that have no timeout of their own, ended in time: name resolution, and what AWS's SDK does.

``getaddrinfo`` cannot be interrupted and takes no timeout: glibc asks each of its servers twice for
5 s by default (resolv.conf(5)), longer than many invocations live. So it runs in a thread that is
waited for. A thread that was given up only computes a value that is not read.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any, TypeVar

    from lambda_migrate.clock import Deadline

    T = TypeVar("T")

__all__ = ["TimeLimitExceeded", "connect_tcp", "is_configuration_error", "run_with_timeout"]

_IN_ADDRESS = frozenset("0123456789.")


class TimeLimitExceeded(Exception):
    """What `run_with_timeout` ran is not done; its result will be dropped."""


def run_with_timeout(seconds: float, act: Callable[[], T]) -> T:
    """Run ``act`` in a thread of its own and wait for it for at most ``seconds``.

    Args:
        seconds: At most; real time.
        act: Must do no harm when it ends later than that. Such a thread keeps no process alive.

    Raises:
        TimeLimitExceeded: It is not done. Everything else is what ``act`` raises.
    """
    done = threading.Event()
    values: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    if not done.wait(min(max(0.0, seconds), threading.TIMEOUT_MAX)):
        raise TimeLimitExceeded
    if errors:
        raise errors.pop()
    return values[0]


def is_configuration_error(error: Exception) -> bool:
    """Whether an error of botocore's is one that trying again does not change; loads botocore."""
    from botocore import exceptions

    return isinstance(
        error,
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.TokenRetrievalError,
            exceptions.SSOError,
            exceptions.NoRegionError,
            exceptions.ProfileNotFound,
            exceptions.ParamValidationError,
            exceptions.InvalidRegionError,
        ),
    )


def connect_tcp(host: str | bytes, port: int, until: Deadline) -> socket.socket:
    """Connect by TCP; each address of the host gets its share of the time left.

    Args:
        host: A name or an address. As text, a name is put through IDNA, which takes 3 ms to import.
        port: Port.
        until: When to give up, the resolution of the name included.

    Raises:
        OSError: Nothing answers there, or not in time; `socket.gaierror` where the name is unknown
            or was not resolved in time.
        UnicodeError: No name that DNS could hold.
    """
    import socket  # not before it is needed: what merely holds a table loads it, too

    problem: OSError = socket.gaierror(socket.EAI_NONAME, "it has no address")
    places = _resolve(host, port, until)
    for index, place in enumerate(places):
        left = until.remaining()
        if left <= 0:
            raise TimeoutError("timed out")
        try:
            return _dial_one(place, left / (len(places) - index))
        except OSError as error:
            problem = error
    raise problem


def _resolve(host: str | bytes, port: int, until: Deadline) -> list[tuple[Any, ...]]:
    import socket

    def resolve() -> list[tuple[Any, ...]]:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    if _is_address(host):
        return resolve()  # asks no server, so it needs no thread
    seconds = until.remaining()
    try:
        return run_with_timeout(seconds, resolve)
    except TimeLimitExceeded:
        raise socket.gaierror(
            socket.EAI_AGAIN, f"the name was not resolved within {seconds:.1f} s"
        ) from None


def _is_address(host: str | bytes) -> bool:
    text = host.decode("latin-1") if isinstance(host, bytes) else host
    return ":" in text or _IN_ADDRESS.issuperset(text)


def _dial_one(place: tuple[Any, ...], seconds: float) -> socket.socket:
    import socket

    family, kind, protocol, _, address = place
    dialled = socket.socket(family, kind, protocol)
    try:
        dialled.settimeout(seconds)
        dialled.connect(address)
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        dialled.close()
        raise
    return dialled
