"""Connections to real servers and to misbehaving ones: results, errors, aborts and losses."""

from __future__ import annotations

import os
import signal
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lambda_migrate.database_address import DatabaseAddress, parse_url
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.connection import (
    Connection,
    ConnectionFailed,
    ConnectionLost,
    PostgresError,
    connect,
)

from .conftest import wait_until_asleep


def connect_to(address: DatabaseAddress, **startup: str) -> Connection:
    return connect(address, application_name="test_connection", startup=startup, timeout=30)


@pytest.fixture(params=["tcp", "socket"])
def address(
    request: pytest.FixtureRequest, plain_address: DatabaseAddress, socket_address: DatabaseAddress
) -> DatabaseAddress:
    return plain_address if request.param == "tcp" else socket_address


@pytest.fixture
def connection(socket_address: DatabaseAddress) -> Iterator[Connection]:
    with connect_to(socket_address) as connection:
        yield connection


# -- connecting ---------------------------------------------------------------------------------


def test_a_connection_has_the_process_id_of_its_backend_and_the_servers_version(
    address: DatabaseAddress, plain_server: LocalPostgreSQL
) -> None:
    with connect_to(address) as connection:
        assert connection.run("SELECT pg_backend_pid()") == [[connection.pid]]
        assert connection.run("SHOW server_version_num") == [[str(connection.server_version)]]
        assert connection.server_version // 10000 == plain_server.major


def test_startup_settings_and_the_name_reach_the_session(address: DatabaseAddress) -> None:
    with connect_to(address, lock_timeout="1234ms") as connection:
        names = ("lock_timeout", "application_name", "client_encoding")
        shown = [connection.run(f"SHOW {name}")[0][0] for name in names]
        assert shown == ["1234ms", "test_connection", "UTF8"]
        assert connection.run("SHOW standard_conforming_strings") == [["on"]]


def test_the_urls_of_a_local_server_connect(plain_server: LocalPostgreSQL) -> None:
    for url in (plain_server.url("other"), plain_server.tcp_url("other")):
        with connect_to(parse_url(url)) as connection:
            assert connection.run("SELECT current_database()") == [["other"]]


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [({"database": "nowhere"}, "3D000"), ({"user": "nobody"}, "28000")],
)
def test_an_error_that_no_retry_resolves_is_permanent(
    change: dict[str, str], sqlstate: str, address: DatabaseAddress
) -> None:
    with pytest.raises(ConnectionFailed) as failed:
        connect_to(address.replace(**change))

    assert failed.value.permanent
    assert failed.value.sqlstate == sqlstate
    assert address.replace(**change).text in failed.value.reason


def test_an_unknown_startup_setting_is_permanent(address: DatabaseAddress) -> None:
    with pytest.raises(ConnectionFailed, match="no_such_setting") as failed:
        connect_to(address, no_such_setting="1")

    assert failed.value.permanent


@pytest.mark.parametrize(
    "change", [{"port": 1}, {"host": "nowhere.invalid"}], ids=["refused", "unknown host"]
)
def test_an_error_that_a_retry_may_resolve_is_transient(
    change: dict[str, str | int], plain_address: DatabaseAddress
) -> None:
    with pytest.raises(ConnectionFailed) as failed:
        connect_to(plain_address.replace(**change))

    assert not failed.value.permanent


def test_a_missing_socket_is_transient(socket_address: DatabaseAddress, tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match="No such file") as failed:
        connect_to(socket_address.replace(socket_dir=str(tmp_path)))

    assert not failed.value.permanent


def test_an_impossible_host_name_is_permanent(plain_address: DatabaseAddress) -> None:
    with pytest.raises(ConnectionFailed) as failed:
        connect_to(plain_address.replace(host="x" * 64 + ".example"))

    assert failed.value.permanent


def test_too_many_connections_are_transient() -> None:
    settings = {"max_connections": "3", "superuser_reserved_connections": "0"}
    settings["reserved_connections"] = "0"
    with LocalPostgreSQL(settings=settings) as server:
        address = parse_url(server.url())
        connections = [connect_to(address) for _ in range(3)]
        with pytest.raises(ConnectionFailed) as failed:
            connect_to(address)
        for connection in connections:
            connection.close()

    assert failed.value.sqlstate == "53300"
    assert not failed.value.permanent


# -- answers ------------------------------------------------------------------------------------


