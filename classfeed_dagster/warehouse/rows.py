"""Rows of the star schema from a delivered page's frames: durable keys, versions of dimension members, facts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import polars as pl

from classfeed_dagster.domains import columns

_NUMBER = "portfolio_number"
_SECURITY = ("exchange", "isin", "security_code")
_DESCRIBED = ("security_name", "security_type", "currency")  # attributes that only a security's holdings have

# Declarations of the load, also read by lineage (columns.py).
KEYS: Mapping[str, tuple[str, ...]] = {
    "portfolio_key": (_NUMBER,),
    "cash_account_key": (_NUMBER, "currency", "account_number"),
    "security_key": _SECURITY,
}
"""Durable keys, each with the columns of a frame that it is built from."""

FRAMES: Mapping[str, tuple[str, ...]] = {
    "SEEN_PORTFOLIO": ("accounts",),
    "SEEN_CASH_ACCOUNT": ("cash_accounts",),
    "SEEN_SECURITY": ("investment_holdings", "movement_transactions"),
    "FACT_CASH_BALANCE_DAILY": ("account_balances",),
    "FACT_HOLDING_DAILY": ("investment_holdings",),
    "FACT_MOVEMENT": ("movement_transactions",),
}
"""Frames of the document that fill each table."""

RENAMED: Mapping[tuple[str, str], str] = {
    ("SEEN_PORTFOLIO", "is_shared"): "consent",
    ("SEEN_CASH_ACCOUNT", "cash_account_number"): "account_number",
}
"""Columns of a table with another name in their frame."""

ROWS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("FACT_MOVEMENT", "cash_account_key"): ("cash_transaction", "opening_cash"),
}
"""Columns that only the rows of some landed ledgers fill: only a cash movement names an account."""

DECLARED = {
    frame.name: frame
    for frame in (
        columns.ACCOUNTS,
        columns.CASH_ACCOUNTS,
        columns.ACCOUNT_BALANCES,
        columns.INVESTMENT_HOLDINGS,
        columns.MOVEMENT_TRANSACTIONS,
    )
}
"""The document's frames, by name."""

_LEFT_OUT = {
    "FACT_HOLDING_DAILY": ("hin", "isin", "security_name", "security_type", "as_at_date"),
    "FACT_MOVEMENT": ("exchange", "security_code", "isin", "bsb", "account_number"),
}


def frame_columns(table: str, column: str) -> tuple[tuple[str, str], ...]:
    """Return the frames' columns that ``column`` of ``table`` is built from; none if it comes from the manifest."""
    made_of: list[tuple[str, str]] = []
    for frame in FRAMES.get(table, ()):
        if table == "SEEN_SECURITY" and column in _DESCRIBED and frame != "investment_holdings":
            continue
        names = KEYS.get(column) or (RENAMED.get((table, column), column),)
        made_of += [(frame, name) for name in names if name in _columns(frame)]
    return tuple(made_of)


def _columns(frame: str) -> frozenset[str]:
    return frozenset(column.name for column in DECLARED[frame].columns)


def key_of(*parts: str | None) -> str:
    """Return a durable key: the MD5 of a natural key."""
    return hashlib.md5("\x1f".join(part or "" for part in parts).encode(), usedforsecurity=False).hexdigest()


def rows_of_page(
    frames: Mapping[str, pl.DataFrame],
    *,
    feed: str,
    recipient: str,
    business_date: pl.Expr,
    message_id: str,
    correlation_id: str,
) -> dict[str, pl.DataFrame]:
    """Return a page's rows by table, in the warehouse's columns, except FACT_DELIVERY's and the dates'.

    A frame missing in the document gives none.
    """
    common = [pl.lit(feed).alias("feed"), business_date.alias("business_date")]
    origin = [pl.lit(message_id).alias("message_id"), pl.lit(correlation_id).alias("correlation_id")]
    tables: dict[str, pl.DataFrame] = {}
    if "accounts" in frames:
        tables["SEEN_PORTFOLIO"] = _portfolios(frames["accounts"], recipient).with_columns(common)
    if "cash_accounts" in frames:
        tables["SEEN_CASH_ACCOUNT"] = _cash_accounts(frames["cash_accounts"], recipient).with_columns(common)
    tables["SEEN_SECURITY"] = _securities(frames).with_columns(common)
    if "account_balances" in frames:
        balances = _with_portfolio_key(_with_account_key(frames["account_balances"], recipient), recipient)
        names = (_NUMBER, "portfolio_key", "cash_account_key", "currency", "ledger_balance", "available_balance")
        tables["FACT_CASH_BALANCE_DAILY"] = balances.select(*names, *common, *origin)
    if "investment_holdings" in frames:
        holdings = _with_portfolio_key(_with_security_key(frames["investment_holdings"]), recipient)
        left_out = _LEFT_OUT["FACT_HOLDING_DAILY"]
        tables["FACT_HOLDING_DAILY"] = holdings.drop(left_out, strict=False).with_columns(*common, *origin)
    if "movement_transactions" in frames:
        movements = _with_account_key(_with_security_key(frames["movement_transactions"]), recipient)
        tables["FACT_MOVEMENT"] = (
            _with_portfolio_key(movements, recipient)
            .drop(_LEFT_OUT["FACT_MOVEMENT"], strict=False)
            .with_columns(pl.col("recorded_at").dt.replace_time_zone(None), *common, *origin)
        )
    return tables


