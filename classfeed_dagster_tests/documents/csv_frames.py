"""Small domain frames for the CSV files, and a second, tiny writer of the files to judge the first one by.

The reference writer knows the issue's column lists and nothing of the package: Python's csv module and string
formatting only.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl

from classfeed_dagster.documents.format import PageHeader, Totals
from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, ACCOUNTS, MOVEMENT_TRANSACTIONS, Frame
from classfeed_dagster.trading_days import window

DAY = dt.date(2023, 5, 5)
SNAPSHOT_AT = dt.datetime(2023, 5, 5, 20, 15, 0, 123456, tzinfo=dt.UTC)
RECORDED_AT = dt.datetime(2023, 5, 5, 3, 4, 5, 678901, tzinfo=dt.UTC)

TRADE_COLUMNS = (
    "trade_id",
    "portfolio_number",
    "hin",
    "confirmation_number",
    "side",
    "exchange",
    "code",
    "isin",
    "trade_date",
    "settlement_date",
    "units",
    "price",
    "consideration",
    "brokerage",
    "gst",
    "other_fees",
    "net_amount",
    "currency",
    "reverses_trade_id",
    "recorded_at",
)
CASH_COLUMNS = (
    "cash_transaction_id",
    "portfolio_number",
    "bsb",
    "account_number",
    "transaction_type",
    "transaction_date",
    "amount",
    "currency",
    "description",
    "trade_id",
    "income_id",
    "reverses_cash_transaction_id",
    "recorded_at",
)
BALANCE_COLUMNS = (
    "portfolio_number",
    "bsb",
    "account_number",
    "currency",
    "as_at_date",
    "ledger_balance",
    "available_balance",
)


def frame(declared: Frame, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame of the domain; what a row leaves out is null."""
    full = [{column.name: row.get(column.name) for column in declared.columns} for row in rows]
    return declared.conform(pl.DataFrame(full, schema=declared.schema))


def account(number: str, **values: Any) -> dict[str, Any]:
    """A row of ``accounts``."""
    row = {"portfolio_number": number, "recipient_reference": f"REF-{number}", "consent": "CURRENT", "extract": "DELTA"}
    return {**row, "hin": "X0012345678", **values}


def trade(trade_id: int, number: str = "SW00000001", **values: Any) -> dict[str, Any]:
    """A contract note as ``movement_transactions`` has it: units signed by side."""
    row: dict[str, Any] = {
        "transaction_id": f"T{trade_id}",
        "portfolio_number": number,
        "transaction_type": "BUY",
        "transaction_date": DAY,
        "settlement_date": dt.date(2023, 5, 9),
        "recorded_at": RECORDED_AT,
        "exchange": "ASX",
        "security_code": "MBH",
        "isin": "AU000000MBH0",
        "units": Decimal("3795"),
        "confirmation_number": f"C{trade_id}",
        "price": Decimal("0.18"),
        "consideration": Decimal("683.10"),
        "brokerage": Decimal("9.50"),
        "gst": Decimal("0.86"),
        "other_fees": Decimal("0.00"),
        "net_amount": Decimal("692.60"),
        "currency": "AUD",
    }
    return {**row, **values}


def reversal_of(original: Mapping[str, Any], trade_id: int, **values: Any) -> dict[str, Any]:
    """The second row that undoes a trade: opposite units and amounts."""
    signed = ("units", "consideration", "brokerage", "gst", "other_fees", "net_amount", "amount")
    flipped = {name: -original[name] for name in signed if name in original}
    return {
        **original,
        **flipped,
        "transaction_id": f"{original['transaction_id'][0]}{trade_id}",
        "reverses": original["transaction_id"],
        "recorded_at": original["recorded_at"] + dt.timedelta(hours=1),
        **values,
    }


def cash(cash_id: int, amount: str, number: str = "SW00000001", **values: Any) -> dict[str, Any]:
    """A cash movement as ``movement_transactions`` has it."""
    row: dict[str, Any] = {
        "transaction_id": f"C{cash_id}",
        "portfolio_number": number,
        "transaction_type": "CASH_DEPOSIT",
        "transaction_date": DAY,
        "recorded_at": RECORDED_AT,
        "bsb": "062-000",
        "account_number": "100200300",
        "amount": Decimal(amount),
        "currency": "AUD",
        "narrative": "Deposit",
    }
    return {**row, **values}


