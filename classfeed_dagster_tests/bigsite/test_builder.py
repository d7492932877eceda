"""The tests' own builder makes rows that obey bigsite's contract: otherwise every other test proves nothing."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import sqlalchemy as sa
from stdnum import isin
from stdnum.au import abn

from classfeed_dagster.bigsite import tables
from classfeed_dagster_tests.bigsite_builder import Bigsite


def _lived_in(engine: sa.Engine | None = None) -> Bigsite:
    bigsite = Bigsite(engine)
    bhp = bigsite.security("BHP", price={"2023-02-01": "45.10"})
    fund = bigsite.portfolio("SW100001").consent(history_from="2022-07-01")
    fund.deposit("10000.00", on="2023-01-10")
    fund.buy(bhp, 100, "45.105", on="2023-01-31", other_fees="1.00")
    sold = fund.sell(bhp, 40, "46.00", on="2023-02-01")
    fund.reverse(sold, "2023-02-02T01:00Z")
    fund.dividend(bhp, "70.00", on="2023-02-01", withholding_tax="7.00")
    fund.security_movement(bhp, "BONUS_ISSUE", "5.5", on="2023-02-01")
    return bigsite


def test_rows_are_accepted_by_the_real_tables_and_saved_again_in_place(bigsite_engine: sa.Engine) -> None:
    bigsite = _lived_in(bigsite_engine).end_of_day("2023-02-01").save()
    bigsite.portfolios[0].consents[0]["revoked_at"] = "2023-02-03T00:00Z"
    bigsite.save()
    with bigsite_engine.connect() as connection:
        counts = {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in bigsite.rows
        }
        revoked = connection.execute(sa.select(tables.data_sharing_consent.c.revoked_at)).scalar_one()
    assert counts == {table.name: len(rows) for table, rows in bigsite.rows.items()}
    assert revoked == dt.datetime(2023, 2, 3, tzinfo=dt.UTC)


def test_contract_notes_and_their_cash_agree() -> None:
    bigsite = _lived_in()
    buy, sell, undone = bigsite.rows[tables.trade]
    assert (buy["consideration"], buy["net_amount"], buy["gst"]) == tuple(map(Decimal, ("4510.50", "4521.00", "0.95")))
    assert buy["settlement_date"] == dt.date(2023, 2, 2)
    assert sell["net_amount"] == Decimal("1830.50")
    assert (undone["units"], undone["net_amount"], undone["reverses_trade_id"]) == (-40, -sell["net_amount"], sell.id)
    assert undone["confirmation_number"] == sell["confirmation_number"]
    legs = {row["trade_id"]: row for row in bigsite.rows[tables.cash_transaction] if row["trade_id"]}
    assert {number: leg["amount"] for number, leg in legs.items()} == {
        buy.id: Decimal("-4521.00"),
        sell.id: Decimal("1830.50"),
        undone.id: Decimal("-1830.50"),
    }
    assert legs[undone.id]["reverses_cash_transaction_id"] == legs[sell.id].id
    assert legs[undone.id]["recorded_at"] >= legs[sell.id]["recorded_at"]
    paid = bigsite.rows[tables.income][0]
    assert (paid["net_amount"], paid["franking_credit"]) == (Decimal("63.00"), Decimal("30.00"))
    assert [row["amount"] for row in bigsite.rows[tables.cash_transaction] if row["income_id"]] == [Decimal("63.00")]


def test_end_of_day_sums_what_was_recorded_and_is_rewritten_where_it_changes() -> None:
    bigsite = _lived_in()
    bigsite.end_of_day("2023-02-01")
    holding, balance = bigsite.rows[tables.holding_eod][0], bigsite.rows[tables.cash_balance_eod][0]
    assert holding["units"] == Decimal("65.5")  # the reversal is not recorded yet
    assert balance["ledger_balance"] == Decimal("10063.00")
    assert balance["available_balance"] == Decimal("10063.00") - Decimal("4521.00")
    before = balance["updated_at"]
    bigsite.end_of_day("2023-02-01", at="2023-02-02T14:00Z")
    assert (holding["units"], holding["updated_at"].isoformat()) == (Decimal("105.5"), "2023-02-02T14:00:00+00:00")
    assert balance["updated_at"] == before
    assert len(bigsite.rows[tables.holding_eod]) == 1


def test_a_holding_that_falls_to_zero_has_one_row_on_that_day() -> None:
    bigsite = Bigsite()
    bhp = bigsite.security("BHP")
    fund = bigsite.portfolio()
    fund.buy(bhp, 10, "1.00", on="2023-02-01")
    fund.sell(bhp, 10, "1.00", on="2023-02-02")
    for day in ("2023-02-01", "2023-02-02", "2023-02-03"):
        bigsite.end_of_day(day)
    found = [(str(row["as_at_date"]), row["units"]) for row in bigsite.rows[tables.holding_eod]]
    assert found == [("2023-02-01", 10), ("2023-02-02", 0)]


def test_identifiers_are_valid() -> None:
    bigsite = Bigsite()
    for number in range(30):
        assert isin.is_valid(bigsite.security(f"S{number}")["isin"])
        assert abn.is_valid(bigsite.portfolio().row["abn"])
