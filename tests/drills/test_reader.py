"""The reader of runbooks notices a page that does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.drills import page
from tests.drills.play import Play

PAGE = """
# A page

## When

Always.

## What you see

```sh
sam look
```

## Steps

1. First.

    ```sh
    sam one \\
        --more
    # a remark
    sam two  # and another
    ```

2. Then, by hand.

3. Last.

    ```sh
    sam three
    ```

## How to know that it is over

```json
{"message": "done ...", "lambda_migrate": {"outcome": "MIGRATED"}}
```
"""


class Told(Play):
    """One whose log lines are given."""

    said: tuple[Mapping[str, Any], ...] = ()

    def lines(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.said)


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: list[str]) -> Told:
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    return Told("page.md", Mock(name="stage"), tmp_path, stand_ins={"sam": heard.append})


def test_commands_run_in_order_with_manual_steps_in_between(play: Told, heard: list[str]) -> None:
    play.do(by_hand={2: lambda: heard.append("by hand")})
    assert [" ".join(each.split()) for each in heard] == [
        "sam one --more",
        "sam two",
        "by hand",
        "sam three",
    ]


def test_a_block_that_did_not_run_fails_the_drill(play: Told) -> None:
    play.do()
    with pytest.raises(AssertionError, match=r"no drill runs page\.md:10 \(What you see\), page"):
        play.finish()
    play.see()
    play.is_over()
    play.finish()


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
    play: Told, line: dict[str, object], is_over: bool
) -> None:
    play.said = (line,)
    assert play.is_over() is is_over


@pytest.mark.parametrize("command", ["rm -rf /", "psql -c 'SELECT 1'", "lambda-migration up"])
def test_an_unknown_command_fails_the_drill(play: Told, command: str) -> None:
    block = page.Block("page.md", "Steps", "sh", command, 1, 1)
    with pytest.raises(AssertionError, match="who can run it"):
        play._run(block)


def test_a_missing_output_fails_the_drill(play: Told) -> None:
    play._answer = "ready     1 code   version vouched for"
    play._run(page.Block("page.md", "Steps", "text", "ready 1 code version", 1, 1))
    play._run(page.Block("page.md", "Steps", "text", "ready ... for", 1, 1))
    with pytest.raises(AssertionError, match="promises"):
        play._run(page.Block("page.md", "Steps", "text", "ready 2 code versions", 1, 1))


def test_an_unknown_language_fails_the_drill(play: Told) -> None:
    with pytest.raises(AssertionError, match="what is 'bash'"):
        play._run(page.Block("page.md", "Steps", "bash", "lambda-migrate up", 1, 1))
