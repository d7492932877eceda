"""The delivered ledger through the real steps: what it holds, late rows, identities, and what must add up."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from functools import partial

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.ledger_rebuild import (
    LandingGoneError,
    _compared,
    audit_positions,
    rebuild_ledger,
)
from classfeed_dagster.delivery.publish import publish
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.feed_run import feed_run
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.warehouse.records import BreakCause
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio
from classfeed_dagster_tests.fixtures.morning import attempt, prepare
from classfeed_dagster_tests.fixtures.prepared_mornings import (
    AUDIENCE,
    FRIDAY,
    MONDAY,
    TUESDAY,
    Morning,
    MorningWith,
    friday_delivered,
)

WEDNESDAY = dt.date(2020, 4, 8)
THURSDAY = dt.date(2020, 4, 9)


def test_delivery_names_its_ledger_and_positions_are_the_sums(morning: Morning) -> None:
    outcome = morning.run(FRIDAY)
    assert outcome.manifest is not None
    assert outcome.manifest.ledger is not None
    kinds = [file.kind for file in outcome.manifest.ledger.files]
    assert kinds == ["records", "positions", "portfolios", "identities"]
    records = morning.sent(FRIDAY).frame("records")
    assert records.height == sum(outcome.manifest.counts[name] for name in ("MovementTransactions",))
    first = morning.funds[0]
    assert set(records["portfolio_id"]) == {fund.id for fund in morning.funds}
    stated = morning.sent(FRIDAY).frame("positions").filter(pl.col("portfolio_id") == first.id)
    assert (stated["sent"] == stated["stated"]).all()
    names = set(records.columns) | set(stated.columns)
    assert not names & {"portfolio_name", "account_name", "narrative", "description"}
    assert verify_feed(morning.runtime.store, FEED.name, FEED.format).problems == []


def test_positions_roll_forward_without_earlier_records(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    first = morning.funds[0]
    before = morning.position(first, FRIDAY)
    first.deposit("5.50", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.position(first, MONDAY) == before + Decimal("5.50")
    assert not morning.reasons(MONDAY)


def explanations(morning: Morning, day: dt.date) -> dict[str, tuple[BreakCause, str]]:
    """Reconcile a delivered date with bigsite; return each break's cause and evidence by its subject."""
    work = PostDelivery(morning.runtime, FEED, AUDIENCE, day, "a1", morning_after(day))
    return {entry.subject: (entry.likeliest.cause, entry.likeliest.evidence) for entry in work.source().breaks}


def test_late_row_is_sent_once_and_explained_by_the_date_that_sent_it(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    late = morning.visible_late(morning.funds[0], "123.45", "2020-04-03T12:59:58Z")
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert f"C{late.id}" in morning.ids(MONDAY)
    assert not morning.reasons(MONDAY)
    ((subject, (cause, evidence)),) = explanations(morning, FRIDAY).items()
    assert (subject, cause) == (f"C{late.id}", BreakCause.LATE_ROW)
    assert evidence.endswith("sent with 2020-04-06")
    assert explanations(morning, MONDAY) == {}
    # A fresh snapshot of the closed date sees the row as well: it was sent, and is not sent again.
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY, fresh=True)
    assert f"C{late.id}" not in morning.ids(FRIDAY)
    assert not morning.reasons(FRIDAY)
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert f"C{late.id}" not in morning.ids(TUESDAY)
    assert not morning.reasons(TUESDAY)


