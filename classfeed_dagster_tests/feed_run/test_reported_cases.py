"""Inputs from public reports of this job: four portfolios, two business dates, and for each case the right outcome.

Cases 05 (encoding) and 12 (DateStyle) need a database of their own: ``bigsite/test_source_session.py``.
"""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from openfeature import api

from classfeed_dagster.delivery.delivery_history import date_status
from classfeed_dagster.delivery.sent import sent_date
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster_tests.fixtures.morning import attempt, deliver, prepare

FRIDAY, MONDAY = dt.date(2020, 4, 3), dt.date(2020, 4, 6)
EVERYONE = {f"SW0000500{at}" for at in range(1, 5)}
FIRST, SECOND, THIRD = (f"SW0000500{at}" for at in (1, 2, 3))
_LONG_AGO = "'2020-02-23 13:00+00'"
BASE = f"""
INSERT INTO bigsite.security VALUES
 (1001, 'ASX', 'BHP', 'AU000000BHP4', 'BHP LTD', 'ORDINARY', 'AUD', NULL, NULL, {_LONG_AGO});
INSERT INTO bigsite.security_price VALUES (1001, '2020-03-31', 30, '2020-03-31 08:00+00');
INSERT INTO bigsite.portfolio
 (portfolio_id, portfolio_number, portfolio_name, entity_type, hin, status, opened_on, updated_at)
 SELECT 5000 + g, 'SW0000500' || g, 'FUND ' || g, 'SMSF', 'X000000500' || g, 'ACTIVE', '2015-01-05', {_LONG_AGO}
 FROM generate_series(1, 4) g;
INSERT INTO bigsite.data_sharing_consent
 (consent_id, portfolio_id, recipient, recipient_reference, granted_at, updated_at)
 SELECT 9000 + g, 5000 + g, 'CLASS', 'FUND' || g, {_LONG_AGO}, {_LONG_AGO} FROM generate_series(1, 4) g;
INSERT INTO bigsite.cash_account
 (cash_account_id, portfolio_id, bsb, account_number, account_name, currency, status, opened_on, updated_at)
 SELECT 7000 + g, 5000 + g, '012-345', '00000700' || g, 'ACCT ' || g, 'AUD', 'ACTIVE', '2015-01-05', {_LONG_AGO}
 FROM generate_series(1, 4) g;
INSERT INTO bigsite.cash_transaction
 (cash_transaction_id, cash_account_id, transaction_type, transaction_date, amount, currency, description, recorded_at)
 SELECT 400000 + g, 7000 + g, 'DEPOSIT', '2020-03-14', 1000, 'AUD', 'Deposit', '2020-03-14 02:00+00'
 FROM generate_series(1, 4) g;
INSERT INTO bigsite.security_movement
 (security_movement_id, portfolio_id, security_id, movement_type, effective_date, units_change, description, recorded_at)
 SELECT 200000 + g, 5000 + g, 1001, 'TRANSFER_IN', '2020-03-14', 100, 'Transfer', '2020-03-14 02:00+00'
 FROM generate_series(1, 4) g
"""
# bigsite's own end of day of one date by the contract's sums, two hours after the cut-off.
END_OF_DAY = """
DELETE FROM bigsite.holding_eod WHERE as_at_date = DATE '{day}';
DELETE FROM bigsite.cash_balance_eod WHERE as_at_date = DATE '{day}';
INSERT INTO bigsite.holding_eod (portfolio_id, security_id, as_at_date, units, cost_base, updated_at)
 SELECT portfolio_id, security_id, DATE '{day}', SUM(u), NULL, TIMESTAMPTZ '{at}' FROM (
  SELECT portfolio_id, security_id, CASE side WHEN 'BUY' THEN units ELSE -units END u, trade_date dd, recorded_at
  FROM bigsite.trade
  UNION ALL
  SELECT portfolio_id, security_id, units_change, effective_date, recorded_at FROM bigsite.security_movement) x
 WHERE dd <= DATE '{day}' AND recorded_at <= TIMESTAMPTZ '{at}' GROUP BY 1, 2 HAVING SUM(u) <> 0 OR MAX(dd) = DATE '{day}';
INSERT INTO bigsite.cash_balance_eod (cash_account_id, as_at_date, ledger_balance, available_balance, updated_at)
 SELECT a.cash_account_id, DATE '{day}', COALESCE(SUM(c.amount), 0), COALESCE(SUM(c.amount), 0), TIMESTAMPTZ '{at}'
 FROM bigsite.cash_account a LEFT JOIN bigsite.cash_transaction c ON c.cash_account_id = a.cash_account_id
  AND c.transaction_date <= DATE '{day}' AND c.recorded_at <= TIMESTAMPTZ '{at}' GROUP BY 1
"""


