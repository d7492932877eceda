"""The owner's numbers: observations are kept as they are, months follow from them, and the page states them."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest

from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import ServiceLevel
from classfeed_dagster.service_levels import toil
from classfeed_dagster.service_levels.metrics import METRICS, NUMBERS
from classfeed_dagster.service_levels.observations import Observation, observations, record
from classfeed_dagster.service_levels.owner_months import (
    OwnerFigure,
    OwnerMonth,
    close_month,
    compute_month,
    history,
    median_and_p95,
    months_until,
)
from classfeed_dagster.service_levels.owner_page import figure_rows, owner_page, value_text
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import to_json

NOW = dt.datetime(2026, 3, 20, 22, 30, tzinfo=dt.UTC)
FEEDS_SHOWN = ["class_super"]
_numbers = iter(range(1000))


def observe(store: ObjectStore, source: str, at: dt.datetime = NOW, **values: Any) -> None:
    common = {name: values.pop(name) for name in ("feed", "business_date", "correlation_id") if name in values}
    observation = Observation(source=source, at=at, values={name: Decimal(v) for name, v in values.items()}, **common)
    assert record(store, f"{next(_numbers):04d}", observation)


def figure_of(store: ObjectStore, metric: str, feed: str | None = None, month: str = "2026-03") -> OwnerFigure:
    figure = compute_month(store, FEEDS_SHOWN, month, NOW).find(metric, feed)
    assert figure is not None
    return figure


def test_observation_is_never_overwritten(store: ObjectStore) -> None:
    first = Observation(source="forge", at=NOW, values={"open_bugfixes": Decimal(3)})
    assert record(store, "a", first)
    assert not record(store, "a", first.model_copy(update={"values": {"open_bugfixes": Decimal(0)}}))
    damaged: list[str] = []
    assert list(observations(store, "2026-03", damaged)) == [first]
    assert list(observations(store, "2026-02", damaged)) == []
    assert damaged == []


@pytest.mark.parametrize("value", ["much", "NaN", "-1", "1E+999999"])
def test_damaged_observation_is_named_and_hides_no_other(local_store: ObjectStore, value: str) -> None:
    observe(local_store, "forge", open_bugfixes=4)
    key = "owner-numbers/2026-03/pipeline/7-1.json"
    record = {"source": "pipeline", "at": "2026-03-04T00:00:00Z", "values": {"pipeline_seconds": value}}
    local_store.put(key, json.dumps(record).encode())
    month = compute_month(local_store, FEEDS_SHOWN, "2026-03", NOW)
    assert [(figure.metric, figure.value) for figure in month.figures] == [("open_bugfixes", Decimal(4))]
    assert month.damaged == (key,)
    assert f"Observations that cannot be read: {key}." in owner_page([month])


def test_month_of_an_observation_is_sydneys_or_its_business_dates() -> None:
    evening = dt.datetime(2026, 3, 31, 14, 0, tzinfo=dt.UTC)  # 1 April in Sydney
    assert Observation(source="x", at=evening, values={}).month == "2026-04"
    assert Observation(source="x", at=evening, business_date=dt.date(2026, 3, 30), values={}).month == "2026-03"


def test_month_of_four_dates_has_their_share_on_time(local_store: ObjectStore) -> None:
    for day, on_time in ((2, 1), (3, 1), (4, 0), (5, 1)):
        date = dt.date(2026, 3, day)
        observe(local_store, "punctuality", feed="class_super", business_date=date, on_time=on_time)
    figure = figure_of(local_store, "on_time_percent", "class_super")
    assert (figure.value, figure.target, figure.observations) == (Decimal(75), Decimal(100), 4)


def test_cost_of_a_date_adds_up_its_attempts(local_store: ObjectStore) -> None:
    for day, seconds in ((2, "10.5"), (2, "2.25"), (3, "20"), (4, "30")):
        date = dt.date(2026, 3, day)
        observe(local_store, "cost", feed="class_super", business_date=date, compute_seconds=seconds)
    figure = figure_of(local_store, "compute_seconds", "class_super")
    assert (figure.value, figure.p95, figure.target, figure.observations) == (Decimal(20), Decimal(29), None, 3)
    observe(local_store, "credits", feed="class_super", business_date=dt.date(2026, 3, 2), snowflake_credits="0.000125")
    assert figure_of(local_store, "snowflake_credits", "class_super").value == Decimal("0.000125")


def test_pipeline_is_compared_with_its_stated_baseline(local_store: ObjectStore) -> None:
    for seconds in (2000, 2400, 2200):
        observe(
            local_store, "pipeline", pipeline_seconds=seconds, pipeline_baseline_seconds=3000,
            pipeline_target_seconds="2100", coverage_percent="96.91",
        )  # fmt: skip
    figure = figure_of(local_store, "pipeline_seconds")
    assert (figure.value, figure.p95, figure.target, figure.baseline) == tuple(map(Decimal, (2200, 2380, 2100, 3000)))
    page = owner_page([compute_month(local_store, FEEDS_SHOWN, "2026-03", NOW)])
    assert "Build and deployment: 26.7 % less than the old pipeline, 50 min." in page
    assert "1 of 2 targets met" in page
    assert 'class="verdict warning"' in page


def test_latest_observation_of_the_month_counts(local_store: ObjectStore) -> None:
    observe(local_store, "forge", NOW, open_tech_debt=7)
    observe(local_store, "forge", NOW - dt.timedelta(days=1), open_tech_debt=9)
    assert figure_of(local_store, "open_tech_debt").value == 7


def test_unplanned_retriggers_exclude_backfills(local_store: ObjectStore) -> None:
    fields = dict.fromkeys(toil.Month.model_fields.keys() - {"schema_version", "feed", "month", "manual_by_reason"}, 5)
    reasons = {"backfill": 3, "after a failure": 2}
    month = toil.Month.model_validate({"feed": FEED.name, "month": "2026-03", **fields, "manual_by_reason": reasons})
    local_store.put("toil/class_super/2026-03.json", to_json(month))
    figure = figure_of(local_store, "manual_retriggers", "class_super")
    assert (figure.value, figure.target, figure.note) == (Decimal(2), Decimal(0), "2 after a failure")
    assert compute_month(local_store, FEEDS_SHOWN, "2026-02", NOW).figures == ()


def test_month_is_closed_once_and_keeps_its_target(local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    observe(local_store, "mutation", mutation_percent=93)
    assert not close_month(local_store, FEEDS_SHOWN, "2026-03", dt.datetime(2026, 4, 10, tzinfo=dt.UTC))
    late = dt.datetime(2026, 4, 12, tzinfo=dt.UTC)
    assert close_month(local_store, FEEDS_SHOWN, "2026-03", late)
    assert not close_month(local_store, FEEDS_SHOWN, "2026-03", late)
    assert not close_month(local_store, FEEDS_SHOWN, "2026-02", late)  # nothing was recorded: it may come
    monkeypatch.setattr("classfeed_dagster.service_levels.owner_months.NUMBERS", {})
    observe(local_store, "mutation", mutation_percent=10)
    (march, april) = history(local_store, [], "2026-04", late, 2)
    assert [(figure.value, figure.target) for figure in march.figures] == [(Decimal(93), Decimal(90))]
    assert april.figures == ()


def test_history_has_the_last_months_in_order() -> None:
    assert months_until("2026-03", 4) == ["2025-12", "2026-01", "2026-02", "2026-03"]
    assert len(months_until("2026-03")) == 12


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["5"], ("5", "5")), (["1", "2"], ("1.5", "1.95")), ([str(n) for n in range(101)], ("50", "95"))],
)
def test_median_and_p95_are_exact(values: list[str], expected: tuple[str, str]) -> None:
    assert median_and_p95([Decimal(value) for value in values]) == tuple(map(Decimal, expected))


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("pipeline_seconds", "119", "119 s"),
        ("pipeline_seconds", "2040", "34 min"),
        ("review_to_merge_seconds", "90000", "25 h"),
        ("review_to_merge_seconds", "600000", "6.9 days"),
        ("store_bytes", "4200000", "4.2 MB"),
        ("coverage_percent", "96.91", "96.9 %"),
        ("store_requests", "1234", "1,234"),
        ("snowflake_credits", "0.0125", "0.013"),
        ("no_longer_declared", "7", "7"),
    ],
)
def test_value_is_shown_in_a_suitable_unit(metric: str, value: str, text: str) -> None:
    figure = OwnerFigure(metric=metric, value=Decimal(value), observations=1)
    assert value_text(figure, figure.value) == text


def test_page_shows_change_against_the_month_before_and_what_is_missing() -> None:
    def month(name: str, *figures: OwnerFigure) -> OwnerMonth:
        return OwnerMonth(month=name, computed_at=NOW, figures=figures)

    def coverage(value: str) -> OwnerFigure:
        return OwnerFigure(metric="coverage_percent", value=Decimal(value), target=Decimal(96), observations=1)

    old = OwnerFigure(metric="old_number", feed="<b>", value=Decimal(1), observations=1)
    months = [month("2026-02", coverage("95.5")), month("2026-03", coverage("97"), old)]
    assert figure_rows(months) == [
        ("Coverage", "97 %", "at least 96 %", "met", "", "95.5 %"),
        ("old_number, <b>", "1", "none agreed", "", "", ""),
    ]
    page = owner_page(months)
    assert "old_number, &lt;b&gt;" in page
    assert "2026-02: 95.5, 2026-03: 97" in page
    assert "No observation this month: Unplanned manual re-triggers, Deliveries on time" in page
    assert 'class="verdict good"' in page


def test_numbers_are_the_metrics_of_the_owners_row() -> None:
    assert list(NUMBERS) == [name for name, metric in METRICS.items() if metric.of_owner]
    level = ServiceLevel()
    hours = level.target.hour - FEED.starts_at.hour
    assert NUMBERS["median_date_seconds"].target == 3600 * hours
    assert {feed.name for feed in FEEDS}.isdisjoint({"project"})


def test_page_of_a_month_without_numbers_claims_no_target() -> None:
    page = owner_page([OwnerMonth(month="2026-03", computed_at=NOW, figures=())])
    assert "No target can be judged yet" in page
    assert "targets met" not in page
    assert 'class="verdict good"' not in page
    assert "This month" not in page
    assert "History" not in page
