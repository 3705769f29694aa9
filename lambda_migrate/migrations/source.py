"""Reads migration files from a directory, from a package's resources, or from a zip.

The format is dbmate's, a file ``<version>_<name>.sql`` with two marked sections::

    -- migrate:up
    create table orders (id bigint primary key);

    -- migrate:down
    drop table orders;

A marker may end in ``isolation:serializable`` or ``isolation:repeatable-read``, and in
``placeholders:true``; or in ``transaction:false``, and then in ``idempotent:true``. A repeatable
migration, ``R__<name>.sql``, has no version and needs no marker. One error reports every fault of a
folder. This runs on every cold start, so nothing here parses SQL beyond the first thing that is not
a comment; `sql` does, when a migration is pending.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.errors import ManifestError, escape_text
from lambda_migrate.manifest_digest import (
    EMPTY_DIGEST,
    HOOK_NAMES,
    MAX_BYTES,
    compute_checksum,
    find_version,
    is_hook_name,
    is_migration_name,
    is_repeatable_name,
    normalise_text,
)
from lambda_migrate.migrations.manifest import Manifest
from lambda_migrate.migrations.migration import Hook, Migration, Script
from lambda_migrate.migrations.version import parse_version, parse_version_or_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.abc import Traversable
    from zipfile import ZipFile, ZipInfo

    from lambda_migrate.migrations.version import Version

    _FoundFile = tuple[str, bytes | str]
    """A file's name, and its bytes or a sentence why it cannot be read."""

__all__ = [
    "FORBIDDEN_IN_NAME",
    "POSSIBLE_MARKER",
    "build_manifest",
    "parse_migration",
    "read_files",
    "read_manifest",
]