def trade(key: int, of: int, reverses: str = "NULL", *, sign: str = "", price: str = "2", hour: int = 7) -> str:
    """Return a row of 10 units of portfolio 500``of``; with the ``sign`` - it undoes one."""
    return (
        f"({key}, 500{of}, 700{of}, 1001, 'N{of}', 'BUY', '2020-04-03', '2020-04-07', {sign}10, {price}, {sign}20, "
        f"{sign}9.50, {sign}0.86, 0, {sign}29.50, 'AUD', {reverses}, '2020-04-03 0{hour}:00+00')"
    )


def cash(key: int, account: int, amount: str, text: str, cause: str = "NULL") -> str:
    """Return a row of the account 700``account``, recorded on Friday."""
    return (
        f"({key}, 700{account}, '{'SETTLEMENT' if cause != 'NULL' else 'DEPOSIT'}', '2020-04-03', {amount}, 'AUD', "
        f"'{text}', {cause}, NULL, NULL, '2020-04-03 07:00+00')"
    )


@dataclass(frozen=True)
class Case:
    """A reported input: what is in bigsite first, what changes after Friday, and who is held back on each date."""

    first: str = ""
    later: str = ""
    friday: frozenset[str] = frozenset()
    monday: frozenset[str] = frozenset()
    reason: str = ""  # in the reasons of those held back
    never: tuple[str, ...] = ()  # in no delivered byte
    sent: tuple[str, ...] = ()  # in Friday's document
    absent: frozenset[str] = field(default_factory=frozenset)  # neither sent nor held back
    share: str = "1"  # of portfolios that may be held back


def of(*numbers: str) -> frozenset[str]:
    """Return the portfolios that a case holds back."""
    return frozenset(numbers)


