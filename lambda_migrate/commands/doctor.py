"""`doctor`: checks everything that a cold start needs, from where it runs, and changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from lambda_migrate.commands.result import EXIT_DONE, EXIT_FAILED, CommandResult
from lambda_migrate.errors import ConfigurationError, MigrateError
from lambda_migrate.guard import is_on_lambda
from lambda_migrate.lease.dynamodb_call import ConditionFailed
from lambda_migrate.migrations.baseline import choose_baseline_command
from lambda_migrate.migrations.revisions import RevisionHistory
from lambda_migrate.postgresql.ports import require_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.migrations.requirements import Requirements
    from lambda_migrate.postgresql.connection_check import ConnectionReport
    from lambda_migrate.postgresql.ports import Database, DatabaseInspection

__all__ = ["Finding", "doctor"]

Status = Literal["ok", "warning", "failed", "skipped"]

_CONNECT_SECONDS = 15.0
_MAX_CLOCK_OFFSET_MS = 5_000
"""AWS refuses a signature that is 5 min off; a clock that is 5 s off is not synchronized."""
_MAX_CONNECTION_USAGE = 0.8


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: ``lease table``.
        status: ``ok``; ``warning``: cold starts work, but read the advice; ``failed``: they do
            not; ``skipped``: not applicable, or something before it failed.
        result: What was found, in one line.
        advice: What to do; "" if there is nothing to do.
        milliseconds: How long a call took; None if there was none.
    """

    check: str
    status: Status
    result: str
    advice: str = ""
    milliseconds: int | None = None


def doctor(context: CommandContext) -> CommandResult:
    """Check settings, files, lease table, network, database and role; fails if a check does."""
    findings = list(_Doctor(context).run())
    has_failed = any(finding.status == "failed" for finding in findings)
    settings = context.settings
    document = {
        "target": settings.target,
        "environment": settings.environment,
        "checks": [asdict(finding) for finding in findings],
    }
    return CommandResult(document, EXIT_FAILED if has_failed else EXIT_DONE)


