"""Re-runs and customer look-ups of the support group: permission, budget and a create-only record of each request.

A re-run is safe at any time, because nothing is delivered twice. The rules limit how often people start one and record
who did. A request chooses the feed and the business date, and nothing else: no fresh snapshot, no approval of removals,
no other job, no configuration. A refresh (``support.refreshes``) is a request that names a portfolio instead.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import AwareDatetime, Field

from classfeed_dagster import trading_days
from classfeed_dagster.errors import ChainBusyError, UsageError
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.free_text import identifiers_in
from classfeed_dagster.logs import get_logger
from classfeed_dagster.service_levels.service_levels import due
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, is_none, read_record, sha256, to_json

BUDGET_WINDOW = dt.timedelta(hours=24)
LAUNCHED_BY = "support"
_ATTEMPTS = 20
_REFUSED = "reruns/refused/"  # within the only prefix in which the support page may create objects
_REASON = range(10, 501)
# An e-mail address, or a run of digits long enough for an account, a TFN or a phone number.
_PERSONAL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+|\d(?:[ -]?\d){7,}")
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z")


_NUMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")


def is_number(text: str) -> bool:
    """Return True if the text can be a portfolio number, part of a key and of a message."""
    return bool(_NUMBER.match(text))


class RerunRefusedError(UsageError):
    """A re-run is not permitted. The message states the reason and what the person can do."""


class RerunRequest(StoredRecord):
    """Request for a re-run: requester, reason, instant and outcome."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    requested_by: str = Field(description="the person's login name, as the identity provider or the machine states it")
    reason: str
    requested_at: AwareDatetime
    outcome: Literal["ACCEPTED", "REFUSED"]
    refusal: str | None = None
    portfolio_number: str | None = Field(
        default=None, description="the portfolio to send in full; null: a re-run of the whole date", exclude_if=is_none
    )
    correlation_id: str

    @property
    def action(self) -> str:
        """Return what was requested and its outcome, in words."""
        what = "re-run" if self.portfolio_number is None else f"refresh of {self.portfolio_number}"
        return f"{what} {self.outcome.lower()}"


