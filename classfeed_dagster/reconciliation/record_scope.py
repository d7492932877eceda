"""Scope of the expected records, as SQL fragments: recipient, business date, window, evidence columns, literals."""

# SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass

from classfeed_dagster.trading_days import cutoff, previous_business_day

_RECIPIENT = re.compile(r"[A-Z0-9_]{1,20}\Z")
_AUDIENCE = re.compile(r"[A-Za-z0-9_-]{1,120}\Z")
_LEDGER_ID = re.compile(r"[TSIC][0-9]{1,19}\Z")
_NUMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")

# Evidence columns after the record's own, all text.
EVIDENCE = (
    "state_updated_at",
    "portfolio_updated_at",
    "eod_updated_at",
    "price_updated_at",
    "consent_updated_at",
    "recorded_last",
    "source_row",
)


@dataclass(frozen=True, slots=True)
class EarlyPortfolio:
    """A portfolio whose consents granted from ``since`` to ``until`` (UTC) count from the cut-off ``since``."""

    number: str
    since: dt.datetime
    until: dt.datetime


@dataclass(frozen=True, slots=True)
class RecordScope:
    """Recipient, business date, and the audience's previous date (None: every portfolio is NEW) of the records.

    ``landed``: SQL over views of the landed files in DuckDB, otherwise over bigsite itself in PostgreSQL. ``audience``:
    the audience's key in the landing. ``late``: TransactionIds of rows recorded before the window that no earlier
    delivery sent. ``left_out``: switches that were off, each with its portfolios (None: all). ``carried`` selects
    portfolios as the feed's switch does. ``in_full``: portfolios sent in full on request; ``early``: those whose
    consent counts from an earlier cut-off. ``unsent``: rows that no document contains, as portfolio number and
    TransactionId: no record names them. ValueError if a name is not valid.
    """

    recipient: str
    business_date: dt.date
    previous: dt.date | None
    audience: str
    landed: bool = False
    late: tuple[str, ...] = ()
    left_out: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    carried: str = "*"
    in_full: tuple[str, ...] = ()
    early: tuple[EarlyPortfolio, ...] = ()
    unsent: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not all(_LEDGER_ID.match(name) for name in (*self.late, *(name for _, name in self.unsent))):
            raise ValueError("Invalid row: expected a TransactionId, a letter of T, S, I or C and digits")
        if not _RECIPIENT.match(self.recipient) or not _AUDIENCE.match(self.audience):
            raise ValueError(
                "Invalid recipient or audience: a recipient has at most 20 capitals, digits and _, "
                "an audience's key letters, digits, - and _"
            )

        listed = [number for _, numbers in self.left_out for number in numbers or ()]
        refreshed = (*self.in_full, *(one.number for one in self.early), *(number for number, _ in self.unsent))
        if not all(_NUMBER.match(number) for number in (*listed, *self.selected, *refreshed)):
            raise ValueError("Invalid portfolio number: expected letters, digits and . _ : -")

    @property
    def selected(self) -> tuple[str, ...]:
        """Return the portfolio numbers in the feed's switch."""
        if self.carried == "*":
            return ()
        return tuple(number.strip() for number in self.carried.removeprefix("!").split(","))

    def without(self, switch: str, condition: str) -> str:
        """Return SQL that excludes rows by a switch that was off; '' if it was on."""
        for name, numbers in self.left_out:
            if name == switch:
                where = "" if numbers is None else f" AND s.portfolio_number IN ({literals(numbers)})"
                return f" AND NOT ({condition}{where})"
        return ""

    def is_on(self, switch: str) -> str:
        """Return the SQL condition that a switch is on for the portfolio ``s``."""
        off = [numbers for name, numbers in self.left_out if name == switch]
        if not off:
            return "TRUE"
        return "FALSE" if off[0] is None else f"s.portfolio_number NOT IN ({literals(off[0])})"

    @property
    def schema(self) -> str:
        """Return the schema of the tables or of the views with their shape."""
        return "landed" if self.landed else "bigsite"

    @property
    def window_start(self) -> dt.datetime:
        """Return the start of the business date's window, included. Source: design, "Time"."""
        return cutoff(self.previous or previous_business_day(self.business_date))

    @property
    def window_end(self) -> dt.datetime:
        """Return the business date's cut-off, not included in its window."""
        return cutoff(self.business_date)

    def instant(self, expression: str) -> str:
        """Return SQL for an instant's text in a document."""
        if self.landed:
            return f"strftime({expression} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
        return f"to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"

    @staticmethod
    def at(instant: dt.datetime) -> str:
        """Return an instant as a literal."""
        return f"TIMESTAMP WITH TIME ZONE '{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}+00'"

    @property
    def day(self) -> str:
        """Return the business date as a literal."""
        return f"DATE '{self.business_date.isoformat()}'"

    def evidence(self, **known: str) -> str:
        """Return the evidence columns; those without an expression are null, and instants that prove nothing."""
        parts = []
        for name in EVIDENCE:
            expression = known.get(name, "CAST(NULL AS VARCHAR)")
            if name in known and name != "source_row":
                limit = self.at(dt.datetime(9999, 1, 1, tzinfo=dt.UTC))
                expression = f"CASE WHEN {expression} < {limit} THEN {self.instant(expression)} END"
            parts.append(f"{expression} AS {name}")
        return ", ".join(parts)


def literals(numbers: Iterable[str]) -> str:
    """Return checked portfolio numbers as SQL literals."""
    return ", ".join(f"'{number}'" for number in numbers)
