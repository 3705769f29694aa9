"""A real PgBouncer in front of a `LocalPostgreSQL`, in any pool mode.

    with LocalPostgreSQL(tcp_port=0) as server, LocalPgBouncer(server) as pooler:
        connect(pooler.url("orders"))

``python -m lambda_migrate.local.servers.pgbouncer install`` puts Debian's (or Ubuntu's) package
into `engines_directory`, without root and without a change to the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.loopback import HOST, free_port
from lambda_migrate.local.runtime.process import (
    ProcessError,
    Server,
    spawn,
    tail,
)
from lambda_migrate.local.servers.postgresql import engines_directory

if TYPE_CHECKING:
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

__all__ = ["LocalPgBouncer", "find_program", "install"]

PoolMode = Literal["session", "transaction", "statement"]

START_SECONDS = 15.0
STOP_SECONDS = 5.0


class LocalPgBouncer(Server):
    """A pooler of all databases of a server, for every user that the server trusts.

    Args:
        server: Where it connects to; it must listen on TCP.
        pool_mode: When a server connection is handed on: with the client's session, or with its
            transaction.
        settings: Lines of ``[pgbouncer]`` above ours: ``{"max_client_conn": "2"}``.
        users: Roles that may log in.
    """

    def __init__(
        self,
        server: LocalPostgreSQL,
        *,
        pool_mode: PoolMode = "transaction",
        settings: Mapping[str, str] | None = None,
        users: Sequence[str] = ("postgres",),
    ) -> None:
        super().__init__("lm-pgb-")
        self._server = server
        self._pool_mode = pool_mode
        self._settings = dict(settings or {})
        self._users = tuple(users)
        self.port = 0

    def start(self) -> None:
        """Start it, return when it takes connections.

        Raises:
            ConfigurationError: No program.
            ProcessError: With the tail of its log.
        """
        if self._child is not None:
            raise ProcessError("this PgBouncer is running already")
        program, environment = find_program()
        home = self._private()
        self.port = self.port or free_port()
        self._write("users.txt", "".join(f'"{user}" ""\n' for user in self._users))
        self._write("pgbouncer.ini", self._configuration(home))
        self._child = spawn(
            [program, home / "pgbouncer.ini"],
            log=home / "log",
            environment={**os.environ, **environment},
            directory=Path("/"),
            account=self._account,
        )
        give_up = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._child.poll() is not None or time.monotonic() > give_up:
                end = tail(self.log)
                raise ProcessError(f"PgBouncer did not start. The end of its log:\n{end}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once, and with it all its connections; it may be started again."""
        child, self._child = self._child, None
        if child is not None:
            child.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_SECONDS)
            child.kill()

    def close(self) -> None:
        """Stop it, and remove its files. Idempotent."""
        self.stop()
        self._remove_private()

    @property
    def log(self) -> Path:
        """Its log."""
        return self._private() / "log"

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """A URL as libpq reads it."""
        name, who = quote(database, safe=""), quote(user, safe="")
        return f"postgresql://{who}@{HOST}:{self.port}/{name}?sslmode=disable"

    def _configuration(self, home: Path) -> str:
        settings = {
            "listen_addr": HOST,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(home / "users.txt"),
            "pool_mode": self._pool_mode,
            "logfile": "",
            "pidfile": "",
        } | self._settings
        lines = [f"{name} = {value}" for name, value in settings.items()]
        to = f"* = host={HOST} port={self._server.port}"
        return "\n".join(["[databases]", to, "[pgbouncer]", *lines, ""])

    def _write(self, name: str, text: str) -> None:
        path = self._private() / name
        path.write_text(text)
        self._give(path)

    def _is_ready(self) -> bool:
        import socket

        try:
            socket.create_connection((HOST, self.port), timeout=1.0).close()
        except OSError:
            return False
        return True


# -- the program --------------------------------------------------------------------------------


