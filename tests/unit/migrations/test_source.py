"""Reading migration files: which are read, which are refused, and where they may be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.errors import ManifestError
from lambda_migrate.manifest_digest import EMPTY_DIGEST
from lambda_migrate.migrations import Manifest, Migration, Script, parse_migration, read_manifest
from lambda_migrate.migrations.version import parse_version

FIXTURES = Path(__file__).parent / "fixtures"
GOOD = FIXTURES / "good"
UP = b"-- migrate:up\nselect 1;\n"


def read(text: str | bytes, *, filename: str = "0001_it.sql") -> Migration:
    content = text if isinstance(text, bytes) else text.encode()
    return parse_migration(content, filename=filename, path=filename)


def faults_of(source: object, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(str(source), **options)
    return caught.value.faults


def zipped(path: Path, *, prefix: str, folder: Path = GOOD) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


# --- what is taken


@pytest.mark.parametrize(
    ("filename", "version"),
    [
        ("0000_zero.sql", "0"),
        ("20240101-hyphen.sql", "20240101"),
        ("20240102_c copy.sql", "20240102"),
        ("0003 (1), don't.sql", "3"),
        ("0004.sql", "4"),
        ("0005_.sql", "5"),
        ("20240101000000000001_long.sql", "20240101000000000001"),
        ("1.2__flyway.sql", "1.2"),
        ("01.02.0_zeros.sql", "1.2"),
        ("1.0_whole.sql", "1"),
        ("V1_7__flyway.sql", "1.7"),
        ("V2__flyway.sql", "2"),
        ("1_7_seven.sql", "1"),
        ("3-4_range.sql", "3"),
    ],
)
def test_a_version_stands_at_the_beginning_of_the_name(filename: str, version: str) -> None:
    migration = read("-- migrate:up\nselect 1;\n", filename=filename)
    assert str(migration.version) == version
    assert migration.name == filename.removesuffix(".sql")


def test_versions_are_ordered_number_by_number() -> None:
    ordered = ["0", "1", "1.2", "1.10", "2", "9.9.9", "10", "20240101000000000001"]
    assert sorted(map(parse_version, reversed(ordered))) == [parse_version(v) for v in ordered]


def test_a_version_in_two_spellings_is_refused(tmp_path: Path) -> None:
    for name in ("1.0_a", "V1__b", "0001-c"):
        (tmp_path / f"{name}.sql").write_bytes(UP)
    assert [fault.partition(": ")[2] for fault in faults_of(tmp_path)] == [
        "version 1 is taken by 0001-c.sql; renumber one of them",
        "version 1 is taken by 0001-c.sql; renumber one of them",
    ]


@pytest.mark.parametrize("text", ["", "\n", "-- nothing to do on PostgreSQL\n", "/* */ ;\n"])
def test_a_script_without_sql_does_nothing(text: str) -> None:
    migration = read(f"--migrate:up transaction:false\n{text}--\tmigrate:down\n{text}")
    assert migration.up == Script(text, 2)
    assert migration.down == Script(text, 3 + text.count("\n"))


@pytest.mark.parametrize(
    ("option", "isolation"),
    [
        ("isolation:serializable", "serializable"),
        ("isolation:repeatable-read", "repeatable-read"),
        ("isolation:read-committed", ""),
        ("transaction:true", ""),
    ],
)
def test_a_marker_may_ask_for_an_isolation_level(option: str, isolation: str) -> None:
    migration = read(f"-- migrate:up {option}\nselect 1;\n-- migrate:down\nselect 1;\n")
    assert (migration.up.isolation, migration.down and migration.down.isolation) == (isolation, "")


def test_a_script_outside_a_transaction_has_no_isolation_level() -> None:
    with pytest.raises(ManifestError, match="a script outside a transaction has none"):
        read("-- migrate:up transaction:false isolation:serializable\nvacuum;\n")


def test_without_a_marker_there_is_no_down_script() -> None:
    assert read("-- migrate:up\nselect 1;\n").down is None


def test_scripts_are_the_text_between_the_markers_with_their_line_numbers() -> None:
    first = read_manifest(GOOD).migrations[0]
    assert first.up == Script("create table orders (id bigint primary key);\n\n", 4)
    assert first.down == Script("drop table orders;\n", 7)
    assert (first.version, first.name) == (1, "0001_create_orders")
    assert first.path == f"{GOOD}/0001_create_orders.sql"


def test_only_the_folders_own_visible_sql_files_count() -> None:
    assert [m.version for m in read_manifest(GOOD)] == [1, 2, 10]


def test_transaction_false_counts_for_its_own_direction_alone() -> None:
    both = read_manifest(GOOD).get(2)
    assert both is not None
    assert both.down is not None
    assert (both.up.transactional, both.down.transactional) == (False, False)
    one = read(
        "-- migrate:up transaction:false\nvacuum\n-- migrate:down transaction:true\nselect 1"
    )
    assert one.down is not None
    assert (one.up.transactional, one.down.transactional) == (False, True)


def test_idempotent_counts_for_its_own_direction_alone_and_in_any_order() -> None:
    one = read(
        "-- migrate:up idempotent:true transaction:false\ncall p()\n"
        "-- migrate:down transaction:false idempotent:false\ncall q()"
    )
    assert one.down is not None
    assert (one.up.idempotent, one.down.idempotent) == (True, False)
    assert (one.up.transactional, one.down.transactional) == (False, False)


@pytest.mark.parametrize("options", ["idempotent:true", "transaction:true idempotent:true"])
def test_idempotent_without_transaction_false_is_refused(options: str) -> None:
    with pytest.raises(ManifestError, match="remove `idempotent:true`"):
        read(f"-- migrate:up {options}\nselect 1")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    known = "transaction:true, transaction:false, idempotent:true, idempotent:false"
    with pytest.raises(ManifestError, match=f"unknown option `repeat:true`.*{known}"):
        read("-- migrate:up repeat:true\nselect 1")


def test_the_former_name_of_an_option_is_refused_with_the_new_one() -> None:
    with pytest.raises(ManifestError, match="`repeatable:true` is called `idempotent:true` now"):
        read("-- migrate:up transaction:false repeatable:true\nvacuum")


def test_a_down_marker_on_the_last_line_without_a_line_end_is_recognized() -> None:
    assert read("-- migrate:up\nselect 1;\n-- migrate:down").up.sql == "select 1;\n"


def test_prose_about_migrating_is_not_a_marker() -> None:
    text = "-- migrate up the hill\n-- migrate: old rows\n-- migrate:up\n-- downward\nselect 1;\n"
    assert read(text).up.line == 4


@given(st.lists(st.text("ab';\t -é", max_size=8), max_size=6))
def test_line_ends_and_a_byte_order_mark_change_nothing(lines: list[str]) -> None:
    text = "\n".join(["-- migrate:up", "select 1;", *lines, "-- migrate:down", "select 2;", ""])
    unix, windows = read(text), read("\ufeff" + text.replace("\n", "\r\n"))
    assert unix == windows


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0-\r"), max_size=60))
def test_the_up_script_is_kept_unchanged(body: str) -> None:
    assert read(f"-- migrate:up\nselect 1;{body}").up.sql == f"select 1;{body}"


def test_a_repeatable_migration_needs_no_marker(tmp_path: Path) -> None:
    (tmp_path / "R__b.sql").write_text("SELECT 1;\n")
    (tmp_path / "R__a view.sql").write_text("-- why\n-- migrate:up\nSELECT 2;\n")
    found = read_manifest(tmp_path)
    assert (len(found), found.version) == (0, -1)
    assert [(each.name, each.up.sql, each.up.line) for each in found.repeatables] == [
        ("R__a view", "SELECT 2;\n", 3),
        ("R__b", "SELECT 1;\n", 1),
    ]


def test_its_text_and_its_name_are_in_the_digest() -> None:
    one, other = read("SELECT 1", filename="R__a.sql"), read("SELECT 1", filename="R__b.sql")
    versioned = read("-- migrate:up\nSELECT 1")
    manifests = [Manifest(each) for each in ([], [one], [other], [one, other], [versioned, one])]
    assert len({each.digest for each in manifests}) == len(manifests)
    assert manifests[-1].up_to(0).digest == EMPTY_DIGEST


@pytest.mark.parametrize(
    ("filename", "text", "fault"),
    [
        ("R__.sql", "SELECT 1", "needs a name; rename it to R__<name>.sql"),
        ("R__a:b.sql", "SELECT 1", "the name contains"),
        ("R__a.sql", "-- migrate:up\nSELECT 1\n-- migrate:down\nSELECT 2", "3: only a versioned"),
        ("R__a.sql", "-- migrate:up transaction:false\nVACUUM", "1: only a versioned"),
        ("R__a.sql", "-- Migrate:Up\nSELECT 1", "looks like a marker"),
        ("R_a.sql", "SELECT 1", "not a migration's name; rename it to R__<name>.sql"),
        ("r__a.sql", "SELECT 1", "rename it to R__<name>.sql"),
        ("aftermigrate.sql", "SELECT 1", "hooks are beforeMigrate, afterEachMigrate, afterMigrate"),
        ("afterMigrate__grants.sql", "SELECT 1", "hooks are beforeMigrate"),
        ("beforeEachMigrate.sql", "SELECT 1", "hooks are beforeMigrate"),
    ],
)
def test_an_invalid_repeatable_migration_is_refused(filename: str, text: str, fault: str) -> None:
    with pytest.raises(ManifestError, match=fault):
        read(text, filename=filename)


def test_a_hook_has_no_isolation_level_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("-- migrate:up\nSELECT 1\n")
    (tmp_path / "afterMigrate.sql").write_text("-- migrate:up isolation:serializable\nSELECT 1\n")
    with pytest.raises(ManifestError, match=r"afterMigrate\.sql:1: a hook runs in the transaction"):
        read_manifest(tmp_path)


def test_a_folder_without_migrations_is_an_empty_manifest_where_that_is_allowed(
    tmp_path: Path,
) -> None:
    assert len(read_manifest(tmp_path, allow_empty=True)) == 0


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(UP)
    (tmp_path / "0001_link.sql").symlink_to("real")
    assert [m.name for m in read_manifest(tmp_path)] == ["0001_link"]


# --- no migrations at all


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "found an empty folder. Correct LAMBDA_MIGRATE_DIRECTORY"),
        ([".gitkeep", "__pycache__/x.pyc"], "found an empty folder"),
        (["README.md"], "found no .sql file, but README.md. Correct LAMBDA_MIGRATE_DIRECTORY"),
        (["a.txt", "b.txt", "c.txt", "d.txt"], "but a.txt, b.txt, c.txt and 1 more"),
        (["__init__.py"], "left out when the package was built, include them"),
        (["sql/0001_a.sql"], "1 folder that contains .sql files. Move the files into it"),
        (["20240101_a/migration.sql", "20240102_b/migration.sql"], "2 folders .* a Prisma layout"),
        (["2024-01-01-000000_a/up.sql", "2024-01-01-000000_a/down.sql"], "a diesel layout"),
        (["deploy/users.sql", "sqitch.plan"], "a sqitch layout"),
        (["sql/V1__a.sql"], "a Flyway layout"),
        (["sql/000001_a.up.sql"], "a golang-migrate or sqlx layout"),
        (["db.changelog-master.yaml"], "a Liquibase layout"),
        (["env.py", "script.py.mako", "versions/ab12_a.py"], "an Alembic .*SOURCE=alembic"),
        (["versions/ab12_a.py"], "an Alembic .*SOURCE=alembic"),
        (["__init__.py", "0001_initial.py"], "a Django .*SOURCE=django"),
        (["20240101000000_create_users.rb"], "a Rails layout"),
        (["20240101000000_create_users.exs"], "an Ecto layout"),
        (["1700000000000_a.js"], "a Knex, TypeORM or node-pg-migrate layout"),
    ],
)
def test_a_folder_without_migrations_is_explained(
    tmp_path: Path, files: list[str], said: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    [fault] = faults_of(tmp_path)
    assert fault.startswith(f"there are no migrations in {tmp_path}: ")
    assert "looks for <version>_<name>.sql" in fault
    assert re.search(said, fault), fault
    assert ("Adopt an existing database" in fault) == ("layout" in said)
    assert fault.endswith("LAMBDA_MIGRATE_ALLOW_EMPTY=true")


def test_a_zip_and_a_package_without_migrations_are_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("migrations/20240101_a/migration.sql", "SELECT 1;")
    assert "a Prisma layout" in faults_of(bundle / "migrations")[0]
    assert "1 folder that contains" in faults_of(bundle)[0]
    (tmp_path / "shop_left_out" / "migrations").mkdir(parents=True)
    (tmp_path / "shop_left_out" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    [fault] = faults_of("package:shop_left_out/migrations")
    assert "package:shop_left_out/migrations" in fault
    assert "left out when the package was built" in fault


@pytest.mark.parametrize(
    ("names", "tool"),
    [
        (["V1__a.sql"], "Flyway"),
        (["000001_a.up.sql", "000001_a.down.sql"], "golang-migrate or sqlx"),
    ],
)
def test_files_of_another_tool_are_recognised(tmp_path: Path, names: list[str], tool: str) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(ManifestError, match=f'look like files of {tool}: see "Adopt an existing'):
        read_manifest(tmp_path)


# --- what is refused


@pytest.mark.parametrize(
    ("defect", "faults"),
    [
        (
            "duplicate",
            [
                "1_third.sql:1: there is no `-- migrate:up`",
                "001_second.sql: version 1 is taken by ",
                "1_third.sql: version 1 is taken by ",
            ],
        ),
        ("no_up", ["0001_bare.sql:1: there is no `-- migrate:up`"]),
        ("empty_file", ["0001_nothing.sql:1: there is no `-- migrate:up`"]),
        ("two_ups", ["0001_twice.sql:3: a second `-- migrate:up` (the first is on line 1)"]),
        ("two_downs", ["0001_twice.sql:5: a second `-- migrate:down` (the first is on line 3)"]),
        ("down_before_up", ["0001_upside_down.sql:1: `-- migrate:down` stands above"]),
        (
            "unknown_option",
            [
                "0001_maybe.sql:1: unknown option `transaction:maybe`",
                "0001_maybe.sql:3: unknown option `--`",
                "0001_maybe.sql:3: unknown option `drops`",
                "0001_maybe.sql:3: unknown option `it`",
            ],
        ),
        (
            "misspelt_marker",
            [
                f"{n:04}_typo.sql:1: " + ("the line ends in a lone carriage" if n == 9 else "`")
                for n in range(2, 11)
            ],
        ),
        ("sql_above_up", ["0001_early.sql:3: only comments are allowed above"]),
        ("open_comment_above_up", ["0001_open.sql:1: only comments are allowed above"]),
        ("not_utf8", ["0001_latin1.sql:2: not UTF-8: byte 0xe9 at offset 22"]),
        ("utf16", ["0001_utf16.sql:1: a NUL byte at offset 3"]),
        ("nul", ["0001_nul.sql:2: a NUL byte at offset 22"]),
        (
            "bad_name",
            [
                "0001dash.sql: not a migration's name; rename it to 0001_dash.sql",
                '0002_two"words.sql: the name contains',
                "0003_LOUD.SQL: not a migration's name",
                r"0004_\u202egnp.sql: the name contains",
                "0005_semi;colon.sql: the name contains",
                "create_it.sql: not a migration's name",
                "\u0661_arabic.sql: not a migration's name",
            ],
        ),
        (
            "several",
            [
                "0001_a.sql:1: there is no `-- migrate:up`",
                "0001_b.sql:1: unknown option `nope`",
                "bad.sql: not a migration's name",
                "0001_b.sql: version 1 is taken by ",
            ],
        ),
    ],
)
def test_every_fault_of_a_folder_is_reported_at_once(defect: str, faults: list[str]) -> None:
    folder = FIXTURES / defect
    found = faults_of(folder)
    assert len(found) == len(faults)
    for fault, want in zip(found, faults, strict=True):
        assert fault.startswith(f"{folder}/{want}")
    assert all(";" in fault for fault in found), "each says what to do next"


def test_the_heading_names_the_folder_even_for_one_fault() -> None:
    with pytest.raises(
        ManifestError, match=r"1 fault in the migrations of .*fixtures/no_up:\n  - "
    ):
        read_manifest("no_up", relative_to=FIXTURES)


def test_a_link_that_leaves_the_folder_or_leads_nowhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (tmp_path / "outside.sql").write_bytes(UP)
    (folder / "0001_out.sql").symlink_to("../outside.sql")
    (folder / "0002_gone.sql").symlink_to("gone")
    (folder / "0003_loop.sql").symlink_to("0003_loop.sql")
    leaves, gone, loop = faults_of(folder)
    assert "0001_out.sql: a symbolic link that leaves the folder, to " in leaves
    assert "0002_gone.sql: a broken symbolic link" in gone
    assert "0003_loop.sql: a broken symbolic link" in loop


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0001_pipe.sql")
    assert faults_of(tmp_path) == (
        f"{tmp_path}/0001_pipe.sql: not a regular file; replace it with one",
    )


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:  # root may read everything, so chmod would prove nothing
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "0001_secret.sql").write_bytes(UP)
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert faults_of(tmp_path) == (
        f"{tmp_path}/0001_secret.sql: cannot be read: Permission denied; check its permissions",
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "/nowhere does not exist; create it"),
        ("", "has no name"),
        ("a\0b", "a\\x00b has a NUL character"),
        ("test_source.py", "is a file and not a zip"),
        ("n" * 300, "cannot be read: File name too long"),
        ("package:", "is not a package"),
        ("package:no_such_package.migrations", "no module 'no_such_package'"),
        ("package:json.decoder", "names the module json.decoder, which is not a package"),
        ("package:json/nowhere", "does not exist; include it in the package"),
        ("package:json/../os", "leaves its package"),
    ],
)
def test_a_folder_that_is_not_there_is_named(source: str, says: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(source, relative_to=Path(__file__).parent)
    assert says in str(caught.value)


# --- where files may lie


def test_a_relative_path_begins_at_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES)
    there = read_manifest("good", relative_to=FIXTURES)
    assert read_manifest("good") == there == read_manifest(GOOD)
    assert there.migrations[0].path == "good/0001_create_orders.sql"


@pytest.mark.parametrize("prefix", ["", "migrations/", "python/app/migrations/"])
def test_a_zip_reads_like_the_folder_it_was_made_of(tmp_path: Path, prefix: str) -> None:
    archive = zipped(tmp_path / "app.pyz", prefix=prefix)
    assert read_manifest(archive / prefix) == read_manifest(GOOD)


def test_a_folder_missing_in_a_zip_is_named(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "bundle.zip", prefix="migrations/")
    with pytest.raises(ManifestError, match=r"bundle\.zip/nope does not exist inside the zip"):
        read_manifest(archive / "nope")


def test_faults_in_a_zip_are_reported_like_those_of_a_folder(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "b.zip", prefix="several/", folder=FIXTURES / "several")
    assert [fault.partition("several/")[2] for fault in faults_of(archive / "several")] == [
        fault.partition("several/")[2] for fault in faults_of(FIXTURES / "several")
    ]


def test_links_encrypted_and_damaged_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("0001_link.sql")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "elsewhere.sql")
        archive.writestr("0002_damaged.sql", UP + b"damage me")
        archive.writestr("0003_locked.sql", UP)
    content = bytearray(path.read_bytes().replace(b"damage me", b"DAMAGE ME"))
    locked = content.rindex(b"0003_locked.sql") - 46  # its central directory record
    content[locked + 8] |= 1
    path.write_bytes(content)
    link_fault, damaged, locked_fault = faults_of(path)
    assert "0001_link.sql: a symbolic link inside a zip" in link_fault
    assert "0002_damaged.sql: cannot be unpacked: Bad CRC-32" in damaged
    assert "0003_locked.sql: encrypted" in locked_fault


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bundle.zip", prefix="")
    content = path.read_bytes()
    at = content.rindex(b"PK\1\2")
    path.write_bytes(content[:at] + b"XXXX" + content[at + 4 :])
    with pytest.raises(ManifestError, match="is in a damaged zip"):
        read_manifest(path)


@pytest.mark.parametrize(
    "source", ["package:shop/migrations", "package:shop.migrations", "package:shop.sub/deep"]
)
@pytest.mark.parametrize("is_zip", [False, True])
def test_a_packages_resources_read_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, is_zip: bool
) -> None:
    site = tmp_path / "site"
    for folder in ("shop/migrations", "shop/sub/deep"):
        shutil.copytree(GOOD, site / folder)
    (site / "shop/__init__.py").touch()
    (site / "shop/sub/__init__.py").touch()
    if is_zip:
        site = zipped(tmp_path / "site.zip", prefix="", folder=site)
    monkeypatch.syspath_prepend(str(site))
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        manifest = read_manifest(source)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]
    assert manifest == read_manifest(GOOD)
    assert manifest.migrations[0].path == f"{source}/0001_create_orders.sql"


def test_a_package_with_a_missing_import_raises_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_shop.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        read_manifest("package:broken_shop")


def test_reading_a_directory_loads_neither_zips_nor_resources() -> None:
    code = (
        "import sys; from lambda_migrate.migrations import read_manifest; "
        "read_manifest(sys.argv[1]); "
        "print({'zipfile', 'importlib.resources', 'lambda_migrate.migrations.sql.tokens'}"
        " & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(GOOD)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"
