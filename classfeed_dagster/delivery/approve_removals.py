"""A person's release of a consent jump: this many removals at once were looked at and are right.

A release is for one audience, one business date and exactly one set of removed portfolios: another set, even one
portfolio more, needs another person's look. Releases are never overwritten.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.delivery.manifest import Sha256
from classfeed_dagster.errors import ChainBusyError, UsageError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Record, canonical, from_json, sha256, to_json

_ATTEMPTS = 20


class JumpRelease(Record):
    """Who released a consent jump, why and when."""

    schema_version: Literal[1] = 1
    audience: str = Field(description="the audience's key")
    business_date: dt.date
    removed: NonNegativeInt = Field(description="how many portfolios were removed")
    removed_sha256: Sha256 = Field(description="of exactly which")
    released_by: str = Field(min_length=1, description="the person who looked at it")
    reason: str = Field(min_length=1, description="why it is right")
    released_at: AwareDatetime


def removed_digest(removed: Collection[str]) -> str:
    """SHA-256 of a set of portfolio numbers, whatever their order."""
    return sha256(canonical(sorted(set(removed))))


def approve_removals(
    store: ObjectStore,
    audience: RecipientSchedule,
    day: dt.date,
    removed: Collection[str],
    *,
    released_by: str,
    reason: str,
    at: dt.datetime,
) -> JumpRelease:
    """Release the jump of ``day`` that removes exactly ``removed``. ``at`` is UTC.

    Releasing again what is released keeps the first release. ValueError without a name and a reason.
    """
    if not released_by.strip() or not reason.strip():
        raise UsageError("a release needs the name of the person and a reason: say who looked, and why it is right")
    release = JumpRelease(
        audience=audience.key,
        business_date=day,
        removed=len(set(removed)),
        removed_sha256=removed_digest(removed),
        released_by=released_by.strip(),
        reason=reason.strip(),
        released_at=at,
    )
    for _ in range(_ATTEMPTS):
        before = releases(store, audience, day)
        for earlier in before:
            if earlier.removed_sha256 == release.removed_sha256:
                return earlier
        if store.create(_key(audience, day, len(before) + 1), to_json(release)):
            return release
    raise ChainBusyError(f"other releases of {day.isoformat()} kept coming first: release it again")


def is_released(store: ObjectStore, audience: RecipientSchedule, day: dt.date, removed: Collection[str]) -> bool:
    """True if a person released the jump of ``day`` that removes exactly ``removed``."""
    digest = removed_digest(removed)
    return any(release.removed_sha256 == digest for release in releases(store, audience, day))


def releases(store: ObjectStore, audience: RecipientSchedule, day: dt.date) -> tuple[JumpRelease, ...]:
    """Every release for the date, the first one first."""
    prefix = f"releases/{audience.key}/{day.isoformat()}/consent-jump"
    found = {key: from_json(JumpRelease, store.read(key), store.location(key)) for key in store.list(prefix)}
    return tuple(release for _, release in sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def _key(audience: RecipientSchedule, day: dt.date, count: int) -> str:
    suffix = "" if count == 1 else f"-{count}"
    return f"releases/{audience.key}/{day.isoformat()}/consent-jump{suffix}.json"
