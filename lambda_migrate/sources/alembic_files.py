"""The digest of an Alembic environment, without importing Alembic, SQLAlchemy or any of its files.

A start that finds the schema ready needs no more than this. The digest covers every file below
``script_location`` and the version locations, so ``env.py`` and its helpers count too, and the
settings that decide which revisions there are.
"""

from __future__ import annotations

import os
import re
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["AlembicFiles", "find_files", "read_digest"]

DIGEST_SEED = b"lambda-migrate alembic v1"

_DIGESTED_OPTIONS = ("alembic_revision", "source_setup", "alembic_version_table")

# pathlib and importlib.util take longer to import than the digest takes to compute, so os.path is
# used here.


class AlembicFiles(NamedTuple):
    """Where an Alembic environment is.

    Attributes:
        ini: Its ``alembic.ini``; "" if there is none.
        toml: The ``pyproject.toml`` with a table ``tool.alembic``; "" if there is none.
        script_location: The folder with ``env.py``, as an absolute path.
        version_locations: The folders with revisions, as absolute paths.
        is_recursive: Whether their subfolders have revisions, too.
        is_sourceless: Whether compiled files without a source are revisions.
    """

    ini: str
    toml: str
    script_location: str
    version_locations: tuple[str, ...]
    is_recursive: bool
    is_sourceless: bool


def read_digest(root: str, options: Mapping[str, object]) -> str:
    """Compute the digest of an Alembic environment.

    Args:
        root: The folder of the code.
        options: As in `ChildRequest.options`: the configuration file, the revision that the code
            needs, and the setup function.

    Raises:
        ManifestError: The environment cannot be read.
    """
    files = find_files(root, options)
    digest = sha256(DIGEST_SEED)
    facts = (
        *(str(options.get(name) or "") for name in _DIGESTED_OPTIONS),
        *(str(files.is_recursive), str(files.is_sourceless)),
    )
    digest.update("\0".join(facts).encode())
    for label, folder in _label_folders(files):
        for path in sorted(_find_paths(folder, is_sourceless=files.is_sourceless)):
            name = os.path.relpath(path, folder).replace(os.sep, "/")
            digest.update(f"\n{label}/{name}\0{_hash_file(path)}".encode())
    return digest.hexdigest()


def find_files(root: str, options: Mapping[str, object]) -> AlembicFiles:
    """Read where an Alembic environment is from its configuration, as Alembic does.

    Args:
        root: The folder of the code, to which the paths are relative.
        options: As in `ChildRequest.options`. ``alembic_config`` names the file, ``alembic.ini`` or
            ``pyproject.toml``; by default it is the first of these that exists.
            ``alembic_section`` names the section of the former.

    Raises:
        ManifestError: The configuration cannot be read, or names a folder that does not exist.
    """
    path = _find_config(root, str(options.get("alembic_config") or ""))
    is_toml = path.endswith(".toml")
    toml = path if is_toml else os.path.join(os.path.dirname(path), "pyproject.toml")  # noqa: PTH118, PTH120
    section = str(options.get("alembic_section") or "alembic")
    ini_options = {} if is_toml else _read_ini(path, section)
    if not is_toml and "script_location" in ini_options:
        toml = ""
    toml_options = _read_toml(toml) if toml and os.path.isfile(toml) else {}  # noqa: PTH113
    values = {**toml_options, **ini_options}
    here = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
    location = values.get("script_location")
    if location in (None, ".") and os.path.isfile(os.path.join(here, "env.py")):  # noqa: PTH113, PTH118
        location = here  # Flask-Migrate sets it in its own code
    if not isinstance(location, str) or not location.strip():
        raise ManifestError(
            f"{path}: script_location is missing in [{section}]; add it, or name the section that "
            "has it with LAMBDA_MIGRATE_ALEMBIC_SECTION"
        )
    search_path = [_resolve(each, root) for each in _split(values, "prepend_sys_path")]
    script_location = _find_folder(location, root, search_path, path)
    versions = [
        _find_folder(each, root, search_path, path) for each in _split(values, "version_locations")
    ]
    return AlembicFiles(
        ini="" if is_toml else path,
        toml=toml if toml_options else "",
        script_location=script_location,
        version_locations=tuple(versions) or (os.path.join(script_location, "versions"),),  # noqa: PTH118
        is_recursive=values.get("recursive_version_locations") in (True, "true"),
        is_sourceless=values.get("sourceless") in (True, "true"),
    )


def _find_config(root: str, config: str) -> str:
    names = [config] if config else ["alembic.ini", "pyproject.toml"]
    for name in names:
        path = os.path.join(root, name)  # noqa: PTH118
        if os.path.isfile(path):  # noqa: PTH113
            return path
    raise ManifestError(
        f"no {' or '.join(names)} in {os.path.abspath(root)}: name the configuration file of "  # noqa: PTH100
        "Alembic with LAMBDA_MIGRATE_ALEMBIC_CONFIG, and deploy it with the code"
    )


