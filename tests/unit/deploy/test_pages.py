"""The tables of the how-to pages match the hooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lambda_migrate.deploy import codedeploy, custom_resource
from lambda_migrate.errors import MigrationFailed
from tests.callback_server import CallbackServer
from tests.unit.deploy.conftest import Deploy, LambdaContext
from tests.unit.deploy.test_custom_resource import request, version
from tests.unit.engine.fakes import Fakes, manifest

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to"
V1, V2 = manifest(1), manifest(1, 2)


def rows(page: str) -> list[list[str]]:
    """Return the rows of the table under "Responses"."""
    text = (HOW_TO / page).read_text().partition("## Responses")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def word(cell: str) -> str:
    """Return the first word in backticks."""
    found = re.search(r"`(\w+)`", cell)
    assert found, cell
    return found[1]


def versions(case: str) -> tuple[str | None, str | None]:
    """Return the version of a row and the one before it."""
    if "grown" in case:
        return version(2), version(1)
    return (version(1), version(2)) if "shrunk" in case else (version(2), version(2))


@pytest.mark.parametrize("row", rows("custom-resource.md"), ids=lambda row: row[0])
def test_the_table_of_the_custom_resources_page_matches_the_hook(
    row: list[str], fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    case, done, ready, not_ready = row
    event = request(word(case), callbacks, *versions(case))
    fakes.migrated(V1)
    deploy(V2, error=MigrationFailed("no column"))
    assert custom_resource.handler(event, LambdaContext())["Status"] == word(not_ready)
    assert fakes.database.effects == ["0001_m"]
    deploy(V2)
    custom_resource.handler(event, LambdaContext())
    assert (fakes.database.effects == ["0001_m", "0002_m"]) == (done == "migrates")
    fakes.migrated(V2)
    assert custom_resource.handler(event, LambdaContext())["Status"] == word(ready)


@pytest.mark.parametrize("row", rows("codedeploy.md"), ids=lambda row: row[0])
def test_the_table_of_the_hooks_page_matches_the_hook(
    row: list[str],
    fakes: Fakes,
    deploy: Deploy,
    callbacks: CallbackServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODEDEPLOY", callbacks.base)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    case, done, ready, not_ready = row
    creators = [name for name in re.findall(r"`(\w+)`", case) if name != "creator"]
    for callbacks.creator in creators or ["user", "CloudFormation"]:
        fresh = Fakes()
        monkeypatch.setattr(fakes, "database", fresh.database)
        monkeypatch.setattr(fakes, "table", fresh.table)
        fakes.migrated(V1)
        deploy(V2, error=MigrationFailed("no column"))
        answers = [_status(callbacks)]
        deploy(V2)
        _status(callbacks)
        assert (fakes.database.effects == ["0001_m", "0002_m"]) == (done == "migrates")
        fakes.migrated(V2)
        answers.append(_status(callbacks))
        assert answers == [word(not_ready), word(ready)]


def _status(callbacks: CallbackServer) -> str:
    callbacks.reported.clear()
    event = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "1"}
    return codedeploy.handler(event, LambdaContext(60))["status"]


def test_the_pages_have_a_row_for_every_case() -> None:
    assert len(rows("custom-resource.md")) == 5
    assert len(rows("codedeploy.md")) == 2
