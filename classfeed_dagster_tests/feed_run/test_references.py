"""References between records: a document names only rows that the recipient was sent, whatever became of the consents."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from classfeed_dagster.delivery.ledger_rebuild import rebuild_ledger
from classfeed_dagster.delivery.sent import sent_date
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.feeds import class_cash, class_trade
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster_tests.fixtures.bigsite_builder import Row
from classfeed_dagster_tests.fixtures.morning import deliver_date
from classfeed_dagster_tests.fixtures.prepared_mornings import AUDIENCE, FRIDAY, MONDAY, TUESDAY, Morning

OLD_HISTORY = dt.date(2020, 4, 2)


def history_widened(morning: Morning) -> None:
    """Deliver Friday under the history from 2 April, and share all of it since."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = OLD_HISTORY
    fund.deposit("20.00", "2020-04-02")
    morning.end_of_day(FRIDAY)
    assert morning.run(FRIDAY).kind == "DELIVERED"
    fund.consent(granted_at="2020-04-06T01:00:00Z")


def references(morning: Morning, day: dt.date) -> dict[str, tuple[str | None, str | None]]:
    """Return the references of a date's records, as its documents have them and as the ledger does."""
    rows = morning.sent(day).frame("records", ["transaction_id", "reverses", "relates_to"])
    in_ledger = {name: (reverses, relates_to) for name, reverses, relates_to in rows.iter_rows()}
    stated: dict[str, tuple[str | None, str | None]] = {}
    for manifest, _ in morning.sent(day).ledgers:
        for page in manifest.pages:
            with morning.runtime.store.local_file(page.key) as path:
                movements = FEED.format.read(path)["movement_transactions"]
            for row in movements.iter_rows(named=True):
                stated[row["transaction_id"]] = (row["reverses"], row["relates_to"])
    assert in_ledger == {name: stated[name] for name in in_ledger}
    return in_ledger


def deliver(morning: Morning, day: dt.date) -> None:
    morning.end_of_day(day)
    assert morning.run(day).kind == "DELIVERED"
    assert not morning.reasons(day)
    assert breaks(morning, day) == []


def breaks(morning: Morning, day: dt.date) -> list[str]:
    """Return the breaks between a delivered date, its landing and bigsite."""
    result = PostDelivery(morning.runtime, FEED, AUDIENCE, day, "a1", morning_after(day)).source()
    return [f"{entry.subject} {entry.field}: {entry.likeliest.evidence}" for entry in result.breaks]


def rows_of(morning: Morning, table: str) -> list[Row]:
    return [row for of, rows in morning.funds[0].ledger.items() if of.name == table for row in rows]


def test_reversal_of_a_row_in_an_opening_names_nothing_after_widening(morning: Morning) -> None:
    history_widened(morning)
    first, second = morning.funds
    bought = rows_of(morning, "trade")[0]
    undone = first.reverse(bought, "2020-04-06T02:00:00Z")
    deposited = first.reverse(rows_of(morning, "cash_transaction")[0], "2020-04-06T02:00:00Z")
    was_sent = next(row for row in rows_of(morning, "cash_transaction") if row["amount"] == Decimal("20.00"))
    after = first.reverse(was_sent, "2020-04-06T02:00:00Z")
    whole = second.reverse(next(r for of, rows in second.ledger.items() if of.name == "trade" for r in rows),
                           "2020-04-06T02:00:00Z")  # fmt: skip
    deliver(morning, MONDAY)
    stated = references(morning, MONDAY)
    assert stated[f"T{undone.id}"] == stated[f"C{deposited.id}"] == (None, None)
    assert stated[f"C{after.id}"] == (f"C{was_sent.id}", None)
    assert stated[f"T{whole.id}"] == (f"T{whole['reverses_trade_id']}", None)
    # The legs relate to a trade of this very document.
    assert {relates for _, relates in stated.values()} >= {f"T{undone.id}", f"T{whole.id}"}


