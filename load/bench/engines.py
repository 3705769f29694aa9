"""What only the benchmark needs beside the local engines: dbmate, fetched once."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import engines_directory, unpack_npm

__all__ = ["DBMATE_VERSION", "install_dbmate"]

DBMATE_VERSION = "2.36.0"

_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}


def install_dbmate() -> Path:
    """Fetch dbmate's program with npm, unless it is there.

    Raises:
        ConfigurationError: npm is missing or failed, or there is no build for this machine.
    """
    program = engines_directory() / "dbmate" / "dbmate"
    if not program.is_file():
        machine = _MACHINES.get(platform.machine().lower())
        if machine is None:
            raise ConfigurationError(f"no build of dbmate is known for {platform.machine()}")
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
            unpack_npm(f"@dbmate/linux-{machine}@{DBMATE_VERSION}", Path(scratch))
            fetched = Path(scratch) / "package" / "bin" / "dbmate"
            fetched.chmod(0o755)
            fetched.rename(program)
    return program
