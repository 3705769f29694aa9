"""Statements of Django: fenced, and logged while a migration runs that commits in parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Any

from django.db import Error

from lambda_migrate.migrations.revisions import LOG_ID_SEPARATOR
from lambda_migrate.migrations.sql.tokens import split_statements
from lambda_migrate.sources.catalog_lookup import find_conflict, resolve_in_doubt
from lambda_migrate.sources.django_child.errors import ACTIVE_TRANSACTION, find_sqlstate
from lambda_migrate.sources.django_child.fence import IDLE, IN_TRANSACTION
from lambda_migrate.sources.django_statements import (
    IN_DOUBT,
    TRANSACTION,
    DjangoRerunKind,
    classify_django_statements,
    hash_statements,
)
from lambda_migrate.sources.protocol import ChildError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.sources.django_child.current_step import CurrentStep
    from lambda_migrate.sources.django_child.fence import Fence
    from lambda_migrate.sources.fence_queries import RevisionRow
    from lambda_migrate.sources.notices import NoticeForwarder
    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["COMMITTED_BY_ITSELF", "StatementWrapper"]

COMMITTED_BY_ITSELF = "it had committed a part of its work (a COMMIT in the migration?)"


@dataclass(frozen=True)
class _SQLCall:
    """What the project sends to PostgreSQL in one call."""

    kind: DjangoRerunKind
    text: str
    entry: str
    execute: Callable[[], Any]

    @property
    def has_several_statements(self) -> bool:
        """Whether it has several statements."""
        return len(list(split_statements(self.text))) > 1

    @property
    def excerpt(self) -> str:
        """The beginning of its text on one line."""
        return " ".join(self.text.split())[:200]


class StatementWrapper:
    """Runs what Django executes on PostgreSQL connections.

    Args:
        request: The request; no connection is fenced for ``describe``.
        fence: The fence.
        notices: Where notices go.
    """

    def __init__(self, request: ChildRequest, fence: Fence, notices: NoticeForwarder) -> None:
        self._request = request
        self._fence = fence
        self._notices = notices

    def install(self, connection: Any, **_: Any) -> None:
        """Receive ``connection_created``, in any thread."""
        if not self._request.fence or connection.vendor != "postgresql":
            return
        self._notices.watch(connection.connection)
        if self._wrap not in connection.execute_wrappers:
            connection.execute_wrappers.insert(0, self._wrap)

    def begin_step_in_transaction(self, connection: Any, row: RevisionRow) -> None:
        """Write the row that is visible only if the migration commits by itself."""
        self._fence.check(connection)
        self._fence.run(
            connection, self._fence.queries.upsert_revision(row._replace(statements=[TRANSACTION]))
        )

    def _wrap(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        if self._fence.failure is not None:
            raise self._fence.failure
        connection = context["connection"]
        raw = connection.connection
        if not self._fence.is_fenced(connection):
            return execute(sql, params, many, context)
        text = sql if isinstance(sql, str) else sql.as_string(raw)
        step = (
            self._fence.step
            if self._fence.step is not None and connection is self._fence.step.connection
            else None
        )
        if step is not None and step.is_recorded:
            step = None
        call = _SQLCall(
            kind=classify_django_statements(text),
            text=text,
            entry=hash_statements(text, params),
            execute=partial(execute, sql, params, many, context),
        )
        is_idle = raw.info.transaction_status == IDLE
        if is_idle and not raw.autocommit:
            self._fence.check(connection)
        if (
            is_idle
            and raw.autocommit
            and call.kind in (DjangoRerunKind.NON_TRANSACTIONAL, DjangoRerunKind.CONTROL)
        ):
            return self._run_outside_transaction(connection, call, step)
        with self._fence.fenced_transaction(connection):
            return self._run_inside(connection, call, step)

    def _run_inside(self, connection: Any, call: _SQLCall, step: CurrentStep | None) -> Any:
        """Run a statement in a transaction that has shared the fence, and log it there."""
        is_logged = call.kind not in (DjangoRerunKind.READ, DjangoRerunKind.SESSION)
        if step is None or not step.commits_in_parts or not is_logged:
            return call.execute()
        if call.kind is DjangoRerunKind.CONTROL:
            return self._run_control(connection, call, step)
        if self._is_done(call, step):
            return None
        result = call.execute()
        self._fence.run(connection, self._fence.queries.append_statement(step.id, call.entry))
        return result

    def _run_control(self, connection: Any, call: _SQLCall, step: CurrentStep) -> Any:
        """Run a COMMIT and the like, which may commit a part of the migration."""
        if self._is_done(call, step):
            return None
        doubt = IN_DOUBT + call.entry
        self._fence.run(connection, self._fence.queries.append_statement(step.id, doubt))
        result = call.execute()
        self._confirm(connection, step, call, doubt)
        return result

    def _run_outside_transaction(
        self, connection: Any, call: _SQLCall, step: CurrentStep | None
    ) -> Any:
        """Run a statement outside a transaction, the fence checked before and after it."""
        doubt = IN_DOUBT + call.entry
        run = partial(self._fence.run, connection)
        version = connection.pg_version
        is_known = call.kind is DjangoRerunKind.NON_TRANSACTIONAL
        with self._fence.fenced_transaction(connection):
            self._fence.require_direct_connection(connection)
        if step is not None:
            if step.earlier_log[step.matched_count :] == [doubt]:
                step.matched_count += 1
                outcome = resolve_in_doubt(call.text, run, version) if is_known else None
                if outcome is None:
                    self.raise_repair_required(step, f"this may have taken effect: {call.excerpt}")
                self._fence.write(
                    connection,
                    self._fence.queries.append_statement(
                        step.id, call.entry if outcome else "", replaces=doubt
                    ),
                )
                if outcome:
                    return None
            elif self._is_done(call, step):
                return None
            if is_known and (conflict := find_conflict(call.text, run, version)):
                self._fence.fail(connection, ChildError(conflict))
        with self._fence.fenced_transaction(connection):
            if step is not None:
                self._fence.run(connection, self._fence.queries.append_statement(step.id, doubt))
        with self._fence.limit_statement(connection):
            try:
                result = call.execute()
            except Error as error:
                # PostgreSQL makes several statements in one message one transaction.
                is_refused = (
                    find_sqlstate(error) == ACTIVE_TRANSACTION and call.has_several_statements
                )
                had_no_effect = is_refused or self._had_no_effect(call, run, version)
                if step is not None and is_known and had_no_effect:
                    self._fence.write(
                        connection,
                        self._fence.queries.append_statement(step.id, "", replaces=doubt),
                    )
                raise
        self._confirm(connection, step, call, doubt)
        return result

    def _had_no_effect(self, call: _SQLCall, run: Callable[[str], Any], version: int) -> bool:
        try:
            return resolve_in_doubt(call.text, run, version) is False
        except Error:
            return False  # the next run looks again

    def _confirm(
        self, connection: Any, step: CurrentStep | None, call: _SQLCall, doubt: str
    ) -> None:
        """Check the fence again, and log the statement as committed."""
        if connection.connection.info.transaction_status == IN_TRANSACTION:
            self._fence.check(connection)  # the statement has begun a transaction
        with self._fence.fenced_transaction(connection):
            if step is not None:
                self._fence.run(
                    connection,
                    self._fence.queries.append_statement(step.id, call.entry, replaces=doubt),
                )

    def _is_done(self, call: _SQLCall, step: CurrentStep) -> bool:
        """Match a statement with the earlier log; whether it is committed."""
        remaining = step.earlier_log[step.matched_count :]
        if not remaining:
            return False
        step.matched_count += 1
        if remaining[0] != call.entry:
            self.raise_repair_required(
                step,
                f"statement {step.matched_count} differs from what it had committed: "
                f"{call.excerpt}",
            )
        if call.kind in (DjangoRerunKind.ROWS, DjangoRerunKind.CONTROL):
            self.raise_repair_required(
                step,
                f"this is committed and can be neither skipped nor repeated: {call.excerpt}",
            )
        return True

    def require_rolled_back(self, step: CurrentStep) -> None:
        """Check that a step which failed in a transaction has not committed a part of it."""
        if self.has_log(step):
            self.raise_repair_required(step, COMMITTED_BY_ITSELF)

    def has_log(self, step: CurrentStep) -> bool:
        """Whether the mirror has a row of the step, as it has while a part of it is committed."""
        step.connection.ensure_connection()  # the migration may have closed it
        with self._fence.fenced_transaction(step.connection):
            return bool(
                self._fence.run(step.connection, self._fence.queries.read_statements(step.id))
            )

    def raise_repair_required(self, step: CurrentStep, why: str) -> None:
        """Stop, because what an interrupted migration has done cannot be determined."""
        done, undone = ("applied", "pending") if step.state == "started" else ("pending", "applied")
        migration, _, schema = step.id.partition(LOG_ID_SEPARATOR)
        fake = f", `manage.py migrate --fake {migration.replace('.', ' ', 1)}`"
        where = f" in schema {schema}" if schema else ""
        repair = f"lambda-migrate repair {quote(step.id)} --as"
        self._fence.fail(
            step.connection,
            ChildError(
                f"it was interrupted, and {why}; check the database: finish the migration by "
                f"hand{where}{fake * (done == 'applied')}, then run `{repair} {done}`; or reverse "
                f"its changes, then run `{repair} {undone}`",
                kind="repair",
            ),
        )
