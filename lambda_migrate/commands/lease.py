"""`lease show` and `lease release`: what needs the lease table and no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.commands.documents import lease_document
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import FAILED, Answer

if TYPE_CHECKING:
    from lambda_migrate.commands.context import Site

__all__ = ["lease_release", "lease_show"]


def lease_show(site: Site) -> Answer:
    """The holder and the last failure."""
    state = site.store.read(consistent=True)
    return Answer({**_place(site), **lease_document(state)})


def lease_release(site: Site) -> Answer:
    """Free the lease of a holder that is dead; asks."""
    from lambda_migrate.engine.operations import release_lease

    state = site.store.read(consistent=True)
    question = Question(
        verb="lease release",
        ask="free it?",
        heading="free it only if its holder is dead: one that lives loses what it is doing",
        place=_place(site),
        lease=lease_document(state),
    )
    if state.owner is not None and not site.attendant.confirm(question):
        return Answer({**_place(site), "confirmed": False}, FAILED)
    before = release_lease(site.store)
    released = before.owner is not None
    return Answer({**_place(site), "released": released, "owner": before.owner})


def _place(site: Site) -> dict[str, str]:
    return {"target": site.settings.target, "table": site.settings.table}
