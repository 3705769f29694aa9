"""The child process, which `ChildProcess` starts.

It reads the request, loads the module of the tool and calls its ``run(request, channel)``. An
error ends as one event; nothing of it is printed.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lambda_migrate.sources.protocol import Channel, ChildError, make_import_error, read_request
from lambda_migrate.sources.user_code import describe_error, find_location

if TYPE_CHECKING:
    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["main"]

TOOL_MODULES = {
    "alembic": "lambda_migrate.sources.alembic_child.run",
    "django": "lambda_migrate.sources.django_child.run",
}

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run one request; the exit status is 0 if it was done or stopped, 1 if it failed."""
    atexit.register(_end_without_finalization)  # the first one to be registered is the last to run
    channel = Channel.open()
    _die_with_parent()
    channel.watch_parent()
    request = read_request(channel)
    try:
        _import_tool(request).run(request, channel)
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        known = error if isinstance(error, ChildError) else _describe_error(error, request)
        channel.send("failed", **known.fields)
        atexit.unregister(_end_without_finalization)
        sys.exit(1)


def _import_tool(request: ChildRequest) -> Any:
    """Import the tool's module, and make the modules of the code importable.

    The folder of the code comes last meanwhile: a project often has a folder ``alembic``. After
    that it is where the parent has it; by default, where the tool's own command has it: first for
    ``manage.py``, last for ``alembic``, which has `prepend_sys_path`.
    """
    path, root = sys.path, os.path.realpath(request.root)
    sys.path = [each for each in path if os.path.realpath(each) != root]
    is_on_path = sys.path != path
    sys.path.append(root)
    module = importlib.import_module(TOOL_MODULES[request.tool])
    if is_on_path:
        sys.path = path
    elif request.tool == "django":
        sys.path = [root, *path]
    return module


def _end_without_finalization() -> None:
    """Exit immediately, after the functions that the tool and its application have registered.

    The holder waits for this process to end. Python would first free each object of a loaded
    application, which takes 0.1 to 0.2 s of CPU.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _die_with_parent() -> None:
    """Have Linux end this process with its parent, even while C code runs; elsewhere the pipe does.

    Signals of the terminal are the parent's: it stops the child when it has decided to.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _describe_error(error: BaseException, request: ChildRequest) -> ChildError:
    """An error that the tool's module did not translate, with the last line of the user's code."""
    path, line = find_location(error, root=request.root)
    if isinstance(error, ImportError):
        if not path and error.name in (request.tool, "sqlalchemy"):
            return ChildError(
                f"{error.name} is not installed where the migrations run: add "
                f"lambda-migrate[{request.tool}] to the package",
                kind="configuration",
            )
        return make_import_error(error, path=path, line=line)
    return ChildError(
        describe_error(error),
        kind="manifest" if isinstance(error, SyntaxError) else "migration",
        detail="" if path else "".join(traceback.format_exception(error)[-20:]),
        path=path,
        line=line,
    )
