"""What the pages and `samconfig.toml` state about the template is true."""

from __future__ import annotations

import re
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from lambda_migrate.local.package.build import ARCHITECTURE, PYTHON, ROOT

from .stack import TEMPLATE

PAGE = (ROOT / "docs" / "reference" / "template.md").read_text()
BODY: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
PARAMETERS: dict[str, dict[str, Any]] = BODY["Parameters"]
NONE = {"": "none", None: "-"}


def rows(heading: str) -> list[tuple[str, str]]:
    """First and second cell of each row of a section's table."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.MULTILINE)


def test_every_parameter_is_documented_with_its_default() -> None:
    documented = {name.strip("`"): default for name, default in rows("Parameters")}
    defaults = {name: about.get("Default") for name, about in PARAMETERS.items()}
    assert documented == {
        name: NONE.get(default, f"`{default}`") for name, default in defaults.items()
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_value_that_a_parameter_allows_is_documented(name: str) -> None:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    allowed = PARAMETERS[name].get("AllowedValues", [])
    if allowed and name not in {"PythonRuntime", "LogRetentionDays"}:  # ranges
        assert [value for value in allowed if f"`{value}`" not in row] == []


def test_every_resource_is_documented() -> None:
    made = PAGE.partition("\n## Resources\n")[2].partition("\n## Permissions\n")[0]
    grouped = ("Alarm", "LogGroup", "Endpoint", "AlarmSubscription")
    missing = [
        name
        for name in BODY["Resources"]
        if f"`{name}`" not in made and not name.endswith(grouped) and name != "AlarmSubscription"
    ]
    assert missing == []


def test_every_output_is_documented() -> None:
    section = PAGE.partition("\n## Outputs\n")[2].partition("\n## ")[0]
    assert [name for name in BODY["Outputs"] if f"`{name}`" not in section] == []


def test_a_package_is_built_for_what_the_template_deploys() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert PARAMETERS["PythonRuntime"]["Default"] == f"python{PYTHON}"
    assert PARAMETERS["Architecture"]["Default"] == ARCHITECTURE
    assert f"PYTHON_VERSION ?= {PYTHON}\n" in makefile
    assert f"ARCHITECTURE ?= {ARCHITECTURE}\n" in makefile


def test_every_function_has_its_target_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, resource in BODY["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            assert resource["Metadata"] == {"BuildMethod": "makefile"}
            assert re.search(rf"^build-.*\bbuild-{name}\b.*:|^build-{name}\b.*:", makefile, re.M)


# --- samconfig.toml

CONFIGURATION = (ROOT / "samconfig.toml").read_text()
ENVIRONMENTS = ("dev", "staging", "production")


def given(environment: str) -> dict[str, str]:
    """The parameters that ``sam deploy --config-env`` passes."""
    section = CONFIGURATION.partition(f"[{environment}.deploy.parameters]\n")[2].partition("\n[")[0]
    return dict(re.findall(r'^  "(\w+)=(.*)",$', section, re.MULTILINE))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_sets_only_parameters_of_the_template(environment: str) -> None:
    values = given(environment)
    assert values["Environment"] == environment
    needed = {name for name, about in PARAMETERS.items() if "Default" not in about}
    assert needed <= values.keys() <= PARAMETERS.keys()
    for name, value in values.items():
        allowed = PARAMETERS[name].get("AllowedValues")
        assert allowed is None or value in map(str, allowed), name


def test_environments_in_one_account_have_their_own_alarms() -> None:
    assert len({given(environment)["MetricsNamespace"] for environment in ENVIRONMENTS}) == 3


def test_only_dev_moves_all_traffic_at_once() -> None:
    types = {environment: given(environment)["DeploymentType"] for environment in ENVIRONMENTS}
    assert [name for name, kind in types.items() if kind == "AllAtOnce"] == ["dev"]
