"""Correct deliveries from unusual rows and histories: reconciliation ends with a verdict, and reports no error."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.feeds import class_cash, class_super, class_trade
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.warehouse.records import Break, BreakCause
from classfeed_dagster_tests.fixtures.morning import deliver_date
from classfeed_dagster_tests.fixtures.prepared_mornings import (
    AUDIENCE,
    FRIDAY,
    MONDAY,
    TUESDAY,
    Morning,
    MorningWith,
    friday_delivered,
    monday_delivered,
)

pytestmark = pytest.mark.slow

AFTERWARDS = dt.datetime(2020, 4, 8, tzinfo=dt.UTC)
# Recipient's codes of a portfolio's consents, and whether it is sent. The later consent counts.
REFERENCES: dict[tuple[str, ...], bool] = {
    ("FUND1", ""): False,
    ("FUND1", "\t"): False,
    ("", "FUND1"): True,
    ("  FUND1 ",): True,
    ("FUND1\t",): True,
    ("\u00a0FUND1\u00a0",): True,
    ("\u00a0",): False,
}
# Instants and dates of a consent that Python or a document cannot hold, each with its column.
IMPOSSIBLE = (
    ("expires_at", "infinity"),
    ("expires_at", "12020-01-01"),
    ("expires_at", "9999-12-31"),
    ("granted_at", "-infinity"),
    ("granted_at", "0044-03-15 BC"),
    ("updated_at", "infinity"),
    ("history_from", "-infinity"),
    ("history_from", "0044-03-15 BC"),
)


def found(morning: Morning, day: dt.date, feed: Feed = class_super.FEED) -> tuple[Break, ...]:
    """Return the breaks between a delivered date and bigsite."""
    return PostDelivery(morning.runtime, feed, AUDIENCE, day, "a1", morning_after(day)).source().breaks


def causes(breaks: tuple[Break, ...]) -> dict[str, BreakCause]:
    return {f"{entry.subject} {entry.field or ''}".strip(): entry.likeliest.cause for entry in breaks}


def change(morning: Morning, statement: str, **values: object) -> None:
    morning.execute(sa.text(statement).bindparams(**values))


def test_reference_counts_without_blanks_around_it(morning: Morning) -> None:
    sent: dict[str, bool] = {}
    for at, (references, expected) in enumerate(REFERENCES.items()):
        fund = morning.bigsite.portfolio(f"SW0000600{at}")
        fund.deposit("5.00", FRIDAY)
        for day, reference in enumerate(references, 1):
            fund.consent(granted_at=f"2020-03-{day:02d}T00:00:00Z", reference=reference)
        sent[fund.number] = expected
    morning.end_of_day(FRIDAY)
    outcome = morning.run(FRIDAY)
    assert outcome.manifest is not None
    numbers = {portfolio.number for portfolio in outcome.manifest.portfolios}
    assert {number: number in numbers for number in sent} == sent
    assert found(morning, FRIDAY) == ()


def test_impossible_instants_of_a_consent_stop_no_reconciliation(morning: Morning) -> None:
    consent = "UPDATE bigsite.data_sharing_consent SET {} = CAST(:value AS {}) WHERE portfolio_id = :portfolio"
    funds = [morning.bigsite.portfolio(f"SW0000600{at}") for at, _ in enumerate(IMPOSSIBLE)]
    for fund in funds:
        fund.consent(granted_at="2020-03-01T00:00:00Z").deposit("5.00", FRIDAY)
    morning.end_of_day(FRIDAY)
    for fund, (column, value) in zip(funds, IMPOSSIBLE, strict=True):
        kind = "date" if column == "history_from" else "timestamptz"
        change(morning, consent.format(column, kind), value=value, portfolio=fund.id)
    assert morning.run(FRIDAY).kind == "DELIVERED"
    assert morning.reasons(FRIDAY) == {}
    assert found(morning, FRIDAY) == ()
    # A difference makes reconciliation look at the consents and the rows of the portfolio.
    for fund in funds:
        change(morning, "UPDATE bigsite.cash_balance_eod SET ledger_balance = 6 WHERE cash_account_id = :account",
               account=fund.cash().id)  # fmt: skip
    assert {entry.portfolio_number for entry in found(morning, FRIDAY)} == {fund.number for fund in funds}


@pytest.mark.parametrize("table", ["cash_transaction", "trade"])
def test_impossible_dates_of_later_rows_stop_no_reconciliation(morning_with: MorningWith, table: str) -> None:
    morning = morning_with(friday_delivered)
    columns = {"cash_transaction": ("recorded_at", "transaction_date"), "trade": ("trade_date", "settlement_date")}
    for row, column in enumerate(columns[table], 1):
        change(morning, f"UPDATE bigsite.{table} SET {column} = '-infinity' WHERE {table}_id = :row", row=row)
    change(morning, "UPDATE bigsite.portfolio SET portfolio_name = 'New', updated_at = '12020-01-01'")
    change(morning, "UPDATE bigsite.cash_balance_eod SET ledger_balance = 6, updated_at = :at", at=AFTERWARDS)
    change(morning, "UPDATE bigsite.holding_eod SET units = 6, updated_at = :at", at=AFTERWARDS)
    assert causes(found(morning, FRIDAY))["SW00005001 portfolio_name"] is BreakCause.UNKNOWN


@pytest.mark.parametrize("end", ["2022-01-01", "infinity", "9999-12-31", "12020-01-01"])
def test_end_of_one_of_two_consents_explains_its_differences(morning: Morning, end: str) -> None:
    """The one that stays has a shorter history and, perhaps, an end that represents none."""
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = dt.date(2020, 4, 2)
    fund.consent(granted_at="2020-03-02T00:00:00Z")
    morning.bigsite.save()
    stays, ends = (row.id for row in fund.consents)
    change(morning, "UPDATE bigsite.data_sharing_consent SET expires_at = CAST(:at AS timestamptz) WHERE consent_id = :id",
           at=end, id=stays)  # fmt: skip
    assert morning.run(FRIDAY).kind == "DELIVERED"
    change(morning, "UPDATE bigsite.data_sharing_consent SET revoked_at = '2020-04-03 00:00+00', updated_at = "
           "CAST(:at AS timestamptz) WHERE consent_id = :id", at=AFTERWARDS, id=ends)  # fmt: skip
    breaks = causes(found(morning, FRIDAY))
    assert "C2 relates_to" in breaks  # a settlement that is shared, of a trade that now precedes the history
    assert set(breaks.values()) == {BreakCause.CONSENT_CHANGED}


def test_changed_cause_of_a_cash_row_is_an_error_beside_an_ended_consent(morning: Morning) -> None:
    fund = morning.funds[0]
    fund.consents[0]["history_from"] = dt.date(2020, 4, 1)
    fund.consent(granted_at="2020-03-02T00:00:00Z")
    morning.bigsite.save()
    assert morning.run(FRIDAY).kind == "DELIVERED"
    change(morning, "UPDATE bigsite.data_sharing_consent SET revoked_at = '2020-04-03 00:00+00', updated_at = "
           "CAST(:at AS timestamptz) WHERE consent_id = :id", at=AFTERWARDS, id=fund.consents[1].id)  # fmt: skip
    change(morning, "UPDATE bigsite.cash_transaction SET trade_id = NULL WHERE cash_transaction_id = 2")
    assert causes(found(morning, FRIDAY))["C2 relates_to"] is BreakCause.UNKNOWN


def test_dates_issued_again_after_a_late_row_was_sent_are_explained(morning_with: MorningWith) -> None:
    morning = morning_with(monday_delivered)
    late = morning.visible_late(morning.funds[0], "123.45", "2020-04-03T12:59:58Z")
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    for day in (MONDAY, FRIDAY):  # the row is visible to both, and belongs to Friday's window
        morning.bigsite.end_of_day(day, at="2020-04-07T15:00:00Z").save()
        assert morning.run(day, fresh=True).kind == "DELIVERED"
        (only,) = found(morning, FRIDAY)
        assert (only.subject, only.likeliest.cause) == (f"C{late.id}", BreakCause.LATE_ROW)
        assert only.likeliest.evidence.endswith("sent with 2020-04-07")
    assert f"C{late.id}" not in {*morning.ids(FRIDAY), *morning.ids(MONDAY)}
    assert (found(morning, MONDAY), found(morning, TUESDAY)) == ((), ())


def test_late_trade_explains_the_balance_of_a_feed_without_trades(morning: Morning) -> None:
    feed = class_cash.FEED
    deliver_date(morning.runtime, feed, FRIDAY, (feed,))
    change(morning, "INSERT INTO bigsite.trade SELECT 9001, portfolio_id, cash_account_id, security_id, 'CN9001', side, "
           "'2020-04-03', '2020-04-07', units, price, consideration, brokerage, gst, other_fees, net_amount, currency, "
           "NULL, '2020-04-03 12:59:58+00' FROM bigsite.trade WHERE trade_id = 1")  # fmt: skip
    change(morning, "UPDATE bigsite.cash_balance_eod SET available_balance = available_balance - (SELECT net_amount FROM "
           "bigsite.trade WHERE trade_id = 9001), updated_at = :at WHERE cash_account_id = 1", at=AFTERWARDS)  # fmt: skip
    (only,) = found(morning, FRIDAY, feed)
    assert (only.field, only.likeliest.cause) == ("available_balance", BreakCause.LATE_ROW)
    assert "trade 9001 recorded" in only.likeliest.evidence
    change(morning, "UPDATE bigsite.cash_balance_eod SET available_balance = available_balance - 1")
    assert BreakCause.UNKNOWN in causes(found(morning, FRIDAY, feed)).values()


def test_hin_that_was_assigned_later_explains_the_contract_notes(morning: Morning) -> None:
    feed = class_trade.FEED
    change(morning, "UPDATE bigsite.portfolio SET hin = NULL WHERE portfolio_id = 1")
    deliver_date(morning.runtime, feed, FRIDAY, (feed,))
    change(morning, "UPDATE bigsite.portfolio SET hin = 'X0000000123' WHERE portfolio_id = 1")
    assert causes(found(morning, FRIDAY, feed)) == {"T1 hin": BreakCause.UNKNOWN}  # no evidence of a later change
    change(morning, "UPDATE bigsite.portfolio SET updated_at = :at WHERE portfolio_id = 1", at=AFTERWARDS)
    assert found(morning, FRIDAY, feed) == ()
