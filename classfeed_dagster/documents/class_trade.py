"""The class trade file: every contract note of a business date, from the trade ledger alone."""

from __future__ import annotations

import polars as pl

from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.csv_mapping import CsvColumn, CsvLayout, Kind

# The ledger's units are unsigned (negative on a reversal); the domain's take their sign from the side.
_LEDGER_UNITS = pl.when(pl.col("transaction_type") == "SELL").then(-pl.col("units")).otherwise(pl.col("units"))
_SIGNED_UNITS = pl.when(pl.col("side") == "SELL").then(-pl.col("units")).otherwise(pl.col("units"))


def _money(name: str) -> CsvColumn:
    return CsvColumn(name, Kind.MONEY, pl.col(name), required=True, signed=True)


LAYOUT = CsvLayout(
    name="class_trade",
    ledgers=frozenset("T"),
    domains=("account_details", "movement_transactions"),
    rows=pl.col("transaction_id").str.starts_with("T"),
    details=(
        CsvColumn("trade_id", Kind.TEXT, pl.col("transaction_id").str.slice(1), required=True),
        CsvColumn("portfolio_number", Kind.TEXT, pl.col("portfolio_number"), required=True),
        CsvColumn("hin", Kind.TEXT, pl.col("hin"), personal=True),
        CsvColumn("confirmation_number", Kind.TEXT, pl.col("confirmation_number"), required=True),
        CsvColumn("side", Kind.TEXT, pl.col("transaction_type"), required=True),
        CsvColumn("exchange", Kind.TEXT, pl.col("exchange"), required=True),
        CsvColumn("code", Kind.TEXT, pl.col("security_code"), required=True),  # as on the trade date
        CsvColumn("isin", Kind.TEXT, pl.col("isin")),
        CsvColumn("trade_date", Kind.DATE, pl.col("transaction_date"), required=True),
        CsvColumn("settlement_date", Kind.DATE, pl.col("settlement_date"), required=True),
        CsvColumn("units", Kind.DECIMAL6, _LEDGER_UNITS, required=True, signed=True),
        CsvColumn("price", Kind.DECIMAL6, pl.col("price"), required=True),
        _money("consideration"),
        _money("brokerage"),
        _money("gst"),
        _money("other_fees"),
        _money("net_amount"),
        CsvColumn("currency", Kind.TEXT, pl.col("currency"), required=True),
        CsvColumn("reverses_trade_id", Kind.TEXT, pl.col("reverses").str.slice(1)),
        CsvColumn("recorded_at", Kind.INSTANT, pl.col("recorded_at"), required=True),
    ),
    back={
        "transaction_id": pl.lit("T") + pl.col("trade_id"),
        "transaction_type": pl.col("side"),
        "transaction_date": pl.col("trade_date"),
        "reverses": pl.lit("T") + pl.col("reverses_trade_id"),
        "security_code": pl.col("code"),
        "units": _SIGNED_UNITS,
    },
    key="trade_id",
    reverses="reverses_trade_id",
    summed="net_amount",
    business_date="trade_date",
)

CLASS_TRADE = CsvFormat(LAYOUT)