def balance(ledger: str, number: str = "SW00000001", **values: Any) -> dict[str, Any]:
    """A row of ``account_balances``."""
    row: dict[str, Any] = {
        "portfolio_number": number,
        "bsb": "062-000",
        "account_number": "100200300",
        "currency": "AUD",
        "as_at_date": DAY,
        "ledger_balance": Decimal(ledger),
        "available_balance": Decimal(ledger),
    }
    return {**row, **values}


def frames(
    accounts: Sequence[Mapping[str, Any]],
    movements: Sequence[Mapping[str, Any]] = (),
    balances: Sequence[Mapping[str, Any]] = (),
) -> dict[str, pl.DataFrame]:
    """The domain frames of a slice."""
    return {
        "accounts": frame(ACCOUNTS, accounts),
        "movement_transactions": frame(MOVEMENT_TRANSACTIONS, movements),
        "account_balances": frame(ACCOUNT_BALANCES, balances),
    }


def header(feed: str, *, day: dt.date = DAY, number: int = 7, revision: int = 0, page: int = 1) -> PageHeader:
    """A page's header."""
    return PageHeader(feed, "CLASS", day, number, revision, None, page, page, window(day), SNAPSHOT_AT)


def written(document: Any, slices: Sequence[Mapping[str, pl.DataFrame]], head: PageHeader | None = None) -> bytes:
    """The whole file of some slices, as delivery would put it together."""
    portfolios = [portfolio for one in slices for portfolio in document.render(one)]
    sections = {"details": [portfolio.sections["details"] for portfolio in portfolios]}
    totals = sum((portfolio.totals for portfolio in portfolios), Totals())
    return b"".join(document.page(head or header(document.name), totals, sections))


# --- the reference writer ---------------------------------------------------------------------------------------------


def _spelled(value: Any, places: int = 2) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:.{places}f}"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    text = str(value)
    formula = re.match("'*[=+@-]", text) and not re.fullmatch("[+-]?[0-9]+([.][0-9]+)?", text)
    return "'" + text if formula else text


def reference_trade_fields(row: Mapping[str, Any], hin: str | None) -> list[str]:
    """A contract note's fields, in the issue's order."""
    sign = -1 if row["transaction_type"] == "SELL" else 1
    renamed = {
        "trade_id": row["transaction_id"][1:],
        "hin": hin,
        "side": row["transaction_type"],
        "code": row["security_code"],
        "trade_date": row["transaction_date"],
        "units": sign * row["units"] + 0,  # Decimal has a minus zero, which no file may show
        "reverses_trade_id": (row.get("reverses") or "T")[1:] or None,
    }
    values = {**row, **renamed}
    return [_spelled(values.get(name), 6 if name in ("units", "price") else 2) for name in TRADE_COLUMNS]


def reference_cash_fields(row: Mapping[str, Any]) -> list[str]:
    """A cash movement's fields, in the issue's order."""
    relates = row.get("relates_to") or " "
    renamed = {
        "cash_transaction_id": row["transaction_id"][1:],
        "transaction_type": row["transaction_type"].removeprefix("CASH_"),
        "description": row["narrative"],
        "trade_id": relates[1:] if relates[0] == "T" else None,
        "income_id": relates[1:] if relates[0] == "I" else None,
        "reverses_cash_transaction_id": (row.get("reverses") or "C")[1:] or None,
    }
    values = {**row, **renamed}
    return [_spelled(values.get(name)) for name in CASH_COLUMNS]


def reference_file(first: Sequence[str], lines: Sequence[Sequence[str]], sums: Mapping[str, Decimal]) -> bytes:
    """A whole file: header, lines (with their letters), trailer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(first)
    writer.writerows(lines)
    details = sum(line[0] == "D" for line in lines)
    writer.writerow(["T", details, "|".join(f"{name}:{sums[name]:.2f}" for name in sorted(sums))])
    return text.getvalue().encode()
