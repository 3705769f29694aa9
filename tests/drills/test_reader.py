"""A drill fails if its page is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.drills import page
from tests.drills.drill import Drill

PAGE = """
# A page

## When

Always.

## What you see

```sh
pip look
```

## Steps

1. First.

    ```sh
    pip one \\
        --more
    # a remark
    pip two  # and another
    ```

2. Then fix the file.

3. Last.

    ```sh
    pip three
    ```

## How to know that it is over

```json
{"message": "done ...", "lambda_migrate": {"outcome": "MIGRATED"}}
```
"""


class DrillWithLogLines(Drill):
    """A drill with fixed log lines."""

    logged: tuple[Mapping[str, Any], ...] = ()

    def log_lines(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.logged)


@pytest.fixture
def commands() -> list[str]:
    return []


@pytest.fixture
def drill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> DrillWithLogLines:
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    return DrillWithLogLines(
        "page.md", Mock(name="stage"), tmp_path, replacements={"pip": commands.append}
    )


def test_commands_run_in_order_with_manual_steps_in_between(
    drill: DrillWithLogLines, commands: list[str]
) -> None:
    drill.run_steps(manual_steps={2: lambda: commands.append("by hand")})
    assert [" ".join(each.split()) for each in commands] == [
        "pip one --more",
        "pip two",
        "by hand",
        "pip three",
    ]


def test_a_block_that_did_not_run_fails_the_drill(drill: DrillWithLogLines) -> None:
    drill.run_steps()
    with pytest.raises(AssertionError, match=r"no drill runs page\.md:10 \(What you see\), page"):
        drill.require_all_blocks_ran()
    drill.check_symptoms()
    drill.is_over()
    drill.require_all_blocks_ran()


@pytest.mark.parametrize(
    ("line", "is_over"),
    [
        ({}, False),
        ({"message": "done at last", "lambda_migrate": {"outcome": "MIGRATED", "fence": 7}}, True),
        ({"message": "done at last", "lambda_migrate": {"outcome": "WAITED"}}, False),
        ({"message": "not done", "lambda_migrate": {"outcome": "MIGRATED"}}, False),
    ],
)
def test_a_log_line_must_have_all_fields_of_the_page(
    drill: DrillWithLogLines, line: dict[str, object], is_over: bool
) -> None:
    drill.logged = (line,)
    assert drill.is_over() is is_over


@pytest.mark.parametrize("command", ["rm -rf /", "psql -c 'SELECT 1'", "lambda-migration up"])
def test_an_unknown_command_fails_the_drill(drill: DrillWithLogLines, command: str) -> None:
    block = page.Block("page.md", "Steps", "sh", command, 1, 1)
    with pytest.raises(AssertionError, match="no drill can run it"):
        drill._run(block)


@pytest.mark.parametrize(
    ("script", "is_refused"),
    [
        ("sam build\nsam deploy --config-env production", False),
        ("git checkout PREVIOUS\nsam build\nsam deploy --config-env production", False),
        ("sam deploy --config-env production", True),
        ("sam build\ngit checkout PREVIOUS\nsam deploy --config-env production", True),
    ],
)
def test_a_deployment_without_a_build_of_its_version_fails_the_drill(
    drill: DrillWithLogLines, tmp_path: Path, script: str, *, is_refused: bool
) -> None:
    deployed: list[Path] = []
    drill._previous = tmp_path / "previous"
    drill._deploy = lambda: deployed.append(drill.code)
    block = page.Block("page.md", "Steps", "sh", script, 1, 1)
    with pytest.raises(AssertionError, match="built before") if is_refused else nullcontext():
        drill._run(block)
    expected = drill._previous if "git" in script else tmp_path
    assert deployed == ([] if is_refused else [expected])


def test_a_missing_output_fails_the_drill(drill: DrillWithLogLines) -> None:
    drill._answer = "ready     1 code   version confirmed"
    drill._run(page.Block("page.md", "Steps", "text", "ready 1 code version", 1, 1))
    drill._run(page.Block("page.md", "Steps", "text", "ready ... confirmed", 1, 1))
    with pytest.raises(AssertionError, match="expects"):
        drill._run(page.Block("page.md", "Steps", "text", "ready 2 code versions", 1, 1))


def test_an_unknown_language_fails_the_drill(drill: DrillWithLogLines) -> None:
    with pytest.raises(AssertionError, match="unknown language 'bash'"):
        drill._run(page.Block("page.md", "Steps", "bash", "lambda-migrate up", 1, 1))
