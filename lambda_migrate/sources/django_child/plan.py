"""What Django has to run, and the graph of the project's migrations."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from django.db.migrations.recorder import MigrationRecorder

from lambda_migrate.migrations.revisions import LOG_ID_SEPARATOR, Revision
from lambda_migrate.sources.fence_queries import FenceQueries, RevisionRow
from lambda_migrate.sources.protocol import ChildError
from lambda_migrate.sources.user_code import make_relative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lambda_migrate.sources.protocol import Channel, ChildRequest

__all__ = ["MigrationPlan", "find_replaced", "format_id"]


class MigrationPlan:
    """The plan of a request.

    Args:
        request: The request.
        executor: Django's executor, which has loaded the graph.

    Attributes:
        arguments: App and migration for the command ``migrate``.
        rolled_back: The newest migrations, with ``True`` each, if a number of them is rolled back;
            None: the command makes the plan.
        total: How many steps it has.
        is_reached: Whether the target of ``up`` is below what is applied already, where Django's
            command would roll back to it.
    """

    def __init__(self, request: ChildRequest, executor: Any) -> None:
        self._request = request
        self._executor = executor
        self._graph = executor.loader.graph
        if not self._graph.nodes and not request.options.get("allow_empty"):
            raise ChildError(
                "the project has no migrations: deploy them with the code, or set "
                "LAMBDA_MIGRATE_ALLOW_EMPTY=true if this service has none yet",
                kind="manifest",
            )
        self.rolled_back: list[tuple[Any, bool]] | None = None
        self.arguments: list[str] = []
        self.is_reached = False
        if request.steps is not None:
            self.rolled_back = self._find_newest(request.steps)
        elif request.to:
            self.arguments = self._parse_target(request.to)
        order = executor.migration_plan(self._graph.leaf_nodes(), clean_start=True)
        replaced = dict.fromkeys(
            format_id(key)
            for migration in executor.loader.replacements.values()
            for key in find_replaced(executor.loader, migration)
        )
        self._places = {migration: place for place, (migration, _) in enumerate(order, 1)}
        self._revisions = {each.id: each for each in map(self._make_revision, self._places)}
        self._replaced = [
            Revision(each, name=each) for each in replaced if each not in self._revisions
        ]
        self._steps = [
            self._revisions.get(step_id, Revision(step_id, name=step_id))
            for migration, _ in self._find_steps()
            for step_id in [format_id((migration.app_label, migration.name))]
        ]
        self.total = len(self._steps)
        self._version_table = self._find_version_table()

    def _find_newest(self, count: int) -> list[tuple[Any, bool]]:
        """The last migrations that Django recorded, each after all that depend on it.

        Django records a squash at the end of the run, after migrations that depend on it.
        """
        rows = self._executor.recorder.applied_migrations()
        newest = sorted(rows, key=lambda key: rows[key].pk, reverse=True)
        remaining = dict.fromkeys(key for key in newest if key in self._graph.nodes)
        found: list[tuple[Any, bool]] = []
        while remaining and len(found) < count:
            key = next(
                key
                for key in remaining
                if not any(child.key in remaining for child in self._graph.node_map[key].children)
            )
            del remaining[key]
            found.append((self._graph.nodes[key], True))
        return found

    def _parse_target(self, target: str) -> list[str]:
        app, _, name = target.partition(".")
        apps = self._executor.loader.migrated_apps
        if not name or app not in apps:
            raise ChildError(
                f"--to {target}: write a migration as app.name, or app.zero to roll back the whole "
                f"app; apps with migrations: {', '.join(sorted(apps)) or 'none'}",
                kind="configuration",
            )
        return [app, name]

    def _make_revision(self, migration: Any) -> Revision:
        key = (migration.app_label, migration.name)
        parents = [format_id(parent.key) for parent in sorted(self._graph.node_map[key].parents)]
        try:
            path = make_relative(inspect.getfile(type(migration)), self._request.root)
        except (TypeError, OSError):
            path = ""
        return Revision(format_id(key), parents, format_id(key), path)

    def _find_steps(self) -> list[tuple[Any, bool]]:
        if self.rolled_back is not None:
            return self.rolled_back
        plan: list[tuple[Any, bool]] = self._executor.migration_plan(self._find_targets())
        is_down = self._request.command in ("down", "describe-down")
        if any(is_backwards != is_down for _, is_backwards in plan):
            if is_down:
                raise ChildError(
                    f"--to {self._request.to}: it is not applied, so nothing above it can be "
                    "rolled back; `lambda-migrate status` shows what is applied",
                    kind="configuration",
                )
            self.is_reached = True
            return []
        if is_down:
            return plan
        # The executor follows the order of the whole graph.
        return sorted(plan, key=lambda step: self._places.get(step[0], 0))

    def _find_targets(self) -> list[Any]:
        if not self.arguments:
            return list(self._graph.leaf_nodes())
        app, name = self.arguments
        if name == "zero":
            return [(app, None)]
        try:
            return [(app, self._executor.loader.get_migration_by_prefix(app, name).name)]
        except KeyError:
            raise ChildError(
                f"--to {app}.{name}: there is no such migration; `manage.py showmigrations {app}` "
                "lists the existing ones",
                kind="configuration",
            ) from None

    def send(self, channel: Channel) -> None:
        """Send it to the parent."""
        channel.send_plan(
            self._steps,
            applied=[format_id(key) for key in self._executor.loader.applied_migrations],
            heads=[format_id(key) for key in self._graph.leaf_nodes()],
            # The code has what a squash replaces, too: once that is applied, it is not ahead.
            graph=[*self._replaced, *self._revisions.values()],
            version_table=self._version_table,
            server=self._read_server() if self._request.command.startswith("describe") else (),
        )

    def _read_server(self) -> Any:
        with self._executor.connection.cursor() as cursor:
            cursor.execute(FenceQueries(self._request).read_server())
            return cursor.fetchone()

    def _find_version_table(self) -> tuple[str, str]:
        """Where Django's search path leads, which may be another one than lambda-migrate's."""
        table = MigrationRecorder.Migration._meta.db_table
        with self._executor.connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class c"
                " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.oid = pg_catalog.to_regclass(%s)), pg_catalog.current_schema(), '')",
                [table],
            )
            return cursor.fetchone()[0], table

    def make_step_id(self, migration: Any, position: int) -> str:
        """The id of a step; one in another schema than the plan's is named after that, too.

        The command of django-tenants runs every migration in each tenant's schema.

        Args:
            migration: The migration.
            position: How many steps have run.
        """
        step_id = format_id((migration.app_label, migration.name))
        if position < self.total and self._steps[position].id == step_id:
            return step_id
        schema, _ = self._find_version_table()
        return (
            step_id if schema == self._version_table[0] else f"{step_id}{LOG_ID_SEPARATOR}{schema}"
        )

    def find_path(self, step_id: str) -> str:
        """The file of a migration; "" if it has none."""
        revision = self._revisions.get(step_id.partition(LOG_ID_SEPARATOR)[0])
        return revision.path if revision is not None else ""

    def find_row(self, step_id: str) -> RevisionRow:
        """The row of an applied migration in the mirror."""
        revision = self._revisions.get(step_id)
        if revision is None:
            return RevisionRow(step_id, name=step_id)
        position = [*self._revisions].index(step_id) + 1
        return RevisionRow(step_id, revision.parents, position, revision.name)


def format_id(key: tuple[str, str]) -> str:
    """The id of a migration in the mirror."""
    return f"{key[0]}.{key[1]}"


def find_replaced(loader: Any, migration: Any) -> Iterator[tuple[str, str]]:
    """The migration, and before it those that it replaces, which may be squashes themselves."""
    for key in migration.replaces:
        replaced = loader.disk_migrations.get(tuple(key))
        if replaced is None:
            yield tuple(key)
        else:
            yield from find_replaced(loader, replaced)
    yield migration.app_label, migration.name
