"""`status`, `plan`, `verify`: what look, and leave nothing changed in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.documents import (
    flags_document,
    plan_document,
    status_document,
    verify_document,
)
from lambda_migrate.commands.dry_run import rehearsal_document, rehearsal_question
from lambda_migrate.commands.errors import exit_code_of
from lambda_migrate.commands.preview import preview_of
from lambda_migrate.commands.result import DONE, FAILED, PENDING, Answer
from lambda_migrate.errors import FlagsUnavailable

if TYPE_CHECKING:
    from lambda_migrate.commands.context import Site
    from lambda_migrate.engine.operations import DryRunPlan

__all__ = ["plan", "status", "verify"]


def status(site: Site, *, exit_code: bool = False) -> Answer:
    """What is applied and who is at it.

    Args:
        site: Where.
        exit_code: Exit with 3 unless this code may be served.
    """
    found = site.maintenance.status(site.deadline)
    document = status_document(found, site.manifest, site.place, has_table=site.has_table)
    document["flags"] = _flags(site)
    return Answer(document, PENDING if exit_code and not found.plan.is_current else DONE)


def _flags(site: Site) -> dict[str, Any] | None:
    """The feature flags in force; None if there are none."""
    source = site.maintenance.target.flags
    if source is None:
        return None
    try:
        return flags_document(source.read(site.deadline))
    except FlagsUnavailable as error:
        return flags_document(None, unavailable=str(error))


def plan(
    site: Site,
    *,
    to: int | None = None,
    execute: bool = False,
    in_production: bool = False,
    ignore_other_history: bool = False,
) -> Answer:
    """What `up` would do; fails where it would refuse to begin, or fail.

    Args:
        site: Where.
        to: As of `up`.
        execute: Do it, in a transaction that is rolled back; asks.
        in_production: It may be done in production, where users wait for it.
        ignore_other_history: As of `up`.
    """
    given: dict[str, Any] = {"to": to, "ignore_other_history": ignore_other_history}
    planned, manifest = site.maintenance.plan(site.deadline, **given)
    preview = preview_of(planned, manifest)
    document = plan_document(preview, site.place)
    if execute and preview.can_go_on:
        return _rehearse(site, document, given, in_production=in_production)
    return Answer(document, DONE if preview.can_go_on else FAILED)


def _rehearse(
    site: Site, document: dict[str, Any], given: dict[str, Any], *, in_production: bool
) -> Answer:
    def confirm(forecast: DryRunPlan) -> bool:
        return site.attendant.confirm(
            rehearsal_question(forecast, site.place, in_production=in_production)
        )

    rehearsed = site.maintenance.dry_run(site.deadline, confirm=confirm, **given)
    if rehearsed is None:
        return Answer({**site.place, "confirmed": False}, FAILED)
    code = DONE if rehearsed.error is None else exit_code_of(rehearsed.error)
    return Answer({**document, "rehearsal": rehearsal_document(rehearsed)}, code)


def verify(site: Site, *, resync: bool = False) -> Answer:
    """Whether files, history and lease table agree; fails where they do not.

    Args:
        site: Where.
        resync: Let the lease table say what the history proves, first.
    """
    if resync:
        site.settings.require(table=True)
        site.maintenance.resync(site.deadline)
    found = site.maintenance.verify(site.deadline)
    document = verify_document(found, site.place, resynced=resync)
    return Answer(document, FAILED if found.problems else DONE)
