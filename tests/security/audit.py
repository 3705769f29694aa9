"""Known vulnerabilities of what is installed: ``python -m tests.security.audit`` (`make audit`).

pip-audit queries PyPI or OSV. It skips a package without a result, and reports "No known
vulnerabilities found" even if it skipped all of them, as it does behind a mirror that has no
advisories. This program queries both, and distinguishes three outcomes:

===  ================================================================================
0    every package that could be looked up is without a known vulnerability; or there
     was no advisory database to ask, which is reported
1    a known vulnerability
2    pip-audit itself does not work
===  ================================================================================
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SERVICES = ("pypi", "osv")
_SECONDS_FOR_AN_ANSWER = "10"
_SECONDS_IN_ALL = 300


@dataclass(frozen=True)
class Answer:
    """What one advisory service said.

    Attributes:
        looked_up: How many packages it knows.
        skipped: Names of those that it does not.
        vulnerable: One line for each known vulnerability.
    """

    looked_up: int = 0
    skipped: tuple[str, ...] = ()
    vulnerable: tuple[str, ...] = ()


def read(report: str) -> Answer:
    """Read pip-audit's JSON; what is none is no answer."""
    try:
        packages: list[dict[str, Any]] = list(json.loads(report)["dependencies"])
    except (ValueError, KeyError, TypeError):
        return Answer()
    found = [each for each in packages if "skip_reason" not in each]
    return Answer(
        looked_up=len(found),
        skipped=tuple(each["name"] for each in packages if "skip_reason" in each),
        vulnerable=tuple(_line(each, known) for each in found for known in each.get("vulns", ())),
    )


def _line(package: dict[str, Any], known: dict[str, Any]) -> str:
    fixed_in = ", ".join(known.get("fix_versions", ())) or "no version yet"
    return f"{package['name']} {package.get('version', '')}: {known.get('id')}; fixed in {fixed_in}"


def verdict(answers: Iterable[Answer]) -> tuple[int, str]:
    """Exit code and text, from the first service that had an answer."""
    for answer in answers:
        if answer.vulnerable:
            return 1, "\n".join(("known vulnerabilities:", *answer.vulnerable))
        if answer.looked_up:
            missing = f"; unknown there: {', '.join(answer.skipped)}" if answer.skipped else ""
            return 0, f"{answer.looked_up} packages, no known vulnerability{missing}"
    return 0, f"not audited: no advisories to be had from {' or '.join(SERVICES)}"


def ask(service: str) -> Answer:
    """Run pip-audit on this interpreter's packages."""
    audit = (
        sys.executable,
        "-m",
        "pip_audit",
        "--skip-editable",
        "--vulnerability-service",
        service,
    )
    output = ("--format", "json", "--progress-spinner", "off", "--timeout", _SECONDS_FOR_AN_ANSWER)
    try:
        done = subprocess.run(
            [*audit, *output], capture_output=True, text=True, check=False, timeout=_SECONDS_IN_ALL
        )
    except subprocess.TimeoutExpired:
        return Answer()
    return read(done.stdout)


def main(services: Sequence[str] = SERVICES) -> int:
    """See the module."""
    if importlib.util.find_spec("pip_audit") is None:
        sys.stderr.write("pip-audit is not installed: pip install pip-audit\n")
        return 2
    code, text = verdict(ask(service) for service in services)
    sys.stdout.write(text + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
