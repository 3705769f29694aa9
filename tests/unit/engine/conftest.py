from __future__ import annotations

import pytest

from tests.unit.engine.fakes import Fakes


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()