@pytest.mark.parametrize("ledger", ["trade", "income"])
def test_cash_caused_by_a_row_in_an_opening_relates_to_nothing(morning: Morning, ledger: str) -> None:
    fund = morning.funds[0]
    assert morning.bhp is not None
    trade = ledger == "trade"
    caused_by = (
        fund.buy(morning.bhp, "5", "20.00", "2020-04-01") if trade else fund.dividend(morning.bhp, "0.10", "2020-04-01")
    )
    history_widened(morning)
    values: dict[str, Any] = {f"{ledger}_id": caused_by.id}
    paid = fund.cash_transaction("SETTLEMENT" if trade else "INCOME", "-1.00", MONDAY, **values)
    deliver(morning, MONDAY)
    assert references(morning, MONDAY)[f"C{paid.id}"] == (None, None)


def test_row_recorded_since_the_widening_is_named(morning: Morning) -> None:
    history_widened(morning)
    fund = morning.funds[0]
    backdated = fund.deposit("7.00", "2020-04-01", recorded_at="2020-04-06T03:00:00Z")
    before_the_grant = fund.deposit("8.00", "2020-04-01", recorded_at="2020-04-06T00:30:00Z")
    deliver(morning, MONDAY)
    undone = [fund.reverse(row, "2020-04-07T02:00:00Z") for row in (backdated, before_the_grant)]
    deliver(morning, TUESDAY)
    stated = references(morning, TUESDAY)
    assert [stated[f"C{row.id}"][0] for row in undone] == [f"C{backdated.id}", f"C{before_the_grant.id}"]


def test_row_in_an_opening_is_named_once_a_refresh_sent_it(morning: Morning) -> None:
    history_widened(morning)
    fund = morning.funds[0]
    deliver(morning, MONDAY)
    morning.refresh(fund, MONDAY)
    assert morning.run(MONDAY).kind == "DELIVERED"
    bought = rows_of(morning, "trade")[0]
    undone = fund.reverse(bought, "2020-04-07T02:00:00Z")
    deliver(morning, TUESDAY)
    assert references(morning, TUESDAY)[f"T{undone.id}"] == (f"T{bought.id}", None)
    assert breaks(morning, MONDAY) == []


def test_late_reversal_of_a_row_in_an_opening_names_nothing(morning: Morning) -> None:
    """Recorded in Monday's window and visible on Tuesday, which sends it."""
    history_widened(morning)
    deliver(morning, MONDAY)
    undone = morning.funds[0].reverse(rows_of(morning, "trade")[0], "2020-04-06T02:00:00Z")
    deliver(morning, TUESDAY)
    assert references(morning, TUESDAY)[f"T{undone.id}"] == (None, None)


def test_refresh_names_the_rows_that_it_sends_itself(morning: Morning) -> None:
    """No earlier date sent the row: the extract in full has it next to its reversal."""
    history_widened(morning)
    fund = morning.funds[0]
    bought = rows_of(morning, "trade")[0]
    undone = fund.reverse(bought, "2020-04-06T02:00:00Z")
    deliver(morning, MONDAY)
    morning.refresh(fund, MONDAY)
    assert morning.run(MONDAY).kind == "DELIVERED"
    assert references(morning, MONDAY)[f"T{undone.id}"] == (f"T{bought.id}", None)
    assert breaks(morning, MONDAY) == []


def test_row_in_an_opening_is_named_once_consented_anew(morning: Morning) -> None:
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = OLD_HISTORY
    fund.consents[0]["revoked_at"] = dt.datetime(2020, 4, 6, 1, tzinfo=dt.UTC)
    morning.runtime.settings = morning.runtime.settings.model_copy(update={"max_removed_share": Decimal(1)})
    morning.end_of_day(FRIDAY)
    assert morning.run(FRIDAY).kind == "DELIVERED"
    deliver(morning, MONDAY)
    fund.consent(granted_at="2020-04-07T01:00:00Z")
    deliver(morning, TUESDAY)
    bought = rows_of(morning, "trade")[0]
    undone = fund.reverse(bought, "2020-04-08T02:00:00Z")
    wednesday = dt.date(2020, 4, 8)
    deliver(morning, wednesday)
    assert references(morning, wednesday)[f"T{undone.id}"] == (f"T{bought.id}", None)


