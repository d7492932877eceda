"""The old apps, as far as their files go: the same columns in whatever form they like."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from classfeed_dagster_tests.documents import csv_frames as make
from classfeed_dagster_tests.reconciliation.delivering import as_legacy_date, as_legacy_number, csv_text

NUMBERS = frozenset(
    {
        *("units", "price", "consideration", "brokerage", "gst", "other_fees", "net_amount"),
        *("amount", "ledger_balance", "available_balance"),
    }
)


@dataclass(frozen=True)
class Dialect:
    """How one old app writes."""

    slashes: bool = True
    thousands: bool = True
    headings: bool = False  # column names in any order, instead of H, D, B, T
    end: str = "\n"
    flag_reversals: bool = True
    shuffle: int = 1


DIALECTS = (
    Dialect(),
    Dialect(headings=True),
    Dialect(slashes=False, thousands=False, end="\r\n", flag_reversals=False),
    Dialect(slashes=False, headings=True, end="\r\n", shuffle=2),
)


def trade_fields(row: Mapping[str, Any], hin: str | None = "X0012345678") -> dict[str, str]:
    """A contract note, by column."""
    return dict(zip(make.TRADE_COLUMNS, make.reference_trade_fields(row, hin), strict=True))


def cash_fields(row: Mapping[str, Any]) -> dict[str, str]:
    """A cash movement, by column."""
    return dict(zip(make.CASH_COLUMNS, make.reference_cash_fields(row), strict=True))


def balance_fields(row: Mapping[str, Any]) -> dict[str, str]:
    """A balance, by column."""
    return {name: str(row[name] if row[name] is not None else "") for name in make.BALANCE_COLUMNS}


def write(
    feed: str,
    day: dt.date,
    details: Sequence[dict[str, str]],
    balances: Sequence[dict[str, str]] = (),
    dialect: Dialect = DIALECTS[0],
    read_at: str = "2023-12-31T00:00:00",
) -> bytes:
    """The old app's file of a date."""
    columns = make.TRADE_COLUMNS if feed == "class_trade" else make.CASH_COLUMNS
    generator = random.Random(dialect.shuffle)
    lines = [_reshaped(line, details, columns, dialect) for line in details]
    holds = [_spelled(line, dialect) for line in balances]
    generator.shuffle(lines)
    generator.shuffle(holds)
    if dialect.headings:
        names = [*columns, "reversal"]
        generator.shuffle(names)
        records = [names, *([line[name] for name in names] for line in lines)]
        if balances:
            records += [list(make.BALANCE_COLUMNS), *([line[name] for name in make.BALANCE_COLUMNS] for line in holds)]
        return csv_text(records, dialect.end)
    flag = ["reversal"] if dialect.flag_reversals else []
    date = as_legacy_date(day) if dialect.slashes else day.isoformat()
    records = [["H", feed, date, "1", "0", read_at]]
    records += [["B", *(line[name] for name in make.BALANCE_COLUMNS)] for line in holds]
    records += [["D", *(line[name] for name in [*columns, *flag])] for line in lines]
    return csv_text([*records, ["T", str(len(lines)), ""]], dialect.end)


def _reshaped(
    line: dict[str, str], details: Sequence[dict[str, str]], columns: Sequence[str], dialect: Dialect
) -> dict[str, str]:
    undoes = line.get("reverses_trade_id") or line.get("reverses_cash_transaction_id")
    if not undoes or not dialect.flag_reversals:
        return {**_spelled(line, dialect), "reversal": ""}
    # The original again: its id, dates and instant, its signs; only the flag says that it is undone.
    signed = {"units", "consideration", "brokerage", "gst", "other_fees", "net_amount", "amount"}
    again = {name: str(-Decimal(value)) if name in signed else value for name, value in line.items()}
    original = next((other for other in details if other[columns[0]] == undoes), again)
    dates = {name: original[name] for name in columns if name.endswith(("_date", "_at"))}
    again |= {columns[0]: undoes, "reverses_trade_id": "", "reverses_cash_transaction_id": "", **dates}
    return {**_spelled(again, dialect), "reversal": "Y"}


def _spelled(line: Mapping[str, str], dialect: Dialect) -> dict[str, str]:
    spelled = dict(line)
    for name, value in line.items():
        if value and dialect.thousands and name in NUMBERS:
            spelled[name] = as_legacy_number(Decimal(value))
        if value and dialect.slashes and name.endswith("_date"):
            spelled[name] = as_legacy_date(dt.date.fromisoformat(value))
    return spelled
