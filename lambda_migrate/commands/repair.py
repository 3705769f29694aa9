"""`baseline` and `repair`: what is so by a person's word."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import FAILED, Answer
from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.commands.context import Site
    from lambda_migrate.migrations.adoption import Baseline

__all__ = ["baseline", "gap_advice", "repair"]


def baseline(
    site: Site,
    version: int | None = None,
    *,
    source: str = "",
    ignore_other_history: bool = False,
) -> Answer:
    """Record migrations as applied without running them; asks.

    Args:
        site: Where.
        version: The last one that the database has already; None: those that another tool's
            history table says were applied.
        source: Which tool, or which table, where there are several.
        ignore_other_history: Record up to ``version`` whatever such a table says.
    """
    given: dict[str, Any] = {"source": source, "ignore_other_history": ignore_other_history}
    chosen = site.maintenance.preview_baseline(version, site.deadline, **given)
    if chosen.migrations and not site.attendant.confirm(_baseline_question(site, chosen)):
        return _left_alone(site)
    declared = site.maintenance.baseline(version, site.deadline, expected=chosen, **given)
    other = chosen.other
    return Answer(
        {
            **site.place,
            "declared": list(declared),
            "from": None if other is None else {"tool": other.tool, "table": other.table},
            "compared": [asdict(each) for each in chosen.compared],
            "gaps": list(chosen.gaps),
        }
    )


def _baseline_question(site: Site, chosen: Baseline) -> Question:
    names = [migration.name for migration in chosen.migrations]
    since = f", since {chosen.other}" if chosen.other is not None else ""
    return Question(
        verb="baseline",
        ask=f"record {len(names)} migration{'s' * (len(names) != 1)} as applied?",
        heading=(
            f"this records as applied, without running them, on {site.place['database']}{since}:"
        ),
        place=site.place,
        migrations=[{"name": name, "applied_at": None} for name in names],
        notes=[gap_advice(chosen.gaps)] if chosen.gaps else [],
        compared=[asdict(each) for each in chosen.compared],
    )


def gap_advice(gaps: Sequence[str]) -> str:
    """What to do about migrations that stay pending below one that is recorded."""
    stay = "stays" if len(gaps) == 1 else "stay"
    return (
        f"{', '.join(gaps)} {stay} pending below what is recorded, and functions do not start "
        "until that is resolved: apply it with `LAMBDA_MIGRATE_ALLOW_OUT_OF_ORDER=true "
        "lambda-migrate up`, or give its file a higher version"
    )


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
