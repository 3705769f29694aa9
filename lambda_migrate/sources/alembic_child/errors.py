"""Errors of Alembic, SQLAlchemy and drivers, translated for the parent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.script.revision import CycleDetected, RevisionError
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.sources.alembic_child.connections import find_sqlstate
from lambda_migrate.sources.protocol import ChildError, make_import_error
from lambda_migrate.sources.user_code import describe_error, find_location

if TYPE_CHECKING:
    from lambda_migrate.sources.alembic_child.fence import CurrentStep

__all__ = ["describe_graph_fault", "is_missing_dependency", "translate_error"]

_CORRECT_PARENTS = "correct down_revision or depends_on in these files"
_GRAPH_ADVICE = (
    ("is present more than once", "give one of the files another revision id"),
    ("is not present", "deploy its file, or correct down_revision"),
)


def is_missing_dependency(error: BaseException) -> bool:
    """Whether Alembic did not find a revision that ``depends_on`` names."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame.f_globals if trace is not None else {}
    return isinstance(error, KeyError) and frame.get("__name__") == RevisionError.__module__


def describe_graph_fault(error: BaseException) -> str:
    """What is wrong with the revisions, and what to do."""
    if isinstance(error, KeyError):
        return (
            f"there is no revision {error.args[0]}, which depends_on names: deploy its file, or "
            "correct depends_on"
        )
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error.__cause__ or error, CycleDetected):
        return f"{text}: {_CORRECT_PARENTS}"
    advice = (advice for fault, advice in _GRAPH_ADVICE if fault in text)
    return f"{text}; {next(advice, 'correct the revisions')}"


def translate_error(
    error: BaseException, step: CurrentStep | None, *, root: str, script_location: str
) -> ChildError:
    """The error of env.py or of a revision.

    Args:
        error: What was raised.
        step: The step that was running.
        root: The folder of the code.
        script_location: The folder of env.py.
    """
    own = Path(script_location).resolve()
    path, line = find_location(
        error,
        lambda file: file.is_relative_to(own) or (step is not None and str(file) == step.path),
        root=root,
    )
    step_id = step.row.id if step is not None else ""
    if isinstance(error, ImportError):
        return make_import_error(error, step_id=step_id, path=path, line=line)
    error = _find_lost_connection(error) or error
    detail = ""
    if isinstance(error, DBAPIError) and error.statement:
        detail = f"  statement: {_shorten(redact(error.statement))}"
    sqlstate = find_sqlstate(error)
    return ChildError(
        redact(_find_message(error)),
        kind=_find_kind(error, sqlstate, is_in_step=step is not None),
        step_id=step_id,
        is_partly_committed=step is not None and step.has_committed,
        sqlstate=sqlstate,
        detail=detail,
        path=path,
        line=line,
    )


def _find_kind(error: BaseException, sqlstate: str, *, is_in_step: bool) -> str:
    is_unreachable = isinstance(error, (DBAPIError, OSError)) and not sqlstate
    if _is_lost_connection(error):
        return "unavailable"
    if not is_in_step and (is_unreachable or sqlstate.startswith("53")):
        return "unavailable"
    if sqlstate.startswith(("28", "3D")):
        return "configuration"
    is_in_files = isinstance(error, (CommandError, RevisionError, SyntaxError))
    return "manifest" if is_in_files else "migration"


def _find_lost_connection(error: BaseException) -> BaseException | None:
    """The first error with which a connection broke, if this one was raised because of it.

    Only statements that SQLAlchemy sends have its errors; the ones after it fail with others.
    """
    found: BaseException | None = None
    each: BaseException | None = error
    while each is not None:
        found = each if _is_lost_connection(each) else found
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return found


def _is_lost_connection(error: BaseException) -> bool:
    sqlstate = find_sqlstate(error)
    if sqlstate:
        return sqlstate.startswith(("08", "57P"))
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # By the names that PEP 249 gives them: env.py chooses the driver.
    name = type(error).__name__
    return name == "OperationalError" or (
        name == "InterfaceError" and re.search("connection|network", str(error)) is not None
    )


def _find_message(error: BaseException) -> str:
    if isinstance(error, RevisionError) or isinstance(error.__cause__, RevisionError):
        return describe_graph_fault(error)
    original = getattr(error, "orig", None) or error
    fields = original.args[0] if original.args else None
    if isinstance(fields, dict):
        return str(fields.get("M", fields))
    if isinstance(error, (DBAPIError, CommandError)):
        lines = str(original).strip().splitlines() or [type(error).__name__]
        return re.sub(r"^<class '[^']*'>: ", "", lines[0])
    return describe_error(original)


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 300 else flat[:299] + "…"
