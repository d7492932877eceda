"""Notices of consents that are about to expire, for the broker's systems: one stored list a day.

A sharing ends when the last active consent of a portfolio for a recipient ends. Each end is listed once for each lead
time, also after days without a list. A list holds numbers and instants, no names.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, Field, PositiveInt

from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, read_record, to_json
from classfeed_dagster.trading_days import SYDNEY

if TYPE_CHECKING:
    from classfeed_dagster.bigsite.consent import Consent
    from classfeed_dagster.runtime import Runtime

LONGEST_LEAD = 366  # days
_PREFIX = "notices/consent-expiry/"


class ExpiryNotice(StoredRecord):
    """A portfolio whose sharing with a recipient ends within a lead time."""

    portfolio_number: str
    recipient: str
    ends_at: AwareDatetime = Field(description="instant at which its last active consent ends")
    consent_ids: tuple[int, ...] = Field(description="its active consents, ascending")
    lead_days: PositiveInt = Field(description="the lead time that was reached")


class ExpiryNotices(StoredRecord):
    """The notices of one day."""

    schema_version: Literal[1] = 1
    date: dt.date = Field(description="calendar date in Sydney")
    at: AwareDatetime = Field(description="instant of the query, UTC")
    lead_days: tuple[PositiveInt, ...]
    notices: tuple[ExpiryNotice, ...]


def notices_key(day: dt.date) -> str:
    """Return the key of a day's list."""
    return f"{_PREFIX}{day.isoformat()}.json"


def read_notices(store: ObjectStore, since: dt.date, until: dt.date) -> Iterator[ExpiryNotices]:
    """Yield the lists from ``since`` to ``until``, both included, in order."""
    first, last = notices_key(since), notices_key(until)
    for key in store.list(_PREFIX):
        if first <= key <= last:
            yield read_record(store, ExpiryNotices, key)


def latest_notices(store: ObjectStore) -> ExpiryNotices | None:
    """Return the latest list; None if there is none."""
    keys = list(store.list(_PREFIX))
    return read_record(store, ExpiryNotices, keys[-1]) if keys else None


def write_notices(
    runtime: Runtime, recipients: Sequence[str], lead_days: Sequence[int], now: dt.datetime
) -> ExpiryNotices:
    """Store the notices of the day of ``now`` (UTC), unless they are stored, and return them."""
    store, day = runtime.store, now.astimezone(SYDNEY).date()
    key = notices_key(day)
    if not store.exists(key):
        # In order: of several lists the last one has the shortest lead time.
        earlier = read_notices(store, day - dt.timedelta(days=LONGEST_LEAD), day)
        listed = {_subject(notice): notice.lead_days for one in earlier for notice in one.notices}
        due = _due(_consents(runtime, recipients, now), recipients, lead_days, now)
        notices = tuple(one for one in due if one.lead_days < listed.get(_subject(one), one.lead_days + 1))
        record = ExpiryNotices(date=day, at=now, lead_days=tuple(sorted(lead_days)), notices=notices)
        store.create(key, to_json(record))
    return read_record(store, ExpiryNotices, key)


def latest_notice(store: ObjectStore, number: str, recipient: str, ends_at: dt.datetime) -> dt.date | None:
    """Return the date of the latest list that has the end of a portfolio's sharing; None if none has."""
    until = ends_at.astimezone(SYDNEY).date()
    dates = [
        one.date
        for one in read_notices(store, until - dt.timedelta(days=LONGEST_LEAD), until)
        if any(_subject(notice) == (number, recipient, ends_at) for notice in one.notices)
    ]
    return max(dates, default=None)


def sharing_end(consents: Iterable[Consent], at: dt.datetime) -> dt.datetime | None:
    """Return the instant at which the last consent that is active at ``at`` ends; None if one has no end."""
    ends = [
        min((end for end in (consent.expires_at, consent.revoked_at) if end is not None), default=None)
        for consent in consents
        if consent.active(at)
    ]
    return None if None in ends else max((end for end in ends if end is not None), default=None)


def _subject(notice: ExpiryNotice) -> tuple[str, str, dt.datetime]:
    return notice.portfolio_number, notice.recipient, notice.ends_at


def _due(
    consents: Iterable[Consent], recipients: Sequence[str], lead_days: Sequence[int], now: dt.datetime
) -> Iterator[ExpiryNotice]:
    from classfeed_dagster.bigsite.consent import standings

    by_portfolio: dict[int, list[Consent]] = defaultdict(list)
    for consent in consents:
        by_portfolio[consent.portfolio_id].append(consent)
    for rows in by_portfolio.values():
        for recipient in recipients:
            of_recipient = [consent for consent in rows if consent.recipient == recipient]
            ends_at = sharing_end(of_recipient, now)
            reached = [lead for lead in lead_days if ends_at is not None and ends_at - now <= dt.timedelta(days=lead)]
            for standing in standings(of_recipient, recipient, now).values() if reached and ends_at else ():
                yield ExpiryNotice(
                    portfolio_number=standing.portfolio_number,
                    recipient=recipient,
                    ends_at=ends_at,
                    consent_ids=standing.consent_ids,
                    lead_days=min(reached),
                )


def _consents(runtime: Runtime, recipients: Sequence[str], now: dt.datetime) -> list[Consent]:
    from classfeed_dagster.bigsite.consent import consent_query, consents_from

    query = consent_query(recipients, now, now)
    with runtime.engine.connect() as connection:
        rows = connection.execute(query.order_by(None).order_by("portfolio_number", "consent_id")).all()
    return consents_from(rows)
