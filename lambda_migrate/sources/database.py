"""A database that another tool migrates: the port to PostgreSQL, whose steps a child runs.

Every cold start of such a function creates one, so this module imports next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow
    from lambda_migrate.migrations.baseline import ToolHistory
    from lambda_migrate.migrations.requirement_check import RequirementInspection
    from lambda_migrate.migrations.requirements import Requirement
    from lambda_migrate.migrations.revisions import RevisionHistory
    from lambda_migrate.postgresql.database import PostgreSQLDatabase
    from lambda_migrate.postgresql.mirror import RevisionSession
    from lambda_migrate.postgresql.ports import DatabaseInspection, LeaseGrant, ToolCommand
    from lambda_migrate.sources.protocol import ChildRequest
    from lambda_migrate.sources.session import ToolSession

__all__ = ["ToolDatabase", "ToolProject"]


class ToolProject(NamedTuple):
    """A tool with its project.

    Attributes:
        tool: ``alembic`` or ``django``.
        root: The folder of the code.
        options: The settings of the tool, by name.
        scope: See `MirrorQueries`.
    """

    tool: str
    root: str
    options: Mapping[str, Any]
    scope: str

    def read_modules(self, deadline: Deadline) -> tuple[dict[str, str], dict[str, str]]:
        """The module of migrations of each app and its folder; no database is needed.

        Raises:
            ConfigurationError: The project cannot be loaded.
        """
        from lambda_migrate.sources.protocol import ChildRequest
        from lambda_migrate.sources.session import read_modules

        request = ChildRequest(
            self.tool,
            "manifest",
            self.root,
            self.options,
            self.scope,
            schema="",
            deadline_seconds=deadline.remaining(),
        )
        return read_modules(request, deadline)


class ToolDatabase:
    """`Database` whose migrations another tool applies.

    Args:
        database: The database, with a mirror.
        project: The tool.
    """

    def __init__(self, database: PostgreSQLDatabase, project: ToolProject) -> None:
        self._database = database
        self._project = project

    @property
    def tool(self) -> str:
        """The tool's name."""
        return self._project.tool

    @property
    def address_text(self) -> str:
        """See `Database.address_text`."""
        return self._database.address_text

    @property
    def placeholders(self) -> Mapping[str, str]:
        """See `Database.placeholders`; only SQL files have some."""
        return {}

    def inspect(self, deadline: Deadline) -> DatabaseInspection:
        """See `Database.inspect`."""
        return self._database.inspect(deadline)

    def read_history(self, deadline: Deadline) -> Sequence[HistoryRow]:
        """See `Database.read_history`."""
        return self.inspect(deadline).history

    def add_revision_graph(
        self,
        history: Sequence[HistoryRow],
        deadline: Deadline,
        *,
        command: ToolCommand | None = None,
    ) -> RevisionHistory:
        """See `Database.add_revision_graph`."""
        from lambda_migrate.migrations.revisions import RevisionHistory
        from lambda_migrate.sources.session import read_revision_graph

        name = "describe-down" if command is not None and command.name == "down" else "describe"
        fields = {} if command is None else {"to": command.to or None, "steps": command.steps}
        graph = read_revision_graph(self._make_request(name, deadline, **fields), deadline)
        if not isinstance(history, RevisionHistory):  # there are no tables yet
            history = RevisionHistory(lists_every_revision=self.tool == "django")
        return history.with_revision_graph(graph)

    def _make_request(self, command: str, deadline: Deadline, **fields: Any) -> ChildRequest:
        """The request of a command to a child; without a grant, of one that changes nothing."""
        from lambda_migrate.sources.protocol import ChildRequest

        return ChildRequest(
            **{
                "tool": self._project.tool,
                "command": command,
                "root": self._project.root,
                "options": self._project.options,
                "scope": self._project.scope,
                "schema": self._database.schema,
                "application_name": "lambda-migrate status",
                "deadline_seconds": deadline.remaining(),
                "lock_timeout_ms": round(self._database.lock_timeout_seconds * 1000),
                **fields,
            }
        )

    def open_session(
        self, grant: LeaseGrant, deadline: Deadline, *, terminate_holders: bool = True
    ) -> ToolSession:
        """See `Database.open_session`."""
        from lambda_migrate.sources.session import ToolSession

        request = self._make_request(
            "up",
            deadline,
            target=grant.target,
            fence=grant.fence,
            owner=grant.owner,
            request_id=grant.request_id,
        )
        session = self._database.open_session(grant, deadline, terminate_holders=terminate_holders)
        return ToolSession(
            cast("RevisionSession", session),
            request,
            deadline,
            keeps_connection=not terminate_holders,
        )

    def begin_dry_run(self, grant: LeaseGrant, deadline: Deadline) -> NoReturn:  # noqa: ARG002
        """See `Database.begin_dry_run`.

        The tool begins its own transaction: `Operations.dry_run` asks it by a `ToolCommand`.
        """
        from lambda_migrate.migrations.revisions import make_sql_only_error

        raise make_sql_only_error(self.tool, "this kind of dry run", "run `plan --dry-run`")

    def inspect_requirements(
        self, requirements: Sequence[Requirement], deadline: Deadline
    ) -> RequirementInspection:
        """See `Database.inspect_requirements`."""
        return self._database.inspect_requirements(requirements, deadline)

    def read_tool_histories(self, deadline: Deadline) -> list[ToolHistory]:  # noqa: ARG002
        """See `Database.read_tool_histories`; the tool's own table is the authority here."""
        return []
