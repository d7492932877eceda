"""Notices before a consent expires: each end once for each lead time, over simulated days with gaps."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from classfeed_dagster.feed_run.expiry_notices import ExpiryNotices, notices_key, read_notices, write_notices
from classfeed_dagster.settings import Settings
from classfeed_dagster.stored_records import from_json
from classfeed_dagster.support.customer import customer_history
from classfeed_dagster_tests.fixtures.desk import Desk

START = dt.datetime(2026, 3, 1, 22, 10, tzinfo=dt.UTC)  # 2 March, 09:10 in Sydney
LEADS = (7, 30)


def list_of(desk: Desk, day: int) -> list[tuple[str, int]]:
    record = write_notices(desk.runtime, ["CLASS"], LEADS, START + dt.timedelta(days=day))
    return [(entry.portfolio_number, entry.lead_days) for entry in record.notices]


@pytest.fixture
def consents(desk: Desk) -> Desk:
    """Return a desk with consents that end after 40 days, after 20, never, and two of one portfolio."""
    ends_by_number: dict[str, list[str | None]] = {
        "SW1": ["2026-04-11"],
        "SW2": ["2026-03-22"],
        "SW3": [None],
        "SW4": ["2026-03-12", None],
    }
    for number, ends in ends_by_number.items():
        portfolio = desk.bigsite.portfolio(number)
        for end in ends:
            portfolio.consent(granted_at="2026-02-20T00:00:00Z", **({"expires_at": f"{end}T00:00:00Z"} if end else {}))
    desk.bigsite.portfolio("SW5").consent(granted_at="2026-02-20T00:00:00Z", revoked_at="2026-02-25T00:00:00Z")
    desk.bigsite.save()
    return desk


def test_notices_list_each_end_once_for_each_lead_time(consents: Desk) -> None:
    lists = {day: list_of(consents, day) for day in range(45)}
    assert {day: entries for day, entries in lists.items() if entries} == {
        0: [("SW2", 30)],
        11: [("SW1", 30)],
        14: [("SW2", 7)],
        34: [("SW1", 7)],
    }
    assert list_of(consents, 11) == [("SW1", 30)]  # run again: the stored list


def test_notices_missed_days_are_caught_up(consents: Desk) -> None:
    assert list_of(consents, 0) == [("SW2", 30)]
    assert list_of(consents, 15) == [("SW1", 30), ("SW2", 7)]
    with consents.runtime.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE bigsite.data_sharing_consent SET expires_at = expires_at + interval '1 year'")
        )
    assert list_of(consents, 16) == []


def test_notices_hold_numbers_and_no_names(consents: Desk) -> None:
    list_of(consents, 0)
    store = consents.runtime.store
    data = store.read("notices/consent-expiry/2026-03-02.json")
    record = from_json(ExpiryNotices, data, "x")
    assert record.notices[0].ends_at == dt.datetime(2026, 3, 22, tzinfo=dt.UTC)
    assert b"name" not in data
    assert [entry.date for entry in read_notices(store, dt.date(2026, 3, 1), dt.date(2026, 3, 9))] == [
        dt.date(2026, 3, 2)
    ]


def test_notices_are_made_by_the_daily_report_and_shown_of_a_customer(consents: Desk) -> None:
    with consents.at("2026-03-02T09:10:00+11:00"):
        job = consents.definitions.resolve_job_def("operations_report")
        result = job.execute_in_process(instance=consents.instance, raise_on_error=False)
        assert result.success
        (event,) = result.asset_materializations_for_node("operations__consent_expiry")
        (feed,) = customer_history(consents.runtime, [consents.feed("class_super")], "SW2", now=START).feeds
        (other,) = customer_history(consents.runtime, [consents.feed("class_super")], "SW4", now=START).feeds
    assert event.metadata["notices"].value == 1
    assert event.metadata["within_30_days"].value == 1
    assert consents.runtime.store.exists(notices_key(dt.date(2026, 3, 2)))
    assert (feed.ends_at, feed.noticed_on) == (dt.datetime(2026, 3, 22, tzinfo=dt.UTC), dt.date(2026, 3, 2))
    assert (other.ends_at, other.noticed_on) == (None, None)


@pytest.mark.parametrize(("text", "leads"), [("30,7", (7, 30)), ("", ()), ("14,14", (14,))])
def test_setting_of_lead_times_is_read(text: str, leads: tuple[int, ...]) -> None:
    assert Settings(expiry_notice_days=text).expiry_notice_leads == leads
