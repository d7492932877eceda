"""One customer's history: consents, deliveries, holds, and the answer in words for the customer."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from openfeature import api
from typer.testing import CliRunner

from classfeed_dagster.bigsite.portfolio_number import UnknownPortfolioError
from classfeed_dagster.cli import app as cli
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.settings import get_settings
from classfeed_dagster.support.customer import CustomerFeed, LedgerGapError, customer_history
from classfeed_dagster.support.customer_page import disclosure_page
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import (
    DeskAfter,
    monday_delivered,
    monday_delivered_without_the_first,
)

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"


def history(desk: Desk, number: str, on: str | None = None, feed: str = "class_super") -> CustomerFeed:
    date = None if on is None else dt.date.fromisoformat(on)
    now = desk.runtime.settings.now
    assert now is not None
    (entry,) = customer_history(desk.runtime, [desk.feed(feed)], number, now=now, on=date).feeds
    return entry


def test_customer_two_delivered_dates_are_listed_newest_first(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    first, *_ = desk.bigsite.portfolios
    desk.end_of_day(TUESDAY)
    with desk.at("2026-03-04T06:00:00+11:00"):
        desk.deliver(TUESDAY)
        entry = history(desk, first.number)
        everything = customer_history(
            desk.runtime, [desk.feed("class_super")], first.number, now=dt.datetime(2026, 3, 3, 19, tzinfo=dt.UTC)
        )
        page = disclosure_page(desk.runtime.store, everything, dt.datetime(2026, 3, 3, 19, tzinfo=dt.UTC))
    assert [(sent.business_date.isoformat(), sent.change, sent.extract) for sent in entry.disclosures] == [
        (TUESDAY, "CURRENT", "DELTA"),
        (MONDAY, "NEW", "FULL"),
    ]
    assert entry.disclosures[0].consent_ids == tuple(consent.consent_id for consent in entry.consents)
    assert entry.answer == "CLASS was sent the data of 3 March 2026 (revision 0)."
    assert entry.next_at == dt.datetime(2026, 3, 4, 19, tzinfo=dt.UTC)
    assert everything.since == dt.date(2026, 3, 2)
    monday = desk.manifest(TUESDAY).previous  # as the chain names it
    assert monday is not None
    assert f">{monday.sha256}</td>" in page


def test_customer_history_without_a_ledger_file_is_refused(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    first, *_ = desk.bigsite.portfolios
    store = desk.runtime.store
    (key,) = [key for key in store.list("ledger/class_super/") if "/portfolios-" in key]
    content = store.read(key)
    store.delete(key)
    with desk.at("2026-03-03T10:00:00+11:00"):
        with pytest.raises(LedgerGapError, match="run `classfeed ledger rebuild`"):
            history(desk, first.number)
        for other in list(store.list("ledger/class_super/")):
            store.delete(other)
        with pytest.raises(LedgerGapError, match="ledger/class_super/2026-03-02"):
            history(desk, first.number)
        store.create(key, b"PAR0" + content[4:-4] + b"PAR0")
        with pytest.raises(DamagedRecordError, match="portfolios-0000.parquet: it cannot be read"):
            history(desk, first.number)


def test_customer_without_consent_gets_the_reason(desk: Desk) -> None:
    desk.two_customers()
    late = desk.bigsite.portfolio("SW00000003")
    late.consent(granted_at="2026-03-02T22:00:00Z")
    ended = desk.bigsite.portfolio("SW00000004")
    ended.consent(granted_at="2026-02-20T00:00:00Z", revoked_at="2026-02-25T00:00:00Z")
    nameless = desk.bigsite.portfolio("SW00000005")
    nameless.consent(granted_at="2026-02-20T00:00:00Z", reference=" ")
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T10:00:00+11:00"):
        answers = {number: history(desk, number, MONDAY) for number in (f"SW0000000{n}" for n in (3, 4, 5, 9))}
        assert history(desk, "SW00000001", MONDAY).answer == "The data of 2 March 2026 has not been sent yet."
        with pytest.raises(UnknownPortfolioError, match="bigsite has no portfolio 'SW4'"):
            history(desk, "SW4")
    assert answers["SW00000003"].answer == (
        "The customer consented on 3 March 2026, after the cut-off of 2 March 2026: sharing begins with a later "
        "business date."
    )
    assert answers["SW00000003"].next_at is not None
    assert answers["SW00000004"].answer == "Consent ended on 25 February 2026, before the cut-off of 2 March 2026."
    assert answers["SW00000004"].next_at is None
    assert answers["SW00000005"].answer.endswith(
        "its reference, start or history is missing or contradictory in bigsite."
    )
    assert answers["SW00000009"].answer == "The customer never consented to sharing with CLASS."


def test_customer_held_back_gets_the_rule_in_words(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered_without_the_first)
    first, second, _ = desk.bigsite.portfolios
    with desk.at("2026-03-03T06:00:00+11:00"):
        entry = history(desk, first.number)
        assert history(desk, second.number).held_back == ()
    desk.end_of_day(TUESDAY)
    with desk.at("2026-03-04T06:00:00+11:00"):
        desk.deliver(TUESDAY)
        later = history(desk, first.number)
    assert entry.answer.startswith("Held back on 2 March 2026. Our records do not pass a check (")
    assert "_" not in entry.answer
    assert [hold.kind for hold in later.held_back] == ["WAITING", "RULE"]
    assert later.answer == "Held back on 3 March 2026. The data of 2 March 2026 has to be sent first."


def test_customer_delivered_before_a_rule_broke_is_not_held_back(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    first, *_ = desk.bigsite.portfolios
    with desk.at("2026-03-03T06:00:00+11:00"):
        with desk.runtime.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE bigsite.portfolio SET portfolio_name = E'A\\u0001' WHERE portfolio_number = :number"),
                {"number": first.number},
            )
        desk.deliver(MONDAY, fresh=True)
        entry = history(desk, first.number)
    assert entry.held_back == ()
    assert entry.answer.startswith("CLASS was sent the data of 2 March 2026")


def test_customer_of_a_shadow_feed_was_sent_nothing(desk: Desk) -> None:
    first, _ = desk.two_customers()
    desk.switch(mode={"class_super": "shadow"})
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T06:00:00+11:00"):
        never = customer_history(
            desk.runtime, [desk.feed("class_super")], first.number, now=dt.datetime(2026, 3, 2, 19, tzinfo=dt.UTC)
        )
        desk.deliver(MONDAY)
        entry = history(desk, first.number)
        desk.switch(mode={"class_super": "off"})
        off = history(desk, first.number)
    assert "was sent nothing: the feed is in shadow mode" in never.feeds[0].answer
    page = disclosure_page(desk.runtime.store, never, dt.datetime(2026, 3, 2, 19, tzinfo=dt.UTC))
    assert "No data of this customer was delivered to CLASS by this feed." in page
    assert [sent.shadow for sent in entry.disclosures] == [True]
    assert entry.mode == "shadow"
    assert "was sent nothing: the feed is in shadow mode" in entry.answer
    assert off.next_at is None


def test_customer_answer_names_what_a_switch_leaves_out(desk: Desk) -> None:
    first, second = desk.two_customers()
    desk.switch(include_income={"class_super": False}, portfolios={"class_super": first.number})
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T06:00:00+11:00"):
        desk.deliver(MONDAY)
        sent, excluded = history(desk, first.number), history(desk, second.number)
    assert sent.answer == (
        "CLASS was sent the data of 2 March 2026 (revision 0). By the switch include-income, dividends, distributions and "
        "interest are left out."
    )
    assert excluded.answer == (
        "The feed is not switched on for this portfolio: the switch portfolios is some portfolios only."
    )


def test_customer_first_delivery_in_full_is_found_behind_the_listed_dates(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    first, *_ = desk.bigsite.portfolios
    for day in (TUESDAY, "2026-03-04"):
        desk.end_of_day(day)
        desk.deliver(day)
    with desk.at("2026-03-05T06:00:00+11:00"):
        now = desk.runtime.settings.now
        assert now is not None
        (entry,) = customer_history(desk.runtime, [desk.feed("class_super")], first.number, now=now, dates=1).feeds
    assert [sent.business_date.isoformat() for sent in entry.disclosures] == ["2026-03-04"]
    assert entry.first_in_full is not None
    assert (entry.first_in_full.business_date.isoformat(), entry.first_in_full.extract) == (MONDAY, "FULL")


def test_command_prints_the_history_and_writes_the_page(
    live_desk_after: DeskAfter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = live_desk_after(monday_delivered_without_the_first)
    settings = desk.runtime.settings
    for name, value in {
        "HOME": str(settings.home), "BIGSITE_URL": desk.runtime.engine.url.render_as_string(hide_password=False), "FIRST_BUSINESS_DATE": MONDAY,
        "NOW": "2026-03-02T22:00:00Z",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CLASSFEED_{name}", str(value))
    get_settings.cache_clear()
    api.clear_providers()  # a command starts without any
    page = tmp_path / "page.html"
    words = ["customer", "SW00000002", "--feed", "class_super"]
    printed = CliRunner().invoke(cli.app, [*words, "--on", MONDAY, "--page", str(page)])
    as_json = CliRunner().invoke(cli.app, [*words, "--all", "--json"])
    hold = CliRunner().invoke(cli.app, ["customer", "SW00000001", "--feed", "class_super"])
    unknown = CliRunner().invoke(cli.app, ["customer", "SW1"])
    get_settings.cache_clear()
    assert (printed.exit_code, as_json.exit_code) == (0, 0), (printed.output, as_json.exception)
    document = json.loads(as_json.stdout)
    assert "class_super to CLASS: CLASS was sent the data of 2 March 2026 (revision 0)." in printed.output
    assert "2026-03-02 0 NEW FULL" in " ".join(printed.output.split())
    assert "manifest&#x27;s SHA-256" in page.read_text()
    assert document["feeds"][0]["disclosures"][0]["extract"] == "FULL"
    assert "held back" in hold.output
    assert unknown.exit_code != 0
