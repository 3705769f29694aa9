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
from load.storm.packages import HANDLER

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


def code(folder: Path, *migrations: str) -> Path:
    """A function's code."""
    (folder / "migrations").mkdir(parents=True)
    (folder / "app.py").write_text(HANDLER)
    for text, name in zip(migrations, ("0001_parcels", "0002_change"), strict=False):
        (folder / "migrations" / f"{name}.sql").write_text(text)
    return folder


def bad(tmp_path: Path, second: str, *, last: str) -> tuple[Validation, Decision]:
    """Validate ``second`` after `FIRST`, as far as the step ``last``."""
    release = make_release(code(tmp_path / "code", FIRST, second), last_version=1)
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
    assert sum("not run" in one for one in decision.not_measured) == 5


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
    edited = FIRST.replace("int PRIMARY", "bigint PRIMARY")
    old, new = code(tmp_path / "old", FIRST), code(tmp_path / "new", edited, STAYS)
    release = make_release(new, old=old)
    options = Options(3, 2, processes="forked")
    decision = decide(validate(release, options, tmp_path / "out").steps)
    assert decision.reasons == (
        "plan: the new migrations follow the old ones: 0001_parcels was edited in the new code",
    )


def test_example_is_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--orders", "20000", "--until", str(date(2026, 2, 2)), "-n", "10", "--clients", "3"]
    exit_code = main([*asked, "--processes", "forked", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert exit_code == 0, said
    assert said.endswith("GO\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["decision"] == "go"
    assert report["reasons"] == []
    assert report["pending"] == [
        "0005_totals_and_points",
        "0006_backfill_totals",
        "0007_placed_orders",
    ]
    assert report["steps"][0]["tables"]["orders"] == 20_000
    states = {v["state"] for step in report["steps"] for v in step["verdicts"]}
    assert states == {"passed", "not measured"}
    assert report["not_measured"] == [
        "dry run: 0007_placed_orders runs on this data: "
        "not run, because what runs outside a transaction cannot be rolled back"
    ]
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# GO: examples/orders, version 1 to 2")
    assert "--until 2026-02-02" in text
    assert (tmp_path / "traffic.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (["--orders", "-1"], "write a number from 0"),
        (["-n", "0"], "write a number from 1"),
        (["--until", "today"], "write a day as 2026-01-31"),
        (["--longest-lock", "0"], "write seconds, more than 0"),
        (["--code", "."], "either --old FOLDER or --from VERSION"),
        (["--old", "."], "go with --code"),
        (["--event", "{}"], "go with --code"),
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
        (["--code", "docs", "--from", "1"], "has no app.py"),
        (["--code", "examples/orders", "--from", "7"], "no migration is pending"),
        (["--checks", "nowhere.sql"], "--checks nowhere.sql"),
        (
            ["--code", "examples/orders", "--from", "4", "--dump", "nowhere.dump"],
            "nowhere.dump: No such file",
        ),
        (["--code", "examples/orders", "--from", "4", "--event", "{"], "--event {"),
    ],
)
def test_unreadable_input_is_exit_code_2(
    asked: list[str], fault: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*asked, "--out", str(tmp_path)]) == 2
    assert fault in capsys.readouterr().err
