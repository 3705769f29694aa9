"""Checks that the tests can fail: removes one safeguard at a time and runs the tests for it.

::

    python -m tests.mutants                  all of them, against the tests chosen for each
    python -m tests.mutants fence watch      those whose name contains one of these words
    python -m tests.mutants --list           their names

Each mutant is one exact replacement in a copy of the project. A pattern that does not match exactly
once ends the run: the code has moved and the mutant must move with it (tests/unit/test_mutants.py
fails within a second). The chosen tests run on the unchanged copy first. Exit code 1: a mutant
survived, so a test is missing; 2: the tests fail without any mutant.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lambda_migrate.local.servers.postgresql import engines_directory

ROOT = Path(__file__).parents[1]
COPIED = ("lambda_migrate", "tests", "docs", "examples", "load")
TIMEOUT_SECONDS = 180
"""A mutant with which a group of tests takes longer than this counts as caught: see `_Result`."""

_NEWEST = ("-k", "not pg14 and not pg15 and not pg16 and not pg17")
_POSTGRESQL = "tests/integration/postgresql"

GROUPS: dict[str, tuple[str, ...]] = {
    "pytest plugin": (
        "tests/integration/testing/test_pytest_plugin.py",
        "-k",
        "checks_name or row_that_the_user",
    ),
    "alembic": (
        "tests/integration/sources/test_alembic_transactions.py",
        *("-k", "stale or however or set_local or without_rights or commit_settings"),
    ),
    "alembic, env.py": (
        "tests/integration/sources/test_alembic_environments.py",
        "-k",
        "may_choose or without_revisions or may_retry or env_py_catches or lost_conn"
        " or be_chosen or names_of or command_line",
    ),
    "alembic, partial": (
        "tests/integration/sources/test_alembic_partial_commits.py",
        *("-k", "killed_at or silently"),
    ),
    "alembic, files": ("tests/unit/sources/test_alembic_files.py",),
    "django": ("tests/integration/sources/test_django.py",),
    "django, service": (
        "tests/integration/sources/test_django_service.py",
        *("-k", "follows or squash or schemas"),
    ),
    "sources, wrong projects": (
        "tests/integration/sources/test_wrong_projects.py",
        "-k",
        "twice or nothing or differ",
    ),
    "sources, pooler": (
        "tests/integration/sources/test_poolers.py",
        "-k",
        "nothing_of_what_needs or not_outside and psycopg2",
    ),
    "engine": ("tests/unit/engine",),
    "lease": tuple(
        f"tests/unit/lease/test_{n}.py"
        for n in ("decision", "heartbeat", "readiness", "dynamodb", "waiter", "first_read")
    ),
    "contract, sources": (
        "tests/contract/test_sources.py",
        "-k",
        "alembic and (lease or child_killed or waited_for) or in_no_code"
        " or after_the_last_step or takes_all",
    ),
    "revisions": ("tests/unit/migrations/test_revisions.py",),
    "contract, lease": ("tests/contract/test_lease_contract.py",),
    "contract, database": ("tests/contract/test_database_contract.py",),
    "protocol, fakes": ("tests/contract/test_protocol_machine.py", "-k", "fakes"),
    "protocol, real": ("tests/contract/test_protocol_machine.py", "-k", "postgresql"),
    "fence": (f"{_POSTGRESQL}/test_fence.py", *_NEWEST),
    "layouts": ("tests/contract/test_layouts.py", "-k", "missing or empty"),
    "database identity": ("tests/contract/test_postgresql_only.py", *_NEWEST),
    "transactional": (
        f"{_POSTGRESQL}/test_transactional.py",
        f"{_POSTGRESQL}/test_scripts.py",
        *_NEWEST,
    ),
    "several statements": (
        f"{_POSTGRESQL}/test_several_statements.py",
        *("-m", "not slow"),
        *_NEWEST,
    ),
    "non-transactional": (f"{_POSTGRESQL}/test_non_transactional.py", *_NEWEST),
    "non-transactional, killed": (f"{_POSTGRESQL}/test_non_transactional_killed.py",),
    "manifest": ("tests/unit/migrations",),
    "takeovers": (
        *(f"{_POSTGRESQL}/test_{n}.py" for n in ("fence", "bootstrap", "takeover_errors")),
        *_NEWEST,
    ),
    "poolers": (f"{_POSTGRESQL}/test_poolers.py",),
    "alarms": (
        "tests/unit/entrypoints/test_telemetry.py",
        "tests/unit/local/test_cloudwatch.py",
        "tests/unit/local/test_template_alarms.py",
    ),
    "dry runs": (
        *(f"{_POSTGRESQL}/test_dry_run_{n}.py" for n in ("never_commits", "sessions", "whole")),
        *_NEWEST,
    ),
    "appconfig": ("tests/unit/entrypoints/test_appconfig.py",),
    "clock": ("tests/unit/test_clock.py",),
    "credentials": ("tests/unit/postgresql/test_credentials.py",),
    "settings": ("tests/unit/test_settings.py", "tests/unit/test_database_address.py"),
    "logins": ("tests/integration/connection/test_login.py",),
    "decorator": ("tests/unit/entrypoints/test_decorator.py",),
    "handler kinds": ("tests/unit/entrypoints/test_handler_kinds.py",),
    "middleware": ("tests/unit/entrypoints/test_middleware.py",),
    "managed instances": ("tests/integration/flow/test_managed_instances.py",),
    "baseline": ("tests/unit/migrations/test_baseline.py",),
    "repeatables": ("tests/contract/test_repeatables.py",),
    "hooks of migrations": (f"{_POSTGRESQL}/test_hooks.py", *_NEWEST),
    "ready when": (
        "tests/unit/engine/test_requirement_inspection.py",
        "tests/unit/migrations/test_requirements.py",
    ),
    "placeholders": ("tests/unit/migrations/test_placeholders.py",),
    "placeholders, real": (f"{_POSTGRESQL}/test_placeholders.py",),
    "other tools": (f"{_POSTGRESQL}/test_other_tools.py", *_NEWEST),
    "adopt": ("tests/unit/adopt",),
    "adopt, real": (
        "tests/integration/adopt/test_adoption.py",
        *("-k", "Flyway or knex or dbmate"),
    ),
    "wiring": ("tests/unit/entrypoints/test_wiring.py",),
    "hooks": ("tests/unit/deploy", "-k", "deliver or resource or codedeploy"),
    "admin": ("tests/unit/deploy/test_admin.py", "tests/unit/cli/test_cli_function.py"),
    "commands": ("tests/unit/cli/test_cli_commands.py",),
    "output": ("tests/unit/cli/test_output.py",),
    "request log": (
        "tests/unit/deploy/test_request_log.py",
        "tests/contract/test_request_log_contract.py",
    ),
}
"""Arguments of pytest by group, cheap groups first."""


@dataclass(frozen=True)
class Mutant:
    """One removed safeguard.

    Attributes:
        name: What is missing.
        file: Path in the checkout.
        old: Text that occurs there exactly once.
        new: Its replacement.
        groups: Those of `GROUPS` that should fail.
    """

    name: str
    file: str
    old: str
    new: str
    groups: tuple[str, ...]


MUTANTS = (
    # --- Django
    Mutant(
        "Django records a migration with deferred SQL after its transaction",
        "lambda_migrate/sources/django_child/steps.py",
        "            state = type(migration).apply(migration, state, schema_editor, collect_sql)\n"
        "            _run_deferred_sql(schema_editor)",
        "            state = type(migration).apply(migration, state, schema_editor, collect_sql)",
        ("django",),
    ),
    Mutant(
        "a statement of Django outside a transaction is not fenced",
        "lambda_migrate/sources/django_child/fence.py",
        '        self.run(connection, "BEGIN")\n        try:\n            self.check(connection)',
        '        self.run(connection, "BEGIN")\n        try:',
        ("django",),
    ),
    Mutant(
        "a Django project that catches the errors of the fence goes on",
        "lambda_migrate/sources/django_child/fence.py",
        "        self.failure = error\n",
        "",
        ("django",),
    ),
    Mutant(
        "a concurrent build that was interrupted in Django is not looked up",
        "lambda_migrate/sources/django_child/statements.py",
        "outcome = resolve_in_doubt(call.text, run, version) if is_known else None",
        "outcome = False",
        ("django",),
    ),
    Mutant(
        "rows that an interrupted Django migration has committed are written again",
        "lambda_migrate/sources/django_child/statements.py",
        "call.kind in (DjangoRerunKind.ROWS, DjangoRerunKind.CONTROL):\n            self.rai",
        "call.kind is DjangoRerunKind.CONTROL:\n            self.rai",
        ("django",),
    ),
    Mutant(
        "a Django migration that commits by itself leaves no trace",
        "lambda_migrate/sources/django_child/statements.py",
        "connection, self._fence.queries.upsert_revision(row._replace(statements=[TRANSACTION]))",
        "connection, 'SELECT 1'",
        ("django",),
    ),
    Mutant(
        "an outdated manifest of Django's apps is accepted",
        "lambda_migrate/sources/django_files.py",
        "    if faults:\n",
        "    if len(faults) > 99:\n",
        ("django",),
    ),
    Mutant(
        "`up --to` rolls Django's migrations back",
        "lambda_migrate/sources/django_child/plan.py",
        "        if any(is_backwards != is_down for _, is_backwards in plan):\n",
        "        if False:\n",
        ("django",),
    ),
    Mutant(
        "a Django project is ready before post_migrate has run",
        "lambda_migrate/sources/session.py",
        "        if self._child is not None:\n            self.read_history()\n",
        "",
        ("django, service",),
    ),
    Mutant(
        "what a squash replaces counts as ahead",
        "lambda_migrate/postgresql/mirror_queries.py",
        "        if history.lists_every_revision:",
        "        if False:",
        ("django, service",),
    ),
    Mutant(
        "Django migrations that are in no folder are accepted",
        "lambda_migrate/sources/django_child/run.py",
        "            require_folders(executor.loader.migrated_apps, modules)\n",
        "",
        ("django",),
    ),
    Mutant(
        "a Django migration that closes its connection does not run as written",
        "lambda_migrate/sources/django_child/errors.py",
        "    if connection.closed_in_transaction:\n        return True\n",
        "",
        ("django",),
    ),
    Mutant(
        "a connection that is lost at Django's history table is a failure of a migration",
        "lambda_migrate/sources/django_child/errors.py",
        "        error = error.__context__  # Django drops",
        "        pass  # Django drops",
        ("django",),
    ),
    Mutant(
        "a Django migration applies another one inside it",
        "lambda_migrate/sources/django_child/steps.py",
        "        if self._fence.step is not None:\n            self._fence.fail(",
        "        if False:\n            self._fence.fail(",
        ("django",),
    ),
    Mutant(
        "a migration of a backend without transactions counts as one transaction",
        "lambda_migrate/sources/django_child/steps.py",
        "            if not self._connection.in_atomic_block:\n"
        "                raise _NoTransactionError\n",
        "",
        ("django",),
    ),
    Mutant(
        "a squash is rolled back before what depends on it",
        "lambda_migrate/sources/django_child/plan.py",
        "                if not any(child.key in remaining for child in "
        "self._graph.node_map[key].children)\n",
        "",
        ("django",),
    ),
    Mutant(
        "a migration that a tenant's schema has is still in doubt",
        "lambda_migrate/sources/django_child/steps.py",
        "            if step is not None and LOG_ID_SEPARATOR in step.id:\n",
        "            if False:\n",
        ("django, service",),
    ),
    # --- Alembic
    Mutant(
        "what follows from a lost connection is a failure of Alembic's revision",
        "lambda_migrate/sources/alembic_child/errors.py",
        "    error = _find_lost_connection(error) or error\n",
        "",
        ("alembic, env.py",),
    ),
    Mutant(
        "an env.py that catches the error of a revision succeeds",
        "lambda_migrate/sources/alembic_child/run.py",
        "        swallowed = self._fence.error or self._failure\n",
        "        swallowed = self._fence.error\n",
        ("alembic, env.py",),
    ),
    Mutant(
        "a dry run drops what env.py commits, instead of refusing it",
        "lambda_migrate/sources/alembic_child/fence.py",
        "            session.has_changes = True\n",
        "            pass\n",
        ("alembic",),
    ),
    Mutant(
        "a project's folder alembic hides Alembic on Lambda",
        "lambda_migrate/sources/child.py",
        "    sys.path = [each for each in path if os.path.realpath(each) != root]\n",
        "    sys.path = [*path]\n",
        ("alembic, env.py",),
    ),
    Mutant(
        "a module of the project hides one that the child imports",
        "lambda_migrate/sources/process.py",
        "sys.path = [each for each in sys.path if each]; ",
        "",
        ("alembic, env.py",),
    ),
    Mutant(
        "env.py reads another revision than the command's",
        "lambda_migrate/sources/alembic_child/project.py",
        "        options.revision = self.destination\n",
        "",
        ("alembic, env.py",),
    ),
    Mutant(
        "a version table that does not exist yet is in no schema",
        "lambda_migrate/sources/alembic_child/run.py",
        """    " pg_catalog.current_schema())"\n""",
        """    " NULL)"\n""",
        ("alembic, env.py",),
    ),
    Mutant(
        "migrations run for every version table of env.py",
        "lambda_migrate/sources/alembic_child/run.py",
        "            if self._is_chosen(environment.get_context()):\n",
        "            if self._is_chosen(environment.get_context()) or True:\n",
        ("alembic, env.py",),
    ),
    Mutant(
        "env.py tries again what is partly committed",
        "lambda_migrate/sources/alembic_child/run.py",
        "        if is_partly_committed or ",
        "        if ",
        ("alembic, env.py",),
    ),
    Mutant(
        "the revisions are read before env.py has chosen their folders",
        "lambda_migrate/sources/alembic_child/project.py",
        "        self.script = ScriptDirectory.from_config(self.config)\n",
        "        self.script = ScriptDirectory.from_config(self.config)\n"
        "        self.script._version_locations\n",
        ("alembic, env.py",),
    ),
    Mutant(
        "an Alembic environment without revisions is up to date",
        "lambda_migrate/sources/alembic_child/project.py",
        '        if not scripts and not self._request.options.get("allow_empty"):\n',
        "        if False:\n",
        ("alembic, env.py",),
    ),
    Mutant(
        "a log is written as the role that a revision sets",
        "lambda_migrate/sources/alembic_child/statements.py",
        "        if is_atomic and _SET_ROLE.match(sql):\n",
        "        if False:\n",
        ("alembic",),
    ),
    Mutant(
        "SET LOCAL of env.py is repeated on another connection",
        "lambda_migrate/sources/alembic_child/fence.py",
        "            if session is get_session(connection):\n",
        "            if True:\n",
        ("alembic",),
    ),
    Mutant(
        "a step that a child tries again is a failure",
        "lambda_migrate/sources/session.py",
        '            elif kind == "start" and event["id"] == self._running_step:\n',
        "            elif False:\n",
        ("contract, sources",),
    ),
    Mutant(
        "a transaction of Alembic is not fenced",
        "lambda_migrate/sources/alembic_child/fence.py",
        "            self._compare(self._query(connection, self.queries.lock_fence_for_share()))\n",
        "            self._query(connection, self.queries.lock_fence_for_share())\n",
        ("alembic",),
    ),
    Mutant(
        "a revision is not committed if env.py has begun",
        "lambda_migrate/sources/alembic_child/run.py",
        "        if self._fence.is_fenced and read_status(connection) == OPEN:\n",
        "        if not self._fence.is_fenced:\n",
        ("alembic",),
    ),
    Mutant(
        "an env.py that catches a stale fence succeeds",
        "lambda_migrate/sources/alembic_child/run.py",
        "        swallowed = self._fence.error or self._failure\n",
        "        swallowed = self._failure\n",
        ("alembic",),
    ),
    Mutant(
        "SET LOCAL of env.py ends with the first revision",
        "lambda_migrate/sources/alembic_child/fence.py",
        "            self._restore_settings(connection)\n",
        "            pass\n",
        ("alembic",),
    ),
    Mutant(
        "a commit of the driver inside a revision leaves no trace",
        "lambda_migrate/sources/alembic_child/statements.py",
        "            self._mark_log(connection, session)\n            log.pending",
        "            log.pending",
        ("alembic, partial",),
    ),
    Mutant(
        "a concurrent build of a revision is not in doubt while it runs",
        "lambda_migrate/sources/alembic_child/statements.py",
        "            self._write_log(connection, session, IN_DOUBT + entry)\n",
        "            self._write_log(connection, session)\n",
        ("alembic, partial",),
    ),
    Mutant(
        "line ends change the digest of an Alembic environment",
        "lambda_migrate/sources/alembic_files.py",
        '        content = content.replace(b"\\r\\n", b"\\n")\n',
        "        pass\n",
        ("alembic, files",),
    ),
    # --- Alembic and Django behind a pooler
    Mutant(
        "a session lock stays in a pooler's backend",
        "lambda_migrate/sources/fence_queries.py",
        'CASE WHEN {is_direct}"\n',
        'CASE WHEN true"\n',
        ("sources, pooler",),
    ),
    Mutant(
        "a revision commits a part before a pooler is noticed",
        "lambda_migrate/sources/alembic_child/run.py",
        "        context.autocommit_block = begin_direct_block  # type: ignore[method-assign]\n",
        "",
        ("sources, pooler",),
    ),
    Mutant(
        "a Django migration commits a part before a pooler is noticed",
        "lambda_migrate/sources/django_child/steps.py",
        "            self._fence.require_direct_connection(self._connection)  # before a part",
        "            pass  # before a part",
        ("sources, pooler",),
    ),
    Mutant(
        "one of two revisions with the same id is left out without a word",
        "lambda_migrate/sources/alembic_child/project.py",
        'for fault in ("is present more than once", "is not present"):',
        'for fault in ("is not present",):',
        ("sources, wrong projects",),
    ),
    Mutant(
        "a Django project whose migrations were not packaged is current",
        "lambda_migrate/sources/django_child/plan.py",
        'if not self._graph.nodes and not request.options.get("allow_empty"):',
        "if False:",
        ("sources, wrong projects",),
    ),
    # --- waiting for another tool
    Mutant(
        "a requirement that is not applied yet fails every start",
        "lambda_migrate/lease/decision.py",
        "return Wait(state) if failure.is_unmet_requirement else Refuse(failure)",
        "return Refuse(failure)",
        ("ready when",),
    ),
    Mutant(
        "every start that waits for another tool connects",
        "lambda_migrate/engine/requirement_inspection.py",
        "        self._lease_session.store_failure(failure)\n        state",
        "        self._lease_session.release()\n        state",
        ("ready when",),
    ),
    Mutant(
        "what another tool had applied counts for a database that took over its address",
        "lambda_migrate/engine/requirement_inspection.py",
        'identity = f"{inspection.system_id} {self._address}"',
        'identity = f"{self._address}"',
        ("ready when",),
    ),
    Mutant(
        "a failed or rolled back row of another tool counts as applied",
        "lambda_migrate/migrations/requirement_check.py",
        "if state == APPLIED:",
        "if state:",
        ("ready when",),
    ),
    Mutant(
        "a function that waits for another tool migrates if its mode says so",
        "lambda_migrate/engine/decider.py",
        'if self._target.policy.mode == "require" or self.requirements is not None:',
        'if self._target.policy.mode == "require":',
        ("ready when",),
    ),
    # --- the checks of the pytest plugin
    Mutant(
        "the check of a rollback does not compare the schema",
        "lambda_migrate/testing/migration_checks.py",
        "_compare_schemas(before, steps.read_schema())",
        "_compare_schemas(before, before)",
        ("pytest plugin",),
    ),
    Mutant(
        "the check of data does not compare the rows after a rollback",
        "lambda_migrate/testing/migration_checks.py",
        "_compare_rows(before, rolled_back)",
        "_compare_rows(before, before)",
        ("pytest plugin",),
    ),
    # --- the fence in PostgreSQL (I1, I2)
    Mutant(
        "the fence is not compared in a migration's transaction",
        "lambda_migrate/postgresql/queries.py",
        "THEN '0'\"\n            f\" ELSE",
        "THEN '0'\"\n            f\" WHEN true THEN '0' ELSE",
        ("contract, database", "fence", "protocol, real"),
    ),
    Mutant(
        "the fence is not compared in a write of our own",
        "lambda_migrate/postgresql/fence.py",
        "        if (token, owner) != (self.grant.fence, self.grant.owner):\n            self.run",
        "        if False:\n            self.run",
        ("contract, database", "fence", "protocol, real"),
    ),
    Mutant(
        "the fence is not compared by the fake",
        "lambda_migrate/testing/database.py",
        "if self._is_aborted or not self._database._is_held_by(self.grant):",
        "if self._is_aborted:",
        ("contract, database", "protocol, fakes"),
    ),
    Mutant(
        "a migration's transaction reads the fence row without a lock",
        "lambda_migrate/postgresql/queries.py",
        "FROM {self._fence} FOR UPDATE), '{_CURRENT_FENCE_PREFIX}'",
        "FROM {self._fence}), '{_CURRENT_FENCE_PREFIX}'",
        ("contract, database", "fence"),
    ),
    Mutant(
        "a write of our own reads the fence row without a lock",
        "lambda_migrate/postgresql/queries.py",
        "            FROM {self._fence} FOR UPDATE;",
        "            FROM {self._fence};",
        ("contract, database", "fence"),
    ),
    Mutant(
        "a takeover does not end the backend that has the fence row locked",
        "lambda_migrate/postgresql/fence.py",
        "self._terminate(self.queries.terminate_transaction(pid, transaction), deadline)",
        "pass",
        ("fence", "poolers"),
    ),
    Mutant(
        "a takeover does not end connections that share the fence row with others",
        "lambda_migrate/postgresql/queries.py",
        "WHERE l.is_alone\n                OR (l.mode",
        "WHERE l.is_alone\n                AND (l.mode",
        ("fence",),
    ),
    Mutant(
        "a takeover ends a backend that no longer locks the fence row",
        "lambda_migrate/postgresql/queries.py",
        "AND transactionid = {quote_literal(transaction)}::xid",
        "OR pid = {quote_literal(pid)}",
        ("takeovers",),
    ),
    Mutant(
        "a takeover ends the backend that has the fence row locked without waiting for it",
        "lambda_migrate/postgresql/fence.py",
        "if self._set_token(fence_row, deadline, terminate_holders=terminate_holders):\n"
        "                return\n",
        "if not lock_holders and self._set_token(\n"
        "                fence_row, deadline, terminate_holders=terminate_holders\n"
        "            ):\n"
        "                return\n",
        ("takeovers",),
    ),
    Mutant(
        "a takeover does not end a session between its intent and its statement",
        "lambda_migrate/postgresql/fence.py",
        "            if rows[1:]:\n                self._terminate_sessions(deadline)\n",
        "",
        ("fence", "poolers"),
    ),
    Mutant(
        "the advisory lock is released with what a script left in the session",
        "lambda_migrate/postgresql/queries.py",
        '{RESET_SESSION}{self.keep_advisory_lock()}"',
        '{RESET_SESSION}"',
        ("poolers",),
    ),
    Mutant(
        "the advisory lock is free for an instant at each commit",
        "lambda_migrate/postgresql/queries.py",
        'f"SELECT WHERE {transaction_lock} IS NULL; {RESET_SESSION}',
        'f"{RESET_SESSION}',
        ("fence",),
    ),
    Mutant(
        "a session that may act as the tables' owner only by SET ROLE is overlooked",
        "lambda_migrate/postgresql/queries.py",
        "pg_has_role(a.usesysid, r.oid, 'MEMBER')",
        "pg_has_role(a.usesysid, r.oid, 'USAGE')",
        ("fence",),
    ),
    Mutant(
        "a holder that may end no session ends some after its connection broke",
        "lambda_migrate/postgresql/fence.py",
        "self.connect_and_take_fence(deadline, terminate_holders=self._terminate_holders)",
        "self.connect_and_take_fence(deadline)",
        ("fence",),
    ),
    Mutant(
        "missing tables are created beside one of another layout",
        "lambda_migrate/postgresql/fence.py",
        "        self._read_fence(probe, deadline)\n        self._create_tables(",
        "        self._create_tables(",
        ("layouts",),
    ),
    Mutant(
        "the layout of an empty fence table is not checked",
        "lambda_migrate/postgresql/fence.py",
        "        _require_layout(probe.layout)\n",
        "        pass\n",
        ("layouts",),
    ),
    Mutant(
        "the advisory lock of any login blocks a migration",
        "lambda_migrate/postgresql/queries.py",
        "f\" AND has_table_privilege(r.oid, {fence}, 'UPDATE')))\"",
        'f" AND {fence} IS NOT NULL))"',
        ("takeovers",),
    ),
    Mutant(
        "a backend is ended as the role that is set",
        "lambda_migrate/postgresql/queries.py",
        "SET LOCAL ROLE NONE; {SAFE_SEARCH_PATH}\n            SELECT pg_terminate_backend(pid)",
        "{SAFE_SEARCH_PATH}\n            SELECT pg_terminate_backend(pid)",
        ("takeovers",),
    ),
    # --- poolers
    Mutant(
        "a pooler is not detected",
        "lambda_migrate/postgresql/holder_connection.py",
        "self.is_direct_connection = pid == self._connection.pid",
        "self.is_direct_connection = True",
        ("poolers",),
    ),
    Mutant(
        "a pooler that shows the backend's process id is not detected",
        "lambda_migrate/postgresql/fence.py",
        "if pid != self.raw_connection.pid:",
        "if False:",
        ("poolers",),
    ),
    Mutant(
        "a statement outside a transaction does not compare the fence",
        "lambda_migrate/postgresql/fence.py",
        "        if (token, owner) != (self.grant.fence, self.grant.owner):\n"
        "            raise self.make_lease_lost_error(token)\n        if not is_locked:",
        "        if not is_locked:",
        ("takeovers",),
    ),
    Mutant(
        "a statement outside a transaction leaves its settings",
        "lambda_migrate/postgresql/fence.py",
        "            self._reset_or_close(deadline)\n",
        "            pass\n",
        ("poolers",),
    ),
    Mutant(
        "what a failed script left is reset in a separate message",
        "lambda_migrate/postgresql/holder_connection.py",
        'self.run(f"ROLLBACK; {reset}", deadline)',
        'self.run("ROLLBACK", deadline)',
        ("transactional", "poolers"),
    ),
    Mutant(
        "a pooler that is full for a moment counts as configured wrongly",
        "lambda_migrate/postgresql/connection.py",
        "return bool(denied) and not cached",
        "return True",
        ("poolers",),
    ),
    # --- what PostgreSQL refuses while we take over
    Mutant(
        "a temporary refusal is not retried",
        "lambda_migrate/postgresql/holder_connection.py",
        "if not refusal.retryable or deadline.is_over:",
        "if True:",
        ("takeovers",),
    ),
    Mutant(
        "our tables are created with the role's own search path",
        "lambda_migrate/postgresql/queries.py",
        "            SET LOCAL search_path TO DEFAULT;\n",
        "            {SAFE_SEARCH_PATH}\n",
        ("takeovers",),
    ),
    Mutant(
        "a server in recovery is not distinguished from one that is read-only by default",
        "lambda_migrate/postgresql/holder_connection.py",
        "        if is_recovering:\n",
        "        if False:\n",
        ("takeovers",),
    ),
    Mutant(
        "the connection to a writer that became a reader is kept",
        "lambda_migrate/postgresql/holder_connection.py",
        "        if error.sqlstate == READ_ONLY_TRANSACTION:\n",
        "        if False:\n",
        ("takeovers",),
    ),
    # --- commits that vanish
    Mutant(
        "a holder that has closed is found until its backend ends",
        "lambda_migrate/postgresql/session.py",
        "self._connection.release_advisory_lock(self._deadline)",
        "pass",
        ("fence",),
    ),
    Mutant(
        "a holder does not compare the history with what it has seen",
        "lambda_migrate/postgresql/session.py",
        "if current.get(version) != _identifying_fields(row):",
        "if False:",
        ("takeovers",),
    ),
    Mutant(
        "a holder does not read the history after its connection broke",
        "lambda_migrate/postgresql/fence.py",
        "                self.on_reconnected(deadline)\n",
        "                pass\n",
        ("takeovers",),
    ),
    Mutant(
        "a commit is as durable as the database's default",
        "lambda_migrate/postgresql/sql_fragments.py",
        "pg_catalog.set_config('synchronous_commit', 'on', true) IS NULL",
        "true IS NULL",
        ("takeovers",),
    ),
    # --- defaults of the database
    Mutant(
        "a message that reads has the database's limits",
        "lambda_migrate/postgresql/sql_fragments.py",
        'return f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE; ',
        'return "" and f"',
        ("takeovers",),
    ),
    Mutant(
        "the timer of the database's transaction_timeout continues",
        "lambda_migrate/postgresql/sql_fragments.py",
        '[*settings, ("transaction_timeout", 0), total]',
        "[*settings, total]",
        ("takeovers",),
    ),
    Mutant(
        "a database that is read-only by default is written to",
        "lambda_migrate/postgresql/holder_connection.py",
        "        if is_read_only:\n",
        "        if False:\n",
        ("takeovers",),
    ),
    Mutant(
        "a takeover accepts a lower token",
        "lambda_migrate/postgresql/queries.py",
        'return f"(token < {fence} OR',
        'return f"(token <> {fence} OR',
        ("fence", "protocol, real"),
    ),
    # --- a migration and its history row (I1)
    Mutant(
        "the history row is written in another transaction",
        "lambda_migrate/postgresql/queries.py",
        'tail = f"{_AFTER_SCRIPT} {commit}"',
        'tail = f"{_AFTER_SCRIPT} COMMIT; {self.begin(timeouts)} {commit}"',
        ("transactional", "protocol, real"),
    ),
    Mutant(
        "the history row does not notice that it is in another transaction",
        "lambda_migrate/postgresql/queries.py",
        "::xid::text THEN {quote_literal(state)} END",
        "::xid::text OR true THEN {quote_literal(state)} END",
        ("transactional",),
    ),
    Mutant(
        "a commit in doubt is not looked up",
        "lambda_migrate/postgresql/transactional.py",
        "duration = read_duration_if_committed()",
        "duration = None",
        ("transactional", "protocol, real"),
    ),
    Mutant(
        "the deadline hides the lock that a script waited for",
        "lambda_migrate/postgresql/transactional.py",
        "            return last\n",
        "            return failure\n",
        ("transactional",),
    ),
    Mutant(
        "the rows of a script are kept",
        "lambda_migrate/postgresql/holder_connection.py",
        "timeout=timeout, keep_rows=keep_rows)",
        "timeout=timeout)",
        ("transactional",),
    ),
    Mutant(
        "a long row that is dropped is read as a whole",
        "lambda_migrate/postgresql/driver.py",
        "return self._keep_rows == 0 or length > _CHUNK_BYTES",
        "return self._keep_rows == 0",
        ("transactional",),
    ),
    Mutant(
        "notices are kept",
        "lambda_migrate/postgresql/driver.py",
        "if len(self.notices) == _KEPT_NOTICES:",
        "if False:",
        ("transactional",),
    ),
    Mutant(
        "an error is kept as long as it is",
        "lambda_migrate/postgresql/driver.py",
        "_FIELD_BYTES = 4_000\n",
        "_FIELD_BYTES = 4_000_000_000\n",
        ("transactional",),
    ),
    Mutant(
        "a half-built index is left",
        "lambda_migrate/postgresql/non_transactional.py",
        "            self._drop_invalid_indexes()\n",
        "            pass\n",
        ("non-transactional",),
    ),
    Mutant(
        "a half detached partition is left",
        "lambda_migrate/postgresql/non_transactional.py",
        "            self._finalize_detach()\n",
        "",
        ("non-transactional",),
    ),
    Mutant(
        "what conflicts with a statement is not refused",
        "lambda_migrate/postgresql/non_transactional.py",
        "        if finding.conflict:\n",
        "        if False:\n",
        ("non-transactional",),
    ),
    Mutant(
        "an index of the same name counts as the requested one",
        "lambda_migrate/postgresql/catalog_state.py",
        "state = CatalogState.ABSENT if is_same is False else CatalogState.COMPLETE",
        "state = CatalogState.COMPLETE",
        ("non-transactional",),
    ),
    Mutant(
        "the objects that a statement is about are looked for by name",
        "lambda_migrate/postgresql/session.py",
        "object_ids=None if row[17] is None else progress.object_ids,",
        "object_ids=None,",
        ("non-transactional",),
    ),
    Mutant(
        "the number of complete statements is not committed with the statement",
        "lambda_migrate/postgresql/queries.py",
        "SET state = {state}, progress = {quote_literal(str(progress))}",
        "SET state = {state}",
        ("several statements",),
    ),
    Mutant(
        "a script of several statements begins again after an interruption",
        "lambda_migrate/postgresql/non_transactional.py",
        "        self._run_from(completed)",
        "        self._run_from(0)",
        ("several statements",),
    ),
    Mutant(
        "statements that have run may be changed in the file",
        "lambda_migrate/postgresql/non_transactional.py",
        "if [each.script.sql.split() for each in statements[:completed]] != finished:",
        "if False:",
        ("several statements",),
    ),
    Mutant(
        "what may have committed a part is run again",
        "lambda_migrate/postgresql/non_transactional.py",
        "return None if took_effect is None else not took_effect",
        "return True",
        ("non-transactional", "contract, database"),
    ),
    Mutant(
        "an error inside a procedure counts as an error of reading its call",
        "lambda_migrate/postgresql/non_transactional.py",
        "is_parse_error = error.position is not None and not error.where",
        "is_parse_error = True",
        ("non-transactional",),
    ),
    Mutant(
        "every script in doubt counts as idempotent",
        "lambda_migrate/postgresql/non_transactional.py",
        "return False if took_effect is None and self._script.idempotent else took_effect",
        "return bool(took_effect)",
        ("non-transactional", "non-transactional, killed"),
    ),
    Mutant(
        "a statement begins over a row in doubt",
        "lambda_migrate/postgresql/session.py",
        "        if self._resolve_if_in_doubt(migration.version, deadline):\n",
        "        if False:\n",
        ("contract, database",),
    ),
    Mutant(
        "a rollback begins over a row in doubt",
        "lambda_migrate/postgresql/session.py",
        "if may_be_in_doubt and not self._resolve_if_in_doubt(row.version, deadline):",
        "if False:",
        ("contract, database",),
    ),
    Mutant(
        "a rollback begins over a row in doubt of the fake",
        "lambda_migrate/testing/database.py",
        "        if not self._resolve_in_doubt_first(row.version, deadline):\n",
        "        if False:\n",
        ("engine", "contract, database"),
    ),
    Mutant(
        "`down` does not resolve what is in doubt",
        "lambda_migrate/engine/rollback.py",
        "        fenced_session.resolve_in_doubt(row, lease_session.deadline)\n    left =",
        "        pass\n    left =",
        ("engine",),
    ),
    Mutant(
        "what stood there before a rebuild is dropped after it",
        "lambda_migrate/postgresql/catalog_state.py",
        "return [row for row in self._read(query) if row[0] not in (self.object_ids or ())]",
        "return list(self._read(query))",
        ("non-transactional",),
    ),
    Mutant(
        "an index on only a partitioned table counts as half built",
        "lambda_migrate/postgresql/catalog_queries.py",
        """_IS_COMPLETE_INDEX = "(i.indisvalid OR c.relkind OPERATOR(pg_catalog.=) 'I')\"""",
        '_IS_COMPLETE_INDEX = "i.indisvalid"',
        ("non-transactional", "non-transactional, killed"),
    ),
    Mutant(
        "the indexes of TOAST tables are not looked at after a rebuild",
        "lambda_migrate/postgresql/catalog_queries.py",
        "SELECT reltoastrelid FROM pg_catalog.pg_class WHERE",
        "SELECT reltoastrelid FROM pg_catalog.pg_class WHERE false AND",
        ("non-transactional",),
    ),
    Mutant(
        "a migration's isolation level is ignored",
        "lambda_migrate/postgresql/transactional.py",
        "isolation=self._script.isolation",
        'isolation=""',
        ("transactional",),
    ),
    Mutant(
        "unclosed quotes are not looked for",
        "lambda_migrate/migrations/sql/lint.py",
        "if (unclosed := find_unclosed(sql)) and not",
        "if (unclosed := None) and not",
        ("manifest",),
    ),
    Mutant(
        "the semicolon after a script is not the script's end",
        "lambda_migrate/postgresql/queries.py",
        "self.start < position <= self.end + len(_AFTER_SCRIPT)",
        "self.start < position <= self.end",
        ("transactional",),
    ),
    Mutant(
        "a COMMIT in the middle counts as the end of the block",
        "lambda_migrate/migrations/sql/lint.py",
        "controls != [statements[0], statements[-1]]",
        "len(controls) != 2",
        ("manifest",),
    ),
    Mutant(
        "dotted versions are ordered as text",
        "lambda_migrate/migrations/version.py",
        "return _components_of(self) < _components_of(other)",
        "return str(self) < str(other)",
        ("manifest",),
    ),
    Mutant(
        "idempotent is allowed in a transaction",
        "lambda_migrate/migrations/source.py",
        "if marker.idempotent and marker.transactional:",
        "if False:",
        ("manifest",),
    ),
    Mutant(
        "a row in doubt is not resolved",
        "lambda_migrate/engine/apply.py",
        "self._fenced_session.resolve_in_doubt(row, self._lease_session.deadline, file=file)",
        "pass",
        ("engine", "protocol, real"),
    ),
    # --- hooks (I1)
    Mutant(
        "a hook begins as the role that the migration set",
        "lambda_migrate/postgresql/combined_script.py",
        "RESET SESSION AUTHORIZATION; RESET ROLE;",
        "RESET IntervalStyle; RESET IntervalStyle;",
        ("hooks of migrations",),
    ),
    Mutant(
        "an error in a hook is looked for in the migration",
        "lambda_migrate/postgresql/combined_script.py",
        "left -= count + _SEPARATOR_STATEMENTS",
        "left -= count",
        ("hooks of migrations",),
    ),
    # --- placeholders
    Mutant(
        "a value can end the dollar quote around it",
        "lambda_migrate/migrations/sql/placeholders.py",
        r"""{"\\": r"\\", "$": r"\044", """,
        r"""{"\\": r"\\", """,
        ("placeholders", "placeholders, real"),
    ),
    Mutant(
        "a name can end the dollar quote around it",
        "lambda_migrate/migrations/sql/placeholders.py",
        'is_escaped = re.search(r"[$\\n\\r]", value)',
        "is_escaped = False",
        ("placeholders, real",),
    ),
    Mutant(
        "a backslash escapes the quote after it",
        "lambda_migrate/migrations/sql/placeholders.py",
        r"""_LITERAL_ESCAPES = {"\\": r"\\", """,
        "_LITERAL_ESCAPES = {",
        ("placeholders", "placeholders, real"),
    ),
    Mutant(
        "a placeholder is replaced inside quotes",
        "lambda_migrate/migrations/sql/placeholders.py",
        "if found.is_in_quotes:",
        "if False:",
        ("placeholders",),
    ),
    Mutant(
        "an error shows the value of a placeholder",
        "lambda_migrate/postgresql/holder_connection.py",
        "error.change_texts(partial(redact_values, values=self.placeholders))",
        "pass",
        ("placeholders, real",),
    ),
    Mutant(
        "a notice shows the value of a placeholder",
        "lambda_migrate/postgresql/holder_connection.py",
        "redact_values(text, placeholders) for",
        "text for",
        ("placeholders, real",),
    ),
    Mutant(
        "a missing value is found when its script is sent",
        "lambda_migrate/migrations/manifest.py",
        "check_migration(each, placeholders)",
        "check_migration(each)",
        ("placeholders, real",),
    ),
    # --- migrations of other tools
    Mutant(
        "a lease lost after the last step leaves the process of another tool running",
        "lambda_migrate/sources/session.py",
        "        try:\n            with self._explain_abort():\n                self._child.finish",
        "        child, self._child = self._child, None\n        try:\n"
        "            with self._explain_abort():\n                child.finish",
        ("contract, sources",),
    ),
    Mutant(
        "a lost lease leaves the process of another tool running",
        "lambda_migrate/sources/session.py",
        "        if child is not None:\n            child.kill()\n        self._session.abort()",
        "        self._session.abort()",
        ("contract, sources",),
    ),
    Mutant(
        "a tool that has applied nothing before the deadline is no failure",
        "lambda_migrate/sources/session.py",
        "if self._has_applied and not name:",
        "if not name:",
        ("contract, sources",),
    ),
    Mutant(
        "a deadline after the last step of a tool is a failure",
        "lambda_migrate/sources/session.py",
        "if self._has_applied and not name:",
        "if False:",
        ("contract, sources",),
    ),
    Mutant(
        "a deadline while no migration runs is a failure",
        "lambda_migrate/engine/holder.py",
        "raise NotReady(_TIMED_OUT_BETWEEN) from None",
        "raise MigrationFailed(_TIMED_OUT_BETWEEN, is_timeout=True) from None",
        ("engine",),
    ),
    Mutant(
        "doctor does not compare the tool's database with ours",
        "lambda_migrate/commands/doctor.py",
        "if key != report.server:",
        "if False:",
        ("sources, wrong projects",),
    ),
    Mutant(
        "a revision that is partly committed is shown as pending",
        "lambda_migrate/migrations/revisions.py",
        "partly_applied=tuple(row for row in started if str(row.version) in missing),",
        "",
        ("revisions",),
    ),
    Mutant(
        "a revision that no code knows is taken for one of newer code",
        "lambda_migrate/migrations/revisions.py",
        "if graph else (),",
        "if None else (),",
        ("revisions", "contract, sources"),
    ),
    Mutant(
        "a digest is satisfied although a revision that it needs is not applied",
        "lambda_migrate/migrations/revisions.py",
        "if ids <= self.applied and",
        "if",
        ("revisions",),
    ),
    # --- repeatable migrations (I7)
    Mutant(
        "older code puts its older text back",
        "lambda_migrate/migrations/repeatable.py",
        "checksum == migration.checksum or is_older_code:",
        "checksum == migration.checksum:",
        ("repeatables",),
    ),
    Mutant(
        "an earlier text counts as a new one",
        "lambda_migrate/migrations/repeatable.py",
        "return all(row.checksum != migration.checksum for row in rows)",
        "return True",
        ("repeatables",),
    ),
    Mutant(
        "a rollback leaves texts in place",
        "lambda_migrate/engine/rollback.py",
        "fenced_session.mark_repeatables_stale()",
        "pass",
        ("repeatables",),
    ),
    Mutant(
        "a satisfied set of texts is not recorded",
        "lambda_migrate/engine/apply.py",
        "if self._manifest.digest not in find_satisfied_digests(history):",
        "if False:",
        ("repeatables",),
    ),
    # --- the lease (I2, I8)
    Mutant(
        "the owner of a lease is not compared",
        "lambda_migrate/lease/dynamodb.py",
        '_IS_OWN_LEASE = "#owner = :own_owner AND fence = :own_fence"',
        '_IS_OWN_LEASE = "attribute_exists(target) OR '
        '(#owner = :own_owner AND fence = :own_fence)"',
        ("lease", "contract, lease", "protocol, real"),
    ),
    Mutant(
        "the owner of a lease is not compared by the fake",
        "lambda_migrate/lease/memory.py",
        "not in [(lease.owner, lease.fence) for lease in leases]",
        "is None",
        ("engine", "contract, lease", "protocol, fakes"),
    ),
    Mutant(
        "an acquisition that is sent twice counts as another process's",
        "lambda_migrate/lease/dynamodb.py",
        "            if state.owner != owner:\n                return state",
        "            if True:\n                return state",
        ("lease", "contract, lease", "protocol, real"),
    ),
    Mutant(
        "in the fake an acquisition that is sent twice counts as another process's",
        "lambda_migrate/lease/memory.py",
        "            if state.owner == owner:\n",
        "            if False:\n",
        ("engine", "contract, lease", "protocol, fakes"),
    ),
    Mutant(
        "a last write that is sent twice counts as a lost lease",
        "lambda_migrate/lease/dynamodb.py",
        "if state.owner is None and state.fence == lease.fence and has_result(state):",
        "if False:",
        ("lease", "contract, lease", "protocol, real"),
    ),
    Mutant(
        "in the fake a last write that is sent twice counts as a lost lease",
        "lambda_migrate/lease/memory.py",
        "if (self.state, self.state.fence) == (done, lease.fence):",
        "if False:",
        ("contract, lease", "protocol, fakes"),
    ),
    Mutant(
        "a raised fence that is sent twice counts as a lost lease",
        "lambda_migrate/lease/dynamodb.py",
        "if state.owner != lease.owner or state.fence != fence:",
        "if True:",
        ("contract, lease", "protocol, real"),
    ),
    Mutant(
        "a lease is trusted from the response on",
        "lambda_migrate/lease/dynamodb.py",
        "return Lease(owner, state.fence, trusted_until, state)",
        "return Lease(owner, state.fence, self._compute_expiry()[0], state)",
        ("lease", "protocol, real"),
    ),
    Mutant(
        "a renewed lease is trusted from the response on",
        "lambda_migrate/lease/dynamodb.py",
        "return lease._replace(trusted_until=trusted_until)",
        "return lease._replace(trusted_until=self._compute_expiry()[0])",
        ("lease", "protocol, real"),
    ),
    Mutant(
        "a lease is trusted to its very end",
        "lambda_migrate/lease/dynamodb.py",
        "trusted_until = self._clock.monotonic() + self.lease_seconds - CLOCK_SKEW_MS / 1000",
        "trusted_until = self._clock.monotonic() + self.lease_seconds",
        ("lease", "contract, lease", "protocol, real"),
    ),
    Mutant(
        "the margin for clocks is taken the wrong way by the table",
        "lambda_migrate/lease/dynamodb.py",
        "_encode_number(self.now_ms() - CLOCK_SKEW_MS)",
        "_encode_number(self.now_ms() + CLOCK_SKEW_MS)",
        ("contract, lease",),
    ),
    Mutant(
        "the margin for clocks is taken the wrong way by the reader",
        "lambda_migrate/lease/decision.py",
        "return state.lease_until_ms + CLOCK_SKEW_MS < now_ms",
        "return state.lease_until_ms - CLOCK_SKEW_MS < now_ms",
        ("lease",),
    ),
    Mutant(
        "a lease that is not renewed is not detected",
        "lambda_migrate/lease/decision.py",
        "return now - self._since > (length_ms + CLOCK_SKEW_MS) / 1000",
        "return False",
        ("lease", "engine", "protocol, fakes"),
    ),
    Mutant(
        "the fence of a new table is not raised above PostgreSQL's",
        "lambda_migrate/engine/holder.py",
        "self._advance_fence(stale.current_token + 1)",
        "self._advance_fence(stale.current_token)",
        ("engine", "protocol, fakes", "protocol, real"),
    ),
    Mutant(
        "a working holder does not publish its progress",
        "lambda_migrate/lease/heartbeat.py",
        "            if self.on_renewal_attempt is not None:",
        "            if False:",
        ("engine",),
    ),
    Mutant(
        "the lease's held time is reported only when the check ends",
        "lambda_migrate/aws/telemetry.py",
        "            self._write_held_time(event)",
        '            self._add("LeaseHeldTime", "Milliseconds", event.held_seconds * 1000)',
        ("alarms",),
    ),
    Mutant(
        "a metric goes without its target",
        "lambda_migrate/check_events.py",
        '        "Dimensions": [["target", "service"]],',
        '        "Dimensions": [["service"]],',
        ("alarms",),
    ),
    Mutant(
        "an alarm on DynamoDB's own metrics needs no FILL",
        "lambda_migrate/local/cloudwatch.py",
        'if metrics[0].namespace == "AWS/DynamoDB":',
        "if False:",
        ("alarms",),
    ),
    Mutant(
        "a thawed holder does not check who owns the lease",
        "lambda_migrate/lease/heartbeat.py",
        "if self._clock.monotonic() >= self._lease.trusted_until:",
        "if False:",
        ("lease", "engine"),
    ),
    Mutant(
        "the store's clock: a step of our clock counts until the next response",
        "lambda_migrate/lease/dynamodb_call.py",
        "return offset if abs(offset) > _MIN_OFFSET_MS else 0",
        "return 0",
        ("lease",),
    ),
    Mutant(
        "the store's clock: it stands still between two responses",
        "lambda_migrate/lease/dynamodb_call.py",
        "elapsed_ms = round((self._clock.monotonic() - received_at) * 1000)",
        "elapsed_ms = 0",
        ("lease",),
    ),
    Mutant(
        "ending in time: a renewal begins just before the deadline",
        "lambda_migrate/lease/heartbeat.py",
        "return self._lease.trusted_until >= self._deadline.at",
        "return False",
        ("lease",),
    ),
    Mutant(
        "ending in time: a lease that ends before the deadline is not renewed",
        "lambda_migrate/lease/heartbeat.py",
        "return self._lease.trusted_until >= self._deadline.at",
        "return True",
        ("lease",),
    ),
    Mutant(
        "ending in time: a renewal without a response is waited for past the deadline",
        "lambda_migrate/lease/heartbeat.py",
        "self._thread.join(min(seconds, threading.TIMEOUT_MAX))",
        "self._thread.join()",
        ("lease",),
    ),
    Mutant(
        "ending in time: a late response to a renewal ends what runs next",
        "lambda_migrate/lease/heartbeat.py",
        "            if self._stopped.is_set():\n                return ",
        "            if False:\n                return ",
        ("lease",),
    ),
    Mutant(
        "ending in time: releasing the lease outlasts the invocation",
        "lambda_migrate/engine/holder.py",
        "run_with_timeout(max(left - _RESERVED_SECONDS, _RESERVED_SECONDS / 2), write)",
        "write()",
        ("engine",),
    ),
    Mutant(
        "ending in time: with less than a call's length left the lease is not released",
        "lambda_migrate/engine/holder.py",
        "run_with_timeout(max(left - _RESERVED_SECONDS, _RESERVED_SECONDS / 2), write)",
        "raise CallTimeout",
        ("engine",),
    ),
    Mutant(
        "a lost lease does not end what runs",
        "lambda_migrate/lease/heartbeat.py",
        "            self.on_abort()\n",
        "            pass\n",
        ("lease",),
    ),
    # --- what a starting instance believes (I3, I6, I7)
    Mutant(
        "what another database satisfies counts for this one",
        "lambda_migrate/lease/record.py",
        "        return record is not None and record.is_ready(digest, address)",
        "        marks = b''.join(each.ready_digests for each in self.databases.values())\n"
        "        return join_digests([digest]) in split_digests(marks)",
        ("lease", "engine", "protocol, fakes"),
    ),
    Mutant(
        "how much an address has confirmed is ignored",
        "lambda_migrate/lease/first_read.py",
        "split_digests(ready[: confirmed_count * SHORT_DIGEST_BYTES])",
        "split_digests(ready)",
        ("lease", "engine", "protocol, fakes"),
    ),
    Mutant(
        "older manifests count for an address that has not confirmed all",
        "lambda_migrate/lease/first_read.py",
        "is_whole = 0 < confirmed_count == len(ready) // SHORT_DIGEST_BYTES",
        "is_whole = True",
        ("lease", "engine"),
    ),
    Mutant(
        "the first read takes a negative count of confirmed manifests",
        "lambda_migrate/lease/first_read.py",
        "return count.isdecimal() and is_confirmed(",
        "return is_confirmed(",
        ("lease",),
    ),
    Mutant(
        "the first read trusts an item of another layout",
        "lambda_migrate/lease/first_read.py",
        'if item["format"]["N"] != str(ITEM_LAYOUT):',
        "if False:",
        ("lease",),
    ),
    Mutant(
        "a start looks for its database without the schema's name",
        "lambda_migrate/settings.py",
        "return add_schema(self.address_text_without_schema, self.schema)",
        "return self.address_text_without_schema",
        ("lease",),
    ),
    Mutant(
        "what was read first is read again",
        "lambda_migrate/lease/dynamodb.py",
        "if first_read is not None and first_read.item is not None:",
        "if False:",
        ("lease",),
    ),
    Mutant(
        "an address keeps what it has confirmed although the history diverged",
        "lambda_migrate/lease/readiness.py",
        "                _count_still_confirmed(\n"
        "                    known_record.unlisted_count + count, matching_count, unlisted_count\n"
        "                )\n",
        "                count\n",
        ("lease",),
    ),
    Mutant(
        "what is no longer listed counts as confirmed",
        "lambda_migrate/lease/readiness.py",
        "    if matching_count:\n",
        "    if True:\n",
        ("lease",),
    ),
    Mutant(
        "a database with a new identity leaves the records of the others",
        "lambda_migrate/lease/readiness.py",
        "is_new = identity not in databases",
        "is_new = False",
        ("lease", "engine"),
    ),
    Mutant(
        "a database that is behind is trusted",
        "lambda_migrate/postgresql/ports.py",
        "return row.token < token or (row.token == token and row.owner != owner)",
        "return False",
        ("lease", "engine", "contract, database"),
    ),
    Mutant(
        "a copy keeps its identity",
        "lambda_migrate/postgresql/fence.py",
        "        if row.is_database_copy:\n            return str(uuid4())",
        "        if False:\n            return str(uuid4())",
        ("database identity",),
    ),
    Mutant(
        "a rollback leaves versions marked ready",
        "lambda_migrate/lease/readiness.py",
        "known_record = _set_ready_digests(known_record._replace(addresses=addresses), digests)",
        "known_record = known_record._replace(addresses=addresses)",
        ("lease", "engine", "protocol, fakes"),
    ),
    Mutant(
        "the first read may be stale",
        "lambda_migrate/engine/check.py",
        "target.store.read(consistent=True)",
        "target.store.read()",
        ("engine", "protocol, fakes"),
    ),
    Mutant(
        "without a lease table a read is trusted",
        "lambda_migrate/engine/check.py",
        "self.target.has_lease_table  # without",
        "True  # without",
        ("engine",),
    ),
    Mutant(
        "only a run that succeeds records its environment",
        "lambda_migrate/engine/apply.py",
        "if position == 1:  # a later",
        "if position == 0:  # a later",
        ("engine",),
    ),
    Mutant(
        "a repeatable migration's name counts as a version",
        "lambda_migrate/engine/operations.py",
        "if isinstance(version, RepeatableVersion):\n            raise",
        "if version == -1:\n            raise",
        ("repeatables",),
    ),
    Mutant(
        "a waiter serves on a read that may be stale",
        "lambda_migrate/engine/decider.py",
        "            if not self._needs_confirmation:\n                return decision\n",
        "            return decision\n",
        ("engine", "protocol, fakes"),
    ),
    Mutant(
        "a function in mode require migrates instead of inspecting",
        "lambda_migrate/engine/cold_start.py",
        "elif decision.inspect_only:",
        "elif False:",
        ("engine", "protocol, fakes"),
    ),
    Mutant(
        "an inspection trusts a history under a holder that did not complete",
        "lambda_migrate/engine/inspection.py",
        "if known.get(fence.identity) != (fence.token, fence.owner):",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "an inspection removes at a replica's address what the primary has",
        "lambda_migrate/engine/inspection.py",
        "if is_old and inspection.is_replica:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "a refused inspection is not recorded",
        "lambda_migrate/engine/inspection.py",
        "self._lease_session.store_failure(self._make_failure(error))",
        "self._lease_session.store_inspection(self._databases)",
        ("engine",),
    ),
    Mutant(
        "an instance inspects repeatedly",
        "lambda_migrate/lease/decision.py",
        "has_news = state.fence_of_latest_check != fence_at_inspection",
        "has_news = True",
        ("engine",),
    ),
    Mutant(
        "a failure of one address stops all others",
        "lambda_migrate/engine/failure.py",
        'address = "" if _is_caused_by_migrations(error) else address',
        'address = ""',
        ("engine",),
    ),
    Mutant(
        "one failure replaces another",
        "lambda_migrate/lease/record.py",
        "return self.with_failures((failure, *others))",
        "return self.with_failures((failure,))",
        ("engine",),
    ),
    Mutant(
        "success forgets the failures of other manifests",
        "lambda_migrate/engine/cold_start.py",
        "keep_failures=True,",
        "keep_failures=False,",
        ("engine",),
    ),
    Mutant(
        "a new database removes what is ready in all others",
        "lambda_migrate/lease/readiness.py",
        "may_be_it = is_new and (not is_new_or_copied_database or address in record.addresses)",
        "may_be_it = is_new",
        ("engine",),
    ),
    Mutant(
        "an attempt with less time forgets how much time was not enough",
        "lambda_migrate/engine/failure.py",
        "available_ms = max(available_ms, before.available_ms or 0)",
        "available_ms = max(available_ms, 0)",
        ("engine",),
    ),
    Mutant(
        "a history that never matches is inspected repeatedly",
        "lambda_migrate/engine/inspection.py",
        "if may_be_old and applied_count > len(self._manifest) + MAX_READY_DIGESTS:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "a lease is acquired although another was acquired since the read",
        "lambda_migrate/lease/dynamodb.py",
        'is_newest = "fence = :expected_fence"',
        'is_newest = "(fence = :expected_fence OR fence <> :expected_fence)"',
        ("lease", "contract, lease"),
    ),
    Mutant(
        "in the fake a lease is acquired although another was acquired since the read",
        "lambda_migrate/lease/memory.py",
        "if not is_newest or not (is_free",
        "if not (is_free",
        ("contract, lease", "engine", "protocol, fakes"),
    ),
    Mutant(
        "a failure for lack of time refuses instances with more time",
        "lambda_migrate/lease/decision.py",
        "return available_ms is None or remaining_ms <= available_ms * REQUIRED_TIME_FACTOR",
        "return True",
        ("lease", "engine"),
    ),
    Mutant(
        "killed holders are not counted",
        "lambda_migrate/engine/apply.py",
        "if self._refuse_after_kills and kills >= (1 if was_recorded else _MAX_PROCESS_KILLS):",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "a holder does not publish the migration that it starts",
        "lambda_migrate/engine/apply.py",
        "self._lease_session.publish_progress(Progress(",
        "self._lease_session.set_next_progress(Progress(",
        ("engine",),
    ),
    Mutant(
        "what is known before the acquisition is ignored",
        "lambda_migrate/engine/cold_start.py",
        "if final_decision is not None:",
        "if False:",
        ("engine", "protocol, fakes", "protocol, real"),
    ),
    Mutant(
        "a failure's pause is ignored",
        "lambda_migrate/lease/decision.py",
        "if not 0 < failure.retry_at_ms - now_ms <= MAX_FAILURE_PAUSE_MS + 2 * CLOCK_SKEW_MS:",
        "if True:",
        ("lease", "engine", "protocol, fakes"),
    ),
    Mutant(
        "a failure's pause does not grow",
        "lambda_migrate/engine/failure.py",
        " * 2 ** min(attempts - 1, 20))",
        ")",
        ("engine",),
    ),
    Mutant(
        "a failure is not recorded",
        "lambda_migrate/engine/holder.py",
        "                self.record_failure(record_failures, error)\n",
        "                self.release()\n",
        ("engine",),
    ),
    Mutant(
        "a contradiction between history and files is not refused",
        "lambda_migrate/engine/apply.py",
        "    if plan.divergences:\n        heading",
        "    if False:\n        heading",
        ("engine",),
    ),
    Mutant(
        "nothing is withdrawn before a rollback",
        "lambda_migrate/engine/rollback.py",
        "    withdraw_readiness(lease_session, fenced_session, lowest=rows[-1].version)\n",
        "",
        ("engine", "protocol, fakes"),
    ),
    # --- the deadline (I4)
    Mutant(
        "PostgreSQL does not get the deadline",
        "lambda_migrate/postgresql/holder_connection.py",
        "statement = max(1, round(left * 1000))",
        "statement = 3_600_000",
        ("contract, database", "transactional", "non-transactional"),
    ),
    Mutant(
        "a commit whose response was lost at the deadline is a failure",
        "lambda_migrate/postgresql/transactional.py",
        "if not self._is_outcome_unknown:",
        "if True:",
        ("transactional",),
    ),
    Mutant(
        "a commit begins when no time is left",
        "lambda_migrate/postgresql/holder_connection.py",
        "        if left <= 0:\n            raise DatabaseUnavailable",
        "        if False:\n            raise DatabaseUnavailable",
        ("transactional",),
    ),
    Mutant(
        "a waiter sleeps past its deadline",
        "lambda_migrate/lease/waiter.py",
        "min(delay, self._deadline.remaining())",
        "delay",
        ("lease", "engine", "protocol, fakes"),
    ),
    Mutant(
        "the lease is acquired when no time is left",
        "lambda_migrate/engine/cold_start.py",
        "        if self._deadline.is_over:\n            raise NotReady",
        "        if False:\n            raise NotReady",
        ("engine",),
    ),
    # --- feature flags
    Mutant(
        "a check acquires without reading the flags",
        "lambda_migrate/engine/decider.py",
        "if self._target.flags is None or not self._may_migrate:",
        "if True:",
        ("engine",),
    ),
    Mutant(
        "a holder does not read the flags between two migrations",
        "lambda_migrate/engine/apply.py",
        "        check_flags(target, lease_session.deadline, version=version,"
        " operation=migration.name)\n",
        "",
        ("engine",),
    ),
    Mutant(
        "flags that cannot be read stop no migration",
        "lambda_migrate/engine/flag_gate.py",
        "if target.policy.require_flags:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "all of the manifest is served when part of it is held back",
        "lambda_migrate/engine/cold_start.py",
        "        if allowed is not manifest:\n            raise",
        "        if False:\n            raise",
        ("engine",),
    ),
    Mutant(
        "what was served unchecked is remembered as ready",
        "lambda_migrate/runner.py",
        "self._is_ready = outcome is not Outcome.UNCHECKED",
        "self._is_ready = True",
        ("engine",),
    ),
    Mutant(
        "flags are trusted for as long as a frozen clock stands still",
        "lambda_migrate/aws/appconfig.py",
        "not 0 <= self._clock.wall_ms() - wall_ms < keep * 1000",
        "False",
        ("appconfig",),
    ),
    Mutant(
        "AppConfig is waited for as long as it takes",
        "lambda_migrate/aws/appconfig.py",
        "document = run_with_timeout(seconds, self._read_document)",
        "document = run_with_timeout(seconds + 60, self._document)",
        ("appconfig",),
    ),
    Mutant(
        "a misspelt flag is ignored",
        "lambda_migrate/aws/appconfig.py",
        "if name.startswith(_PREFIX) and name not in FLAG_NAMES:",
        "if False:",
        ("appconfig",),
    ),
    # --- hooks of a deployment
    Mutant(
        "a hook: a rollback of a stack migrates",
        "lambda_migrate/deploy/custom_resource.py",
        "if request.direction is DeploymentDirection.ROLLBACK:\n        return run_hook",
        "if False:\n        return ending_of",
        ("hooks",),
    ),
    Mutant(
        "a hook: a failure blocks the rollback of a stack",
        "lambda_migrate/deploy/custom_resource.py",
        "result.has_failed and (is_forward or bool(request.fault))",
        "result.has_failed",
        ("hooks",),
    ),
    Mutant(
        "a hook: versions are compared as texts",
        "lambda_migrate/deploy/custom_resource.py",
        "return (name, int(number)) if is_number",
        "return (name, number) if is_number",
        ("hooks",),
    ),
    Mutant(
        "a hook: a response may be longer than CloudFormation reads",
        "lambda_migrate/deploy/custom_resource.py",
        "if len(_encode(response)) <= _BODY_BYTES or not length:",
        "if True:",
        ("hooks",),
    ),
    Mutant(
        "a hook: a response may be sent anywhere in plaintext",
        "lambda_migrate/deploy/custom_resource.py",
        'parts.scheme == "http" and host in _LOOPBACK',
        'parts.scheme == "http"',
        ("hooks",),
    ),
    Mutant(
        "a hook: a failure blocks the rollback of a deployment",
        "lambda_migrate/deploy/codedeploy.py",
        'status = "Failed" if result.has_failed and not is_rollback else "Succeeded"',
        'status = "Failed" if result.has_failed else "Succeeded"',
        ("hooks",),
    ),
    Mutant(
        "a hook: a response that is refused is not sent again",
        "lambda_migrate/deploy/deliver.py",
        "if clock.monotonic() + delay >= until.at:",
        "if True:",
        ("hooks",),
    ),
    Mutant(
        "a hook: no time is kept for the response",
        "lambda_migrate/deploy/deliver.py",
        "work=end.shortened_by(min(_RESERVE_SECONDS, left / 4)),",
        "work=end,",
        ("hooks",),
    ),
    Mutant(
        "a hook: the message of an unexpected error is sent",
        "lambda_migrate/deploy/hook.py",
        'f"{_describe_unexpected(error)}; the log has its traceback"',
        'f"{error} {_describe_unexpected(error)}; the log has its traceback"',
        ("hooks",),
    ),
    # --- the admin function finds itself
    Mutant(
        "a request that has run is run again",
        "lambda_migrate/deploy/admin.py",
        "        if repeated is not None:\n            return repeated\n",
        "        if False:\n            return repeated\n",
        ("admin",),
    ),
    Mutant(
        "a retry by Lambda counts as our own lost write",
        "lambda_migrate/deploy/admin.py",
        "attempt_id=os.urandom(16).hex(),",
        "attempt_id=invocation.id,",
        ("admin",),
    ),
    Mutant(
        "a run that continues counts as dead",
        "lambda_migrate/deploy/admin.py",
        "self._clock.wall_ms() > existing.ends_by_ms",
        "self._clock.wall_ms() > 0",
        ("admin",),
    ),
    Mutant(
        "a run that committed something is forgotten, and its request runs again",
        "lambda_migrate/deploy/admin.py",
        "if is_refused and not progress.committed_migrations:",
        "if is_refused:",
        ("admin",),
    ),
    Mutant(
        "a confirmation of one question confirms all",
        "lambda_migrate/deploy/admin.py",
        "if self._confirmation not in (True, compute_confirmation_token(question)):",
        "if False:",
        ("admin",),
    ),
    Mutant(
        "one request id serves two commands",
        "lambda_migrate/deploy/admin.py",
        "if existing.command_text != request.command_text:",
        "if False:",
        ("admin",),
    ),
    Mutant(
        "a lost response is requested with another request id",
        "lambda_migrate/cli/remote.py",
        "event = replace(request, timeout=round(left, 3)).lambda_event",
        "event = replace(request, timeout=round(left, 3), request_id=str(self._clock.monotonic())"
        ".replace('.', '-')).lambda_event",
        ("admin",),
    ),
    Mutant(
        "two runs of one request may start at once",
        "lambda_migrate/deploy/request_log.py",
        'f"attribute_not_exists(#record) OR {_IS_OWN}"',
        'f"attribute_not_exists(unknown_name) OR {_IS_OWN}"',
        ("request log",),
    ),
    Mutant(
        "a lost response to our own start counts as another run's",
        "lambda_migrate/deploy/request_log.py",
        "existing is not None and existing.attempt_id != record.attempt_id",
        "existing is not None",
        ("request log",),
    ),
    # --- dry runs
    Mutant(
        "a dry run lets PostgreSQL commit",
        "lambda_migrate/postgresql/dry_run_queries.py",
        'return f"{RESET_SESSION} {timeouts.set_local()} {FORBID_COMMIT} SAVEPOINT {_SAVEPOINT}"',
        'return f"{RESET_SESSION} {timeouts.set_local()} SAVEPOINT {_SAVEPOINT}"',
        ("dry runs",),
    ),
    Mutant(
        "a dry run may write outside its transaction",
        "lambda_migrate/postgresql/dry_run_queries.py",
        "SET default_transaction_read_only = on",
        "SET default_transaction_read_only = off",
        ("dry runs",),
    ),
    Mutant(
        "a dry run does not compare its transaction",
        "lambda_migrate/postgresql/dry_run.py",
        "if rows[-1][0] != self._transaction:",
        "if False:",
        ("dry runs",),
    ),
    Mutant(
        "a dry run does not check how its transaction ended",
        "lambda_migrate/postgresql/dry_run.py",
        'if status not in ("aborted", None):',
        "if False:",
        ("dry runs",),
    ),
    Mutant(
        "a dry run does not check deferred constraints",
        "lambda_migrate/postgresql/dry_run.py",
        "        if names:\n",
        "        if not names:\n",
        ("dry runs",),
    ),
    Mutant(
        "a dry run leaves constraints immediate for the next migration",
        "lambda_migrate/postgresql/dry_run.py",
        'return deferred or ""',
        'return ""',
        ("dry runs",),
    ),
    Mutant(
        "a dry run starts beside a holder",
        "lambda_migrate/postgresql/fence.py",
        "        self._check_fence_row(row)\n        self._require_no_holder(deadline)\n",
        "        self._check_fence_row(row)\n",
        ("contract, database",),
    ),
    Mutant(
        "a dry run keeps the lease",
        "lambda_migrate/engine/operations.py",
        "        finally:\n            lease_session.release()\n",
        "        finally:\n            pass\n",
        ("engine",),
    ),
    Mutant(
        "a dry run continues with a history that no user has confirmed",
        "lambda_migrate/engine/operations.py",
        "if self._make_plan(manifest, dry_run.read_history()) != plan:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "repair removes the row of an applied migration without --force",
        "lambda_migrate/engine/operations.py",
        "if row.state is RowState.APPLIED and is_versioned(row) and not force:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "a command ends with the reader of its output",
        "lambda_migrate/cli/output.py",
        "        stream, self._stream = self._stream, None\n",
        "        raise error\n",
        ("output",),
    ),
    Mutant(
        "down does not warn of the next cold start",
        "lambda_migrate/commands/migrate.py",
        """if not again or mode == "off":""",
        "if True:",
        ("commands",),
    ),
    Mutant(
        "a confirmation in advance is enough in production",
        "lambda_migrate/deploy/admin.py",
        "if not self._confirmation or (question.required_word and self._confirmation is True):",
        "if not self._confirmation:",
        ("admin",),
    ),
    Mutant(
        "a dry run excuses every failure",
        "lambda_migrate/engine/dry_run.py",
        "        if not excuse:\n",
        "        if False:\n",
        ("engine",),
    ),
    # --- AWS: what it takes, what it refuses, what is reported (I4, I6)
    Mutant(
        "the resolution of a name has no bound",
        "lambda_migrate/clock.py",
        "return run_with_timeout(seconds, resolve)",
        "return resolve()",
        ("clock",),
    ),
    Mutant(
        "a call of boto3's has no bound",
        "lambda_migrate/lease/boto3_item.py",
        "run_with_timeout(\n"
        "                CALL_TIMEOUT_SECONDS, lambda: getattr(client, operation)(**request)\n"
        "            )",
        "getattr(client, operation)(**request)",
        ("lease",),
    ),
    Mutant(
        "a refused renewal is reported only at the end",
        "lambda_migrate/lease/heartbeat.py",
        'elif not getattr(error, "retryable", False):',
        "elif False:",
        (
            "lease",
            "engine",
        ),
    ),
    Mutant(
        "an unknown error ends the heartbeat",
        "lambda_migrate/lease/heartbeat.py",
        "except Exception as error:",
        "except MigrateError as error:",
        ("lease",),
    ),
    Mutant(
        "an observer that hangs holds the heartbeat up",
        "lambda_migrate/lease/heartbeat.py",
        "_callback_thread.join(min(_MAX_CALLBACK_SECONDS, self._interval / RENEWALS_PER_LEASE))",
        "_callback_thread.join()",
        ("lease",),
    ),
    Mutant(
        "a renewal that failed is reported as the aborted connection's error",
        "lambda_migrate/engine/holder.py",
        "            if lost is None:\n                raise",
        "            if True:\n                raise",
        ("engine",),
    ),
    Mutant(
        "a lease that could not be renewed is recorded as the migration's failure",
        "lambda_migrate/engine/holder.py",
        "if self._heartbeat.lost_error is not None:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "what an observer raises reaches the holder",
        "lambda_migrate/observers.py",
        "except Exception as error:",
        "except ZeroDivisionError as error:",
        ("engine",),
    ),
    Mutant(
        "an exit in another thread ends the heartbeat",
        "lambda_migrate/observers.py",
        "if current_thread() is main_thread():",
        "if True:",
        ("engine",),
    ),
    Mutant(
        "a signature of another time counts as wrong credentials",
        "lambda_migrate/lease/dynamodb_errors.py",
        "if _is_clock_error(code, message):",
        "if False:",
        ("lease",),
    ),
    Mutant(
        "a takeover alone records its environment",
        "lambda_migrate/postgresql/queries.py",
        "target = {quote_literal(grant.target)},\n",
        "target = {quote_literal(grant.target)},\n"
        "                environment = {quote_literal(grant.environment)},\n",
        ("contract, database",),
    ),
    Mutant(
        "notices: a notice displaces a warning",
        "lambda_migrate/postgresql/driver.py",
        r'if b"\0VWARNING\0" not in data:',
        "if True:",
        ("transactional",),
    ),
    Mutant(
        "notices: a message of any length is kept",
        "lambda_migrate/postgresql/holder_connection.py",
        "return text if len(text) <= _MAX_NOTICE_LENGTH else",
        "return text if text else",
        ("transactional",),
    ),
    Mutant(
        "a password file that others may read is used",
        "lambda_migrate/postgresql/passfile.py",
        "if mode & (stat.S_IRWXG | stat.S_IRWXO):",
        "if False:",
        ("logins",),
    ),
    Mutant(
        "PGPASSWORD replaces the password of a secret",
        "lambda_migrate/settings.py",
        'excluded = ("PGUSER", "PGPASSWORD") if secret else ("PGPASSWORD",) if iam else ()',
        "excluded = ()",
        ("settings",),
    ),
    Mutant(
        "a refusal by a key or an endpoint is blamed on the role",
        "lambda_migrate/aws_errors.py",
        "if pattern.search(message):",
        "if False:",
        ("lease",),
    ),
    Mutant(
        "expired credentials are not looked for again",
        "lambda_migrate/lease/boto3_item.py",
        "if not self._replace_credentials(error):",
        "if True:",
        ("lease",),
    ),
    Mutant(
        "a rotation's pending password is not tried",
        "lambda_migrate/postgresql/credentials.py",
        "candidates = [current] if current not in tried else self._read_pending_secret(until)",
        "candidates = [current]",
        ("credentials",),
    ),
    Mutant(
        "a wrong password is sent after each pause",
        "lambda_migrate/postgresql/credentials.py",
        "_RETRY_SAME_PASSWORD = frozenset({2, 4, 6, 8})",
        "_RETRY_SAME_PASSWORD = frozenset(range(10))",
        ("credentials",),
    ),
    Mutant(
        "a refused login is not tried again",
        "lambda_migrate/postgresql/credentials.py",
        "until = until.limited_to(_ROTATION_SECONDS)",
        "return",
        ("credentials",),
    ),
    Mutant(
        "an edited file is adopted as what was applied",
        "lambda_migrate/adopt/adoptable.py",
        "if source.checksums and entry.checksum not in source.checksums:",
        "if False:",
        ("adopt, real",),
    ),
    Mutant(
        "an applied version without a file is adopted",
        "lambda_migrate/adopt/adoptable.py",
        "        *_find_missing(history, versions),\n",
        "",
        ("adopt",),
    ),
    Mutant(
        "an adoption continues in a folder with other files",
        "lambda_migrate/adopt/adoption.py",
        "if not self.uses_tool_files and (name in new or (not known and is_migration_name(name)))",
        "if False",
        ("adopt",),
    ),
    Mutant(
        "undoing an adoption removes what was edited",
        "lambda_migrate/commands/adopt.py",
        "if edited := record.find_edited_files(folder):",
        "if edited := []:",
        ("adopt",),
    ),
    Mutant(
        "an adoption is undone after another migration",
        "lambda_migrate/engine/operations.py",
        "    if own:\n",
        "    if False:\n",
        ("adopt, real",),
    ),
    Mutant(
        "undoing an adoption deletes the rows of the other tool",
        "lambda_migrate/engine/operations.py",
        "            fenced_session.sync_tool_history(None)\n",
        "",
        ("adopt, real",),
    ),
    Mutant(
        "a history is adopted while its tool is migrating",
        "lambda_migrate/postgresql/other_tools.py",
        "if not fault and has_lock and rows and run(_select_lock(tool, table)):",
        "if False:",
        ("adopt, real",),
    ),
    Mutant(
        "Secrets Manager may use all the time",
        "lambda_migrate/postgresql/credentials.py",
        "value = run_with_timeout(seconds, lambda: self._read(refresh=refresh))",
        "value = self._read(refresh=refresh)",
        ("credentials",),
    ),
    Mutant(
        "a second thread waits for the check without a limit",
        "lambda_migrate/guard.py",
        "if not self._lock.acquire(timeout=seconds):",
        "if not self._lock.acquire():",
        ("decorator",),
    ),
    Mutant(
        "a method's instance counts as the event",
        "lambda_migrate/decorator.py",
        "is_method = _is_method(function)",
        "is_method = False",
        ("handler kinds",),
    ),
    Mutant(
        "a call with other arguments than event and context loses them",
        "lambda_migrate/decorator.py",
        "if args or kwargs or context is _ABSENT or not guard.is_open:",
        "if context is _ABSENT or not guard.is_open:",
        ("handler kinds",),
    ),
    Mutant(
        "a request with more time gets the error of a check with less",
        "lambda_migrate/background_check.py",
        "return self._deadline.at + _MIN_EXTRA_SECONDS < deadline.at",
        "return False",
        ("handler kinds",),
    ),
    Mutant(
        "a forked process waits for a check of its parent",
        "lambda_migrate/guard.py",
        "        if self._process_id != os.getpid():",
        "        if False:",
        ("handler kinds",),
    ),
    Mutant(
        "a middleware that is created during a request takes the time of initialization",
        "lambda_migrate/guard.py",
        "if _TRACE_VARIABLE in os.environ:",
        "if False:",
        ("middleware",),
    ),
    Mutant(
        "a client's header sets the deadline outside Lambda",
        "lambda_migrate/http_check.py",
        "        elif is_on_lambda():",
        "        elif True:",
        ("middleware",),
    ),
    Mutant(
        "every process of a managed instance makes a check",
        "lambda_migrate/managed_instances.py",
        "== _READY:",
        "== b'':",
        ("managed instances",),
    ),
    Mutant(
        "messages of a queue get a 503",
        "lambda_migrate/decorator.py",
        "if not _is_http(event):",
        "if False:",
        ("decorator",),
    ),
    Mutant(
        "an authorizer gets a 503",
        "lambda_migrate/decorator.py",
        'if not isinstance(event, dict) or "methodArn" in event or "routeArn" in event:',
        "if not isinstance(event, dict):",
        ("decorator",),
    ),
    # --- no migrations, and other tools' histories
    Mutant(
        "adopting: a manifest without migrations is served",
        "lambda_migrate/manifest_digest.py",
        "if digest == EMPTY_DIGEST and not allow_empty:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "adopting: the digest of no migrations is looked up in the lease table",
        "lambda_migrate/first_check.py",
        "if digest in (None, EMPTY_DIGEST):",
        "if digest is None:",
        ("wiring",),
    ),
    Mutant(
        "adopting: another tool's history stops no migration",
        "lambda_migrate/engine/apply.py",
        "require_no_tool_history(\n"
        "            plan, self._fenced_session.read_tool_histories, ignore_other_history=ignore\n"
        "        )",
        "pass",
        ("engine",),
    ),
    Mutant(
        "adopting: another tool's history stops no dry run",
        "lambda_migrate/engine/operations.py",
        "ignore_other_history=ignore_other_history or self.target.policy.ignore_other_history,",
        "ignore_other_history=True,",
        ("engine",),
    ),
    Mutant(
        "adopting: a baseline skips over a gap",
        "lambda_migrate/migrations/baseline.py",
        "        if not (ignore_other_history or history):\n",
        "        if False:\n",
        ("baseline",),
    ),
    Mutant(
        "adopting: a version that failed elsewhere is recorded",
        "lambda_migrate/migrations/baseline.py",
        "if failed := comparison.find_failed_versions():",
        "if failed := []:",
        ("baseline",),
    ),
    Mutant(
        "adopting: versions newer than every file are ignored",
        "lambda_migrate/migrations/baseline.py",
        "if ahead := comparison.find_versions_ahead(manifest):",
        "if ahead := []:",
        ("baseline",),
    ),
    Mutant(
        "adopting: a baseline records something other than it showed",
        "lambda_migrate/engine/operations.py",
        "if expected is not None and chosen != expected:",
        "if False:",
        ("engine",),
    ),
    Mutant(
        "adopting: a row security policy of another role runs as us",
        "lambda_migrate/postgresql/other_tools.py",
        " SET LOCAL row_security = off;",
        "",
        ("other tools",),
    ),
    Mutant(
        "adopting: a cast of another role runs as us",
        "lambda_migrate/postgresql/other_tools.py",
        " AND t.typnamespace = 'pg_catalog'::regnamespace",
        "",
        ("other tools",),
    ),
    Mutant(
        "adopting: a table that cannot be read counts as missing",
        "lambda_migrate/migrations/baseline.py",
        "return bool(self.unreadable_reason) or any(",
        "return any(",
        ("other tools",),
    ),
)