def test_the_rows_of_all_statements_come_back(connection: Connection) -> None:
    rows = connection.run("SELECT 1, NULL; SELECT true, 2.5::float8, 'żółw'::text, 1.50")

    assert rows == [[1, None], [True, 2.5, "żółw", "1.50"]]
    assert connection.completed_statements == 2


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT '0044-03-15 BC'::date", "0044-03-15 BC"),
        ("SELECT 'infinity'::timestamptz", "infinity"),
        ("""SELECT '{"a": [1]}'::jsonb""", '{"a": [1]}'),
        ("SELECT ARRAY['a,b', NULL]", '{"a,b",NULL}'),
    ],
)
def test_values_without_a_python_type_arrive_as_text(
    sql: str, text: str, connection: Connection
) -> None:
    assert connection.run(sql) == [[text]]


@pytest.mark.parametrize("sql", ["", " \n", "-- nothing", ";"])
def test_an_empty_script_completes_nothing(sql: str, connection: Connection) -> None:
    assert connection.run(sql) == []
    assert connection.completed_statements == 0


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("SELECT $$ :name %s $1 \\ $$", " :name %s $1 \\ "),
        (r"SELECT '\n'", r"\n"),
        ('SELECT 1 AS "naïve ☃"', 1),
        ("SELECT '%', ':x'", "%"),
    ],
)
def test_sql_is_sent_as_written(sql: str, value: object, connection: Connection) -> None:
    assert connection.run(sql)[0][0] == value


def test_five_megabytes_are_sent_whole(connection: Connection) -> None:
    text = "é" * 2_500_000

    assert connection.run(f"SELECT length('{text}')") == [[2_500_000]]


def test_a_nul_is_refused_before_anything_is_sent(connection: Connection) -> None:
    with pytest.raises(ValueError, match="offset 8"):
        connection.run("SELECT '\0'")

    assert connection.run("SELECT 1") == [[1]]


def test_half_a_surrogate_pair_is_refused_before_anything_is_sent(connection: Connection) -> None:
    with pytest.raises(UnicodeEncodeError):
        connection.run("SELECT '\ud800'")

    assert connection.run("SELECT 1") == [[1]]


def test_an_error_has_position_and_reason(connection: Connection) -> None:
    connection.run("CREATE TEMP TABLE t (id int CHECK (id > 0))")
    with pytest.raises(PostgresError) as syntax:
        connection.run("SELECT 'é'; SELEC 1")
    with pytest.raises(PostgresError) as check:
        connection.run("INSERT INTO t VALUES (1); INSERT INTO t VALUES (-1); SELECT 1")

    assert (syntax.value.sqlstate, syntax.value.position) == ("42601", 13)
    assert (check.value.sqlstate, check.value.position) == ("23514", None)
    assert check.value.table == "t"
    assert "-1" in check.value.detail
    assert connection.completed_statements == 1
    assert connection.tags == ("INSERT 0 1",)


def test_an_error_inside_a_function_has_its_call_stack(connection: Connection) -> None:
    with pytest.raises(PostgresError) as error:
        connection.run("DO $$ BEGIN RAISE EXCEPTION 'no' USING HINT = 'yes'; END $$")

    assert error.value.hint == "yes"
    assert "PL/pgSQL" in error.value.where


def test_an_error_of_a_connection_class_that_is_not_fatal_keeps_the_connection_open(
    connection: Connection,
) -> None:
    with pytest.raises(PostgresError):  # as dblink and postgres_fdw raise them
        connection.run("DO $$ BEGIN RAISE EXCEPTION 'far away' USING ERRCODE = '08006'; END $$")

    assert connection.run("SELECT 1") == [[1]]


# -- transactions -------------------------------------------------------------------------------


def test_the_status_follows_the_server(connection: Connection) -> None:
    seen = [connection.status]
    connection.run("BEGIN")
    seen.append(connection.status)
    with pytest.raises(PostgresError):
        connection.run("SELECT 1/0")
    seen.append(connection.status)
    assert connection.in_transaction
    connection.run("ROLLBACK")
    seen.append(connection.status)

    assert seen == ["idle", "transaction", "failed", "idle"]


@pytest.mark.parametrize("sql", ["COMMIT", "END", "/* so */ commit", "-- so\n  COMMIT AND CHAIN"])
def test_a_commit_of_a_failed_transaction_is_an_error(sql: str, connection: Connection) -> None:
    with pytest.raises(PostgresError):
        connection.run("BEGIN; SELECT 1/0")

    with pytest.raises(PostgresError, match="committed nothing") as error:
        connection.run(sql)

    assert error.value.sqlstate == "25P02"


@pytest.mark.parametrize("sql", ["ROLLBACK", "ABORT", "-- so\nrollback", "ROLLBACK TO SAVEPOINT s"])
def test_a_rollback_of_a_failed_transaction_is_not_an_error(
    sql: str, connection: Connection
) -> None:
    with pytest.raises(PostgresError):
        connection.run("BEGIN; SAVEPOINT s; SELECT 1/0")

    assert connection.run(sql) == []


