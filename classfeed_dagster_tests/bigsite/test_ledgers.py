"""Landed ledger rows: windows to the microsecond, late rows, openings by audience, reversals, restatements."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import tables
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Row
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.reading_back import CLASS, DAY, END, FIRST, MICRO, START, Frames, take

HOUR = dt.timedelta(hours=1)
NEWLY = START + HOUR  # granted at this instant: NEW on DAY


@pytest.fixture
def bigsite(bigsite_engine: sa.Engine) -> Bigsite:
    return Bigsite(bigsite_engine)


@pytest.fixture
def bhp(bigsite: Bigsite) -> Row:
    return bigsite.security("BHP")


def _land(bigsite: Bigsite, store: ObjectStore, day: dt.date = DAY, *audiences: RecipientSchedule) -> Frames:
    assert bigsite.engine is not None
    bigsite.end_of_day(day).save()
    return take(bigsite.engine, store, day, audiences or (CLASS,))[1]


def _descriptions(landed: Frames) -> list[str]:
    return landed["cash_transaction"]["description"].to_list()


def test_delta_holds_rows_recorded_in_the_window_of_any_date(bigsite: Bigsite, local_store: ObjectStore) -> None:
    portfolio = bigsite.portfolio().consent()
    for description, at in {
        "just before": START - MICRO,
        "first": START,
        "last": END - MICRO,
        "just after": END,
    }.items():
        portfolio.deposit("1.00", on=DAY, recorded_at=at, description=description)
    portfolio.deposit("1.00", on="2021-03-01", recorded_at=START + HOUR, description="late")
    portfolio.deposit("1.00", on="2023-02-28", recorded_at=START + 2 * HOUR, description="ahead")
    assert _descriptions(_land(bigsite, local_store)) == ["first", "late", "ahead", "last"]


def test_full_extract_holds_everything_recorded_before_the_cut_off(bigsite: Bigsite, local_store: ObjectStore) -> None:
    new = bigsite.portfolio("NEW").consent(granted_at=NEWLY)
    known = bigsite.portfolio("KNOWN").consent()
    for portfolio in (new, known):
        for description, at in {"old": FIRST, "before": START - MICRO, "in": START, "after": END}.items():
            recorded = at if isinstance(at, dt.datetime) else trading_days.cutoff(at)
            portfolio.deposit("1.00", on=FIRST, recorded_at=recorded, description=f"{portfolio.number} {description}")
    assert _descriptions(_land(bigsite, local_store)) == ["KNOWN in", "NEW old", "NEW before", "NEW in"]


def test_ledgers_on_the_first_business_date_are_full_for_everyone(bigsite: Bigsite, local_store: ObjectStore) -> None:
    portfolio = bigsite.portfolio().consent()
    portfolio.deposit("1.00", on="2021-03-01", description="old")
    portfolio.deposit("1.00", on=FIRST, description="new")
    assert _descriptions(_land(bigsite, local_store, FIRST)) == ["old", "new"]


def test_ledger_rows_are_ordered_by_the_ledgers_own_date(bigsite: Bigsite, bhp: Row, local_store: ObjectStore) -> None:
    portfolio = bigsite.portfolio().consent(history_from="2023-01-20")
    # Dates before history_from on every ledger: no such row is sent itself.
    portfolio.buy(bhp, 10, "2.00", on="2023-01-19", recorded_at=START + HOUR, settlement_date="2023-01-19")
    portfolio.security_movement(bhp, "BONUS_ISSUE", "1.5", on="2023-01-19", recorded_at=START + HOUR)
    portfolio.dividend(bhp, "7.00", on="2023-01-19", recorded_at=START + HOUR, ex_date="2023-01-20")
    # On exactly that date: these rows are sent.
    second = portfolio.buy(bhp, 20, "2.00", on="2023-01-20", recorded_at=START + 3 * HOUR)
    first = portfolio.buy(bhp, 30, "2.00", on="2023-01-20", recorded_at=START + 2 * HOUR)
    tied = portfolio.buy(bhp, 40, "2.00", on="2023-01-20", recorded_at=START + 3 * HOUR)
    moved = portfolio.security_movement(bhp, "BONUS_ISSUE", "2.5", on="2023-01-20", recorded_at=START + HOUR)
    paid = portfolio.dividend(bhp, "9.00", on="2023-01-20", recorded_at=START + HOUR, ex_date="2023-01-02")
    landed = _land(bigsite, local_store)
    assert landed["trade"]["trade_id"].to_list() == [first.id, second.id, tied.id]
    assert landed["security_movement"]["security_movement_id"].to_list() == [moved.id]
    assert landed["income"]["income_id"].to_list() == [paid.id]
    units = landed["opening_units"].row(0, named=True)
    assert (units["units"], units["recorded_at"], units["audience"]) == (Decimal("11.5"), START + HOUR, CLASS.key)
    cash = landed["opening_cash"].row(0, named=True)
    assert (cash["amount"], cash["recorded_at"]) == (Decimal("-29.50") + Decimal("7.00"), START + HOUR)


def test_opening_sums_everything_in_full_and_the_window_in_delta(
    bigsite: Bigsite, bhp: Row, local_store: ObjectStore
) -> None:
    new = bigsite.portfolio("A-NEW").consent(granted_at=NEWLY, history_from="2023-01-20")
    known = bigsite.portfolio("B-KNOWN").consent(history_from="2023-01-20")
    for portfolio in (new, known):
        portfolio.security_movement(bhp, "TRANSFER_IN", 100, on="2022-03-01")
        portfolio.buy(bhp, 10, "1.00", on="2022-03-01", settles=False)
        portfolio.sell(bhp, 3, "1.00", on="2022-03-02", recorded_at=START, settles=False)
        portfolio.sell(bhp, 50, "1.00", on="2022-03-02", recorded_at=END, settles=False)  # of the next window
        portfolio.deposit("5.00", on="2022-03-01", recorded_at=END - MICRO)
    openings = _land(bigsite, local_store)["opening_units"].select("portfolio_id", "units", "recorded_at").rows()
    assert openings == [(new.id, Decimal(107), START), (known.id, Decimal(-3), START)]
    cash = _land(bigsite, local_store)["opening_cash"].select("portfolio_id", "amount", "recorded_at").rows()
    assert cash == [(new.id, Decimal("5.00"), END - MICRO), (known.id, Decimal("5.00"), END - MICRO)]


def test_opening_of_zero_is_left_out(bigsite: Bigsite, bhp: Row, local_store: ObjectStore) -> None:
    portfolio = bigsite.portfolio().consent(history_from="2023-01-20")
    bought = portfolio.buy(bhp, 10, "1.00", on="2022-03-01", recorded_at=START)
    portfolio.reverse(bought, START + HOUR)
    landed = _land(bigsite, local_store)
    assert (landed["opening_units"].height, landed["opening_cash"].height) == (0, 0)


def test_audiences_have_their_own_openings_and_share_rows(bigsite: Bigsite, bhp: Row, local_store: ObjectStore) -> None:
    friday, monday = dt.date(2023, 2, 3), dt.date(2023, 1, 30)
    weekly = RecipientSchedule("CLASS", FIRST, Cadence.WEEKLY)
    bgl = RecipientSchedule("BGL", FIRST)
    portfolio = bigsite.portfolio().consent(history_from="2023-01-20")
    portfolio.consent(recipient="BGL", history_from="2023-01-31", granted_at=trading_days.cutoff(DAY) + HOUR)
    for day in (monday, dt.date(2023, 2, 2), friday):
        at = trading_days.cutoff(day) - HOUR
        portfolio.security_movement(bhp, "BONUS_ISSUE", 1, on="2022-03-01", recorded_at=at)
        portfolio.security_movement(bhp, "BONUS_ISSUE", 10, on="2023-01-25", recorded_at=at)
        portfolio.security_movement(bhp, "BONUS_ISSUE", 100, on="2023-01-31", recorded_at=at)
    landed = _land(bigsite, local_store, friday, CLASS, weekly, bgl)
    assert dict(landed["opening_units"].select("audience", "units").rows()) == {
        CLASS.key: Decimal(1),  # Friday's
        weekly.key: Decimal(3),  # the week's
        bgl.key: Decimal(11),  # Friday's, by BGL's later history: not new, as it was granted a day before
    }
    # The widest window and the earliest history of all audiences: each filters again.
    assert landed["security_movement"]["units_change"].sum() == Decimal(330)
    alone = _land(bigsite, local_store, friday, CLASS)
    assert alone["security_movement"]["units_change"].sum() == Decimal(110)


def test_full_extract_of_one_audience_overrides_delta_of_another(
    bigsite: Bigsite, bhp: Row, local_store: ObjectStore
) -> None:
    bgl = RecipientSchedule("BGL", FIRST)
    portfolio = bigsite.portfolio().consent()
    portfolio.consent(recipient="BGL", granted_at=NEWLY, history_from="2023-01-20")
    portfolio.security_movement(bhp, "BONUS_ISSUE", 1, on="2022-03-01")
    portfolio.security_movement(bhp, "BONUS_ISSUE", 10, on="2023-01-25")
    landed = _land(bigsite, local_store, DAY, CLASS, bgl)
    assert landed["security_movement"]["units_change"].to_list() == [Decimal(1), Decimal(10)]
    assert landed["opening_units"].select("audience", "units").rows() == [(bgl.key, Decimal(1))]
    only = _land(bigsite, local_store, DAY, bgl)
    assert only["security_movement"]["units_change"].to_list() == [Decimal(10)]


def test_reversal_lands_with_its_original_and_owner(bigsite: Bigsite, bhp: Row, local_store: ObjectStore) -> None:
    mine, other = bigsite.portfolio().consent(), bigsite.portfolio().consent()
    bought = mine.buy(bhp, 10, "1.00", on="2023-01-12")
    mine.reverse(bought, START + HOUR)
    paid = other.dividend(bhp, "7.00", on="2023-01-12")
    mine.dividend(bhp, "-7.00", on="2023-01-12", recorded_at=START + HOUR, reverses_income_id=paid.id)
    landed = _land(bigsite, local_store)
    trade = landed["trade"].row(0, named=True)
    assert (trade["units"], trade["net_amount"]) == (Decimal(-10), Decimal("-19.50"))
    assert (trade["reverses_trade_id"], trade["reversed_portfolio_id"]) == (bought.id, mine.id)
    income = landed["income"].row(0, named=True)
    assert (income["portfolio_id"], income["reversed_portfolio_id"]) == (mine.id, other.id)  # left to a rule
    leg = landed["cash_transaction"].filter(pl.col("trade_id").is_not_null()).row(0, named=True)
    assert (leg["amount"], leg["reversed_portfolio_id"]) == (Decimal("19.50"), mine.id)
    unrelated = landed["cash_transaction"].filter(pl.col("reverses_cash_transaction_id").is_null())
    assert unrelated["reversed_portfolio_id"].is_null().all()


def test_duplicate_confirmation_is_reported_until_one_is_reversed(
    bigsite: Bigsite, bhp: Row, local_store: ObjectStore
) -> None:
    portfolio = bigsite.portfolio().consent()
    portfolio.buy(bhp, 10, "1.00", on="2023-01-12", confirmation_number="TWICE")
    again = portfolio.buy(bhp, 10, "1.00", on=DAY, confirmation_number="TWICE", recorded_at=START)
    portfolio.buy(bhp, 20, "1.00", on=DAY, confirmation_number="TWICE")  # another fill of it
    portfolio.sell(bhp, 10, "1.00", on=DAY, confirmation_number="TWICE")
    portfolio.buy(bhp, 10, "1.00", on=DAY, confirmation_number="TWICE", recorded_at=END)  # of the next window
    result = _land(bigsite, local_store)["repeated_confirmation"]
    assert result.rows() == [(portfolio.id, "TWICE", "BUY", bhp.id, Decimal(10), 2)]
    portfolio.reverse(again, END + HOUR)
    assert _land(bigsite, local_store)["repeated_confirmation"].height == 0


def test_unsettled_units_are_trades_not_settled_at_the_date(
    bigsite: Bigsite, bhp: Row, local_store: ObjectStore
) -> None:
    portfolio = bigsite.portfolio().consent()
    portfolio.buy(bhp, 1, "1.00", on="2023-01-30")  # settles on DAY itself
    portfolio.buy(bhp, 20, "1.00", on="2023-01-31")
    portfolio.sell(bhp, 3, "1.00", on=DAY)
    portfolio.buy(bhp, 400, "1.00", on=DAY, recorded_at=END + 2 * HOUR)  # after the end of day ran
    portfolio.security_movement(bhp, "BONUS_ISSUE", 5000, on=DAY)
    row = _land(bigsite, local_store)["holding_eod"].row(0, named=True)
    assert (row["units"], row["ledger_units"], row["unsettled_units"]) == (Decimal(5018), Decimal(5018), Decimal(17))


def test_restated_end_of_day_shows_in_a_fresh_snapshot_only(
    bigsite: Bigsite, bhp: Row, local_store: ObjectStore
) -> None:
    assert bigsite.engine is not None
    portfolio = bigsite.portfolio().consent()
    portfolio.buy(bhp, 10, "1.00", on="2023-01-12")
    before = _land(bigsite, local_store)
    portfolio.buy(bhp, 5, "1.00", on=DAY, recorded_at="2023-02-02T03:00Z")  # backdated: of the next window
    bigsite.end_of_day(DAY, at="2023-02-02T14:00Z").save()
    after = take(bigsite.engine, local_store)[1]

    def held(landed: Frames) -> tuple[Decimal, Decimal]:
        row = landed["holding_eod"].row(0, named=True)
        return row["units"], row["ledger_units"]

    assert (held(before), held(after)) == ((Decimal(10), Decimal(10)), (Decimal(15), Decimal(15)))
    assert before["trade"].equals(after["trade"])  # the row is sent in its own window
    bigsite.rows[tables.holding_eod][0]["units"] = "16"  # and a wrong restatement shows
    bigsite.save()
    assert held(take(bigsite.engine, local_store)[1]) == (Decimal(16), Decimal(15))


def test_codes_and_prices_land_for_referenced_securities_only(bigsite: Bigsite, local_store: ObjectStore) -> None:
    prices = {"2023-01-25": "4.10", "2023-01-27": "4.20", "2023-02-02": "9.90"}
    holding = bigsite.security("OLD", price=prices)
    opened = bigsite.security("OPN")
    paid, unknown = bigsite.security("PAY", price={"2023-02-02": "1.00"}), bigsite.security("UNK", price=prices)
    bigsite.code_change(holding, "2023-01-20", "MID")
    bigsite.code_change(holding, "2023-02-02", "NEW")
    bigsite.code_change(unknown, "2023-01-20", "UNX")
    portfolio = bigsite.portfolio().consent(history_from="2023-01-20")
    portfolio.buy(holding, 10, "4.00", on="2023-01-25")
    portfolio.security_movement(opened, "TRANSFER_IN", 1, on="2022-01-25", recorded_at=START)
    portfolio.security_movement(opened, "TRANSFER_OUT", -1, on="2023-01-25")
    portfolio.dividend(paid, "1.00", on=DAY)
    landed = _land(bigsite, local_store)
    assert landed["security"]["code"].to_list() == ["NEW", "OPN", "PAY"]
    changes = landed["security_code_change"].select("security_id", "effective_on", "old_code", "old_name").rows()
    assert changes == [
        (holding.id, dt.date(2023, 1, 20), "OLD", "OLD LIMITED"),
        (holding.id, dt.date(2023, 2, 2), "MID", "MID LIMITED"),
    ]
    assert landed["security_price"].rows() == [(holding.id, dt.date(2023, 1, 27), Decimal("4.200000"))]


DAYS = [dt.date(2023, 1, 25), dt.date(2023, 1, 27), dt.date(2023, 1, 30)]  # Australia Day and a weekend between
_edges = [trading_days.cutoff(day) for day in (dt.date(2023, 1, 24), *DAYS)]
_recorded = st.builds(
    lambda edge, off: edge + off,
    st.sampled_from(_edges),
    st.sampled_from([-HOUR, -MICRO, dt.timedelta(0), MICRO, HOUR]),
)
_dated = st.sampled_from([dt.date(2022, 12, 30), dt.date(2023, 1, 9), dt.date(2023, 1, 10), dt.date(2023, 1, 27)])
_moves = st.lists(st.tuples(_dated, _recorded, st.integers(1, 500)), max_size=12)


@examples(8)
@given(moves=_moves, bounded=st.booleans())
def test_landed_windows_of_consecutive_dates_tile_the_ledger(
    bigsite_engine: sa.Engine, local_store: ObjectStore, moves: list[tuple[dt.date, dt.datetime, int]], bounded: bool
) -> None:
    with bigsite_engine.begin() as connection:
        connection.execute(sa.text(f"TRUNCATE {', '.join(map(str, tables.metadata.sorted_tables))}"))
    bigsite = Bigsite(bigsite_engine)
    bhp = bigsite.security("BHP")
    # NEW on the first of the dates: FULL, then DELTA after DELTA.
    granted, history = trading_days.cutoff(DAYS[0]) - HOUR, dt.date(2023, 1, 10)
    portfolio = bigsite.portfolio().consent(granted_at=granted, history_from=history if bounded else None)
    portfolio.cash_account()
    for on, recorded_at, units in moves:
        portfolio.security_movement(bhp, "BONUS_ISSUE", units, on=on, recorded_at=recorded_at)
    for day in DAYS:
        bigsite.end_of_day(day)
    bigsite.save()
    sent: list[int] = []
    opened = Decimal(0)
    for day in DAYS:
        landed = take(bigsite_engine, local_store, day)[1]
        sent += landed["security_movement"]["security_movement_id"].to_list()
        opened = sum(landed["opening_units"]["units"].to_list(), opened)
    recorded = [row for row in portfolio.ledger[tables.security_movement] if row["recorded_at"] < _edges[-1]]
    before = [row for row in recorded if bounded and row["effective_date"] < history]
    assert sorted(sent) == [row.id for row in recorded if row not in before]
    assert opened == sum((row["units_change"] for row in before), Decimal(0))