def test_ended_consent_to_a_shorter_history_still_counts(morning: Morning) -> None:
    """The landing has the consents in force alone; the ledger has the history that was shared."""
    history_widened(morning)
    fund = morning.funds[0]
    deliver(morning, MONDAY)
    fund.consents[0]["revoked_at"] = dt.datetime(2020, 4, 6, 20, tzinfo=dt.UTC)
    deliver(morning, TUESDAY)
    undone = fund.reverse(rows_of(morning, "trade")[0], "2020-04-08T02:00:00Z")
    wednesday = dt.date(2020, 4, 8)
    deliver(morning, wednesday)
    assert references(morning, wednesday)[f"T{undone.id}"] == (None, None)


def test_date_with_a_left_out_reference_is_re_issued_and_rebuilt_equal(morning: Morning) -> None:
    history_widened(morning)
    undone = morning.funds[0].reverse(rows_of(morning, "trade")[0], "2020-04-06T02:00:00Z")
    deliver(morning, MONDAY)
    deliver(morning, TUESDAY)
    assert morning.run(MONDAY, fresh=True).kind != "DELIVERED"
    assert references(morning, MONDAY)[f"T{undone.id}"] == (None, None)
    rebuilt = list(rebuild_ledger(morning.runtime.store, FEED.name, FEED.format, AUDIENCE))
    assert all(item.proven for item in rebuilt)


@pytest.mark.parametrize("feed", [class_cash.FEED, class_trade.FEED], ids=lambda feed: feed.name)
def test_lines_of_the_older_feeds_name_no_row_in_an_opening(morning: Morning, feed: Feed) -> None:
    """A line of cash names trades that its own feed never carries: the history that was shared decides."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = OLD_HISTORY
    morning.end_of_day(FRIDAY)
    start_flags(morning.runtime.settings, (feed,))
    deliver_date(morning.runtime, feed, FRIDAY, (feed,))
    fund.consent(granted_at="2020-04-06T01:00:00Z")
    bought = rows_of(morning, "trade")[0]
    fund.cash_transaction("SETTLEMENT", "-1.00", MONDAY, trade_id=bought.id)
    fund.reverse(bought, "2020-04-06T02:00:00Z")
    morning.end_of_day(MONDAY)
    work = deliver_date(morning.runtime, feed, MONDAY, (feed,))
    (page,) = [page for manifest, _ in sent_date(work.store, feed.name, MONDAY).ledgers for page in manifest.pages]
    with work.store.local_file(page.key) as path:
        movements = feed.format.read(path)["movement_transactions"]
    named = {name for column in ("reverses", "relates_to") if column in movements.columns for name in movements[column]}
    assert f"T{bought.id}" not in named
    assert movements.height
    assert PostDelivery(morning.runtime, feed, AUDIENCE, MONDAY, "a1", morning_after(MONDAY)).source().breaks == ()
    assert all(item.proven for item in rebuild_ledger(work.store, feed.name, feed.format, AUDIENCE))


def undone_after_rewrite(morning: Morning, history_from: dt.date | None = None) -> tuple[Row, Row]:
    """Deliver Friday, which leaves out an older deposit; then rewrite the consent's history and undo the deposit.

    Return the deposit and the row that undoes it.
    """
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = OLD_HISTORY
    deposited = fund.deposit("30.00", "2020-04-01")
    deliver(morning, FRIDAY)
    fund.consents[0]["history_from"] = history_from
    fund.consents[0]["updated_at"] = dt.datetime(2020, 4, 6, 1, tzinfo=dt.UTC)
    return deposited, fund.reverse(deposited, "2020-04-06T02:00:00Z")


@pytest.mark.parametrize("after", [None, dt.date(2020, 4, 1)])
def test_history_rewritten_in_place_is_judged_as_landed(morning: Morning, after: dt.date | None) -> None:
    """Friday was sent under the earlier value, whatever the one consent states since."""
    _, undone = undone_after_rewrite(morning, after)
    morning.end_of_day(MONDAY)
    assert morning.run(MONDAY).kind == "DELIVERED"
    assert not morning.reasons(MONDAY)
    assert references(morning, MONDAY)[f"C{undone.id}"] == (None, None)
    assert breaks(morning, MONDAY) == []
    explained = breaks(morning, FRIDAY)  # its own records, by what bigsite states now
    assert explained
    assert all("consent 1 was updated at 2020-04-06 01:00:00Z, and the landing has" in text for text in explained)


def test_reference_left_out_stays_right_after_bigsite_rewrites_the_consent(morning: Morning) -> None:
    """The landing decides which rows a date names; bigsite's consent, which shares nothing of them since, does not."""
    history_widened(morning)
    fund = morning.funds[0]
    undone = fund.reverse(rows_of(morning, "trade")[0], "2020-04-06T02:00:00Z")
    deliver(morning, MONDAY)
    for consent in fund.consents:
        consent["history_from"] = dt.date(2020, 4, 8)
        consent["updated_at"] = dt.datetime(2020, 4, 7, 1, tzinfo=dt.UTC)
    morning.end_of_day(TUESDAY)
    assert references(morning, MONDAY)[f"T{undone.id}"] == (None, None)
    explained = breaks(morning, MONDAY)
    assert explained
    assert all("was updated at 2020-04-07 01:00:00Z, and the landing has" in text for text in explained)