def test_late_row_of_a_customer_who_left_is_explained_by_the_removal(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    late = morning.visible_late(morning.funds[0], "123.45", "2020-04-03T12:59:58Z")
    morning.funds[0].consents[0]["revoked_at"] = dt.datetime(2020, 4, 6, 1, tzinfo=dt.UTC)
    morning.end_of_day(MONDAY)
    morning.runtime.settings = morning.runtime.settings.model_copy(update={"max_removed_share": Decimal(1)})
    morning.run(MONDAY)
    ((subject, (_, evidence)),) = explanations(morning, FRIDAY).items()
    assert subject == f"C{late.id}"
    assert evidence.endswith("consent ended, announced on 2020-04-06")


def test_late_row_is_explained_by_the_consent_that_was_rewritten_since(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    fund = morning.funds[0]
    late = morning.visible_late(fund, "123.45", "2020-04-03T12:59:58Z")
    own = fund.deposit("5.50", FRIDAY, recorded_at="2020-04-06T01:00:00Z")
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    fund.consents[0].values.update(history_from=MONDAY, updated_at=dt.datetime(2020, 4, 6, 21, tzinfo=dt.UTC))
    morning.bigsite.save()
    causes = {subject: cause for subject, (cause, _) in explanations(morning, MONDAY).items()}
    assert causes[f"C{late.id}"] == causes[f"C{own.id}"] == BreakCause.CONSENT_CHANGED


def test_late_income_is_explained_by_the_switch_that_leaves_it_out(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    assert morning.bhp is not None
    income = morning.funds[0].dividend(morning.bhp, "0.10", FRIDAY, recorded_at="2020-04-03T12:59:58Z")
    morning.end_of_day(MONDAY)
    flags = {"include-income": {FEED.name: False}}
    morning.runtime.settings = morning.runtime.settings.model_copy(update={"flags": flags})
    start_flags(morning.runtime.settings, (FEED,))
    morning.run(MONDAY)
    breaks = explanations(morning, FRIDAY)
    assert breaks.pop(f"I{income.id}")[1].endswith("left out of 2020-04-06 by the feed's switches")
    assert [evidence.rpartition("; ")[2] for _, evidence in breaks.values()] == ["sent with 2020-04-06"]  # its cash
    assert explanations(morning, MONDAY) == {}


def test_row_of_a_transaction_open_at_snapshot_is_sent_the_next_date(morning: Morning) -> None:
    assert morning.bigsite.engine is not None
    with morning.bigsite.engine.connect() as open_connection:
        late = morning.funds[0].deposit("123.45", FRIDAY, recorded_at="2020-04-03T12:59:58Z")
        rows = morning.bigsite.rows[tables.cash_transaction]
        open_connection.execute(sa.insert(tables.cash_transaction).values(late.values))
        rows.remove(late)  # so that nothing but this transaction writes it
        morning.run(FRIDAY)
        open_connection.commit()
        rows.append(late)
    assert f"C{late.id}" not in morning.ids(FRIDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.ids(MONDAY) == [f"C{late.id}"]
    records = morning.sent(MONDAY).frame("records")
    assert records["recorded_at"].to_list() == [dt.datetime(2020, 4, 3, 12, 59, 58, tzinfo=dt.UTC)]
    assert not morning.reasons(MONDAY)


def test_late_original_is_sent_before_its_reversal(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    late = morning.visible_late(morning.funds[0], "50.00", "2020-04-03T12:00:00Z")
    undone = morning.funds[0].reverse(late, "2020-04-06T01:00:00Z")
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    records = morning.sent(MONDAY).frame("records")
    assert records["transaction_id"].to_list() == [f"C{late.id}", f"C{undone.id}"]
    assert records["reverses"].to_list() == [None, f"C{late.id}"]
    assert not morning.reasons(MONDAY)


def test_fresh_snapshot_before_the_next_date_sends_the_late_row_itself(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    late = morning.visible_late(morning.funds[0], "123.45", "2020-04-03T12:59:58Z")
    morning.end_of_day(FRIDAY)
    morning.end_of_day(MONDAY)
    work = attempt(morning.runtime, FEED, MONDAY, (FEED,))
    prepare(work)
    work.hold_back()
    work.evaluate_checks(work.stage())  # staged with the late row, before the date before sends it
    morning.run(FRIDAY, fresh=True)
    assert f"C{late.id}" in morning.ids(FRIDAY)
    work.publish()
    assert f"C{late.id}" not in morning.ids(MONDAY)
    assert not morning.reasons(MONDAY)


def test_full_extract_has_visible_rows_and_the_next_date_the_missed(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    fund = morning.bigsite.portfolio("SW00005003").consent(granted_at="2020-04-05T23:00:00Z")
    fund.deposit("10.00", "2020-04-01")
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    late = morning.visible_late(fund, "20.00", "2020-04-02T01:00:00Z", dt.date(2020, 4, 2))
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert f"C{late.id}" in morning.ids(TUESDAY)
    assert morning.position(fund, TUESDAY) == Decimal("30.00")
    assert not morning.reasons(TUESDAY)


def test_history_that_begins_earlier_since_repeats_nothing_of_the_openings(morning: Morning) -> None:
    """A second consent shares everything while the first is in force: the portfolio stays CURRENT."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = dt.date(2020, 4, 2)
    morning.bigsite.save()
    morning.run(FRIDAY)
    assert "C1" not in morning.ids(FRIDAY)
    fund.consent(granted_at="2020-04-06T01:00:00Z")
    own = fund.deposit("5.50", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.ids(MONDAY) == [f"C{own.id}"]
    assert not morning.reasons(MONDAY)
    assert explanations(morning, MONDAY) == {}
    late = morning.visible_late(fund, "123.45", "2020-04-06T12:59:58Z", on=dt.date(2020, 4, 1))
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert morning.ids(TUESDAY) == [f"C{late.id}"]
    assert not morning.reasons(TUESDAY)


def test_history_that_begins_later_holds_no_date_back(morning: Morning) -> None:
    """The opening counts on the day before the history. Until then the rule history_begins_later warns."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = TUESDAY
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    assert (morning.reasons(FRIDAY), morning.position(fund, FRIDAY)) == ({}, Decimal(0))
    fund.deposit("5.50", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert not morning.reasons(MONDAY)
    before = morning.position(fund, MONDAY)
    own = fund.deposit("7.00", TUESDAY)
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert (morning.reasons(TUESDAY), morning.position(fund, TUESDAY) - before) == ({}, Decimal("7.00"))
    assert morning.ids(TUESDAY) == [f"C{own.id}"]


def test_history_widened_before_it_began_holds_no_date_back(morning: Morning) -> None:
    """The openings of the first history still count on the day before it, so that the sums are below until then."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = THURSDAY
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    fund.deposit("5.50", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert not morning.reasons(MONDAY)
    fund.consent(granted_at="2020-04-07T01:00:00Z")
    own = fund.deposit("7.00", TUESDAY)
    wednesdays = fund.deposit("2.00", WEDNESDAY)
    for day, row in ((TUESDAY, own), (WEDNESDAY, wednesdays)):
        morning.end_of_day(day)
        morning.run(day)
        assert (morning.reasons(day), morning.ids(day)) == ({}, [f"C{row.id}"])
        assert explanations(morning, day) == {}
    assert morning.position(fund, TUESDAY) == Decimal("7.00")
    of_fund = (pl.col("portfolio_id") == fund.id) & pl.col("counts_on").is_null()
    last = morning.sent(WEDNESDAY).frame("positions", ["sent", "stated"], of_fund)
    assert (last["sent"] == last["stated"]).all()


def test_later_opening_explains_no_other_difference(morning: Morning) -> None:
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = THURSDAY
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    fund.consent(granted_at="2020-04-06T01:00:00Z")
    morning.runtime.settings = morning.runtime.settings.model_copy(update={"late_row_days": 4})
    fund.deposit("5.50", MONDAY, recorded_at="2020-03-02T00:00:00Z")  # before the look-back
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.reasons(MONDAY) == {fund.number: "breaks delivered_balance (once)"}
    findings = attempt(morning.runtime, FEED, MONDAY, (FEED,)).ledger_view().frame()
    assert findings["detail"].item().endswith("5.5 differ")


def test_opening_replaced_by_a_refresh_explains_no_difference(morning: Morning) -> None:
    """An opening that was sent before the last extract in full does not count any more."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = THURSDAY
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    fund.consent(granted_at="2020-04-06T01:00:00Z")
    morning.end_of_day(MONDAY)
    morning.refresh(fund, MONDAY)
    morning.run(MONDAY)
    assert morning.reasons(MONDAY) == {}
    morning.runtime.settings = morning.runtime.settings.model_copy(update={"late_row_days": 4})
    fund.deposit("7.00", THURSDAY, recorded_at="2020-04-07T01:00:00Z")  # has a later date too
    fund.deposit("5.50", MONDAY, recorded_at="2020-03-02T00:00:00Z")  # before the look-back
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    findings = attempt(morning.runtime, FEED, TUESDAY, (FEED,)).ledger_view().frame()
    assert findings["detail"].item().endswith("5.5 differ")


def test_late_row_before_the_shared_history_travels_in_an_opening(morning: Morning) -> None:
    """It is no record of its own: its window is re-issued with a further opening, and until then holds back."""
    fund = morning.funds[0]
    for row in morning.bigsite.rows[tables.data_sharing_consent]:
        row["history_from"] = dt.date(2020, 4, 2)
    column = tables.data_sharing_consent.c.history_from
    morning.execute(sa.update(tables.data_sharing_consent).values({column: dt.date(2020, 4, 2)}))
    morning.run(FRIDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    morning.visible_late(fund, "123.45", "2020-04-06T12:59:58Z", on=dt.date(2020, 4, 1))
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert "delivered_balance" in morning.reasons(TUESDAY)[fund.number]
    morning.end_of_day(MONDAY)
    morning.run(MONDAY, fresh=True)
    openings = morning.sent(MONDAY).frame("records").filter(pl.col("ledger") == "OC")
    assert openings["amount"].to_list() == [Decimal("123.45")]
    morning.run(TUESDAY, fresh=True)
    assert not morning.reasons(TUESDAY)


def test_reversed_late_row_before_the_history_is_sent_by_a_refresh(morning: Morning) -> None:
    """Bigsite's end of day is as it was, so that the row's own date cannot be sent again."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = dt.date(2020, 4, 4)
    for day in (FRIDAY, MONDAY):
        morning.end_of_day(day)
        assert morning.run(day).kind == "DELIVERED"
    assert morning.bhp is not None
    bought = fund.buy(morning.bhp, "53", "1.00", FRIDAY, recorded_at="2020-04-02T19:00:00Z")
    fund.reverse(bought, "2020-04-06T17:00:00Z")
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert morning.reasons(TUESDAY) == {fund.number: "breaks delivered_balance (once)"}
    assert morning.run(FRIDAY, fresh=True).kind == "NOTHING_TO_DO"
    morning.refresh(fund, TUESDAY)
    assert morning.run(TUESDAY).kind == "DELIVERED"
    assert morning.reasons(TUESDAY) == {}
    morning.end_of_day(WEDNESDAY)
    assert morning.run(WEDNESDAY).kind == "DELIVERED"
    assert morning.reasons(WEDNESDAY) == {}


def test_publishing_stages_again_if_the_staged_list_is_missing(morning: Morning) -> None:
    """Someone removed staged files between the gate and the delivery."""
    work = attempt(morning.runtime, FEED, FRIDAY, (FEED,))
    prepare(work)
    work.hold_back()
    staged = work.stage()
    work.evaluate_checks(staged)
    assert staged.portfolio_list is not None
    morning.runtime.store.delete(staged.portfolio_list.key)
    assert work.publish().kind == "DELIVERED"
    assert len(morning.sent(FRIDAY).frame("portfolios")) == 2


def test_row_that_vanished_holds_its_portfolio_back_with_the_difference(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    event = next(row for row in morning.bigsite.rows[tables.cash_transaction] if row["amount"] == Decimal("1000.00"))
    for rows in (morning.bigsite.rows, morning.funds[0].ledger):
        rows[tables.cash_transaction].remove(event)
    column = tables.cash_transaction.c.cash_transaction_id
    morning.execute(sa.delete(tables.cash_transaction).where(column == event.id))
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    number = morning.funds[0].number
    assert list(morning.reasons(MONDAY)) == [number]
    assert "delivered_balance" in morning.reasons(MONDAY)[number]
    findings = attempt(morning.runtime, FEED, MONDAY, (FEED,)).ledger_view().frame()
    assert "-1000 differ" in findings["detail"][0]
    assert f"C{event.id}" in findings["detail"][0]


def test_holding_undone_by_a_later_reversal_is_restated_on_its_date(morning: Morning) -> None:
    fund, shares = morning.funds[0], morning.bigsite.security("ZZZ", price={FRIDAY.isoformat(): "1.00"})
    bought = fund.buy(shares, "86", "1.00", FRIDAY)
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    fund.reverse(bought, "2020-04-06T03:00:00Z")
    morning.bigsite.end_of_day(FRIDAY, at="2020-04-06T14:00:00Z").save()
    eod = tables.holding_eod
    row = (eod.c.security_id == shares.id, eod.c.as_at_date == FRIDAY)
    morning.execute(eod.delete().where(*row))  # bigsite's rewritten end of day has no row for it
    morning.bigsite.rows[eod] = [row for row in morning.bigsite.rows[eod] if row["security_id"] != shares.id]
    again = morning.run(FRIDAY, fresh=True)
    assert (again.kind, morning.reasons(FRIDAY)) == ("DELIVERED", {})
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert (morning.reasons(FRIDAY), morning.reasons(MONDAY)) == ({}, {})


def test_renumbered_cash_account_holds_its_portfolio_back(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    account = morning.funds[0].cash()
    account["account_number"] = "900000001"
    changed = tables.cash_account.c.cash_account_id == account.id
    morning.execute(sa.update(tables.cash_account).where(changed).values(account_number="900000001"))
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.reasons(MONDAY) == {morning.funds[0].number: "breaks number_changed (once)"}


def test_renumbered_portfolio_is_never_sent_under_two_numbers(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    old = morning.funds[1]
    changed = tables.portfolio.c.portfolio_id == old.id
    morning.execute(sa.update(tables.portfolio).where(changed).values(portfolio_number="FNZ5002"))
    old.row["portfolio_number"] = "FNZ5002"
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.reasons(MONDAY)["FNZ5002"] == "breaks number_changed (once)"
    morning.run(FRIDAY, fresh=True)
    assert "number_changed" in morning.reasons(FRIDAY)["FNZ5002"]
    morning.run(MONDAY, fresh=True)
    for day in (FRIDAY, MONDAY):
        numbers = morning.sent(day).frame("records")["portfolio_number"].unique().to_list()
        assert "FNZ5002" not in numbers


def test_two_portfolios_that_swap_numbers_are_both_held_back(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    item, other = morning.funds
    number = tables.portfolio.c.portfolio_number
    for fund, name in ((item, "X"), (other, item.number), (item, other.number)):
        morning.execute(
            sa.update(tables.portfolio).where(tables.portfolio.c.portfolio_id == fund.id).values(portfolio_number=name)
        )
    assert number is not None
    item.row["portfolio_number"], other.row["portfolio_number"] = other.number, item.number
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert set(morning.reasons(MONDAY)) == {"SW00005001", "SW00005002"}


def test_ledger_rebuilt_from_documents_and_landings_is_equal(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    morning.visible_late(morning.funds[0], "123.45", "2020-04-03T12:59:58Z")
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    morning.end_of_day(FRIDAY)
    assert morning.run(FRIDAY, fresh=True).kind == "DELIVERED"
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    store = morning.runtime.store
    rebuilt = list(rebuild_ledger(store, FEED.name, FEED.format, AUDIENCE))
    assert [(item.business_date, item.revision, item.proven) for item in rebuilt] == [
        (FRIDAY, 0, True),
        (MONDAY, 0, True),
        (FRIDAY, 1, True),
        (TUESDAY, 0, True),
    ]
    before = {key: store.read(key) for key in store.list("ledger/")}
    for key in before:
        store.delete(key)
    list(rebuild_ledger(store, FEED.name, FEED.format, AUDIENCE))
    assert {key: store.read(key) for key in store.list("ledger/")} == before


def test_place_with_the_ledger_of_a_stopped_attempt_is_left_void(
    morning: Morning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_run, "publish", partial(publish, patience_seconds=0))  # it waits a minute for the other
    assert morning.runtime.store.create("ledger/class_super/2020-04-03/r0/records-0000.parquet", b"another attempt's")
    assert (morning.run(FRIDAY).kind, morning.reasons(FRIDAY)) == ("DELIVERED", {})
    assert [entry.revision for entry in morning.sent(FRIDAY).state.deliveries] == [1]
    assert verify_feed(morning.runtime.store, FEED.name, FEED.format).problems == []


def test_rebuild_that_gives_other_files_names_the_ledger(morning: Morning) -> None:
    morning.run(FRIDAY)
    key = "ledger/class_super/2020-04-03/r0/portfolios-0000.parquet"
    morning.runtime.store.delete(key)
    assert morning.runtime.store.create(key, b"other rows")
    with pytest.raises(
        DamagedRecordError, match="ledger/class_super/2020-04-03/r0: rebuilding gave other ledger files"
    ):
        list(rebuild_ledger(morning.runtime.store, FEED.name, FEED.format, AUDIENCE))


def test_rebuild_without_the_landing_names_what_to_restore(morning: Morning) -> None:
    outcome = morning.run(FRIDAY)
    assert outcome.manifest is not None
    morning.runtime.store.delete(outcome.manifest.snapshot.descriptor_key)
    with pytest.raises(LandingGoneError, match="Restore landing/"):
        list(rebuild_ledger(morning.runtime.store, FEED.name, FEED.format, AUDIENCE))


def test_audit_adds_up_every_record_and_names_a_wrong_position(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    morning.funds[0].deposit("5.50", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    store = morning.runtime.store
    for sample in (None, 1, 5):
        matches = list(audit_positions(store, FEED.name, AUDIENCE, sample=sample))
        assert [break_.business_date for break_ in matches] == [FRIDAY, MONDAY], sample
        assert not any(break_.wrong for break_ in matches), sample
    rows = morning.sent(MONDAY).frame("positions")
    wrong = _compared(MONDAY, rows.with_columns(pl.col("sent") + pl.lit(Decimal("0.01"))), rows)
    assert len(wrong.wrong) == rows.height


def test_another_fund_of_the_recipient_gets_the_history(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    fund = morning.funds[0]
    fund.consent(granted_at="2020-04-05T23:00:00Z", reference="ANOTHER")
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    sent = morning.sent(MONDAY).frame("portfolios", ["portfolio_id", "recipient_reference", "change", "extract"])
    assert (fund.id, "ANOTHER", "NEW", "FULL") in sent.rows()
    assert morning.ids(MONDAY) == [name for name in morning.ids(FRIDAY) if _of(morning, fund, name)]
    assert morning.position(fund, MONDAY) == morning.position(fund, FRIDAY)
    assert not morning.reasons(MONDAY)


def _of(morning: Morning, fund: Portfolio, transaction_id: str) -> bool:
    records = morning.sent(FRIDAY).frame("records", ["transaction_id", "portfolio_id"])
    return (transaction_id, fund.id) in records.rows()
