"""Accepted differences between the old app's file and the new one: a table of named, dated rules.

A difference explained by a rule, on evidence in the files or the manifest, does not prevent going live. Every rule has
an owner and a last date; after that date it no longer applies and must be reviewed.
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
class LineDifference:
    """One difference with the lines of both sides as typed values; None for a missing line."""

    letter: str
    row_class: RowClass
    key: tuple[str | None, ...]
    field: str | None
    old: Row | None
    new: Row | None
    promised: bool = False  # explained as late on the previous business date, so it must be in the old file now

    @property
    def portfolio(self) -> str:
        """Return the portfolio's number."""
        return self.key[0] or ""


@dataclass(frozen=True)
class ParityEvidence:
    """Evidence for the rules, in addition to the two lines."""

    layout: CsvLayout
    day: dt.date
    read_at: dt.datetime | None  # time at which the old app read bigsite, if its file states it
    held_back: frozenset[str]  # portfolios that the new feed's manifest holds back with a reason
    late_cash: Mapping[tuple[str | None, ...], Decimal] = field(default_factory=dict)  # of late rows, by cash account


@dataclass(frozen=True, slots=True)
class ParityRule:
    """Rule that explains differences of some feeds between two business dates (both included)."""

    name: str
    feeds: tuple[str, ...]
    first: dt.date
    last: dt.date
    owner: str
    reason: str
    explains: Callable[[LineDifference, ParityEvidence], bool]

    def applies(self, feed: str, day: dt.date) -> bool:
        """Return True if the rule is valid for ``feed`` on ``day``."""
        return feed in self.feeds and self.first <= day <= self.last


def _late_row(line: LineDifference, evidence: ParityEvidence) -> bool:
    if line.letter != DETAIL or line.row_class is not ONLY_NEW or line.new is None or line.promised:
        return False
    backdated = line.new[evidence.layout.business_date] < evidence.day
    unseen = evidence.read_at is not None and line.new["recorded_at"] >= evidence.read_at
    return bool(backdated or unseen) and not _is_opening(line)


def _balance_before_late_rows(line: LineDifference, evidence: ParityEvidence) -> bool:
    if line.letter != BALANCE or line.field not in ("ledger_balance", "available_balance"):
        return False
    late = evidence.late_cash.get(line.key)
    old, new = (line.old or {}).get(line.field), (line.new or {}).get(line.field)
    return late is not None and old is not None and new is not None and new - old == late


def _opening(line: LineDifference, _: ParityEvidence) -> bool:
    return line.letter == DETAIL and line.row_class is ONLY_NEW and _is_opening(line)


def _is_opening(line: LineDifference) -> bool:
    return (line.key[1] or "").startswith("OC-")


def _held_back(line: LineDifference, evidence: ParityEvidence) -> bool:
    return line.row_class is ONLY_OLD and line.portfolio in evidence.held_back


def _code_of_today(line: LineDifference, _: ParityEvidence) -> bool:
    if line.field != "code" or line.old is None or line.new is None:
        return False
    return line.old["isin"] is not None and line.old["isin"] == line.new["isin"]


_BOTH = ("class_trade", "class_cash")
_FIRST, _LAST = dt.date(2010, 1, 1), dt.date(2027, 6, 30)

PARITY_RULES: tuple[ParityRule, ...] = (
    ParityRule(
        LATE_ROW,
        _BOTH,
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app exports a line a day later if it was recorded after its read or with an earlier date. Its file "
        "for the next date must have the line, field by field; otherwise that date has an unexplained difference.",
        _late_row,
    ),
    ParityRule(
        "balance-before-late-rows",
        ("class_cash",),
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app's balance lacks exactly the account's late rows, which it exports a day later.",
        _balance_before_late_rows,
    ),
    ParityRule(
        "opening-is-new",
        ("class_cash",),
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app does not export an account's balance before the shared history; the new feed exports its sum.",
        _opening,
    ),
    ParityRule(
        "held-back",
        _BOTH,
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The new feed holds the portfolio back, with the reason in its manifest; the old app has no such rules.",
        _held_back,
    ),
    ParityRule(
        "code-of-today",
        ("class_trade",),
        _FIRST,
        _LAST,
        "team:data-feeds",
        "The old app prints the current code of a renamed security; the ISIN shows that it is the same security.",
        _code_of_today,
    ),
)


def explanation_of(
    feed: str, line: LineDifference, evidence: ParityEvidence, table: tuple[ParityRule, ...] = PARITY_RULES
) -> ParityRule | None:
    """Return the first rule that explains the difference; None if it is unexplained."""
    for rule in table:
        if rule.applies(feed, evidence.day) and rule.explains(line, evidence):
            return rule
    return None
