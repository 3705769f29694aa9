"""Builds what is uploaded to Lambda: a function's package, and a layer with lambda-migrate.

    python -m lambda_migrate.local.package               dist/function.zip and dist/layer.zip
    python -m lambda_migrate.local.package --into DIR    the function unpacked, for `sam build`

A package has only what Lambda needs: the application without tests, lambda-migrate without its
modules for workstations, the dependencies pinned in ``requirements.txt``, and bytecode for the
runtime's Python. It leaves out boto3 and botocore, which the runtime has and which are three times
as large as the rest.

It needs only the standard library and pip, so `sam build` can run it with any Python.
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

__all__ = ["ARCHITECTURE", "PYTHON", "BuildOptions", "build", "build_function", "main"]

PYTHON = "3.13"
ARCHITECTURE = "arm64"
"""The defaults of template.yaml."""

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "lambda_migrate"

NOT_FOR_LAMBDA = ("cli", "local", "testing", "__main__.py")
"""Parts of lambda-migrate that a function does not need."""

_PLATFORMS = {"arm64": "manylinux2014_aarch64", "x86_64": "manylinux2014_x86_64"}
"""manylinux2014 needs glibc 2.17; the oldest of any Lambda runtime, in Amazon Linux 2, is 2.26."""

_UNUSED_FILES = ("*.pyi", "py.typed", "*.c", "*.h", "*-stubs", "bin", "tests", "__pycache__")
_PIP_FILES = ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "top_level.txt")
"""Records of an installation. METADATA, from which versions are read, and licences stay."""

_EXAMPLE_ONLY = ("aws-xray-sdk==", "wrapt==")
"""Needed by the example's Tracer, not by lambda-migrate."""

_PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build, and for which runtime.

    Attributes:
        application: The folder with handler, migrations and ``requirements.txt``.
        python: Version of the runtime's Python.
        architecture: ``arm64`` or ``x86_64``.
        interpreter: Compiles the bytecode; "" for none.
    """

    application: Path
    python: str = PYTHON
    architecture: str = ARCHITECTURE
    interpreter: str = ""


def build_function(options: BuildOptions, into: Path) -> None:
    """Fill a folder with the content of ``/var/task``.

    Raises:
        ConfigurationError: The application is missing, a requirement is not pinned or cannot be
            installed, or a source file cannot be compiled.
    """
    _add_library(options, into)
    _add_application(options, into)
    _clean_and_compile(into, options, root="/var/task")


def build(options: BuildOptions, output: Path) -> list[Archive]:
    """Write ``function.zip`` and ``layer.zip``.

    The layer, which Lambda unpacks at ``/opt``, has lambda-migrate and its dependencies.

    Raises:
        ConfigurationError: See `build_function`.
    """
    with tempfile.TemporaryDirectory(prefix="lm-package-") as home:
        function, layer = Path(home, "function"), Path(home, "layer")
        _add_library(options, layer)
        shutil.copytree(layer, function)
        _add_application(options, function)
        _clean_and_compile(function, options, root="/var/task")
        _clean_and_compile(layer, options, root="/opt/python")
        return [
            write_zip(function, output / "function.zip"),
            write_zip(layer, output / "layer.zip", prefix="python/"),
        ]


def _add_library(options: BuildOptions, into: Path) -> None:
    pins = _read_pins(options.application)
    _install([pin for pin in pins if not pin.startswith(_EXAMPLE_ONLY)], options, into)
    _copy_library(into)


def _add_application(options: BuildOptions, into: Path) -> None:
    pins = _read_pins(options.application)
    _install([pin for pin in pins if pin.startswith(_EXAMPLE_ONLY)], options, into)
    _copy_application(options.application, into)


def _read_pins(application: Path) -> list[str]:
    """Read the pinned requirements; lambda-migrate itself comes from this checkout."""
    path = application / "requirements.txt"
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing: list the dependencies of the package there")
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    pins = [line for line in lines if line and line != "lambda-migrate"]
    unpinned = [line for line in pins if not _PIN.fullmatch(line)]
    if unpinned:
        raise ConfigurationError(
            f"{path}: {', '.join(unpinned)}: pin a version (name==version), for indirect "
            "dependencies, too, so that builds are reproducible"
        )
    return pins


def _install(pins: Sequence[str], options: BuildOptions, into: Path) -> None:
    if not pins:
        return
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(into), "--no-deps", "--no-compile", "--only-binary", ":all:"),
        *("--python-version", options.python, "--implementation", "cp"),
        *("--platform", _PLATFORMS[options.architecture]),
        *pins,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ConfigurationError(
            f"pip cannot install the pinned requirements: {done.stderr.strip()}"
        )


def _copy_library(into: Path) -> None:
    ignore_files = shutil.ignore_patterns("__pycache__", "py.typed")

    def ignore(folder: str, names: list[str]) -> set[str]:
        unneeded = NOT_FOR_LAMBDA if Path(folder) == LIBRARY else ()
        return {*ignore_files(folder, names), *(name for name in names if name in unneeded)}

    shutil.copytree(LIBRARY, into / LIBRARY.name, ignore=ignore)


def _copy_application(application: Path, into: Path) -> None:
    ignore = shutil.ignore_patterns(
        "tests", "__pycache__", "*.md", "requirements.txt", "roles.sql", ".*"
    )
    shutil.copytree(application, into, ignore=ignore, dirs_exist_ok=True)


def _clean_and_compile(folder: Path, options: BuildOptions, *, root: str) -> None:
    _remove(path for name in _UNUSED_FILES for path in folder.rglob(name))
    _remove(path for name in _PIP_FILES for path in folder.glob(f"*.dist-info/{name}"))
    if options.interpreter:
        compile_bytecode(folder, interpreter=options.interpreter, root=root)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # may be gone with its folder


def _format_table(archives: Sequence[Archive], options: BuildOptions) -> str:
    """Format the sizes as a Markdown table."""
    bytecode = "with bytecode" if options.interpreter else "WITHOUT bytecode"
    lines = [
        f"| Python {options.python}, {options.architecture}, {bytecode} | files | unpacked | zip |",
        "|---|---|---|---|",
    ]
    for each in archives:
        sizes = " | ".join(
            f"{size / 1e6:.2f} MB" for size in (each.unzipped_bytes, each.zipped_bytes)
        )
        lines.append(f"| `{each.path.name}` | {each.files} | {sizes} |")
    return "\n".join(lines)


_BEGIN, _END = "<!-- sizes: written by `make package` -->", "<!-- end of sizes -->"


def _replace_table_in_page(page: Path, table: str) -> None:
    text = page.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ConfigurationError(f"{page} lacks the markers of the sizes: {_BEGIN} ... {_END}")
    page.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lambda_migrate.local.package")
    parser.add_argument("--application", type=Path, default=ROOT / "examples" / "orders")
    parser.add_argument(
        "--python", default=PYTHON, help="version of the runtime's Python, such as 3.13"
    )
    parser.add_argument("--architecture", default=ARCHITECTURE, choices=sorted(_PLATFORMS))
    parser.add_argument(
        "--interpreter",
        default="",
        help="path of a CPython of that version, which compiles the bytecode",
    )
    parser.add_argument(
        "--no-bytecode", action="store_true", help="leave out bytecode; cold starts are then slower"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the zips")
    parser.add_argument(
        "--into", type=Path, help="fill this folder with the function instead of writing zips"
    )
    parser.add_argument("--page", type=Path, help="a Markdown page to write the sizes into")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lambda_migrate.local.package``: see the module's docstring."""
    parser = _make_parser()
    namespace = parser.parse_args(arguments)
    try:
        _run(namespace)
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    return 0


def _run(arguments: argparse.Namespace) -> None:
    interpreter = (
        ""
        if arguments.no_bytecode
        else find_interpreter(arguments.python, path=arguments.interpreter)
    )
    options = BuildOptions(
        arguments.application, arguments.python, arguments.architecture, interpreter
    )
    if arguments.into:
        build_function(options, arguments.into)
        return
    table = _format_table(build(options, arguments.output), options)
    print(table)  # noqa: T201 - the output of the command
    if arguments.page:
        _replace_table_in_page(arguments.page, table)