# -- scripts that would put a driver out of step ------------------------------------------------


def test_copy_from_stdin_fails_and_keeps_the_connection_open(connection: Connection) -> None:
    with pytest.raises(PostgresError, match="no standard input") as error:
        connection.run("CREATE TEMP TABLE t (id int); COPY t FROM STDIN; SELECT 1")

    assert error.value.sqlstate == "57014"
    assert connection.completed_statements == 1
    assert connection.run("SELECT 2") == [[2]]


def test_copy_to_stdout_is_read_and_dropped(connection: Connection) -> None:
    assert connection.run("COPY (SELECT 1) TO STDOUT; SELECT 2") == [[2]]
    assert connection.tags == ("COPY 1", "SELECT 1")


def test_memory_does_not_grow_with_what_is_copied_out(connection: Connection) -> None:
    def measure_peak_memory(sql: str) -> int:
        tracemalloc.start()
        try:
            connection.run(sql)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    copied = "COPY (SELECT repeat('x', {}) FROM generate_series(1, 3)) TO STDOUT"
    assert measure_peak_memory(copied.format(10_000_000)) < 2 * measure_peak_memory(
        copied.format(200_000)
    )


@pytest.mark.parametrize(
    ("keep_rows", "rows"), [(None, [[1], [2], [3]]), (2, [[2], [3]]), (1, [[3]]), (0, [])]
)
def test_the_last_rows_are_kept(
    keep_rows: int | None, rows: list[list[int]], connection: Connection
) -> None:
    assert connection.run("SELECT 1; SELECT generate_series(2, 3)", keep_rows=keep_rows) == rows
    assert connection.completed_statements == 2


def test_a_long_row_is_kept_only_where_all_are(connection: Connection) -> None:
    sql = "SELECT 1; SELECT repeat('x', 100000); SELECT 2"
    assert connection.run(sql, keep_rows=2) == [[1], [2]]
    assert connection.run(sql) == [[1], ["x" * 100_000], [2]]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN866", "EUC_TW", "SJIS"])
def test_a_script_that_changes_the_encoding_garbles_nothing_after_it(
    encoding: str, connection: Connection
) -> None:
    connection.run(f"SET client_encoding TO '{encoding}'; SELECT 'x'")

    assert connection.run("SELECT 'ż☃'") == [["ż☃"]]


def test_an_encoding_changed_inside_a_failed_transaction_garbles_nothing_after_it(
    connection: Connection,
) -> None:
    with pytest.raises(PostgresError):
        connection.run("BEGIN; SET client_encoding TO 'LATIN1'; SELECT 1/0")
    connection.run("ROLLBACK")

    assert connection.run("SELECT 'ż☃'") == [["ż☃"]]


def test_notices_and_notifications_of_any_text_are_skipped(connection: Connection) -> None:
    connection.run('LISTEN "kanał"; NOTIFY "kanał", \'żółw\'')
    connection.run("DO $$ BEGIN RAISE WARNING 'żółw'; END $$")

    assert connection.run("SELECT 1") == [[1]]


# -- losing it ----------------------------------------------------------------------------------


def test_an_abort_from_another_thread_ends_the_running_statement(address: DatabaseAddress) -> None:
    connection = connect_to(address)
    runner, lost = start_thread(lambda: connection.run("SELECT pg_sleep(120)"))
    wait_until_asleep(address, connection.pid)

    connection.abort()
    runner.join(timeout=60)

    assert not runner.is_alive()
    assert [str(error) for error in lost] == ["the connection was aborted"]
    with pytest.raises(ConnectionLost, match="aborted"):
        connection.run("SELECT 1")
    connection.abort()
    connection.close()


def test_an_aborted_connection_runs_nothing(address: DatabaseAddress) -> None:
    connection = connect_to(address)
    connection.abort()

    with pytest.raises(ConnectionLost, match="aborted"):
        connection.run("SELECT 1")


def test_a_connection_to_a_silent_server_is_closed(address: DatabaseAddress) -> None:
    connection = connect_to(address)

    with pytest.raises(ConnectionLost, match=r"did not respond for 0\.05 s"):
        connection.run("SELECT pg_sleep(120)", timeout=0.05)
    with pytest.raises(ConnectionLost):
        connection.run("SELECT 1")
    assert connection.is_closed


def test_a_timeout_limits_one_message_only(connection: Connection) -> None:
    connection.run("SELECT 1", timeout=20)

    assert connection.run("SELECT 2") == [[2]]


