"""The digest of an Alembic environment agrees with what Alembic would read, without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lambda_migrate.errors import ManifestError
from lambda_migrate.sources.alembic_files import find_files, read_digest

INI = "[alembic]\nscript_location = migrations\nprepend_sys_path = .\n"


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def digest(root: Path, **options: str) -> str:
    return read_digest(str(root), options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(
        tmp_path,
        {
            "alembic.ini": INI,
            "migrations/env.py": "a = 1\n",
            "migrations/versions/a1.py": "revision = 'a1'\ndown_revision = None\n",
        },
    )
    return tmp_path


def test_the_digest_follows_code_and_settings_and_nothing_else(root: Path, tmp_path: Path) -> None:
    first = digest(root)
    write(root, {"migrations/env.py": "a = 1\r\n"})
    write(root, {"migrations/versions/__pycache__/a1.cpython-311.pyc": "bytecode"})
    write(root, {"migrations/versions/.DS_Store": "a desktop", "app.py": "an application"})
    assert digest(root) == first
    changes = {
        "migrations/env.py": "a = 2\n",
        "migrations/versions/a2.py": "revision = 'a2'\n",
        "migrations/versions/helper.sql": "SELECT 1",
        "migrations/versions/b.pyc": "sourceless",
        "alembic.ini": INI + "recursive_version_locations = true\n",
    }
    digests = {first, digest(root, alembic_revision="a1"), digest(root, source_setup="app:setup")}
    for name, text in changes.items():
        write(root, {name: text})
        digests.add(digest(root))
    assert len(digests) == 3 + len(changes) - 1  # bytecode counts only if Alembic would read it
    write(root, {"alembic.ini": INI + "sourceless = true\n"})
    assert digest(root) not in digests


def test_the_digest_does_not_depend_on_where_the_code_is(root: Path) -> None:
    first = digest(root)
    moved = root.rename(root.parent / "elsewhere")
    assert digest(moved) == first


@pytest.mark.parametrize(
    "config",
    [
        "script_location = %(here)s/migrations\nversion_locations = %(here)s/v1:%(here)s/v2\n"
        "path_separator = os\n",
        "script_location = migrations\nversion_locations = v1 v2\npath_separator = space\n",
        "script_location = migrations\nversion_locations = v1, v2\n",
        "script_location = migrations\nversion_locations = v1;v2\nversion_path_separator = ;\n",
        "script_location = migrations\nversion_locations =\n  v1\n  v2\npath_separator = newline\n",
        "script_location = package:inner\nprepend_sys_path = lib\nversion_locations = v1 v2\n"
        "path_separator = space\n",
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_locations_are_those_that_alembic_finds(
    root: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Imported here: only this test needs them, and the import takes half a second.
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    write(root, {"alembic.ini": f"[alembic]\n{config}", "v1/b1.py": "", "v2/c1.py": ""})
    write(root, {"lib/package/__init__.py": "", "lib/package/inner/env.py": ""})
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "package", raising=False)
    theirs = ScriptDirectory.from_config(Config("alembic.ini"))
    ours = find_files(str(root), {})
    assert Path(ours.script_location) == Path(theirs.dir).resolve()
    assert [Path(each) for each in ours.version_locations] == theirs._version_locations


def test_one_file_may_have_several_environments(root: Path) -> None:
    text = "[alembic]\nfile_template = %%(rev)s\n[core]\nscript_location = core\n"
    write(root, {"alembic.ini": text, "core/env.py": ""})
    assert find_files(str(root), {"alembic_section": "core"}).script_location == str(root / "core")
    with pytest.raises(
        ManifestError, match=r"missing in \[alembic\].*LAMBDA_MIGRATE_ALEMBIC_SECTION"
    ):
        find_files(str(root), {})


def test_pyproject_has_the_same_settings(root: Path) -> None:
    (root / "alembic.ini").unlink()
    text = '[tool.alembic]\nscript_location = "%(here)s/migrations"\nversion_locations = ["v1"]\n'
    write(root, {"pyproject.toml": text, "v1/b1.py": ""})
    files = find_files(str(root), {})
    assert files.script_location == str(root / "migrations")
    assert files.version_locations == (str(root / "v1"),)
    assert digest(root) == digest(root, alembic_config="pyproject.toml")


@pytest.mark.parametrize("setting", ["", "script_location = .\n"])
def test_a_folder_without_the_setting_is_that_of_flask_migrate(root: Path, setting: str) -> None:
    """It sets the location itself, whatever the file has."""
    write(root, {"migrations/alembic.ini": f"[alembic]\n{setting}"})
    files = find_files(str(root), {"alembic_config": "migrations/alembic.ini"})
    assert files.script_location == str(root / "migrations")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"alembic.ini": "[alembic]\n"}, "script_location is missing"),
        ({"alembic.ini": "[alembic]\nscript_location = %(nothing)s\n"}, "nothing"),
        ({"alembic.ini": "no section"}, "alembic.ini"),
        ({"alembic.ini": "[alembic]\nscript_location = nowhere\n"}, "nowhere does not exist.*here"),
        ({"alembic.ini": "[alembic]\nscript_location = nopackage:x\n"}, "the package nopackage"),
        ({"alembic.ini": INI + "version_locations = v1\npath_separator = %%\n"}, "path_separator"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    root: Path, files: Mapping[str, str], message: str
) -> None:
    write(root, files)
    with pytest.raises(ManifestError, match=message):
        digest(root)


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"no alembic.ini or pyproject.toml in .*ALEMBIC_CONFIG"
    ):
        digest(tmp_path)


def test_neither_alembic_nor_the_environment_is_imported(root: Path) -> None:
    write(root, {"migrations/env.py": "raise SystemExit('imported')"})
    code = (
        "import sys; from lambda_migrate.sources.alembic_files import read_digest;"
        f"print(read_digest({str(root)!r}, {{}}));"
        "print(sorted({'alembic', 'sqlalchemy', 'pathlib', 'importlib.metadata'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == [digest(root), "[]"]
