"""`baseline` and `repair`: what is so by a person's word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.verbs.answer import FAILED, Answer
from lambda_migrate.verbs.attendant import Question

if TYPE_CHECKING:
    from lambda_migrate.verbs.site import Site

__all__ = ["baseline", "repair"]


def baseline(site: Site, version: int) -> Answer:
    """Record migrations as applied without running them; asks.

    Args:
        site: Where.
        version: The last one that the database has already.
    """
    maintenance = site.maintenance
    planned, _ = maintenance.plan(site.deadline, to=version)
    names = [migration.name for migration in planned.pending]
    question = Question(
        verb="baseline",
        ask=f"record {len(names)} migration{'s' * (len(names) != 1)} as applied?",
        heading=f"this records as applied, without running them, on {site.place['database']}:",
        place=site.place,
        migrations=[{"name": name, "applied_at": None} for name in names],
    )
    if names and not site.attendant.confirm(question):
        return _left_alone(site)
    declared = maintenance.baseline(version, site.deadline)
    return Answer({**site.place, "declared": list(declared)})


def repair(
    site: Site,
    version: int | None = None,
    *,
    declared: str | None = None,
    environment: str | None = None,
) -> Answer:
    """Settle what only a person can tell; asks.

    Args:
        site: Where.
        version: Which migration.
        declared: ``applied`` or ``pending`` for one in doubt; ``edited`` to accept a changed file.
        environment: Given, with neither of the two: stamp the database with the environment of the
            site's settings, which this is.
    """
    if version is None and declared is None and environment is not None:
        return _stamp(site)
    if version is None or declared is None:
        raise ConfigurationError(
            "say what to repair: `repair VERSION --as applied|pending|edited`, or "
            "`repair --environment NAME` for a database that changed hands"
        )
    return _settle(site, version, declared)


def _settle(site: Site, version: int, declared: str) -> Answer:
    consequence = _CONSEQUENCES.get(declared)
    if consequence is None:
        raise ConfigurationError(
            f"{declared!r} says nothing about version {version}: write one of "
            f"{', '.join(_CONSEQUENCES)}"
        )
    name = _name_of(site, version)
    question = Question(
        verb="repair",
        ask=f"record {name} as {declared}?",
        heading=consequence.format(name=name, database=site.place["database"]),
        place=site.place,
    )
    if not site.attendant.confirm(question):
        return _left_alone(site)
    mended = site.maintenance.repair(version, site.deadline, declared=declared)
    return Answer({**site.place, "repaired": mended, "as": declared})


_CONSEQUENCES = {
    "applied": "{name} is recorded as applied on {database}; nothing of it is run.",
    "pending": (
        "the row of {name} is removed from the history of {database}; nothing is undone, and the "
        "next `up` runs it again."
    ),
    "edited": (
        "the history of {database} takes over the text of {name} as it is now; nothing is run."
    ),
}


def _name_of(site: Site, version: int) -> str:
    maintenance = site.maintenance
    history = maintenance.target.database.read_history(site.deadline)
    row = next((row for row in history if row.version == version), None)
    migration = maintenance.manifest.get(version)
    if row is not None:
        return row.name
    return migration.name if migration is not None else f"version {version}"


def _stamp(site: Site) -> Answer:
    """Stamp the database with the environment of the settings, whatever it was."""
    environment = site.settings.environment
    if not environment:
        raise ConfigurationError("say which: repair --environment NAME")
    where = site.place["database"]
    question = Question(
        verb="repair",
        ask=f"stamp it with {environment!r}?",
        heading=f"{where} will belong to {environment!r}; functions of others are refused there.",
        place=site.place,
    )
    if not site.attendant.confirm(question):
        return _left_alone(site)
    site.maintenance.stamp_environment(site.deadline)
    return Answer({**site.place, "stamped": environment})


def _left_alone(site: Site) -> Answer:
    return Answer({**site.place, "confirmed": False}, FAILED)
