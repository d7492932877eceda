"""Landed tables for tests, from a few values: ``landed(trade=[{"units": "10"}])`` fills in the rest believably.

Numbers, days and instants are text, typed by the table's own schema. Without consents given, portfolio 1 ("SW000001")
has consented to CLASS long ago. D is a Wednesday whose previous business date is the Tuesday before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl

from classfeed_dagster.bigsite.landing import empty_tables
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.domains.consented_portfolios import consented_portfolios
from classfeed_dagster.domains.slice import Slice

D = dt.date(2023, 2, 1)
CLASS = Audience("CLASS", dt.date(2023, 1, 3))
LONG_AGO = "2020-01-01T00:00:00Z"
YESTERDAY = "2023-01-31T02:00:00Z"  # before D's window
TODAY = "2023-02-01T02:00:00Z"  # within it
EVENING = "2023-02-01T14:00:00Z"  # bigsite's end-of-day run, an hour after the cut-off
CUTOFF = "2023-02-01T13:00:00Z"
NEW = {"granted_at": TODAY}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "data_sharing_consent": {
        "portfolio_number": "SW000001",
        "recipient": "CLASS",
        "recipient_reference": "FUND1",
        "granted_at": LONG_AGO,
    },
    "portfolio": {
        "portfolio_name": "One & Only Super",
        "entity_type": "SMSF",
        "abn": "51824753556",
        "hin": "X0000000001",
        "status": "ACTIVE",
        "opened_on": "2020-01-01",
    },
    "cash_account": {
        "bsb": "999-001",
        "account_number": "000000001",
        "account_name": "Cash",
        "currency": "AUD",
        "status": "ACTIVE",
        "opened_on": "2020-01-01",
    },
    "security": {
        "exchange": "ASX",
        "code": "BHP",
        "isin": "AU000000BHP4",
        "name": "BHP GROUP",
        "security_type": "ORDINARY",
        "currency": "AUD",
    },
    "security_code_change": {"old_code": "OLD", "old_name": "OLD NAME"},
    "security_price": {"price_date": "2023-02-01", "close_price": "45.10"},
    "holding_eod": {"units": "100", "updated_at": EVENING, "unsettled_units": "0"},
    "cash_balance_eod": {
        "open_on_date": True,
        "opened_by_date": True,
        "ledger_balance": "0",
        "available_balance": "0",
        "updated_at": EVENING,
        "ledger_cash": "0",
    },
    "repeated_confirmation": {"confirmation_number": "CN1", "side": "BUY", "units": "10", "standing": 2},
    "trade": {
        "confirmation_number": "CN1",
        "side": "BUY",
        "trade_date": "2023-02-01",
        "settlement_date": "2023-02-03",
        "units": "10",
        "price": "10",
        "consideration": "100.00",
        "brokerage": "9.50",
        "gst": "0.86",
        "other_fees": "0",
        "net_amount": "109.50",
        "currency": "AUD",
        "recorded_at": TODAY,
    },
    "security_movement": {
        "movement_type": "TRANSFER_IN",
        "effective_date": "2023-02-01",
        "units_change": "5",
        "description": "Transfer",
        "recorded_at": TODAY,
    },
    "income": {
        "income_type": "DIVIDEND",
        "ex_date": "2023-01-10",
        "payment_date": "2023-02-01",
        "units_held": "100",
        "gross_amount": "70.00",
        "franked_amount": "70.00",
        "unfranked_amount": "0",
        "franking_credit": "30.00",
        "withholding_tax": "0",
        "net_amount": "70.00",
        "currency": "AUD",
        "recorded_at": TODAY,
    },
    "cash_transaction": {
        "transaction_type": "DEPOSIT",
        "transaction_date": "2023-02-01",
        "amount": "100.00",
        "currency": "AUD",
        "description": "Deposit",
        "recorded_at": TODAY,
    },
    "opening_units": {"audience": CLASS.key, "units": "50", "recorded_at": YESTERDAY},
    "opening_cash": {"audience": CLASS.key, "amount": "1000.00", "recorded_at": YESTERDAY},
}


def landed(**rows: Sequence[Mapping[str, Any]]) -> dict[str, pl.DataFrame]:
    """Landed tables with these rows; one consent, portfolio, cash account and security unless they are given."""
    given = {"data_sharing_consent": [{}], "portfolio": [{}], "cash_account": [{}], "security": [{}], **rows}
    tables = empty_tables()
    for table, listed in given.items():
        schema = tables[table].schema
        complete = [_complete(table, schema, at, row) for at, row in enumerate(listed, 1)]
        tables[table] = pl.DataFrame(complete, schema=schema, orient="row")
    return tables


def part(audience: Audience = CLASS, day: dt.date = D, **rows: Sequence[Mapping[str, Any]]) -> Slice:
    """The slice that ``landed`` makes, with the consented portfolios worked out."""
    return slice_of(landed(**rows), audience, day)


def slice_of(tables: Mapping[str, pl.DataFrame], audience: Audience = CLASS, day: dt.date = D) -> Slice:
    return Slice(tables, audience, day, consented_portfolios(tables, audience, day))


def _complete(table: str, schema: pl.Schema, at: int, row: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(row) - set(schema)
    assert not unknown, f"{table} has no columns {unknown}"
    # Ids: the table's own counts up, references to others point at the first.
    ids = {name: 1 for name in ("portfolio_id", "cash_account_id", "security_id") if name in schema}
    own = "consent_id" if table == "data_sharing_consent" else f"{table}_id"
    if own in schema:
        ids[own] = at
    values: dict[str, Any] = {**ids, **DEFAULTS[table], **row}
    if table == "holding_eod":
        values.setdefault("ledger_units", values["units"])
    if table == "cash_balance_eod" and "ledger_cash" not in row:
        values["ledger_cash"] = values["ledger_balance"] or "0"
    return {name: _typed(dtype, values.get(name)) for name, dtype in schema.items()}


def _typed(dtype: pl.DataType, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if isinstance(dtype, pl.Decimal):
        return Decimal(value)
    if isinstance(dtype, pl.Datetime):
        return dt.datetime.fromisoformat(value)
    return dt.date.fromisoformat(value) if dtype == pl.Date else value


def instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
