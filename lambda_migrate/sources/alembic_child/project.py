"""An Alembic environment: its configuration and its graph of revisions."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.config import CommandLine, Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from lambda_migrate.errors import ManifestError
from lambda_migrate.migrations.revisions import Revision
from lambda_migrate.sources import alembic_files
from lambda_migrate.sources.alembic_child.errors import describe_graph_fault, is_missing_dependency
from lambda_migrate.sources.protocol import ChildError
from lambda_migrate.sources.user_code import make_relative

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.script import Script

    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["AlembicProject"]


class AlembicProject:
    """The environment that a request is about.

    Args:
        request: The request.
        config: The configuration that the user's setup function has made; by default it is read as
            the command ``alembic`` reads it.

    Attributes:
        script: Alembic's own view of the folder.
        is_down: Whether the request rolls back.
        destination: The revision to reach, as Alembic reads it.
    """

    def __init__(self, request: ChildRequest, config: Config | None) -> None:
        self._request = request
        self._setting = str(request.options.get("alembic_revision") or "heads")
        self._files = self._find_files()
        self.is_down = request.command in ("down", "describe-down")
        if self.is_down:
            steps = f"-{request.steps or 1}"
            self.destination = request.to if request.to is not None else steps
        else:
            self.destination = request.to or self._setting
        self.config = config or self._read_config()
        self.script = ScriptDirectory.from_config(self.config)
        if not Path(self.script.env_py_location).exists():
            raise ChildError(
                f"there is no {make_relative(self.script.env_py_location, request.root)}: deploy "
                "it with the code",
                kind="manifest",
            )

    def _find_files(self) -> alembic_files.AlembicFiles:
        try:
            return alembic_files.find_files(self._request.root, self._request.options)
        except ManifestError as error:
            raise ChildError(str(error), kind="manifest") from error

    def _read_config(self) -> Config:
        files = self._files
        arguments: dict[str, Any] = {"toml_file": files.toml} if files.toml else {}
        section = str(self._request.options.get("alembic_section") or "alembic")
        # What env.py may read of a command line: all that Alembic's own parser makes of it.
        command = "downgrade" if self.is_down else "upgrade"
        line = ["--config", files.ini or files.toml, "--name", section, command, "heads"]
        options = CommandLine().parser.parse_args(line)
        options.revision = self.destination
        config = Config(files.ini or None, ini_section=section, cmd_opts=options, **arguments)
        if files.ini and not config.get_main_option("script_location") and not files.toml:
            config.set_main_option("script_location", files.script_location.replace("%", "%%"))
        return config

    def _require_digested_folders(self) -> None:
        """Refuse a Config that reads folders which the digest does not cover."""
        files = self._files
        covered = [
            Path(each).resolve() for each in (files.script_location, *files.version_locations)
        ]
        used = [Path(self.script.dir), *map(Path, self.script._version_locations)]
        for folder in (each.resolve() for each in used):
            if not any(folder.is_relative_to(each) for each in covered):
                raise ChildError(
                    f"Alembic reads {folder}, which {files.ini or files.toml} does not name: set "
                    "LAMBDA_MIGRATE_ALEMBIC_CONFIG to the file that the setup function uses",
                    kind="configuration",
                )

    @cached_property
    def graph(self) -> dict[str, Revision]:
        """Every revision of the code by its id, parents first; env.py may choose the folders.

        So it must not be read before that.
        """
        self._require_digested_folders()
        with warnings.catch_warnings():
            # Alembic leaves one of them out, or fails with the KeyError of the missing one.
            for fault in ("is present more than once", "is not present"):
                warnings.filterwarnings("error", f"Revision .* {fault}", UserWarning)
            try:
                scripts = [*self.script.walk_revisions()]
            except (CommandError, UserWarning, KeyError) as error:
                if isinstance(error, KeyError) and not is_missing_dependency(error):
                    raise
                raise ChildError(describe_graph_fault(error), kind="manifest") from error
        if not scripts and not self._request.options.get("allow_empty"):
            folders = ", ".join(map(str, self.script._version_locations))
            raise ChildError(
                f"there are no revisions in {folders}: deploy them with the code, and name their "
                "folders with version_locations; or set LAMBDA_MIGRATE_ALLOW_EMPTY=true if this "
                "service has none yet",
                kind="manifest",
            )
        return {each.revision: self.make_revision(each) for each in reversed(scripts)}

    def make_revision(self, script: Script) -> Revision:
        """A revision of Alembic as ours."""
        parents = tuple(script._normalized_down_revisions)
        path = make_relative(script.path, self._request.root)
        return Revision(script.revision, parents, Path(script.path).stem, path)

    def find_needed_heads(self) -> list[str]:
        """The ids that the version table has after an upgrade."""
        if self._setting != "heads":
            return [each.revision for each in self.script.get_revisions(self._setting) if each]
        parents = {parent for step in self.graph.values() for parent in step.parents}
        return [each for each in self.graph if each not in parents]

    def find_steps(self, heads: Any) -> Sequence[Any]:
        """Alembic's steps from the heads of the version table to the destination.

        Raises:
            ChildError: There is no such revision, or it cannot be reached.
        """
        request = self._request
        try:
            if not self.is_down:
                return self.script._upgrade_revs(self.destination, heads)
            if request.to is not None:
                return self.script._downgrade_revs(self.destination, heads)
            # `-N` is ambiguous below a merge, and too much if there are fewer.
            return [*self.script._downgrade_revs("base", heads)][: request.steps or 1]
        except CommandError as error:
            if "overlaps" in str(error):
                raise ChildError(
                    f"the version table lists {', '.join(heads)}, and one of them is an ancestor "
                    f"of another: delete the ancestor's row ({error})",
                    kind="configuration",
                ) from error
            option = (
                f"--to {request.to}"
                if request.to
                else f"LAMBDA_MIGRATE_ALEMBIC_REVISION={self.destination}"
            )
            raise ChildError(
                f"{option}: {error}; `alembic history` lists the revisions", kind="configuration"
            ) from error
