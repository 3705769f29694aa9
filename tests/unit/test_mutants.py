"""The mutants fit the code as it is; `make mutants` then shows that the tests catch them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.mutants import GROUPS, MUTANTS, ROOT, Mutant, first_failure, mutate

NAMES = [mutant.name for mutant in MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_each_mutant_changes_one_place_of_the_current_code(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    mutated = mutate(source, mutant)
    assert mutated != source
    ast.parse(mutated)


def test_no_two_mutants_are_the_same() -> None:
    assert len(set(NAMES)) == len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)


def test_every_group_is_of_tests_that_exist_and_is_there_for_some_mutant() -> None:
    assert {group for mutant in MUTANTS for group in mutant.groups} == set(GROUPS)
    files = {part for parts in GROUPS.values() for part in parts if part.startswith("tests/")}
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.slow
def test_every_word_that_chooses_tests_of_a_group_is_in_the_name_of_one() -> None:
    """A test that is renamed would else leave its group, and its mutants would survive."""
    files = {part for parts in GROUPS.values() if "-k" in parts for part in _files(parts)}
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", *sorted(files)]
    listed = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tests = [line.lower() for line in listed.splitlines() if "::" in line]
    unused = {
        f"{group}: {word}"
        for group, parts in GROUPS.items()
        for option, expression in pairwise(parts)
        if option == "-k"
        for word in re.findall(r"[\w.]+", re.sub(r"\bnot \w+", "", expression))
        if word not in ("and", "or")
        and not any(word.lower() in test for test in tests if test.startswith(_files(parts)))
    }
    assert unused == set()


def _files(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in parts if part.startswith("tests/"))


@pytest.mark.parametrize("times", [0, 2])
def test_a_pattern_that_does_not_occur_exactly_once_is_refused(times: int) -> None:
    mutant = Mutant("a test", "none.py", "old", "new", ("engine",))
    with pytest.raises(ValueError, match=f"stands {times} times in none.py"):
        mutate("old " * times, mutant)


def test_a_mutant_is_caught_by_a_test_that_fails_and_by_nothing_else() -> None:
    assert first_failure(0, "3 passed") == ""
    assert first_failure(1, "...\nFAILED tests/a.py::test_b[c] - boom\n") == "tests/a.py::test_b[c]"
    with pytest.raises(RuntimeError, match="pytest ended with 5"):
        first_failure(5, "no tests ran")
