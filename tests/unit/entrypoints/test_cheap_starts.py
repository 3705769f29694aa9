"""A cold start that does not migrate imports almost nothing, whether it waits or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.lease.codec import ITEM_LAYOUT, encode_databases
from lambda_migrate.lease.record import DatabaseRecord, join_digests
from lambda_migrate.migrations import read_manifest

URL = "postgresql://app:geheim@127.0.0.1:1/shop"  # no process listens there

HEAVY = {
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "dataclasses",  # imports inspect, and compiles the methods of each class
    "email",
    "http",
    "inspect",
    "logging",
    "pathlib",
    "pg8000",
    "random",
    "ssl",
    "tenacity",
    "urllib",
    "uuid",
}

MOST_MODULES_OF_OURS = 14
"""How many modules of the library a start that finds the schema ready may load. Each takes a tenth
of a millisecond at least, defining a named tuple a quarter of one, and a dataclass a whole one."""

START = """
import sys
before = set(sys.modules)
from lambda_migrate import migrate_on_cold_start

@migrate_on_cold_start
def handler(event, context):
    return "served"

class Context:
    aws_request_id = "r-1"
    def get_remaining_time_in_millis(self):
        return 30000

assert handler({}, Context()) == "served"
sys.stdout.flush()
import os
print("loaded:", *sorted(set(sys.modules) - before))
places = (f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd"))
print("sockets:", sum("socket:" in os.readlink(at) for at in places if os.path.lexists(at)))
"""


class Table(ThreadingHTTPServer):
    """A DynamoDB API that answers each GetItem with the next of ``items``; the last one repeats."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.items = items
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Table

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        items = self.server.items
        self.server.asked.append(self.headers["X-Amz-Target"])
        item = items.pop(0) if len(items) > 1 else items[0]
        body = json.dumps({"Item": item} if item else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for number in range(1, 4):
        (folder / f"{number:04d}_m.sql").write_text("-- migrate:up\nSELECT 1;\n")
    return folder


@pytest.fixture
def serve() -> Iterator[Any]:
    running: list[Table] = []

    def start(items: list[dict[str, Any]]) -> Table:
        table = Table(items)
        threading.Thread(target=table.serve_forever, args=(0.01,), daemon=True).start()
        running.append(table)
        return table

    yield start
    for table in running:
        table.shutdown()
        table.server_close()


def base64(value: bytes) -> str:
    return b64encode(value).decode()


def ready(folder: Path) -> dict[str, Any]:
    """The item of a target that satisfies the folder."""
    digest = read_manifest(folder).digest
    address = {"127.0.0.1:1/shop": (1, 3)}
    record = DatabaseRecord(join_digests([digest]), addresses=address, fence=3, owner="o", at_ms=1)
    databases = json.loads(json.dumps(encode_databases({"d": record}), default=base64))
    return {
        "target": {"S": "default"},
        "format": {"N": str(ITEM_LAYOUT)},
        "fence": {"N": "3"},
        "databases": databases,
    }


HELD = {
    "target": {"S": "default"},
    "format": {"N": str(ITEM_LAYOUT)},
    "fence": {"N": "3"},
    "owner": {"S": "another/1/x"},
    "lease_ms": {"N": "20000"},
}


def held() -> dict[str, Any]:
    """The item while another process migrates."""
    until = SYSTEM_CLOCK.wall_ms() + 60_000
    return HELD | {"lease_until": {"N": str(until)}, "lease_ms": {"N": "60000"}}


def run(folder: Path, table: Table, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LAMBDA_TASK_ROOT": str(folder.parent),
        "LAMBDA_MIGRATE_TABLE": "leases",
        "LAMBDA_MIGRATE_DATABASE_URL": URL,
        "AWS_ENDPOINT_URL_DYNAMODB": table.url,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret-example",
        "AWS_SESSION_TOKEN": "token-example",
        "AWS_DEFAULT_REGION": "eu-central-1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", START],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read_output(done: subprocess.CompletedProcess[str], what: str) -> list[str]:
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith(f"{what}:")]
    return line.split()[1:]


@pytest.mark.parametrize("held_for", [0, 2], ids=["ready", "waited"])
@pytest.mark.parametrize("flags", ["", "orders/staging/lambda-migrate"], ids=["", "flags"])
def test_a_start_that_does_not_migrate_imports_nothing_heavy_and_leaves_nothing_open(
    migrations: Path, serve: Any, held_for: int, flags: str
) -> None:
    table = serve([held()] * held_for + [ready(migrations)])
    # No process listens at port 1: reading flags would raise FlagsUnavailable.
    done = run(migrations, table, LAMBDA_MIGRATE_FLAGS=flags, AWS_APPCONFIG_EXTENSION_HTTP_PORT="1")
    for module in ("lambda_migrate.engine.flags", "lambda_migrate.aws.appconfig"):
        assert module not in read_output(done, "loaded")
    heavy = {name for name in read_output(done, "loaded") if name.partition(".")[0] in HEAVY}
    assert heavy == set()
    ours = [name for name in read_output(done, "loaded") if name.startswith("lambda_migrate")]
    assert held_for or len(ours) <= MOST_MODULES_OF_OURS, ours
    assert read_output(done, "sockets") == ["0"]
    confirmed = bool(held_for)  # what a waiter is to serve is read once more
    assert table.asked == ["DynamoDB_20120810.GetItem"] * (held_for + 1 + confirmed)
    line = json.loads(done.stdout.splitlines()[0])
    assert line["lambda_migrate"]["lease_calls"] == held_for + 1 + confirmed
    assert line["lambda_migrate"]["outcome"] == ("WAITED" if held_for else "UP_TO_DATE")


@pytest.mark.parametrize(
    "variables",
    [
        {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGDATABASE": "shop", "PGUSER": "app"},
        {"LAMBDA_MIGRATE_DATABASE_URL": "postgresql:///shop", "PGHOST": "127.0.0.1", "PGPORT": "1"}
        | {"PGUSER": "other", "PGPASSWORD": "geheim"},
    ],
    ids=["alone", "with a URL"],
)
def test_libpqs_variables_name_the_same_database_and_load_nothing_more(
    migrations: Path, serve: Any, variables: dict[str, str]
) -> None:
    by_url = run(migrations, serve([ready(migrations)]))
    done = run(
        migrations, serve([ready(migrations)]), **{"LAMBDA_MIGRATE_DATABASE_URL": "", **variables}
    )
    assert read_output(done, "loaded") == read_output(by_url, "loaded")
    assert "lambda_migrate.conninfo" not in read_output(done, "loaded")


def test_nothing_of_the_credentials_is_written(migrations: Path, serve: Any) -> None:
    done = run(migrations, serve([ready(migrations)]))
    assert read_output(done, "sockets")
    for secret in ("secret-example", "token-example", "geheim"):
        assert secret not in done.stdout + done.stderr


def test_unusable_files_are_reported_when_they_are_needed(migrations: Path, serve: Any) -> None:
    table = serve([ready(migrations)])
    (migrations / "0004_broken.sql").write_text("SELECT 1; -- no marker")
    done = run(migrations, table)
    assert done.returncode != 0
    assert "0004_broken.sql" in done.stderr
    assert "ManifestError" in done.stderr
