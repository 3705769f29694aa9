"""Bytecode for a given Python, and zips that are the same byte for byte when built again.

Lambda unpacks a zip with the times that it names, or others: bytecode that is checked by the
source's time would be stale, and compiled anew by every cold start. So it is made with
``unchecked-hash`` (PEP 552): nobody compares it with anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lambda_migrate.errors import ConfigurationError

__all__ = ["Archive", "compile_bytecode", "find_interpreter", "write_zip"]

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can name."""

_ORDINARY, _EXECUTABLE, _REGULAR = 0o644, 0o755, 0o100000
_VERSION = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip that was written.

    Attributes:
        path: Where it is.
        packed: Bytes of the zip: at most 50 MB can be uploaded without S3.
        unpacked: Bytes of its files: at most 250 MB, with those of all layers.
        files: How many.
    """

    path: Path
    packed: int
    unpacked: int
    files: int


def find_interpreter(version: str, *, named: str = "") -> str:
    """A CPython of this version: the one at work, on the PATH, of pyenv or of uv.

    Args:
        version: ``3.13``.
        named: Where it is, if somebody says so.

    Raises:
        ConfigurationError: There is none; with what to do.
    """
    candidates = [named] if named else [sys.executable, *_candidates(version)]
    for candidate in candidates:
        if _says(candidate) == f"cpython {version}":
            return candidate
    if named:
        raise ConfigurationError(f"{named} is no CPython {version}; it says {_says(named)!r}")
    raise ConfigurationError(
        f"no CPython {version} was found to make bytecode with: install it (pyenv install "
        f"{version}, uv python install {version}, or your distribution's python{version}), say "
        "where it is with --interpreter, or build with --no-bytecode and slower cold starts"
    )


def _candidates(version: str) -> Iterator[str]:
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or "~/.local/share/uv/python").expanduser()
    for home in (
        *sorted(pyenv.glob(f"versions/{version}.*")),
        *sorted(uv.glob(f"cpython-{version}.*")),
    ):
        yield str(home / "bin" / f"python{version}")


def _says(interpreter: str) -> str:
    """Implementation and version; "" of what is no Python."""
    try:
        answer = subprocess.run(  # noqa: S603 - an interpreter that was found or named
            [interpreter, "-I", "-c", _VERSION], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip()


def compile_bytecode(folder: Path, *, interpreter: str, root: str) -> None:
    """Compile every source below ``folder``, as it will lie below ``root`` in Lambda.

    Args:
        folder: Sources; ``__pycache__`` folders are made in it.
        interpreter: Of the runtime's version.
        root: ``/var/task``: stands in the bytecode instead of a folder of this machine.

    Raises:
        ConfigurationError: A source cannot be compiled.
    """
    answer = subprocess.run(  # noqa: S603 - see `find_interpreter`
        [
            *(interpreter, "-m", "compileall", "-q", "-f", "-j", "1"),
            *("--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", root),
            str(folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        # Sets among a module's constants are written in the order of their hashes.
        env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"},
    )
    if answer.returncode:
        said = (answer.stdout + answer.stderr).strip()
        raise ConfigurationError(f"{interpreter} could not compile everything: {said}")


def write_zip(folder: Path, path: Path, *, below: str = "") -> Archive:
    """Pack a folder: names in order, one time, ordinary permissions.

    Args:
        folder: What goes in.
        path: The zip.
        below: A folder inside the zip.
    """
    names = sorted(each.relative_to(folder).as_posix() for each in _files(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            _add(archive, folder / name, f"{below}{name}")
    unpacked = sum((folder / name).stat().st_size for name in names)
    return Archive(path, path.stat().st_size, unpacked, len(names))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.create_system = 3  # Unix, wherever this runs: permissions follow
    mode = _EXECUTABLE if path.suffix == ".so" else _ORDINARY
    entry.external_attr = (_REGULAR | mode) << 16
    archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
