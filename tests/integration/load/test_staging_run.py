"""A good release is a go, and each bad one is a no-go for its own reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lambda_migrate.local.demo.example import Example, find_example
from load.staging.__main__ import main
from load.staging.generated_orders import GeneratedOrders, GeneratedOrdersPackage
from load.staging.validation import open_validation
from load.staging.verdicts import ReleaseDecision, StepResult, decide_release

TOTALS, BACKFILL = "0005_totals_and_points", "0006_backfill_totals"


def validate_changed(
    tmp_path: Path, *changes: tuple[str, str, str], last: str = ""
) -> tuple[list[StepResult], ReleaseDecision]:
    """Validate the example with other texts in migrations, as far as the step ``last``.

    A change is the name of a migration, a text in it, and what replaces it.
    """
    folder = tmp_path / "orders"
    shutil.copytree(find_example().directory, folder)
    for name, old, new in changes:
        path = folder / "migrations" / f"{name}.sql"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    generated = GeneratedOrders(500, 1)
    package = GeneratedOrdersPackage(Example(folder), generated_orders=generated)
    with open_validation(package, tmp_path / "out", environments=3, clients=2) as validation:
        steps = []
        for step in validation.run():
            steps.append(step)
            if step.name == last:
                break
    return steps, decide_release(steps)


ADD_TOTAL = "ALTER TABLE orders ADD COLUMN total_cents bigint;"
DROP_TOTAL = "ALTER TABLE orders DROP COLUMN total_cents;"


def test_long_lock_is_no_go(tmp_path: Path) -> None:
    slow = f"{ADD_TOTAL}\nSELECT pg_sleep(1.5);"
    _, decision = validate_changed(tmp_path, (TOTALS, ADD_TOTAL, slow), last="dry run")
    [reason] = decision.reasons
    assert reason.startswith("dry run: longest lock that blocks writes: 1.5")
    assert "0005_totals_and_points, ACCESS EXCLUSIVE on public." in reason


def test_failing_migration_is_no_go_before_the_deployment(tmp_path: Path) -> None:
    failing = f"{ADD_TOTAL}\nALTER TABLE orders ALTER COLUMN item TYPE int USING item::int;"
    steps, decision = validate_changed(tmp_path, (TOTALS, ADD_TOTAL, failing))
    [reason] = decision.reasons
    assert reason.startswith("dry run: each pending migration runs on this data: ")
    assert "0005_totals_and_points" in reason
    assert "invalid input syntax for type integer" in reason
    assert [step.name for step in steps if step.seconds] == ["restore the data", "plan", "dry run"]
    assert sum("not run" in one for one in decision.not_measured) == 5


def test_lost_data_wrong_values_and_an_incomplete_rollback_are_no_go(tmp_path: Path) -> None:
    losing = "DELETE FROM orders WHERE id <= 7;\nSELECT pg_sleep(3);"
    wrong = f"{losing}\nUPDATE customers SET points = 1 WHERE id BETWEEN 2 AND 4;"
    _, decision = validate_changed(
        tmp_path,
        (BACKFILL, "SELECT pg_sleep(3);", wrong),
        (TOTALS, DROP_TOTAL, ""),
        last="check the data again",
    )
    rows, points, rows_afterwards, schema = decision.reasons
    lost = "existing rows: 7 of 500 rows of orders are lost or changed, such as "
    assert rows.startswith(f"check the data: {lost}")
    assert points == "check the data: customers without their one point: 3"
    assert rows_afterwards.startswith(f"check the data again: {lost}")
    assert schema == "check the data again: the schema is as before: +    total_cents bigint,"


def test_missing_down_script_is_no_go(tmp_path: Path) -> None:
    file = "0007_placed_orders"
    down = "-- migrate:down transaction:false\nDROP INDEX CONCURRENTLY placed_orders;"
    _, decision = validate_changed(tmp_path, (file, down, ""), last="plan")
    assert decision.reasons == (f"plan: each has a down script: {file}",)


def test_example_is_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--orders", "20000", "-n", "10", "--clients", "3"]
    exit_code = main([*asked, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert exit_code == 0, said
    assert said.endswith("GO\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["decision"] == "go"
    assert report["reasons"] == []
    assert report["steps"][1]["facts"]["pending"] == [
        "0005_totals_and_points",
        "0006_backfill_totals",
        "0007_placed_orders",
    ]
    assert report["steps"][0]["facts"]["tables"]["orders"] == 20_000
    states = {v["state"] for step in report["steps"] for v in step["verdicts"]}
    assert states == {"passed", "not measured"}
    assert report["not_measured"] == [
        "dry run: 0007_placed_orders runs on this data: "
        "not run, because what runs outside a transaction cannot be rolled back"
    ]
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# GO: examples/orders, version 1 to 2")
    assert (tmp_path / "traffic.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (["--orders", "-1"], "write 0 or more"),
        (["-n", "0"], "write 1 or more"),
        (["--max-lock-seconds", "-1"], "write 0 or more"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    asked: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err