_INTO_TRADE, _INTO_CASH = "INSERT INTO bigsite.trade VALUES ", "INSERT INTO bigsite.cash_transaction VALUES "
CASES: dict[str, Case] = {
    "01 price that is no number": Case(
        _INTO_TRADE + trade(100001, 1, price="'NaN'"),
        friday=of(FIRST),
        monday=of(FIRST),
        reason="trade_id 100001",
    ),
    "02 infinite close": Case(
        "UPDATE bigsite.portfolio SET closed_on = 'infinity' WHERE portfolio_id = 5001",
        friday=of(FIRST),
        monday=of(FIRST),
        reason="portfolio.closed_on",
    ),
    "03 page's total that its type cannot state": Case(
        _INTO_CASH + cash(400010, 1, "9999999999998999.99", "sentinel"),
        sent=("9999999999999999.99",),
        share="0.01",
    ),
    "04 malformed ISIN that everybody holds": Case(
        "UPDATE bigsite.security SET isin = 'au000000bhp4' WHERE security_id = 1001",
        never=("au000000bhp4", "<ISIN>"),
        share="0.01",
    ),
    "06 cash account renumbered": Case(
        later="UPDATE bigsite.cash_account SET account_number = '900000001', bsb = '062-000', "
        "updated_at = '2020-04-06 02:00+00' WHERE cash_account_id = 7001",
        monday=of(FIRST),
        reason="number_changed",
        never=("900000001",),
    ),
    "07 portfolio renumbered": Case(
        later="UPDATE bigsite.portfolio SET portfolio_number = 'FNZ5002', updated_at = '2020-04-06 02:00+00' "
        "WHERE portfolio_id = 5002",
        monday=of("FNZ5002"),
        reason="number_changed",
        never=("FNZ5002",),
    ),
    "07 two portfolios swap numbers": Case(
        later="UPDATE bigsite.portfolio SET portfolio_number = 'X' WHERE portfolio_id = 5001; "
        f"UPDATE bigsite.portfolio SET portfolio_number = '{FIRST}' WHERE portfolio_id = 5002; "
        f"UPDATE bigsite.portfolio SET portfolio_number = '{SECOND}' WHERE portfolio_id = 5001",
        monday=of(FIRST, SECOND),
        reason="number_changed",
    ),
    "08 cash related to another customer's trade": Case(
        "DELETE FROM bigsite.data_sharing_consent WHERE portfolio_id = 5004; "
        + _INTO_TRADE + trade(100777, 4) + "; "
        + _INTO_CASH + cash(400030, 1, "-29.50", "Settlement", "100777"),
        friday=of(FIRST),
        monday=of(FIRST),
        reason="foreign_relation",
        never=("T100777",),
        absent=of("SW00005004"),
    ),
    "09 reversals that do not undo": Case(
        _INTO_TRADE + ", ".join((
            trade(100001, 1), trade(100002, 1, "100001", sign="-", hour=8), trade(100003, 1, "100001", sign="-", hour=9),
            trade(100011, 2), trade(100012, 2, "100011", hour=8),
            trade(100021, 3, "100021"),
        )),
        friday=of(FIRST, SECOND, THIRD),
        monday=of(FIRST, SECOND, THIRD),
        reason="reversal",
    ),
    "10 history from infinity": Case(
        "UPDATE bigsite.data_sharing_consent SET history_from = 'infinity' WHERE portfolio_id = 5001",
        never=("OPENING_", "9998-12-31"),
        absent=of(FIRST),
    ),
    "11 identifiers in free text": Case(
        _INTO_CASH + cash(400040, 1, "-1.00", "BPAY ATO ref 123456782, jane.citizen@example.com") + "; "
        "UPDATE bigsite.portfolio SET portfolio_name = 'CITIZEN SF TFN 123 456 782' WHERE portfolio_id = 5002",
        never=("123456782", "123 456 782", "jane.citizen"),
    ),
    "13 row deleted behind a closed window": Case(
        later="DELETE FROM bigsite.cash_transaction WHERE cash_transaction_id = 400002",
        monday=of(SECOND),
        reason="delivered_balance",
    ),
}  # fmt: skip


