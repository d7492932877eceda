"""Judging business dates, the watchdog, toil, and old runs, over deliveries and runs as they are on record."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import re
from collections.abc import Iterator

import dagster as dg
import pytest
import time_machine

from classfeed_dagster.alerting.alerts import watchdog_incident
from classfeed_dagster.delivery.manifest import HeldBack
from classfeed_dagster.delivery.quarantine import Quarantined
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.jobs import purge_runs
from classfeed_dagster.orchestration.run_history import launched_runs
from classfeed_dagster.repair import facts
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster.service_levels import heartbeats, service_levels
from classfeed_dagster.service_levels.measurements import summarize
from classfeed_dagster.service_levels.service_levels import (
    Delivery,
    Freshness,
    Judgment,
    Punctuality,
    attainment,
    due,
    due_since,
    freshness,
    judge_date,
    latest_due,
    missing,
    plot,
)
from classfeed_dagster.service_levels.toil import LaunchedRun, Launcher, Month, count, keep, launcher, stated_reason
from classfeed_dagster.store import ObjectStore

DAILY = RecipientSchedule("CLASS", dt.date(2026, 3, 2))
MONDAY, TUESDAY, WEDNESDAY = (dt.date(2026, 3, day) for day in (2, 3, 4))


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)


@pytest.mark.parametrize(
    ("day", "deadline"),
    [
        (dt.date(2026, 3, 2), "2026-03-03T09:00:00+11:00"),
        (dt.date(2026, 3, 6), "2026-03-09T09:00:00+11:00"),  # Friday is due on Monday
        (dt.date(2026, 4, 2), "2026-04-07T09:00:00+10:00"),  # over Easter and the change of clocks
        (dt.date(2026, 10, 2), "2026-10-05T09:00:00+11:00"),  # and back
    ],
)
def test_date_is_due_at_local_time_of_the_next_business_day(day: dt.date, deadline: str) -> None:
    assert due(FEED, day).deadline_at == at(deadline)
    assert due(FEED, day).starts_at < due(FEED, day).target_at < due(FEED, day).deadline_at


def test_latest_due_returns_the_last_due_dates() -> None:
    def days(now: str, count: int = 3, audience: RecipientSchedule = DAILY) -> list[dt.date]:
        return [date.business_date for date in latest_due(FEED, audience, at(now), count)]

    assert days("2026-03-03T05:59:00+11:00") == []
    assert days("2026-03-03T06:00:00+11:00") == [MONDAY]
    assert days("2026-03-12T06:00:00+11:00", 2) == [dt.date(2026, 3, 10), dt.date(2026, 3, 11)]
    assert days("2026-03-16T05:00:00+11:00", 1) == [dt.date(2026, 3, 12)]
    weekly = RecipientSchedule("BGL", MONDAY, Cadence.WEEKLY)
    assert days("2026-03-18T06:00:00+11:00", 5, weekly) == [dt.date(2026, 3, 6), dt.date(2026, 3, 13)]
    assert [date.business_date for date in due_since(FEED, DAILY, at("2026-03-05T09:00:00+11:00"), TUESDAY)] == [
        TUESDAY,
        WEDNESDAY,
    ]


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> dict[dt.date, str]:
    """Return the delivery times by date, in place of manifests; the test fills them."""
    times: dict[dt.date, str] = {}

    def found(_store: object, _feed: object, day: dt.date) -> tuple[Delivery, ...]:
        return (Delivery(0, at(times[day]), at(times[day]), 1, 0),) if day in times else ()

    monkeypatch.setattr("classfeed_dagster.service_levels.service_levels.deliveries", found)
    return times


def test_date_is_judged_by_its_first_delivery(delivered: dict[dt.date, str], local_store: ObjectStore) -> None:
    delivered[MONDAY] = "2026-03-03T07:00:00+11:00"
    delivered[TUESDAY] = "2026-03-04T09:00:00+11:00"
    delivered[WEDNESDAY] = "2026-03-05T09:00:01+11:00"
    thursday = dt.date(2026, 3, 5)
    assert [judge_date(local_store, FEED, day).verdict for day in (MONDAY, TUESDAY, WEDNESDAY, thursday)] == [
        Punctuality.ON_TARGET,
        Punctuality.IN_TIME,
        Punctuality.LATE,
        Punctuality.MISSING,
    ]
    attained = attainment(local_store, FEED, DAILY, at("2026-03-06T10:00:00+11:00"))
    assert (attained.in_time, len(attained.judgments), attained.percent) == (2, 4, 50)
    # A backfill of an old date makes nothing fresh.
    assert attainment(local_store, FEED, DAILY, at("2026-03-03T08:00:00+11:00")).percent is None
    assert len(attainment(local_store, FEED, DAILY, at("2026-03-06T10:00:00+11:00"), days=1).judgments) == 1
    picture = base64.b64decode(re.search(r"base64,([^)]+)", plot(attained.judgments))[1]).decode()  # type: ignore[index]
    assert picture.count("<rect") == 4
    assert "2026-03-04: late" in picture
    assert plot([]).startswith("![")


def test_watchdog_reports_missing_manifests_and_heartbeats(
    delivered: dict[dt.date, str], local_store: ObjectStore
) -> None:
    now = at("2026-03-05T09:30:00+11:00")
    delivered[MONDAY] = "2026-03-03T07:00:00+11:00"
    result = missing(local_store, [(FEED, DAILY)], now, 10)
    assert [break_.due.business_date for break_ in result] == [TUESDAY, WEDNESDAY]
    assert missing(local_store, [(FEED, DAILY)], at("2026-03-04T08:59:00+11:00"), 10) == []
    assert len(heartbeats.stale(local_store, now)) == len(heartbeats.SENSORS)
    for sensor in heartbeats.SENSORS:
        heartbeats.record(local_store, sensor, now)
    assert heartbeats.stale(local_store, now) == []
    silent = heartbeats.stale(local_store, now + dt.timedelta(minutes=16))
    assert silent[0] == "the repair sensor's last heartbeat is 16 minutes old"
    ahead = heartbeats.stale(local_store, now - dt.timedelta(minutes=16))
    assert ahead[0] == "the repair sensor's last heartbeat is 16 minutes ahead of the clock"
    incident = watchdog_incident(result, silent)
    assert incident is not None
    assert incident.page
    assert incident.dates == (TUESDAY, WEDNESDAY)
    asleep = watchdog_incident([], silent)
    assert asleep is not None
    assert "neither repaired nor reported" in asleep.means
    assert watchdog_incident([], []) is None


def run(day: dt.date, who: Launcher, started: str, *, minutes: int = 5, ok: bool = True) -> LaunchedRun:
    return LaunchedRun(day, who, at(started), at(started) + dt.timedelta(minutes=minutes), ok)


def test_toil_counts_manual_actions(local_store: ObjectStore) -> None:
    runs = [
        run(MONDAY, Launcher.SCHEDULE, "2026-03-03T06:00:00+11:00", ok=False),
        run(MONDAY, Launcher.REPAIR, "2026-03-03T06:10:00+11:00", ok=False),
        run(MONDAY, Launcher.REPAIR, "2026-03-03T06:20:00+11:00"),
        run(TUESDAY, Launcher.SCHEDULE, "2026-03-04T06:00:00+11:00", ok=False),
        run(TUESDAY, Launcher.PERSON, "2026-03-04T07:00:00+11:00"),
        run(TUESDAY, Launcher.PERSON, "2026-03-04T12:00:00+11:00"),  # for portfolios held back, say
        run(WEDNESDAY, Launcher.SCHEDULE, "2026-04-01T00:30:00+11:00"),
    ]
    late = Judgment(FEED.name, due(FEED, TUESDAY), None, Punctuality.MISSING)
    months = count(FEED.name, runs, [late])
    march = months["2026-03"]
    assert (march.runs, march.failed_runs, march.automatic_repairs, march.manual_retriggers) == (6, 3, 2, 2)
    assert march.manual_by_reason == {"after a failure": 1, "run again": 1}
    assert (march.repaired_dates, march.mean_seconds_to_repair, march.late_deliveries) == (2, 40 * 60, 1)
    assert months["2026-04"].mean_seconds_to_repair is None
    since = at("2026-03-15T00:00:00+11:00")
    assert [month.month for month in keep(local_store, FEED, months, since)] == ["2026-03", "2026-04"]
    # A month with only a part still on record keeps the counts of the whole.
    fewer = count(FEED.name, runs[-1:], [])
    fewer["2026-03"] = march.model_copy(update={"runs": 1})
    assert keep(local_store, FEED, fewer, since)[0].runs == 6


def test_toil_counts_manual_runs_by_reason() -> None:
    def by_hand(day: dt.date, started: str, **tags: str) -> LaunchedRun:
        spelled = {name.replace("__", "/"): value for name, value in tags.items()}
        reason = stated_reason(spelled, reconciliation="reconciliation" in tags)
        return dataclasses.replace(run(day, Launcher.PERSON, started), manual_reason=reason)

    old = dt.date(2026, 1, 15)
    runs = [
        by_hand(MONDAY, "2026-03-03T06:30:00+11:00"),  # no schedule had started it
        by_hand(MONDAY, "2026-03-03T08:00:00+11:00"),
        by_hand(old, "2026-03-03T08:10:00+11:00"),  # its first run is no longer on record
        by_hand(TUESDAY, "2026-03-04T08:00:00+11:00", dagster__backfill="b"),
        by_hand(TUESDAY, "2026-03-04T09:00:00+11:00", classfeed__rerun="reruns/x", classfeed__launched_by="support"),
        by_hand(TUESDAY, "2026-03-04T10:00:00+11:00", reconciliation="yes"),
    ]
    march = count(FEED.name, runs, [])["2026-03"]
    assert march.manual_by_reason == {
        "asked for by support": 1,
        "backfill": 1,
        "reconciliation": 1,
        "run again": 2,
        "missed by the schedule": 1,
    }
    assert (march.manual_retriggers, march.runs) == (6, 5)
    assert stated_reason({"dagster/sensor_name": "x"}, reconciliation=True) is None
    copied = {"classfeed/rerun": "reruns/x", "dagster/backfill": "b", "dagster/parent_run_id": "a"}
    assert stated_reason(copied, reconciliation=False) is None  # the history states why it was executed again


def test_month_stored_before_reasons_were_counted_can_be_read() -> None:
    fields = dict.fromkeys(Month.model_fields.keys() - {"schema_version", "feed", "month", "manual_by_reason"}, 1)
    assert Month.model_validate({"feed": "class_super", "month": "2026-01", **fields}).manual_by_reason == {}


def test_held_back_counts_portfolios_not_dates_nor_ended_consents() -> None:
    def record(number: str, day: int, kind: str) -> Quarantined:
        since = dt.datetime(2026, 3, day, 20, tzinfo=dt.UTC)
        return Quarantined(
            feed=FEED.name,
            business_date=dt.date(2026, 3, day),
            held_back=HeldBack.model_validate({"number": number, "kind": kind, "reason": "x"}),
            status="HELD",
            held_since=since,
            changed_at=since,
            correlation_id="c",
        )

    hold = [record("SW1", day, "WAITING") for day in range(3, 20)]
    hold += [record("SW1", 2, "RULE"), record("SW2", 5, "WAITING")]
    hold += [record(f"SW9{day}", day, "CONSENT_ENDED") for day in range(1, 4)]
    hold += [record("SW7", 1, "RULE").model_copy(update={"delivered_in": 0})]  # its data went, and was spoilt since
    result = summarize(hold, dt.datetime(2026, 3, 20, 20, tzinfo=dt.UTC))
    assert result.by_reason == {"RULE": 1, "WAITING": 1, "CONSENT_ENDED": 3}
    assert (result.lacking_data, result.oldest) == (2, dt.timedelta(days=18))
    assert summarize([], dt.datetime(2026, 3, 20, tzinfo=dt.UTC)).oldest == dt.timedelta()


@pytest.mark.parametrize(
    ("tags", "who"),
    [
        ({"dagster/schedule_name": "class_super_morning"}, Launcher.SCHEDULE),
        ({"dagster/sensor_name": "repair", "classfeed/launched_by": "repair"}, Launcher.REPAIR),
        ({"dagster/schedule_name": "class_super_morning", "dagster/retry_number": "1"}, Launcher.REPAIR),
        ({"dagster/backfill": "abc"}, Launcher.PERSON),
        ({"classfeed/now": "2026-03-03T19:00:00+00:00"}, Launcher.REHEARSAL),
        ({"dagster/schedule_name": "class_super_morning", "dagster/parent_run_id": "a"}, Launcher.PERSON),
        ({"classfeed/launched_by": "repair", "dagster/parent_run_id": "a"}, Launcher.PERSON),
        ({"classfeed/now": "2026-03-03T19:00:00+00:00", "dagster/parent_run_id": "a"}, Launcher.PERSON),
        ({"dagster/retry_number": "1", "dagster/parent_run_id": "a"}, Launcher.REPAIR),
        ({}, Launcher.PERSON),
    ],
)
def test_launcher_is_read_from_the_runs_tags(tags: dict[str, str], who: Launcher) -> None:
    assert launcher(tags) is who


def test_runs_are_counted_and_deleted_when_they_are_old() -> None:
    @dg.job(name="class_super_job")
    def empty() -> None: ...

    @dg.job(name="other_job")
    def other() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        for moment, job in (("2025-01-02", empty), ("2026-03-03", empty), ("2026-03-03", other)):
            with time_machine.travel(f"{moment}T00:00:00+00:00", tick=True):
                job.execute_in_process(instance=instance, tags={"dagster/partition": "2026-03-02"})
        with time_machine.travel("2026-03-03T01:00:00+00:00", tick=True):
            empty.execute_in_process(instance=instance)  # of no date
            empty.execute_in_process(instance=instance, tags={"dagster/partition": "x"})  # a tag of a person
            instance.create_run_for_job(empty, tags={"dagster/partition": "2026-03-02"})
        since = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
        (result,) = launched_runs(instance, "class_super", since)
        assert (result.business_date, result.launcher, result.succeeded) == (MONDAY, Launcher.PERSON, True)
        assert purge_runs(instance, since, at_most=0) == 0
        assert purge_runs(instance, since) == 1
        assert len(instance.get_runs()) == 5
        assert purge_runs(instance, dt.datetime(2030, 1, 1, tzinfo=dt.UTC)) == 4  # what is not finished stays


@pytest.mark.parametrize(
    ("chosen", "counted"),
    [
        (["class_super", "source_reconciliation"], {"class_super": "part of a date"}),
        (["class_cash", "transmission"], {"class_cash": "part of a date"}),
        (["warehouse", "class_cash", "fact_delivery"], {"class_cash": "part of a date"}),
        (["landing", "trade"], {"class_super": "part of a date"}),  # counted once, by the feed that counts shared runs
        (["class_super", "delivery"], {"class_super": None}),
        (None, {}),
    ],
)
def test_launched_runs_of_chosen_assets_belong_to_their_feed(
    chosen: list[str] | None, counted: dict[str, str | None]
) -> None:
    keys = [] if chosen is None else [dg.AssetKey(chosen)]
    assets = [dg.AssetSpec(key) for key in keys]

    @dg.multi_asset(specs=assets or [dg.AssetSpec("other")], name="chosen")
    def make() -> Iterator[dg.MaterializeResult[None]]:
        for spec in assets or [dg.AssetSpec("other")]:
            yield dg.MaterializeResult(spec.key)

    definitions = dg.Definitions([make], jobs=[dg.define_asset_job("by_hand", "*")])
    job = definitions.resolve_job_def("by_hand")
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(
            job, tags={"dagster/partition": "2026-03-02"}, asset_selection=frozenset(keys) or None
        )
        instance.report_run_canceled(run)
        since = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        result = {
            feed: (runs[0].manual_reason, runs[0].delivers)
            for feed in ("class_super", "class_cash")
            if (runs := launched_runs(instance, feed, since, shared=feed == "class_super"))
        }
        assert result == {feed: (reason, False) for feed, reason in counted.items()}
        if counted:
            month = count(FEED.name, launched_runs(instance, next(iter(counted)), since, shared=True), [])
            assert [(item.manual_retriggers, item.runs) for item in month.values()] == [(1, 0)]


def test_parity_run_of_a_person_is_counted_and_delivers_nothing() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions().resolve_job_def("class_trade_parity_job")
        for tags in ({}, {"dagster/sensor_name": "parity"}):
            run = instance.create_run_for_job(job, tags={"dagster/partition": "2026-03-02", **tags})
            instance.report_run_canceled(run)
        since = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        launched = {feed: launched_runs(instance, feed, since, shared=True) for feed in ("class_super", "class_trade")}
    assert launched["class_super"] == []
    (only,) = launched["class_trade"]
    assert (only.manual_reason, only.delivers) == ("parity", False)


def test_probe_is_due_by_interval_and_after_an_event() -> None:
    probe, now, second = facts.Probe(300), dt.datetime(2026, 3, 1, tzinfo=dt.UTC), dt.timedelta(seconds=1)
    assert probe.is_due(now)
    assert not probe.is_due(now + 10 * second)
    assert not probe.is_due(now + 10 * second, now - second)
    assert probe.is_due(now + 10 * second, now + 5 * second)
    assert not probe.is_due(now + 20 * second, now + 5 * second)
    assert probe.is_due(now + 310 * second)


def test_freshness_is_the_newest_date_not_the_latest_delivery(
    local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: set[dt.date] = set()
    delivery = Delivery(0, at("2026-03-05T08:00:00+11:00"), at("2026-03-05T07:00:00+11:00"), 2, 0)
    monkeypatch.setattr(service_levels, "deliveries", lambda _store, _feed, day: (delivery,) if day in sent else ())
    now = at("2026-03-05T08:00:00+11:00")  # Wednesday is due, its deadline in an hour
    assert freshness(local_store, FEED, DAILY, now) == Freshness(None, 2)
    sent.add(TUESDAY)
    assert freshness(local_store, FEED, DAILY, now) == Freshness(TUESDAY, 1)
    sent.add(MONDAY)  # the old day, delivered last
    assert freshness(local_store, FEED, DAILY, now) == Freshness(TUESDAY, 0)
    assert freshness(local_store, FEED, DAILY, now + dt.timedelta(hours=1)) == Freshness(TUESDAY, 1)
