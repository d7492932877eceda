"""Rows of simulated customers in bigsite obey the contract and agree with the customers' own books."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict
from decimal import Decimal

import pytest
from stdnum import isin as isin_number
from stdnum.au import abn as abn_number

from classfeed_dagster.bigsite.tables import CASH_TYPES, ENTITY_TYPES, INCOME_TYPES, MOVEMENT_TYPES
from classfeed_dagster.free_text import identifiers_in
from classfeed_dagster.simulation.customers import CLASS, OTHER_RECIPIENT, Persona
from classfeed_dagster.simulation.identifiers import ID_BASE
from classfeed_dagster.trading_days import SYDNEY, add_business_days, cutoff
from classfeed_dagster_tests.fixtures.simulated_world import FIRST, Simulated

UNITS_LEDGER = """
    SELECT portfolio_id, security_id, trade_date AS date, CASE side WHEN 'BUY' THEN units ELSE -units END AS units,
           recorded_at FROM bigsite.trade
    UNION ALL
    SELECT portfolio_id, security_id, effective_date, units_change, recorded_at FROM bigsite.security_movement"""


def test_stated_holdings_are_the_sum_of_the_ledgers_known_to_the_job(simulated: Simulated) -> None:
    broken = simulated.query(f"""
        SELECT h.as_at_date, h.units, SUM(l.units) FROM bigsite.holding_eod h LEFT JOIN ({UNITS_LEDGER}) l
            ON l.portfolio_id = h.portfolio_id AND l.security_id = h.security_id AND l.date <= h.as_at_date
            AND l.recorded_at <= h.updated_at
        GROUP BY h.as_at_date, h.portfolio_id, h.security_id HAVING h.units <> COALESCE(SUM(l.units), 0)""")
    assert broken == []


def test_stated_balances_are_the_sum_of_the_ledger_known_to_the_job(simulated: Simulated) -> None:
    broken = simulated.query("""
        SELECT b.as_at_date, b.ledger_balance, SUM(c.amount) FROM bigsite.cash_balance_eod b
        LEFT JOIN bigsite.cash_transaction c ON c.cash_account_id = b.cash_account_id
            AND c.transaction_date <= b.as_at_date AND c.recorded_at <= b.updated_at
        GROUP BY b.as_at_date, b.cash_account_id HAVING b.ledger_balance <> COALESCE(SUM(c.amount), 0)""")
    assert broken == []


def test_available_balance_excludes_unsettled_buys(simulated: Simulated) -> None:
    broken = simulated.query("""
        SELECT b.as_at_date, b.cash_account_id FROM bigsite.cash_balance_eod b
        LEFT JOIN bigsite.trade t ON t.cash_account_id = b.cash_account_id AND t.side = 'BUY'
            AND t.trade_date <= b.as_at_date AND t.settlement_date > b.as_at_date AND t.recorded_at <= b.updated_at
        GROUP BY b.as_at_date, b.cash_account_id
        HAVING b.available_balance <> b.ledger_balance - COALESCE(SUM(t.net_amount), 0)""")
    assert broken == []


def test_end_of_day_is_complete(simulated: Simulated) -> None:
    for day in simulated.days:
        missing = simulated.query(
            f"""SELECT portfolio_id, security_id FROM ({UNITS_LEDGER}) l WHERE date <= :day
                GROUP BY 1, 2 HAVING SUM(units) FILTER (WHERE recorded_at < :cutoff) <> 0 AND SUM(units) <> 0
                EXCEPT SELECT portfolio_id, security_id FROM bigsite.holding_eod WHERE as_at_date = :day""",
            day=day, cutoff=cutoff(day),
        )  # fmt: skip
        assert missing == []
        accounts = simulated.query(
            """SELECT cash_account_id FROM bigsite.cash_account
               WHERE opened_on <= :day AND (closed_on IS NULL OR closed_on > :day)
               EXCEPT SELECT cash_account_id FROM bigsite.cash_balance_eod WHERE as_at_date = :day""",
            day=day,
        )
        assert accounts == []


def test_holding_that_fell_to_zero_has_one_row_on_that_day(simulated: Simulated) -> None:
    series: defaultdict[tuple[int, int], dict[dt.date, Decimal]] = defaultdict(dict)
    for portfolio, security, day, units in simulated.query(
        "SELECT portfolio_id, security_id, as_at_date, units FROM bigsite.holding_eod WHERE as_at_date >= :first",
        first=FIRST,
    ):
        series[portfolio, security][day] = units
    zeros = 0
    for stated in series.values():
        for before, day in itertools.pairwise(simulated.days):
            if stated.get(day) == 0:
                zeros += 1
                assert stated.get(before, 0) != 0
            if stated.get(before, 0) != 0:
                assert day in stated
    assert zeros > 20
    assert all(units >= 0 for stated in series.values() for units in stated.values())


def test_spending_never_exceeds_the_available_balance(simulated: Simulated) -> None:
    overdrawn = [
        day
        for day, updated_at, available in simulated.query(
            "SELECT as_at_date, updated_at, available_balance FROM bigsite.cash_balance_eod WHERE available_balance < 0"
        )
        if updated_at == simulated.world.end_of_day(day)  # a late row may leave the past below zero
    ]
    assert overdrawn == []


def test_customers_books_equal_every_end_of_day_row(simulated: Simulated) -> None:
    instants = simulated.query(
        """SELECT DISTINCT as_at_date, updated_at FROM bigsite.holding_eod WHERE as_at_date >= :first
           UNION SELECT DISTINCT as_at_date, updated_at FROM bigsite.cash_balance_eod WHERE as_at_date >= :first
           ORDER BY 1, 2""",
        first=FIRST,
    )
    rewritten = 0
    for day, updated_at in instants[::4]:
        rewritten += updated_at != simulated.world.end_of_day(day)
        books = simulated.world.books(day, known_before=updated_at)
        for number, exchange, isin, units in simulated.query(
            """SELECT p.portfolio_number, s.exchange, s.isin, h.units FROM bigsite.holding_eod h
               JOIN bigsite.portfolio p USING (portfolio_id) JOIN bigsite.security s USING (security_id)
               WHERE h.as_at_date = :day AND h.updated_at = :at""",
            day=day, at=updated_at,
        ):  # fmt: skip
            assert books.units.get((number, exchange, isin), 0) == units
        for number, account, currency, balance in simulated.query(
            """SELECT p.portfolio_number, a.account_number, a.currency, b.ledger_balance FROM bigsite.cash_balance_eod b
               JOIN bigsite.cash_account a USING (cash_account_id) JOIN bigsite.portfolio p USING (portfolio_id)
               WHERE b.as_at_date = :day AND b.updated_at = :at""",
            day=day, at=updated_at,
        ):  # fmt: skip
            assert books.cash.get((number, account, currency), 0) == balance
    assert rewritten > 10


def test_customers_books_hold_only_rows_recorded_by_the_cut_off(simulated: Simulated) -> None:
    for day in (simulated.days[4], simulated.days[-1]):
        books = simulated.world.books(day)
        recorded = simulated.query(
            f"""SELECT p.portfolio_number, s.exchange, s.isin, SUM(l.units) FROM ({UNITS_LEDGER}) l
                JOIN bigsite.portfolio p USING (portfolio_id) JOIN bigsite.security s USING (security_id)
                WHERE l.date <= :day AND l.recorded_at < :cutoff GROUP BY 1, 2, 3 HAVING SUM(l.units) <> 0""",
            day=day, cutoff=cutoff(day),
        )  # fmt: skip
        assert dict(books.units) == {(number, exchange, isin): units for number, exchange, isin, units in recorded}
        cash = simulated.query(
            """SELECT p.portfolio_number, a.account_number, a.currency, SUM(c.amount) FROM bigsite.cash_transaction c
               JOIN bigsite.cash_account a USING (cash_account_id) JOIN bigsite.portfolio p USING (portfolio_id)
               WHERE c.transaction_date <= :day AND c.recorded_at < :cutoff
               GROUP BY 1, 2, 3 HAVING SUM(c.amount) <> 0""",
            day=day, cutoff=cutoff(day),
        )  # fmt: skip
        assert dict(books.cash) == {(number, account, currency): amount for number, account, currency, amount in cash}
        assert books.portfolios <= {row[0] for row in simulated.query("SELECT portfolio_number FROM bigsite.portfolio")}


def test_consent_in_bigsite_equals_the_customers_intent(simulated: Simulated) -> None:
    for day in simulated.days:
        active = simulated.query(
            """SELECT DISTINCT p.portfolio_number FROM bigsite.data_sharing_consent c
               JOIN bigsite.portfolio p USING (portfolio_id) WHERE c.recipient = :recipient AND c.granted_at < :at
               AND (c.expires_at IS NULL OR c.expires_at >= :at) AND (c.revoked_at IS NULL OR c.revoked_at >= :at)""",
            recipient=CLASS, at=cutoff(day),
        )  # fmt: skip
        assert {number for (number,) in active} == simulated.world.sharing(day)
    assert len(simulated.world.sharing(FIRST)) == simulated.world.plan.consented


def test_consents_begin_end_expire_and_return(simulated: Simulated) -> None:
    sharing = [simulated.world.sharing(day) for day in simulated.days]
    left = {number for before, now in itertools.pairwise(sharing) for number in before - now}
    came = {number for before, now in itertools.pairwise(sharing) for number in now - before}
    returned = {n for n in left & came if n in sharing[0]}
    assert returned
    assert came - returned
    largest_removal = max(len(before - now) / len(before) for before, now in itertools.pairwise(sharing))
    assert largest_removal <= 0.05
    at_a_cut_off = simulated.query("SELECT expires_at FROM bigsite.data_sharing_consent WHERE expires_at IS NOT NULL")
    assert any(at.astimezone(SYDNEY).time() == dt.time() for (at,) in at_a_cut_off)


def test_customer_without_consent_exists_and_never_shares(simulated: Simulated) -> None:
    private = {
        f"SW99{c.number:06d}" for c in simulated.world.plan.customers() if c.persona is Persona.PRIVATE
    }  # fmt: skip
    assert private
    assert not private & frozenset[str]().union(*(simulated.world.sharing(day) for day in simulated.days))
    elsewhere = simulated.world.sharing(FIRST, OTHER_RECIPIENT)
    assert elsewhere
    assert elsewhere <= private


def test_simulation_contains_every_event(simulated: Simulated) -> None:
    def values(sql: str) -> set[object]:
        return {value for (value,) in simulated.query(f"SELECT DISTINCT {sql}")}

    assert values("entity_type FROM bigsite.portfolio") == set(ENTITY_TYPES)
    assert values("movement_type FROM bigsite.security_movement") == set(MOVEMENT_TYPES)
    assert values("income_type FROM bigsite.income") == set(INCOME_TYPES) - {"INTEREST"}
    assert values("transaction_type FROM bigsite.cash_transaction") == set(CASH_TYPES)
    assert values("currency FROM bigsite.trade") == {"AUD", "USD"}
    assert values("status FROM bigsite.portfolio") >= {"ACTIVE", "CLOSED"}
    assert values("role FROM bigsite.portfolio_member") == {"OWNER", "JOINT", "TRUSTEE", "DIRECTOR", "ADVISER"}
    assert values("count(*) > 1 FROM bigsite.security_code_change") == {True}
    assert values("count(*) > 1 FROM bigsite.security WHERE delisted_on IS NOT NULL") == {True}
    for ledger in ("trade", "security_movement", "income", "cash_transaction"):
        assert values(f"count(reverses_{ledger}_id) > 0 FROM bigsite.{ledger}") == {True}, ledger
    assert values("units <> trunc(units) FROM bigsite.trade WHERE currency = 'USD'") >= {True}
    assert values("brokerage FROM bigsite.trade WHERE reverses_trade_id IS NULL") == {Decimal("9.50"), Decimal(0)}
    happened = {name for summary in simulated.summaries for name in summary.counts}
    assert happened >= {
        "late rows", "rows between cut-off and end of day", "rebooked trades", "rewritten holdings",
        "rewritten balances", "portfolios opened", "portfolios suspended", "portfolios closed", "consents granted",
        "consents revoked",
        "consents expired",
    }  # fmt: skip


def test_contract_note_amounts_add_up(simulated: Simulated) -> None:
    notes = simulated.query("SELECT * FROM bigsite.trade")
    for note in notes:
        fees = note.brokerage + note.other_fees
        assert note.net_amount == note.consideration + (fees if note.side == "BUY" else -fees)
        gst = [(fee / 11).quantize(Decimal("0.01")) for fee in (note.brokerage, note.other_fees)]
        assert note.gst == sum(gst)
        assert abs(note.units * note.price - note.consideration) <= abs(note.units) * Decimal("0.0000005") + Decimal(
            "0.005"
        )
        assert note.settlement_date == add_business_days(note.trade_date, 2)
        sign = -1 if note.reverses_trade_id else 1
        assert all(sign * value >= 0 for value in (note.units, note.consideration, fees, note.gst))
    first_hand = [note.confirmation_number for note in notes if note.reverses_trade_id is None]
    assert len(first_hand) == len(set(first_hand))


def test_settlement_pays_its_contract_note_on_its_date(simulated: Simulated) -> None:
    last = simulated.days[-1]
    odd = simulated.query(
        """SELECT t.trade_id FROM bigsite.trade t LEFT JOIN bigsite.cash_transaction c ON c.trade_id = t.trade_id
           WHERE t.settlement_date <= :last
           GROUP BY t.trade_id HAVING COUNT(*) <> 1
           OR COALESCE(SUM(c.amount), 0) <> CASE t.side WHEN 'BUY' THEN -1 ELSE 1 END * t.net_amount""",
        last=last,
    )
    assert odd == []
    assert simulated.query("SELECT 1 FROM bigsite.cash_transaction WHERE transaction_date > :last", last=last) == []


def test_incomes_add_up_and_reversals_undo_them(simulated: Simulated) -> None:
    for row in simulated.query("SELECT * FROM bigsite.income"):
        assert row.net_amount == row.gross_amount - row.withholding_tax
        assert abs(row.franked_amount + row.unfranked_amount) <= abs(row.gross_amount)
        if row.income_type == "DIVIDEND":
            assert row.gross_amount == row.franked_amount + row.unfranked_amount
    undone = simulated.query(
        """SELECT o.gross_amount + r.gross_amount, o.net_amount + r.net_amount, o.franking_credit + r.franking_credit,
                  o.units_held + r.units_held, o.payment_date = r.payment_date, o.recorded_at < r.recorded_at
           FROM bigsite.income r JOIN bigsite.income o ON o.income_id = r.reverses_income_id"""
    )
    assert undone
    assert all(tuple(row) == (0, 0, 0, 0, True, True) for row in undone)
    foreign = simulated.query("SELECT DISTINCT withholding_tax > 0 FROM bigsite.income WHERE currency = 'USD'")
    assert foreign == [(True,)]


def test_code_change_leaves_the_security_with_its_new_code(simulated: Simulated) -> None:
    assert simulated.query(
        """SELECT 1 FROM bigsite.security s JOIN bigsite.security_code_change c USING (security_id)
           WHERE c.effective_on = (SELECT max(effective_on) FROM bigsite.security_code_change x
                                   WHERE x.security_id = s.security_id)
           AND (s.code <> c.new_code OR s.name <> c.new_name)"""
    ) == []  # fmt: skip


def test_identifiers_are_valid_and_recognisable(simulated: Simulated) -> None:
    for number, abn, hin in simulated.query("SELECT portfolio_number, abn, hin FROM bigsite.portfolio"):
        assert str(number).startswith("SW99")
        assert abn is None or abn_number.is_valid(abn)
        assert hin is None or (len(str(hin)) == 11 and str(hin).startswith("X0000"))
    assert all(isin_number.is_valid(isin) for (isin,) in simulated.query("SELECT isin FROM bigsite.security"))
    for table in ("member", "portfolio", "cash_account", "security", "trade", "security_movement", "income",
                  "cash_transaction"):  # fmt: skip
        column = f"{table}_id"
        low, high = simulated.query(f"SELECT min({column}), max({column}) FROM bigsite.{table}")[0]
        assert ID_BASE <= low <= high < 2**53
    assert simulated.query("SELECT DISTINCT right(email, 12) FROM bigsite.member") == [("@example.com",)]


def test_rows_are_recorded_at_realistic_times(simulated: Simulated) -> None:
    notes = simulated.query(
        "SELECT trade_date, currency, reverses_trade_id, confirmation_number, recorded_at FROM bigsite.trade"
    )
    in_hours = {"AUD": 0, "USD": 0}
    for note in notes:
        local = note.recorded_at.astimezone(SYDNEY)
        if local.date() == note.trade_date and note.reverses_trade_id is None:
            in_hours[note.currency] += 1
            opens, closes = (
                (dt.time(10), dt.time(16, 10)) if note.currency == "AUD" else (dt.time(0, 5), dt.time(5, 50))
            )
            assert opens <= local.time() <= closes
    assert sum(in_hours.values()) > len(notes) * 0.9
    assert in_hours["USD"]
    for table in ("trade", "security_movement", "income", "cash_transaction"):
        (latest,) = simulated.query(f"SELECT max(recorded_at) FROM bigsite.{table}")[0]
        assert latest < simulated.world.end_of_day(simulated.days[-1])


def test_holding_has_an_earlier_price(simulated: Simulated) -> None:
    assert simulated.query(
        """SELECT h.security_id FROM bigsite.holding_eod h WHERE h.as_at_date >= :first AND NOT EXISTS (
               SELECT 1 FROM bigsite.security_price p
               WHERE p.security_id = h.security_id AND p.price_date <= h.as_at_date)""",
        first=FIRST,
    ) == []  # fmt: skip
    rates = simulated.query("SELECT count(*) FROM bigsite.fx_rate WHERE rate_date >= :first", first=FIRST)
    assert rates == [(len(simulated.days),)]


def test_estate_ends_with_no_assets(simulated: Simulated) -> None:
    closed = simulated.query("SELECT portfolio_id, closed_on FROM bigsite.portfolio WHERE status = 'CLOSED'")
    assert closed
    for portfolio, closed_on in closed:
        holding = simulated.query(
            f"SELECT SUM(units) FROM ({UNITS_LEDGER}) l WHERE portfolio_id = :p GROUP BY security_id", p=portfolio
        )
        assert holding
        assert all(units == 0 for (units,) in holding)
        accounts = simulated.query(
            """SELECT a.status, a.closed_on, SUM(c.amount) FROM bigsite.cash_account a
               LEFT JOIN bigsite.cash_transaction c USING (cash_account_id) WHERE a.portfolio_id = :p
               GROUP BY a.cash_account_id""",
            p=portfolio,
        )
        assert all((status, on, amount or 0) == ("CLOSED", closed_on, 0) for status, on, amount in accounts)


def test_savers_money_runs_out(simulated: Simulated) -> None:
    # Customers who planned few deposits made just these, in addition to the first one and other receipts.
    customer = min(
        (c for c in simulated.world.plan.customers() if c.persona is Persona.SAVER and c.opened_on < FIRST),
        key=lambda c: c.deposits,
    )
    created = simulated.query(
        """SELECT count(*) FROM bigsite.cash_transaction c JOIN bigsite.cash_account a USING (cash_account_id)
           WHERE a.portfolio_id = :p AND c.transaction_type = 'DEPOSIT' AND c.description = 'Direct credit'
           AND c.amount = :saving""",
        p=ID_BASE + customer.number + 1, saving=customer.saving,
    )  # fmt: skip
    assert created == [(customer.deposits,)]


@pytest.mark.parametrize("text", ["&", "<", '"', "'", "ễ", "😀"])
def test_names_hold_typed_characters(simulated: Simulated, text: str) -> None:
    assert simulated.query("SELECT 1 FROM bigsite.portfolio WHERE strpos(portfolio_name, :text) > 0 LIMIT 1", text=text)


def test_simulated_texts_of_all_kinds_hold_no_identifier(simulated: Simulated) -> None:
    texts = simulated.query("""
        SELECT description FROM bigsite.cash_transaction UNION SELECT description FROM bigsite.security_movement
        UNION SELECT portfolio_name FROM bigsite.portfolio UNION SELECT account_name FROM bigsite.cash_account""")
    assert len(texts) > 200
    assert [text for (text,) in texts if identifiers_in(str(text))] == []
