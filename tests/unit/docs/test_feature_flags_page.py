"""The documents on the pages about feature flags and the emergency stop have their effect."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import boto3
import pytest
from aws_lambda_powertools.utilities.feature_flags import SchemaValidator

from lambda_migrate.aws.appconfig import (
    API_CACHE_SECONDS,
    EXTENSION_CACHE_SECONDS,
    MAX_READ_SECONDS,
    AppConfigFlags,
)
from lambda_migrate.clock import Deadline
from lambda_migrate.engine.flags import FLAG_NAMES, Flags
from tests.local_appconfig import LocalAppConfig

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "how-to" / "feature-flags.md").read_text(encoding="utf-8")
RUNBOOK = (DOCS / "runbooks" / "emergency-stop.md").read_text(encoding="utf-8")


def documents(page: str) -> list[dict[str, Any]]:
    blocks = re.findall(r"^ *```json\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    return [json.loads(dedent(block)) for block in blocks]


FLAGS, ROLE = documents(PAGE)
STOP, GO_ON = documents(RUNBOOK)


def read_flags(document: object, **context: str) -> Flags:
    """Return the flags that a function reads from ``document``."""
    profile = "orders/production/lambda-migrate"
    with LocalAppConfig(profile, document) as appconfig:
        source = AppConfigFlags(
            profile,
            {"target": "x", "environment": "x", "function": "x", **context},
            port=appconfig.extension()["AWS_APPCONFIG_EXTENSION_HTTP_PORT"],
        )
        return source.read(Deadline.after(30))


def test_the_document_is_valid_for_powertools_and_has_all_flags() -> None:
    SchemaValidator(FLAGS).validate()
    assert set(FLAGS) == set(FLAG_NAMES)


def test_the_document_holds_back_only_the_environments_of_its_rule() -> None:
    assert read_flags(FLAGS, target="orders", environment="production") == Flags(hold_back_at=7)
    assert read_flags(FLAGS, target="orders", environment="staging") == Flags()
    assert read_flags(FLAGS, target="invoices", environment="production") == Flags()


def test_the_stop_document_stops_migrations() -> None:
    assert read_flags(STOP) == Flags(paused=True)
    assert read_flags(GO_ON) == Flags()


def commands() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield boto3's operation and the options of each AWS command in the runbook."""
    scripts = re.findall(r"^ *```sh\n(.*?)```", RUNBOOK, re.DOTALL | re.MULTILINE)
    script = next(each for each in scripts if "aws appconfig" in each)
    for call in re.findall(r"aws appconfig ([^\n)]+)", script.replace("\\\n", " ")):
        operation, *words = shlex.split(call)
        pairs = pairwise(words)
        options = {word.removeprefix("--"): value for word, value in pairs if word[:2] == "--"}
        yield operation.replace("-", "_"), options


def test_the_commands_deploy_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "local")
    known = {
        "$APPLICATION": "app1",
        "$ENVIRONMENT": "env1",
        "$PROFILE": "prof1",
        "fileb://flags.json": json.dumps(STOP),
    }
    with LocalAppConfig("app1/env1/prof1", {}) as appconfig:
        monkeypatch.setenv(*next(iter(appconfig.operator().items())))
        client: Any = boto3.Session().client("appconfig")
        for operation, options in commands():
            parameters = {
                option.title().replace("-", ""): known.get(value, value)
                for option, value in options.items()
                if option not in ("query", "output")
            }
            version = parameters.get("ConfigurationVersion")
            assert version in (None, known.get("$version"))
            response = getattr(client, operation)(**parameters)
            known["$version"] = str(response.get("VersionNumber"))
        assert json.loads(cast(bytes, appconfig.document)) == STOP
        assert appconfig.requests.total() == 0, "deploying is not reading"


def test_the_role_has_only_the_permissions_it_needs() -> None:
    assert ROLE["Action"] == [
        "appconfig:StartConfigurationSession",
        "appconfig:GetLatestConfiguration",
    ]
    assert "*" not in ROLE["Resource"]


def test_the_test_on_the_page_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_create_orders.sql").write_text("-- migrate:up\nSELECT 1;\n")
    monkeypatch.chdir(tmp_path)
    [text] = re.findall(r"^```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(text, "feature-flags.md", "exec"), names)
    names["test_a_pause_stops_migrations"]()


def test_the_times_on_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"A response of the extension is cached for {EXTENSION_CACHE_SECONDS:g} s" in text
    assert f"which charges for each request, is cached for {API_CACHE_SECONDS:g} s" in text
    assert f"Reading ends after {MAX_READ_SECONDS:g} s" in text


def test_every_flag_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(lambda_migrate_\w+)` \|", PAGE, re.MULTILINE)) == set(FLAG_NAMES)
