"""`baseline` and `repair`: commands that change the history without running a migration."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lambda_migrate.adopt.adoption import RECORD_FILENAME, Adoption
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import EXIT_FAILED, CommandResult
from lambda_migrate.engine.operations import require_in_doubt
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.history import find_row
from lambda_migrate.migrations.version import RepeatableVersion, RevisionVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.migrations.baseline import Baseline
    from lambda_migrate.migrations.version import Version

__all__ = ["baseline", "format_gap_advice", "repair"]


def baseline(
    context: CommandContext,
    version: Version | None = None,
    *,
    from_tool: str = "",
    ignore_other_history: bool = False,
) -> CommandResult:
    """Mark migrations as applied without running them; asks first.

    Args:
        context: The target.
        version: The last migration that the database already has; None: those that another tool's
            history table lists as applied.
        from_tool: Which tool, or which table, if the database has several.
        ignore_other_history: Mark up to ``version`` whatever such a table lists.
    """
    if version is None:
        _require_own_files(context)
    options: dict[str, Any] = {"tool": from_tool, "ignore_other_history": ignore_other_history}
    operations = context.operations
    preview = operations.preview_baseline(version, context.deadline, **options)
    if preview.migrations and not context.prompter.confirm(_build_question(context, preview)):
        return _make_declined_result(context)
    marked = operations.baseline(version, context.deadline, expected=preview, **options)
    other = preview.tool_history
    return CommandResult(
        {
            **context.location,
            "marked_as_applied": list(marked),
            "from": None if other is None else {"tool": other.tool, "table": other.table},
            "compared": [asdict(each) for each in preview.compared],
            "gaps": list(preview.gaps),
        }
    )


def _require_own_files(context: CommandContext) -> None:
    """Refuse files that `adopt` has converted: the tool's history may have other versions."""
    adoption = Adoption.read(context.root / context.settings.directory)
    if adoption is not None:
        raise ConfigurationError(
            f"{RECORD_FILENAME} shows that these files were converted from {adoption.tool}'s: run "
            "`lambda-migrate adopt`, which knows their versions there; nothing was marked"
        )


def _build_question(context: CommandContext, preview: Baseline) -> Question:
    names = [migration.name for migration in preview.migrations]
    count = f"{len(names)} migration{'s' * (len(names) != 1)}"
    other = preview.tool_history
    source = "" if other is None else f", from {other.tool}'s history table {other.table}"
    return Question(
        command="baseline",
        text=f"mark {count} as applied?",
        heading=(
            f"this marks as applied, without running them, on {context.location['database']}"
            f"{source}:"
        ),
        location=context.location,
        migrations=[{"name": name, "applied_at": None} for name in names],
        notes=[format_gap_advice(preview.gaps)] if preview.gaps else [],
        compared=[asdict(each) for each in preview.compared],
    )


def format_gap_advice(gaps: Sequence[str]) -> str:
    """Say what to do about migrations that stay pending below one that is marked as applied."""
    stay, it = ("stays", "it") if len(gaps) == 1 else ("stay", "them")
    return (
        f"{', '.join(gaps)} {stay} pending below a version that is marked as applied, and "
        f"functions do not start until this is resolved: apply {it} with "
        "`LAMBDA_MIGRATE_ALLOW_OUT_OF_ORDER=true lambda-migrate up`, or rename the file to a "
        "higher version"
    )


def repair(
    context: CommandContext,
    version: Version | None = None,
    *,
    declared_state: str | None = None,
    force: bool = False,
    environment: str | None = None,
) -> CommandResult:
    """Resolve a migration whose outcome is unknown; asks first.

    Args:
        context: The target.
        version: The version to resolve.
        declared_state: ``applied`` or ``pending`` for a migration in doubt; ``edited`` to accept a
            changed file.
        force: Remove the row of a migration that is not in doubt as well.
        environment: If given, and neither of the two: record in the database the environment of
            the context's settings, which is this one.
    """
    if version is None and declared_state is None and environment is not None:
        return _record_environment(context)
    if version is None or declared_state is None:
        raise ConfigurationError(
            "`repair` needs a version or an environment: write `repair VERSION --as "
            "applied|pending|edited`, or `repair --environment NAME` to record another one in the "
            "database"
        )
    return _resolve(context, version, declared_state, force=force)


def _resolve(
    context: CommandContext, version: Version, declared_state: str, *, force: bool
) -> CommandResult:
    consequence = _CONSEQUENCES_BY_STATE.get(declared_state)
    if consequence is None:
        raise ConfigurationError(
            f"--as {declared_state!r} for version {version}: write one of "
            f"{', '.join(_CONSEQUENCES_BY_STATE)}"
        )
    name, completed = _find_name(
        context, version, must_be_in_doubt=declared_state == "pending" and not force
    )
    if declared_state == "pending" and isinstance(version, RepeatableVersion):
        consequence = _REPEATABLE_PENDING
    question = Question(
        command="repair",
        text=f"record {name} as {declared_state}?",
        heading=consequence.format(name=name, database=context.location["database"]),
        location=context.location,
        notes=[_format_completed(completed)] if completed else [],
    )
    if not context.prompter.confirm(question):
        return _make_declined_result(context)
    repaired = context.operations.repair(
        version, context.deadline, declared_state=declared_state, force=force
    )
    return CommandResult({**context.location, "repaired": repaired, "as": declared_state})


_CONSEQUENCES_BY_STATE = {
    "applied": "this marks {name} as applied on {database} without running it.",
    "pending": (
        "this removes {name} from the history of {database} without rolling anything back; the "
        "next `up` runs it again."
    ),
    "edited": (
        "this accepts the current file of {name} for the history of {database} without running it."
    ),
}

_REPEATABLE_PENDING = (
    "this marks {name} on {database} as pending without rolling anything back; the next `up` "
    "applies the text of its file."
)


def _format_completed(count: int) -> str:
    return (
        f"this applies to the whole script, {count} of whose statements "
        f"{'has' if count == 1 else 'have'} taken effect"
    )


def _find_name(
    context: CommandContext, version: Version, *, must_be_in_doubt: bool
) -> tuple[str, int]:
    """The migration's name, and how many statements are complete if it was interrupted."""
    operations = context.operations
    history = operations.target.database.read_history(context.deadline)
    row = find_row(history, version)
    migration = operations.manifest.get(version)
    if row is None and isinstance(version, RevisionVersion):
        raise ConfigurationError(
            f"{version} is not in doubt, so there is nothing to resolve: `lambda-migrate status` "
            "shows the migrations that are"
        )
    if row is not None:
        require_in_doubt(row, force=not must_be_in_doubt)
        return row.name, row.completed_statements if row.is_in_doubt else 0
    return (migration.name if migration is not None else f"version {version}"), 0


def _record_environment(context: CommandContext) -> CommandResult:
    environment = context.settings.environment
    if not environment:
        raise ConfigurationError("`repair` needs an environment: write `repair --environment NAME`")
    database = context.location["database"]
    question = Question(
        command="repair",
        text=f"record {environment!r}?",
        heading=(
            f"this records the environment {environment!r} in {database}; functions of another "
            "environment are refused there."
        ),
        location=context.location,
    )
    if not context.prompter.confirm(question):
        return _make_declined_result(context)
    context.operations.record_environment(context.deadline)
    return CommandResult({**context.location, "recorded_environment": environment})


def _make_declined_result(context: CommandContext) -> CommandResult:
    return CommandResult({**context.location, "confirmed": False}, EXIT_FAILED)
