"""Refreshes as the support group asks for them: granted, refused, delivered by the real job, on record."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from classfeed_dagster.alerting.alerts import incidents
from classfeed_dagster.delivery.delivery_history import latest_date
from classfeed_dagster.delivery.manifest import ChainEntry
from classfeed_dagster.feed_run.flags import flag_values
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome, run_date
from classfeed_dagster.orchestration.run_history import run_reader
from classfeed_dagster.repair.decisions import Policy, decide_all
from classfeed_dagster.repair.facts import gather
from classfeed_dagster.stored_records import chain_key, to_json
from classfeed_dagster.support.alb_identity import HEADER
from classfeed_dagster.support.customer import read_date
from classfeed_dagster.support.evidence import date_evidence
from classfeed_dagster.support.portfolio_search import PortfolioSearch
from classfeed_dagster.support.refreshes import RefreshNotDeliveredError, request_refresh, require_refreshed
from classfeed_dagster.support.rerun_page import WebserverActions, application
from classfeed_dagster.support.reruns import Requester, RerunRefusedError, requests
from classfeed_dagster.tags import CLOCK_TAG, LAUNCHED_BY_TAG, RERUN_TAG
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter, monday_delivered_without_the_first
from classfeed_dagster_tests.support.test_reruns import PUBLIC_KEY, SIGNER, Page, signed

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
DAY = dt.date(2026, 3, 2)
PAT = Requester("pat", frozenset({"classfeed-support"}))
REASON = "the recipient has lost the history of this fund"


def ask(desk: Desk, number: str, who: Requester = PAT, feed: Feed | None = None, **options: Any) -> tuple[str, dt.date]:
    declared = feed or desk.feed("class_super")
    defaults: dict[str, Any] = {"under_way": lambda _: False, "correlation_id": "c" * 32}
    mode = flag_values(declared, desk.runtime.settings.env).mode
    return request_refresh(desk.runtime, declared, number, who, REASON, mode=mode, **(defaults | options))


def deliver(desk: Desk, day: str = MONDAY, tags: Mapping[str, str] | None = None) -> Any:
    date = dt.date.fromisoformat(day)
    clock = {CLOCK_TAG: morning_after(date).isoformat()}
    return run_date(desk.definitions, desk.instance, "class_super", date, tags=clock | dict(tags or {}))


def two_dates_delivered(desk: Desk) -> None:
    first, _ = desk.two_customers()
    desk.end_of_day(MONDAY)
    deliver(desk)
    first.deposit("5.00", TUESDAY)
    desk.end_of_day(TUESDAY)
    deliver(desk, TUESDAY)


@pytest.fixture
def desk(live_desk_after: DeskAfter) -> Desk:
    return live_desk_after(two_dates_delivered)


@pytest.fixture
def funds(desk: Desk) -> list[Portfolio]:
    """Return three customers: one delivered on Monday in full, one on Tuesday by window, one that never consents."""
    return desk.bigsite.portfolios


def test_refresh_is_delivered_by_the_job_and_on_record(desk: Desk, funds: list[Portfolio]) -> None:
    number = funds[0].number
    assert latest_date(desk.runtime.store, "class_super") == dt.date(2026, 3, 3)
    with pytest.raises(RefreshNotDeliveredError, match="was not sent in full with 2026-03-03"):
        require_refreshed(desk.runtime, desk.feed("class_super"), number, dt.date(2026, 3, 3))
    with desk.at("2026-03-04T10:00:00+11:00"):
        key, day = ask(desk, number)
        report = deliver(desk, day.isoformat(), {LAUNCHED_BY_TAG: "support", RERUN_TAG: key})
        assert report.outcome is Outcome.DELIVERED
        require_refreshed(desk.runtime, desk.feed("class_super"), number, day)
        with pytest.raises(RerunRefusedError, match=r"was sent in full with 2026-03-03 \(revision 1\)"):
            ask(desk, number)
    (portfolio,) = desk.manifest(TUESDAY, 1).portfolios
    assert (portfolio.number, portfolio.change, portfolio.extract) == (number, "CURRENT", "FULL")
    disclosures, _ = read_date(
        desk.runtime.store, desk.feed("class_super"), day, PortfolioSearch(desk.runtime.store, number)
    )
    assert [(entry.revision, entry.extract) for entry in disclosures] == [(0, "DELTA"), (1, "FULL")]
    accepted, declined = requests(desk.runtime.store, "class_super")
    assert (accepted.portfolio_number, accepted.requested_by, accepted.reason) == (number, "pat", REASON)
    assert declined.outcome == "REFUSED"
    (act, _) = date_evidence(desk.runtime, desk.feed("class_super"), day).interventions
    assert act.action == f"refresh of {number} accepted"


def refresh_incidents(desk: Desk, at: dt.datetime) -> dict[str, tuple[tuple[str, ...], str]]:
    feeds = [desk.feed("class_super")]
    observations = gather(desk.runtime, run_reader(desk.instance), feeds, at, ask_changes=False)
    decisions = decide_all(observations.facts, at, Policy())
    return {
        incident.key: (incident.offenders, f"{incident.doing} {'; '.join(d.reason for d in decisions if d.run_key)}")
        for incident in incidents(observations, decisions, {}, held_back_alert=100)
    }


def test_refresh_that_no_run_delivers_is_repaired_and_reported(desk: Desk, funds: list[Portfolio]) -> None:
    granted = dt.datetime(2026, 3, 3, 23, tzinfo=dt.UTC)
    hour = dt.timedelta(hours=1)
    number, key = funds[0].number, "refresh-not-delivered.class_super"
    with desk.at("2026-03-04T10:00:00+11:00"):
        _, day = ask(desk, number)  # its run is never started
    assert refresh_incidents(desk, granted + hour / 2) == {}
    offenders, doing = refresh_incidents(desk, granted + 2 * hour)[key]
    assert offenders == (number,)
    assert doing == "Repair runs the date once more. a refresh was granted and no run has delivered it"
    # The next date is delivered first.
    tomorrow = granted + 24 * hour
    desk.bigsite.end_of_day("2026-03-04")
    desk.bigsite.save()
    deliver(desk, "2026-03-04")
    assert "lapsed" in refresh_incidents(desk, tomorrow)[key][1]
    with desk.at("2026-03-05T10:00:00+11:00"):
        _, day = ask(desk, number)
        deliver(desk, day.isoformat())
    assert refresh_incidents(desk, tomorrow + 3 * hour) == {}


def refused(desk: Desk, says: str, number: str, who: Requester = PAT, **options: Any) -> None:
    with desk.at("2026-03-04T10:00:00+11:00"), pytest.raises(RerunRefusedError, match=says):
        ask(desk, number, who, **options)


def test_refresh_is_refused_with_the_reason(desk: Desk, funds: list[Portfolio]) -> None:
    number, stranger = funds[0].number, funds[2].number
    refused(desk, "only members of classfeed-support", number, Requester("pat", frozenset({"analysts"})))
    refused(desk, "bigsite has no portfolio 'SW9'", "SW9")
    refused(desk, "a portfolio number has letters", "../SW9")
    refused(desk, f"{stranger} does not consent to sharing with CLASS now", stranger)
    refused(desk, "a run of 2026-03-03 is in progress", number, under_way=lambda day: day == dt.date(2026, 3, 4))
    for mode, says in {"shadow": "class_super is in shadow", "off": "class_super is switched off"}.items():
        desk.switch(mode={"class_super": mode})
        refused(desk, says, number)
    desk.switch(mode={"class_super": "live"})
    funds[2].consent(granted_at="2026-03-03T20:00:00Z")
    desk.bigsite.save()
    refused(desk, "consented after the cut-off of 2026-03-03", stranger)
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text("UPDATE bigsite.data_sharing_consent SET revoked_at = '2026-03-03T21:00Z'"))
    refused(desk, f"{number} does not consent to sharing with CLASS now", number)
    entry = ChainEntry(feed="class_super", business_date=dt.date(2026, 3, 4), revision=0)
    desk.runtime.store.create(chain_key("class_super", 3), to_json(entry))
    refused(desk, "the delivery of 2026-03-04 has begun and is not finished", number)
    assert not list(desk.runtime.store.list("reruns/refreshed/"))


def test_refresh_of_a_held_back_portfolio_is_refused_in_its_words(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered_without_the_first)
    first, *_ = desk.bigsite.portfolios
    with desk.at("2026-03-03T10:00:00+11:00"), pytest.raises(RerunRefusedError, match="is held back on 2026-03-02"):
        ask(desk, first.number)


def test_refresh_of_a_late_consent_is_sent_at_once_if_declared(desk: Desk, funds: list[Portfolio]) -> None:
    late = funds[2]
    late.consent(granted_at="2026-03-03T14:00:00Z")
    desk.bigsite.save()
    feed = dataclasses.replace(desk.feed("class_super"), sends_new_at_once=True)
    with desk.at("2026-03-04T10:00:00+11:00"):
        _, day = ask(desk, late.number, feed=feed)
        deliver(desk, day.isoformat())
    (portfolio,) = desk.manifest(TUESDAY, 1).portfolios
    assert (portfolio.number, portfolio.change, portfolio.extract) == (late.number, "NEW", "FULL")


# The pages.


@pytest.fixture
def page(desk: Desk) -> Page:
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"door_signer": SIGNER, "lookup_budget": 2})
    started: list[Any] = []

    def launch(*launched: Any) -> str:
        started.append(launched)
        return "run-1"

    app = application(
        desk.runtime,
        WebserverActions(lambda *_: False, launch),
        lambda _: PUBLIC_KEY,
        lambda: dt.datetime(2026, 3, 3, 23, tzinfo=dt.UTC),
    )
    page_of_desk = Page(app)
    page_of_desk.started = started  # type: ignore[attr-defined]
    return page_of_desk


def post(
    page: Page, path: str, token: str = "", origin: str = "https://classfeed.broker.example", **fields: str
) -> Any:
    headers = {HEADER: token or signed(), "origin": origin}
    return page.request("POST", f"/rerun/{path}", content=urlencode(fields), headers=headers)


def test_page_refresh_starts_the_run_of_the_latest_date(desk: Desk, funds: list[Portfolio], page: Page) -> None:
    form = {"feed": "class_super", "portfolio": funds[0].number, "reason": REASON}
    with desk.at("2026-03-04T10:00:00+11:00"):
        answer = post(page, "refresh", **form)
        assert answer.status_code == 202, answer.text
        assert post(page, "refresh", **(form | {"portfolio": "SW00000009"})).status_code == 403
        assert post(page, "refresh", **(form | {"portfolio": "../x"})).status_code == 400
        assert post(page, "refresh", **(form | {"date": "2026-03-02"})).status_code == 400
        assert post(page, "refresh", origin="https://evil.example", **form).status_code == 400
        assert post(page, "refresh", token="x", **form).status_code == 401
        assert post(page, "refresh", token=signed(("analysts",)), **form).status_code == 403
    ((feed, day, tags),) = page.started  # type: ignore[attr-defined]
    assert (feed, day, tags[RERUN_TAG]) == ("class_super", dt.date(2026, 3, 3), "reruns/class_super/00000001.json")


def test_page_customer_is_shown_to_members_and_recorded(desk: Desk, funds: list[Portfolio], page: Page) -> None:
    number = funds[0].number
    store = desk.runtime.store
    assert post(page, "customer", token="x", portfolio=number).status_code == 401
    assert post(page, "customer", token=signed(("analysts",)), portfolio=number).status_code == 403
    assert post(page, "customer", origin="https://evil.example", portfolio=number).status_code == 400
    assert not list(store.list("reruns/lookups/"))
    answer = post(page, "customer", portfolio=number)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "CLASS was sent the data of 3 March 2026 (revision 0)." in answer.text
    assert post(page, "customer", portfolio="SW9").status_code == 400
    refused = post(page, "customer", portfolio=number)
    assert refused.status_code == 403
    assert "which is the limit" in refused.text
    first, second = (store.read(key).decode() for key in store.list("reruns/lookups/"))
    assert '"looked_up_by":"pat"' in first
    assert number in first
    assert "SW9" in second
    assert page.request("GET", "/rerun/customer", headers={HEADER: signed()}).status_code == 405
