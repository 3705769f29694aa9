"""The values of the fast path's modules behave as the standard library's would."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import pprint
from types import SimpleNamespace
from typing import Any

import pytest

from lambda_migrate import values
from lambda_migrate.events import CheckFinished
from lambda_migrate.postgresql.address import DatabaseAddress


def classes(decorator: Any, field: Any) -> Any:
    """The same two classes, made by one decorator or the other."""

    @decorator(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: int = 2
        labels: list[str] = field(default_factory=list, compare=False)
        secret: str = field(default="s", repr=False)

        @property
        def sum(self) -> int:
            return self.x + self.y

    @decorator(frozen=True, slots=True, kw_only=True)
    class Named:
        name: str
        size: float = 1.0

    Point.__qualname__, Named.__qualname__ = "Point", "Named"
    return SimpleNamespace(Point=Point, Named=Named)


OURS = classes(values.dataclass, values.field)
STANDARD = classes(dataclasses.dataclass, dataclasses.field)
BOTH = pytest.mark.parametrize("of", [OURS, STANDARD], ids=["ours", "standard"])


@BOTH
def test_arguments_go_by_place_and_by_name_and_defaults_fill_the_rest(of: Any) -> None:
    point = of.Point(1, labels=["a"])
    assert (point.x, point.y, point.labels, point.secret, point.sum) == (1, 2, ["a"], "s", 3)
    assert of.Named(name="n").size == 1.0
    assert of.Point.__match_args__ == ("x", "y", "labels", "secret")
    assert of.Named.__match_args__ == ()


@BOTH
def test_each_value_gets_a_default_of_its_own(of: Any) -> None:
    assert of.Point(1).labels is not of.Point(1).labels


@BOTH
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, [], "s", 5), {}), ((1,), {"x": 1}), ((1,), {"z": 1})],
    ids=["too few", "too many", "twice", "unknown"],
)
def test_wrong_arguments_are_type_errors(
    of: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="argument"):
        of.Point(*args, **kwargs)


@BOTH
def test_names_only_means_names_only(of: Any) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        of.Named("n")


@BOTH
def test_equality_and_hash_are_of_what_is_compared_and_of_one_class(of: Any) -> None:
    assert of.Point(1, labels=["a"]) == of.Point(1)
    assert of.Point(1) != of.Point(2)
    assert of.Named(name="a") != "a"
    assert of.Point(1) != STANDARD.Point(1) or of is STANDARD
    assert hash(of.Named(name="a")) == hash(of.Named(name="a"))
    assert len({of.Named(name="a"), of.Named(name="a"), of.Named(name="b")}) == 2


@BOTH
def test_the_text_leaves_out_what_is_not_to_be_shown(of: Any) -> None:
    assert repr(of.Point(1)) == "Point(x=1, y=2, labels=[])"


@BOTH
def test_nothing_can_be_assigned_or_deleted_or_added(of: Any) -> None:
    point = of.Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert not hasattr(point, "__dict__")
    assert point.x == 1


@BOTH
def test_the_standard_librarys_own_functions_take_it(of: Any) -> None:
    point: Any = of.Point(1, labels=["a"])
    assert dataclasses.is_dataclass(type(point))
    assert [(f.name, f.repr, f.compare) for f in dataclasses.fields(point)] == [
        ("x", True, True),
        ("y", True, True),
        ("labels", True, False),
        ("secret", False, True),
    ]
    assert dataclasses.asdict(point) == {"x": 1, "y": 2, "labels": ["a"], "secret": "s"}
    assert dataclasses.replace(point, y=7).sum == 8
    assert pprint.pformat(point) == "Point(x=1, y=2, labels=['a'])"
    assert dataclasses.astuple(of.Named(name="n")) == ("n", 1.0)


@BOTH
def test_a_copy_is_equal(of: Any) -> None:
    point = of.Point(1, labels=["a"])
    deep = copy.deepcopy(point)
    assert (copy.copy(point), deep) == (point, point)
    assert deep.labels == ["a"]
    assert deep.labels is not point.labels


def test_our_values_travel_by_pickle() -> None:
    event = CheckFinished("t", "d", "WAITED", 1.0, 0.5, 3, ("0001_a",), 7, "me")
    assert pickle.loads(pickle.dumps(event)) == event


def test_a_pattern_takes_it_apart() -> None:
    match CheckFinished("t", "d", "WAITED", 1.0, 0.5, 3, (), 7, "me"):
        case CheckFinished(target, _, outcome, fence=fence):
            assert (target, outcome, fence) == ("t", "WAITED", 7)
        case _:
            pytest.fail("did not match")


def test_replace_makes_a_changed_copy() -> None:
    point = OURS.Point(1)
    assert values.replace(point, x=5) == OURS.Point(5)
    assert point.x == 1
    with pytest.raises(TypeError, match="'z'"):
        values.replace(point, z=1)


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"slots": True}])
def test_a_class_that_would_behave_differently_is_refused(options: dict[str, bool]) -> None:
    with pytest.raises(TypeError, match="frozen, slotted"):

        @values.dataclass(**options)
        class Loose:
            x: int


def test_a_class_with_a_base_is_refused() -> None:
    class Base:
        pass

    with pytest.raises(TypeError, match="without bases"):

        @values.dataclass(frozen=True, slots=True)
        class Derived(Base):
            x: int


def test_methods_and_documentation_are_kept() -> None:
    address = DatabaseAddress(database="d", host="Db", password="geheim")
    assert address.fingerprint == "db:5432/d"
    assert "geheim" not in repr(address)
    assert (DatabaseAddress.__doc__ or "").startswith("Where a database is")
    assert DatabaseAddress.__module__ == "lambda_migrate.postgresql.address"
