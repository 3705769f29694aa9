"""Where each tool keeps its migrations, and how its files are read.

One `ToolFormat` describes one tool. Adding a tool means adding its format here and the description
of its history table, under the same name, to `postgresql.other_tools.TOOLS`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from lambda_migrate.adopt.checksums import (
    compute_flyway_checksum,
    compute_graphile_hash,
    compute_refinery_checksums,
)
from lambda_migrate.adopt.files import SourceFiles, SourceMigration, SourceScript, read_script
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.manifest_digest import format_components, parse_components

__all__ = ["TOOL_FORMATS", "ToolFormat"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How one tool's files are recognized and read.

    Attributes:
        tool: Its name, as in `postgresql.other_tools.TOOLS`.
        pattern: A file of this path below the folder shows that the folder is the tool's.
        content_pattern: What one of these files must contain; "" if the name is enough.
        read: Reads the folder; None if its migrations are code.
        language: What its migrations are written in, if they are code.
        normalise_key: Makes keys of files and of the history table comparable.
        has_subfolders: Whether the tool also reads the folders below its own.
        is_generic: Whether files of other tools may look like its own.
        placeholder: What the tool replaces in its scripts, as a regular expression.
    """

    tool: str
    pattern: str
    content_pattern: str = ""
    read: Callable[[Path], SourceFiles] | None = None
    language: str = ""
    normalise_key: Callable[[str], str] = str
    has_subfolders: bool = False
    is_generic: bool = False
    placeholder: str = ""

    def matches(self, files: Iterable[Path], folder: Path) -> bool:
        """Whether a folder with these files is the tool's."""
        name = re.compile(self.pattern)
        named = [each for each in files if name.fullmatch(each.relative_to(folder).as_posix())]
        if not self.content_pattern:
            return bool(named)
        content = re.compile(self.content_pattern, re.MULTILINE | re.IGNORECASE)
        return any(content.search(_read_beginning(each)) for each in named)


def _read_beginning(path: Path) -> str:
    """The beginning of a file; "" if it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(100_000)
    except OSError:
        return ""


class _Collector:
    """Collects what a folder contains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.migrations: list[SourceMigration] = []
        self.skipped: dict[str, str] = {}
        self.unusable: dict[str, str] = {}

    def list_files(self, pattern: str = "*") -> list[Path]:
        """The files below the folder, in the order of their names."""
        return sorted(each for each in self.folder.glob(pattern) if each.is_file())

    def add(
        self,
        path: Path,
        *,
        key: str,
        name: str,
        up: SourceScript,
        down: SourceScript | None = None,
        checksums: Iterable[str] = (),
        verbatim: bytes | None = None,
    ) -> None:
        shown = path.relative_to(self.folder).as_posix()
        self.migrations.append(
            SourceMigration(key, name, shown, up, down, tuple(checksums), verbatim)
        )

    def add_skipped(self, path: Path, reason: str) -> None:
        self.skipped[path.relative_to(self.folder).as_posix()] = reason

    def add_unusable(self, path: Path, advice: str) -> None:
        self.unusable[path.relative_to(self.folder).as_posix()] = advice

    def finish(self, order: Callable[[SourceMigration], object] | None = None) -> SourceFiles:
        """The result; ``order`` sorts it."""
        found = self.migrations
        if order is not None:
            found = sorted(found, key=order)  # type: ignore[arg-type]  # each tool's own kind
        return SourceFiles(tuple(found), self.skipped, self.unusable)


def _order_by_number(migration: SourceMigration) -> tuple[int, ...]:
    return parse_components(migration.key)


def _order_by_key(migration: SourceMigration) -> str:
    return migration.key


def _hash_file(path: Path, algorithm: str) -> tuple[str, ...]:
    """The hash of a file, and of the file with other line ends, as another checkout has it."""
    content = path.read_bytes()
    with_lf = content.replace(b"\r\n", b"\n")
    variants = dict.fromkeys((content, with_lf, with_lf.replace(b"\n", b"\r\n")))
    return tuple(hashlib.new(algorithm, each).hexdigest() for each in variants)


