"""trade_list: the contract notes of each portfolio, as one plain CSV file a portfolio for retail importers."""

from __future__ import annotations

import datetime as dt

import polars as pl

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.csv_mapping import ColumnType, CsvColumn, CsvLayout
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.reconciliation.document_layouts import headed_csv

# Heading in the file, field of the movement, form.
_COLUMNS = (
    ("Reference", "transaction_id", ColumnType.TEXT),
    ("Portfolio", "portfolio_number", ColumnType.TEXT),
    ("Trade Date", "transaction_date", ColumnType.DATE),
    ("Market", "exchange", ColumnType.TEXT),
    ("Code", "security_code", ColumnType.TEXT),
    ("Transaction Type", "transaction_type", ColumnType.TEXT),
    ("Quantity", "units", ColumnType.DECIMAL6),
    ("Price", "price", ColumnType.DECIMAL6),
    ("Brokerage", "brokerage", ColumnType.MONEY),
    ("GST", "gst", ColumnType.MONEY),
    ("Net Amount", "net_amount", ColumnType.MONEY),
    ("Currency", "currency", ColumnType.TEXT),
    ("Recorded At", "recorded_at", ColumnType.INSTANT),
)
LAYOUT = CsvLayout(
    name="trade_list",
    ledgers=frozenset("T"),
    domains=("account_details", "movement_transactions"),
    rows=pl.col("transaction_id").str.starts_with("T"),
    details=tuple(CsvColumn(name, form, pl.col(name), required=True, heading=text) for text, name, form in _COLUMNS),
    back={},
    key="transaction_id",
    reverses="",
    summed="net_amount",
    business_date="transaction_date",
    framed=False,
    per_portfolio=True,
)
FEED = Feed(
    name="trade_list",
    title="Trade list: the contract notes of each portfolio",
    recipient="TRADELIST",
    format=CsvFormat(LAYOUT),
    owners=("team:data-feeds",),
    mode=FeedMode.SHADOW,
    first_business_date=dt.date(2026, 3, 2),
    layout=headed_csv("trade_list", {text: name for text, name, _ in _COLUMNS}, ledgers="T"),
)