def test_a_termination_by_an_administrator_is_a_lost_connection_with_the_servers_message(
    address: DatabaseAddress,
) -> None:
    connection = connect_to(address)

    with pytest.raises(ConnectionLost, match="administrator command") as lost:
        connection.run("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(120)")

    assert lost.value.sqlstate == "57P01"


def test_a_termination_between_two_statements_is_detected_by_the_second(
    address: DatabaseAddress,
) -> None:
    connection = connect_to(address)
    with connect_to(address) as other:
        other.run(f"SELECT pg_terminate_backend({connection.pid}, 30000)")

    with pytest.raises(ConnectionLost):
        connection.run("SELECT 1")


def test_a_transaction_left_idle_too_long_loses_the_connection(address: DatabaseAddress) -> None:
    connection = connect_to(address, idle_in_transaction_session_timeout="1ms")
    connection.run("BEGIN")
    with connect_to(address) as other:
        while other.run(f"SELECT 1 FROM pg_stat_activity WHERE pid = {connection.pid}"):
            pass

    with pytest.raises(ConnectionLost):
        connection.run("SELECT 1")


def test_a_killed_backend_is_a_lost_connection(plain_server: LocalPostgreSQL) -> None:
    with LocalPostgreSQL(binaries=plain_server.binaries) as server:
        connection = connect_to(parse_url(server.url()))
        os.kill(connection.pid, signal.SIGKILL)

        with pytest.raises(ConnectionLost):
            connection.run("SELECT 1")


def test_closing_twice_and_after_a_loss_raises_nothing(address: DatabaseAddress) -> None:
    connection = connect_to(address)
    connection.abort()
    connection.close()
    connection.close()
    connection.abort()

    with pytest.raises(ConnectionLost):
        connection.run("SELECT 1")


def test_closing_ends_the_backend(address: DatabaseAddress) -> None:
    connection = connect_to(address)
    with connect_to(address) as other:
        connection.close()
        while other.run(f"SELECT 1 FROM pg_stat_activity WHERE pid = {connection.pid}"):
            pass


def test_an_interrupt_during_a_response_makes_the_connection_unusable(
    address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect_to(address)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection._driver, "handle_messages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connection.run("SELECT 1")

    with pytest.raises(ConnectionLost, match="interrupted during a response"):
        connection.run("SELECT 1")


# -- servers that misbehave ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "permanent"),
    [
        (b"", "connection broke|reset", False),
        (b"HTTP/1.1 400 Bad Request\r\n", "unknown message|connection broke|reset", False),
        (b"R\0\0\0\x08\0\0\0\x07", "method 7 not supported", True),
        (b"R\0\0\0\x0c\0\0\0\x05salt", "none is configured", True),
        (b"?\0\0\0\x04", "unknown message", False),
        (b"R\0\0\0\x08\0\0\0\0Z\0\0", "connection broke|reset", False),
    ],
)
def test_a_peer_that_is_not_postgresql_is_refused(
    answer: bytes, reason: str, permanent: bool
) -> None:
    with serve_once(answer) as port, pytest.raises(ConnectionFailed, match=reason) as failed:
        connect_to(address_of(port, sslmode="disable"))

    assert failed.value.permanent is permanent


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection"),
        (b"S", "TLS handshake failed"),
        (b"Sgarbage" * 9, "TLS handshake failed"),
    ],
)
def test_a_broken_handshake_is_transient(answer: bytes, reason: str) -> None:
    with serve_once(answer) as port, pytest.raises(ConnectionFailed, match=reason) as failed:
        connect_to(address_of(port, sslmode="require"))

    assert not failed.value.permanent


@pytest.mark.parametrize("sslmode", ["disable", "require", "prefer"])
def test_a_server_that_accepts_and_never_responds_times_out(sslmode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = address_of(listener.getsockname()[1], sslmode=sslmode)
        with pytest.raises(ConnectionFailed, match=r"no response within 0\.05 s") as failed:
            connect(address.replace(connect_timeout=0.05), application_name="t", timeout=30)

    assert not failed.value.permanent


def address_of(port: int, *, sslmode: str) -> DatabaseAddress:
    return DatabaseAddress(database="d", host="127.0.0.1", port=port, user="u", sslmode=sslmode)


@contextmanager
def serve_once(answer: bytes) -> Iterator[int]:
    """A server that reads once, says ``answer`` and hangs up; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_answer_once, args=(listener, answer))
        server.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.join(timeout=60)


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(1024)
        peer.sendall(answer)
        peer.shutdown(socket.SHUT_WR)


def start_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[ConnectionLost]]:
    lost: list[ConnectionLost] = []

    def run() -> None:
        try:
            work()
        except ConnectionLost as error:
            lost.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, lost
