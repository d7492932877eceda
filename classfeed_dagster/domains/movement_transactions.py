"""The ``movement_transactions`` domain: ledger rows not sent before, and the opening balances that precede them.

Figures and signs are bigsite's. Only the units of a trade take their sign from the side.
Identifiers of persons in narratives are masked (``free_text``).
"""

from __future__ import annotations

import datetime as dt

import polars as pl

from classfeed_dagster.bigsite.ledger_tables import DATES, INCOME, LETTERS, TRADE
from classfeed_dagster.domains.account_balances import ACCOUNT_KEY
from classfeed_dagster.domains.columns import INSTANT, MONEY, MOVEMENT_TRANSACTIONS, UNITS
from classfeed_dagster.domains.exact import fitting
from classfeed_dagster.domains.ledger_rows import (
    LEDGER_RECORDS,
    OPENING_CASH,
    OPENING_UNITS,
    REFERENCES,
    REVERSED_TYPE,
    complete,
    landed_since,
)
from classfeed_dagster.domains.securities import with_security
from classfeed_dagster.domains.slice import NUMBER, Slice
from classfeed_dagster.free_text import mask_columns
from classfeed_dagster.trading_days import SYDNEY


def movement_transactions(part: Slice) -> dict[str, pl.DataFrame]:
    """Return MOVEMENT_TRANSACTIONS: the shared history of FULL portfolios, the window of DELTA ones, and openings."""
    ledgers = [_trades(part), _security_movements(part), _income(part), _cash(part)]
    sent = mask_columns(pl.concat(ledgers, how="diagonal"), "narrative")
    earliest = sent.group_by("portfolio_id").agg(pl.col("recorded_at").min().alias("_earliest"))
    openings = pl.concat([opening_units(part), opening_cash(part)], how="diagonal")
    fitted = openings.filter(pl.col("units").is_not_null() | pl.col("amount").is_not_null())
    recorded = _with_recorded_at(fitted, earliest)
    movements = pl.concat([sent, recorded], how="diagonal")
    absent = [
        pl.lit(None, column.dtype).alias(column.name)
        for column in MOVEMENT_TRANSACTIONS.columns
        if column.name not in movements.columns
    ]
    conformed = MOVEMENT_TRANSACTIONS.conform(movements.with_columns(absent))
    # An income's units are what it was paid on: it moves none.
    moved = pl.when(pl.col("ledger") != INCOME).then(pl.col("units")).alias("units")
    recorded_keys = complete(LEDGER_RECORDS, movements.with_columns(absent).with_columns(moved))
    return {MOVEMENT_TRANSACTIONS.name: conformed, LEDGER_RECORDS.name: recorded_keys}


def transaction_id(letter: str, column: str) -> pl.Expr:
    """Return the id of a ledger row from the ledger's letter and the row's key; null for a null key."""
    return pl.format(f"{letter}{{}}", pl.col(column))


def _id_and_reverses(table: str, rows: pl.DataFrame) -> tuple[pl.Expr, ...]:
    letter = LETTERS[table]
    return (
        transaction_id(letter, f"{table}_id").alias("transaction_id"),
        *_reference(rows, "reverses", transaction_id(letter, f"reverses_{table}_id")),
        pl.lit(letter).alias("ledger"),
        pl.col(f"{table}_id").alias("row_id"),
    )


def _reference(rows: pl.DataFrame, name: str, transaction: pl.Expr) -> tuple[pl.Expr, ...]:
    # A row before the shared history is never sent as itself, so that nothing can refer to it. The date and instant of
    # the named row let the view of the ledger decide for a history that began later when the row was due.
    dated, recorded = REFERENCES[name]
    on, at = landed_since(rows, dated, pl.Date()), landed_since(rows, recorded, INSTANT)
    precedes = on < pl.col("history_from")
    return (
        pl.when(~precedes.fill_null(value=False)).then(transaction).alias(name),
        on.alias(dated),
        at.cast(INSTANT).alias(recorded),
    )


def _trades(part: Slice) -> pl.DataFrame:
    side, units = pl.col("side"), pl.col("units")
    rows = with_security(part.ledger("trade", DATES["trade"]), part.tables, pl.col("trade_date"))
    return rows.select(
        "portfolio_id",
        NUMBER,
        *_id_and_reverses("trade", rows),
        side.alias("transaction_type"),
        pl.col("trade_date").alias("transaction_date"),
        "settlement_date",
        "recorded_at",
        "security_id",
        "exchange",
        "security_code",
        "isin",
        # An unknown side has no sign; a rule holds the portfolio back.
        pl.when(side == "BUY").then(units).when(side == "SELL").then(-units).alias("units"),
        "confirmation_number",
        "price",
        "consideration",
        "brokerage",
        "gst",
        "other_fees",
        "net_amount",
        "currency",
    )


def _security_movements(part: Slice) -> pl.DataFrame:
    rows = part.ledger("security_movement", DATES["security_movement"])
    named = with_security(rows, part.tables, pl.col("effective_date"))
    return named.select(
        "portfolio_id",
        NUMBER,
        *_id_and_reverses("security_movement", rows),
        landed_since(rows, "reversed_type", pl.String()).alias(REVERSED_TYPE),
        pl.col("movement_type").alias("transaction_type"),
        pl.col("effective_date").alias("transaction_date"),
        "recorded_at",
        "security_id",
        "exchange",
        "security_code",
        "isin",
        pl.col("units_change").alias("units"),
        "cost_base_change",
        # bigsite states no currency: the cost base is in the security's currency. Null without money.
        pl.when(pl.col("cost_base_change").is_not_null()).then("security_currency").alias("currency"),
        pl.col("description").alias("narrative"),
    )