@dataclass
class ReportedFeed:
    """A bigsite with the common rows, and the feed's mornings."""

    engine: sa.Engine
    runtime: Runtime

    def execute(self, statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in filter(str.strip, statements.split(";")):
                connection.execute(sa.text(statement))

    def end_of_day(self, day: dt.date) -> None:
        at = {FRIDAY: "2020-04-03 15:00+00", MONDAY: "2020-04-06 16:00+00"}[day]
        self.execute(END_OF_DAY.format(day=day, at=at))

    def run(self, day: dt.date, *, fresh: bool = False) -> None:
        work = attempt(self.runtime, FEED, day, (FEED,))
        prepare(work, fresh=fresh)
        deliver(work)

    def documents(self, day: dt.date) -> str:
        manifests = delivered_state(self.runtime.store, FEED.name, day).deliveries
        texts = []
        for manifest in manifests:
            for page in manifest.pages:
                with self.runtime.store.local_file(page.key) as path:
                    texts.append(gzip.decompress(path.read_bytes()).decode())
        return "".join(texts)

    def held_back(self, day: dt.date) -> dict[str, str]:
        status = date_status(self.runtime.store, FEED.name, day)
        return {
            hold.number: " ".join((hold.held_back.reason, *(rule.detail or "" for rule in hold.held_back.rules)))
            for hold in status.quarantined
        }

    def sent(self, day: dt.date) -> set[str]:
        state = delivered_state(self.runtime.store, FEED.name, day)
        return set(state.numbers)


@pytest.fixture
def feed(request: pytest.FixtureRequest, bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[ReportedFeed]:
    case: Case = request.param if hasattr(request, "param") else Case()
    url = bigsite_engine.url.render_as_string(hide_password=False)
    settings = Settings(bigsite_url=url, home=tmp_path, first_business_date=FRIDAY, max_held_back_share=case.share)
    runtime = Runtime(settings)
    start_flags(runtime.settings, (FEED,))
    created = ReportedFeed(bigsite_engine, runtime)
    created.execute(BASE)
    yield created
    runtime.close()
    api.clear_providers()


@pytest.mark.parametrize(("feed", "case"), [(case, case) for case in CASES.values()], ids=CASES, indirect=["feed"])
def test_reported_case_has_the_right_outcome(feed: ReportedFeed, case: Case) -> None:
    feed.execute(case.first)
    feed.end_of_day(FRIDAY)
    feed.run(FRIDAY)
    feed.execute(case.later)
    feed.end_of_day(MONDAY)
    feed.run(MONDAY)
    for day, numbers in ((FRIDAY, case.friday), (MONDAY, case.monday)):
        reasons = feed.held_back(day)
        assert set(reasons) == numbers, (day, reasons)
        assert all(case.reason in text or "waiting for" in text for text in reasons.values()), reasons
        renumbered = {SECOND} if "FNZ5002" in numbers else set()
        assert feed.sent(day) == EVERYONE - numbers - case.absent - renumbered, day
    friday, both = feed.documents(FRIDAY), feed.documents(FRIDAY) + feed.documents(MONDAY)
    assert all(text in friday for text in case.sent)
    assert not [text for text in case.never if text in both]
    assert verify_feed(feed.runtime.store, FEED.name, FEED.format).problems == []


def test_row_committed_late_is_sent_with_the_next_date(feed: ReportedFeed) -> None:
    feed.end_of_day(FRIDAY)
    feed.run(FRIDAY)
    feed.execute(
        "INSERT INTO bigsite.cash_transaction VALUES (400050, 7001, 'DEPOSIT', '2020-04-03', 123.45, 'AUD', "
        "'committed late', NULL, NULL, NULL, '2020-04-03 12:59:58+00')"
    )
    feed.end_of_day(MONDAY)
    feed.run(MONDAY)
    assert not feed.held_back(MONDAY)
    assert "<TransactionId>C400050<" in feed.documents(MONDAY)


def test_portfolio_renumbered_is_not_sent_again_by_fresh_snapshots(feed: ReportedFeed) -> None:
    """As the first report goes on: Friday and Monday are run again from fresh snapshots."""
    feed.end_of_day(FRIDAY)
    feed.run(FRIDAY)
    feed.execute(CASES["07 portfolio renumbered"].later)
    feed.execute(
        "INSERT INTO bigsite.cash_transaction VALUES (400020, 7002, 'DEPOSIT', '2020-04-06', 5, 'AUD', 'x', NULL, NULL, "
        "NULL, '2020-04-06 02:00+00')"
    )
    feed.end_of_day(FRIDAY)
    feed.end_of_day(MONDAY)
    feed.run(MONDAY)
    for day in (FRIDAY, MONDAY):
        feed.run(day, fresh=True)
    for day in (FRIDAY, MONDAY):
        assert "FNZ5002" not in feed.documents(day)
        assert "FNZ5002" not in sent_date(feed.runtime.store, FEED.name, day).frame("records")["portfolio_number"]
        assert "number_changed" in feed.held_back(day)["FNZ5002"]
