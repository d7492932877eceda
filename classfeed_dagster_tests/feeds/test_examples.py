"""The example recipients: delivered, reconciled, loaded and traced."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import pytest
import sqlalchemy as sa
from lxml import etree

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.feed_run.nightly_audit import audit_feed
from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.examples import EXAMPLES, bgl, holdings, statements, trade_list
from classfeed_dagster.feeds.feed import Feed, require_distinct, require_reconcilable
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.tracing.trace import Sighting, trace, trace_holding
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.database import execute, query
from classfeed_dagster.warehouse.schema import stored_table
from classfeed_dagster_tests.fixtures.desk import Desk, at_a_desk
from classfeed_dagster_tests.fixtures.morning import deliver_date
from classfeed_dagster_tests.fixtures.prepared_desks import PreparedDesks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_warehouse")]

MONDAY = dt.date(2026, 3, 2)
DeskInShadow = Callable[[Feed], Desk]


def trade(desk: Desk) -> None:
    """Create two customers who trade and one with cash alone; each consents to every example's recipient."""
    bhp = desk.bigsite.security("BHP", price={"2026-02-27": "45.10", "2026-03-02": "45.50"})
    for number in ("SW00000001", "SW00000002", "SW00000003"):
        portfolio = desk.bigsite.portfolio(number)
        for feed in EXAMPLES:
            portfolio.consent(granted_at="2026-02-20T00:00:00Z", recipient=feed.recipient)
        portfolio.deposit("10000.00", "2026-02-23")
        if number != "SW00000003":
            portfolio.buy(bhp, "100", "45.00", "2026-02-24")
            portfolio.sell(bhp, "10", "46.00", MONDAY.isoformat())
            portfolio.dividend(bhp, "12.00", MONDAY.isoformat())
    desk.end_of_day(MONDAY.isoformat())


