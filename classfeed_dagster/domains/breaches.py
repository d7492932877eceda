"""Detection of each rule's breaches: pure, vectorised functions over one slice.

Every function takes the slice and the domain's frames and returns portfolio_number, subject and detail. A subject is
a transaction id, a security, a cash account's key or a field name. Subject and detail never hold a name, an account
number or another personal value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import polars as pl

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import tables as bigsite
from classfeed_dagster.bigsite.ledger_tables import (
    CASH_TRANSACTION,
    DATES,
    INCOME,
    LETTERS,
    SECURITY_MOVEMENT,
    TRADE,
)
from classfeed_dagster.domains import identifiers
from classfeed_dagster.domains.account_balances import end_of_day_cash
from classfeed_dagster.domains.columns import (
    ACCOUNTS,
    CONSENTED_PORTFOLIOS,
    INVESTMENT_HOLDINGS,
    MOVEMENT_TRANSACTIONS,
)
from classfeed_dagster.domains.exact import scaled
from classfeed_dagster.domains.investment_holdings import ON_A_HIN, end_of_day_holdings, undone, unvaluable
from classfeed_dagster.domains.ledger_rows import LEDGER_RECORDS, landed_since
from classfeed_dagster.domains.movement_transactions import (
    opening_cash,
    opening_units,
    transaction_id,
)
from classfeed_dagster.domains.slice import NUMBER, Slice
from classfeed_dagster.free_text import identifiers_in, with_identifiers

Frames = Mapping[str, pl.DataFrame]

_SECURITY = pl.format("{}:{}", pl.col("exchange"), pl.col("security_code"))
_CASH_ACCOUNT = pl.col("cash_account_id").cast(pl.String)
_TRANSACTION = pl.col("transaction_id")
_LETTER = _TRANSACTION.str.slice(0, 1)

# Transaction types by ledger, as documents name them: the ledger's letter and the type.
_KNOWN_TYPES = [
    *(f"{TRADE}:{side}" for side in bigsite.SIDES),
    *(f"{SECURITY_MOVEMENT}:{kind}" for kind in bigsite.MOVEMENT_TYPES),
    *(f"{INCOME}:{'INTEREST_INCOME' if kind == 'INTEREST' else kind}" for kind in bigsite.INCOME_TYPES),
    *(f"{CASH_TRANSACTION}:CASH_{kind}" for kind in bigsite.CASH_TYPES),
    "O:OPENING_UNITS",
    "O:OPENING_CASH",
]


def _breaches(rows: pl.DataFrame, subject: pl.Expr | str, detail: pl.Expr | str) -> pl.DataFrame:
    as_text = [pl.lit(value) if isinstance(value, str) else value for value in (subject, detail)]
    return rows.select(NUMBER, as_text[0].alias("subject"), as_text[1].alias("detail"))


# --- consented_portfolios -------------------------------------------------------------------------------------------


def history_begins_later(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return consents whose shared history begins after the business date."""
    rows = frames[CONSENTED_PORTFOLIOS.name].filter(
        pl.col("change") != "REMOVED", pl.col("history_from") > part.business_date
    )
    return _breaches(rows, "history_from", pl.format("history is shared from {} on", pl.col("history_from")))


