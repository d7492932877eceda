"""Every feed is reconciled, loaded and traced, whatever its format, mode and switches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest

from classfeed_dagster.alerting.incidents import open_incidents
from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.feed_mode import shadow_key
from classfeed_dagster.feed_run.post_delivery import PostDelivery, ReconciliationSummary
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed, require_reconcilable
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.reconciliation.document_layouts import UnknownLayoutError
from classfeed_dagster.reconciliation.epi_document import UnreadableDeliveryError
from classfeed_dagster.tracing.trace import trace
from classfeed_dagster.warehouse.breaks import stored_breaks
from classfeed_dagster.warehouse.connection import WarehouseNotConfiguredError, open_warehouse
from classfeed_dagster.warehouse.database import query
from classfeed_dagster.warehouse.records import BreakCause, BreakKind
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_warehouse")]

MONDAY = dt.date(2026, 3, 2)
TRADE, CASH = "class_trade", "class_cash"
DeskInShadow = Callable[[str], Desk]


def trade(desk: Desk) -> None:
    """Create two customers with trades, cash, income and reinvested units, before the first date and on it."""
    bhp = desk.bigsite.security("BHP", price={"2026-02-27": "45.10"})
    for number in ("SW00000001", "SW00000002"):
        portfolio = desk.bigsite.portfolio(number)
        portfolio.consent(granted_at="2026-02-20T00:00:00Z", history_from=dt.date(2026, 2, 24))
        portfolio.deposit("10000.00", "2026-02-23")
        portfolio.buy(bhp, "100", "45.00", "2026-02-24")
        portfolio.sell(bhp, "10", "46.00", MONDAY.isoformat())
        portfolio.security_movement(bhp, "DRP", "0.123456", "2026-02-25")
        portfolio.dividend(bhp, "12.00", MONDAY.isoformat())
    desk.end_of_day(MONDAY.isoformat())


def deliver_trades(desk: Desk) -> None:
    trade(desk)
    report = desk.run(MONDAY.isoformat(), feed=TRADE)
    assert (report.outcome, report.facts["mode"]) == (Outcome.DELIVERED, "shadow")


def deliver_cash(desk: Desk) -> None:
    trade(desk)
    report = desk.run(MONDAY.isoformat(), feed=CASH)
    assert (report.outcome, report.facts["mode"]) == (Outcome.DELIVERED, "shadow")


IN_SHADOW = {TRADE: deliver_trades, CASH: deliver_cash}


@pytest.fixture
def market(desk: Desk) -> Desk:
    """Return a desk with the two customers before any delivery."""
    trade(desk)
    return desk


@pytest.fixture
def desk_in_shadow(desk_after: DeskAfter) -> DeskInShadow:
    """Return a function that opens a copy of the desk after a feed's delivery in shadow."""
    return lambda feed: desk_after(IN_SHADOW[feed])


def after_delivery(desk: Desk, feed: str, attempt: str = "a1") -> PostDelivery:
    declared = next(item for item in FEEDS if item.name == feed)
    audience = declared.audience(desk.runtime.settings.first_business_date)
    return PostDelivery(desk.runtime, declared, audience, MONDAY, attempt, morning_after(MONDAY))


@pytest.mark.parametrize("feed", [TRADE, CASH])
def test_csv_feed_in_shadow_is_reconciled_loaded_and_traced(desk_in_shadow: DeskInShadow, feed: str) -> None:
    require_reconciled_loaded_and_traced(desk_in_shadow(feed), feed)


@pytest.mark.parametrize("feed", [pytest.param(TRADE, marks=pytest.mark.nightly), CASH])
def test_csv_feed_is_reconciled_loaded_and_traced_live(market: Desk, feed: str) -> None:
    others = dict.fromkeys(("class_super", TRADE, CASH), "off")
    market.switch(mode=others | {feed: "live"}, live_override={feed: "no old app runs in this test"})
    report = market.run(MONDAY.isoformat(), feed=feed)
    assert (report.outcome, report.facts["mode"]) == (Outcome.DELIVERED, "live")
    require_reconciled_loaded_and_traced(market, feed)


def require_reconciled_loaded_and_traced(market: Desk, feed: str) -> None:
    work = after_delivery(market, feed)
    result = work.source()
    assert result.breaks == (), result.markdown()
    assert result.rows > 0
    summary, _ = work.keep(result)
    assert summary.stopped is None
    loaded = work.load()
    table = "FACT_MOVEMENT"
    assert loaded.rows[table] > 0
    with open_warehouse(market.runtime.settings) as connection:
        assert query(connection, f"SELECT DISTINCT FEED FROM {table}") == [(feed,)]
        assert stored_breaks(connection, only_open=True) == []
    with market.runtime.engine.connect() as connection:
        letter, ledger = ("T", "trade") if feed == TRADE else ("C", "cash_transaction")
        key = connection.exec_driver_sql(f"SELECT max({ledger}_id) FROM bigsite.{ledger}").scalar()
    way = trace(
        market.runtime.engine, market.runtime.store, feed, work.audience, f"{letter}{key}", document_format=work.format
    )
    assert [sighting for sighting in way.sightings if sighting.places]