def _read_down(path: Path, *, transactional: bool = True) -> SourceScript | None:
    """The script that rolls a migration back; None if there is no such file."""
    return SourceScript(read_script(path), transactional) if path.exists() else None


def _split_at(
    text: str, up: str, down: str, *, transactional: bool = True
) -> tuple[SourceScript, SourceScript | None]:
    """The two scripts of a file, without its marker lines; the text above goes into the first."""
    flags = re.MULTILINE | re.IGNORECASE
    up_marker, down_marker = re.search(up, text, flags), re.search(down, text, flags)
    cuts = sorted(each.span() for each in (up_marker, down_marker) if each is not None)
    if not cuts:
        return SourceScript(text, transactional), None
    ends = [*(start for start, _ in cuts[1:]), len(text)]
    parts = {start: text[end:until] for (start, end), until in zip(cuts, ends, strict=True)}
    above = text[: cuts[0][0]]
    up_sql = "" if up_marker is None else parts[up_marker.start()]
    up_script = SourceScript(above + up_sql, transactional)
    if down_marker is None:
        return up_script, None
    return up_script, SourceScript(parts[down_marker.start()], transactional)


# --- one file with markers for each migration


def _read_dbmate(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files("*.sql"):
        if match := re.match(r"\d+", path.name):
            up, down = _split_at(
                read_script(path), r"^--\s*migrate:up.*\n?", r"^--\s*migrate:down.*\n?"
            )
            found.add(
                path,
                key=match[0],
                name=path.stem,
                up=up,
                down=down,
                verbatim=path.read_bytes(),
            )
    return found.finish()


def _read_goose(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files():
        match = re.match(r"(\d+)_.*\.(sql|go)$", path.name)
        if match is None or path.name.endswith("_test.go"):
            continue
        if match[2] == "go":
            found.add_unusable(path, "it is Go code; write it as SQL")
            continue
        text = read_script(path)
        if re.search(r"^-- *\+goose +ENVSUB +ON", text, re.MULTILINE | re.IGNORECASE):
            found.add_unusable(
                path,
                "it uses environment variables (ENVSUB ON); write their values, or placeholders",
            )
            continue
        transactional = not re.search(
            r"^-- *\+goose +NO +TRANSACTION", text, re.MULTILINE | re.IGNORECASE
        )
        up, down = _split_at(
            text,
            r"^-- *\+goose +Up\b.*\n?",
            r"^-- *\+goose +Down\b.*\n?",
            transactional=transactional,
        )
        found.add(path, key=str(int(match[1])), name=path.stem, up=up, down=down)
    return found.finish(_order_by_number)


def _read_node_pg_migrate(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files():
        if path.suffix in (".js", ".ts", ".cjs", ".mjs") and not path.name.endswith(".d.ts"):
            found.add_unusable(path, "it is JavaScript; write it as SQL")
        if path.suffix != ".sql":
            continue
        marker = r"^\s*--[\s-]*{}\s+migration.*\n?"
        up, down = _split_at(read_script(path), marker.format("up"), marker.format("down"))
        found.add(path, key=path.stem, name=path.stem, up=up, down=down)
    return found.finish(lambda each: (_leading_number(each.name), each.name))


def _leading_number(name: str) -> int:
    match = re.match(r"\d+", name)
    return int(match[0]) if match else 0


def _read_tern(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    separator = r"^---- create above / drop below ----\s*?\n?"
    for path in found.list_files("*.sql"):
        match = re.match(r"(\d+)_.+\.sql$", path.name)
        if match is None:
            continue
        text = read_script(path)
        if "{{" in text:
            found.add_unusable(path, "it is a Go template; write what `{{ }}` stands for")
            continue
        transactional = not re.search(r"^---- tern: disable-tx ----", text, re.MULTILINE)
        up, *rest = re.split(separator, text, maxsplit=1, flags=re.MULTILINE)
        down = SourceScript(rest[0], transactional) if rest else None
        found.add(
            path,
            key=str(int(match[1])),
            name=path.stem,
            up=SourceScript(up, transactional),
            down=down,
        )
    return found.finish(_order_by_number)


# --- a file for each direction


def _read_golang_migrate(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files("*.up.sql"):
        match = re.match(r"(\d+)_", path.name)
        if match is None:
            continue
        stem = path.name.removesuffix(".up.sql")
        found.add(
            path,
            key=str(int(match[1])),
            name=stem,
            up=SourceScript(read_script(path)),
            down=_read_down(path.with_name(f"{stem}.down.sql")),
        )
    ups = {each.name for each in found.migrations}
    for path in found.list_files("*.down.sql"):
        if path.name.removesuffix(".down.sql") not in ups:
            found.add_skipped(path, "there is no .up.sql of that name")
    return found.finish(_order_by_number)


def _read_sqlx(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files("*.sql"):
        match = re.match(r"(\d+)_", path.name)
        if match is None or path.name.endswith(".down.sql"):
            continue
        stem = path.name.removesuffix(".sql").removesuffix(".up")
        down = path.with_name(f"{stem}.down.sql")
        found.add(
            path,
            key=str(int(match[1])),
            name=stem,
            up=_read_sqlx_script(path),
            down=_read_sqlx_script(down) if down.exists() else None,
            checksums=_hash_file(path, "sha384"),
        )
    return found.finish(_order_by_number)


def _read_sqlx_script(path: Path) -> SourceScript:
    text = read_script(path)
    return SourceScript(text, transactional=not text.startswith("-- no-transaction"))


def _read_knex(folder: Path) -> SourceFiles:
    """Scripts beside the JavaScript that runs them, as knex-migrate-sql-file writes them."""
    found = _Collector(folder)
    for path in found.list_files():
        if path.suffix not in (".js", ".ts", ".cjs", ".mjs") or path.name.endswith(".d.ts"):
            continue
        beside = [folder / each / path.stem for each in ("sql", ".")]
        base = next((each for each in beside if _with_suffix(each, ".up.sql").exists()), None)
        if base is None:
            found.add_unusable(
                path, f"it is code; write its SQL to sql/{path.stem}.up.sql beside it"
            )
            continue
        found.add(
            path,
            key=path.name,
            name=path.stem,
            up=SourceScript(read_script(_with_suffix(base, ".up.sql"))),
            down=_read_down(_with_suffix(base, ".down.sql")),
        )
    return found.finish(_order_by_key)


def _with_suffix(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


_FLYWAY_NAME = re.compile(r"([VUBR])(\d+(?:[._]\d+)*)?__(.*)\.sql")
_FLYWAY_CALLBACKS = ("beforeMigrate", "afterEachMigrate", "afterMigrate")


def _read_flyway(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    undo: dict[str, Path] = {}
    for path in found.list_files("**/*"):
        match = _FLYWAY_NAME.fullmatch(path.name)
        if path.suffix in (".java", ".kt") and re.match(r"[VR].*__", path.name):
            found.add_unusable(path, "it is code; write it as SQL")
        elif match is None:
            if path.suffix == ".sql":
                hook = path.stem in _FLYWAY_CALLBACKS
                found.add_skipped(
                    path,
                    "a callback: copy it, lambda-migrate uses the same name"
                    if hook
                    else "not a migration",
                )
        elif match[1] == "U" and match[2]:
            undo[_normalise_flyway_key(match[2])] = path
        elif match[1] == "B":
            found.add_skipped(path, f"it stands for all migrations up to version {match[2]}")
        elif (match[1] == "V") is bool(match[2]):
            found.add(
                path,
                key=match[2].replace("_", ".") if match[2] else path.stem,
                name=path.stem,
                up=_read_flyway_script(path),
                checksums=(compute_flyway_checksum(path.read_bytes()),),
            )
    for at, migration in enumerate(found.migrations):
        key = _normalise_flyway_key(migration.key)
        if key in undo:
            down = _read_flyway_script(undo.pop(key))
            found.migrations[at] = replace(migration, down=down)
    for path in undo.values():
        found.add_skipped(path, "there is no versioned migration of that version")
    return found.finish(_order_flyway)


def _normalise_flyway_key(key: str) -> str:
    """``1_7``, ``1.7`` and ``01.7.0`` are the same version."""
    try:
        return format_components(parse_components(key.replace("_", ".")))
    except ValueError:  # a repeatable migration's name
        return key


def _order_flyway(migration: SourceMigration) -> tuple[bool, tuple[int, ...], str]:
    if migration.name.startswith("R"):
        return True, (), migration.name
    return False, parse_components(migration.key), ""


def _read_flyway_script(path: Path) -> SourceScript:
    settings = _read_beginning(path.with_name(f"{path.name}.conf"))
    off = re.search(r"^\s*executeInTransaction\s*=\s*false", settings, re.MULTILINE | re.IGNORECASE)
    return SourceScript(read_script(path), transactional=off is None)


def _read_refinery(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files("**/*"):
        match = re.fullmatch(r"([VU])(\d+)__(\w+)\.(sql|rs)", path.name)
        if match is None:
            continue
        if match[4] == "rs":
            found.add_unusable(path, "it is Rust code; write it as SQL")
            continue
        sql = read_script(path)
        version, name = int(match[2]), match[3]
        found.add(
            path,
            key=str(version),
            name=f"V{version}__{name}",
            up=SourceScript(sql),
            checksums=compute_refinery_checksums(name, version, sql),
        )
    return found.finish(_order_by_number)


# --- a folder for each migration


def _read_prisma(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    lock = _read_beginning(folder / "migration_lock.toml")
    provider = re.search(r'^provider\s*=\s*"(\w+)"', lock, re.MULTILINE)
    if provider is not None and provider[1] not in ("postgresql", "cockroachdb"):
        found.add_unusable(
            folder / "migration_lock.toml", f"these are migrations for {provider[1]}"
        )
    for path in found.list_files("*/migration.sql"):
        found.add(
            path,
            key=path.parent.name,
            name=path.parent.name,
            up=SourceScript(read_script(path)),
            down=_read_down(path.with_name("down.sql")),
            checksums=_hash_file(path, "sha256"),
        )
    return found.finish(_order_by_key)


def _read_diesel(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files("*/up.sql"):
        name = path.parent.name
        version, _, rest = name.partition("_")
        key = version.replace("-", "")
        settings = _read_beginning(path.with_name("metadata.toml"))
        off = re.search(r"^\s*run_in_transaction\s*=\s*false", settings, re.MULTILINE)
        found.add(
            path,
            key=key,
            name=f"{key}_{rest}" if rest else key,
            up=SourceScript(read_script(path), transactional=off is None),
            down=_read_down(path.with_name("down.sql"), transactional=off is None),
        )
    return found.finish(_order_by_key)


# --- an index beside the files


def _read_drizzle(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    journal = folder / "meta" / "_journal.json"
    dialect, entries = _read_journal(journal)
    if dialect not in ("postgresql", "pg"):
        found.add_unusable(journal, f"these are migrations for {dialect}")
    for tag, when in entries:
        path = folder / f"{tag}.sql"
        if not path.exists():
            found.add_unusable(path, "meta/_journal.json lists it, and it is missing; restore it")
            continue
        found.add(
            path,
            key=when,
            name=tag,
            up=SourceScript(read_script(path)),
            checksums=_hash_file(path, "sha256"),
        )
    return found.finish()


def _read_journal(path: Path) -> tuple[str, list[tuple[str, str]]]:
    """The dialect, and tag and time of each migration."""
    try:
        journal = json.loads(read_script(path))
        entries = sorted(journal["entries"], key=lambda each: int(each["idx"]))
        tags = [(str(each["tag"]), str(each["when"])) for each in entries]
        return str(journal.get("dialect", "postgresql")), tags
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path}: not a journal of drizzle ({type(error).__name__}: {error}); restore the file"
        ) from error


_YOYO_HEADER = re.compile(r"^\s*--\s*(depends|transactional)\s*:\s*(.*?)\s*$", re.MULTILINE)


def _read_yoyo(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    depends: dict[str, set[str]] = {}
    for path in found.list_files():
        if path.suffix == ".py" and not path.stem.startswith("_"):
            found.add_unusable(path, "it is Python code; write its steps as SQL")
        if path.suffix != ".sql" or path.name.endswith(".rollback.sql"):
            continue
        text = read_script(path)
        headers = dict(_YOYO_HEADER.findall(text))
        transactional = headers.get("transactional", "true").lower() != "false"
        depends[path.stem] = set(headers.get("depends", "").split())
        found.add(
            path,
            key=path.stem,
            name=path.stem,
            up=SourceScript(text, transactional),
            down=_read_down(
                path.with_name(f"{path.stem}.rollback.sql"), transactional=transactional
            ),
            checksums=(hashlib.sha256(path.stem.encode()).hexdigest(),),
        )
    ranks = {key: at for at, key in enumerate(_sort_by_dependency(depends, folder))}
    return found.finish(lambda each: ranks[each.key])


def _sort_by_dependency(depends: dict[str, set[str]], folder: Path) -> Iterator[str]:
    """Dependencies first, otherwise in the order of the names."""
    sorter = TopologicalSorter({key: needs & depends.keys() for key, needs in depends.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise ConfigurationError(
            f"{folder}: these migrations depend on each other: {', '.join(error.args[1])}"
        ) from error
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()])
        yield ready[0]
        sorter.done(ready.pop(0))


def _read_graphile_migrate(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    for path in found.list_files("committed/*.sql"):
        head, _, body = read_script(path).partition("\n\n")
        headers = dict(re.findall(r"^--! (\w+): (.*)$", head, re.MULTILINE))
        if "Hash" not in headers:
            found.add_unusable(path, "it has no line `--! Hash:`; commit it with graphile-migrate")
            continue
        if re.search(r":DATABASE_(?:NAME|OWNER)\b", body):
            found.add_unusable(path, "it uses :DATABASE_NAME or :DATABASE_OWNER; write the names")
            continue
        previous = "" if headers.get("Previous", "-") == "-" else headers["Previous"]
        checksums = [compute_graphile_hash(body, previous)]
        if re.search(r"^--! AllowInvalidHash\b", head, re.MULTILINE):
            checksums.append(headers["Hash"])
        found.add(
            path,
            key=path.stem.partition("-")[0] + ".sql",  # the table has no message
            name=path.stem,
            up=SourceScript(body, transactional=re.match(r"--!\s*no-transaction\b", body) is None),
            checksums=tuple(checksums),
        )
    for path in found.list_files("*.sql"):
        found.add_skipped(path, "it is not committed")
    return found.finish(_order_by_key)


_SQITCH_CHANGE = re.compile(
    r"""^(?P<name>[^\s:@#%\[\]+-][^\s:@#\[\]]*)(?P<space>\s+)(?:\[(?P<needs>[^\]]*)\]\s+)?
    (?P<date>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\s+(?P<planner>[^\#]*?>)\s*(?:\#\s*(?P<note>.*?)\s*)?$""",
    re.VERBOSE,
)


def _read_sqitch(folder: Path) -> SourceFiles:
    found = _Collector(folder)
    pragmas: dict[str, str] = {}
    changes: list[tuple[re.Match[str], str, str]] = []
    tag_after: dict[int, str] = {}
    parent = ""
    for line in read_script(folder / "sqitch.plan").splitlines():
        if pragma := re.match(r"%\s*([\w-]+)\s*=\s*(.*?)\s*$", line):
            pragmas[pragma[1]] = pragma[2]
        elif line.startswith("@"):
            tag_after.setdefault(len(changes) - 1, line.split()[0])
        elif match := _SQITCH_CHANGE.match(line):
            parent = _compute_sqitch_id(match, pragmas, parent)
            changes.append((match, parent, match["name"]))
    width = max(4, len(str(len(changes))))
    for at, (_, change_id, name) in enumerate(changes):
        later = any(other == name for _, _, other in changes[at + 1 :])
        tag = next((tag_after[each] for each in sorted(tag_after) if each >= at), "")
        file = f"{name}{tag}.sql" if later else f"{name}.sql"
        deploy = folder / "deploy" / file
        if not deploy.exists():
            found.add_unusable(deploy, "sqitch.plan lists it, and it is missing; restore it")
            continue
        found.add(
            deploy,
            key=change_id,
            name=f"{at + 1:0{width}}_{name}",
            up=SourceScript(read_script(deploy)),
            down=_read_down(folder / "revert" / file),
            checksums=_hash_file(deploy, "sha1"),
        )
    return found.finish()


def _compute_sqitch_id(match: re.Match[str], pragmas: dict[str, str], parent: str) -> str:
    """The SHA-1 by which sqitch's registry names a change."""
    needs = (match["needs"] or "").split()
    requires = [each for each in needs if not each.startswith("!")]
    conflicts = [each[1:] for each in needs if each.startswith("!")]
    lines = [
        f"project {pragmas.get('project', '')}",
        *([f"uri {pragmas['uri']}"] if pragmas.get("uri") else []),
        f"change {match['name']}",
        *([f"parent {parent}"] if parent else []),
        f"planner {match['planner']}",
        f"date {match['date']}",
        *(["requires\n  + " + "\n  + ".join(requires)] if requires else []),
        *(["conflicts\n  - " + "\n  - ".join(conflicts)] if conflicts else []),
        *(["", match["note"]] if match["note"] else []),
    ]
    info = "\n".join(lines).encode()
    head = f"change {len(info)}\0".encode()
    return hashlib.sha1(head + info, usedforsecurity=False).hexdigest()


_NUMBERED = r"\d+[^/]*\.sql"
_SCRIPT = r"\d+[_-][^/]*\.[cm]?[jt]s"

TOOL_FORMATS = (
    ToolFormat("dbmate", _NUMBERED, content_pattern=r"^-- *migrate:up", read=_read_dbmate),
    ToolFormat("goose", r"\d+_[^/]*\.sql", content_pattern=r"^-- *\+goose +Up\b", read=_read_goose),
    ToolFormat("golang-migrate", r"\d+_[^/]*\.up\.sql", read=_read_golang_migrate),
    ToolFormat("sqlx", r"\d+_[^/]*\.sql", read=_read_sqlx, is_generic=True),
    ToolFormat(
        "Flyway",
        r"(?:V\d[\d._]*|R)__[^/]*\.sql",
        read=_read_flyway,
        normalise_key=_normalise_flyway_key,
        has_subfolders=True,
        placeholder=r"\$\{[\w.:-]+\}",
    ),
    ToolFormat("refinery", r"[VU]\d+__\w+\.sql", read=_read_refinery, has_subfolders=True),
    ToolFormat("Prisma", r"[^/]+/migration\.sql", read=_read_prisma),
    ToolFormat("diesel", r"[^/]+/up\.sql", read=_read_diesel),
    ToolFormat("drizzle", r"meta/_journal\.json", read=_read_drizzle),
    ToolFormat(
        "node-pg-migrate",
        r"[^/]+\.sql",
        content_pattern=r"^\s*--[\s-]*up\s+migration",
        read=_read_node_pg_migrate,
    ),
    ToolFormat(
        "tern",
        r"\d+_[^/]*\.sql",
        content_pattern=r"^---- create above / drop below",
        read=_read_tern,
    ),
    ToolFormat(
        "yoyo",
        r"[^/]+\.sql|[^/]+\.py",
        content_pattern=r"^-- *depends:|^from yoyo import|^import yoyo",
        read=_read_yoyo,
    ),
    ToolFormat("graphile-migrate", r"committed/\d+[^/]*\.sql", read=_read_graphile_migrate),
    ToolFormat("sqitch", r"sqitch\.plan", read=_read_sqitch),
    ToolFormat(
        "Knex", _SCRIPT, content_pattern=r"exports\.up\b|function up\(knex", read=_read_knex
    ),
    # The tools below write migrations as code, which nothing can convert.
    ToolFormat("TypeORM", _SCRIPT, content_pattern=r"MigrationInterface", language="TypeScript"),
    ToolFormat(
        "Liquibase",
        r"[^/]+\.(?:xml|ya?ml|json|sql)",
        content_pattern=r"databaseChangeLog|^--\s*liquibase formatted sql",
        language="changelogs",
        has_subfolders=True,
    ),
    ToolFormat("Rails", r"\d+_\w+\.rb", language="Ruby"),
    ToolFormat("Ecto", r"\d+_\w+\.exs", language="Elixir"),
)
"""A tool's history table decides between those that a folder fits."""