_PACKAGE = "package:"
_MISSING_SEPARATOR = re.compile(r"([0-9]+(?:\.[0-9]+)*)(.+\.sql)")
_ALMOST_REPEATABLE = re.compile(r"[Rr]_+")
_ALMOST_HOOK = re.compile(r"(?i)(before|after)[a-z]*(migrate|__)")
FORBIDDEN_IN_NAME = re.compile(r"""["$*/:;<>?\\`|]""")  # no Windows file name, or shell syntax
_MARKER = re.compile(r"--[ \t]*migrate:(up|down)(?:[ \t]+(.*?))?[ \t]*")
# Every line that may be meant as a marker, in the spelling of dbmate or of another tool.
POSSIBLE_MARKER = re.compile(
    r"""^[^\S\n]*--+[^\S\n]*(?:
          migrate:\S
        | \+?migrate[^\S\n]*[:;=.][^\S\n]*(?:up|down)\b
        | \+?(?:migrate|goose)[ \t_-]*(?:up|down)[^\S\n]*(?:transaction[^\n]*)?$
        )[^\n]*""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
# White space and line ends in comments, as PostgreSQL defines them.
_BLANK = re.compile(r"(?:[ \t\n\r\f\v;]+|--[^\n\r]*)*")
_OPTIONS: dict[str, tuple[str, str]] = {
    f"{option}:{value}": (option, value)
    for option, values in (
        ("transaction", ("true", "false")),
        ("idempotent", ("true", "false")),
        ("isolation", ("serializable", "repeatable-read", "read-committed")),
        ("placeholders", ("true", "false")),
    )
    for value in values
}


def parse_migration(content: bytes, *, filename: str, path: str) -> Migration:
    """Read one migration file.

    Args:
        content: The file's content: UTF-8, with or without a byte order mark.
        filename: ``0003_add_status.sql``.
        path: The file's path for messages.

    Raises:
        ManifestError: Names every fault of the file.
    """
    faults = [f"{path}: {fault}" for fault in _check_name(filename)]
    text = _decode(content, path=path, faults=faults)
    parse = _parse_plain if is_repeatable_name(filename) else _parse_scripts
    scripts = {} if text is None else parse(normalise_text(text), path=path, faults=faults)
    if faults or text is None:
        raise ManifestError(faults, heading=f"the migration {path} cannot be used:")
    name = filename.removesuffix(".sql")
    return Migration(
        version=parse_version_or_name(find_version(filename) or name),
        name=name,
        up=scripts["up"],
        down=scripts.get("down"),
        checksum=compute_checksum(text),
        path=path,
    )


def _parse_hook(content: bytes, *, filename: str, path: str) -> Hook:
    faults: list[str] = []
    text = _decode(content, path=path, faults=faults)
    scripts = {} if text is None else _parse_plain(normalise_text(text), path=path, faults=faults)
    if "up" in scripts and scripts["up"].isolation:
        faults.append(
            f"{path}:{scripts['up'].line - 1}: a hook runs in the transaction of its migration; "
            "remove `isolation:`"
        )
    if faults:
        raise ManifestError(faults, heading=f"the hook {path} cannot be used:")
    return Hook(filename.removesuffix(".sql"), scripts["up"], path)


def read_manifest(
    source: str | os.PathLike[str],
    *,
    relative_to: str | os.PathLike[str] | None = None,
    allow_empty: bool = False,
) -> Manifest:
    """Read every migration of a folder.

    Only ``.sql`` files directly in the folder count, without hidden files.

    Args:
        source: A directory; ``package:dotted.name`` or ``package:name/folder`` for a package's
            resources; or a zip or a path into one: ``bundle.zip/migrations``.
        relative_to: The base of a relative path; the working directory unless given.
        allow_empty: Return an empty manifest for a folder without migrations.

    Raises:
        ManifestError: The folder is missing or contains no migrations, or files are invalid: it
            lists all of them.
    """
    source = os.fspath(source)
    try:
        if source.startswith(_PACKAGE):
            location, files = source, _read_package(source)
        else:
            path = _resolve_path(source, relative_to=relative_to)
            location, files = str(path), _read_path(path)
    except OSError as error:
        raise _unreadable_folder_error(source, error) from error
    manifest = build_manifest(files, display_path=source.rstrip("/"), location=location)
    if manifest.digest == EMPTY_DIGEST and not allow_empty:
        raise _empty_folder_error(location)
    return manifest


def read_files(folder: Path) -> dict[str, bytes | str]:
    """Read the migration files of a directory: name -> content, or why it cannot be read.

    Raises:
        ManifestError: The directory cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return dict(_read_directory(folder, entries))
    except OSError as error:
        raise _unreadable_folder_error(str(folder), error) from error


def build_manifest(files: Iterable[_FoundFile], *, display_path: str, location: str) -> Manifest:
    """Parse files into a manifest.

    Args:
        files: Their names and contents, or why one cannot be read.
        display_path: Their folder, as messages name it.
        location: The folder.

    Raises:
        ManifestError: Lists every fault of every file.
    """
    migrations: list[Migration] = []
    hooks: list[Hook] = []
    faults: list[str] = []
    names: list[str] = []
    for name, content in sorted(files, key=lambda each: each[0]):
        names.append(name)
        path = f"{display_path}/{escape_text(name)}"
        if isinstance(content, str):
            faults.append(f"{path}: {content}")
            continue
        try:
            if is_hook_name(name):
                hooks.append(_parse_hook(content, filename=name, path=path))
            else:
                migrations.append(parse_migration(content, filename=name, path=path))
        except ManifestError as error:
            faults += error.faults
    faults += _find_collisions(names, display_path=display_path)
    if faults:
        raise ManifestError(faults, heading=_make_heading(len(faults), location, names))
    return Manifest(migrations, hooks)


def _make_heading(count: int, location: str, names: Iterable[str]) -> str:
    from lambda_migrate.migrations.tool_folders import ADOPTION_GUIDE, guess_tool

    tool = guess_tool(names)
    looks = f" (these look like files of {tool}: see {ADOPTION_GUIDE})" if tool else ""
    return f"{count} {'fault' if count == 1 else 'faults'} in the migrations of {location}{looks}:"


def _empty_folder_error(location: str) -> ManifestError:
    from lambda_migrate.migrations.tool_folders import explain_missing_migrations

    in_package = location.startswith(_PACKAGE)
    folder = _find_package_folder(location) if in_package else _open_folder(Path(location))
    return ManifestError(explain_missing_migrations(location, folder, in_package=in_package))


def _open_folder(path: Path) -> Traversable:
    archive = _find_archive(path)
    if archive is None:
        return path
    import zipfile

    inner = _path_in_archive(path, archive)
    return zipfile.Path(archive, f"{inner}/" if inner else "")


def _unreadable_folder_error(location: str, error: OSError) -> ManifestError:
    return _folder_error(location, f"cannot be read: {error.strerror}; check its permissions")


def _folder_error(location: str, why: str) -> ManifestError:
    return ManifestError(f"the migrations folder {escape_text(location)} {why}")


# --- what a file is called


def _check_name(filename: str) -> Iterator[str]:
    version = find_version(filename)
    if is_repeatable_name(filename):
        if filename == "R__.sql":
            yield "a repeatable migration needs a name; rename it to R__<name>.sql"
    elif version is None:
        match = _MISSING_SEPARATOR.fullmatch(filename)
        suggestion = f"{match[1]}_{match[2]}" if match and match[2].isprintable() else ""
        if _ALMOST_REPEATABLE.match(filename):
            suggestion = "R__<name>.sql, or to <version>_<name>.sql"
        elif _ALMOST_HOOK.match(filename):
            suggestion = f"<version>_<name>.sql; hooks are {', '.join(HOOK_NAMES)}"
        yield (
            "not a migration's name; rename it to "
            + (suggestion or "<version>_<name>.sql, as in 0001_create_orders.sql")
        )
        return
    elif not _is_version(version):
        yield "the version is too long: a number has at most 255 digits; shorten it"
    if FORBIDDEN_IN_NAME.search(filename) or not filename.isprintable():
        yield (
            'the name contains invisible characters or one of " $ * : ; < > ? \\ ` |; '
            "rename it without them"
        )


def _is_version(text: str) -> bool:
    try:
        parse_version(text)
    except ValueError:
        return False
    return True


def _find_collisions(names: Iterable[str], *, display_path: str) -> Iterator[str]:
    first: dict[Version, str] = {}
    for name in names:
        try:
            version = parse_version(find_version(name) or "")
        except ValueError:
            continue
        earlier = first.setdefault(version, name)
        if earlier is not name:
            yield (
                f"{display_path}/{escape_text(name)}: version {version} is taken by "
                f"{escape_text(earlier)}; renumber one of them"
            )


# --- what a file holds


def _decode(content: bytes, *, path: str, faults: list[str]) -> str | None:
    nul = content.find(b"\0")
    if nul >= 0:
        faults.append(
            f"{path}:{_line_number(content, nul)}: a NUL byte at offset {nul}, which PostgreSQL "
            "cannot store; remove it, and save the file as UTF-8 if it is UTF-16"
        )
        return None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        faults.append(
            f"{path}:{_line_number(content, error.start)}: not UTF-8: byte "
            f"0x{content[error.start]:02x} at offset {error.start}; save the file as UTF-8"
        )
        return None


def _line_number(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def _parse_scripts(text: str, *, path: str, faults: list[str]) -> dict[str, Script]:
    """The scripts by direction."""
    known = len(faults)
    markers = list(_parse_markers(text, path=path, faults=faults))
    if len(faults) == known:  # otherwise a missing marker may only be misspelt
        faults += (f"{path}:{fault}" for fault in _check_marker_order(text, markers))
    scripts: dict[str, Script] = {}
    ends = [*(marker.start for marker in markers[1:]), len(text)]
    for marker, end in zip(
        markers, ends, strict=False
    ):  # without markers there is one end too many
        sql = text[marker.end : end]
        # A script without SQL does nothing, which needs no rules of its own for recovery.
        is_blank = _find_first_sql(sql) is None
        scripts[marker.direction] = Script(
            sql,
            marker.line + 1,
            transactional=is_blank or marker.transactional,
            idempotent=marker.idempotent and not is_blank,
            isolation="" if is_blank else marker.isolation,
            has_placeholders=marker.has_placeholders and not is_blank,
        )
    return scripts


def _parse_plain(text: str, *, path: str, faults: list[str]) -> dict[str, Script]:
    """The script of a repeatable migration or a hook: the whole file, unless it has a marker."""
    if POSSIBLE_MARKER.search(text) is None:
        return {"up": Script(text)}
    scripts = _parse_scripts(text, path=path, faults=faults)
    if "down" in scripts:
        faults.append(
            f"{path}:{scripts['down'].line - 1}: only a versioned migration has a down script; "
            "remove it"
        )
    if "up" in scripts and not scripts["up"].transactional:
        faults.append(
            f"{path}:{scripts['up'].line - 1}: only a versioned migration can run outside a "
            "transaction; remove `transaction:false`"
        )
    return scripts


class _Marker:
    __slots__ = ("direction", "end", "line", "options", "start")

    def __init__(self, direction: str, *, start: int, end: int, line: int) -> None:
        self.direction = direction
        self.start = start
        self.end = end
        self.line = line
        self.options: dict[str, str] = {}

    @property
    def transactional(self) -> bool:
        return self.options.get("transaction") != "false"

    @property
    def idempotent(self) -> bool:
        return self.options.get("idempotent") == "true"

    @property
    def isolation(self) -> str:
        isolation = self.options.get("isolation", "")
        return "" if isolation == "read-committed" else isolation

    @property
    def has_placeholders(self) -> bool:
        return self.options.get("placeholders") == "true"


def _parse_markers(text: str, *, path: str, faults: list[str]) -> Iterator[_Marker]:
    line, counted = 1, 0
    for suspect in POSSIBLE_MARKER.finditer(text):
        line += text.count("\n", counted, suspect.start())
        counted = suspect.start()
        match = None if "\r" in suspect[0] else _MARKER.fullmatch(suspect[0])
        if match is None:
            faults.append(f"{path}:{line}: {_describe_malformed_marker(suspect[0])}")
            continue
        end = min(suspect.end() + 1, len(text))
        marker = _Marker(match[1], start=suspect.start(), end=end, line=line)
        for option in (match[2] or "").split():
            if option in _OPTIONS:
                name, value = _OPTIONS[option]
                marker.options[name] = value
            else:
                faults.append(f"{path}:{line}: {_describe_unknown_option(option, match[1])}")
        if marker.idempotent and marker.transactional:
            faults.append(f"{path}:{line}: {_IDEMPOTENT_IN_TRANSACTION}")
        if marker.isolation and not marker.transactional:
            faults.append(f"{path}:{line}: {_ISOLATION_WITHOUT_TRANSACTION}")
        if marker.has_placeholders and not marker.transactional:
            faults.append(f"{path}:{line}: {_PLACEHOLDERS_WITHOUT_TRANSACTION}")
        yield marker


def _describe_malformed_marker(line: str) -> str:
    if "\r" in line:
        return "the line ends in a lone carriage return; save the file with LF line ends"
    return (
        f"`{escape_text(line.strip())[:60]}` looks like a marker but is not one; write "
        "`-- migrate:up` or `-- migrate:down` at the beginning of the line, in lower case"
    )


def _describe_unknown_option(option: str, direction: str) -> str:
    if option in ("repeatable:true", "repeatable:false"):
        return f"the option `{option}` is called `idempotent:{option.partition(':')[2]}` now"
    return (
        f"unknown option `{escape_text(option)[:40]}` on the marker; write "
        f"`-- migrate:{direction}` with any of {', '.join(_OPTIONS)}"
    )


_IDEMPOTENT_IN_TRANSACTION = (
    "`idempotent:true` without `transaction:false`: a script that fails in its transaction is "
    "rolled back as a whole; remove `idempotent:true`"
)


_ISOLATION_WITHOUT_TRANSACTION = (
    "`isolation:` with `transaction:false`: a script outside a transaction has none; remove one of "
    "them"
)


_PLACEHOLDERS_WITHOUT_TRANSACTION = (
    "`placeholders:true` with `transaction:false`: a script outside a transaction cannot have "
    "placeholders; remove one of them"
)


def _check_marker_order(text: str, markers: list[_Marker]) -> Iterator[str]:
    ups = [marker for marker in markers if marker.direction == "up"]
    downs = [marker for marker in markers if marker.direction == "down"]
    for marker in (*ups[1:], *downs[1:]):
        which = marker.direction
        first = (ups if which == "up" else downs)[0]
        yield (
            f"{marker.line}: a second `-- migrate:{which}` (the first is on line {first.line}); "
            "put each change into a file of its own"
        )
    if not ups:
        yield "1: there is no `-- migrate:up` line; put one above the SQL that makes the change"
    elif downs and downs[0].start < ups[0].start:
        yield f"{downs[0].line}: `-- migrate:down` stands above `-- migrate:up`; swap them"
    if ups:
        yield from _check_preamble(text[: markers[0].start])


def _check_preamble(preamble: str) -> Iterator[str]:
    at = _find_first_sql(preamble)
    if at is not None:
        line = preamble.count("\n", 0, at) + 1
        yield f"{line}: only comments are allowed above the first marker; move this SQL below it"


def _find_first_sql(text: str) -> int | None:
    """Find the first position that is not white space, comment or empty statement."""
    at = 0
    while True:
        match = _BLANK.match(text, at)
        at = match.end() if match else at
        if at == len(text):
            return None
        if not text.startswith("/*", at):
            return at
        from lambda_migrate.migrations.sql.tokens import find_block_comment_end  # rarely needed

        after = find_block_comment_end(text, at)
        if after is None:
            return at
        at = after


# --- where files are


def _resolve_path(source: str, *, relative_to: str | os.PathLike[str] | None) -> Path:
    if not source.strip():
        raise ManifestError("the migrations folder has no name; set LAMBDA_MIGRATE_DIRECTORY")
    if "\0" in source:
        raise _folder_error(source, "has a NUL character in its name; correct the setting")
    return Path(relative_to or "").absolute() / source


def _read_path(path: Path) -> list[_FoundFile]:
    try:
        with os.scandir(path) as entries:
            return list(_read_directory(path, entries))
    except (FileNotFoundError, NotADirectoryError):
        return _read_zip(path)


def _read_directory(folder: Path, entries: Iterable[os.DirEntry[str]]) -> Iterator[_FoundFile]:
    for entry in entries:
        if not is_migration_name(entry.name):
            continue
        if entry.is_symlink():
            fault = _check_link(folder, Path(entry.path))
            if fault:
                yield entry.name, fault
                continue
        if entry.is_file():
            yield entry.name, _read_file(entry.path)
        elif not entry.is_dir():
            yield entry.name, "not a regular file; replace it with one"


def _check_link(folder: Path, link: Path) -> str:
    """Why a link is refused, or "" if it stays in the folder."""
    try:
        real = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        return "a broken symbolic link; replace it with the file itself"
    if real.is_relative_to(folder.resolve()):
        return ""
    return f"a symbolic link that leaves the folder, to {real}; replace it with the file itself"


def _read_file(path: str) -> bytes | str:
    try:
        size = Path(path).stat().st_size
        return _describe_oversized_file(size) if size > MAX_BYTES else Path(path).read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}; check its permissions"


def _describe_oversized_file(size: int) -> str:
    return (
        f"{size >> 20} MB exceed the limit of {MAX_BYTES >> 20} MB for a migration; split it, or "
        "load its data by other means"
    )


def _read_zip(path: Path) -> list[_FoundFile]:
    archive = _find_archive(path)
    if archive is None:
        raise _folder_error(
            str(path), "does not exist; create it, or correct LAMBDA_MIGRATE_DIRECTORY"
        )
    import zipfile  # imported late: most migrations are in plain directories

    if not zipfile.is_zipfile(archive):
        raise _folder_error(str(path), f"is not a folder: {archive} is a file and not a zip")
    inner = _path_in_archive(path, archive)
    prefix = f"{inner}/" if inner else ""
    try:
        with zipfile.ZipFile(archive) as opened:
            return list(_read_members(opened, prefix=prefix, path=path))
    except zipfile.BadZipFile as error:
        raise _folder_error(str(path), f"is in a damaged zip ({error}); build it again") from error


def _find_archive(path: Path) -> Path | None:
    """The file that ``path`` is or leads into."""
    return next((each for each in (path, *path.parents) if each.is_file()), None)


def _path_in_archive(path: Path, archive: Path) -> str:
    inner = os.path.normpath(path.relative_to(archive)).replace(os.sep, "/")
    return "" if inner == "." else inner


def _read_members(archive: ZipFile, *, prefix: str, path: Path) -> Iterator[_FoundFile]:
    inside = [info for info in archive.infolist() if info.filename.startswith(prefix)]
    if prefix and not inside:
        raise _folder_error(
            str(path), "does not exist inside the zip; correct LAMBDA_MIGRATE_DIRECTORY"
        )
    for info in inside:
        name = info.filename[len(prefix) :]
        if "/" not in name and is_migration_name(name):
            yield name, _read_member(archive, info)


def _read_member(archive: ZipFile, info: ZipInfo) -> bytes | str:
    import stat
    import zipfile
    import zlib

    if stat.S_ISLNK(info.external_attr >> 16):
        return "a symbolic link inside a zip; pack the file itself"
    if info.flag_bits & 1:
        return "encrypted; pack it without a password"
    if info.file_size > MAX_BYTES:  # no more than this is unpacked
        return _describe_oversized_file(info.file_size)
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        return f"cannot be unpacked: {error}; build the zip again"


def _read_package(source: str) -> list[_FoundFile]:
    folder = _find_package_folder(source)
    if isinstance(folder, Path):
        return _read_path(folder)
    return [
        (each.name, each.read_bytes())
        for each in folder.iterdir()
        if is_migration_name(each.name) and each.is_file()
    ]


def _find_package_folder(source: str) -> Traversable:
    module_name, _, inner = source.removeprefix(_PACKAGE).strip("/").partition("/")
    if not re.fullmatch(r"\w+(\.\w+)*", module_name):
        raise _folder_error(source, "is not a package; write package:name or package:name/folder")
    folder = _find_anchor(module_name, source=source)
    for part in filter(None, inner.split("/")):
        if part == "..":
            raise _folder_error(source, "leaves its package; use the package that contains it")
        folder = folder.joinpath(part)
    if not folder.is_dir():
        raise _folder_error(source, "does not exist; include it in the package's data files")
    return folder


def _find_anchor(module_name: str, *, source: str) -> Traversable:
    """The folder of a package, or a folder in it; in a zip, only packages can be imported."""
    from importlib import import_module
    from importlib.resources import files

    try:
        if not hasattr(import_module(module_name), "__path__"):
            raise _folder_error(source, f"names the module {module_name}, which is not a package")
        return files(module_name)
    except (ModuleNotFoundError, NotADirectoryError) as error:
        # Another missing module is the package's own fault and is raised unchanged. A folder
        # without __init__.py is "not a directory" in a zip.
        missing = getattr(error, "name", module_name)
        if not f"{module_name}.".startswith(f"{missing}."):
            raise
        parent, _, last = module_name.rpartition(".")
        if not parent:
            raise _folder_error(
                source, f"is not a package: there is no module {module_name!r}"
            ) from error
        return _find_anchor(parent, source=source).joinpath(last)
