"""Bytecode for a given Python version, and reproducible zips.

Python recompiles bytecode if the time of the source differs from the recorded one, and the times
of the files that Lambda unpacks are not certain. So the bytecode is compiled with
``unchecked-hash`` (PEP 552), which Python never compares with the source.
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

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can contain."""

_ORDINARY, _EXECUTABLE, _REGULAR = 0o644, 0o755, 0o100000
_VERSION = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file.

    Attributes:
        path: Its path.
        zipped_bytes: Size of the zip in bytes; without S3 at most 50 MB can be uploaded.
        unzipped_bytes: Size of its files in bytes; at most 250 MB with all layers.
        files: Number of files.
    """

    path: Path
    zipped_bytes: int
    unzipped_bytes: int
    files: int


def find_interpreter(version: str, *, path: str = "") -> str:
    """Find CPython of this version: this interpreter, or one on the PATH, of pyenv or of uv.

    Args:
        version: ``3.13``.
        path: Use this interpreter.

    Raises:
        ConfigurationError: There is none; the message lists how to get one.
    """
    candidates = [path] if path else [sys.executable, *_list_candidates(version)]
    for candidate in candidates:
        if _read_version(candidate) == f"cpython {version}":
            return candidate
    if path:
        raise ConfigurationError(f"{path} is not CPython {version}, but {_read_version(path)!r}")
    raise ConfigurationError(
        f"CPython {version}, which compiles the bytecode, was not found: install it (pyenv install "
        f"{version}, uv python install {version}, or your distribution's python{version}), pass "
        "its path with --interpreter, or use --no-bytecode, which makes cold starts slower"
    )


def _list_candidates(version: str) -> Iterator[str]:
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


def _read_version(interpreter: str) -> str:
    """Read implementation and version; "" if it is not a Python interpreter."""
    try:
        done = subprocess.run(  # noqa: S603 - an interpreter that was found or named
            [interpreter, "-I", "-c", _VERSION], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def compile_bytecode(folder: Path, *, interpreter: str, root: str) -> None:
    """Compile every source file below ``folder``.

    Args:
        folder: Source files; ``__pycache__`` folders are created in it.
        interpreter: An interpreter of the runtime's version.
        root: The folder in Lambda, such as ``/var/task``, which the bytecode records.

    Raises:
        ConfigurationError: A source file cannot be compiled.
    """
    done = subprocess.run(  # noqa: S603 - see `find_interpreter`
        [
            *(interpreter, "-m", "compileall", "-q", "-f", "-j", "1"),
            *("--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", root),
            str(folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        # The order of sets among a module's constants depends on the hash seed.
        env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"},
    )
    if done.returncode:
        output = (done.stdout + done.stderr).strip()
        raise ConfigurationError(f"{interpreter} could not compile all files: {output}")


def write_zip(folder: Path, path: Path, *, prefix: str = "") -> Archive:
    """Pack a folder reproducibly: sorted names, one time, fixed permissions.

    Args:
        folder: The folder to pack.
        path: The zip to write.
        prefix: A prefix of the names in the zip.
    """
    names = sorted(
        each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            _add_file(archive, folder / name, f"{prefix}{name}")
    unzipped_bytes = sum((folder / name).stat().st_size for name in names)
    return Archive(path, path.stat().st_size, unzipped_bytes, len(names))


def _add_file(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
    entry.create_system = 3  # Unix, so that the permissions count
    mode = _EXECUTABLE if path.suffix == ".so" else _ORDINARY
    entry.external_attr = (_REGULAR | mode) << 16
    archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
