"""The audit fails on known vulnerabilities, and reports when it could not look any up."""

from __future__ import annotations

import json
from typing import Any

from tests.security.audit import Answer, read, verdict

FINE = {"name": "boto3", "version": "1.35.0", "vulns": []}
SKIPPED = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}
KNOWN = {"id": "PYSEC-2023-74", "fix_versions": ["2.31.0"], "aliases": [], "description": ""}
BAD = {"name": "requests", "version": "2.19.0", "vulns": [KNOWN]}


def answer(*packages: dict[str, Any]) -> Answer:
    return read(json.dumps({"dependencies": packages, "fixes": []}))


def test_a_known_vulnerability_fails_the_audit_and_is_reported_with_its_fix() -> None:
    code, text = verdict([answer(FINE, SKIPPED, BAD)])
    assert code == 1
    assert "requests 2.19.0: PYSEC-2023-74; fixed in 2.31.0" in text


def test_an_audit_that_skipped_every_package_is_reported_as_not_audited() -> None:
    assert verdict([answer(SKIPPED, SKIPPED), Answer()])[0] == 0
    assert "not audited" in verdict([answer(SKIPPED), Answer()])[1]


def test_if_one_service_fails_the_next_is_queried() -> None:
    assert verdict([answer(SKIPPED), answer(BAD)])[0] == 1
    assert verdict([answer(SKIPPED), answer(FINE)]) == (0, "1 packages, no known vulnerability")


def test_skipped_packages_are_reported() -> None:
    code, text = verdict([answer(FINE, SKIPPED)])
    assert (code, text) == (0, "1 packages, no known vulnerability; unknown there: ours")


def test_invalid_output_counts_as_no_response() -> None:
    for text in ("", "Traceback", "{}", "[]", '{"dependencies": null}'):
        assert read(text) == Answer()
