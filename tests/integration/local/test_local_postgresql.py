"""The embedded PostgreSQL, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.process import ProcessError
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL, find_binaries
from tests.sandbox import is_alive


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL(tcp_port=0, databases=["orders"]) as running:
        yield running


def eventually(holds: Callable[[], bool], *, seconds: float = 20.0) -> bool:
    give_up = time.monotonic() + seconds
    while not holds() and time.monotonic() < give_up:
        time.sleep(0.02)
    return holds()


def test_it_creates_the_requested_databases(server: LocalPostgreSQL) -> None:
    assert server.execute("SELECT current_database()", "orders") == [["orders"]]


def test_its_version_is_the_servers(server: LocalPostgreSQL) -> None:
    [[said]] = server.execute("SHOW server_version")
    assert said == server.version
    assert server.major == int(said.split(".")[0])


def test_it_never_runs_as_root(server: LocalPostgreSQL) -> None:
    assert psutil.Process(server.pid).uids().real != 0


def test_its_urls_name_the_socket_and_the_port(server: LocalPostgreSQL) -> None:
    assert server.url("a b").startswith("postgresql://postgres@/a%20b?host=/")
    assert server.tcp_url(password="p@ss").endswith(f"p%40ss@127.0.0.1:{server.port}/postgres")
    assert server.socket.is_socket()


def test_a_database_of_any_name_can_be_created_and_dropped(server: LocalPostgreSQL) -> None:
    server.create_database('odd "name"')
    server.drop_database('odd "name"')
    server.drop_database('odd "name"')
    rows = server.execute("SELECT 1 FROM pg_database WHERE datname = :name", name='odd "name"')
    assert rows == []


@pytest.mark.parametrize("way", ["fast", "immediate", "kill"])
def test_data_address_and_settings_survive_a_restart(server: LocalPostgreSQL, way: str) -> None:
    server.execute(f"CREATE TABLE kept_{way} AS SELECT 7 AS seven", "orders")
    server.execute("CHECKPOINT")
    address, old = server.tcp_url(), server.pid
    if way == "kill":
        server.kill()
        assert not server.is_running
        server.start()
    else:
        server.restart("fast" if way == "fast" else "immediate")
    assert server.execute(f"SELECT seven FROM kept_{way}", "orders") == [[7]]
    assert (server.tcp_url(), server.pid != old) == (address, True)


def test_settings_and_hba_of_the_caller_apply() -> None:
    hba = ["local all postgres trust", "local all all reject"]
    with LocalPostgreSQL(settings={"max_connections": "17", "fsync": "on"}, hba=hba) as own:
        assert own.execute("SHOW max_connections") == [["17"]]
        assert own.execute("SHOW fsync") == [["on"]]
        assert own.execute("SELECT count(*) FROM pg_hba_file_rules") == [[2]]
        with pytest.raises(ProcessError, match="tcp_port=0"):
            own.tcp_url()


def test_the_error_about_an_invalid_setting_has_the_end_of_the_log() -> None:
    with (
        pytest.raises(ProcessError, match="no_such_setting"),
        LocalPostgreSQL(settings={"no_such_setting": "1"}),
    ):
        pass


def test_closing_leaves_no_process_and_no_directory() -> None:
    with LocalPostgreSQL() as own:
        pid, home = own.pid, own.socket_directory
    own.close()
    assert (is_alive(pid), home.exists()) == (False, False)


def test_a_data_directory_that_the_caller_gave_is_kept() -> None:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)  # as root, the server's own user must get through
        data = Path(home) / "data"
        with LocalPostgreSQL(data_directory=data, databases=["kept"]):
            pass
        with LocalPostgreSQL(data_directory=data) as again:
            assert again.execute("SELECT current_database()", "kept") == [["kept"]]


def test_inaccessible_binaries_are_copied_and_keep_their_permissions() -> None:
    with tempfile.TemporaryDirectory() as closed:  # mode 0700, as a home directory is
        package = find_binaries(18).parents[1]
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(package / "pginstall18", Path(closed) / package.name / "pginstall18")
        shutil.copytree(libraries, Path(closed) / libraries.name)
        with LocalPostgreSQL(binaries=Path(closed) / package.name / "pginstall18" / "bin") as own:
            assert own.major == 18
            assert own.binaries.is_relative_to(own.socket_directory) is (os.geteuid() == 0)
        assert Path(closed).stat().st_mode & 0o777 == 0o700


PARENT = """
import sys, time
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
server = LocalPostgreSQL()
server.start()
print(server.pid, server.socket_directory, flush=True)
time.sleep(600)
"""


def test_a_killed_parent_leaves_nothing_behind() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, home = parent.stdout.readline().decode().split()
        os.kill(parent.pid, signal.SIGKILL)
    assert eventually(lambda: not is_alive(int(pid)) and not Path(home).exists())


def test_missing_binaries_are_an_error_that_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_ENGINES", str(tmp_path))
    assert find_binaries() == find_binaries(18) != find_binaries(16)
    with pytest.raises(ConfigurationError, match="postgresql install 15"):
        find_binaries(15)
    with pytest.raises(ConfigurationError, match="postgresql install 18"):
        find_binaries(with_tls=True)
