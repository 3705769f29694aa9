"""A release: which code is old, which is new, and what the new one brings."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.environment import InvocationResult
from load.staging.generated_orders import GeneratedOrders
from load.staging.release import example_release, make_release

UP = "-- migrate:up\nCREATE TABLE t{number} (a int);\n-- migrate:down\nDROP TABLE t{number};\n"


def migrations(folder: Path, *numbers: int) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:04d}_step.sql").write_text(UP.format(number=number))
    return folder


def code(folder: Path, *numbers: int) -> Path:
    migrations(folder / "migrations", *numbers)
    (folder / "app.py").write_text("def handler(event, context): ...\n")
    (folder / "tests").mkdir()
    return folder


def deployed(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "migrations").iterdir())


def test_old_and_new_code_in_two_folders(tmp_path: Path) -> None:
    release = make_release(code(tmp_path / "b", 1, 2, 3), old=code(tmp_path / "a", 1, 2))
    assert [migration.name for migration in release.pending] == ["0003_step"]
    assert release.problems() == []
    old, new = (release.deploy(version, tmp_path / "home") for version in (1, 2))
    assert deployed(old) == ["0001_step.sql", "0002_step.sql"]
    assert deployed(new) == ["0001_step.sql", "0002_step.sql", "0003_step.sql"]
    assert sorted(path.name for path in new.iterdir()) == ["app.py", "migrations"]
    assert release.name == "a to b"


def test_old_code_is_a_part_of_one_folder(tmp_path: Path) -> None:
    release = make_release(code(tmp_path / "shop", 1, 2, 3), last_version=1)
    assert [migration.version for migration in release.pending] == [2, 3]
    assert deployed(release.deploy(1, tmp_path / "home")) == ["0001_step.sql"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ((1, 2), (1, 3), "0002_step is missing in the new code"),
        ((1, 3), (1, 2, 3), "0002_step comes before 0003_step, which is applied already"),
    ],
)
def test_release_that_does_not_follow_the_old_one_has_problems(
    tmp_path: Path, old: tuple[int, ...], new: tuple[int, ...], problem: str
) -> None:
    release = make_release(code(tmp_path / "b", *new), old=code(tmp_path / "a", *old))
    assert problem in release.problems()


def test_edited_migration_is_a_problem(tmp_path: Path) -> None:
    release = make_release(code(tmp_path / "b", 1, 2), old=code(tmp_path / "a", 1))
    (tmp_path / "b" / "migrations" / "0001_step.sql").write_text(UP.format(number=9))
    assert release.problems() == ["0001_step was edited in the new code"]


def test_clients_send_the_given_event(tmp_path: Path) -> None:
    release = make_release(code(tmp_path / "b", 1, 2), last_version=1, client_event={"path": "/"})
    assert release.event("read", 7) == release.event("cold", 1) == {"path": "/"}
    assert release.confirmed_orders([]) == []


def test_example_places_orders_and_finds_the_confirmed_ones() -> None:
    release = example_release()
    assert [migration.version for migration in release.pending] == [5, 6, 7]
    assert release.event("write", 1)["rawPath"] == "/orders"
    placed = {"statusCode": 201, "body": '{"order_id": 12}'}
    answers = (placed, {"statusCode": 200, "body": '{"order_id": 3}'}, None)
    results = [
        InvocationResult("r", "env1", False, "ok", payload, "", "", 0.0, 0.1, 1.0, 1.1)
        for payload in answers
    ]
    assert release.confirmed_orders(results) == [12]


def test_clients_are_the_generated_customers_one_after_another() -> None:
    generated = GeneratedOrders(800, 1, date(2026, 2, 2))
    release = example_release(generated)
    emails = [json.loads(release.event("write", 1)["body"])["email"] for _ in range(3)]
    assert emails == [generated.email(number) for number in range(3)]
    assert release.event("read", 5)["rawPath"] == "/orders/5"


def test_unreadable_migration_is_reported(tmp_path: Path) -> None:
    broken = code(tmp_path / "b", 1, 2)
    (broken / "migrations" / "0002_step.sql").write_text("SELECT 1;")
    with pytest.raises(ConfigurationError, match="0002_step"):
        make_release(broken, last_version=1)