def unreadable_value(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return portfolios with a row that was not landed because no feed can carry one of its values."""
    del frames
    values = [
        (value.portfolio_id, value.table, value.reason) for value in part.unreadable if value.portfolio_id is not None
    ]
    schema = {"portfolio_id": pl.Int64(), "table": pl.String(), "reason": pl.String()}
    rows = part.sending.join(pl.DataFrame(values, schema=schema, orient="row"), on="portfolio_id")
    return _breaches(rows, pl.col("table"), pl.col("reason"))


# --- account_details ------------------------------------------------------------------------------------------------


def unknown_account_value(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return entity types and statuses that are not in the contract."""
    accounts, cash = frames[ACCOUNTS.name], part.rows("cash_account")
    entity, status = pl.col("entity_type"), pl.col("status")
    unknown_status = ~status.is_in(bigsite.STATUSES)
    return pl.concat(
        [
            _breaches(
                accounts.filter(~entity.is_in(bigsite.ENTITY_TYPES)),
                "entity_type",
                pl.format("entity type {} is not known", entity),
            ),
            _breaches(accounts.filter(unknown_status), "status", pl.format("status {} is not known", status)),
            _breaches(cash.filter(unknown_status), _CASH_ACCOUNT, pl.format("status {} is not known", status)),
        ]
    )


def hin_shape(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return HINs that are not X and ten digits."""
    del part
    rows = frames[ACCOUNTS.name].filter(~pl.col("hin").str.contains(identifiers.HIN))
    return _breaches(rows, "hin", "the HIN is not X and ten digits")


def abn_check_digits(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return ABNs that fail their check digits."""
    del part
    accounts = frames[ACCOUNTS.name]
    rows = accounts.filter(identifiers.fails(accounts["abn"], identifiers.abn_is_valid))
    return _breaches(rows, "abn", "the ABN fails its check digits")


def bsb_shape(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return BSBs that are not NNN-NNN."""
    del frames
    rows = part.rows("cash_account").filter(~pl.col("bsb").str.contains(identifiers.BSB))
    return _breaches(rows, _CASH_ACCOUNT, "the BSB is not NNN-NNN")


def shared_hin(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return HINs that several portfolios have."""
    del frames
    rows = part.rows("portfolio")
    holders = landed_since(rows, "hin_holders", pl.String())
    return _breaches(rows.filter(holders.is_not_null()), "hin", pl.format("one HIN is on {}", holders))


def shared_account_number(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return cash accounts that have their BSB, number and currency in common with another."""
    del frames
    rows = part.rows("cash_account")
    holders = landed_since(rows, "number_holders", pl.String())
    detail = pl.format("accounts with one BSB and number are on {}", holders)
    return _breaches(rows.filter(holders.is_not_null()), _CASH_ACCOUNT, detail)


def bsb_missing(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return accounts in Australian dollars without a BSB."""
    del frames
    rows = part.rows("cash_account").filter(pl.col("bsb").is_null(), pl.col("currency") == "AUD")
    return _breaches(rows, _CASH_ACCOUNT, "an account in AUD has no BSB")


def ambiguous_cash_account(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return cash accounts of one portfolio that share number and currency."""
    del frames
    sent = part.rows("cash_account").filter(pl.col("opened_on") <= part.business_date)
    sharing = sent.filter(pl.len().over(NUMBER, "account_number", "currency") > 1)
    return _breaches(sharing, _CASH_ACCOUNT, "another cash account of the portfolio has its number and currency")


def identifier_in_name(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return names of portfolios and cash accounts that hold an identifier of a person."""
    del frames
    names, accounts = part.rows("portfolio"), part.rows("cash_account")
    return pl.concat(
        [
            _identifiers(names, "portfolio_name", pl.lit("portfolio_name")),
            _identifiers(accounts.filter(pl.col("opened_on") <= part.business_date), "account_name", _CASH_ACCOUNT),
        ]
    )


def _identifiers(rows: pl.DataFrame, column: str, subject: pl.Expr) -> pl.DataFrame:
    texts = with_identifiers(rows[column])
    details = [_describe_identifiers(text) for text in texts]
    rows = rows.filter(pl.col(column).is_in(texts)) if texts else rows.clear()
    detail = pl.lit(f"{column}: ") + pl.col(column).replace(texts, details)
    return _breaches(rows, subject, detail)


def _describe_identifiers(text: str) -> str:
    # The kind and the position: the value itself stays in bigsite.
    return ", ".join(f"{match.kind} at character {match.start + 1}" for match in identifiers_in(text))


# --- account_balances -----------------------------------------------------------------------------------------------


def balance_missing(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return open cash accounts without an end-of-day row."""
    del frames
    rows = end_of_day_cash(part).filter(pl.col("state") == "MISSING")
    detail = pl.format("end of day lacks the account; its ledger sums to {}", pl.col("ledger_cash"))
    return _breaches(rows, _CASH_ACCOUNT, detail)


def cash_ledger(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return balances that differ from the account's ledger, and cash on closed or unopened accounts."""
    del frames
    rows = end_of_day_cash(part)
    differing = rows.filter(pl.col("state") == "STATED", pl.col("ledger_balance") != pl.col("ledger_cash"))
    astray = rows.filter(pl.col("state") == "ASTRAY")
    return pl.concat(
        [
            _breaches(
                differing,
                _CASH_ACCOUNT,
                pl.format("end of day has {}, the ledger sums to {}", pl.col("ledger_balance"), pl.col("ledger_cash")),
            ),
            _breaches(
                astray,
                _CASH_ACCOUNT,
                pl.format("the account is closed or not open yet, and its ledger sums to {}", pl.col("ledger_cash")),
            ),
        ]
    )


# --- investment_holdings --------------------------------------------------------------------------------------------


def holding_missing(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return securities with units in the ledger and no end-of-day row."""
    del frames
    holdings = end_of_day_holdings(part)
    rows = holdings.filter(pl.col("units").is_null())
    if "later_units" in holdings.columns:
        rows = rows.filter(~undone())
    detail = pl.format("end of day lacks the holding; its ledger sums to {}", pl.col("ledger_units"))
    return _breaches(rows, _SECURITY, detail)


def units_ledger(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return holdings whose units differ from the sum of their ledger."""
    del frames
    rows = end_of_day_holdings(part).filter(pl.col("units") != pl.col("ledger_units"))
    detail = pl.format("end of day has {} units, the ledger sums to {}", pl.col("units"), pl.col("ledger_units"))
    return _breaches(rows, _SECURITY, detail)


def holding_too_large(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return holdings with a figure that has more digits than the document's numbers."""
    del frames
    rows = end_of_day_holdings(part).filter(unvaluable())
    return _breaches(
        rows, _SECURITY, "the market value or the settled units have more digits than a document can carry"
    )


def unknown_security_type(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return security types that are not in the contract."""
    del part
    kind = pl.col("security_type")
    rows = frames[INVESTMENT_HOLDINGS.name].filter(~kind.is_in(bigsite.SECURITY_TYPES))
    return _breaches(rows, _SECURITY, pl.format("security type {} is not known", kind))


def ambiguous_security(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return securities of one portfolio that share exchange and code on the business date."""
    del part
    shared = pl.len().over(NUMBER, "exchange", "security_code") > 1
    rows = frames[INVESTMENT_HOLDINGS.name].filter(shared)
    return _breaches(rows, _SECURITY, "two holdings of the portfolio have this exchange and code")


def unreadable_holding_security(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return portfolios with holdings of a security that has a value which was not landed."""
    del frames
    return _of_unreadable_securities(part, part.rows("holding_eod"), pl.col("table"))


def _of_unreadable_securities(part: Slice, rows: pl.DataFrame, subject: pl.Expr) -> pl.DataFrame:
    values = pl.DataFrame(
        [
            (value.security_id, value.table, value.reason)
            for value in part.unreadable
            if value.security_id is not None and value.table in part.tables
        ],
        schema={"security_id": pl.Int64(), "table": pl.String(), "reason": pl.String()},
        orient="row",
    )
    return _breaches(rows.join(values, on="security_id"), subject, pl.col("reason")).unique()


def holding_code(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return security codes and exchanges in holdings that do not have their form."""
    del part
    return _bad_codes(frames[INVESTMENT_HOLDINGS.name], _SECURITY, pl.lit(""))


def isin_check_digit(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return ISINs in holdings that fail their check digit."""
    del part
    holdings = frames[INVESTMENT_HOLDINGS.name]
    rows = holdings.filter(identifiers.fails(holdings["isin"], identifiers.isin_is_valid))
    return _breaches(rows, _SECURITY, pl.format("the ISIN {} fails its check digit", pl.col("isin")))


def holding_isin(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return holdings whose malformed ISIN is left out."""
    del frames
    return _left_out_isins(part, part.rows("holding_eod"), _MALFORMED, pl.lit(""))


def movement_isin(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return movements whose malformed ISIN is left out."""
    return _left_out_isins(part, _moved(frames), _TRANSACTION, pl.format("{}: ", _MALFORMED))


_MALFORMED = pl.format("{}:{}", pl.col("exchange"), pl.col("code"))


def _left_out_isins(part: Slice, rows: pl.DataFrame, subject: pl.Expr, prefix: pl.Expr) -> pl.DataFrame:
    malformed = part.tables["security"].filter(~pl.col("isin").str.contains(identifiers.ISIN))
    detail = "the ISIN is not two letters, nine letters or digits and a digit: it is left out of the document"
    rows = rows.drop("exchange", strict=False).join(malformed, on="security_id")
    return _breaches(rows, subject, prefix + pl.lit(detail)).unique()


def _bad_codes(frame: pl.DataFrame, subject: pl.Expr, prefix: pl.Expr) -> pl.DataFrame:
    codes = frame.filter(~pl.col("security_code").str.contains(identifiers.SECURITY_CODE))
    exchanges = frame.filter(~pl.col("exchange").str.contains(identifiers.EXCHANGE))
    of_code = "the code is not 1 to 12 capitals, digits and full stops"
    of_exchange = "the exchange is not an identifier of up to 64 letters, digits, full stops and hyphens"
    return pl.concat(
        [
            _breaches(codes, subject, prefix + pl.lit(of_code)),
            _breaches(exchanges, subject, prefix + pl.lit(of_exchange)),
        ]
    )


def _moved(frames: Frames) -> pl.DataFrame:
    # The first movement of each ledger, security and code represents all of them.
    moved = frames[LEDGER_RECORDS.name].filter(pl.col("security_id").is_not_null())
    return moved.unique(
        [NUMBER, "ledger", "security_id", "exchange", "security_code"], keep="first", maintain_order=True
    )


# --- movement_transactions ------------------------------------------------------------------------------------------


def unreadable_movement_security(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return portfolios with movements of a security that has a value which was not landed."""
    return _of_unreadable_securities(part, _moved(frames), _TRANSACTION)


def unknown_transaction_type(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return ledger rows of a type that is not in the contract."""
    del part
    kind = pl.col("transaction_type")
    rows = frames[MOVEMENT_TRANSACTIONS.name].filter(~pl.format("{}:{}", _LETTER, kind).is_in(_KNOWN_TYPES))
    return _breaches(rows, _TRANSACTION, pl.format("transaction type {} is not known", kind))


def movement_code(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return security codes and exchanges in movements that do not have their form."""
    del part
    return _bad_codes(_moved(frames), _TRANSACTION, pl.format("{}: ", _SECURITY))


def net_amount(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return contract notes whose net amount is not consideration plus or minus fees."""
    del part
    wide = {name: pl.col(name).cast(pl.Decimal(38, 2)) for name in ("consideration", "brokerage", "other_fees")}
    fees = wide["brokerage"] + wide["other_fees"]
    side = pl.col("transaction_type")
    due = (
        pl.when(side == "BUY")
        .then(wide["consideration"] + fees)
        .when(side == "SELL")
        .then(wide["consideration"] - fees)
        .alias("due")
    )
    rows = _trades(frames).with_columns(due).filter(pl.col("net_amount") != pl.col("due"))
    stated, computed = pl.col("net_amount"), pl.col("due")
    detail = pl.format("net amount {}; consideration and fees of a {} come to {}", stated, side, computed)
    return _breaches(rows, _TRANSACTION, detail)


def identifier_in_narrative(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return narratives that hold an identifier of a person."""
    del frames
    found = []
    for table in ("security_movement", "cash_transaction"):
        subject = transaction_id(LETTERS[table], f"{table}_id")
        found.append(_identifiers(part.ledger(table, DATES[table]), "description", subject))
    return pl.concat(found)


def repeated_confirmation(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return confirmations that occur more than once, whenever they were recorded."""
    del frames
    rows = part.rows("repeated_confirmation")
    detail = pl.format("a {} of {} units is recorded {} times", pl.col("side"), pl.col("units"), pl.col("standing"))
    return _breaches(rows, pl.col("confirmation_number"), detail)


def foreign_reversal(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return reversals of another portfolio's row."""
    del frames
    of_another = pl.col("reversed_portfolio_id").ne_missing(pl.col("portfolio_id"))
    return _reversals(part, of_another, pl.lit("it reverses a row of another portfolio"))


def inexact_reversal(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return reversals that don't undo their original: themselves, in part, with its sign, of another security."""
    del frames
    detail = pl.lit("it does not carry the opposite of what it reverses, on the same security and account")
    return _reversals(part, ~pl.col("undoes_exactly"), detail)


def repeated_reversal(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return reversals of a row that another row undoes as well."""
    del frames
    standing = pl.col("reversals_standing")
    return _reversals(part, standing > 1, pl.format("what it reverses is undone {} times", standing))


def _reversals(part: Slice, breaking: pl.Expr, detail: pl.Expr) -> pl.DataFrame:
    breaches = []
    for table, date in DATES.items():
        rows = part.ledger(table, date)
        rows = rows.with_columns(
            landed_since(rows, "undoes_exactly", pl.Boolean()).alias("undoes_exactly"),
            landed_since(rows, "reversals_standing", pl.Int64()).alias("reversals_standing"),
        ).filter(pl.col(f"reverses_{table}_id").is_not_null(), breaking)
        breaches.append(_breaches(rows, transaction_id(LETTERS[table], f"{table}_id"), detail))
    return pl.concat(breaches)


def foreign_relation(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return cash movements caused by a trade or income that isn't the portfolio's own."""
    del frames
    rows = part.ledger("cash_transaction", DATES["cash_transaction"])
    related = landed_since(rows, "related_portfolio_id", pl.Int64())
    caused = pl.col("trade_id").is_not_null() | pl.col("income_id").is_not_null()
    rows = rows.filter(caused, related.is_not_null(), related != pl.col("portfolio_id"))
    detail = "it names a trade or income of another portfolio"
    return _breaches(rows, transaction_id(CASH_TRANSACTION, "cash_transaction_id"), detail)


def cash_currency(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return cash transactions in another currency than their account's."""
    del frames
    accounts = part.tables["cash_account"].select("cash_account_id", pl.col("currency").alias("account_currency"))
    rows = part.ledger("cash_transaction", DATES["cash_transaction"]).join(accounts, on="cash_account_id")
    rows = rows.filter(pl.col("currency") != pl.col("account_currency"))
    detail = pl.format("an amount in {} on an account in {}", pl.col("currency"), pl.col("account_currency"))
    return _breaches(rows, transaction_id(CASH_TRANSACTION, "cash_transaction_id"), detail)


def opening_too_large(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return opening balances with more digits than the document's numbers."""
    del frames
    detail = "the opening balance has more digits than a document can carry"
    units, cash = opening_units(part), opening_cash(part)
    return pl.concat(
        [
            _breaches(units.filter(pl.col("units").is_null()), _TRANSACTION, detail),
            _breaches(cash.filter(pl.col("amount").is_null()), _TRANSACTION, detail),
        ]
    )


def price_times_units(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return contract notes whose consideration cannot be explained by rounding of the printed price.

    The price is printed with its own decimals, at least two. The exact price lies within half a unit of the last
    decimal, and the consideration within half a cent of units times the exact price.
    """
    del part
    price = scaled(pl.col("price"))
    last_place = (
        pl.when(price % 10 != 0)
        .then(1)
        .when(price % 100 != 0)
        .then(10)
        .when(price % 1000 != 0)
        .then(100)
        .when(price % 10_000 != 0)
        .then(1000)
        .otherwise(10_000)
    )
    units = scaled(pl.col("units")).abs()
    product = units * price.abs()  # 12 decimals, as everything below
    stated = scaled(pl.col("consideration")).abs() * 10**10
    allowed = (units * last_place.cast(pl.Int128) + 10**10) // 2
    rows = _trades(frames).filter((product - stated).abs() > allowed)
    detail = pl.format("consideration {} for {} units at {}", pl.col("consideration"), pl.col("units"), pl.col("price"))
    return _breaches(rows, _TRANSACTION, detail)


def settlement_date(part: Slice, frames: Frames) -> pl.DataFrame:
    """Return ASX contract notes that do not settle two business days after the trade.

    Reversals are skipped: they repeat the dates of the row that they reverse.
    """
    del part
    trades = _trades(frames).filter(pl.col("exchange") == ON_A_HIN, pl.col("reverses").is_null())
    dates = trades["transaction_date"].unique().to_list()
    checked = [day for day in dates if trading_days.FIRST_SUPPORTED <= day <= _LAST_CHECKED]
    due = pl.DataFrame(
        {"transaction_date": checked, "due": [trading_days.add_business_days(day, 2) for day in checked]},
        schema={"transaction_date": pl.Date(), "due": pl.Date()},
    )
    rows = trades.join(due, on="transaction_date").filter(pl.col("settlement_date") != pl.col("due"))
    detail = pl.format(
        "traded on {}, settles on {}; T+2 is {}", pl.col("transaction_date"), pl.col("settlement_date"), pl.col("due")
    )
    return _breaches(rows, _TRANSACTION, detail)


_LAST_CHECKED = trading_days.LAST_SUPPORTED - dt.timedelta(days=14)  # two business days later is still in the calendar


def _trades(frames: Frames) -> pl.DataFrame:
    return frames[MOVEMENT_TRANSACTIONS.name].filter(_LETTER == TRADE)
