"""Expected books of Class, in plain Python: no SQL, no frames, no code of the feed except the calendar.

The model receives the changes of bigsite and the attempts, and keeps, per business date and portfolio, the
content that Class must have. It is deliberately naive: sums over lists.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from classfeed_dagster.trading_days import cutoff, previous_business_day

NEW, CURRENT, REMOVED = "NEW", "CURRENT", "REMOVED"
ZERO = Decimal(0)


@dataclass(frozen=True)
class Entry:
    """A ledger row. ``subject``: an ISIN or a cash account's number; ``subject_id``: bigsite's own id of it."""

    id: str
    portfolio: str
    kind: str  # units, cash or income
    subject: str
    subject_id: int
    dated: dt.date
    recorded: dt.datetime
    value: Decimal


@dataclass
class Authority:
    """One consent."""

    granted: dt.datetime
    history_from: dt.date | None
    revoked: dt.datetime | None = None
    expires: dt.datetime | None = None

    def active(self, at: dt.datetime) -> bool:
        return self.granted < at and all(end is None or end >= at for end in (self.revoked, self.expires))


@dataclass(frozen=True)
class Event:
    """A movement as Class gets it. ``code`` is the security's on the event's date; empty for cash."""

    id: str
    kind: str
    subject: str
    dated: dt.date
    value: Decimal
    code: str


@dataclass(frozen=True)
class Content:
    """One document's content of one portfolio. ``units``: by ISIN, with the code as on the date; zeros left out."""

    change: str
    name: str = ""
    events: frozenset[Event] = frozenset()
    units: frozenset[tuple[str, str, Decimal]] = frozenset()
    cash: frozenset[tuple[str, Decimal]] = frozenset()


@dataclass(frozen=True)
class Landed:
    """Result of one reading of bigsite for a date."""

    contents: Mapping[str, Content]
    broken: frozenset[str]