def test_landed_history_with_a_fault_decides_no_reference(morning: Morning) -> None:
    """A landing that was changed since still can be read, and bigsite's consents decide in its place."""
    history_widened(morning)
    undone = morning.funds[0].reverse(rows_of(morning, "trade")[0], "2020-04-06T02:00:00Z")
    deliver(morning, MONDAY)
    store = morning.runtime.store
    for key in store.list(f"landing/{FRIDAY}/data_sharing_consent/"):
        with store.local_file(key) as path:
            consents = pl.read_parquet(path)
        changed = io.BytesIO()
        consents.with_columns(history_from=pl.lit(None, pl.Date())).write_parquet(changed)
        store.put(key, changed.getvalue())
    assert references(morning, MONDAY)[f"T{undone.id}"] == (None, None)
    assert breaks(morning, MONDAY) == []


def test_earlier_date_sent_again_after_a_rewrite_is_judged_in_order(morning: Morning) -> None:
    """A date names the rows that were sent before it. Sent again as well, it names the row."""
    deposited, undone = undone_after_rewrite(morning)
    deliver(morning, MONDAY)
    assert morning.run(FRIDAY, fresh=True).kind == "DELIVERED"
    assert references(morning, MONDAY)[f"C{undone.id}"] == (None, None)
    assert breaks(morning, MONDAY) == []
    assert morning.run(MONDAY, fresh=True).kind == "DELIVERED"
    assert references(morning, MONDAY)[f"C{undone.id}"] == (f"C{deposited.id}", None)
    assert breaks(morning, MONDAY) == []


def test_reference_behind_the_look_back_is_reported_after_a_rewrite(morning: Morning) -> None:
    morning.runtime.settings = morning.runtime.settings.model_copy(update={"late_row_days": 0})
    _, undone = undone_after_rewrite(morning)
    morning.end_of_day(MONDAY)
    assert morning.run(MONDAY).kind == "DELIVERED"
    assert [text.partition(": ")[0] for text in breaks(morning, MONDAY)] == [f"C{undone.id} reverses"]
