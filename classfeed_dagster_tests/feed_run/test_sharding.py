"""Fan-out of a large date within a run: more steps, the same bytes as in one process, for any shards."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from classfeed_dagster.delivery import shards
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feed_run import sharding as sharing
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.class_super import FEED as CLASS_SUPER
from classfeed_dagster.orchestration.assets import feeds as assets
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.fan_out import Stage
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster_tests.feeds.test_another_recipient import BGL
from classfeed_dagster_tests.fixtures.desk import FEED, Desk, at_a_desk
from classfeed_dagster_tests.fixtures.morning import deliver_date
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter, Preparation, PreparedDesks

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
NUMBERS = [f"SW0000000{at}" for at in range(1, 6)]


def in_one_process(desk: Desk) -> Desk:
    """Give the desk small slices and pages."""
    small = {"slice_portfolios": 1, "max_page_bytes": 8 * 1024 + 2000}
    desk.runtime.settings = desk.runtime.settings.model_copy(update=small)
    return desk


def in_shards(desk: Desk, portfolios: int = 2) -> Desk:
    """Give the desk small slices and pages, and steps for shards of so many portfolios, which any worker runs."""
    several = {"executor": "multiprocess", "shard_portfolios": portfolios}
    desk.runtime.settings = in_one_process(desk).runtime.settings.model_copy(update=several)
    desk.definitions = build_definitions(desk.runtime, desk.feeds)
    return desk


def deliver_alone(desk: Desk, day: str, feed: str = FEED, *, fresh: bool = False) -> None:
    """Deliver a date in this process, without Dagster."""
    deliver_date(desk.runtime, desk.feed(feed), dt.date.fromisoformat(day), desk.feeds, fresh=fresh)


def five_customers(desk: Desk) -> None:
    """Create five who trade on Monday, the third of them with units that don't add up; four trade again on Tuesday."""
    bhp = desk.bigsite.security("BHP", price={"2026-02-27": "45.10", "2026-03-02": "45.50", "2026-03-03": "45.75"})
    created = []
    for at, number in enumerate(NUMBERS):
        portfolio = desk.bigsite.portfolio(number)
        portfolio.consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("10000.00", "2026-02-23")
        for _ in range(at + 1):
            portfolio.buy(bhp, "10", "45.00", "2026-02-24")
        created.append(portfolio)
    desk.bigsite.end_of_day(MONDAY)
    desk.break_units(created[2], MONDAY)
    for portfolio in created[:4]:
        portfolio.buy(bhp, "7", "45.25", TUESDAY)
    desk.end_of_day(TUESDAY)