@dataclass
class Model:
    """State of bigsite, and the expected state of Class."""

    first: dt.date
    entries: list[Entry] = field(default_factory=list)
    authorities: dict[str, list[Authority]] = field(default_factory=lambda: defaultdict(list))
    accounts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # portfolio: its cash accounts
    names: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    codes: dict[str, str] = field(default_factory=dict)  # by ISIN, as it is today
    renames: dict[str, list[tuple[dt.date, str]]] = field(default_factory=lambda: defaultdict(list))  # day, old code
    ends_of_day: dict[dt.date, list[dt.datetime]] = field(default_factory=lambda: defaultdict(list))

    landed: dict[dt.date, Landed] = field(default_factory=dict)
    dates: list[dt.date] = field(default_factory=list)  # delivered, in order
    at_class: dict[dt.date, dict[str, Content]] = field(default_factory=lambda: defaultdict(dict))

    # --- bigsite

    def code(self, isin: str, on: dt.date) -> str:
        """Return the code traded on a day: the old code of the earliest change after it."""
        later = sorted(change for change in self.renames[isin] if change[0] > on)
        return later[0][1] if later else self.codes[isin]

    def consented(self, at: dt.datetime) -> set[str]:
        """Return the portfolios with consent at an instant."""
        return {number for number, authority in self.authorities.items() if any(item.active(at) for item in authority)}

    def history_from(self, number: str, at: dt.datetime) -> dt.date | None:
        """Return the start of the shared movements; None: all of them."""
        starts = [authority.history_from for authority in self.authorities[number] if authority.active(at)]
        return None if None in starts else min(start for start in starts if start is not None)

    def changes(self, day: dt.date) -> dict[str, str]:
        """Return the NEW, CURRENT and REMOVED portfolios of a date."""
        now = self.consented(cutoff(day))
        before = set() if day == self.first else self.consented(cutoff(previous_business_day(day)))
        return {
            number: CURRENT if number in now & before else NEW if number in now else REMOVED for number in now | before
        }

    def total(self, number: str, kind: str, dated_by: dt.date, recorded_by: dt.datetime) -> dict[str, Decimal]:
        """Return sums by subject of what is dated and was recorded no later than given."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for entry in self.entries:
            if (
                (entry.portfolio, entry.kind) == (number, kind)
                and entry.dated <= dated_by
                and entry.recorded <= recorded_by
            ):
                sums[entry.subject] += entry.value
        return sums

    def land(self, day: dt.date) -> None:
        """Read bigsite for a date, now."""
        contents = {number: self._content(day, number, change) for number, change in self.changes(day).items()}
        self.landed[day] = Landed(contents, frozenset(self.broken))

    def _content(self, day: dt.date, number: str, change: str) -> Content:
        if change == REMOVED:
            return Content(REMOVED)
        ran = self.ends_of_day[day][-1]
        units = {isin: value for isin, value in self.total(number, "units", day, ran).items() if value}
        cash = self.total(number, "cash", day, ran)
        return Content(
            change,
            self.names[number],
            frozenset(self._events(day, number, change)),
            frozenset((isin, self.code(isin, day), value) for isin, value in units.items()),
            frozenset((account, cash.get(account, ZERO)) for account in self.accounts[number]),
        )

    def _events(self, day: dt.date, number: str, change: str) -> list[Event]:
        start = dt.datetime.min.replace(tzinfo=dt.UTC) if change == NEW else cutoff(previous_business_day(day))
        sent = [entry for entry in self.entries if entry.portfolio == number and start <= entry.recorded < cutoff(day)]
        begins = self.history_from(number, cutoff(day))
        events: list[Event] = []
        opening: dict[tuple[str, str, int], Decimal] = defaultdict(Decimal)
        for record in sent:
            if begins is None or record.dated >= begins:
                code = "" if record.kind == "cash" else self.code(record.subject, record.dated)
                events.append(Event(record.id, record.kind, record.subject, record.dated, record.value, code))
            elif record.kind != "income":
                opening[record.kind, record.subject, record.subject_id] += record.value
        for (kind, subject, subject_id), value in opening.items():
            if value and begins is not None:
                eve = begins - dt.timedelta(days=1)
                letter, code = ("OC", "") if kind == "cash" else ("OU", self.code(subject, eve))
                events.append(Event(f"{letter}-{number}-{subject_id}-{day:%Y%m%d}", kind, subject, eve, value, code))
        return events

    # --- Class

    def has_data(self, day: dt.date, number: str) -> bool:
        """Return True if Class was sent data of the portfolio for the date."""
        result = self.at_class[day].get(number)
        return result is not None and result.change != REMOVED

    def due(self, day: dt.date, consented_now: set[str]) -> dict[str, Content]:
        """Return the due portfolios of a date with their content; every other one is held back or not consented."""
        landed, due = self.landed[day], {}
        for number, content in landed.contents.items():
            if content.change == REMOVED:
                if self._ever_sent(day, number):
                    due[number] = content
            elif number in landed.broken or number not in consented_now:
                continue
            elif content.change == NEW or self.has_data(previous_business_day(day), number):
                due[number] = content
        return due

    def _ever_sent(self, day: dt.date, number: str) -> bool:
        # In the consent that ended in this date's window.
        while day > self.first:
            day = previous_business_day(day)
            if self.has_data(day, number):
                return True
            landed = self.landed[day].contents.get(number)
            if landed is None or landed.change in (NEW, REMOVED):
                return False
        return False

    def missing(self, day: dt.date, consented_now: set[str]) -> set[str]:
        """Return the consented portfolios of the date that Class lacks: each needs a reason."""
        shares = {number for number, content in self.landed[day].contents.items() if content.change != REMOVED}
        return shares - {number for number in self.at_class[day] if self.has_data(day, number)}

    def in_order(self, day: dt.date) -> bool:
        """Return True if the date may be delivered: the previous one is delivered."""
        return day == self.first or previous_business_day(day) in self.dates

    def delivered(self, day: dt.date, consented_now: set[str]) -> None:
        """Record the delivery of the date."""
        self.at_class[day].update(self.due(day, consented_now))
        if day not in self.dates:
            self.dates.append(day)

    def disturbed(self, day: dt.date) -> set[tuple[str, str]]:
        """Return each (portfolio, subject) that needn't balance on a date: a row came between cut-off and end of day, or after it.

        Rows that bigsite's end of day knew before their window went, and rows that Class got before bigsite rewrote
        the date.
        """
        ran = self.ends_of_day[day][-1]
        sent_by = cutoff(self.dates[-1])
        return {
            (entry.portfolio, entry.subject)
            for entry in self.entries
            if entry.dated <= day and entry.kind != "income" and (entry.recorded <= ran) != (entry.recorded < sent_by)
        }