@dataclass(frozen=True)
class _Result:
    """How one group of tests ended: the first test that failed, or why there is none."""

    caught_by: str
    seconds: float


class Copy:
    """A copy of the project in which one file at a time is changed.

    Args:
        directory: Where it goes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in COPIED:
            shutil.copytree(
                ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("pyproject.toml", "template.yaml"):
            shutil.copy(ROOT / name, directory)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        path = self.directory / mutant.file
        before = path.read_text()
        path.write_text(mutate(before, mutant))
        self._forget_bytecode(path)
        try:
            yield
        finally:
            path.write_text(before)
            self._forget_bytecode(path)

    def run(self, group: str) -> _Result:
        """Run one group until its first failure."""
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *GROUPS[group], "-x", "-q", "-p", "no:cacheprovider"],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(self.directory),
                "LAMBDA_MIGRATE_ENGINES": str(engines_directory()),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate()
            return _Result(f"{group}: not done in {TIMEOUT_SECONDS} s", time.monotonic() - began)
        return _Result(first_failure(process.returncode, output), time.monotonic() - began)

    @staticmethod
    def _forget_bytecode(path: Path) -> None:
        """Its key is the size and the second of the source, and a mutant may share both."""
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def mutate(source: str, mutant: Mutant) -> str:
    """The source without the safeguard.

    Raises:
        ValueError: The pattern does not stand there exactly once.
    """
    found = source.count(mutant.old)
    if found != 1:
        raise ValueError(
            f"mutant {mutant.name!r}: its pattern stands {found} times in {mutant.file}:\n"
            f"{mutant.old}"
        )
    return source.replace(mutant.old, mutant.new)


def first_failure(code: int, output: str) -> str:
    """The node id of the test that failed; "" if all passed.

    Raises:
        RuntimeError: pytest ended otherwise: it found no test, or it was interrupted.
    """
    if code == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if code != 1 or failed is None:
        raise RuntimeError(f"pytest ended with {code} and no failed test:\n{output[-3000:]}")
    return failed[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("words", nargs="*", help="only mutants whose name contains one of these")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.words or any(word in mutant.name for word in options.words)
    ]
    if options.list:
        print("\n".join(mutant.name for mutant in chosen))  # noqa: T201 - what was asked for
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        return _run(chosen, Copy(Path(directory)))


def _run(chosen: Sequence[Mutant], copy: Copy) -> int:
    needed = [name for name in GROUPS if any(name in mutant.groups for mutant in chosen)]
    if not _passes_unchanged(needed, copy):
        return 2
    survivors = [mutant.name for mutant in chosen if not _run_mutant(mutant, copy)]
    if survivors:
        _print(f"{len(survivors)} of {len(chosen)} survived:", *survivors)
        return 1
    _print(f"all {len(chosen)} were caught")
    return 0


def _passes_unchanged(groups: Sequence[str], copy: Copy) -> bool:
    """Whether there is anything to be learnt from these tests."""
    _print("nothing is missing")
    results = {group: copy.run(group) for group in groups}
    for group, result in results.items():
        _print(_row(group, result))
    return not any(result.caught_by for result in results.values())


def _row(group: str, result: _Result) -> str:
    return f"  {group:<20} {result.seconds:>6.1f} s  {result.caught_by or '-'}"


def _run_mutant(mutant: Mutant, copy: Copy) -> bool:
    """Print one row of the table for each group; True if one of them noticed."""
    _print(mutant.name)
    caught = False
    with copy.mutated(mutant):
        for group in mutant.groups:
            result = copy.run(group)
            caught = caught or bool(result.caught_by)
            _print(_row(group, result))
    return caught


def _print(*lines: str) -> None:
    print("\n  ".join(lines), flush=True)  # noqa: T201 - a program for people at a terminal


if __name__ == "__main__":
    sys.exit(main())