def _keyed(frame: pl.DataFrame, columns: Sequence[str], name: str, *prefix: str) -> pl.DataFrame:
    """Add a durable key of some columns to ``frame``; null for rows whose last column is null."""
    distinct = frame.select(columns).unique().filter(pl.col(columns[-1]).is_not_null())
    keys = [key_of(*prefix, *row) for row in distinct.iter_rows()]
    keyed = distinct.with_columns(pl.Series(name, keys, dtype=pl.String))
    return frame.join(keyed, on=columns, how="left", nulls_equal=True)


def _with_portfolio_key(frame: pl.DataFrame, recipient: str) -> pl.DataFrame:
    return _keyed(frame, KEYS["portfolio_key"], "portfolio_key", recipient)


def _with_account_key(frame: pl.DataFrame, recipient: str) -> pl.DataFrame:
    if "account_number" not in frame.columns:
        return frame.with_columns(cash_account_key=pl.lit(None, pl.String))
    return _keyed(frame, KEYS["cash_account_key"], "cash_account_key", recipient)


def _with_security_key(frame: pl.DataFrame) -> pl.DataFrame:
    # The ISIN survives a change of code. Without an ISIN the code is used.
    code = "security_code"
    if not set(_SECURITY) <= set(frame.columns):
        missing = {name: pl.lit(None, pl.String) for name in _SECURITY if name not in frame.columns}
        frame = frame.with_columns(**missing)
    frame = frame.with_columns(_lasting=pl.coalesce("isin", code))
    return _keyed(frame, ["exchange", "_lasting"], "security_key").drop("_lasting")


def _versioned(frame: pl.DataFrame, attributes: Sequence[str]) -> pl.DataFrame:
    versions = [
        key_of(*(None if value is None else str(value) for value in row))
        for row in frame.select(attributes).iter_rows()
    ]
    return frame.with_columns(pl.Series("version", versions, dtype=pl.String))


def _portfolios(frame: pl.DataFrame, recipient: str) -> pl.DataFrame:
    portfolios = _with_portfolio_key(frame, recipient).with_columns(
        recipient=pl.lit(recipient), is_shared=pl.col(RENAMED["SEEN_PORTFOLIO", "is_shared"]) != "REMOVED"
    )
    attributes = [
        name for name in portfolios.columns if name not in (_NUMBER, "consent", "extract", "portfolio_key", "recipient")
    ]
    return _versioned(portfolios, attributes).drop("consent", "extract")


def _cash_accounts(frame: pl.DataFrame, recipient: str) -> pl.DataFrame:
    accounts = _with_portfolio_key(_with_account_key(frame, recipient), recipient).with_columns(
        recipient=pl.lit(recipient)
    )
    versioned = _versioned(accounts, ("bsb", "account_name", "status", "opened_on", "closed_on"))
    return versioned.rename({RENAMED["SEEN_CASH_ACCOUNT", "cash_account_number"]: "cash_account_number"})


def _securities(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return one row for each security of the page: from its holdings, else from its movements (without a name)."""
    parts = [
        _with_security_key(frame)
        .with_columns(
            **{name: pl.lit(None, pl.String) for name in _DESCRIBED if name not in frame.columns or not holds}
        )
        .select("security_key", *_SECURITY, *_DESCRIBED)
        for name, holds in (("investment_holdings", True), ("movement_transactions", False))
        if (frame := frames.get(name)) is not None
    ]
    if not parts:
        return pl.DataFrame(schema=dict.fromkeys(("security_key", *_SECURITY, *_DESCRIBED, "version"), pl.String))
    both = pl.concat(parts).filter(pl.col("security_key").is_not_null())
    securities = both.sort("security_name", "security_code", nulls_last=True).unique(
        "security_key", keep="first", maintain_order=True
    )
    return _versioned(securities, (*_SECURITY, *_DESCRIBED))
