"""Fixtures: projects of other tools, each with its own database."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.integration.sources.alembic_project import AlembicProject

_numbers = itertools.count(1)


@pytest.fixture
def project(shared_postgresql: LocalPostgreSQL, tmp_path: Path) -> AlembicProject:
    """An empty Alembic project, whose database token 1 has taken over."""
    return AlembicProject(shared_postgresql, tmp_path, f"alembic_{next(_numbers)}")