def find_program() -> tuple[Path, dict[str, str]]:
    """PgBouncer's program and the variables that it needs: the fetched one, or one on PATH.

    Raises:
        ConfigurationError: There is none; the message says how to install it.
    """
    program = _home() / "usr/sbin/pgbouncer"
    if program.is_file():
        return program, {"LD_LIBRARY_PATH": ":".join(map(str, _folders_in(_home())))}
    # Debian and Homebrew put it beside servers, where an ordinary user's PATH does not look.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    installed = shutil.which("pgbouncer", path=path)
    if installed is not None:
        return Path(installed), {}
    raise ConfigurationError(
        f"no PgBouncer found in {_home()} or on PATH: run `python -m "
        "lambda_migrate.local.servers.pgbouncer install` (Debian, Ubuntu), or install it with the "
        "system's package manager"
    )


def install(*, say: Callable[[str], object] = print) -> Path:
    """Fetch Debian's package and the libraries that are missing, unless a program is there.

    Returns:
        The program.

    Raises:
        ConfigurationError: There is no apt, it failed, or a library is missing all the same.
    """
    with suppress(ConfigurationError):
        program, _ = find_program()
        say(f"PgBouncer is {program}")
        return program
    for tool in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(tool) is None:
            raise ConfigurationError(
                "PgBouncer is fetched on Debian and Ubuntu only: install `pgbouncer` with the "
                "system's package manager, so that it is on PATH"
            )
    _home().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_home().parent) as scratch:
        root = Path(scratch) / "root"
        _unpack(["pgbouncer", *_libraries(Path(scratch))], root, Path(scratch))
        _require_complete(root)
        root.chmod(0o755)
        shutil.rmtree(_home(), ignore_errors=True)
        root.rename(_home())
    program, _ = find_program()
    say(f"PgBouncer is now in {_home()}")
    return program


def _home() -> Path:
    return engines_directory() / "pgbouncer"


def _folders_in(root: Path) -> list[Path]:
    return [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]


def _libraries(scratch: Path) -> list[str]:
    """The libraries that the package needs and this machine may lack; never the C library."""
    said = _apt(["apt-cache", "depends", "pgbouncer"], scratch)
    names = [line.split()[-1] for line in said.splitlines() if line.startswith("  Depends: lib")]
    return [name for name in names if name != "libc6"]


def _unpack(packages: Sequence[str], root: Path, scratch: Path) -> None:
    folder = scratch / "packages"
    folder.mkdir()
    _apt(["apt-get", "download", *packages], scratch, directory=folder)
    for package in sorted(folder.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)])


def _apt(command: Sequence[str], scratch: Path, *, directory: Path | None = None) -> str:
    """Run apt; where the machine has no lists of packages, with lists of our own."""
    lists = scratch / "apt"
    if not lists.exists():
        with suppress(ConfigurationError):
            return _run(command, directory=directory)
        (lists / "lists/partial").mkdir(parents=True)
        (lists / "archives/partial").mkdir(parents=True)
        _run(["apt-get", *_own(lists), "update", "-qq"])
    return _run([command[0], *_own(lists), *command[1:]], directory=directory)


def _own(lists: Path) -> list[str]:
    return [
        *("-o", f"Dir::State::lists={lists}/lists", "-o", f"Dir::Cache={lists}"),
        *("-o", "APT::Sandbox::User=root"),
    ]


def _run(command: Sequence[str], *, directory: Path | None = None) -> str:
    done = subprocess.run(  # noqa: S603 - no shell
        list(command), capture_output=True, text=True, check=False, cwd=directory
    )
    if done.returncode != 0:
        raise ConfigurationError(
            f"PgBouncer could not be fetched: `{' '.join(command[:2])}` failed: "
            f"{done.stderr.strip() or done.stdout.strip()}; install `pgbouncer` with the system's "
            "package manager, so that it is on PATH"
        )
    return done.stdout


def _require_complete(root: Path) -> None:
    """Run it once, so that a missing library is reported here and not by a test."""
    folders = ":".join(map(str, _folders_in(root)))
    done = subprocess.run(  # noqa: S603 - what we have just unpacked
        [str(root / "usr/sbin/pgbouncer"), "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": folders},
    )
    if done.returncode != 0:
        raise ConfigurationError(f"the fetched PgBouncer does not run: {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lambda_migrate.local.servers.pgbouncer install``."""
    parser = argparse.ArgumentParser(prog="python -m lambda_migrate.local.servers.pgbouncer")
    parser.add_argument("command", choices=["install"], help="fetch PgBouncer with apt")
    parser.parse_args(arguments)
    try:
        install()
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
