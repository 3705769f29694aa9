"""Child processes: each in its own session, with its output in a file, ended when this one ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.local.runtime.reaper import get_reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

__all__ = [
    "LocalServer",
    "OSUser",
    "ProcessError",
    "SpawnedProcess",
    "find_unprivileged_user",
    "is_world_accessible",
    "read_state",
    "spawn",
    "tail",
]


class ProcessError(RuntimeError):
    """A local process did not start or does not respond; the message ends with its log's tail."""


@dataclass(frozen=True, slots=True)
class OSUser:
    """The user and group that a process runs as."""

    uid: int
    gid: int


def is_world_accessible(path: Path) -> bool:
    """Whether every user may enter the directories that lead to ``path``, and ``path`` itself."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def find_unprivileged_user() -> OSUser | None:
    """The user for a server that refuses to run as root; None unless this process is root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return OSUser(entry.pw_uid, entry.pw_gid)
    return OSUser(65534, 65534)


class SpawnedProcess:
    """A running process, which leads a process group."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._is_killed = False
        self.pid = process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        status = self._process.poll()
        if status is not None:
            get_reaper().unwatch(self.pid)
        return status

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; unlike `poll` also correct while another thread is in `wait`.

        A killed process stays a zombie for a moment before it can be collected.
        """
        return self._process.returncode is not None or read_state(self.pid) in {"", "Z", "X"}

    def wait(self, seconds: float | None = None) -> int:
        """Wait until it ends and return the exit status.

        Raises:
            subprocess.TimeoutExpired: It still runs after ``seconds``.
        """
        status = self._process.wait(seconds)
        get_reaper().unwatch(self.pid)
        return status

    def signal(self, number: int) -> None:
        """Send ``number`` to the process only; does nothing if it has ended."""
        self._process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send ``number`` to the process group, even if the process itself has ended."""
        if not self._is_killed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the process has ended, from a thread that waits for it."""

        def wait() -> None:
            self.wait()
            callback()

        threading.Thread(target=wait, daemon=True, name=f"wait for {self.pid}").start()

    def kill(self) -> int:
        """Kill the process group, stopped or not, and wait for it. Idempotent."""
        self.signal_group(signal.SIGKILL)
        self._is_killed = True  # from now on the kernel may reuse the number
        return self.wait()


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    variables: Mapping[str, str] | None = None,
    directory: Path | None = None,
    user: OSUser | None = None,
    end_signal: int = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
) -> SpawnedProcess:
    """Start ``command`` and append its output to ``log``.

    Args:
        command: Program and arguments.
        log: File for standard output and standard error.
        variables: All its environment variables; those of this process if None.
        directory: Its working directory.
        user: The user it runs as; that of this process if None.
        end_signal: The signal by which the reaper ends it.
        pass_fds: File descriptors of this process that stay open in it.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our callers' own commands, no shell
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if variables is None else dict(variables),
            cwd=directory,
            start_new_session=True,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
            pass_fds=pass_fds,
        )
    get_reaper().watch(process.pid, end_signal=end_signal)
    return SpawnedProcess(process)


class LocalServer(ABC):
    """A server process with a private directory, for a ``with`` statement.

    Args:
        prefix: Prefix of the directory's name.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._user = find_unprivileged_user()
        self._home: Path | None = None
        self._process: SpawnedProcess | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the server and return when it accepts connections."""

    @abstractmethod
    def close(self) -> None:
        """Stop the server and remove its files. Idempotent."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _private_directory(self) -> Path:
        """A directory with mode 0700 that the server's user owns, with a short path."""
        if self._home is None:
            base = Path(tempfile.gettempdir())
            if len(os.fsencode(base)) > 60 or (self._user and not is_world_accessible(base)):
                base = Path("/tmp")  # noqa: S108 - mkdtemp makes a private directory in it
            self._home = Path(tempfile.mkdtemp(prefix=self._prefix, dir=base))
            get_reaper().watch_directory(str(self._home))
            self._change_owner(self._home)
        return self._home

    def _change_owner(self, path: Path) -> None:
        """Make the server's user the owner of ``path``."""
        if self._user is not None:
            os.chown(path, self._user.uid, self._user.gid)

    def _remove_private_directory(self) -> None:
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            get_reaper().unwatch(str(self._home))
            self._home = None


def read_state(pid: int) -> str:
    """The kernel's letter for a process (``R``, ``S``, ``T`` stopped, ``Z``); "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def tail(log: Path) -> str:
    """The last 20 lines of a log, for an error message."""
    with contextlib.suppress(FileNotFoundError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    return ""
