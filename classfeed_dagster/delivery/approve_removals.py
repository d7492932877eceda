"""Approvals of an unusually large number of consent removals.

An approval is for one audience, one business date and exactly one set of removed portfolios. Another set, even with
one portfolio more, needs another approval. Approvals are never overwritten.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field, NonNegativeInt

from classfeed_dagster.errors import ChainBusyError, UsageError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, canonical, read_record, sha256, to_json

_ATTEMPTS = 20


class RemovalApproval(StoredRecord):
    """A person's approval of one date's consent removals."""

    schema_version: Literal[1] = 1
    audience: str = Field(description="the audience's key")
    business_date: dt.date
    removed: NonNegativeInt = Field(description="number of removed portfolios")
    removed_sha256: Sha256 = Field(description="SHA-256 of the set of their numbers")
    approved_by: str = Field(alias="released_by", min_length=1, description="the person who approved the removals")
    reason: str = Field(min_length=1, description="the person's reason")
    approved_at: AwareDatetime = Field(alias="released_at")


class ConsentedFigures(BaseModel, frozen=True):
    """Figures of a date's consented portfolios, as their stored reference has them."""

    measures: dict[str, int]

    @property
    def removed(self) -> int:
        """Return the number of removed portfolios."""
        return self.measures["portfolios_removed"]

    def may_exceed(self, max_removed_share: Decimal) -> bool:
        """Return False if ``ConsentRoll.exceeds`` is certainly False. The portfolios before were at least these."""
        if not self.removed:
            return False
        current = self.measures["portfolios_current"]
        left = current + self.measures["portfolios_new"]
        return not left or Decimal(self.removed) / (self.removed + current) > max_removed_share


def removed_digest(removed: Collection[str]) -> str:
    """Return the SHA-256 of a set of portfolio numbers, independent of their order."""
    return sha256(canonical(sorted(set(removed))))


def approve_removals(
    store: ObjectStore,
    audience: RecipientSchedule,
    day: dt.date,
    removed: Collection[str],
    *,
    approved_by: str,
    reason: str,
    at: dt.datetime,
) -> RemovalApproval:
    """Approve the removal of exactly ``removed`` on ``day``. ``at`` is UTC.

    A second approval of the same set keeps the first. Raise UsageError without a name and a reason.
    """
    if not approved_by.strip() or not reason.strip():
        raise UsageError("an approval needs a person's name and a reason: state who approves the removals, and why")
    approval = RemovalApproval(
        audience=audience.key,
        business_date=day,
        removed=len(set(removed)),
        removed_sha256=removed_digest(removed),
        approved_by=approved_by.strip(),
        reason=reason.strip(),
        approved_at=at,
    )
    for _ in range(_ATTEMPTS):
        before = approvals(store, audience, day)
        for earlier in before:
            if earlier.removed_sha256 == approval.removed_sha256:
                return earlier
        if store.create(_key(audience, day, len(before) + 1), to_json(approval)):
            return approval
    raise ChainBusyError(f"other approvals of {day.isoformat()} were recorded at the same time: approve it again")


def is_approved(store: ObjectStore, audience: RecipientSchedule, day: dt.date, removed: Collection[str]) -> bool:
    """Return True if a person approved the removal of exactly ``removed`` on ``day``."""
    digest = removed_digest(removed)
    return any(approval.removed_sha256 == digest for approval in approvals(store, audience, day))


def approvals(store: ObjectStore, audience: RecipientSchedule, day: dt.date) -> tuple[RemovalApproval, ...]:
    """Return every approval for the date, in order."""
    prefix = f"releases/{audience.key}/{day.isoformat()}/consent-jump"
    records = {key: read_record(store, RemovalApproval, key) for key in store.list(prefix)}
    return tuple(approval for _, approval in sorted(records.items(), key=lambda item: (len(item[0]), item[0])))


def _key(audience: RecipientSchedule, day: dt.date, count: int) -> str:
    suffix = "" if count == 1 else f"-{count}"
    return f"releases/{audience.key}/{day.isoformat()}/consent-jump{suffix}.json"
