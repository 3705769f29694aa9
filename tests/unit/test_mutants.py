"""The mutants fit the code as it is; `make mutants` then shows that the tests catch them."""

from __future__ import annotations

import ast

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