@pytest.mark.parametrize(
    ("feed", "old", "new", "kind"),
    [
        (TRADE, ",9.50,", ",8.50,", BreakKind.VALUE_DIFFERS),
        (CASH, "10000.00", "10000.01", BreakKind.VALUE_DIFFERS),
    ],
)
def test_altered_csv_is_an_error(desk_in_shadow: DeskInShadow, feed: str, old: str, new: str, kind: BreakKind) -> None:
    market = desk_in_shadow(feed)
    work = after_delivery(market, feed)
    key = shadow_key(work.delivered.deliveries[0].pages[0].key)
    text = market.runtime.store.read(key).decode()
    assert old in text, text
    market.runtime.store.put(key, text.replace(old, new, 1).encode())
    result = work.source()
    assert kind in {break_.kind for break_ in result.breaks}, result.markdown()
    assert {break_.likeliest.cause for break_ in result.breaks} == {BreakCause.FILE_ALTERED}


def test_switched_off_rows_are_excluded_with_their_reason(market: Desk) -> None:
    market.switch(include_income={"class_super": False}, include_drp={"class_super": False})
    assert market.deliver(MONDAY.isoformat()).kind == "DELIVERED"
    result = after_delivery(market, "class_super").source()
    assert result.breaks == (), result.markdown()
    excluded = {reason: count for tally in result.tallies for reason, count in tally.excluded.items()}
    assert excluded == {"switched off: include-drp": 2, "switched off: include-income": 2}


@pytest.mark.parametrize("selection", ["SW00000001", "!SW00000002"])
def test_portfolio_delivered_before_the_switch_excluded_it_is_reconciled(market: Desk, selection: str) -> None:
    assert market.deliver(MONDAY.isoformat()).kind == "DELIVERED"
    market.switch(portfolios={"class_super": selection})
    renamed = tables.portfolio.update().where(tables.portfolio.c.portfolio_number == "SW00000001")
    with market.runtime.engine.begin() as connection:
        connection.execute(renamed.values(portfolio_name="New"))
    assert market.deliver(MONDAY.isoformat(), fresh=True).kind == "DELIVERED"
    assert [portfolio.number for portfolio in market.manifest(MONDAY.isoformat(), 1).portfolios] == ["SW00000001"]
    result = after_delivery(market, "class_super").source()
    assert result.breaks == (), result.markdown()


@pytest.mark.parametrize("switch", ["include_income", "include_drp"])
def test_switched_off_row_is_named_by_no_reference(desk: Desk, switch: str) -> None:
    fund, _ = desk.two_customers()
    bhp = desk.bigsite.security("BHP", price={"2026-02-27": "45.10"})
    day, undone = MONDAY.isoformat(), "2026-03-02T05:00:00Z"
    fund.deposit("10000.00", day)
    originals = [
        fund.buy(bhp, "10", "45.00", day),
        fund.security_movement(bhp, "BONUS_ISSUE", "3", day),
        fund.dividend(bhp, "12.00", day),
        fund.deposit("7.00", day),
    ]
    fund.reverse(fund.security_movement(bhp, "DRP", "0.5", day), undone, movement_type="TRANSFER_OUT")
    for row in originals:
        fund.reverse(row, undone)
    desk.end_of_day(day)
    values: dict[str, dict[str, bool | str]] = {switch: {"class_super": False}}
    desk.switch(**values)
    assert desk.deliver(day).kind == "DELIVERED"
    movements = desk.records(day)["movement_transactions"]
    ids = set(movements["transaction_id"])
    references = [name for column in ("reverses", "relates_to") for name in movements[column].drop_nulls()]
    assert set(references) <= ids, sorted(set(references) - ids)
    assert {name[0] for name in movements["reverses"].drop_nulls()} == set(
        "TSC" if switch == "include_income" else "TSIC"
    )
    result = after_delivery(desk, "class_super").source()
    assert result.breaks == (), result.markdown()


def test_stopped_reconciliation_is_reported(desk_in_shadow: DeskInShadow) -> None:
    market = desk_in_shadow(TRADE)
    work = after_delivery(market, TRADE)
    work.keep(work.source())
    key = shadow_key(work.delivered.deliveries[0].pages[0].key)
    market.runtime.store.put(key, market.runtime.store.read(key)[:-20])
    with pytest.raises(UnreadableDeliveryError):
        work.source()
    summary = market.runtime.load_reference(f"{TRADE}/source_reconciliation", MONDAY, ReconciliationSummary)
    assert summary.stopped == "UnreadableDeliveryError"


def test_errors_found_while_the_warehouse_is_away_are_the_verdict(desk_in_shadow: DeskInShadow) -> None:
    market = desk_in_shadow(TRADE)
    work = after_delivery(market, TRADE)
    work.keep(work.source())
    with market.runtime.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE bigsite.trade SET price = price + 1 WHERE side = 'SELL'")
    settings, again = market.runtime.settings, after_delivery(market, TRADE, "a2")
    market.runtime.settings = settings.model_copy(update={"snowflake_account": "away"})  # its user is not set
    result = again.source()
    with pytest.raises(WarehouseNotConfiguredError):
        again.keep(result)
    market.runtime.settings = settings
    summary = market.runtime.load_reference(f"{TRADE}/source_reconciliation", MONDAY, ReconciliationSummary)
    assert (summary.stopped, summary.errors) == ("WarehouseNotConfiguredError", 2)
    assert market.runtime.store.exists(summary.report)
    with market.at("2026-03-03T08:00:00+11:00"):
        market.tick("alerts")
        alert = open_incidents(market.runtime.store)[f"breaks.{TRADE}"].incident
    assert alert.offenders == ("SW00000001", "SW00000002")


def test_feed_that_reconciliation_cannot_read_is_refused() -> None:
    class Unknown:
        name = "camt"

    with pytest.raises(UnknownLayoutError, match="no reader for the format 'camt'"):
        require_reconcilable(
            [type("F", (), {"format": Unknown(), "renderings": {}, "layout": None, "layout_of": Feed.layout_of})()]
        )