@dataclass(frozen=True, slots=True)
class Requester:
    """Person and groups, as stated by a trusted source."""

    name: str
    groups: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class RerunPolicy:
    """Limits of re-runs on request.

    Attributes:
        group: the group whose members may request a re-run.
        budget: re-runs of one feed granted in 24 hours.
        feeds: names of the feeds that may be re-run.
    """

    group: str
    budget: int
    feeds: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the policy of the settings."""
        feeds = (name.strip() for name in settings.rerun_feeds.split(","))
        return cls(settings.support_group, settings.rerun_budget, frozenset(name for name in feeds if name))


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
    portfolio_number: str | None = None,
    refusal_of_portfolio: Callable[[], str | None] = lambda: None,
) -> tuple[str, RerunRequest]:
    """Record a granted request; return the record's key and the record. RerunRefusedError if it is not granted.

    ``first_business_date`` is the default of all feeds; ``under_way`` is true while a run of the date is queued or
    running; ``at`` is UTC. ``portfolio_number``: of a refresh; ``refusal_of_portfolio`` is asked last.
    """
    for _ in range(_ATTEMPTS):
        count, spent = _spent(store, feed.name, at - BUDGET_WINDOW)
        refusal = _refusal(feed, first_business_date, day, requester, reason, rules, spent, under_way, at)
        refusal = refusal or refusal_of_portfolio()
        record = RerunRequest(
            feed=feed.name,
            business_date=day,
            requested_by=requester.name if _PERSON.match(requester.name) else "(no usable name)",
            # A reason that was refused for its content is not stored.
            reason="(withheld)" if names_a_person(reason) else reason.strip()[: _REASON.stop - 1],
            requested_at=at,
            outcome="REFUSED" if refusal else "ACCEPTED",
            refusal=refusal,
            portfolio_number=portfolio_number,
            correlation_id=correlation_id,
        )
        if refusal:
            _record_refusal(store, record)
            raise RerunRefusedError(refusal)
        key = f"reruns/{feed.name}/{count + 1:08d}.json"
        # One sequence per feed: of two racing requests the second counts again, so neither exceeds the budget.
        if store.create(key, to_json(record), {"correlation-id": correlation_id}):
            return key, record
    raise ChainBusyError(f"{feed.name}: other requests were recorded at the same time: request it again")


def require_member(requester: Requester, rules: RerunPolicy) -> None:
    """Raise RerunRefusedError unless the person has a usable name and is a member of the group."""
    if not _is_member(requester, rules):
        raise RerunRefusedError(f"only members of {rules.group} may do this: ask your team lead for the group")


def _is_member(requester: Requester, rules: RerunPolicy) -> bool:
    return bool(_PERSON.match(requester.name)) and rules.group in requester.groups


def requests(store: ObjectStore, feed: str) -> tuple[RerunRequest, ...]:
    """Return the recorded requests for a feed, by instant: all granted ones, and the first refused one of each hour."""
    keys = (*_granted_keys(store, feed), *store.list(f"{_REFUSED}{feed}/"))
    records = [read_record(store, RerunRequest, key) for key in keys]
    return tuple(sorted(records, key=lambda record: record.requested_at))


def _record_refusal(store: ObjectStore, record: RerunRequest) -> None:
    # One record per feed and hour: refusals can be repeated without limit, by anyone who is signed in, and must not
    # fill the store. All of them are in the log. They take no number from the granted requests.
    key = f"{_REFUSED}{record.feed}/{record.requested_at:%Y%m%dT%H}.json"
    store.create(key, to_json(record), {"correlation-id": record.correlation_id})
    get_logger().warning(
        "re-run refused",
        feed=record.feed,
        business_date=record.business_date.isoformat(),
        why=record.refusal,
        correlation_id=record.correlation_id,
    )


def _granted_keys(store: ObjectStore, feed: str) -> list[str]:
    return list(store.list(f"reruns/{feed}/"))


def _spent(store: ObjectStore, feed: str, since: dt.datetime) -> tuple[int, int]:
    # The number of the last request, and the requests granted since ``since``. The newest are read first.
    keys = _granted_keys(store, feed)
    granted = 0
    for key in reversed(keys):
        record = read_record(store, RerunRequest, key)
        if record.requested_at <= since:
            break
        granted += record.outcome == "ACCEPTED"
    return len(keys), granted


def names_a_person(reason: str) -> bool:
    """Return True if a reason contains an e-mail address or a number of a person or account."""
    return bool(_PERSONAL.search(reason) or identifiers_in(reason))


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
    if not _is_member(requester, rules):
        return f"only members of {rules.group} may request a re-run: ask your team lead for the group"
    if feed.name not in rules.feeds:
        return f"{feed.name} is not re-run on request, only {', '.join(sorted(rules.feeds))}: page the on-call"
    if len(reason.strip()) not in _REASON or not reason.isprintable():
        return f"a reason of {_REASON.start} to {_REASON.stop - 1} characters on one line is required: it is recorded"
    if names_a_person(reason):
        return "the reason contains an e-mail address or a number of a person or account: leave it out"
    if day < audience.first_business_date or not trading_days.is_business_day(day) or not audience.is_due(day):
        return f"{day.isoformat()} is not a date of {feed.name}"
    if at < due(feed, day).starts_at:
        return f"{day.isoformat()} is not due yet: its run starts automatically"
    if spent >= rules.budget:
        return f"{spent} re-runs of {feed.name} were granted in the last 24 hours, which is the limit: page the on-call"
    if under_way():
        return f"a run of {day.isoformat()} is in progress: wait for its end"
    return None


class CustomerLookup(StoredRecord):
    """Record of a person who was shown a customer's feeds."""

    schema_version: Literal[1] = 1
    portfolio_number: str
    looked_up_by: str = Field(description="the person's login name, as the identity provider states it")
    looked_up_at: AwareDatetime


def record_lookup(
    store: ObjectStore, number: str, requester: Requester, rules: RerunPolicy, budget: int, at: dt.datetime
) -> str:
    """Record a look-up before it is answered; return the record's key. ``at`` is UTC.

    RerunRefusedError for persons outside the group, and above ``budget`` look-ups of one person on one day (UTC).
    """
    require_member(requester, rules)
    prefix = f"reruns/lookups/{at:%Y-%m-%d}/{sha256(requester.name.encode())[:16]}/"
    record = CustomerLookup(portfolio_number=number, looked_up_by=requester.name, looked_up_at=at)
    for _ in range(_ATTEMPTS):
        count = sum(1 for _ in store.list(prefix))
        if count >= budget:
            raise RerunRefusedError(f"{count} customers were looked up today, which is the limit: page the on-call")
        key = f"{prefix}{count + 1:06d}.json"
        if store.create(key, to_json(record)):
            return key
    raise ChainBusyError("other look-ups were recorded at the same time: look it up again")
