"""The tables of the how-to pages are what the hooks do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lambda_migrate.deploy import codedeploy, custom_resource
from lambda_migrate.errors import MigrationFailed
from tests.answers import Office
from tests.unit.deploy.conftest import Deploy, LambdaContext
from tests.unit.deploy.test_custom_resource import request, version
from tests.unit.engine.fakes import Fakes, manifest

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to"
V1, V2 = manifest(1), manifest(1, 2)


def rows(page: str) -> list[list[str]]:
    """What a page says under "Responses", without the table's head."""
    text = (HOW_TO / page).read_text().partition("## Responses")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def word(cell: str) -> str:
    """The first word that is code."""
    found = re.search(r"`(\w+)`", cell)
    assert found, cell
    return found[1]


def versions(told: str) -> tuple[str | None, str | None]:
    """The numbers that a row speaks of: after and before."""
    if "grown" in told:
        return version(2), version(1)
    return (version(1), version(2)) if "shrunk" in told else (version(2), version(2))


@pytest.mark.parametrize("row", rows("custom-resource.md"), ids=lambda row: row[0])
def test_the_table_of_the_custom_resources_page(
    row: list[str], scene: Fakes, deploy: Deploy, post: Office
) -> None:
    told, done, ready, not_ready = row
    event = request(word(told), post, *versions(told))
    scene.migrated(V1)
    deploy(V2, error=MigrationFailed("no column"))
    assert custom_resource.handler(event, LambdaContext())["Status"] == word(not_ready)
    assert scene.database.effects == ["0001_m"]
    deploy(V2)
    custom_resource.handler(event, LambdaContext())
    assert (scene.database.effects == ["0001_m", "0002_m"]) == (done == "migrates")
    scene.migrated(V2)
    assert custom_resource.handler(event, LambdaContext())["Status"] == word(ready)


@pytest.mark.parametrize("row", rows("codedeploy.md"), ids=lambda row: row[0])
def test_the_table_of_the_hooks_page(
    row: list[str],
    scene: Fakes,
    deploy: Deploy,
    post: Office,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODEDEPLOY", post.base)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    told, done, ready, not_ready = row
    creators = [name for name in re.findall(r"`(\w+)`", told) if name != "creator"]
    for post.creator in creators or ["user", "CloudFormation"]:
        fresh = Fakes()
        monkeypatch.setattr(scene, "database", fresh.database)
        monkeypatch.setattr(scene, "table", fresh.table)
        scene.migrated(V1)
        deploy(V2, error=MigrationFailed("no column"))
        answers = [_status(post)]
        deploy(V2)
        _status(post)
        assert (scene.database.effects == ["0001_m", "0002_m"]) == (done == "migrates")
        scene.migrated(V2)
        answers.append(_status(post))
        assert answers == [word(not_ready), word(ready)]


def _status(post: Office) -> str:
    post.answered.clear()
    event = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "1"}
    return codedeploy.handler(event, LambdaContext(60))["status"]


def test_the_pages_have_a_row_for_every_case() -> None:
    assert len(rows("custom-resource.md")) == 5
    assert len(rows("codedeploy.md")) == 2
