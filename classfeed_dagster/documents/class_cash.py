"""The class cash file: every cash movement of a business date, and each account's balance after its movements.

An account's cash from before the shared history is one line of type OPENING_CASH with the opening's id (``OC-…``). So
the sent amounts always add up to the sent balance. The line of a ledger row has the ledger's number. An account
without movements has a balance line only.
"""

from __future__ import annotations

import polars as pl

from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.csv_mapping import ColumnType, CsvColumn, CsvLayout

_OPENING = "OC-"
_LEDGER_ROW = ~pl.col("cash_transaction_id").str.starts_with(_OPENING)


def _number_after(letter: str, column: str) -> pl.Expr:
    # null if the id names a row of another ledger
    return pl.when(pl.col(column).str.starts_with(letter)).then(pl.col(column).str.slice(1))


_ID = (
    pl.when(pl.col("transaction_id").str.starts_with(_OPENING))
    .then(pl.col("transaction_id"))
    .otherwise(pl.col("transaction_id").str.slice(1))
)


def _account() -> tuple[CsvColumn, ...]:
    return (
        CsvColumn("portfolio_number", ColumnType.TEXT, pl.col("portfolio_number"), required=True),
        CsvColumn("bsb", ColumnType.TEXT, pl.col("bsb"), personal=True),
        CsvColumn("account_number", ColumnType.TEXT, pl.col("account_number"), required=True, personal=True),
    )


LAYOUT = CsvLayout(
    name="class_cash",
    ledgers=frozenset("C"),
    domains=("account_details", "account_balances", "movement_transactions"),
    rows=pl.col("transaction_id").str.contains("^(?:C|OC-)"),
    details=(
        CsvColumn("cash_transaction_id", ColumnType.TEXT, _ID, required=True),
        *_account(),
        CsvColumn(
            "transaction_type", ColumnType.TEXT, pl.col("transaction_type").str.strip_prefix("CASH_"), required=True
        ),
        CsvColumn("transaction_date", ColumnType.DATE, pl.col("transaction_date"), required=True),
        CsvColumn("amount", ColumnType.MONEY, pl.col("amount"), required=True, signed=True),
        CsvColumn("currency", ColumnType.TEXT, pl.col("currency"), required=True),
        CsvColumn("description", ColumnType.TEXT, pl.col("narrative"), personal=True),
        CsvColumn("trade_id", ColumnType.TEXT, _number_after("T", "relates_to")),
        CsvColumn("income_id", ColumnType.TEXT, _number_after("I", "relates_to")),
        CsvColumn("reverses_cash_transaction_id", ColumnType.TEXT, _number_after("C", "reverses")),
        CsvColumn("recorded_at", ColumnType.INSTANT, pl.col("recorded_at"), required=True),
    ),
    balances=(
        *_account(),
        CsvColumn("currency", ColumnType.TEXT, pl.col("currency"), required=True),
        CsvColumn("as_at_date", ColumnType.DATE, pl.col("as_at_date"), required=True),
        CsvColumn("ledger_balance", ColumnType.MONEY, pl.col("ledger_balance"), required=True),
        CsvColumn("available_balance", ColumnType.MONEY, pl.col("available_balance"), required=True),
    ),
    back={
        "transaction_id": pl.when(_LEDGER_ROW)
        .then(pl.lit("C") + pl.col("cash_transaction_id"))
        .otherwise(pl.col("cash_transaction_id")),
        "transaction_type": pl.when(_LEDGER_ROW)
        .then(pl.lit("CASH_") + pl.col("transaction_type"))
        .otherwise(pl.col("transaction_type")),
        "relates_to": pl.coalesce(pl.lit("T") + pl.col("trade_id"), pl.lit("I") + pl.col("income_id")),
        "reverses": pl.lit("C") + pl.col("reverses_cash_transaction_id"),
        "narrative": pl.col("description"),
    },
    key="cash_transaction_id",
    reverses="reverses_cash_transaction_id",
    summed="amount",
    business_date="transaction_date",
    group=("portfolio_number", "account_number", "currency"),
)

CLASS_CASH = CsvFormat(LAYOUT)
