"""A customer's own books: the simulated customer's expected possessions, noted as they change, in plain Python.

They are the oracle of a rehearsal: documents added up as the recipient does must equal them to the unit and the cent.
They share nothing with the feed: no SQL, no frames, no snapshot, and no rule but addition.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple


class Note(NamedTuple):
    """One change: subject, effective Sydney date, instant of its recording, amount."""

    subject: str
    date: dt.date
    known_at: dt.datetime
    change: Decimal


@dataclass(slots=True)
class Notebook:
    """One customer's notes. The subject of units is ``EXCHANGE:ISIN``, of cash ``account number:currency``."""

    units: list[Note] = field(default_factory=list)
    cash: list[Note] = field(default_factory=list)

    def note_units(self, subject: str, date: dt.date, known_at: dt.datetime, change: Decimal) -> None:
        """Record units received (positive) or removed (negative) on ``date``."""
        self.units.append(Note(subject, date, known_at, change))

    def note_cash(self, subject: str, date: dt.date, known_at: dt.datetime, change: Decimal) -> None:
        """Record money received (positive) or paid (negative) on ``date``."""
        self.cash.append(Note(subject, date, known_at, change))


@dataclass(frozen=True, slots=True)
class CustomersBooks:
    """The customers' books at the end of ``as_at``, from notes known before ``known_before``.

    ``units``: by (portfolio number, exchange, ISIN). ``cash``: by (portfolio number, account number, currency). Zeros
    are absent.
    """

    as_at: dt.date
    known_before: dt.datetime
    units: Mapping[tuple[str, str, str], Decimal]
    cash: Mapping[tuple[str, str, str], Decimal]

    @property
    def portfolios(self) -> frozenset[str]:
        """Return the numbers of all portfolios with units or cash."""
        return frozenset(number for number, _, _ in [*self.units, *self.cash])


def add_up(notebooks: Mapping[str, Notebook], as_at: dt.date, known_before: dt.datetime) -> CustomersBooks:
    """Add up notes by portfolio number: dated on or before ``as_at`` and known before an instant."""
    units: defaultdict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    cash: defaultdict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for number, notebook in notebooks.items():
        for notes, total in ((notebook.units, units), (notebook.cash, cash)):
            for subject, date, known_at, change in notes:
                if date <= as_at and known_at < known_before:
                    left, right = subject.split(":")
                    total[number, left, right] += change
    return CustomersBooks(
        as_at,
        known_before,
        {key: amount for key, amount in sorted(units.items()) if amount},
        {key: amount for key, amount in sorted(cash.items()) if amount},
    )
