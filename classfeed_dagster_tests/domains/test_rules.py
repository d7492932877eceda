"""Every rule finds what breaks it, leaves alone what doesn't, and never shows personal data."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.bigsite import tables as bigsite
from classfeed_dagster.bigsite.unreadable_values import UnreadableValue
from classfeed_dagster.domains import breaches
from classfeed_dagster.domains.account_balances import account_balances
from classfeed_dagster.domains.account_details import account_details
from classfeed_dagster.domains.build import DOMAINS
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.domains.investment_holdings import investment_holdings
from classfeed_dagster.domains.movement_transactions import movement_transactions
from classfeed_dagster.domains.rules import RULES, RuleSeverity, find, rules_of
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.landed import NEW, TODAY, YESTERDAY, part
from classfeed_dagster_tests.fixtures.published import contract_notes, needs_contract_notes

NOT_STATED = {"updated_at": None, "ledger_balance": None, "available_balance": None}
SELL = {"side": "SELL", "net_amount": "90.50"}
OLD_HISTORY = {"history_from": "2022-07-01"}
UNDOES = {"reversed_portfolio_id": 1, "undoes_exactly": True, "reversals_standing": 1}
TWO_PORTFOLIOS = [{}, {"portfolio_id": 2, "portfolio_number": "SW2", "recipient": "BGL"}]


def _findings(domain: str, unreadable: tuple[UnreadableValue, ...] = (), **rows: Any) -> pl.DataFrame:
    values = replace(part(**rows), unreadable=unreadable)
    compute = {
        "consented_portfolios": lambda it: {"consented_portfolios": it.consented},
        "account_details": account_details,
        "account_balances": account_balances,
        "investment_holdings": investment_holdings,
        "movement_transactions": movement_transactions,
    }
    return find(domain, values, compute[domain](values))


def _all_findings(**rows: Any) -> pl.DataFrame:
    return pl.concat([_findings(domain, **rows) for domain in DOMAINS])


# One case a way to break a rule: the rule, the subject it must name, and the rows that break it and nothing else.
BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("history_begins_later", "history_from", {"data_sharing_consent": [{"history_from": "2023-02-02"}]}),
    ("unknown_account_value", "entity_type", {"portfolio": [{"entity_type": "ESTATE"}]}),
    ("unknown_account_value", "status", {"portfolio": [{"status": "FROZEN"}]}),
    ("unknown_account_value", "1", {"cash_account": [{"status": "FROZEN"}]}),
    ("hin_shape", "hin", {"portfolio": [{"hin": "0000000001"}]}),
    ("hin_shape", "hin", {"portfolio": [{"hin": "X000000000A"}]}),
    ("hin_shape", "hin", {"portfolio": [{"hin": "X000000000\u0661"}]}),  # a digit, but not an ASCII one
    ("hin_shape", "hin", {"portfolio": [{"hin": "X0000000001\n"}]}),
    ("abn_check_digits", "abn", {"portfolio": [{"abn": "51824753557"}]}),
    ("abn_check_digits", "abn", {"portfolio": [{"abn": "51 824 753 556"}]}),
    ("abn_check_digits", "abn", {"portfolio": [{"abn": ""}]}),
    ("abn_check_digits", "abn", {"portfolio": [{"abn": "10123457031"}]}),
    ("abn_check_digits", "abn", {"portfolio": [{"abn": "07100000000"}]}),  # no ABN begins with 0
    ("shared_hin", "hin", {"portfolio": [{"hin_holders": "SW000001, SW000002"}]}),
    ("shared_account_number", "1", {"cash_account": [{"number_holders": "SW000001, SW000002"}]}),
    ("bsb_shape", "1", {"cash_account": [{"bsb": "999001"}]}),
    ("bsb_missing", "1", {"cash_account": [{"bsb": None}]}),
    ("ambiguous_cash_account", "2", {"cash_account": [{}, {"bsb": "999-002"}]}),
    ("identifier_in_name", "portfolio_name", {"portfolio": [{"portfolio_name": "A SF TFN 123 456 782"}]}),
    ("identifier_in_name", "1", {"cash_account": [{"account_name": "a@example.com"}]}),
    ("identifier_in_narrative", "C1", {"cash_transaction": [{"description": "ATO ref 123456782"}]}),
    ("identifier_in_narrative", "S1", {"security_movement": [{"description": "card 4111111111111111"}]}),
    ("balance_missing", "1", {"cash_balance_eod": [{**NOT_STATED, "ledger_cash": "5.00"}]}),
    ("cash_ledger", "1", {"cash_balance_eod": [{"ledger_balance": "5.00", "ledger_cash": "4.99"}]}),
    ("cash_ledger", "1", {"cash_balance_eod": [{**NOT_STATED, "open_on_date": False, "ledger_cash": "-0.01"}]}),
    (
        "cash_ledger",
        "1",
        {"cash_balance_eod": [{**NOT_STATED, "open_on_date": False, "opened_by_date": False, "ledger_cash": "1"}]},
    ),
    ("holding_missing", "ASX:BHP", {"holding_eod": [{"units": None, "updated_at": None, "ledger_units": "7"}]}),
    ("units_ledger", "ASX:BHP", {"holding_eod": [{"units": "7", "ledger_units": "7.000001"}]}),
    (
        "holding_too_large",
        "ASX:BHP",
        {"holding_eod": [{"units": "99999999999999"}], "security_price": [{"close_price": "1000"}]},
    ),
    ("unknown_security_type", "ASX:BHP", {"holding_eod": [{}], "security": [{"security_type": "CFD"}]}),
    ("ambiguous_security", "ASX:BHP", {"holding_eod": [{}, {"security_id": 2}], "security": [{}, {"security_id": 2}]}),
    ("holding_code", "ASX:BHP ", {"holding_eod": [{}], "security": [{"code": "BHP "}]}),
    ("holding_code", "A X:BHP", {"holding_eod": [{}], "security": [{"exchange": "A X"}]}),
    ("movement_code", "T1", {"trade": [{}], "security": [{"exchange": ""}]}),
    ("isin_check_digit", "ASX:BHP", {"holding_eod": [{}], "security": [{"isin": "AU000000BHP5"}]}),
    ("holding_isin", "ASX:BHP", {"holding_eod": [{}], "security": [{"isin": "au000000bhp4"}]}),
    ("movement_isin", "I1", {"income": [{}], "security": [{"isin": "AU000000BHP"}]}),
    ("unknown_transaction_type", "T1", {"trade": [{"side": "SHORT"}]}),
    ("unknown_transaction_type", "S1", {"security_movement": [{"movement_type": "BUY"}]}),  # known, elsewhere
    ("unknown_transaction_type", "I1", {"income": [{"income_type": "RENT"}]}),
    ("unknown_transaction_type", "C1", {"cash_transaction": [{"transaction_type": "BONUS"}]}),
    ("movement_code", "I1", {"income": [{}], "security": [{"code": "bhp"}]}),
    ("net_amount", "T1", {"trade": [{"net_amount": "90.50"}]}),
    ("net_amount", "T1", {"trade": [{**SELL, "net_amount": "109.50"}]}),  # a sale that pays its own fees: refused
    ("net_amount", "T1", {"trade": [{"other_fees": "0.01"}]}),
    ("repeated_confirmation", "CN1", {"repeated_confirmation": [{}]}),
    (
        "foreign_reversal",
        "T1",
        {"trade": [{"reverses_trade_id": 9, "reversed_portfolio_id": 2}], "data_sharing_consent": TWO_PORTFOLIOS},
    ),
    ("foreign_reversal", "S1", {"security_movement": [{"reverses_security_movement_id": 9}]}),
    ("foreign_reversal", "I1", {"income": [{"reverses_income_id": 9, "reversed_portfolio_id": 2}]}),
    ("foreign_reversal", "C1", {"cash_transaction": [{"reverses_cash_transaction_id": 9, "reversed_portfolio_id": 2}]}),
    ("inexact_reversal", "T1", {"trade": [{**UNDOES, "reverses_trade_id": 9, "undoes_exactly": False}]}),
    (
        "inexact_reversal",
        "S1",
        {"security_movement": [{**UNDOES, "reverses_security_movement_id": 9, "undoes_exactly": False}]},
    ),
    ("inexact_reversal", "I1", {"income": [{**UNDOES, "reverses_income_id": 9, "undoes_exactly": False}]}),
    (
        "inexact_reversal",
        "C1",
        {"cash_transaction": [{**UNDOES, "reverses_cash_transaction_id": 9, "undoes_exactly": False}]},
    ),
    ("repeated_reversal", "T1", {"trade": [{**UNDOES, "reverses_trade_id": 9, "reversals_standing": 2}]}),
    (
        "repeated_reversal",
        "C1",
        {"cash_transaction": [{**UNDOES, "reverses_cash_transaction_id": 9, "reversals_standing": 2}]},
    ),
    ("foreign_relation", "C1", {"cash_transaction": [{"trade_id": 7, "related_portfolio_id": 2}]}),
    ("foreign_relation", "C1", {"cash_transaction": [{"income_id": 7, "related_portfolio_id": 2}]}),
    ("cash_currency", "C1", {"cash_transaction": [{"currency": "USD"}]}),
    (
        "opening_too_large",
        "OU-SW000001-1-20230201",
        {"data_sharing_consent": [OLD_HISTORY], "opening_units": [{"units": "100000000000000"}]},
    ),
    (
        "opening_too_large",
        "OC-SW000001-1-20230201",
        {"data_sharing_consent": [OLD_HISTORY], "opening_cash": [{"amount": "-10000000000000000"}]},
    ),
    ("price_times_units", "T1", {"trade": [{"consideration": "100.06", "net_amount": "109.56"}]}),
    ("settlement_date", "T1", {"trade": [{"settlement_date": "2023-02-05"}]}),
]

# Unusual and right, or out of scope.
SOUND: list[dict[str, Any]] = [
    {},
    {"data_sharing_consent": [{"history_from": "2023-02-01"}]},
    {"portfolio": [{"abn": None, "hin": None}]},
    {"portfolio": [{"abn": "10123457030"}]},  # 0x10 + 0x1 + 1x3 + 2x5 + 3x7 + 4x9 + 5x11 + 7x13 + 0 + 3x17 + 0 = 3 x 89
    {"cash_account": [{"bsb": None, "currency": "USD"}]},
    {"cash_account": [{}, {"currency": "USD", "bsb": None}]},
    {"cash_account": [{}, {"opened_on": "2023-02-02"}]},  # not sent yet, so nothing to confuse
    {"cash_account": [{"account_name": "a@example.com", "opened_on": "2023-02-02"}]},  # not sent yet
    {"cash_account": [{"account_number": "123456782"}]},
    {"cash_transaction": [{"description": "Transfer to 062-000 123456782"}]},
    {"cash_balance_eod": [{"ledger_balance": "-5.00"}]},
    {"cash_balance_eod": [{**NOT_STATED, "open_on_date": False}]},
    {"holding_eod": [{"units": "0", "unsettled_units": "-10"}], "security_price": [{}]},
    {"holding_eod": [{}, {"security_id": 2}], "security": [{}, {"security_id": 2, "exchange": "NYSE", "isin": None}]},
    {"trade": [{}, SELL]},
    {"trade": [{"brokerage": "0", "gst": "0", "net_amount": "100.00"}]},  # a free trade
    {"trade": [{"consideration": "100.05", "net_amount": "109.55"}]},  # 10.00 may have been 10.005
    {"trade": [{"price": "10.001", "consideration": "100.02", "net_amount": "109.52"}]},
    {
        "trade": [
            {
                "units": "-10",
                "consideration": "-100.00",
                "brokerage": "-9.50",
                "gst": "-0.86",
                "net_amount": "-109.50",
                "reverses_trade_id": 9,
                "reversed_portfolio_id": 1,
                "trade_date": "2022-12-01",
            }
        ]
    },
    {"trade": [{"settlement_date": "2023-02-02"}], "security": [{"exchange": "NYSE"}]},  # another market's rule
    {"trade": [{"trade_date": "2001-02-01"}]},  # before the calendar begins
    {"trade": [{"recorded_at": YESTERDAY, "net_amount": "1.00"}]},  # not of this window
    {"income": [{"income_type": kind} for kind in bigsite.INCOME_TYPES]},
    {"security_movement": [{"movement_type": kind} for kind in bigsite.MOVEMENT_TYPES]},
    {"cash_transaction": [{"transaction_type": kind} for kind in bigsite.CASH_TYPES]},
    {"data_sharing_consent": [{**NEW, **OLD_HISTORY}], "opening_units": [{}], "opening_cash": [{}]},
    {  # consent ended: nothing of the portfolio is judged
        "data_sharing_consent": [{"revoked_at": TODAY, "history_from": "2023-02-02"}],
        "portfolio": [{"hin": "wrong", "status": "FROZEN", "abn": "1"}],
        "cash_account": [{"bsb": "wrong"}],
        "cash_balance_eod": [{"ledger_cash": "1"}],
        "holding_eod": [{"ledger_units": "1"}],
        "trade": [{"side": "SHORT", "net_amount": "0"}],
        "repeated_confirmation": [{}],
    },
]


@pytest.mark.parametrize(
    ("rule", "subject", "rows"), BROKEN, ids=[f"{rule}-{at}" for at, (rule, *_) in enumerate(BROKEN)]
)
def test_rule_finds_its_breach_only(rule: str, subject: str, rows: dict[str, Any]) -> None:
    findings = _all_findings(**rows)
    assert findings["rule"].unique().to_list() == [rule]
    assert subject in findings["subject"].to_list()
    assert findings["portfolio_number"].unique().to_list() == ["SW000001"]
    severity = {declared.name: declared.severity.value for declared in RULES}[rule]
    assert findings["severity"].unique().to_list() == [severity]


BAD_TRADE = UnreadableValue(table="trade", key="trade_id 9", column="price", problem="is not a number", portfolio_id=1)
BAD_PRICE = UnreadableValue(
    table="security_price", key="security_id 1", column="close_price", problem="is not a number", security_id=1
)
BAD_CODE = UnreadableValue(
    table="security_code_change", key="security_id 1", column="effective_on", problem="is infinite", security_id=1
)
UNREADABLE: dict[str, tuple[UnreadableValue, dict[str, Any]]] = {
    "unreadable_value": (BAD_TRADE, {}),
    "unreadable_holding_security": (BAD_PRICE, {"holding_eod": [{}]}),
    "unreadable_movement_security": (BAD_CODE, {"income": [{}]}),
}


@pytest.mark.parametrize("rule", UNREADABLE)
def test_unreadable_value_holds_back_its_portfolio_with_row_and_remedy(rule: str) -> None:
    value, rows = UNREADABLE[rule]
    findings = _all_findings(unreadable=(value,), **rows).filter(pl.col("rule") == rule)
    assert findings["portfolio_number"].to_list() == ["SW000001"]
    assert findings["detail"].to_list() == [value.reason]


@pytest.mark.parametrize("rule", UNREADABLE)
def test_unreadable_value_of_an_unshared_portfolio_is_ignored(rule: str) -> None:
    value, rows = UNREADABLE[rule]
    other = value.model_copy(update={"portfolio_id": value.portfolio_id and 2, "security_id": value.security_id and 2})
    assert rule not in _all_findings(unreadable=(other,), **rows)["rule"].to_list()


def test_contract_note_breach_states_both_sums_to_the_cent() -> None:
    (detail,) = _all_findings(trade=[{"net_amount": "90.50"}])["detail"]
    assert detail == "net amount 90.50; consideration and fees of a BUY come to 109.50"


@pytest.mark.parametrize("rows", SOUND)
def test_correct_rows_have_no_finding(rows: dict[str, Any]) -> None:
    assert _all_findings(**rows).rows() == []


def test_rule_has_a_case_and_a_description() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert {rule for rule, *_ in BROKEN} | set(UNREADABLE) == set(names)
    assert {rule.name: rule.domain for domain in DOMAINS for rule in rules_of(domain)} == {
        r.name: r.domain for r in RULES
    }
    for rule in RULES:
        assert "If it fails: " in rule.description, rule.name
        assert rule.title
        assert not rule.title.endswith(".")


def test_rules_broken_by_real_contract_notes_are_warnings() -> None:
    warnings = {rule.name for rule in RULES if rule.severity is RuleSeverity.WARNING}
    assert warnings >= {"price_times_units", "settlement_date"}
    assert warnings.isdisjoint(
        {"net_amount", "units_ledger", "cash_ledger", "repeated_confirmation", "holding_missing"}
    )


def test_findings_show_no_personal_data() -> None:
    secret = {"portfolio_name": "Zaphod TFN 123456782", "hin": "X99", "abn": "51824753557", "entity_type": "ESTATE"}
    account = {"account_name": "zaphod@example.com", "account_number": "777", "bsb": "888", "status": "FROZEN"}
    findings = _all_findings(
        portfolio=[secret],
        cash_account=[account, account],
        cash_balance_eod=[{"ledger_cash": "1"}],
        cash_transaction=[{"description": "Zaphod 4111111111111111", "transaction_type": "BONUS", "currency": "USD"}],
    )
    assert findings.height > 5
    output = " ".join(str(value) for row in findings.select("subject", "detail").iter_rows() for value in row)
    assert not [
        value for value in ("aphod", "X99", "51824753557", "777", "888", "123456782", "4111") if value in output
    ]


def test_findings_are_stated_once_and_in_order() -> None:
    findings = _findings("movement_transactions", repeated_confirmation=[{}, {}], trade=[{"side": "SHORT"}])
    assert findings.schema == pl.Schema(FINDINGS.schema)
    assert findings["rule"].to_list() == ["repeated_confirmation", "unknown_transaction_type"]


@examples(60)
@given(
    st.decimals("0.000001", 10_000, places=6),
    st.decimals("0.000001", 1_000, places=6),
    st.integers(2, 6),
)
def test_rounded_printed_price_never_warns(units: Decimal, price: Decimal, decimals: int) -> None:
    consideration = (units * price).quantize(Decimal("0.01"), ROUND_HALF_UP)
    printed = price.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    note = {
        "units": units,
        "price": printed,
        "consideration": consideration,
        "net_amount": consideration + Decimal("9.5"),
    }
    assert _findings("movement_transactions", trade=[note])["rule"].to_list() == []


@needs_contract_notes
def test_published_contract_notes_have_no_finding() -> None:
    notes = contract_notes()
    trades = [
        {
            "trade_id": at,
            "side": note["side"],
            "trade_date": note["trade_date"],
            "settlement_date": note["settlement_date"],
            **{name: note[name] for name in ("units", "price", "consideration", "brokerage", "gst")},
            "other_fees": note["adviser_fee"],
            "net_amount": note["net_value"],
        }
        for at, note in enumerate(notes)
    ]
    findings = _findings("movement_transactions", trade=trades)
    cases = {f"T{at}": note["case"] for at, note in enumerate(notes)}
    assert {(cases[subject], rule) for subject, rule in findings.select("subject", "rule").iter_rows()} == {
        ("Buy01", "price_times_units"),  # printed for anonymity: 25 at 12.40 is not 312.50
        ("Buy02", "price_times_units"),
        ("Buy03", "price_times_units"),
        ("Buy04", "settlement_date"),  # a Sunday
        ("Sell02", "net_amount"),  # the fees were added to what a sale brings
    }


def test_rule_is_named_after_its_function() -> None:
    assert all(getattr(breaches, rule.name) is rule.breaches for rule in RULES)