def _read_ini(path: str, section: str) -> Mapping[str, object]:
    from configparser import ConfigParser, Error

    here = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
    parser = ConfigParser({"here": here.replace(os.sep, "/")})
    try:
        parser.read(path, encoding="utf-8")
        if not parser.has_section(section):
            return {}
        names = set(parser.options(section)).intersection(_OPTIONS)
        return {name: parser.get(section, name) for name in names}
    except (Error, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {' '.join(str(error).split())}") from error


def _read_toml(path: str) -> Mapping[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # Alembic needs it, too
        import tomli as tomllib

    here = os.path.dirname(os.path.abspath(path)).replace(os.sep, "/")  # noqa: PTH100, PTH120
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            table = tomllib.load(file).get("tool", {}).get("alembic", {})
        return {name: _fill_in(table[name], here) for name in _OPTIONS if name in table}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path}: tool.alembic cannot be read: {error}") from error


def _fill_in(value: object, here: str) -> object:
    if isinstance(value, list):
        return [_fill_in(each, here) for each in value]
    return value % {"here": here} if isinstance(value, str) else value


_OPTIONS = (
    *("script_location", "version_locations", "prepend_sys_path", "path_separator"),
    *("version_path_separator", "recursive_version_locations", "sourceless"),
)

_SEPARATORS = {"space": " ", "newline": "\n", "os": os.pathsep, ":": ":", ";": ";"}


def _split(options: Mapping[str, object], name: str) -> list[str]:
    """A list of paths: the separator depends on other options, the default on the list."""
    value = options.get(name) or []
    if not isinstance(value, str):
        return [str(each) for each in value] if isinstance(value, list) else []
    chosen = options.get("path_separator")
    if chosen is None and name == "version_locations":
        chosen = options.get("version_path_separator")
    if chosen is None:
        return re.split(r", *| +" + (r"|:" if name == "prepend_sys_path" else ""), value)
    separator = _SEPARATORS.get(str(chosen))
    if separator is None:
        raise ManifestError(f"path_separator = {chosen} is none of {', '.join(_SEPARATORS)}")
    return [each.strip() for each in value.split(separator) if each.strip()]


def _resolve(path: str, root: str) -> str:
    return os.path.abspath(os.path.join(root, path))  # noqa: PTH100, PTH118


def _find_folder(location: str, root: str, search_path: Iterable[str], config: str) -> str:
    """A folder, or ``package:folder``, which is looked up without importing the package."""
    if ":" in location and not os.path.isabs(location):  # noqa: PTH117
        package, *rest = location.split(":")
        folder = _find_package(package, [*search_path, root, *sys.path], config)
        path = os.path.join(folder, *rest)  # noqa: PTH118
    else:
        path = _resolve(location, root)
    if not os.path.isdir(path):  # noqa: PTH112
        raise ManifestError(
            f"{config}: the folder {path} does not exist or cannot be read; relative paths start "
            f"in {root}, use %(here)s for the folder of this file"
        )
    return path


def _find_package(name: str, search_path: Iterable[str], config: str) -> str:
    from importlib.machinery import PathFinder

    top, _, rest = name.partition(".")
    spec = PathFinder.find_spec(top, list(search_path))
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = os.path.join(folder, *rest.split("."))  # noqa: PTH118
        if os.path.isdir(path):  # noqa: PTH112
            return path
    raise ManifestError(
        f"{config}: the package {name} is not a folder on the search path; add its parent to "
        "prepend_sys_path, and do not pack it as a zip file"
    )


def _label_folders(files: AlembicFiles) -> Iterator[tuple[str, str]]:
    """Every folder once, by a name that does not depend on where the code was unpacked."""
    yield "script", files.script_location
    for number, folder in enumerate(files.version_locations):
        if os.path.commonpath((folder, files.script_location)) != files.script_location:
            yield f"versions{number}", folder


def _find_paths(folder: str, *, is_sourceless: bool) -> Iterator[str]:
    """The files below a folder, hidden ones and bytecode with a source beside it excepted."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if _is_counted(each, is_sourceless=is_sourceless)]
        is_cache = os.path.basename(parent) == "__pycache__"  # noqa: PTH119
        sources = os.listdir(os.path.dirname(parent)) if is_cache else names  # noqa: PTH120, PTH208
        for name in names:
            stem, is_bytecode = name.split(".")[0], name.endswith((".pyc", ".pyo"))
            if name.startswith(".") or (is_bytecode and f"{stem}.py" in sources):
                continue
            if not is_bytecode or is_sourceless:
                yield os.path.join(parent, name)  # noqa: PTH118


def _is_counted(folder: str, *, is_sourceless: bool) -> bool:
    return not folder.startswith(".") and (is_sourceless or folder != "__pycache__")


def _hash_file(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            content = file.read()
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    if not path.endswith((".pyc", ".pyo")):
        content = content.replace(b"\r\n", b"\n")
    return sha256(content).hexdigest()
