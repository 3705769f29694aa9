"""Runs Django's own ``migrate`` command under the fence, in the child process.

Apps and settings stay as they are. An execute wrapper on each PostgreSQL connection compares the
fence before the first statement of every transaction, and makes a statement outside one a
transaction of its own. Django records a migration that has deferred SQL after its transaction has
committed; here deferred SQL runs before Django looks for it, so the record, and our row, are part
of the migration's transaction.

A migration with ``atomic = False`` is tried in a transaction first. If it refuses, it runs as
written, statement by statement; see `django_statements`.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from django.core.management import call_command
from django.db import connections, transaction
from django.db.backends.signals import connection_created
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils.connection import ConnectionDoesNotExist

from lambda_migrate.errors import ManifestError
from lambda_migrate.sources.django_child.errors import translate_error
from lambda_migrate.sources.django_child.fence import Fence
from lambda_migrate.sources.django_child.plan import MigrationPlan, format_id
from lambda_migrate.sources.django_child.statements import StatementWrapper
from lambda_migrate.sources.django_child.steps import StepRunner, StopBeforeStep
from lambda_migrate.sources.django_files import (
    check_manifest,
    find_folder,
    find_loaded_modules,
    require_folders,
)
from lambda_migrate.sources.notices import NoticeForwarder
from lambda_migrate.sources.protocol import ChildError
from lambda_migrate.sources.user_code import open_setup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lambda_migrate.sources.protocol import Channel, ChildRequest

__all__ = ["run"]


def run(request: ChildRequest, channel: Channel) -> None:
    """Carry out one request; see `ChildRequest.command`."""
    with open_setup(str(request.options.get("source_setup") or "")):
        name = os.environ.get("DJANGO_SETTINGS_MODULE")
        if not settings.configured and not name:
            raise ChildError(
                "DJANGO_SETTINGS_MODULE is not set; set it as manage.py does (for example "
                "mysite.settings)",
                kind="configuration",
            )
        fence = Fence(request)
        notices = NoticeForwarder(channel, fence.find_step_id)
        statements = StatementWrapper(request, fence, notices)
        # Before the apps are loaded: they may connect, or connect receivers of their own.
        connection_created.connect(statements.install, weak=False)
        try:
            django.setup()
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ChildError(
                f"DJANGO_SETTINGS_MODULE={name} cannot be loaded: {error}; run this in the folder "
                "of manage.py, and set it as manage.py does",
                kind="configuration",
            ) from error
        except (AppRegistryNotReady, ImproperlyConfigured) as error:
            raise translate_error(error, None, path="", root=request.root) from error
        modules = find_loaded_modules(request.root) or {}
        try:
            if request.command == "manifest":
                _send_modules(request, channel, modules)
                return
            check_manifest(request.options["django_manifest"], modules, root=request.root)
            _Migrator(request, channel, fence, statements).run(modules)
        except ManifestError as error:
            raise ChildError(str(error), kind="manifest") from error
        finally:
            connections.close_all()


def _send_modules(request: ChildRequest, channel: Channel, modules: Mapping[str, str]) -> None:
    """Answer the command ``manifest``, once every migration can be loaded."""
    loader = MigrationLoader(None, load=False)
    try:
        loader.load_disk()
    except Exception as error:
        raise translate_error(error, None, path="", root=request.root) from error
    require_folders(loader.migrated_apps, modules)
    folders = {app: find_folder(modules[app], request.root) for app in modules}
    channel.send("manifest", modules=modules, folders=folders)


class _Migrator:
    """Runs ``migrate`` for one database alias."""

    def __init__(
        self, request: ChildRequest, channel: Channel, fence: Fence, statements: StatementWrapper
    ) -> None:
        self._request = request
        self._channel = channel
        self._fence = fence
        self._statements = statements
        self._alias = request.options["django_database"]
        self._plan: MigrationPlan | None = None

    @property
    def _connection(self) -> Any:
        return connections[self._alias]

    def run(self, modules: Mapping[str, str]) -> None:
        """Send the plan, migrate, and report what is applied then.

        Args:
            modules: The module of migrations of each app.
        """
        self._prepare_connections()
        with self._translate_errors():
            executor = MigrationExecutor(self._connection)
            require_folders(executor.loader.migrated_apps, modules)
            _check_graph(executor)
            plan = self._plan = MigrationPlan(self._request, executor)
            plan.send(self._channel)
            if self._request.command.startswith("describe"):
                return
            runner = StepRunner(self._request, self._channel, plan, self._fence, self._statements)
            if not plan.is_reached:
                with runner.patch_django(), suppress(StopBeforeStep):
                    self._migrate(plan.arguments)
            if self._fence.failure is not None:
                raise self._fence.failure
            applied = MigrationRecorder(self._connection).applied_migrations()
        self._channel.send_done([format_id(key) for key in applied])

    def _prepare_connections(self) -> None:
        """Name our connections, and do without a pool, which would keep them."""
        try:
            target = self._connection
        except ConnectionDoesNotExist:
            raise ChildError(
                f"DATABASES has no {self._alias!r}, which LAMBDA_MIGRATE_DJANGO_DATABASE names",
                kind="configuration",
            ) from None
        if target.vendor != "postgresql":
            raise ChildError(
                f"DATABASES[{self._alias!r}] is {target.settings_dict['ENGINE']}; lambda-migrate "
                "migrates PostgreSQL only",
                kind="configuration",
            )
        if not target.settings_dict["AUTOCOMMIT"]:
            raise ChildError(
                f"DATABASES[{self._alias!r}] has AUTOCOMMIT=False, with which Django commits no "
                "migration; set it to True for migrations",
                kind="configuration",
            )
        for alias in connections:
            with suppress(ImproperlyConfigured):  # the driver of another alias is not installed
                connection = connections[alias]
                if connection.vendor == "postgresql":
                    connection.close()
                    options = connection.settings_dict["OPTIONS"]
                    options.pop("pool", None)
                    if self._request.application_name:
                        options["application_name"] = self._request.application_name

    def _migrate(self, arguments: list[str]) -> None:
        is_dry_run = self._request.command == "dry-run"
        with transaction.atomic(self._alias) if is_dry_run else nullcontext():
            call_command(
                "migrate",
                *arguments,
                database=self._alias,
                interactive=False,
                skip_checks=True,
                verbosity=0,  # the parent reports each step
            )
            if is_dry_run:
                transaction.set_rollback(True, self._alias)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except ManifestError:
            raise
        except ChildError as error:
            raise self._add_step(error) from error
        except Exception as error:
            if self._fence.failure is not None:
                raise self._add_step(self._fence.failure) from error
            step = self._fence.step
            path = self._plan.find_path(step.id) if step is not None and self._plan else ""
            raise translate_error(error, step, path=path, root=self._request.root) from error

    def _add_step(self, error: ChildError) -> ChildError:
        if self._fence.step is not None:
            error.fields["id"] = error.fields["id"] or self._fence.step.id
        return error


def _check_graph(executor: MigrationExecutor) -> None:
    """Refuse what the command ``migrate`` refuses, so that plans and checks do as well."""
    executor.loader.check_consistent_history(executor.connection)
    conflicts = executor.loader.detect_conflicts()
    if conflicts:
        app, names = min(conflicts.items())
        raise ChildError(
            f"app {app} has several last migrations ({', '.join(sorted(names))}): join them with "
            "`manage.py makemigrations --merge`",
            kind="manifest",
        )