def _income(part: Slice) -> pl.DataFrame:
    kind = pl.col("income_type")
    rows = with_security(part.ledger("income", DATES["income"]), part.tables, pl.col("payment_date"))
    return rows.select(
        "portfolio_id",
        NUMBER,
        *_id_and_reverses("income", rows),
        # INTEREST alone would be mistaken for interest on cash.
        pl.when(kind == "INTEREST").then(pl.lit("INTEREST_INCOME")).otherwise(kind).alias("transaction_type"),
        pl.col("payment_date").alias("transaction_date"),
        "recorded_at",
        "security_id",
        "exchange",
        "security_code",
        "isin",
        pl.col("units_held").alias("units"),
        "ex_date",
        "gross_amount",
        "franked_amount",
        "unfranked_amount",
        "franking_credit",
        "withholding_tax",
        pl.col("net_amount").alias("net_income"),
        "currency",
    )


def _cash(part: Slice) -> pl.DataFrame:
    rows = part.ledger("cash_transaction", DATES["cash_transaction"])
    cause = pl.coalesce(transaction_id(TRADE, "trade_id"), transaction_id(INCOME, "income_id"))
    return rows.join(_accounts(part), on=ACCOUNT_KEY, how="left").select(
        "portfolio_id",
        NUMBER,
        *_id_and_reverses("cash_transaction", rows),
        pl.format("CASH_{}", pl.col("transaction_type")).alias("transaction_type"),
        "transaction_date",
        "recorded_at",
        "cash_account_id",
        *_reference(rows, "relates_to", cause),
        "bsb",
        "account_number",
        "amount",
        "currency",
        pl.col("description").alias("narrative"),
    )


def _accounts(part: Slice) -> pl.DataFrame:
    own_currency = pl.col("currency").alias("account_currency")
    return part.tables["cash_account"].select(*ACCOUNT_KEY, "bsb", "account_number", own_currency)


# --- Openings -------------------------------------------------------------------------------------------------------

_DAY_BEFORE = pl.col("history_from") - dt.timedelta(days=1)


def opening_units(part: Slice) -> pl.DataFrame:
    """Return OPENING_UNITS rows, with portfolio_id, extract and history_from; ``units`` is null on overflow."""
    rows = with_security(part.openings("opening_units"), part.tables, _DAY_BEFORE)
    return rows.select(
        "portfolio_id",
        NUMBER,
        "extract",
        "history_from",
        _opening_id(OPENING_UNITS, "security_id", part.business_date),
        pl.lit("OPENING_UNITS").alias("transaction_type"),
        _DAY_BEFORE.alias("transaction_date"),
        "recorded_at",
        pl.lit(OPENING_UNITS).alias("ledger"),
        "security_id",
        "exchange",
        "security_code",
        "isin",
        fitting(pl.col("units"), UNITS).alias("units"),
    )


def opening_cash(part: Slice) -> pl.DataFrame:
    """Return OPENING_CASH rows, with portfolio_id, extract and history_from; ``amount`` is null on overflow."""
    rows = part.openings("opening_cash").join(_accounts(part), on=ACCOUNT_KEY, how="left")
    return rows.select(
        "portfolio_id",
        NUMBER,
        "extract",
        "history_from",
        _opening_id(OPENING_CASH, "cash_account_id", part.business_date),
        pl.lit("OPENING_CASH").alias("transaction_type"),
        _DAY_BEFORE.alias("transaction_date"),
        "recorded_at",
        pl.lit(OPENING_CASH).alias("ledger"),
        "cash_account_id",
        "bsb",
        "account_number",
        fitting(pl.col("amount"), MONEY).alias("amount"),
        pl.col("account_currency").alias("currency"),
    )


def _opening_id(prefix: str, key: str, business_date: dt.date) -> pl.Expr:
    name = f"{prefix}-{{}}-{{}}-{business_date:%Y%m%d}"
    return pl.format(name, pl.col(NUMBER), pl.col(key)).alias("transaction_id")


def _with_recorded_at(openings: pl.DataFrame, earliest: pl.DataFrame) -> pl.DataFrame:
    # A FULL opening is recorded at 00:00 Sydney of history_from, or just before the portfolio's first sent row, so
    # that it comes first. A DELTA opening is recorded when the last of its rows was (docs/adr/0005).
    day = pl.col("history_from").cast(pl.Datetime("us"))
    midnight = day.dt.replace_time_zone(SYDNEY.key).dt.convert_time_zone("UTC")
    before_all = pl.min_horizontal(midnight, pl.col("_earliest") - dt.timedelta(microseconds=1))
    recorded_at = pl.when(pl.col("extract") == "FULL").then(before_all).otherwise(pl.col("recorded_at"))
    return (
        openings.join(earliest, on="portfolio_id", how="left")
        .with_columns(recorded_at.cast(INSTANT).alias("recorded_at"))
        .drop("extract", "history_from", "_earliest")
    )
