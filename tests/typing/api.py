"""The public API as a type checker sees it: mypy reads this file, nothing runs it.

`warn_unused_ignores`, which `strict` turns on, makes each ``type: ignore`` below an assertion: what
it stands on must be an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lambda_migrate import (
    Clock,
    Database,
    Deadline,
    Divergence,
    Flags,
    FlagSource,
    HistoryRow,
    Hook,
    LeaseStore,
    Manifest,
    Migration,
    MigrationRunner,
    Observer,
    Outcome,
    Plan,
    Policy,
    Random,
    Script,
    Settings,
    Target,
    Version,
    __version__,
    asgi,
    errors,
    migrate_on_cold_start,
    read_manifest,
    service_unavailable,
    wsgi,
)
from lambda_migrate.testing import (
    FakeClock,
    FixedRandom,
    InMemoryDatabase,
    InMemoryFlags,
    InMemoryLeaseStore,
    RecordingObserver,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type

Event = dict[str, str]


class Context:
    aws_request_id: str = ""


# --- a decorated handler keeps its exact type


@migrate_on_cold_start
def bare(event: Event, context: Context) -> int:
    return len(event)


@migrate_on_cold_start()
def called(event: Event, context: Context) -> int:
    return len(event)


@migrate_on_cold_start(target="orders", wait_seconds=10, on_not_ready=service_unavailable)
def with_settings(event: Event, context: Context, *, dry: bool = False) -> str | None:
    return None


def check_handlers(context: Context) -> None:
    assert_type(bare({}, context), int)
    assert_type(called({}, context), int)
    assert_type(with_settings({}, context, dry=True), str | None)
    typed: Callable[[Event, Context], int] = bare
    assert_type(typed({}, context), int)
    bare("not an event", context)  # type: ignore[arg-type]  # the event is a dict
    bare({})  # type: ignore[call-arg]  # the context is missing
    with_settings({}, context, wet=True)  # type: ignore[call-arg]  # there is no such argument


def check_decorating(runner: MigrationRunner, handler: Callable[[Event, Any], bytes]) -> None:
    assert_type(migrate_on_cold_start(handler), Callable[[Event, Any], bytes])
    assert_type(migrate_on_cold_start(runner=runner)(handler), Callable[[Event, Any], bytes])
    migrate_on_cold_start("orders")  # type: ignore[call-overload]  # a handler, or arguments by name
    migrate_on_cold_start(runner="r")  # type: ignore[call-overload]  # a runner
    migrate_on_cold_start(on_not_ready=lambda: None)  # type: ignore[arg-type,misc]  # takes 3


class Orders:
    @migrate_on_cold_start
    def handle(self, event: Event, context: Context) -> bytes:
        return b""

    @migrate_on_cold_start
    async def handle_later(self, event: Event, context: Context) -> bytes:
        return b""

    @classmethod
    @migrate_on_cold_start
    def handle_class(cls, event: Event, context: Context) -> bytes:
        return b""


async def check_kinds_of_handlers(context: Context) -> None:
    assert_type(Orders().handle({}, context), bytes)
    assert_type(await Orders().handle_later({}, context), bytes)
    assert_type(Orders.handle_class({}, context), bytes)
    Orders().handle(context, {})  # type: ignore[arg-type]  # event and context are swapped


async def serve_asgi(scope: Any, receive: Any, send: Any) -> None: ...


def serve_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def check_middlewares(runner: MigrationRunner) -> None:
    asgi.MigrateMiddleware(serve_asgi, target="orders", health_path="/health")
    wsgi.MigrateMiddleware(serve_wsgi, runner=runner, max_wait_seconds=5)
    asgi.MigrateMiddleware(serve_asgi, tabel="x")  # type: ignore[call-arg]  # no such setting
    wsgi.MigrateMiddleware(serve_wsgi, mode="never")  # type: ignore[arg-type]  # no such mode


def check_answering(context: Context) -> None:
    def later(event: Event, context: Context, error: errors.MigrateError) -> str:
        return str(error)

    migrate_on_cold_start(on_not_ready=later)
    answer = service_unavailable({}, context, errors.NotReady("busy"))
    assert_type(answer, dict[str, Any])


# --- a runner by hand


def check_runner(migration: Migration, settings: Settings) -> None:
    clock = FakeClock()
    manifest = Manifest([migration])
    target = Target(
        "orders",
        InMemoryLeaseStore(clock=clock),
        InMemoryDatabase(clock=clock),
        policy=Policy(mode="require"),
        clock=clock,
        random=FixedRandom(0.5),
        observer=RecordingObserver(),
        flags=InMemoryFlags(),
    )
    runner = MigrationRunner(manifest, target)
    assert_type(runner.ensure(), Outcome)
    assert_type(runner.ensure(Deadline.after(5, clock), request_id="r"), Outcome)
    assert_type(runner.forget_result(), None)
    assert_type(runner.manifest, Manifest)
    assert_type(manifest.digest, str)
    assert_type(list(manifest), list[Migration])
    assert_type(Settings.load({}, target="orders"), Settings)
    assert_type(settings.lease_seconds, float)
    assert_type(Plan().is_current, bool)
    assert_type(Plan().pending, tuple[Migration, ...])
    assert_type(__version__, str)
    assert_type(Outcome("MIGRATED"), Outcome)
    runner.ensure(5)  # type: ignore[arg-type]  # a Deadline, not seconds


def check_types_that_signatures_name(target: Target, manifest: Manifest, plan: Plan) -> None:
    assert_type(target.clock, Clock)
    assert_type(target.random, Random)
    assert_type(target.store, LeaseStore)
    assert_type(target.database, Database)
    assert_type(manifest.hooks, dict[str, Hook])
    assert_type(manifest.version, Version)
    assert_type(plan.applied, tuple[HistoryRow, ...])
    assert_type(plan.divergences, tuple[Divergence, ...])


def check_script(observer: Observer, url: str | None) -> None:
    runner = MigrationRunner.from_settings(database_url=url, wait_seconds=5, observer=observer)
    assert_type(runner, MigrationRunner)
    MigrationRunner.from_settings(databse_url=url)  # type: ignore[call-arg]  # no such setting
    MigrationRunner.from_settings(mode="never")  # type: ignore[arg-type]  # no such mode
    migrate_on_cold_start(databse_url=url)  # type: ignore[call-overload]  # no such setting
    assert_type(read_manifest("migrations"), Manifest)
    assert_type(Migration(1, "0001_a", Script("SELECT 1"), None, "checksum").down, Script | None)


class Paused:
    def read(self, deadline: Deadline) -> Flags:
        return Flags(paused=True)


def check_flags() -> FlagSource:
    return Paused()


def check_errors(error: errors.MigrateError) -> None:
    assert_type(error.retryable, bool)
    if isinstance(error, errors.MigrationFailed):
        assert_type(error.migration, str)
        assert_type(error.retry_at_ms, int | None)
    if isinstance(error, errors.NotReady):
        assert_type(error.retry_after_seconds, float)
    if isinstance(error, errors.ConfigurationError):
        assert_type(error.faults, tuple[str, ...])
