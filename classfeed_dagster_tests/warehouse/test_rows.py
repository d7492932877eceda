from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl

from classfeed_dagster.warehouse.rows import key_of, rows_of_page

DAY = dt.date(2025, 3, 12)


def rows(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return rows_of_page(
        frames, feed="f", recipient="CLASS", business_date=pl.lit(DAY), message_id="m", correlation_id="c"
    )


def test_document_of_trades_fills_trades_only() -> None:
    trades = pl.DataFrame(
        {
            "portfolio_number": ["SW1", "SW1"],
            "transaction_id": ["T1", "T2"],
            "recorded_at": [dt.datetime(2025, 3, 12, 1, tzinfo=dt.UTC)] * 2,
            "exchange": ["ASX", None],
            "security_code": ["BHP", None],
            "units": [Decimal(1), Decimal(2)],
        }
    )
    tables = rows({"movement_transactions": trades})
    assert tables.keys() == {"SEEN_SECURITY", "FACT_MOVEMENT"}
    assert tables["FACT_MOVEMENT"]["security_key"].to_list() == [key_of("ASX", "BHP"), None]
    assert tables["FACT_MOVEMENT"]["cash_account_key"].to_list() == [None, None]
    assert tables["SEEN_SECURITY"]["security_code"].to_list() == ["BHP"]


def test_empty_document_fills_no_table() -> None:
    tables = rows({})
    assert [frame.height for frame in tables.values()] == [0]


def test_keys_keep_their_parts_apart() -> None:
    assert key_of("a", "bc") != key_of("ab", "c")
    assert key_of("a", None) == key_of("a", "")