@pytest.fixture
def shared(bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[Desk]:
    """Prepare a desk with two portfolios a shard."""
    with at_a_desk(bigsite_engine, tmp_path, [CLASS_SUPER]) as desk:
        yield in_shards(desk)


def monday_alone(desk: Desk) -> None:
    """Deliver Monday in one process."""
    five_customers(in_one_process(desk))
    deliver_alone(desk, MONDAY)


def monday_shared(desk: Desk) -> None:
    """Deliver Monday in shards of two portfolios."""
    five_customers(in_shards(desk))
    report = desk.run(MONDAY)
    assert report.outcome is Outcome.DELIVERED, report.message


def monday_alone_without_the_first(desk: Desk) -> None:
    """Deliver Monday in one process after the first customer's consent has ended."""
    five_customers(in_one_process(desk))
    end_consent_of_the_first(desk)
    deliver_alone(desk, MONDAY)


@pytest.fixture
def after_alone(prepared_desks: PreparedDesks, tmp_path: Path) -> Iterator[DeskAfter]:
    """Return a function that opens a copy of a desk where one process did everything."""
    with ExitStack() as stack:

        def open_copy(prepare: Preparation) -> Desk:
            return stack.enter_context(prepared_desks.after(prepare, [CLASS_SUPER]).copied(tmp_path / "alone"))

        yield open_copy


@pytest.fixture
def after_shared(live_desk_after: DeskAfter) -> Desk:
    """Return a copy of the desk after Monday in shards."""
    return in_shards(live_desk_after(monday_shared))


@pytest.fixture(scope="module")
def corrected_alone(prepared_desks: PreparedDesks, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return Monday's deliveries by one process, with the correction of its end of day."""
    with prepared_desks.after(monday_alone, [CLASS_SUPER]).copied(tmp_path_factory.mktemp("corrected")) as desk:
        desk.end_of_day(MONDAY)  # the end of day again, with units that add up
        deliver_alone(desk, MONDAY, fresh=True)
        assert desk.deliver(MONDAY).kind == "NOTHING_TO_DO"
        return delivered(desk, MONDAY)


def end_consent_of_the_first(desk: Desk) -> None:
    with desk.runtime.engine.begin() as connection:
        number = "SELECT portfolio_id FROM bigsite.portfolio WHERE portfolio_number = :number"
        statement = f"UPDATE bigsite.data_sharing_consent SET revoked_at = :at WHERE portfolio_id = ({number})"
        at = dt.date.fromisoformat(MONDAY) + dt.timedelta(days=1)
        connection.execute(sa.text(statement), {"at": f"{at} 00:00+11", "number": NUMBERS[0]})


def delivered(desk: Desk, day: str, feed: str = FEED) -> list[Any]:
    """Return a date's pages before compression, and their facts from the manifests."""
    text = {"portfolios", "held_back", "totals", "counts", "recorded_after", "recorded_before", "revision"}
    return [
        (
            [(page.message_id, page.document_sha256, page.bytes, page.totals) for page in delivery.pages],
            delivery.model_dump(include=text),
        )
        for delivery in desk.status(day, feed).deliveries
    ]


def steps(desk: Desk, asset: str) -> list[str]:
    """Return the steps of the latest run that materialized an asset, without its name."""
    run = desk.instance.get_runs(limit=1)[0]
    matches = [
        event.step_key for event in desk.instance.all_logs(run.run_id) if event.is_dagster_event and event.step_key
    ]
    return sorted({key.partition(".")[2].removeprefix(f"{asset}_") for key in matches if key.startswith(f"{asset}.")})


def test_fan_out_changes_no_byte(after_shared: Desk, after_alone: DeskAfter) -> None:
    shared, alone = after_shared, after_alone(monday_alone)
    for day, size, last in ((MONDAY, 2, 2), (TUESDAY, 1, 1)):  # on Tuesday no history is sent
        if day == TUESDAY:
            deliver_alone(alone, day)
            report = in_shards(shared, size).run(day)
            assert report.outcome is Outcome.DELIVERED, report.message
        assert delivered(shared, day) == delivered(alone, day)
        created = steps(shared, "class_super__document")
        shards = {f"shard[{at}]" for at in range(last + 1)}
        assert {"in_shards", *shards, "in_lots", "lot[0]", "lot[1]", "together"} <= set(created)
        assert f"shard[{last + 1}]" not in created
        for asset in ("class__movement_transactions", "class_super__quarantine"):
            assert f"shard[{last}]" in steps(shared, asset)
    (first,) = shared.status(MONDAY).deliveries
    assert [hold.number for hold in first.held_back] == [NUMBERS[2]]
    assert len(first.pages) > 2
    assert verify_feed(shared.runtime.store, FEED, EPI).sound


def test_missing_page_is_built_by_the_last_step(shared: Desk, after_alone: DeskAfter, monkeypatch: Any) -> None:
    """Remove a page before the last step, which then builds the document itself."""
    five_customers(shared)

    def after_a_page_went(work: FeedRun) -> Build | None:
        pages = [key for key in work.store.list("staged/") if "/page-" in key]
        work.store.delete(pages[-1])
        assert sharing.merge(work) is None
        return None

    monkeypatch.setattr(assets, "merge", after_a_page_went)
    assert shared.run(MONDAY).outcome is Outcome.DELIVERED
    assert delivered(shared, MONDAY) == delivered(after_alone(monday_alone), MONDAY)


def test_fan_out_after_a_correction_reissues(after_shared: Desk, corrected_alone: list[Any]) -> None:
    """The second revision of a date holds only what differs, shared out or not; a third run does nothing."""
    shared = after_shared
    shared.end_of_day(MONDAY)  # the end of day again, with units that add up
    assert shared.run(MONDAY, fresh_snapshot=True).outcome is Outcome.DELIVERED
    assert shared.run(MONDAY).outcome is Outcome.NOTHING_TO_DO
    assert delivered(shared, MONDAY) == corrected_alone
    assert [portfolio.number for portfolio in shared.manifest(MONDAY, 1).portfolios] == [NUMBERS[2]]


def test_fan_out_of_other_inputs_is_ignored(
    after_shared: Desk, corrected_alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares of an earlier attempt are there, and the correction's own are not: the last steps make everything."""
    shared = after_shared
    shared.end_of_day(MONDAY)
    monkeypatch.setattr(Stage, "shares", lambda *given: 0)
    assert shared.run(MONDAY, fresh_snapshot=True).outcome is Outcome.DELIVERED
    assert delivered(shared, MONDAY) == corrected_alone
    assert [portfolio.number for portfolio in shared.manifest(MONDAY, 1).portfolios] == [NUMBERS[2]]


@pytest.mark.parametrize("feed", ["class_trade", pytest.param("class_cash", marks=pytest.mark.nightly)])
def test_feed_of_one_file_is_fanned_out(shared: Desk, tmp_path: Path, feed: str) -> None:
    (declared,) = [each for each in FEEDS if each.name == feed]
    shared.add(declared)
    five_customers(shared)
    assert shared.run(MONDAY, feed=feed).outcome is Outcome.DELIVERED
    with at_a_desk(shared.runtime.engine, tmp_path / "alone", [declared]) as desk:
        deliver_alone(in_one_process(desk), MONDAY, feed)
        assert delivered(shared, MONDAY, feed) == delivered(desk, MONDAY, feed)


def test_ordinary_date_is_not_fanned_out(shared: Desk) -> None:
    in_shards(shared, 100).two_customers(MONDAY)
    assert shared.run(MONDAY).outcome is Outcome.DELIVERED
    assert steps(shared, "class_super__document") == ["in_lots", "in_shards", "together"]
    assert steps(shared, "class__account_details") == ["in_shards", "together"]


def test_date_not_due_is_not_fanned_out(shared: Desk) -> None:
    shared.add(BGL)
    shared.bigsite.portfolio("SW00000002").consent(recipient="BGL").deposit("10.00", "2026-02-24")
    shared.end_of_day("2026-03-05")
    early = shared.run("2026-03-05", feed="bgl")
    assert (early.outcome, early.message) == ("nothing to do", "2026-03-05 is not a date of BGL's weekly feed")


@pytest.mark.parametrize("after", ["render_shard", "fan_out_pages"])
def test_concurrent_fan_out_of_the_same_date_delivers_once(
    shared: Desk, after_alone: DeskAfter, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """A person runs the date as well, and a consent has ended: neither takes the other's parts, none fails for it."""
    five_customers(shared)
    process = getattr(shards, after)
    rehearsed = dt.date.fromisoformat(MONDAY)
    feed = shared.feed(FEED)
    audience = feed.audience(shared.runtime.settings.first_business_date)
    other = FeedRun(shared.runtime, feed, audience, rehearsed, "other", morning_after(rehearsed), shared.feeds)
    ended: list[str] = []

    def then_another(*given: Any) -> Any:
        result = process(*given)
        if after == "fan_out_pages" or given[3] == 2:  # the last shard
            end_consent_of_the_first(shared)
            ended.append(NUMBERS[0])
            assert sharing.fan_out(other) == 3
        return result

    monkeypatch.setattr(shards, after, then_another)
    report = shared.run(MONDAY)
    monkeypatch.undo()
    assert report.outcome is Outcome.DELIVERED, report.message
    assert ended == [NUMBERS[0]]
    assert delivered(shared, MONDAY) == delivered(after_alone(monday_alone_without_the_first), MONDAY)
    assert NUMBERS[0] not in {portfolio.number for portfolio in shared.manifest(MONDAY).portfolios}
