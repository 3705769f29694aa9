"""`status`, `plan`, `verify`: what look and change nothing in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import FlagsUnavailable
from lambda_migrate.verbs.answer import DONE, FAILED, PENDING, Answer
from lambda_migrate.verbs.documents import (
    flags_document,
    plan_document,
    status_document,
    verify_document,
)
from lambda_migrate.verbs.preview import preview_of

if TYPE_CHECKING:
    from lambda_migrate.verbs.site import Site

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


def plan(site: Site, *, to: int | None = None) -> Answer:
    """What `up` would do; fails where it would refuse to begin.

    Args:
        site: Where.
        to: As of `up`.
    """
    planned, manifest = site.maintenance.plan(site.deadline, to=to)
    preview = preview_of(planned, manifest)
    return Answer(plan_document(preview, site.place), DONE if preview.can_go_on else FAILED)


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
