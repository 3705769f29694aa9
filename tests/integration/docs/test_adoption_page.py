"""The commands of the adoption page work on databases of other tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.sandbox import Sandbox
from tests.unit.docs.pages import DOCS, ROOT, code_blocks

PAGE = DOCS / "how-to" / "adopt-an-existing-database.md"
FILES = {
    "0001_customers": "CREATE TABLE IF NOT EXISTS customers (id int PRIMARY KEY, cents int);",
    "0002_status": "CREATE TABLE status (id int);",
    "0003_index": "UPDATE customers SET cents = cents * 100;",
}
DBMATE_DATABASE = """
    CREATE TABLE customers (id int PRIMARY KEY, cents int); INSERT INTO customers VALUES (1, 500);
    CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY);
    INSERT INTO schema_migrations VALUES ('0001'), ('0003')"""


def run(sandbox: Sandbox, folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lambda_migrate", *arguments],
        cwd=folder,
        env={**environment, "LAMBDA_MIGRATE_DATABASE_URL": sandbox.url, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def write(folder: Path, files: dict[str, str]) -> None:
    (folder / "migrations").mkdir()
    for name, sql in files.items():
        (folder / "migrations" / f"{name}.sql").write_text(f"-- migrate:up\n{sql}\n")


def read_block(begin: str) -> str:
    """Return the block with this beginning, on one line."""
    [text] = [each.text for each in code_blocks(PAGE, "") if each.text.startswith(begin)]
    return " ".join(text.split())


def read_history(sandbox: Sandbox) -> list[list[object]]:
    return sandbox.query("SELECT version::text, baseline FROM lambda_migrate.history ORDER BY 1")


def test_migrations_applied_by_dbmate_are_not_run_again_and_its_gap_stays_pending(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.query(DBMATE_DATABASE)
    write(tmp_path, FILES)
    code, output = run(sandbox, tmp_path, "up")
    assert code == 2
    assert read_block("error: dbmate has applied") in output
    code, output = run(sandbox, tmp_path, "baseline", "3", "--yes")
    assert code == 2
    assert "0002_status is not applied there" in output
    _, output = run(sandbox, tmp_path, "baseline")
    heading, _, table = read_block("this marks as applied").partition("version file")
    assert heading.partition(", from")[2] in output
    assert table in output
    assert run(sandbox, tmp_path, "baseline", "--yes")[0] == 0
    assert read_history(sandbox) == [["1", True], ["3", True]]
    assert sandbox.query("SELECT cents FROM customers") == [[500]]
    code, output = run(sandbox, tmp_path, "up")
    assert (code, "LAMBDA_MIGRATE_ALLOW_OUT_OF_ORDER=true" in output) == (1, True)
    assert run(sandbox, tmp_path, "up", LAMBDA_MIGRATE_ALLOW_OUT_OF_ORDER="true")[0] == 0
    assert read_history(sandbox) == [["1", True], ["2", False], ["3", True]]
    assert sandbox.query("SELECT cents FROM customers") == [[500]]
    assert run(sandbox, tmp_path, "verify")[0] == 0


def test_the_table_of_another_service_can_be_ignored(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.query("CREATE SCHEMA billing")
    sandbox.query(
        "CREATE TABLE billing.schema_migrations (version varchar(128) PRIMARY KEY);"
        "INSERT INTO billing.schema_migrations VALUES ('0001')"
    )
    write(tmp_path, FILES)
    code, output = run(sandbox, tmp_path, "up")
    assert (code, "billing.schema_migrations" in output) == (2, True)
    setting = {"LAMBDA_MIGRATE_IGNORE_OTHER_HISTORY": "true"}
    assert run(sandbox, tmp_path, "up", "--to", "1", **setting)[0] == 0
    assert run(sandbox, tmp_path, "up")[0] == 0, "it is only asked while our own history is empty"