@pytest.fixture
def market(bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[Desk]:
    """Yield a desk of the examples with the customers before any delivery."""
    with at_a_desk(bigsite_engine, tmp_path, EXAMPLES) as desk:
        trade(desk)
        yield desk


def deliver_as_declared(desk: Desk) -> None:
    """Deliver an example's date in shadow, as declared, without Dagster."""
    trade(desk)
    (feed,) = desk.feeds
    deliver_alone(desk, feed)


def deliver_alone(desk: Desk, feed: Feed) -> None:
    work = deliver_date(desk.runtime, feed, MONDAY, desk.feeds)
    assert work.flags.mode is FeedMode.SHADOW


@pytest.fixture
def desk_in_shadow(prepared_desks: PreparedDesks, tmp_path: Path) -> Iterator[DeskInShadow]:
    """Return a function that opens a copy of the desk after an example's delivery."""
    with ExitStack() as stack:

        def open_copy(feed: Feed) -> Desk:
            prepared = prepared_desks.after(deliver_as_declared, [feed])
            return stack.enter_context(prepared.copied(tmp_path))

        yield open_copy


def after_delivery(desk: Desk, feed: Feed) -> PostDelivery:
    audience = feed.audience(desk.runtime.settings.first_business_date)
    return PostDelivery(desk.runtime, feed, audience, MONDAY, "a1", morning_after(MONDAY))


def pages(desk: Desk, feed: Feed) -> list[bytes]:
    store = live_and_shadow(desk.runtime.store, feed.name)
    return [store.read(page.key) for page in desk.manifest(MONDAY.isoformat(), feed=feed.name).pages]


# BGL's documents have class_super's format, which many tests reconcile, load and trace.
@pytest.mark.parametrize(
    "feed",
    [pytest.param(feed, id=feed.name, marks=[pytest.mark.nightly] if feed is bgl.FEED else []) for feed in EXAMPLES],
)
def test_example_in_shadow_is_reconciled_loaded_and_traced(desk_in_shadow: DeskInShadow, feed: Feed) -> None:
    require_reconciled_loaded_and_traced(desk_in_shadow(feed), feed)


@pytest.mark.parametrize(
    "feed",
    [
        pytest.param(feed, id=feed.name, marks=[] if feed is statements.FEED else [pytest.mark.nightly])
        for feed in EXAMPLES
    ],
)
def test_example_is_reconciled_loaded_and_traced_live(market: Desk, feed: Feed) -> None:
    """Live, with the switches of income and reinvestment off."""
    off = {feed.name: False}
    market.switch(mode={feed.name: "live"}, include_income=off, include_drp=off)
    report = market.run(MONDAY.isoformat(), feed=feed.name)
    assert report.outcome is Outcome.DELIVERED, report.message
    assert report.facts["mode"] == "live"
    require_reconciled_loaded_and_traced(market, feed)


def require_reconciled_loaded_and_traced(market: Desk, feed: Feed) -> None:
    work = after_delivery(market, feed)
    result = work.source()
    assert result.breaks == (), result.markdown()
    assert result.rows > 0
    work.keep(result)
    fact, column = ("FACT_HOLDING_DAILY", "UNITS") if feed is holdings.FEED else ("FACT_MOVEMENT", "NET_AMOUNT")
    assert work.load().rows[fact] > 0
    with open_warehouse(market.runtime.settings) as connection:
        assert query(connection, f"SELECT DISTINCT FEED FROM {fact}") == [(feed.name,)]
    assert [sighting for sighting in sightings(market, work) if sighting.places]
    with open_warehouse(market.runtime.settings) as connection:
        execute(connection, f"UPDATE {stored_table(fact)} SET {column} = COALESCE({column}, 0) + 1")
    findings = audit_feed(market.runtime, feed, "a1", morning_after(MONDAY))
    assert [fact in finding.what for finding in findings] == [True]


def sightings(desk: Desk, work: PostDelivery) -> Sequence[Sighting]:
    engine, store, feed = desk.runtime.engine, desk.runtime.store, work.feed
    if feed is holdings.FEED:
        security = ("ASX", "BHP")
        return trace_holding(
            engine, store, feed.name, "SW00000001", security, MONDAY, document_format=work.format
        ).sightings
    letter, table = ("T", "trade") if feed is trade_list.FEED else ("C", "cash_transaction")
    with engine.connect() as connection:
        key = connection.exec_driver_sql(f"SELECT max({table}_id) FROM bigsite.{table}").scalar()
    return trace(engine, store, feed.name, work.audience, f"{letter}{key}", document_format=work.format).sightings


def test_trade_list_is_one_plain_file_a_portfolio(desk_in_shadow: DeskInShadow) -> None:
    market = desk_in_shadow(trade_list.FEED)
    first, second = (page.decode().splitlines() for page in pages(market, trade_list.FEED))
    heading = "Reference,Portfolio,Trade Date,Market,Code,Transaction Type,Quantity,Price,Brokerage,GST,Net Amount,Currency,Recorded At"
    assert [first[0], second[0]] == [heading] * 2
    assert [line.split(",")[1] for line in (*first[1:], *second[1:])] == ["SW00000001"] * 2 + ["SW00000002"] * 2
    portfolios = market.manifest(MONDAY.isoformat(), feed="trade_list").portfolios
    assert [(portfolio.number, portfolio.bytes > 0) for portfolio in portfolios] == [
        ("SW00000001", True), ("SW00000002", True), ("SW00000003", False)]  # fmt: skip


@pytest.mark.parametrize(
    ("feed", "published", "count"),
    [(statements.FEED, "camt_053_001_08.xsd", 3), (holdings.FEED, "semt_002_001_11.xsd", 2)],
    ids=["statements", "holdings"],
)
def test_messages_obey_the_published_schema(
    desk_in_shadow: DeskInShadow, feed: Feed, published: str, count: int
) -> None:
    market = desk_in_shadow(feed)
    schema = etree.XMLSchema(
        etree.fromstring(resources.files("classfeed_dagster.documents").joinpath(published).read_bytes())
    )
    result = pages(market, feed)
    assert len(result) == count
    for page in result:
        schema.assertValid(etree.fromstring(page))


def steps(desk: Desk) -> set[str]:
    (run,) = desk.instance.get_runs(limit=1)
    return {event.step_key or "" for event in desk.instance.all_logs(run.run_id)}


def test_holdings_are_the_same_messages_in_several_shards(
    market: Desk, bigsite_engine: sa.Engine, tmp_path: Path
) -> None:
    small = {"executor": "multiprocess", "shard_portfolios": 1, "slice_portfolios": 1}
    market.runtime.settings = market.runtime.settings.model_copy(update=small)
    market.add()  # definitions of the new settings
    assert market.run(MONDAY.isoformat(), feed="holdings").outcome is Outcome.DELIVERED
    assert [step for step in steps(market) if "document" in step and "shard[2]" in step]
    with at_a_desk(bigsite_engine, tmp_path / "alone", [holdings.FEED]) as alone:
        deliver_alone(alone, holdings.FEED)
        assert pages(market, holdings.FEED) == pages(alone, holdings.FEED)
    assert after_delivery(market, holdings.FEED).source().breaks == ()


@pytest.mark.parametrize(
    ("feed", "old", "new"),
    [
        (trade_list.FEED, b",9.50,", b",8.50,"),
        (statements.FEED, b">10000.00<", b">10000.01<"),
        (holdings.FEED, b"<Unit>90.000000<", b"<Unit>90.000001<"),
    ],
    ids=["trade_list", "statements", "holdings"],
)
def test_altered_file_without_totals_is_found(desk_in_shadow: DeskInShadow, feed: Feed, old: bytes, new: bytes) -> None:
    market = desk_in_shadow(feed)
    work = after_delivery(market, feed)
    store = live_and_shadow(market.runtime.store, feed.name)
    key = work.delivered.deliveries[0].pages[0].key
    content = store.read(key)
    assert old in content, content
    market.runtime.store.put(f"shadow/{key}", content.replace(old, new, 1))
    assert work.source().breaks


def test_examples_can_join_the_declared_feeds() -> None:
    both = require_reconcilable(require_distinct((*FEEDS, *EXAMPLES)))
    assert len(both) == len(FEEDS) + len(EXAMPLES)
    assert {feed.mode for feed in EXAMPLES} == {FeedMode.SHADOW}
    assert all(feed.first_business_date for feed in EXAMPLES)
    assert bgl.FEED.format is next(feed.format for feed in FEEDS if feed.name == "class_super")
