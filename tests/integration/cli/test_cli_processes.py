"""The command line as real processes, against a real PostgreSQL and a DynamoDB API."""

from __future__ import annotations

import http.server
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from lambda_migrate.cli import main
from lambda_migrate.local.runtime.loopback import find_free_port
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

COMMAND = (sys.executable, "-m", "lambda_migrate")
NUMBERS = count()


@dataclass
class CommandLine:
    """A database, an item in the lease table, and a directory of migrations."""

    server: LocalPostgreSQL
    dynamodb: LocalDynamoDB
    database: str
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {
            **kept,
            **self.dynamodb.variables(),
            "DATABASE_URL": self.server.url(self.database),
            "LAMBDA_MIGRATE_DIRECTORY": str(self.folder),
            "LAMBDA_MIGRATE_TARGET": self.database,
            "LAMBDA_MIGRATE_TABLE": "leases",
            "TERM": "xterm-256color",
            **self.variables,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert "\x1b" not in out + err
        return process.returncode, out, err

    def answer(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run a command in this process, which is faster."""
        out = io.StringIO()
        with patch.dict(os.environ, self.environ, clear=True), redirect_stdout(out):
            code = main([*arguments, "--format", "json"])
        document: dict[str, Any] = json.loads(out.getvalue())
        return code, document

    def write(self, name: str, up: str, down: str = "", *, option: str = "") -> None:
        text = f"-- migrate:up{option}\n{up}\n-- migrate:down{option}\n{down}\n"
        (self.folder / f"{name}.sql").write_text(text)

    def rows(self, sql: str) -> list[list[Any]]:
        return self.server.execute(sql, self.database)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < give_up
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL(tcp_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[LocalDynamoDB]:
    with LocalDynamoDB() as running:
        running.create_table("leases")
        yield running


@pytest.fixture
def cli(server: LocalPostgreSQL, dynamodb: LocalDynamoDB, tmp_path: Path) -> CommandLine:
    name = f"cli{next(NUMBERS)}"
    server.create_database(name)
    folder = tmp_path / "migrations"
    folder.mkdir()
    return CommandLine(server, dynamodb, name, folder)


def test_every_step_from_new_to_down(cli: CommandLine) -> None:
    assert cli.run("new", "create_orders")[0] == 0
    cli.write("30000101000000_second", "CREATE TABLE second (id int);", "DROP TABLE second;")
    assert cli.run("status", "--exit-code")[0] == 3
    assert [step["statements"] for step in cli.answer("plan")[1]["pending"]] == [1, 1]
    code, out, _ = cli.run("up")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["applied"] * 3
    assert cli.run("status", "--exit-code")[0] == 0
    assert cli.answer("status")[1]["is_marked_ready"] is True
    assert cli.answer("verify")[1]["agree"] is True
    assert cli.run("down", "--steps", "1")[0] == 2
    code, document = cli.answer("down", "--steps", "1", "--yes")
    assert (code, document["rolled_back"]) == (0, ["30000101000000_second"])
    assert cli.rows("SELECT to_regclass('second')") == [[None]]


def test_wait_ends_when_the_database_answers_and_at_once_if_it_never_will(
    cli: CommandLine, tmp_path: Path
) -> None:
    answer = cli.answer("wait")[1]
    assert answer["attempts"] == 1
    nowhere = f"postgresql://postgres@/x?host={tmp_path}"
    code, out, err = cli.run("wait", "--database-url", nowhere, "--timeout", "0.2")
    assert (code, out.count("waiting: cannot connect")) == (1, 1)
    assert "the database did not respond within" in err
    unknown = cli.server.url("does_not_exist")
    code, document = cli.answer("wait", "--database-url", unknown, "--timeout", "60")
    assert (code, document["error"]["kind"]) == (2, "ConfigurationError")


def test_wait_outlasts_a_server_that_starts_later(tmp_path: Path, cli: CommandLine) -> None:
    port = find_free_port()
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    waiting = cli.start("wait", "--database-url", url, "--timeout", "60")
    assert waiting.stdout is not None
    assert waiting.stdout.readline().startswith("waiting: ")
    with LocalPostgreSQL(tcp_port=port):
        assert waiting.communicate(timeout=60)[0].startswith(
            f"127.0.0.1:{port}/postgres responded after"
        )
    assert waiting.returncode == 0


def test_variables_come_from_a_file_and_quiet_commands_write_nothing(
    cli: CommandLine, tmp_path: Path
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("LAMBDA_MIGRATE_SCHEMA='from file'\nDATABASE_URL=nonsense\n")
    cli.write("1_a", "DROP TABLE IF EXISTS t;", "SELECT 1;")
    assert cli.run("--env-file", str(env_file), "up", "-q") == (0, "", "")
    assert cli.rows('SELECT count(*) FROM "from file".history') == [[1]]
    for command in (["down", "--steps", "1", "--yes"], ["up", "--format", "table"]):
        assert cli.run(*command, "--quiet", f"--env-file={env_file}") == (0, "", "")
    assert "1_a" in cli.run("status", "-q", "--env-file", str(env_file))[1]
    env_file.write_text("PGPASSWORD='geheim")
    code, _, err = cli.run("status", "--env-file", str(env_file))
    assert (code, f"{env_file}:1: the quote of PGPASSWORD is not closed" in err) == (2, True)
    assert "geheim" not in err


def test_a_warning_of_a_migration_reaches_the_terminal_and_the_json(cli: CommandLine) -> None:
    warn = "DO $$ BEGIN RAISE WARNING '3 orders were skipped'; END $$;"
    notice = {"severity": "WARNING", "message": "3 orders were skipped"}
    cli.write("1_a", warn, warn)
    cli.write("2_b", f"{warn} SELECT 1/0;")
    assert cli.answer("plan", "--dry-run", "--yes")[1]["dry_run"]["notices"] == [
        {"migration": name, **notice} for name in ("1_a", "2_b")
    ]
    assert "\n  warning: 3 orders were skipped\n" in cli.run("up", "--to", "1")[1]
    code, document = cli.answer("up")
    assert (code, document["error"]["notices"]) == (1, [{"migration": "2_b", **notice}])
    reverted = cli.answer("down", "--to", "0", "--yes")[1]
    assert reverted["notices"] == [{"migration": "1_a", **notice}]


def test_baseline_repair_and_lease_work_on_real_servers(cli: CommandLine) -> None:
    cli.write("1_a", "CREATE TABLE a (id int);", "DROP TABLE a;")
    cli.rows("CREATE TABLE a (id int)")
    assert cli.run("up")[0] == 1
    assert "42P07" in cli.answer("status")[1]["lease"]["failure"]["sqlstate"]
    assert cli.answer("baseline", "1", "--yes")[1]["marked_as_applied"] == ["1_a"]
    assert cli.answer("repair", "1", "--as", "pending", "--yes")[0] == 2
    assert cli.answer("repair", "1", "--as", "pending", "--force", "--yes")[0] == 0
    assert cli.answer("repair", "1", "--as", "applied", "--yes")[0] == 0
    assert (
        cli.answer("repair", "--environment", "test", "--yes")[1]["recorded_environment"] == "test"
    )
    assert cli.run("up", "--environment", "production")[0] == 2
    assert cli.answer("lease", "show")[1]["owner"] is None
    assert cli.answer("lease", "release")[1]["released"] is False
    assert cli.answer("verify", "--resync", "--environment", "test")[1]["agree"] is True


def test_a_failing_script_is_shown_with_its_line_and_caret(cli: CommandLine) -> None:
    cli.write("1_bad", "CREATE TABLE t (\n  id int nott null\n);")
    code, out, err = cli.run("up")
    assert code == 1
    assert out.startswith("failed    1_bad")
    lines = err.splitlines()
    at = next(n for n, line in enumerate(lines) if "nott null" in line)
    assert f"{cli.folder}/1_bad.sql:3:10" in lines[at - 1]
    assert lines[at + 1].index("^") == lines[at].index("nott")


def test_the_lease_table_is_created_once_and_a_foreign_table_is_refused(cli: CommandLine) -> None:
    client = cli.dynamodb.client()
    assert cli.answer("table", "create", "--table", "fresh")[1]["created"] is True
    assert cli.answer("table", "create", "--table", "fresh")[1]["created"] is False
    backups = client.describe_continuous_backups(TableName="fresh")["ContinuousBackupsDescription"]
    recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    assert recovery == "ENABLED"
    client.create_table(
        TableName="other",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    code, _, err = cli.run("table", "create", "--table", "other")
    assert code == 2
    assert "id (HASH, S)" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("up", "--table", "nowhere"), 2, "table create --table nowhere"),
        (("up", "--directory", "nowhere"), 2, "does not exist"),
        (("up", "--database-url", "postgresql://u:hunter2@127.0.0.1:1/x"), 1, "refused"),
        (("up", "--nope"), 2, "--nope"),
    ],
)
def test_an_invalid_url_is_an_error(
    cli: CommandLine, arguments: tuple[str, ...], code: int, said: str
) -> None:
    cli.write("1_a", "SELECT 1;")
    found, out, err = cli.run(*arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert "hunter2" not in err
    found, out, err = cli.run(*arguments, "--format", "json")
    assert json.loads(out)["error"]["exit_code"] == code == found
    assert err == ""


@pytest.mark.parametrize("table", ["leases", ""])
def test_of_two_concurrent_ups_one_applies_and_the_other_is_busy(
    cli: CommandLine, table: str
) -> None:
    cli.variables = {"LAMBDA_MIGRATE_TABLE": table}
    cli.write("1_log", "CREATE TABLE log (n int); INSERT INTO log VALUES (1);")
    cli.write("2_slow", "SELECT pg_sleep(1.5); INSERT INTO log VALUES (2);")
    both = [cli.start("up"), cli.start("up")]
    outputs = [process.communicate(timeout=60) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 4], outputs
    assert cli.rows("SELECT n FROM log ORDER BY n") == [[1], [2]]
    assert outputs[codes.index(4)][1].startswith("busy")


def test_up_wait_continues_when_the_holder_has_finished(cli: CommandLine) -> None:
    cli.write("1_slow", "CREATE TABLE log (n int); SELECT pg_sleep(5);")
    first = cli.start("up")
    cli.wait_for(lambda: _is_at(cli, "pg_sleep(5)"))
    code, out, _ = cli.run("up", "--wait")
    assert code == 0
    assert "waiting: " in out
    assert "nothing to do" in out
    first.communicate(timeout=60)
    assert first.returncode == 0


@pytest.mark.parametrize(
    ("signum", "table"),
    [(signal.SIGINT, "leases"), (signal.SIGTERM, "leases"), (signal.SIGINT, "")],
)
def test_an_interrupted_up_leaves_nothing_half_done_and_releases_the_lease(
    cli: CommandLine, signum: signal.Signals, table: str
) -> None:
    cli.variables = {"LAMBDA_MIGRATE_TABLE": table}
    cli.write("1_kept", "CREATE TABLE kept (n int);")
    cli.write("2_slow", "CREATE TABLE half (n int); SELECT pg_sleep(60);")
    process = cli.start("up")
    cli.wait_for(lambda: _is_at(cli, "pg_sleep(60)"))
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signum
    assert "applied   1_kept" in out
    assert "interrupted" in err
    assert "Traceback" not in err
    cli.wait_for(lambda: not _is_at(cli, "pg_sleep(60)"))
    assert cli.rows("SELECT to_regclass('kept') IS NULL, to_regclass('half')") == [[False, None]]
    cli.write("2_slow", "CREATE TABLE half (n int);")
    assert cli.answer("up")[1]["applied"] == ["2_slow"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_dry_run_leaves_nothing_and_blocks_no_process(
    cli: CommandLine, signum: signal.Signals
) -> None:
    cli.write("1_kept", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1);")
    cli.answer("up")
    cli.write("2_alter", "ALTER TABLE kept ADD COLUMN m int; CREATE TABLE half (n int);")
    cli.write("3_slow", "UPDATE kept SET n = 2; SELECT pg_sleep(60);")
    process = cli.start("plan", "--dry-run", "--yes")
    cli.wait_for(lambda: _is_at(cli, "pg_sleep(60)"))
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert process.returncode == (128 + signum if signum != signal.SIGKILL else -signum)
    assert "ran       2_alter" in out
    assert ("the lease is released" in err) is (signum != signal.SIGKILL)
    assert "Traceback" not in err
    cli.wait_for(lambda: not _is_at(cli, "pg_sleep(60)"))
    assert cli.rows("SELECT * FROM kept") == [[1]]
    assert cli.rows("SELECT to_regclass('half')") == [[None]]
    code, status = cli.answer("status")
    assert (code, status["counts"]["applied"], status["lease"]["failure"]) == (0, 1, None)
    assert (status["lease"]["owner"] is None) is (signum != signal.SIGKILL)


def test_a_dry_run_asks_at_a_terminal_and_shows_what_it_runs(cli: CommandLine) -> None:
    cli.write("1_slow", "CREATE TABLE half (n int); SELECT pg_sleep(0.3);")
    shown = _on_a_terminal(cli, "plan", "--dry-run", typed=b"n\n")
    assert b"dry-run 1 migration?" in shown
    assert b"nothing was changed" in shown
    shown = _on_a_terminal(cli, "plan", "--dry-run", typed=b"y\n")
    assert b"ran 1 migration on" in shown
    assert b"\x1b[" in shown
    assert cli.rows("SELECT to_regclass('half')") == [[None]]


def _is_at(cli: CommandLine, text: str) -> bool:
    active = "SELECT query FROM pg_stat_activity WHERE state = 'active' AND datname = :name"
    rows = cli.server.execute(active, name=cli.database)
    return any(text in row[0] for row in rows)


def test_on_a_terminal_progress_is_shown_and_a_question_asked(cli: CommandLine) -> None:
    cli.write("1_slow", "SELECT pg_sleep(0.3);", "SELECT 1;")
    shown = _on_a_terminal(cli, "up")
    assert b"1_slow" in shown
    assert b"\x1b[" in shown
    shown = _on_a_terminal(cli, "down", "--steps", "1", typed=b"n\n")
    assert b"roll back 1 migration?" in shown
    assert b"nothing was changed" in shown
    assert cli.answer("status")[1]["counts"]["applied"] == 1


def test_no_color_means_no_color_on_a_terminal(cli: CommandLine) -> None:
    cli.write("1_a", "SELECT 1;")
    coloured = _on_a_terminal(cli, "status")
    cli.variables = {"NO_COLOR": "1"}
    plain = _on_a_terminal(cli, "status")
    assert b"\x1b[33m" in coloured
    assert b"\x1b[33m" not in plain


def _on_a_terminal(cli: CommandLine, *arguments: str, typed: bytes = b"") -> bytes:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=cli.environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # Linux says EIO where the last writer has closed
        pass
    finally:
        os.close(ours)
    process.wait(timeout=20)
    return shown


class Expiring(http.server.BaseHTTPRequestHandler):
    """A proxy to DynamoDB whose credentials expire at some moment."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    have_expired = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = (
            400,
            json.dumps(
                {"__type": "x#ExpiredTokenException", "message": "The security token is expired"}
            ).encode(),
        )
        if not self.have_expired.is_set():
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host",)}
            request = urllib.request.Request(self.upstream, body, kept)
            try:
                with urllib.request.urlopen(request) as found:
                    status, answer = found.status, found.read()
            except urllib.error.HTTPError as found:
                status, answer = found.code, found.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Write no log."""


def test_credentials_that_expire_during_up_are_reported_at_once_and_at_the_end(
    cli: CommandLine,
) -> None:
    Expiring.upstream = cli.dynamodb.endpoint_url
    way = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Expiring)
    threading.Thread(target=way.serve_forever, daemon=True).start()
    cli.variables["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{way.server_port}"
    cli.variables["LAMBDA_MIGRATE_LEASE_SECONDS"] = "5"
    cli.write("0001_long", "CREATE TABLE t (id int);\nSELECT pg_sleep(60);")
    process = cli.start("up")
    assert process.stderr is not None
    cli.wait_for(lambda: _is_sleeping(cli))
    Expiring.have_expired.set()
    first = process.stderr.readline()
    assert _is_sleeping(cli), "the migration still runs when the warning comes"
    out, err = process.communicate(timeout=60)
    way.shutdown()
    way.server_close()
    assert process.returncode == 2
    assert "warning: cannot renew the lease" in first
    output = " ".join((first + err + out).split())
    assert output.count("warning:") == 1
    assert "0001_long was cancelled and its uncommitted work rolled back" in output
    assert "no other process held the lease" in output
    assert output.count("ExpiredTokenException: The security token is expired") == 2
    assert "outlive the migration" in output
    assert "passed" not in output
    assert cli.rows("SELECT count(*) FROM lambda_migrate.history") == [[0]]


def _is_sleeping(cli: CommandLine) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = "
    return cli.rows(f"{sql}'{cli.database}'") == [[1]]
