"""The support door's rules: who may ask for a re-run, of what, how often; and every request on record, create-only.

A re-run is safe at any time, since what was delivered is never delivered again; the rules keep it from being a nuisance
and leave a trace. Nothing else can be asked for here: no fresh snapshot, no release, no other job, no configuration.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import AwareDatetime, Field

from classfeed_dagster import trading_days
from classfeed_dagster.errors import ChainBusyError, UsageError
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.service_levels.due import due
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Record, from_json, to_json

BUDGET_WINDOW = dt.timedelta(hours=24)
LAUNCHED_BY = "support"
_ATTEMPTS = 20
_REASON = range(10, 501)
# An e-mail address, or a run of digits long enough for an account, a TFN or a phone number.
_PERSONAL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+|\d(?:[ -]?\d){7,}")
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z")


class RerunRefusedError(UsageError):
    """The door stays shut. The message says why, and what the person can do."""


class RerunRequest(Record):
    """Who asked for which re-run, why, when, and what the door said."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    requested_by: str = Field(description="the person's login name, as the identity provider or the machine states it")
    reason: str
    requested_at: AwareDatetime
    outcome: Literal["ACCEPTED", "REFUSED"]
    refusal: str | None = None
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Requester:
    """A person, as something we trust states them, and their groups."""

    name: str
    groups: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class RerunPolicy:
    """Which group the door opens for, and how many re-runs of a feed it grants in 24 hours."""

    group: str
    budget: int


def request_rerun(
    store: ObjectStore,
    feed: Feed,
    first_business_date: dt.date,
    day: dt.date,
    requester: Requester,
    reason: str,
    *,
    rules: RerunPolicy,
    under_way: Callable[[], bool],
    at: dt.datetime,
    correlation_id: str,
) -> tuple[str, RerunRequest]:
    """Put the request on record; the record's key and itself if it is granted. ``at`` is UTC.

    RerunRefusedError if not, after that was put on record too. ``first_business_date`` is the feeds' default one;
    ``under_way`` says whether a run of the date is queued or running.
    """
    for _ in range(_ATTEMPTS):
        count, spent = _spent(store, feed.name, at - BUDGET_WINDOW)
        refusal = _refusal(feed, first_business_date, day, requester, reason, rules, spent, under_way, at)
        record = RerunRequest(
            feed=feed.name,
            business_date=day,
            requested_by=requester.name if _PERSON.match(requester.name) else "(no usable name)",
            # What was refused for what it says isn't kept.
            reason="(withheld)" if _PERSONAL.search(reason) else reason.strip()[: _REASON.stop - 1],
            requested_at=at,
            outcome="REFUSED" if refusal else "ACCEPTED",
            refusal=refusal,
            correlation_id=correlation_id,
        )
        key = f"reruns/{feed.name}/{count + 1:08d}.json"
        # One sequence a feed: whoever comes second counts again, so that the budget can't be overdrawn by racing.
        if store.create(key, to_json(record), {"correlation-id": correlation_id}):
            if refusal:
                raise RerunRefusedError(refusal)
            return key, record
    raise ChainBusyError(f"other requests for {feed.name} kept coming first: ask again")


def requests(store: ObjectStore, feed: str) -> tuple[RerunRequest, ...]:
    """Every request for a feed, the first one first."""
    return tuple(from_json(RerunRequest, store.read(key), store.location(key)) for key in store.list(f"reruns/{feed}/"))


def _spent(store: ObjectStore, feed: str, since: dt.datetime) -> tuple[int, int]:
    # How many requests there are, and how many were granted since ``since``; the newest are read first.
    keys = list(store.list(f"reruns/{feed}/"))
    granted = 0
    for key in reversed(keys):
        record = from_json(RerunRequest, store.read(key), store.location(key))
        if record.requested_at <= since:
            break
        granted += record.outcome == "ACCEPTED"
    return len(keys), granted


def _refusal(
    feed: Feed,
    first_business_date: dt.date,
    day: dt.date,
    requester: Requester,
    reason: str,
    rules: RerunPolicy,
    spent: int,
    under_way: Callable[[], bool],
    at: dt.datetime,
) -> str | None:
    audience = feed.audience(first_business_date)
    if not _PERSON.match(requester.name) or rules.group not in requester.groups:
        return f"only members of {rules.group} may ask for a re-run: ask your team lead for the group"
    if len(reason.strip()) not in _REASON or not reason.isprintable():
        return f"a reason of {_REASON.start} to {_REASON.stop - 1} characters on one line is needed: it goes on record"
    if _PERSONAL.search(reason):
        return "the reason holds what looks like an e-mail address or a number of a person or account: leave it out"
    if day < audience.first_business_date or not trading_days.is_business_day(day) or not audience.is_due(day):
        return f"{day.isoformat()} is not a date of {feed.name}"
    if at < due(feed, day).starts_at:
        return f"{day.isoformat()} is not due yet: its run starts by itself"
    if spent >= rules.budget:
        return f"{spent} re-runs of {feed.name} were granted in the last 24 hours, which is the limit: page the on-call"
    if under_way():
        return f"a run of {day.isoformat()} is under way: wait for it to end"
    return None
