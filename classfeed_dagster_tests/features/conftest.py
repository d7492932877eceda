"""The steps of the features: what people say, done to the real jobs on a real PostgreSQL and object store."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import boto3
import polars as pl
import pytest
import sqlalchemy as sa
from pytest_bdd import given, parsers, then, when

from classfeed_dagster.alerting.incidents import open_incidents
from classfeed_dagster.delivery.feed_mode import shadow_key
from classfeed_dagster.delivery.quarantine import quarantine
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import RunReport
from classfeed_dagster.simulation.proof import delivered_pages
from classfeed_dagster.simulation.recipient import load
from classfeed_dagster.support.refreshes import request_refresh
from classfeed_dagster.support.reruns import Requester, RerunPolicy, RerunRefusedError, request_rerun, requests
from classfeed_dagster_tests.features.promises import PREFIX
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio
from classfeed_dagster_tests.fixtures.catalogue import MONDAY, TUESDAY, WEDNESDAY, Cast
from classfeed_dagster_tests.fixtures.delivering import csv_text
from classfeed_dagster_tests.fixtures.desk import FEED, Desk, at_a_desk

DAYS = {"Monday": MONDAY, "Tuesday": TUESDAY, "Wednesday": WEDNESDAY}
_buckets = itertools.count()


@dataclass
class Story:
    """One scenario: the desk, the cast of cases, and what was last said."""

    desk: Desk
    cast: Cast
    misstated: list[tuple[Portfolio, str]] = field(default_factory=list)
    run: RunReport | None = None
    refused: str = ""

    def morning(self, day: str, feed: str = FEED) -> None:
        morning = morning_after(dt.date.fromisoformat(DAYS[day]))
        with self.desk.at(morning.isoformat()):
            self.run = self.desk.run(DAYS[day], feed=feed)

    def end_of_day(self, day: str) -> None:
        self.desk.bigsite.end_of_day(DAYS[day])
        for portfolio, wrong in self.misstated:
            if wrong == day:
                self.desk.break_units(portfolio, DAYS[day])
        self.desk.bigsite.save()

    def at(self, time: str, day: str) -> str:
        return f"{DAYS[day]}T{time}:00+11:00"

    def notifications(self, name: str) -> list[tuple[str, str]]:
        """Return a case's delivered consent changes by day, in order of delivery."""
        number = self.cast[name].number
        return [
            (consent, page.business_date.strftime("%A"))
            for page in delivered_pages(self.desk.runtime.store, self.desk.feed(FEED), self.dates())
            for consent in page.frames["accounts"].filter(pl.col("portfolio_number") == number)["consent"]
        ]

    def dates(self) -> list[dt.date]:
        return [dt.date.fromisoformat(day) for day in DAYS.values()]

    def movements(self, day: str, name: str) -> pl.DataFrame:
        frame: pl.DataFrame = self.desk.records(DAYS[day])["movement_transactions"]
        return frame.filter(pl.col("portfolio_number") == self.cast[name].number)


def pytest_bdd_apply_tag(tag: str, function: object) -> bool | None:
    """Ignore the tags that name a scenario's promise, which are not pytest markers."""
    return True if tag.startswith(PREFIX) else None


@pytest.fixture
def story(request: pytest.FixtureRequest, bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[Story]:
    """Create an empty bigsite, an empty store and a Dagster instance. A scenario tagged ``@s3`` stores on S3."""
    place = {}
    if request.node.get_closest_marker("s3"):
        endpoint, bucket = request.getfixturevalue("s3_endpoint"), f"features-{os.getpid()}-{next(_buckets)}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(
            Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"}
        )
        place = {"store_url": f"s3://{bucket}/feed", "s3_endpoint_url": endpoint}
    with at_a_desk(bigsite_engine, tmp_path, FEEDS) as desk:  # new sensors, which remember no earlier time
        more = {"max_removed_share": Decimal("0.5"), **place}
        desk.runtime.settings = desk.runtime.settings.model_copy(update=more)
        yield Story(desk, Cast(desk.bigsite))


