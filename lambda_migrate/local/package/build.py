"""What is uploaded to Lambda: a function's package, and a layer with lambda-migrate alone.

    python -m lambda_migrate.local.package               dist/function.zip and dist/layer.zip
    python -m lambda_migrate.local.package --into DIR    the function unpacked, for `sam build`

Only what Lambda needs goes in: the application without its tests, this package without what is
for workstations, the dependencies that ``requirements.txt`` pins, and bytecode of the runtime's
Python. boto3 and botocore do not: the runtime has them, and they are three times as large as all
the rest.

The standard library and pip suffice, so that `sam build` runs it with any Python.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.package.archive import (
    Archive,
    compile_bytecode,
    find_interpreter,
    write_zip,
)

__all__ = ["ARCHITECTURE", "PYTHON", "Recipe", "build", "main", "make_function"]

PYTHON = "3.13"
ARCHITECTURE = "arm64"
"""What template.yaml has by default."""

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "lambda_migrate"

FOR_WORKSTATIONS = ("cli", "local", "testing", "__main__.py")
"""What of this package stays at home."""

_PLATFORMS = {"arm64": "manylinux2014_aarch64", "x86_64": "manylinux2014_x86_64"}
"""The oldest system of any Lambda runtime, Amazon Linux 2, has glibc 2.26."""

_NOT_RUN = ("*.pyi", "py.typed", "*.c", "*.h", "*-stubs", "bin", "tests", "__pycache__")
_OF_PIP = ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "top_level.txt")
"""Notes of an installation; METADATA, which versions are read from, and licences stay."""

_THE_EXAMPLES_OWN = ("aws-xray-sdk==", "wrapt==")
"""Pinned for the example's Tracer; lambda-migrate loads neither."""

_PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to build, for which runtime.

    Attributes:
        application: The folder with handler, migrations and ``requirements.txt``.
        python: Version of the runtime.
        architecture: ``arm64`` or ``x86_64``.
        interpreter: Makes the bytecode; "" makes none.
    """

    application: Path
    python: str = PYTHON
    architecture: str = ARCHITECTURE
    interpreter: str = ""


def make_function(recipe: Recipe, into: Path) -> None:
    """Fill a folder with what Lambda unpacks at ``/var/task``.

    Raises:
        ConfigurationError: The application is not there, a requirement is not pinned, pip cannot
            get one, or a source cannot be compiled.
    """
    _gather_library(recipe, into)
    _gather_application(recipe, into)
    _finish(into, recipe, root="/var/task")


def build(recipe: Recipe, output: Path) -> list[Archive]:
    """Write ``function.zip`` and ``layer.zip``.

    The layer, which Lambda unpacks at ``/opt``, is lambda-migrate and what it loads, for functions
    that bring nothing but themselves.

    Raises:
        ConfigurationError: See `make_function`.
    """
    with tempfile.TemporaryDirectory(prefix="lm-package-") as home:
        function, layer = Path(home, "function"), Path(home, "layer")
        _gather_library(recipe, layer)
        shutil.copytree(layer, function)
        _gather_application(recipe, function)
        _finish(function, recipe, root="/var/task")
        _finish(layer, recipe, root="/opt/python")
        return [
            write_zip(function, output / "function.zip"),
            write_zip(layer, output / "layer.zip", below="python/"),
        ]


def _gather_library(recipe: Recipe, into: Path) -> None:
    pins = _pins(recipe.application)
    _install([pin for pin in pins if not pin.startswith(_THE_EXAMPLES_OWN)], recipe, into)
    _copy_library(into)


def _gather_application(recipe: Recipe, into: Path) -> None:
    pins = _pins(recipe.application)
    _install([pin for pin in pins if pin.startswith(_THE_EXAMPLES_OWN)], recipe, into)
    _copy_application(recipe.application, into)


def _pins(application: Path) -> list[str]:
    """What ``requirements.txt`` asks for, all of it pinned; lambda-migrate is this checkout."""
    path = application / "requirements.txt"
    if not path.is_file():
        raise ConfigurationError(f"{path} is not there: it says what goes into the package")
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    wanted = [line for line in lines if line and line != "lambda-migrate"]
    loose = [line for line in wanted if not _PIN.fullmatch(line)]
    if loose:
        raise ConfigurationError(
            f"{path}: {', '.join(loose)}: write name==version, for what they depend on as well: "
            "what is built again must be the same again"
        )
    return wanted


def _install(pins: Sequence[str], recipe: Recipe, into: Path) -> None:
    if not pins:
        return
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(into), "--no-deps", "--no-compile", "--only-binary", ":all:"),
        *("--python-version", recipe.python, "--implementation", "cp"),
        *("--platform", _PLATFORMS[recipe.architecture]),
        *pins,
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if answer.returncode:
        raise ConfigurationError(f"pip cannot get what is pinned: {answer.stderr.strip()}")


def _copy_library(into: Path) -> None:
    leave = shutil.ignore_patterns("__pycache__", "py.typed")

    def ignored(folder: str, names: list[str]) -> set[str]:
        home = FOR_WORKSTATIONS if Path(folder) == LIBRARY else ()
        return {*leave(folder, names), *(name for name in names if name in home)}

    shutil.copytree(LIBRARY, into / LIBRARY.name, ignore=ignored)


def _copy_application(application: Path, into: Path) -> None:
    leave = shutil.ignore_patterns(
        "tests", "__pycache__", "*.md", "requirements.txt", "roles.sql", ".*"
    )
    shutil.copytree(application, into, ignore=leave, dirs_exist_ok=True)


def _finish(folder: Path, recipe: Recipe, *, root: str) -> None:
    _remove(path for name in _NOT_RUN for path in folder.rglob(name))
    _remove(path for name in _OF_PIP for path in folder.glob(f"*.dist-info/{name}"))
    if recipe.interpreter:
        compile_bytecode(folder, interpreter=recipe.interpreter, root=root)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it went with its folder


def _table(archives: Sequence[Archive], recipe: Recipe) -> str:
    """The sizes, as a table in Markdown."""
    bytecode = "with bytecode" if recipe.interpreter else "WITHOUT bytecode"
    lines = [
        f"| Python {recipe.python}, {recipe.architecture}, {bytecode} | files | unpacked | zip |",
        "|---|---|---|---|",
    ]
    for each in archives:
        sizes = " | ".join(f"{size / 1e6:.2f} MB" for size in (each.unpacked, each.packed))
        lines.append(f"| `{each.path.name}` | {each.files} | {sizes} |")
    return "\n".join(lines)


_BEGIN, _END = "<!-- sizes: written by `make package` -->", "<!-- end of sizes -->"


def _write_into(page: Path, table: str) -> None:
    text = page.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ConfigurationError(f"{page} has no place for the sizes: {_BEGIN} ... {_END}")
    page.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lambda_migrate.local.package")
    parser.add_argument("--application", type=Path, default=ROOT / "examples" / "orders")
    parser.add_argument("--python", default=PYTHON, help="version of the runtime: 3.13")
    parser.add_argument("--architecture", default=ARCHITECTURE, choices=sorted(_PLATFORMS))
    parser.add_argument("--interpreter", default="", help="a CPython of that version")
    parser.add_argument("--no-bytecode", action="store_true", help="cold starts will compile")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="where the zips go")
    parser.add_argument("--into", type=Path, help="fill this folder with the function instead")
    parser.add_argument("--page", type=Path, help="a page to write the sizes into")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        _act(given)
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    return 0


def _act(given: argparse.Namespace) -> None:
    interpreter = (
        "" if given.no_bytecode else find_interpreter(given.python, named=given.interpreter)
    )
    recipe = Recipe(given.application, given.python, given.architecture, interpreter)
    if given.into:
        make_function(recipe, given.into)
        return
    table = _table(build(recipe, given.output), recipe)
    print(table)  # noqa: T201 - what the command is for
    if given.page:
        _write_into(given.page, table)
