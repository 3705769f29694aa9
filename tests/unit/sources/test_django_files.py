"""The digest of a Django project's migrations, computed without Django."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate.errors import ManifestError
from lambda_migrate.sources.django_files import (
    check_manifest,
    read_digest,
    require_folders,
    write_manifest,
)

MANIFEST = "manifest.json"
MODULES = {"orders": "orders_app.migrations"}


def digest(root: Path, database: str = "default") -> str:
    return read_digest(str(root), {"django_manifest": MANIFEST, "django_database": database})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "orders_app" / "migrations"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "0001_initial.py").write_text("a = 1\n")
    write_manifest(MANIFEST, MODULES, root=str(tmp_path))
    return tmp_path


def test_the_digest_follows_migrations_and_the_database_alias(root: Path) -> None:
    first = digest(root)
    folder = root / "orders_app" / "migrations"
    (folder / "0001_initial.py").write_bytes(b"a = 1\r\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "0001_initial.cpython-311.pyc").write_bytes(b"bytecode")
    (folder / "0001_initial.pyc").write_bytes(b"bytecode beside its source")
    (root / "orders_app" / "models.py").write_text("b = 1\n")
    assert digest(root) == first
    digests = {first, digest(root, "other")}
    for name in ("0002_more.py", "data/rows.json", "0003_sourceless.pyc"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("new")
        digests.add(digest(root))
    assert len(digests) == 5


def test_it_does_not_depend_on_where_the_package_is(root: Path) -> None:
    first = digest(root)
    assert digest(root.rename(root.parent / "elsewhere-django")) == first


def test_a_folder_that_only_the_settings_put_on_the_path_is_named(root: Path) -> None:
    """Python would not find it before it has loaded the settings."""
    first = digest(root)
    (root / "apps").mkdir()
    moved = root / "apps" / "orders_app"
    (root / "orders_app").rename(moved)
    with pytest.raises(ManifestError, match="is not in this package"):
        digest(root)
    write_manifest(MANIFEST, MODULES, root=str(root), folders={"orders": str(moved / "migrations")})
    assert digest(root) == first
    assert digest(root.rename(root.parent / "moved-django")) == first


def test_migrations_that_the_digest_cannot_cover_are_refused() -> None:
    require_folders(["orders"], MODULES)
    with pytest.raises(ManifestError, match="migrations of app zipped are in no folder"):
        require_folders(["orders", "zipped"], MODULES)


def test_a_manifest_that_does_not_fit_the_code_is_refused(root: Path) -> None:
    check_manifest(MANIFEST, MODULES, root=str(root))
    check_manifest("none.json", MODULES, root=str(root))
    with pytest.raises(ManifestError, match=r"shop.migrations \(app shop\) is missing in it"):
        check_manifest(MANIFEST, MODULES | {"shop": "shop.migrations"}, root=str(root))
    with pytest.raises(ManifestError, match=r"which the project does not use"):
        check_manifest(MANIFEST, {}, root=str(root))
    write_manifest(MANIFEST, {"gone": "gone_app.migrations"}, root=str(root))
    with pytest.raises(ManifestError, match=r"gone_app.migrations \(app gone\) is not in this"):
        digest(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "run `lambda-migrate manifest` when the package is built"),
        ("{", "is not a manifest"),
        ("[]", "is not a manifest of Django apps"),
        ('{"modules": {"orders": 1}}', "is not a manifest of Django apps"),
        ('{"modules": {}, "folders": {"orders": ""}}', "is not a manifest of Django apps"),
        ('{"modules": {}}', "names no app with migrations"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    root: Path, text: str | None, message: str
) -> None:
    (root / MANIFEST).unlink()
    if text is not None:
        (root / MANIFEST).write_text(text)
    with pytest.raises(ManifestError, match=message):
        digest(root)


def test_a_manifest_that_cannot_be_read_or_written_is_named(root: Path) -> None:
    (root / MANIFEST).unlink()
    (root / MANIFEST).mkdir()
    with pytest.raises(ManifestError, match=f"{MANIFEST} cannot be read"):
        digest(root)
    with pytest.raises(ManifestError, match=f"{MANIFEST} cannot be written"):
        write_manifest(MANIFEST, MODULES, root=str(root))
