"""bigsite's end of day absent, partial or still running: nothing is landed."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.readiness import EndOfDay, SourceNotReadyError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Row
from classfeed_dagster_tests.fixtures.reading_back import DAY, END, take

LATER = "2023-02-02T01:00Z"  # after the cut-off of DAY


@pytest.fixture
def bigsite(bigsite_engine: sa.Engine) -> Bigsite:
    """Add four customers with a holding each, without an end of day."""
    bigsite = Bigsite(bigsite_engine)
    bhp = bigsite.security("BHP")
    for _ in range(4):
        portfolio = bigsite.portfolio().consent()
        portfolio.buy(bhp, 100, "45.10", on="2023-01-12")
    return bigsite


def _not_ready(bigsite: Bigsite, store: ObjectStore, limit: str = "0.01") -> SourceNotReadyError:
    assert bigsite.engine is not None
    bigsite.save()
    with pytest.raises(SourceNotReadyError, match="Nothing was landed") as caught:
        take(bigsite.engine, store, max_missing_share=Decimal(limit))
    assert list(store.list("")) == []
    assert caught.value.business_date == DAY
    return caught.value


def test_readiness_without_an_end_of_day_is_refused(bigsite: Bigsite, local_store: ObjectStore) -> None:
    bigsite.end_of_day("2023-01-31")
    error = _not_ready(bigsite, local_store)
    assert error.counts == {"holding_rows": 0, "balance_rows": 0}
    assert "2023-02-01: its end of day has not been written" in str(error)


def test_readiness_of_holdings_without_balances_is_refused(bigsite: Bigsite, local_store: ObjectStore) -> None:
    bigsite.end_of_day(DAY, balances=False)
    error = _not_ready(bigsite, local_store, "1")
    assert "no cash balances" in str(error)
    assert (error.counts["holding_rows"], error.counts["balance_rows_missing"]) == (4, 4)


def test_readiness_of_balances_without_holdings_is_refused(bigsite: Bigsite, local_store: ObjectStore) -> None:
    bigsite.end_of_day(DAY, holdings=False)
    error = _not_ready(bigsite, local_store, "1")
    assert "no holdings" in str(error)
    assert (error.counts["balance_rows"], error.counts["holding_rows_missing"]) == (4, 4)


def test_readiness_of_a_partial_end_of_day_is_refused(bigsite: Bigsite, local_store: ObjectStore) -> None:
    bigsite.end_of_day(DAY, leave_out=[bigsite.portfolios[2].row])
    error = _not_ready(bigsite, local_store, "0.24")
    assert "incomplete" in str(error)
    assert error.counts == {
        "portfolios": 4,
        "portfolios_incomplete": 1,
        "holding_rows": 3,
        "holding_rows_missing": 1,
        "balance_rows": 3,
        "balance_rows_missing": 1,
    }


def test_readiness_with_few_missing_portfolios_lands_them_for_holding_back(
    bigsite: Bigsite, local_store: ObjectStore
) -> None:
    assert bigsite.engine is not None
    left_out = bigsite.portfolios[2]
    bigsite.end_of_day(DAY, leave_out=[left_out.row]).save()
    _, landed = take(bigsite.engine, local_store, max_missing_share=Decimal("0.25"))
    holdings = landed["holding_eod"].rows_by_key("portfolio_id", named=True, unique=True)
    balances = landed["cash_balance_eod"].rows_by_key("portfolio_id", named=True, unique=True)
    assert holdings[left_out.id] == {
        "security_id": 1,
        "units": None,
        "cost_base": None,
        "updated_at": None,
        "ledger_units": Decimal("100.000000"),
        "unsettled_units": Decimal(0),
        "later_units": Decimal(0),
    }
    assert balances[left_out.id]["ledger_balance"] is None
    assert balances[left_out.id]["open_on_date"] is True
    assert balances[left_out.id]["ledger_cash"] == Decimal("-4519.50")
    assert holdings[1]["units"] == holdings[1]["ledger_units"] == Decimal(100)


def test_readiness_before_the_cutoff_is_refused(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    bigsite.end_of_day(DAY).save()
    with pytest.raises(SourceNotReadyError, match="not over yet in Sydney"):
        take(bigsite_engine, local_store, snapshot_at=END - dt.timedelta(microseconds=1))
    assert list(local_store.list("")) == []
    snapshot, _ = take(bigsite_engine, local_store, snapshot_at=END)
    assert snapshot.snapshot_at == END


def test_missing_rows_of_unconsented_portfolios_are_ignored(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    stranger = bigsite.portfolio()
    stranger.buy(bigsite.rows[tables.security][0], 5, "1.00", on=DAY)
    bigsite.end_of_day(DAY, leave_out=[stranger.row]).save()
    snapshot, _ = take(bigsite_engine, local_store)
    assert snapshot.slices[0].portfolios == 4


def test_optional_end_of_day_rows_are_not_missing(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    first = bigsite.portfolios[0]
    sold, undone, late = (bigsite.security(code) for code in ("SOLD", "UNDONE", "LATE"))
    first.buy(sold, 10, "1.00", on="2023-01-12")
    first.sell(sold, 10, "1.00", on="2023-01-20")  # its row with zero units is that of 20 January
    wrong = first.buy(undone, 10, "1.00", on="2023-01-31", settles=False)
    first.reverse(wrong, LATER)  # the rewritten end of day has no row for it, rightly
    first.buy(late, 10, "1.00", on="2023-01-31", recorded_at=LATER)  # recorded after the end of day ran
    first.cash_account(opened_on="2023-02-02")
    first.cash_account(opened_on="2022-01-01", closed_on=DAY)
    bigsite.end_of_day(DAY)
    rows = bigsite.rows[tables.holding_eod]
    rows[:] = [row for row in rows if row["security_id"] != undone.id]
    bigsite.save()
    _, landed = take(bigsite_engine, local_store)
    holdings = landed["holding_eod"]
    without_row = holdings.filter(pl.col("units").is_null())
    assert set(holdings["security_id"]) == {1, undone.id}
    assert without_row.select("security_id", "ledger_units", "later_units").rows() == [(undone.id, 10, -10)]
    accounts = landed["cash_balance_eod"].filter(portfolio_id=first.id)
    assert accounts["cash_account_id"].to_list() == [1, 6]
    assert accounts["open_on_date"].to_list() == [True, False]
    assert accounts["updated_at"].is_null().to_list() == [False, True]


def test_account_opened_after_the_date_with_money_before_it_is_shown(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    first = bigsite.portfolios[0]
    early: Row = first.cash_account(opened_on="2023-02-02")
    first.deposit("5.00", on=DAY, account=early)
    bigsite.end_of_day(DAY).save()
    _, landed = take(bigsite_engine, local_store)
    row = landed["cash_balance_eod"].filter(cash_account_id=early.id).row(0, named=True)
    assert (row["opened_by_date"], row["open_on_date"], row["ledger_cash"]) == (False, False, Decimal("5.00"))


def test_error_amid_a_table_ends_the_snapshot_of_one_session(
    bigsite: Bigsite, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: EndOfDay, table: str, batch: object) -> None:
        if table == "holding_eod":
            raise OSError("no space left on device")

    assert bigsite.engine is not None
    bigsite.end_of_day(DAY).save()
    monkeypatch.setattr(EndOfDay, "watch", full)
    with pytest.raises(OSError, match="no space left"):
        take(bigsite.engine, local_store)
