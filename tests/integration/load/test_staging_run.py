"""A good release is a go; each bad one is a no-go, for its own reason."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from load.staging.__main__ import main
from load.staging.release import make_release
from load.staging.validation import Options, Validation, validate
from load.staging.verdicts import Decision, decide

FIRST = """\
-- migrate:up
CREATE TABLE parcels (id int PRIMARY KEY, label text NOT NULL, grams int);
INSERT INTO parcels SELECT n, 'parcel ' || n, n % 700 FROM generate_series(1, 500) AS n;
-- migrate:down
DROP TABLE parcels;
"""

LOCKS = """\
-- migrate:up
ALTER TABLE parcels ADD COLUMN colour text;
SELECT pg_sleep(1.5);
-- migrate:down
ALTER TABLE parcels DROP COLUMN colour;
"""

LOSES = """\
-- migrate:up
DELETE FROM parcels WHERE id % 100 = 7;
UPDATE parcels SET grams = 0 WHERE grams IS NULL OR grams < 5;
-- migrate:down
SELECT 1;
"""

FAILS = """\
-- migrate:up
ALTER TABLE parcels ALTER COLUMN label TYPE int USING label::int;
-- migrate:down
SELECT 1;
"""

STAYS = """\
-- migrate:up
ALTER TABLE parcels ADD COLUMN colour text;
CREATE INDEX parcels_by_label ON parcels (label);
-- migrate:down
ALTER TABLE parcels DROP COLUMN colour;
"""

ONE_WAY = """\
-- migrate:up
ALTER TABLE parcels ADD COLUMN colour text;
"""


def bad(tmp_path: Path, second: str, *, last: str) -> tuple[Validation, Decision]:
    """Validate ``second`` after `FIRST`, as far as the step ``last``."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_parcels.sql").write_text(FIRST)
    (folder / "0002_change.sql").write_text(second)
    release = make_release(folder, through=1, bare=True)
    options = Options(3, 2, processes="forked")
    found = validate(release, options, tmp_path / "out", last=last)
    return found, decide(found.steps)


def test_long_lock_is_no_go(tmp_path: Path) -> None:
    _, decision = bad(tmp_path, LOCKS, last="dry run")
    [reason] = decision.reasons
    assert reason.startswith("dry run: longest lock that blocks writes: 1.5")
    assert "0002_change, ACCESS EXCLUSIVE on public.parcels (limit 1 s)" in reason


def test_failing_migration_is_no_go_before_the_deployment(tmp_path: Path) -> None:
    found, decision = bad(tmp_path, FAILS, last="")
    [reason] = decision.reasons
    assert reason.startswith("dry run: each pending migration runs on this data: ")
    assert "0002_change" in reason
    assert "invalid input syntax for type integer" in reason
    assert found.storms == {}
    assert [step.name for step in found.steps if step.seconds] == [
        "restore the data",
        "plan",
        "dry run",
    ]
    assert sum("not run" in one for one in decision.unmeasured) == 5


def test_lost_data_is_no_go(tmp_path: Path) -> None:
    _, decision = bad(tmp_path, LOSES, last="check the data")
    lost, changed = decision.reasons
    assert lost.startswith("check the data: existing rows: lost: 5 of 500 in parcels")
    assert changed.startswith("check the data: existing values: parcels.grams in 4 ")


def test_incomplete_rollback_is_no_go(tmp_path: Path) -> None:
    _, decision = bad(tmp_path, STAYS, last="check the data again")
    [reason] = decision.reasons
    assert reason == (
        "check the data again: the schema is as before: "
        "+ index CREATE INDEX parcels_by_label ON public.parcels USING btree (label)"
    )


def test_missing_down_script_is_no_go(tmp_path: Path) -> None:
    _, decision = bad(tmp_path, ONE_WAY, last="plan")
    assert decision.reasons == ("plan: each has a down script: 0002_change",)


def test_edited_migration_is_no_go(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, text in ((old, FIRST), (new, FIRST.replace("int PRIMARY", "bigint PRIMARY"))):
        folder.mkdir()
        (folder / "0001_parcels.sql").write_text(text)
    (new / "0002_change.sql").write_text(STAYS)
    release = make_release(new, old=old, bare=True)
    options = Options(3, 2, processes="forked")
    decision = decide(validate(release, options, tmp_path / "out").steps)
    assert decision.reasons == (
        "plan: the new migrations follow the old ones: 0001_parcels was edited in the new code",
    )


def test_example_is_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--orders", "20000", "--until", str(date(2026, 2, 2)), "-n", "10", "--clients", "3"]
    code = main([*asked, "--processes", "forked", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.endswith("GO\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["decision"] == "go"
    assert report["reasons"] == []
    assert report["pending"] == [
        "0005_totals_and_points",
        "0006_backfill_totals",
        "0007_placed_orders",
    ]
    before, after = report["data"]["before"], report["data"]["after"]
    assert [t["checksum"] for t in before] == [t["checksum"] for t in after]
    assert {t["table"]: t["rows"] for t in before}["orders"] == 20_000
    states = {v["state"] for step in report["steps"] for v in step["verdicts"]}
    assert states == {"passed", "not measured"}
    assert report["not_measured"] == [
        "dry run: 0007_placed_orders runs on this data: "
        "not run, because what runs outside a transaction cannot be rolled back"
    ]
    page = (tmp_path / "report.html").read_text()
    assert '<span class="word">GO</span>' in page
    assert page.count("<svg") == 4
    assert "--until 2026-02-02" in page


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (["--orders", "-1"], "write a number from 0"),
        (["-n", "0"], "write a number from 1"),
        (["--until", "today"], "write a day as 2026-01-31"),
        (["--longest-lock", "0"], "write seconds, more than 0"),
        (["--code", "."], "either --old FOLDER or --from VERSION"),
        (["--code", ".", "--migrations", "."], "name one of them"),
        (["--old", "."], "go with --code"),
        (["--code", ".", "--from", "1", "--variable", "X"], "--variable X: write NAME=VALUE"),
        (
            ["--code", ".", "--from", "1", "--variable", "LAMBDA_MIGRATE_SCHEMA=x"],
            "it is set by the validation itself",
        ),
        (["--roll-back-to", "1"], "goes with --stack"),
        (["--code", ".", "--from", "1", "--stack", "s"], "leave --stack and --function out"),
        (["--event", "{}"], "--event goes with --code"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    asked: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (["--migrations", "nowhere", "--from", "1"], "is not a folder"),
        (["--code", "docs", "--from", "1"], "holds no app.py: name the function as --handler"),
        (
            ["--migrations", "examples/orders/migrations", "--from", "7"],
            "no migration is pending",
        ),
        (["--checks", "nowhere.sql"], "--checks nowhere.sql"),
        (["--template", "nowhere.yaml"], "nowhere.yaml"),
        (
            ["--code", "examples/orders", "--from", "4", "--dump", "nowhere.dump"],
            "nowhere.dump: No such file",
        ),
        (["--postgresql", "9"], "9"),
        (["--code", "examples/orders", "--from", "4", "--event", "{"], "--event {"),
    ],
)
def test_unreadable_input_is_exit_code_2(
    asked: list[str], fault: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*asked, "--out", str(tmp_path)]) == 2
    assert fault in capsys.readouterr().err