class _Doctor:
    """Runs the checks in order; those that need a failed one are skipped."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context
        self._settings = context.settings

    def run(self) -> Iterator[Finding]:
        yield self._check_settings()
        yield self._attempt("files", self._check_files)
        yield from self._check_lease_table()
        yield from self._check_database()

    def _attempt(self, check: str, run: Callable[[], Finding], *, network: str = "") -> Finding:
        """Run a check; ``network`` is the advice if a server did not respond."""
        began = self._context.clock.monotonic()
        try:
            return run()
        except MigrateError as error:
            result, advice = _split_advice(str(error))
            if network and not advice:
                advice = _SERVER_ADVICE if _has_server_responded(error) else network
            return Finding(check, "failed", result, advice, milliseconds=self._elapsed_ms(began))

    def _elapsed_ms(self, began: float) -> int:
        return round((self._context.clock.monotonic() - began) * 1000)

    # --- settings and files

    def _check_settings(self) -> Finding:
        settings = self._settings
        try:
            settings.require_configured(table=is_on_lambda(), database=True)
        except ConfigurationError as error:
            return Finding("settings", "failed", *_split_advice("; ".join(error.faults)))
        if settings.mode == "off":
            return Finding(
                "settings",
                "warning",
                "mode off: cold starts serve without a check",
                "remove LAMBDA_MIGRATE_MODE so that cold starts check the schema again",
            )
        environment = settings.environment or "no environment"
        result = f"mode {settings.mode}, target {settings.target}, {environment}"
        if not settings.table:
            advice = "functions on Lambda need one: set LAMBDA_MIGRATE_TABLE"
            return Finding("settings", "warning", f"{result}, no lease table", advice)
        if not settings.environment:
            advice = "set LAMBDA_MIGRATE_ENVIRONMENT, so that no other environment migrates it"
            return Finding("settings", "warning", result, advice)
        return Finding("settings", "ok", result)

    def _check_files(self) -> Finding:
        if self._settings.ready_when is not None:
            return Finding("files", "ok", f"none needed: waits for {self._settings.ready_when}")
        manifest = self._context.manifest
        if self._settings.source != "sql":
            return Finding("files", "ok", f"{self._settings.source}, digest {manifest.digest[:12]}")
        files = [*manifest, *manifest.repeatables]
        if not files:
            result = f"no migrations in {self._settings.directory}"
            return Finding("files", "ok", f"{result}; LAMBDA_MIGRATE_ALLOW_EMPTY=true allows that")
        newest = f", the newest is {manifest.migrations[-1].name}" if manifest else ""
        return Finding("files", "ok", f"{len(files)} in {self._settings.directory}{newest}")

    # --- DynamoDB

    def _check_lease_table(self) -> Iterator[Finding]:
        checks = ("lease table: read", "lease table: write", "clock")
        if not self._settings.table:
            yield from (Finding(check, "skipped", "no lease table is set") for check in checks)
            return
        read = self._attempt(checks[0], self._check_read, network=_DYNAMODB_ADVICE)
        yield read
        if read.status == "failed":
            reason = "the lease table cannot be read"
            yield from (Finding(check, "skipped", reason) for check in checks[1:])
            return
        yield self._attempt(checks[1], self._check_write)
        yield self._check_clock()

    def _check_read(self) -> Finding:
        began = self._context.clock.monotonic()
        state = self._context.store.read(consistent=True)
        held = f"held by {state.owner}" if state.owner else "free"
        return Finding(
            "lease table: read",
            "ok",
            f"{self._settings.table}: the lease is {held}",
            milliseconds=self._elapsed_ms(began),
        )

    def _check_write(self) -> Finding:
        """Send an update whose condition never holds: DynamoDB checks the permission first."""
        from lambda_migrate.lease.dynamodb import DynamoDBItemClient

        check = "lease table: write"
        store = self._context.store
        assert isinstance(store, DynamoDBItemClient)  # noqa: S101 - the store of a configured table
        began = self._context.clock.monotonic()
        try:
            store.update(
                "SET #owner = :never",
                "attribute_exists(#target) AND attribute_not_exists(#target)",
                {":never": {"S": "never"}},
                names={"#owner": "owner", "#target": "target"},
            )
        except ConditionFailed:
            return Finding(check, "ok", "permitted", milliseconds=self._elapsed_ms(began))
        except MigrateError as error:
            if self._settings.mode != "require":
                raise
            result, advice = _split_advice(str(error))
            if isinstance(error, ConfigurationError):
                result = "not permitted"
                advice = "in mode require another function has to record that the schema is ready"
            return Finding(check, "warning", result, advice, milliseconds=self._elapsed_ms(began))
        return Finding(check, "failed", "DynamoDB ignored the condition", "use Amazon DynamoDB")

    def _check_clock(self) -> Finding:
        offset = getattr(self._context.store, "clock_offset_ms", 0)
        seconds = abs(offset) / 1000
        if abs(offset) > _MAX_CLOCK_OFFSET_MS:
            where = "behind" if offset > 0 else "ahead of"
            return Finding(
                "clock",
                "warning",
                f"this clock is {seconds:.0f} s {where} DynamoDB's",
                "synchronize it; AWS refuses requests that are 5 min off",
            )
        return Finding("clock", "ok", f"within {max(1, round(seconds))} s of DynamoDB's")

    # --- PostgreSQL

    def _check_database(self) -> Iterator[Finding]:
        from lambda_migrate.postgresql.connection_check import check_connection
        from lambda_migrate.wiring import make_postgresql_database

        if not (self._settings.database_url or self._settings.database_secret):
            for check in _DATABASE_CHECKS:
                yield Finding(check, "skipped", "no database is set")
            return
        database = make_postgresql_database(self._settings)
        reports: list[ConnectionReport] = []

        def connect() -> Finding:
            began = self._context.clock.monotonic()
            seconds = min(_CONNECT_SECONDS, self._context.deadline.remaining())
            report = check_connection(database, seconds)
            reports.append(report)
            result = f"PostgreSQL {report.server_version} as {report.user}"
            return Finding("connection", "ok", result, milliseconds=self._elapsed_ms(began))

        yield self._attempt("connection", connect, network=_DATABASE_ADVICE)
        if not reports:
            for check in _DATABASE_CHECKS[1:]:
                yield Finding(check, "skipped", "there is no connection")
            return
        yield self._check_tls(reports[0])
        yield _check_pooler(reports[0], is_sql=self._settings.source == "sql")
        yield _check_free_connections(reports[0])
        yield self._check_role(reports[0])
        yield self._attempt("schema", lambda: self._check_schema(database, reports[0]))
        if self._settings.source != "sql":
            yield self._attempt("tool", lambda: self._check_tool(reports[0]))

    def _check_tls(self, report: ConnectionReport) -> Finding:
        address = self._settings.address
        if not report.is_encrypted:
            if address is not None and address.is_local:
                return Finding("TLS", "ok", "not used for a local address")
            advice = "set LAMBDA_MIGRATE_SSLMODE=verify-full and LAMBDA_MIGRATE_SSLROOTCERT"
            return Finding("TLS", "warning", "the connection is in plaintext", advice)
        mode = self._settings.sslmode if address is None else address.effective_sslmode
        if mode in ("", "verify-full"):
            return Finding("TLS", "ok", "the server's certificate and host name are verified")
        return Finding(
            "TLS",
            "warning",
            f"sslmode={mode} does not verify the server's host name",
            "set LAMBDA_MIGRATE_SSLMODE=verify-full and LAMBDA_MIGRATE_SSLROOTCERT",
        )

    def _check_role(self, report: ConnectionReport) -> Finding:
        check, name = "role", self._settings.schema
        acts_as = "" if report.role == report.user else f", acting as {report.role}"
        if self._settings.mode == "require":
            return Finding(check, "ok", f"{report.user}{acts_as}; mode require does not migrate")
        if report.is_replica:
            advice = "name the primary (on Aurora: the cluster's writer endpoint)"
            return Finding(check, "failed", "the server is a read replica", advice)
        if report.is_read_only:
            return Finding(
                check,
                "failed",
                f"transactions of {report.user} are read-only by default",
                f"ALTER ROLE {report.user} SET default_transaction_read_only = off, or use a role "
                "that may write",
            )
        if not report.has_schema and not report.may_create_schema:
            return Finding(
                check,
                "failed",
                f"{report.role} may not create the schema {name}",
                f"GRANT CREATE ON DATABASE ... TO {report.role}, or create the schema for it",
            )
        if report.has_schema and not (report.may_use_schema and report.may_create_in_schema):
            return Finding(
                check,
                "failed",
                f"{report.role} may not use and create tables in the schema {name}",
                f"GRANT USAGE, CREATE ON SCHEMA {name} TO {report.role}, or log in as its owner",
            )
        if report.is_superuser:
            advice = "use a role that owns only this database's objects"
            return Finding(check, "warning", f"{report.role} is a superuser", advice)
        return Finding(check, "ok", f"{report.user}{acts_as} may migrate")

    def _check_schema(self, database: Database, report: ConnectionReport) -> Finding:
        if self._settings.ready_when is not None:
            return self._check_requirements(database, self._settings.ready_when)
        if not report.has_schema:
            return self._check_unprepared_database(database)
        inspection = database.inspect(self._context.deadline)
        if inspection.fence is not None:
            require_environment(inspection.fence.environment, self._settings.environment)
        elif not inspection.history:
            return self._check_unprepared_database(database)
        contradictions, interrupted = self._find_problems(inspection)
        advice = "run `lambda-migrate status`, which shows what to do about each"
        if contradictions:
            result = f"history and files contradict each other: {', '.join(contradictions)}"
            return Finding("schema", "failed", result, advice)
        if interrupted:
            result = f"possibly committed in part: {', '.join(interrupted)}"
            return Finding("schema", "failed", result, advice)
        return Finding("schema", "ok", self._describe_history(inspection))

    def _check_tool(self, report: ConnectionReport) -> Finding:
        """Start the tool, which loads the project and reads its own table; it changes nothing."""
        from importlib.metadata import version

        began = self._context.clock.monotonic()
        tool, database = self._settings.source, self._context.target.database
        history = database.inspect(self._context.deadline).history
        described = database.add_revision_graph(history, self._context.deadline)
        graph = described.revision_graph if isinstance(described, RevisionHistory) else None
        key, address = (graph and graph.server) or (report.server, "")
        if key != report.server:
            where = "DATABASES" if tool == "django" else "env.py"
            return Finding(
                "tool",
                "failed",
                f"{where} connects to {address}, and lambda-migrate to {database.address_text}",
                "set both to the same host and database; `lambda-migrate up` is refused until then",
            )
        pending = self._context.manifest.make_plan(described).pending
        return Finding(
            "tool",
            "ok",
            f"{tool} {version(tool)} loads the project: {len(pending)} pending",
            milliseconds=self._elapsed_ms(began),
        )

    def _check_requirements(self, database: Database, requirements: Requirements) -> Finding:
        inspection = database.inspect_requirements(requirements.entries, self._context.deadline)
        if inspection.unmet:
            result = "; ".join(f"{each.requirement}: {each.reason}" for each in inspection.unmet)
            return Finding("schema", "warning", result, "migrate with that tool; functions wait")
        return Finding("schema", "ok", f"{requirements} applied")

    def _find_problems(self, inspection: DatabaseInspection) -> tuple[list[str], list[str]]:
        """The names of the migrations that contradict the files, and of those in doubt."""
        try:
            manifest = self._context.manifest
        except MigrateError:
            return [], []  # as the check of the files says
        out_of_order = self._settings.allow_out_of_order
        plan = manifest.make_plan(inspection.history, allow_out_of_order=out_of_order)
        return [each.name for each in plan.divergences], [row.name for row in plan.interrupted]

    def _check_unprepared_database(self, database: Database) -> Finding:
        tools = [
            tool for tool in database.read_tool_histories(self._context.deadline) if tool.is_in_use
        ]
        name = self._settings.schema
        is_sql = self._settings.source == "sql"
        if tools and is_sql and not self._settings.ignore_other_history:
            tool = tools[0]
            return Finding(
                "schema",
                "failed",
                f"{tool.tool} has migrated this database ({tool.table})",
                f"run `lambda-migrate {choose_baseline_command(tools)}`, so that what it applied "
                "is not run again; or, if that table is another service's, set "
                "LAMBDA_MIGRATE_IGNORE_OTHER_HISTORY=true",
            )
        return Finding("schema", "ok", f"{name} does not exist yet; the first run creates it")

    def _describe_history(self, inspection: DatabaseInspection) -> str:
        applied = len(inspection.history)
        newest = f", the newest is {inspection.history[-1].name}" if applied else ""
        noun = "migration" if applied == 1 else "migrations"
        return f"{applied} {noun} in {self._settings.schema}{newest}"


_DYNAMODB_ADVICE = (
    "check the region; in a VPC without a NAT gateway DynamoDB needs a gateway endpoint in the "
    "subnets' route tables, and the security group must allow HTTPS to it"
)
_DATABASE_ADVICE = (
    "check host and port, and that the database's security group accepts connections from here"
)
_SERVER_ADVICE = "the server responded: check database, user, password and LAMBDA_MIGRATE_SSLMODE"
_DATABASE_CHECKS = ("connection", "TLS", "pooler", "connections", "role", "schema")


def _check_pooler(report: ConnectionReport, *, is_sql: bool) -> Finding:
    if not report.is_pooled:
        return Finding("pooler", "ok", "none: this is a direct connection")
    return Finding(
        "pooler",
        "warning",
        "a pooler (PgBouncer, RDS Proxy) is in between",
        f"{'migrations with transaction:false' if is_sql else 'concurrent builds'} are refused "
        "here: give lambda-migrate the server's own address",
    )


def _check_free_connections(report: ConnectionReport) -> Finding:
    used = f"{report.connections} of {report.max_connections} are in use"
    if report.connections > _MAX_CONNECTION_USAGE * report.max_connections:
        advice = "lambda-migrate needs one; raise max_connections, or use a pooler for the service"
        return Finding("connections", "warning", used, advice)
    return Finding("connections", "ok", used)


def _has_server_responded(error: MigrateError) -> bool:
    return getattr(error.__cause__, "server_responded", False)


def _split_advice(message: str) -> tuple[str, str]:
    """Split an error's message into what happened and what to do."""
    first, separator, rest = message.partition("; ")
    return (first, rest) if separator else (message, "")
