"""The class trade file: every contract note of a business date, from the trade ledger only."""

from __future__ import annotations

import polars as pl

from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.csv_mapping import ColumnType, CsvColumn, CsvLayout

# The ledger's units are unsigned (negative on a reversal); in the domain, the side gives the sign.
_LEDGER_UNITS = pl.when(pl.col("transaction_type") == "SELL").then(-pl.col("units")).otherwise(pl.col("units"))
_SIGNED_UNITS = pl.when(pl.col("side") == "SELL").then(-pl.col("units")).otherwise(pl.col("units"))


def _money(name: str) -> CsvColumn:
    return CsvColumn(name, ColumnType.MONEY, pl.col(name), required=True, signed=True)


LAYOUT = CsvLayout(
    name="class_trade",
    ledgers=frozenset("T"),
    domains=("account_details", "movement_transactions"),
    rows=pl.col("transaction_id").str.starts_with("T"),
    details=(
        CsvColumn("trade_id", ColumnType.TEXT, pl.col("transaction_id").str.slice(1), required=True),
        CsvColumn("portfolio_number", ColumnType.TEXT, pl.col("portfolio_number"), required=True),
        CsvColumn("hin", ColumnType.TEXT, pl.col("hin"), personal=True),
        CsvColumn("confirmation_number", ColumnType.TEXT, pl.col("confirmation_number"), required=True),
        CsvColumn("side", ColumnType.TEXT, pl.col("transaction_type"), required=True),
        CsvColumn("exchange", ColumnType.TEXT, pl.col("exchange"), required=True),
        CsvColumn("code", ColumnType.TEXT, pl.col("security_code"), required=True),  # as on the trade date
        CsvColumn("isin", ColumnType.TEXT, pl.col("isin")),
        CsvColumn("trade_date", ColumnType.DATE, pl.col("transaction_date"), required=True),
        CsvColumn("settlement_date", ColumnType.DATE, pl.col("settlement_date"), required=True),
        CsvColumn("units", ColumnType.DECIMAL6, _LEDGER_UNITS, required=True, signed=True),
        CsvColumn("price", ColumnType.DECIMAL6, pl.col("price"), required=True),
        _money("consideration"),
        _money("brokerage"),
        _money("gst"),
        _money("other_fees"),
        _money("net_amount"),
        CsvColumn("currency", ColumnType.TEXT, pl.col("currency"), required=True),
        CsvColumn("reverses_trade_id", ColumnType.TEXT, pl.col("reverses").str.slice(1)),
        CsvColumn("recorded_at", ColumnType.INSTANT, pl.col("recorded_at"), required=True),
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
