"""PgBouncer in front of a `LocalPostgreSQL`, in any pool mode.

    with LocalPostgreSQL(tcp_port=0) as server, LocalPgBouncer(server) as pooler:
        connect(pooler.url("orders"))

``python -m lambda_migrate.local.servers.pgbouncer install`` downloads Debian's or Ubuntu's package
into `engines_directory`, without root and without installing it on the machine.
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
from lambda_migrate.local.runtime.loopback import HOST, find_free_port
from lambda_migrate.local.runtime.process import (
    LocalServer,
    ProcessError,
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


class LocalPgBouncer(LocalServer):
    """A connection pooler for all databases of a server.

    Args:
        server: The server; it must listen on TCP.
        pool_mode: When PgBouncer reuses a server connection for another client.
        settings: Settings of ``[pgbouncer]``, such as ``{"max_client_conn": "2"}``.
        users: Roles that may log in, without a password.
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
        """Start it and return when it accepts connections.

        Raises:
            ConfigurationError: PgBouncer is not installed.
            ProcessError: With the tail of its log.
        """
        if self._process is not None:
            raise ProcessError("this PgBouncer is running already")
        program, environment = find_program()
        home = self._private_directory()
        self.port = self.port or find_free_port()
        self._write("users.txt", "".join(f'"{user}" ""\n' for user in self._users))
        self._write("pgbouncer.ini", self._configuration(home))
        self._process = spawn(
            [program, home / "pgbouncer.ini"],
            log=home / "log",
            variables={**os.environ, **environment},
            directory=Path("/"),
            user=self._user,
        )
        give_up = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                end = tail(self.log)
                raise ProcessError(f"PgBouncer did not start. The end of its log:\n{end}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it and all its connections immediately; it can be started again."""
        child, self._process = self._process, None
        if child is not None:
            child.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_SECONDS)
            child.kill()

    def close(self) -> None:
        """Stop it and remove its files. Idempotent."""
        self.stop()
        self._remove_private_directory()

    @property
    def log(self) -> Path:
        """Its log."""
        return self._private_directory() / "log"

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """A libpq URL."""
        name, login = quote(database, safe=""), quote(user, safe="")
        return f"postgresql://{login}@{HOST}:{self.port}/{name}?sslmode=disable"

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
        databases = f"* = host={HOST} port={self._server.port}"
        return "\n".join(["[databases]", databases, "[pgbouncer]", *lines, ""])

    def _write(self, name: str, text: str) -> None:
        path = self._private_directory() / name
        path.write_text(text)
        self._change_owner(path)

    def _is_ready(self) -> bool:
        import socket

        try:
            socket.create_connection((HOST, self.port), timeout=1.0).close()
        except OSError:
            return False
        return True


# -- the program --------------------------------------------------------------------------------


def find_program() -> tuple[Path, dict[str, str]]:
    """PgBouncer's program and the variables that it needs: the downloaded one, or the one on PATH.

    Raises:
        ConfigurationError: It is not installed; the message names the command that installs it.
    """
    program = _install_folder() / "usr/sbin/pgbouncer"
    if program.is_file():
        return program, {"LD_LIBRARY_PATH": ":".join(map(str, _library_folders(_install_folder())))}
    # Debian and Homebrew put it beside servers, where an ordinary user's PATH does not look.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    installed = shutil.which("pgbouncer", path=path)
    if installed is not None:
        return Path(installed), {}
    raise ConfigurationError(
        f"no PgBouncer found in {_install_folder()} or on PATH: run `python -m "
        "lambda_migrate.local.servers.pgbouncer install` (Debian, Ubuntu), or install it with the "
        "system's package manager"
    )


def install(*, report: Callable[[str], object] = print) -> Path:
    """Download Debian's package and its libraries, unless PgBouncer is there.

    Returns:
        The program.

    Raises:
        ConfigurationError: apt is missing or failed, or a library is still missing.
    """
    with suppress(ConfigurationError):
        program, _ = find_program()
        report(f"PgBouncer is {program}")
        return program
    for tool in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(tool) is None:
            raise ConfigurationError(
                "PgBouncer can be downloaded on Debian and Ubuntu only: install it with the "
                "system's package manager, so that it is on PATH"
            )
    _install_folder().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_install_folder().parent) as scratch:
        root = Path(scratch) / "root"
        _unpack(["pgbouncer", *_libraries(Path(scratch))], root, Path(scratch))
        _check_program(root)
        root.chmod(0o755)
        shutil.rmtree(_install_folder(), ignore_errors=True)
        root.rename(_install_folder())
    program, _ = find_program()
    report(f"PgBouncer is now in {_install_folder()}")
    return program


def _install_folder() -> Path:
    return engines_directory() / "pgbouncer"


def _library_folders(root: Path) -> list[Path]:
    return [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]


def _libraries(scratch: Path) -> list[str]:
    """The libraries that the package depends on, without the C library."""
    output = _run_apt(["apt-cache", "depends", "pgbouncer"], scratch)
    names = [line.split()[-1] for line in output.splitlines() if line.startswith("  Depends: lib")]
    return [name for name in names if name != "libc6"]


def _unpack(packages: Sequence[str], root: Path, scratch: Path) -> None:
    folder = scratch / "packages"
    folder.mkdir()
    _run_apt(["apt-get", "download", *packages], scratch, directory=folder)
    for package in sorted(folder.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)])


def _run_apt(command: Sequence[str], scratch: Path, *, directory: Path | None = None) -> str:
    """Run apt; if the machine has no package lists, with lists downloaded into ``scratch``."""
    lists = scratch / "apt"
    if not lists.exists():
        with suppress(ConfigurationError):
            return _run(command, directory=directory)
        (lists / "lists/partial").mkdir(parents=True)
        (lists / "archives/partial").mkdir(parents=True)
        _run(["apt-get", *_apt_options(lists), "update", "-qq"])
    return _run([command[0], *_apt_options(lists), *command[1:]], directory=directory)


def _apt_options(lists: Path) -> list[str]:
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
            f"PgBouncer could not be downloaded: `{' '.join(command[:2])}` failed: "
            f"{done.stderr.strip() or done.stdout.strip()}; install `pgbouncer` with the system's "
            "package manager, so that it is on PATH"
        )
    return done.stdout


def _check_program(root: Path) -> None:
    """Run the program once to report a missing library."""
    folders = ":".join(map(str, _library_folders(root)))
    done = subprocess.run(  # noqa: S603 - the program just unpacked
        [str(root / "usr/sbin/pgbouncer"), "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": folders},
    )
    if done.returncode != 0:
        raise ConfigurationError(f"the downloaded PgBouncer does not run: {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lambda_migrate.local.servers.pgbouncer install``."""
    parser = argparse.ArgumentParser(prog="python -m lambda_migrate.local.servers.pgbouncer")
    parser.add_argument("command", choices=["install"], help="download PgBouncer with apt")
    parser.parse_args(arguments)
    try:
        install()
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
