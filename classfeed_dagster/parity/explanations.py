"""Why the old app's file may differ from the new one: the one table of named, dated explanations.

A difference that a rule here explains, on evidence in the two files or in the manifest, does not stand in the way of
going live. Every rule has an owner and a last date; after that it explains nothing, and somebody must look again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from classfeed_dagster.documents.csv_mapping import BALANCE, DETAIL, CsvLayout
from classfeed_dagster.reconciliation.compare import RowClass

ONLY_NEW, ONLY_OLD = RowClass.MISSING_LEFT, RowClass.MISSING_RIGHT  # the old app's lines are the left side
LATE_ROW = "late-row"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """One difference with what is known of it: the lines of both sides as typed values, None where a side has none."""

    letter: str
    row_class: RowClass
    key: tuple[str | None, ...]
    field: str | None
    old: Row | None
    new: Row | None
    promised: bool = False  # the line was explained as late the business date before, so it must be here now

    @property
    def portfolio(self) -> str:
        """The portfolio's number."""
        return self.key[0] or ""


@dataclass(frozen=True)
class Evidence:
    """What the rules may look at beside the two lines."""

    layout: CsvLayout
    day: dt.date
    read_at: dt.datetime | None  # when the old app read, if its file says so
    held_back: frozenset[str]  # portfolios that the new feed's manifest holds back with a reason
    late_cash: Mapping[tuple[str | None, ...], Decimal] = field(default_factory=dict)  # of late rows, by cash account


@dataclass(frozen=True, slots=True)
class Explanation:
    """One rule: from when until when (business dates, both included) it may explain something, in which feeds."""

    name: str
    feeds: tuple[str, ...]
    first: dt.date
    last: dt.date
    owner: str
    reason: str
    explains: Callable[[Found, Evidence], bool]

    def applies(self, feed: str, day: dt.date) -> bool:
        """True if the rule is there for this feed on this business date."""
        return feed in self.feeds and self.first <= day <= self.last


def _late_row(found: Found, evidence: Evidence) -> bool:
    if found.letter != DETAIL or found.row_class is not ONLY_NEW or found.new is None or found.promised:
        return False
    backdated = found.new[evidence.layout.business_date] < evidence.day
    unseen = evidence.read_at is not None and found.new["recorded_at"] >= evidence.read_at
    return bool(backdated or unseen) and not _is_opening(found)


def _balance_before_late_rows(found: Found, evidence: Evidence) -> bool:
    if found.letter != BALANCE or found.field not in ("ledger_balance", "available_balance"):
        return False
    late = evidence.late_cash.get(found.key)
    old, new = (found.old or {}).get(found.field), (found.new or {}).get(found.field)
    return late is not None and old is not None and new is not None and new - old == late


def _opening(found: Found, _: Evidence) -> bool:
    return found.letter == DETAIL and found.row_class is ONLY_NEW and _is_opening(found)


def _is_opening(found: Found) -> bool:
    return (found.key[1] or "").startswith("OC-")


def _held_back(found: Found, evidence: Evidence) -> bool:
    return found.row_class is ONLY_OLD and found.portfolio in evidence.held_back


def _code_of_today(found: Found, _: Evidence) -> bool:
    if found.field != "code" or found.old is None or found.new is None:
        return False
    return found.old["isin"] is not None and found.old["isin"] == found.new["isin"]


_BOTH = ("class_trade", "class_cash")
_FIRST, _LAST = dt.date(2010, 1, 1), dt.date(2027, 6, 30)

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        LATE_ROW,
        _BOTH,
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app picks up a day later what was recorded after it read, or with an earlier date. The line must be "
        "in its file for the next business date, field by field; if it isn't, that date has an unexplained one.",
        _late_row,
    ),
    Explanation(
        "balance-before-late-rows",
        ("class_cash",),
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app's balance lacks exactly the late rows of the account that it picks up a day later.",
        _balance_before_late_rows,
    ),
    Explanation(
        "opening-is-new",
        ("class_cash",),
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app does not send what stood on an account before the shared history; the new feed sends its sum.",
        _opening,
    ),
    Explanation(
        "held-back",
        _BOTH,
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The new feed holds the portfolio back, and its manifest says why; the old app has no such rules.",
        _held_back,
    ),
    Explanation(
        "code-of-today",
        ("class_trade",),
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app prints today's code of a security that was renamed; the ISIN shows that it is the same one.",
        _code_of_today,
    ),
)


def explanation_of(
    feed: str, found: Found, evidence: Evidence, table: tuple[Explanation, ...] = EXPLANATIONS
) -> Explanation | None:
    """The first rule of the table that explains the difference; None if it is unexplained."""
    for rule in table:
        if rule.applies(feed, evidence.day) and rule.explains(found, evidence):
            return rule
    return None
