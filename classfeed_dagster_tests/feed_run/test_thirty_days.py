"""Business days of class trade in shadow next to its old app, from bigsite on, and then live."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from decimal import Decimal

import pytest
from openfeature import api

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.delivery_history import date_status
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.documents.csv_reader import lines_of
from classfeed_dagster.documents.document_format import file_chunks
from classfeed_dagster.errors import GateRefusedError, NotInOrderError, StaleBuildError
from classfeed_dagster.feed_run import feed_run as steps
from classfeed_dagster.feed_run.feed_date import FeedIdleError
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds.class_trade import FEED
from classfeed_dagster.parity.comparison import ParityReport
from classfeed_dagster.parity.run import compare_date, to_compare
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import Cadence
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Row
from classfeed_dagster_tests.fixtures.delivering import as_legacy_date, as_legacy_number, csv_text
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.morning import attempt, deliver, prepare

pytestmark = pytest.mark.slow

DAYS = trading_days.business_days_between(dt.date(2026, 3, 2), dt.date(2026, 5, 29))[:31]
BAD = {1: "amount", 2: "missing", 3: "surplus", 4: "sign of a reversal"}
LATE, RENAMED = 5, 7
LAST_BAD = max(BAD)


class OldApp:
    """Writes what bigsite recorded in a date's window, in its own way: contract notes alone, dates with slashes."""

    def __init__(self, bigsite: Bigsite) -> None:
        self.bigsite = bigsite
        self.held_over: list[Row] = []

    def write(self, at: int) -> bytes:
        day = DAYS[at]
        new = [row for row in self.bigsite.rows[tables.trade] if row["recorded_at"] in trading_days.window(day)]
        late = [row for row in new if row["trade_date"] < day and row["reverses_trade_id"] is None]
        rows, self.held_over = [row for row in new if row not in late] + self.held_over, late
        lines = [self.line(row) for row in reversed(rows)]
        fault = BAD.get(at)
        if fault == "amount":
            lines[0]["net_amount"] = "1"
        elif fault == "missing":
            lines.pop()
        elif fault == "surplus":
            lines.append({**lines[0], "trade_id": "77777"})
        elif fault is not None:
            flagged = next(line for line in lines if line["reversal"])
            flagged["net_amount"] = "-" + flagged["net_amount"]
        if at == RENAMED:
            lines[0]["code"] = "NEW"
        names = (
            sorted(lines[0]) if lines else sorted([*(column.name for column in CLASS_TRADE.layout.details), "reversal"])
        )
        return csv_text([names, *([line[name] for name in names] for line in lines)])

    def line(self, row: Row) -> dict[str, str]:
        undone = row["reverses_trade_id"]
        output = (
            row if undone is None else next(record for record in self.bigsite.rows[tables.trade] if record.id == undone)
        )
        portfolio = next(record for record in self.bigsite.rows[tables.portfolio] if record.id == row["portfolio_id"])
        security = next(record for record in self.bigsite.rows[tables.security] if record.id == row["security_id"])
        others = {
            "portfolio_number": portfolio["portfolio_number"], "hin": portfolio["hin"], "code": security["code"],
            "exchange": security["exchange"], "isin": security["isin"], "reverses_trade_id": "",
            "recorded_at": output["recorded_at"].isoformat(), "reversal": "" if undone is None else "Y",
        }  # fmt: skip
        values = {column.name: output.values.get(column.name) for column in CLASS_TRADE.layout.details}
        return {name: _spelled(value) for name, value in values.items()} | others


def _spelled(value: object) -> str:
    match value:
        case Decimal():
            return as_legacy_number(value)
        case dt.date():
            return as_legacy_date(value)
    return "" if value is None else str(value)


def bigsites_day(bigsite: Bigsite, at: int) -> None:
    """Create one contract note a customer; on some dates a backdated one, or a reversed one."""
    day = DAYS[at]
    (bhp,) = bigsite.rows[tables.security]
    bigsite.price(bhp, day, "45.50")
    notes = [customer.buy(bhp, 10 + at, "45.00", day) for customer in bigsite.portfolios]
    if at == LATE:
        bigsite.portfolios[0].buy(bhp, 1, "44.00", DAYS[at - 1], recorded_at=f"{day}T02:00:00Z")
    if BAD.get(at) == "sign of a reversal":
        bigsite.portfolios[0].reverse(notes[0], f"{day}T05:00:00Z")
    bigsite.end_of_day(day).save()


def switch(runtime: Runtime, flags: Mapping[str, dict[str, bool | str]]) -> None:
    runtime.settings = runtime.settings.model_copy(update={"flags": dict(flags)})
    start_flags(runtime.settings, (FEED,))


def trial(runtime: Runtime, day: dt.date) -> FeedRun:
    return attempt(runtime, FEED, day, (FEED,))