# -- bigsite ----------------------------------------------------------------------------------------------------------


@given(parsers.parse('bigsite has "{name}"'))
def bigsite_has(story: Story, name: str) -> None:
    assert story.cast[name]


@given(parsers.parse('"{name}" revokes consent at 05:00 after Monday'))
def revokes(story: Story, name: str) -> None:
    story.cast[name].consents[0]["revoked_at"] = story.at("05:00", "Tuesday")


@given(parsers.parse('the end of day of {day} misstates the holdings of "{name}"'))
def misstates(story: Story, day: str, name: str) -> None:
    story.misstated.append((story.cast[name], day))


@given(parsers.parse("bigsite has not written its end of day of {day}"))
def not_written(story: Story, day: str) -> None:
    story.desk.bigsite.save()


@when(parsers.parse("bigsite writes its end of day of {day}"))
def written(story: Story, day: str) -> None:
    story.end_of_day(day)


@when(parsers.parse("bigsite corrects its end of day of {day} on Wednesday morning"))
def mends(story: Story, day: str) -> None:
    story.misstated.clear()
    story.desk.bigsite.end_of_day(DAYS[day], at=story.at("07:00", "Wednesday")).save()


# -- the feed ---------------------------------------------------------------------------------------------------------


@when(parsers.re(r"(?P<day>\w+) ends and (?P<feed>the feed|\w+) runs the next morning"))
def ends_and_runs(story: Story, day: str, feed: str) -> None:
    story.end_of_day(day)
    story.morning(day, FEED if feed == "the feed" else feed)


@when(parsers.parse("{day} ends with a rewritten past and the feed runs the next morning"))
def ends_with_past(story: Story, day: str) -> None:
    for earlier in itertools.takewhile(lambda item: item != day, DAYS):
        story.desk.bigsite.end_of_day(DAYS[earlier], at=f"{DAYS[day]}T14:00:00Z")
    story.end_of_day(day)
    story.morning(day)


@when(parsers.re(r"(?P<feed>the feed|\w+) runs on the morning after (?P<day>\w+)"))
def runs(story: Story, day: str, feed: str) -> None:
    story.morning(day, FEED if feed == "the feed" else feed)


@when(parsers.parse("repair is evaluated at {time} on {day}"))
def repair_looks(story: Story, time: str, day: str) -> None:
    """Evaluate it as often as it has something to do for the feed, as the daemon would."""
    with story.desk.at(story.at(time, day)):
        for _ in range(6):
            requests, _ = story.desk.tick("repair")
            query = [item for item in requests if item.job_name == f"{FEED}_job"]
            if not query:
                return
            for request in query:
                assert story.desk.carry_out(request).success
    raise AssertionError("the repair never comes to rest")


@when(parsers.parse("the alerts are evaluated at {time} on {day}"))
def alerts_look(story: Story, time: str, day: str) -> None:
    with story.desk.at(story.at(time, day)):
        story.desk.tick("alerts")


@then(parsers.parse("the run's outcome is: {outcome}"))
def run_says(story: Story, outcome: str) -> None:
    assert story.run is not None
    assert story.run.outcome == outcome, story.run


# -- what the recipient has -------------------------------------------------------------------------------------------


@then(parsers.parse('"{name}" is delivered as: {expected}'))
def is_told(story: Story, name: str, expected: str) -> None:
    target = [] if expected == "nothing" else re.findall(r"(\w+) on (\w+)", expected)
    assert story.notifications(name) == target


@then(parsers.parse('{day}\'s document has the whole history of "{name}"'))
def whole_history(story: Story, day: str, name: str) -> None:
    accounts: pl.DataFrame = story.desk.records(DAYS[day])["accounts"]
    assert accounts.filter(pl.col("portfolio_number") == story.cast[name].number)["extract"].to_list() == ["FULL"]
    assert {"BUY", "CASH_DEPOSIT"} <= set(story.movements(day, name)["transaction_type"])


