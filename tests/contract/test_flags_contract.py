"""The contract of a source of feature flags: in memory, AppConfig's extension and its API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest

from lambda_migrate.aws.appconfig import API_CACHE_SECONDS, AppConfigFlags
from lambda_migrate.clock import Deadline
from lambda_migrate.engine.flags import HOLD_BACK_AT, MODE, PAUSED, Flags, FlagSource
from lambda_migrate.errors import FlagsUnavailable
from lambda_migrate.testing import FakeClock, InMemoryFlags
from tests.local_appconfig import LocalAppConfig

PROFILE = "orders/staging/lambda-migrate"
CONTEXT = {"target": "orders", "environment": "staging", "function": "orders-api"}


class FlagsUnderTest(Protocol):
    """A source and what sets its flags."""

    @property
    def source(self) -> FlagSource:
        """The source."""

    def set_flags(self, flags: Flags) -> None:
        """Return these flags from now on."""

    def make_unavailable(self) -> None:
        """Fail from now on."""


class InMemoryFlagsUnderTest:
    def __init__(self) -> None:
        self.source = self._flags = InMemoryFlags()

    def set_flags(self, flags: Flags) -> None:
        self._flags.is_down = False
        self._flags.flags = flags

    def make_unavailable(self) -> None:
        self._flags.is_down = True


class AppConfigUnderTest:
    def __init__(self, served: LocalAppConfig, source: AppConfigFlags, clock: FakeClock) -> None:
        self.source = source
        self._served = served
        self._clock = clock

    def set_flags(self, flags: Flags) -> None:
        self._served.behaviour = "answers"
        self._served.document = {
            MODE: {"default": flags.mode, "boolean_type": False},
            HOLD_BACK_AT: {"default": flags.hold_back_at, "boolean_type": False},
            PAUSED: {"default": flags.paused},
        }
        self._clock.advance(API_CACHE_SECONDS)  # what was read before is out of date

    def make_unavailable(self) -> None:
        self._served.behaviour = "fails"
        self._clock.advance(API_CACHE_SECONDS)


@pytest.fixture(params=["memory", "extension", "api"])
def tested(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlagsUnderTest]:
    if request.param == "memory":
        yield InMemoryFlagsUnderTest()
        return
    clock = FakeClock()
    with LocalAppConfig(PROFILE, {PAUSED: {"default": False}}) as served:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "local")
        monkeypatch.setenv(*next(iter(served.api().items())))
        port = str(served.port) if request.param == "extension" else ""
        source = AppConfigFlags(PROFILE, CONTEXT, port=port, clock=clock)
        source._uses_api = not port
        yield AppConfigUnderTest(served, source, clock)


@pytest.fixture
def deadline() -> Deadline:
    return Deadline.after(60)


def test_by_default_the_flags_stop_nothing(tested: FlagsUnderTest, deadline: Deadline) -> None:
    assert tested.source.read(deadline) == Flags()


@pytest.mark.parametrize(
    "flags", [Flags(paused=True), Flags(mode="off"), Flags(mode="require", hold_back_at=20261127)]
)
def test_the_last_document_is_read(
    tested: FlagsUnderTest, deadline: Deadline, flags: Flags
) -> None:
    tested.source.read(deadline)
    tested.set_flags(flags)
    assert tested.source.read(deadline) == flags
    tested.set_flags(Flags())
    assert tested.source.read(deadline) == Flags()


def test_unreadable_flags_are_a_retryable_error(tested: FlagsUnderTest, deadline: Deadline) -> None:
    tested.source.read(deadline)
    tested.make_unavailable()
    with pytest.raises(FlagsUnavailable) as error:
        tested.source.read(deadline)
    assert error.value.retryable
    tested.set_flags(Flags(paused=True))
    assert tested.source.read(deadline) == Flags(paused=True)
