"""Digest of a Django project's migrations, without importing Django.

A manifest, made by ``lambda-migrate manifest`` when the package is built, names the app and the
module of each folder of migrations. Each folder is found as Python would find it, so the manifest
is valid wherever the package is unpacked. A process that has loaded its apps needs no manifest.
"""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

from lambda_migrate.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, TypeGuard

__all__ = [
    "check_manifest",
    "find_folder",
    "find_loaded_modules",
    "read_digest",
    "require_folders",
    "write_manifest",
]

_PYC_HEADER_BYTES = 16
"""Flags and the time or the hash of the source, which differ between builds of the same code."""


def read_digest(root: str, options: Mapping[str, Any]) -> str:
    """Compute the digest of a project's migrations.

    Args:
        root: The folder of the code.
        options: The settings ``django_manifest``, the manifest's path relative to ``root``, and
            ``django_database``. The manifest is not read if this process has loaded Django's apps:
            they are the truth.

    Raises:
        ManifestError: There is no usable manifest, or a folder that it names is missing.
    """
    manifest = options["django_manifest"]
    modules = find_loaded_modules(root)
    folders: Mapping[str, str] = {}
    if modules is None:
        modules, folders = _read_manifest(manifest, root)
    if not modules:
        raise ManifestError(
            f"{manifest} names no app with migrations; correct INSTALLED_APPS, "
            "then run `lambda-migrate manifest`"
        )
    digest = sha256(f"lambda-migrate django v1\0{options['django_database']}\0".encode())
    for app, module in sorted(modules.items()):
        folder = os.path.join(root, folders[app]) if app in folders else find_folder(module, root)  # noqa: PTH118 - importing pathlib takes 10 ms
        if folder is None:
            raise ManifestError(
                f"{manifest}: {module} (app {app}) is not in this package; run `lambda-migrate "
                "manifest` for the code that is deployed, and deploy both together"
            )
        digest.update(f"{app}\0{module}\0".encode())
        try:
            for path, checksum in sorted(_hash_files(folder, "")):
                digest.update(f"{path}\0{checksum}\0".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise ManifestError(f"{error.filename} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def find_loaded_modules(root: str) -> dict[str, str] | None:
    """The module of migrations of each app with migrations; None if the apps are not loaded.

    This repeats what Django's ``MigrationLoader.load_disk`` does, without its imports.
    """
    registry = getattr(sys.modules.get("django.apps"), "apps", None)
    if registry is None or not registry.ready:
        return None
    overrides = sys.modules["django.conf"].settings.MIGRATION_MODULES
    modules = {
        config.label: overrides.get(config.label, f"{config.name}.migrations")
        for config in registry.get_app_configs()
    }
    return {app: module for app, module in modules.items() if module and find_folder(module, root)}


def require_folders(apps: Iterable[str], modules: Mapping[str, str]) -> None:
    """Check that the digest covers every app whose migrations Django has loaded.

    Args:
        apps: Their labels.
        modules: What `find_loaded_modules` has found.

    Raises:
        ManifestError: The migrations of an app are in no folder.
    """
    missing = sorted(set(apps) - set(modules))
    if missing:
        raise ManifestError(
            f"the migrations of app {missing[0]} are in no folder with an __init__.py (in a zip "
            "archive, or compiled?), so that a start could not see them change: unpack them"
        )


def write_manifest(
    manifest: str,
    modules: Mapping[str, str],
    *,
    root: str,
    folders: Mapping[str, str] | None = None,
) -> None:
    """Write the manifest; the same project always gives the same text.

    Args:
        manifest: Its path, relative to ``root``.
        modules: The module of migrations of each app.
        root: The folder of the code.
        folders: The folder of each app's module. Only those are written that a process without
            Django would not find, because the settings change ``sys.path``.

    Raises:
        ManifestError: The file cannot be written.
    """
    content = {"modules": dict(sorted(modules.items()))}
    hidden = {
        app: _shorten(folder, root)
        for app, folder in sorted((folders or {}).items())
        if os.path.realpath(find_folder(modules[app], root) or "") != os.path.realpath(folder)
    }
    if hidden:
        content["folders"] = hidden
    try:
        with open(os.path.join(root, manifest), "w", encoding="utf-8") as file:  # noqa: PTH118, PTH123 - importing pathlib takes 10 ms
            json.dump(content, file, indent=2)
            file.write("\n")
    except OSError as error:
        raise ManifestError(f"{manifest} cannot be written: {error.strerror}") from error


def check_manifest(manifest: str, modules: Mapping[str, str], *, root: str) -> None:
    """Compare the manifest, if there is one, with the modules of the loaded project.

    Raises:
        ManifestError: A module is missing in it, or it names one that the project does not have.
    """
    if not os.path.exists(os.path.join(root, manifest)):  # noqa: PTH110, PTH118 - see above
        return
    named, _ = _read_manifest(manifest, root)
    missing = sorted(set(modules.items()) - set(named.items()))
    superfluous = sorted(set(named.items()) - set(modules.items()))
    faults = [f"{module} (app {app}) is missing in it" for app, module in missing]
    faults += [
        f"it names {module} (app {app}), which the project does not use"
        for app, module in superfluous
    ]
    if faults:
        raise ManifestError(
            f"{manifest} is out of date: {'; '.join(faults)}; run `lambda-migrate manifest` "
            "whenever INSTALLED_APPS or MIGRATION_MODULES change, and deploy it with the code"
        )


def _shorten(folder: str, root: str) -> str:
    """The folder relative to ``root`` if it is in there, so that both can be moved."""
    relative = os.path.relpath(os.path.realpath(folder), os.path.realpath(root))
    return folder if relative.startswith(os.pardir) else relative


def _read_manifest(manifest: str, root: str) -> tuple[dict[str, str], dict[str, str]]:
    """The module of each app, and the folder where Python would not find it."""
    try:
        with open(os.path.join(root, manifest), encoding="utf-8") as file:  # noqa: PTH118, PTH123 - see above
            content = json.load(file)
    except FileNotFoundError:
        raise ManifestError(
            f"there is no {manifest}, which names the folders of migrations; run `lambda-migrate "
            "manifest` when the package is built (LAMBDA_MIGRATE_DJANGO_MANIFEST is its path)"
        ) from None
    except OSError as error:
        raise ManifestError(f"{manifest} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{manifest} is not a manifest: {error}") from error
    fields = content if isinstance(content, dict) else {}
    modules, folders = fields.get("modules"), fields.get("folders", {})
    if not (_is_mapping_of_texts(modules) and _is_mapping_of_texts(folders)):
        raise ManifestError(
            f"{manifest} is not a manifest of Django apps; write it with `lambda-migrate manifest`"
        )
    return modules, folders


def _is_mapping_of_texts(value: object) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(
        isinstance(text, str) and text for text in value.values()
    )


def find_folder(module: str, root: str) -> str | None:
    """The folder of a package, found as Python would from ``root``, without importing anything.

    Only the top-level name is looked up in the import system; Django does not count a folder
    without ``__init__`` as migrations.
    """
    package, *rest = module.split(".")
    for parent in _find_package(package, root):
        folder = os.path.join(parent, *rest)  # noqa: PTH118 - importing pathlib takes 10 ms
        for name in ("__init__.py", "__init__.pyc"):
            if os.path.isfile(os.path.join(folder, name)):  # noqa: PTH113, PTH118 - see above
                return folder
    return None


def _find_package(package: str, root: str) -> Iterator[str]:
    loaded = getattr(sys.modules.get(package), "__path__", None)
    if loaded is not None:
        yield from loaded
        return
    # A console script does not have the working directory on sys.path; the child process has.
    yield os.path.join(root, package)  # noqa: PTH118 - see above
    for finder in sys.meta_path:
        spec = finder.find_spec(package, None)
        if spec is not None:
            yield from spec.submodule_search_locations or ()
            return


def _hash_files(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Relative paths and checksums: of data files as well, which a migration may read."""
    with os.scandir(folder) as entries:
        found = {entry.name: entry for entry in entries}
    for name, entry in found.items():
        if entry.is_dir(follow_symlinks=False):
            if name != "__pycache__":
                yield from _hash_files(entry.path, f"{prefix}{name}/")
        elif not name.endswith(".pyc"):
            with open(entry.path, "rb", buffering=0) as file:  # noqa: PTH123 - see above
                content = file.read()
            yield prefix + name, sha256(content.replace(b"\r\n", b"\n")).hexdigest()
        elif name[:-1] not in found:
            with open(entry.path, "rb", buffering=0) as file:  # noqa: PTH123 - see above
                yield prefix + name, sha256(file.read()[_PYC_HEADER_BYTES:]).hexdigest()
