"""The types of the keyword arguments that set what `Settings` holds; no cold start loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

__all__ = [
    "Init",
    "Mode",
    "OnFlagsUnavailable",
    "OnLeaseStoreUnavailable",
    "SettingsArguments",
    "Source",
]

Mode = Literal["migrate", "require", "off"]
OnLeaseStoreUnavailable = Literal["fail", "check"]
OnFlagsUnavailable = Literal["fail", "ignore"]
Source = Literal["sql", "alembic", "django"]
Init = Literal["never", "when-long"]


class SettingsArguments(TypedDict, total=False):
    """The keyword arguments that set what `Settings` holds; None counts as absent."""

    table: str | None
    target: str | None
    environment: str | None
    directory: str | PathLike[str] | None
    source: Source | None
    source_setup: str | None
    alembic_config: str | PathLike[str] | None
    alembic_section: str | None
    alembic_revision: str | None
    alembic_version_table: str | None
    django_manifest: str | PathLike[str] | None
    django_database: str | None
    django_try_atomic: bool | None
    allow_empty: bool | None
    mode: Mode | None
    ready_when: str | None
    lease_seconds: float | None
    wait_seconds: float | None
    safety_margin_seconds: float | None
    schema: str | None
    database_url: str | None
    database_secret: str | None
    database_iam: bool | None
    sslmode: str | None
    sslrootcert: str | None
    allow_out_of_order: bool | None
    ignore_other_history: bool | None
    placeholders: Mapping[str, str] | str | None
    failure_pause_seconds: float | None
    lock_timeout_seconds: float | None
    on_lease_store_unavailable: OnLeaseStoreUnavailable | None
    flags: str | None
    on_flags_unavailable: OnFlagsUnavailable | None
    init: Init | None
