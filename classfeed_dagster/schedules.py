"""Recipient schedules: a recipient, the first business date and the cadence.

Feeds with the same schedule share the consented portfolios and the domain frames.
"""

from __future__ import annotations

import bisect
import datetime as dt
import enum
import hashlib
from dataclasses import dataclass

from classfeed_dagster import trading_days


class Cadence(enum.StrEnum):
    """Delivery cadence of a feed: every business day, or the last business day of each week."""

    DAILY = "daily"
    WEEKLY = "weekly"


@dataclass(frozen=True, slots=True)
class EarlyConsent:
    """A portfolio that one date delivered before its consent's first cut-off.

    Attributes:
        number: portfolio number
        since: that date's cut-off, UTC; the consents count from it
        until: instant of the request, UTC; later consents count from their own grant
    """

    number: str
    since: dt.datetime
    until: dt.datetime


@dataclass(frozen=True, slots=True)
class Refreshed:
    """Portfolios of one feed that a business date delivers differently than consent at its cut-off alone would.

    Attributes:
        feed: name of the feed
        in_full: portfolio numbers whose extract is FULL although the recipient has them, ascending
        early: portfolios whose consent counts from an earlier cut-off, by number
    """

    feed: str = ""
    in_full: tuple[str, ...] = ()
    early: tuple[EarlyConsent, ...] = ()

    @property
    def key(self) -> str:
        """Return a short name, safe in an object key, that differs for other portfolios."""
        entries = [*self.in_full, *(f"{one.number} {one.since} {one.until}" for one in self.early)]
        return f"{self.feed}-{hashlib.sha256(repr(entries).encode()).hexdigest()[:12]}"


NOT_REFRESHED = Refreshed()


@dataclass(frozen=True, slots=True)
class RecipientSchedule:
    """A recipient, the feed's first business date (on which every portfolio is NEW) and the cadence.

    ``refreshed`` holds for one business date of one feed; see ``delivery.refreshes``.
    """

    recipient: str
    first_business_date: dt.date
    cadence: Cadence = Cadence.DAILY
    refreshed: Refreshed = NOT_REFRESHED

    @property
    def key(self) -> str:
        """Return a short name, safe in an object key. Equal schedules have equal keys."""
        key = f"{self.recipient}-{self.first_business_date:%Y%m%d}-{self.cadence}"
        return key if self.refreshed == NOT_REFRESHED else f"{key}-{self.refreshed.key}"

    def reference(self, domain: str) -> str:
        """Return the name under which the reference of one of its domains is stored."""
        return f"{self.key}/{domain}"

    def dates(self) -> list[dt.date]:
        """Return the schedule's business dates from the first one on, in order."""
        days = trading_days.business_days_between(self.first_business_date, trading_days.LAST_SUPPORTED)
        if self.cadence is Cadence.DAILY:
            return list(days)
        last_of_week: dict[tuple[int, int], dt.date] = {}
        for day in days:
            last_of_week[day.isocalendar()[:2]] = day
        return sorted(last_of_week.values())

    def is_due(self, day: dt.date) -> bool:
        """Return True if a document is due for ``day``."""
        dates = self.dates()
        at = bisect.bisect_left(dates, day)
        return at < len(dates) and dates[at] == day

    def not_due(self, day: dt.date) -> str:
        """Return the reason why no document is due for ``day``, in a sentence."""
        if day < self.first_business_date:
            first = self.first_business_date.isoformat()
            return f"{day.isoformat()} is before the first business date, {first} (CLASSFEED_FIRST_BUSINESS_DATE)"
        return f"{day.isoformat()} is not a date of {self.recipient}'s {self.cadence} feed"

    def sequence_number(self, day: dt.date) -> int:
        """Return 1 for the first business date, counting up; raise ValueError if no document is due for ``day``."""
        dates = self.dates()
        at = bisect.bisect_left(dates, day)
        if at == len(dates) or dates[at] != day:
            raise ValueError(f"{day.isoformat()} is not a date of {self.recipient}'s {self.cadence} feed")
        return at + 1

    def previous(self, day: dt.date) -> dt.date | None:
        """Return the business date before ``day``; None on the first."""
        number = self.sequence_number(day)
        return self.dates()[number - 2] if number > 1 else None

    def around(self, day: dt.date) -> list[dt.date]:
        """Return the business dates directly before and after ``day``, which is between them."""
        number = self.sequence_number(day)
        return self.dates()[max(0, number - 2) : number + 1]

    def dates_between(self, first: dt.date, last: dt.date) -> list[dt.date]:
        """Return the audience's business dates from ``first`` to ``last``, both included."""
        return [day for day in self.dates() if first <= day <= last]

    def window(self, day: dt.date) -> trading_days.Window:
        """Return the ``recorded_at`` window that the document of ``day`` covers."""
        return trading_days.window(day, self.previous(day))

    def is_first(self, day: dt.date) -> bool:
        """Return True on the first business date, when every portfolio is NEW."""
        return self.previous(day) is None