@pytest.mark.parametrize(("count", "clean"), [(9, 4), pytest.param(30, 10, marks=pytest.mark.nightly)])
def test_clean_days_in_shadow_open_the_way_to_live(desk: Desk, count: int, clean: int) -> None:
    bigsite, runtime = desk.bigsite, desk.runtime
    runtime.settings = runtime.settings.model_copy(update={"parity_clean_dates": clean})
    closed, opened = LAST_BAD + clean - 1, LAST_BAD + clean
    bigsite.security("BHP")
    for number in ("SW00000001", "SW00000002"):
        bigsite.portfolio(number).consent("2026-02-20T00:00:00Z").deposit("1000000.00", "2026-02-23")
    old, audience = OldApp(bigsite), FEED.audience(DAYS[0])
    switch(runtime, {})
    reports: list[ParityReport] = []
    for at, day in enumerate(DAYS[:count]):
        bigsites_day(bigsite, at)
        work = trial(runtime, day)
        prepare(work)
        assert deliver(work).kind == "DELIVERED"
        runtime.store.put(f"legacy/class_trade/{day}/out.csv", old.write(at))
        compared = compare_date(runtime.store, FEED, audience, day)
        reports.append(compared.report)
        assert compared.report.clean is (at not in BAD), (at, compared.report.differences)
        if at in (closed, opened):
            switch(runtime, {"mode": {"class_trade": "live"}})
            tried = trial(runtime, day)
            gate, _ = tried.allowances(work.build())
            assert gate.passed is (at == opened), gate
            switch(runtime, {})
    explained = {at: report.explained for at, report in enumerate(reports) if report.explained}
    assert explained == {LATE: {"late-row": 1}, RENAMED: {"code-of-today": 1}}
    assert reports[LATE + 1].arrived == 1
    matches = {at: [(difference.kind, difference.field) for difference in reports[at].differences] for at in BAD}
    assert matches == {
        1: [("differs", "net_amount")],
        2: [("missing_left", None)],
        3: [("missing_right", None)],
        4: [("differs", "net_amount")],
    }
    assert [day for day, _ in to_compare(runtime.store, FEED, audience)] == list(DAYS[:count])
    assert list(runtime.store.list("delivered/")) == []

    bigsites_day(bigsite, count)
    switch(runtime, {"mode": {"class_trade": "live"}})
    work = trial(runtime, DAYS[count])
    prepare(work)
    outcome = deliver(work)
    assert outcome.kind == "DELIVERED"
    assert outcome.manifest is not None
    assert (outcome.manifest.sequence_number, outcome.manifest.chain_position) == (count + 1, count + 1)
    (page,) = outcome.manifest.pages
    with runtime.store.local_file(page.key) as path:  # the plain store: the recipient's own look
        assert lines_of(CLASS_TRADE.layout, file_chunks(path))["D"].height == 2
    assert date_status(runtime.store, "class_trade", DAYS[count]).shadow == ()


def test_switch_turned_between_building_and_delivering_builds_again(desk: Desk) -> None:
    desk.bigsite.security("BHP")
    desk.bigsite.portfolio("SW00000001").consent("2026-02-20T00:00:00Z").deposit("1000000.00", "2026-02-23")
    bigsites_day(desk.bigsite, 0)
    runtime = desk.runtime
    switch(runtime, {"mode": {"class_trade": "live"}, "live-override": {"class_trade": "A. Person: rehearsal"}})
    built = trial(runtime, DAYS[0])
    prepare(built)
    built.hold_back()
    built.evaluate_checks(built.stage())
    switch(runtime, {"include-drp": {"class_trade": False}})
    later = trial(runtime, DAYS[0])  # a rerun of the delivery alone
    assert later.publish().kind == "DELIVERED"
    assert list(runtime.store.list("delivered/")) == []
    assert date_status(runtime.store, "class_trade", DAYS[0]).shadow == (0,)
    assert built.flags.mode == "live"  # the earlier attempt keeps what it found

    switch(runtime, {"mode": {"class_trade": "live"}})
    bigsites_day(desk.bigsite, 1)
    refused = trial(runtime, DAYS[1])
    prepare(refused)
    refused.hold_back()
    refused.stage()
    with pytest.raises(GateRefusedError, match="live_gate failed .*0 of 10 clean dates"):
        refused.publish()


def test_feed_needs_its_provider(desk: Desk) -> None:
    api.clear_providers()
    work = trial(desk.runtime, DAYS[0])
    assert work.idle == "class_trade is off for now: its switches are unavailable (provider: none was started)"
    with pytest.raises(FeedIdleError, match="off for now"):
        work.stage()


def test_change_before_delivery_builds_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.bigsite.security("BHP")
    leaving, staying = "SW00000001", "SW00000002"
    for number in (leaving, staying):
        desk.bigsite.portfolio(number).consent("2026-02-20T00:00:00Z").deposit("1000000.00", "2026-02-23")
    switch(desk.runtime, {})
    works = []
    for at in (0, 1):
        bigsites_day(desk.bigsite, at)
        works.append(trial(desk.runtime, DAYS[at]))
        prepare(works[at])
        works[at].hold_back()
        works[at].evaluate_checks(works[at].stage())
    monday, tuesday = works
    with pytest.raises(NotInOrderError):
        tuesday.publish()

    # A consent ends once the documents are staged; Tuesday waits for Monday, which is delivered meanwhile.
    desk.bigsite.portfolios[0].consents[0]["revoked_at"] = dt.datetime(2026, 3, 2, 18, 0, tzinfo=dt.UTC)
    desk.bigsite.save()
    outcome = tuesday.publish(wait=lambda _: monday.publish().kind == "DELIVERED")
    assert outcome.kind == "DELIVERED"
    for day in DAYS[:2]:
        (manifest,) = date_status(desk.runtime.store, "class_trade", day).deliveries
        assert [portfolio.number for portfolio in manifest.portfolios] == [staying]
        assert [(hold.number, hold.reason) for hold in manifest.held_back] == [(leaving, "consent ended")]

    def always(*_: object, **__: object) -> None:
        raise StaleBuildError("something else was delivered")

    monkeypatch.setattr(steps, "publish", always)
    with pytest.raises(StaleBuildError):
        monday.publish()
    weekly = dataclasses.replace(FEED, cadence=Cadence.WEEKLY)
    assert attempt(desk.runtime, weekly, DAYS[0], (weekly,)).idle == "2026-03-02 is not a date of CLASS's weekly feed"
