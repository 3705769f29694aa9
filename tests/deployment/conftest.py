"""Fixtures of the deployment tests: a separate local AWS for each stack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deployment.aws import ACCOUNT, REGION, LocalAWS
from tests.deployment.runtime import Runtime
from tests.deployment.stack import Stack, deploy

SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
MIGRATOR, APPLICATION = f"{SECRET}migrator", f"{SECRET}application"


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """Lambda's Python, as it is without our package."""
    return Runtime.make(tmp_path_factory.mktemp("var"))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """With a database that is there, and two roles in it."""
    with LocalAWS() as aws:
        yield deploy(
            aws,
            DatabaseHost="db.example.com",
            MigratorSecretArn=MIGRATOR,
            ApplicationSecretArn=APPLICATION,
            InterfaceEndpoints="true",
            AlarmEmail="on-call@example.com",
        )


@pytest.fixture(scope="module")
def whole_stack() -> Iterator[Stack]:
    """With a database of its own."""
    with LocalAWS() as aws:
        yield deploy(aws, Environment="production")


@pytest.fixture(scope="module")
def requiring_stack() -> Iterator[Stack]:
    """Whose cold starts only wait."""
    with LocalAWS() as aws:
        yield deploy(
            aws,
            Mode="require",
            DatabaseHost="db.example.com",
            MigratorSecretArn=MIGRATOR,
            ApplicationSecretArn=APPLICATION,
        )