@then(
    parsers.parse('{day}\'s document has a {kind} of "{name}" dated {dated} with {units:d} units'),
)
def document_has(story: Story, day: str, kind: str, name: str, dated: str, units: int) -> None:
    rows = story.movements(day, name).filter(pl.col("transaction_type") == kind)
    assert [(str(date), int(count)) for date, count in rows.select("transaction_date", "units").iter_rows()] == [
        (dated, units)
    ]


@then(parsers.parse("the recipient's sums match on {day}"))
def adds_up(story: Story, day: str) -> None:
    pages = delivered_pages(story.desk.runtime.store, story.desk.feed(FEED), story.dates())
    result = load(pages, dt.date.fromisoformat(DAYS[day])).unbalanced()
    assert result.is_empty(), result


@then(parsers.parse('revision {revision:d} of {day} holds "{name}" alone'))
def revision_holds(story: Story, revision: int, day: str, name: str) -> None:
    assert [portfolio.number for portfolio in story.desk.manifest(DAYS[day], revision).portfolios] == [
        story.cast[name].number
    ]


@then(parsers.parse('revision {revision:d} of {day} has the whole history of "{name}"'))
def revision_in_full(story: Story, revision: int, day: str, name: str) -> None:
    records = story.desk.records(DAYS[day], revision)
    assert records["accounts"]["extract"].to_list() == ["FULL"]
    assert {"BUY", "CASH_DEPOSIT"} <= set(records["movement_transactions"]["transaction_type"])


@then(parsers.parse('revision {revision:d} of {day} restates the holdings of "{one}" and "{other}"'))
def revision_restates(story: Story, revision: int, day: str, one: str, other: str) -> None:
    numbers = {portfolio.number for portfolio in story.desk.manifest(DAYS[day], revision).portfolios}
    assert numbers == {story.cast[one].number, story.cast[other].number}


@then(parsers.parse('"{name}" is held back for {day}: {reason}'))
def is_held_back(story: Story, name: str, day: str, reason: str) -> None:
    entry = {hold.number: hold.reason for hold in story.desk.manifest(DAYS[day]).held_back}
    assert reason in entry[story.cast[name].number]


@then("no portfolio is held back")
def nobody_held_back(story: Story) -> None:
    for day in (MONDAY, TUESDAY):
        assert story.desk.status(day).complete
    # Each record names the revision that released it.
    assert {record.released_in for record in quarantine(story.desk.runtime.store, FEED)} == {1}


@then(parsers.parse("nothing is stored of {day}"))
def nothing_stored(story: Story, day: str) -> None:
    for prefix in ("landing", "domains", f"staged/{FEED}", f"delivered/{FEED}"):
        assert list(story.desk.runtime.store.list(f"{prefix}/{DAYS[day]}")) == []


@then(parsers.parse("{day} was delivered once"))
def delivered_once(story: Story, day: str) -> None:
    assert len(story.desk.status(DAYS[day]).deliveries) == 1


# -- people -----------------------------------------------------------------------------------------------------------


@then(parsers.parse("{feed} has an open incident: late"))
def told_late(story: Story, feed: str) -> None:
    late = [item.incident for key, item in open_incidents(story.desk.runtime.store).items() if key.startswith("late")]
    assert any(feed in incident.feeds for incident in late)


@then(parsers.parse("{feed} has no open incident"))
def told_no_more(story: Story, feed: str) -> None:
    assert not [
        incident for incident in open_incidents(story.desk.runtime.store).values() if incident.incident.feeds == (feed,)
    ]


@when(parsers.re(r"(?P<person>\w+) of (?P<group>[\w-]+) asks to run (?P<day>\w+) again: (?P<reason>.+)"))
def asks(story: Story, person: str, group: str, day: str, reason: str) -> None:
    desk, date = story.desk, dt.date.fromisoformat(DAYS[day])
    at = morning_after(date) + dt.timedelta(hours=4)
    try:
        request_rerun(
            desk.runtime.store,
            desk.feed(FEED),
            desk.runtime.settings.first_business_date,
            date,
            Requester(person, frozenset({group})),
            reason,
            rules=RerunPolicy("classfeed-support", 3, frozenset({FEED})),
            under_way=lambda: False,
            at=at,
            correlation_id="c" * 32,
        )
    except RerunRefusedError as error:
        story.refused = str(error)
    else:
        with desk.at(at.isoformat()):
            story.run = desk.run(DAYS[day], at=at)


@when(
    parsers.re(
        r'(?P<person>\w+) of (?P<group>[\w-]+) asks to refresh "(?P<name>[^"]+)" after (?P<day>\w+): (?P<reason>.+)'
    )
)
def asks_to_refresh(story: Story, person: str, group: str, name: str, day: str, reason: str) -> None:
    desk, at = story.desk, morning_after(dt.date.fromisoformat(DAYS[day])) + dt.timedelta(hours=4)
    with desk.at(at.isoformat()):
        _, date = request_refresh(
            desk.runtime,
            desk.feed(FEED),
            story.cast[name].number,
            Requester(person, frozenset({group})),
            reason,
            under_way=lambda _: False,
            mode="live",
            correlation_id="c" * 32,
        )
        story.run = desk.run(date.isoformat(), at=at)


@then(parsers.parse("the re-run's outcome is: {outcome}"))
def rerun_says(story: Story, outcome: str) -> None:
    run_says(story, outcome)


@then(parsers.parse("the request is refused: {why}"))
def stays_shut(story: Story, why: str) -> None:
    assert why in story.refused


@then(parsers.parse("{person}'s request for {day} is recorded as {outcome}"))
def on_record(story: Story, person: str, day: str, outcome: str) -> None:
    (record,) = requests(story.desk.runtime.store, FEED)
    assert (record.requested_by, record.business_date.isoformat(), record.outcome) == (person, DAYS[day], outcome)


# -- cut-over ---------------------------------------------------------------------------------------------------------

_TRADE = "class_trade"


@given("one clean date of parity is enough")
def one_clean_date(story: Story) -> None:
    runtime = story.desk.runtime
    runtime.settings = runtime.settings.model_copy(update={"parity_clean_dates": 1})


@when("class_trade is switched to live, and class_super and class_cash to off")
def switched(story: Story) -> None:
    story.desk.switch(mode={_TRADE: "live", FEED: "off", "class_cash": "off"})


@when("the old app's file of Monday arrives and is compared")
def old_file(story: Story) -> None:
    desk = story.desk
    lines = desk.runtime.store.read(shadow_key(_file(MONDAY))).decode().splitlines()
    desk.runtime.store.put(f"legacy/{_TRADE}/{MONDAY}/old.csv", csv_text([line.split(",") for line in lines]))
    (request,), _ = desk.tick("class_trade_parity")
    assert desk.carry_out(request).success


@then(parsers.parse("class_trade of {day} is in shadow only"))
def shadow_alone(story: Story, day: str) -> None:
    store = story.desk.runtime.store
    assert store.exists(shadow_key(_file(DAYS[day])))
    assert list(store.list(f"delivered/{_TRADE}/")) == []


@then("the recipient has a class_trade file of Tuesday, and none of Monday")
def has_tuesday(story: Story) -> None:
    store = story.desk.runtime.store
    assert store.exists(_file(TUESDAY))
    assert list(store.list(f"delivered/{_TRADE}/{MONDAY}/")) == []


def _file(day: str) -> str:
    return f"delivered/{_TRADE}/{day}/r0/{_TRADE}_{day.replace('-', '')}_r0.csv"
