"""A Lambda runtime's Python on this machine: an interpreter and the packages that Lambda adds."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.package.archive import find_interpreter
from lambda_migrate.local.package.build import PYTHON

__all__ = ["ARCHITECTURE", "Runtime", "find_version"]

ARCHITECTURE = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]


def find_version() -> str:
    """The version that the template names, where this machine has it; else that of the tests."""
    try:
        find_interpreter(PYTHON)
    except ConfigurationError:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    return PYTHON


@dataclass(frozen=True)
class Runtime:
    """Sees the code that it is given, boto3 and the runtime client, and nothing else of ours.

    Attributes:
        version: ``3.13``.
        home: What stands for ``/var/runtime``.
    """

    version: str
    home: Path

    @classmethod
    def make(cls, home: Path) -> Runtime:
        """Fill ``home``."""
        version = find_version()
        machine = platform.machine()
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--target", str(home / "runtime"), "--only-binary", ":all:"),
            *("--python-version", version, "--implementation", "cp"),
            *("--platform", f"manylinux2014_{machine}", "awslambdaric", "boto3"),
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        python = home / "python"
        # Without site: what the tests' interpreter has installed is not there in Lambda.
        python.write_text(
            "#!/bin/sh\n"
            f'PYTHONPATH="$PYTHONPATH:{home}/runtime" exec {find_interpreter(version)} -S "$@"\n'
        )
        python.chmod(0o755)
        return cls(version, home)

    @property
    def python(self) -> str:
        """What runs it."""
        return str(self.home / "python")

    def run(self, program: str, *, path: Path) -> str:
        """Run a program with ``path`` in front of everything; return what it says."""
        answer = subprocess.run(
            [self.python, "-c", program],
            env={"PYTHONPATH": str(path), "PATH": os.environ["PATH"]},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout
