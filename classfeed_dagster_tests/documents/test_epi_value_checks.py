"""Values that cannot be written are reported beforehand, with a reason and without personal data."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_schema import compiled
from classfeed_dagster.documents.epi_writer import FrameShapeError
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster_tests.fixtures.epi_data import (
    account,
    balance,
    cash,
    cash_account,
    dividend,
    frames_of,
    holding,
    page_of,
    removed,
    sample,
    trade,
    units_move,
)
from classfeed_dagster_tests.fixtures.examples import examples


def findings(**rows: Any) -> list[dict[str, Any]]:
    frames = frames_of({"accounts": [account("P1")]} | rows)
    results = EPI.check_representable(frames)
    assert results.schema == FINDINGS.schema
    return results.to_dicts()


def only(found: list[dict[str, Any]]) -> tuple[str, str, str]:
    assert len(found) == 1, found
    assert found[0]["portfolio_number"] == "P1"
    assert found[0]["severity"] == "QUARANTINE"
    return found[0]["rule"], found[0]["subject"], found[0]["detail"]


def test_representable_frames_have_no_finding() -> None:
    assert EPI.check_representable(sample()).height == 0


@pytest.mark.parametrize(
    ("rows", "rule", "subject", "says"),
    [
        (
            {"accounts": [account("P1", portfolio_name="Jane\n\x00Doe")]},
            "unwritable_character",
            "",
            "Account/PortfolioName has U+0000 as character 6, which XML cannot represent: correct it in bigsite",
        ),
        (
            {"movement_transactions": [cash("P1", "C7", narrative="\uffff")]},
            "unwritable_character",
            "C7",
            "MovementTransaction/Narrative has U+FFFF as character 1, which",
        ),
        (
            {"movement_transactions": [cash("P1", "C\x1b7")]},
            "unwritable_character",
            "C\x1b7",
            "MovementTransaction/TransactionId has U+001B as character 2",
        ),
        (
            {"accounts": [account("P1", portfolio_name="é" * 201)]},
            "too_long",
            "",
            "Account/PortfolioName has 201 characters, and the document allows at most 200",
        ),
        (
            {"accounts": [account("P1", portfolio_name="")]},
            "too_short",
            "",
            "Account/PortfolioName is empty",
        ),
        (
            {"accounts": [account("P1", abn="1234567890")]},
            "wrong_form",
            "",
            "Account/Abn does not match the document's pattern [0-9]{11}",
        ),
        (
            {"accounts": [account("P1", hin="X1234567890\n")]},
            "wrong_form",
            "",
            "Account/Hin does not match the document's pattern X[0-9]{10}",
        ),
        (
            {"accounts": [account("P1", abn="１２３４５６７８９０１")]},
            "wrong_form",
            "",
            "Account/Abn does not match the document's pattern",
        ),
        ({"accounts": [account("P1", entity_type="CLUB")]}, "unknown_value", "", "is not one of INDIVIDUAL, JOINT"),
        ({"accounts": [account("P1", status=None)]}, "incomplete_group", "", "Account has only part of its details"),
        ({"accounts": [account("P1", recipient_reference=None)]}, "missing_value", "", "RecipientReference is missing"),
        ({"accounts": [account("P1", consent=None)]}, "missing_value", "", "Account/consent is missing"),
        ({"accounts": [account("P1", consent=None, status=None)]}, "missing_value", "", "Account/consent is missing"),
        (
            {"cash_accounts": [cash_account("P1", account_number="12 34")]},
            "wrong_form",
            "AUD",
            "CashAccount/CashAccountNumber does not match the document's pattern",
        ),
        ({"account_balances": [balance("P1", bsb="062000")]}, "wrong_form", "AUD", "AccountBalance/Bsb does not match"),
        (
            {"account_balances": [balance("P1", as_at_date=dt.date(1, 1, 1))]},
            "",
            "",
            "",
        ),
        (
            {"investment_holdings": [holding("P1", security_code="bhp")]},
            "wrong_form",
            "bhp",
            "InvestmentHolding/SecurityCode does not match the document's pattern [A-Z0-9.]{1,12}",
        ),
        (
            {"investment_holdings": [holding("P1", price=None)]},
            "incomplete_group",
            "BHP",
            "InvestmentHolding has only part of its price",
        ),
        (
            {"movement_transactions": [trade("P1", gst=None)]},
            "incomplete_group",
            "T1",
            "MovementTransaction has only part of its contract note",
        ),
        (
            {"movement_transactions": [dividend("P1", ex_date=None)]},
            "incomplete_group",
            "I1",
            "MovementTransaction has only part of its income",
        ),
        (
            {"movement_transactions": [cash("P1", amount=None)]},
            "incomplete_group",
            "C1",
            "MovementTransaction has only part of its cash",
        ),
        (
            {"movement_transactions": [units_move("P1", currency=None)]},
            "incomplete_group",
            "S1",
            "MovementTransaction has only part of its currency",
        ),
    ],
)
def test_document_rule_finds_its_value(rows: dict[str, Any], rule: str, subject: str, says: str) -> None:
    results = findings(**rows)
    if not rule:
        assert not results
        return
    assert only(results)[:2] == (rule, subject)
    assert says in only(results)[2]


def test_date_outside_the_xsds_calendar_is_a_finding() -> None:
    frames = frames_of({"accounts": [account("P1")], "movement_transactions": [trade("P1")]})
    movements = frames["movement_transactions"].with_columns(
        pl.col("transaction_date").dt.offset_by("8000y"), pl.col("recorded_at").dt.offset_by("-2023y")
    )
    results = EPI.check_representable(frames | {"movement_transactions": movements})
    assert results["rule"].to_list() == ["date_out_of_range"] * 2
    assert results["detail"].to_list() == [
        "MovementTransaction/RecordedAt lies outside the years 0001 to 9999",
        "MovementTransaction/TransactionDate lies outside the years 0001 to 9999",
    ]


def test_number_with_more_digits_than_the_xsd_allows_is_a_finding() -> None:
    # A file can hold more digits than its declared precision: nothing checks it on the way into a frame.
    frames = frames_of({"accounts": [account("P1")], "account_balances": [balance("P1")]})
    digits = pa.array([Decimal("12345678901234567.89")], pa.decimal128(38, 2))
    unchecked = pa.Array.from_buffers(pa.decimal128(18, 2), 1, digits.buffers())
    wide = frames["account_balances"].with_columns(pl.Series("ledger_balance", unchecked))
    results = EPI.check_representable(frames | {"account_balances": wide})
    assert "too_many_digits" in results["rule"].to_list()
    assert "12345678901234567" not in str(results["detail"].to_list())


def test_sum_with_more_digits_than_a_control_total_is_a_finding() -> None:
    most = Decimal("9999999999999999.99")
    rows = [balance("P1", account_number=str(n), ledger_balance=most) for n in range(2)]
    assert only(findings(account_balances=rows))[:2] == ("sum_too_long", "AUD")
    units = [holding("P1", security_code=code, units=Decimal("99999999999999")) for code in "AB"]
    assert only(findings(investment_holdings=units))[:2] == ("sum_too_long", "units")


def test_removed_account_is_checked_by_its_sent_fields() -> None:
    assert not findings(accounts=[removed("P1") | {"portfolio_name": "\x00", "abn": "x"}])
    bad = findings(accounts=[removed("P1") | {"recipient_reference": "a b"}])
    assert only(bad)[0] == "wrong_form"


def test_row_of_an_unknown_portfolio_is_a_defect() -> None:
    assert only(findings(accounts=[], cash_accounts=[cash_account("P1")] * 2))[::2] == (
        "no_account",
        "CashAccount of a portfolio that has no account or is REMOVED (records: 2)",
    )
    assert only(findings(accounts=[removed("P1")], movement_transactions=[cash("P1")]))[0] == "no_account"
    assert only(findings(accounts=[account("P1")] * 2))[0] == "two_accounts"


def test_row_without_a_portfolio_is_a_defect_not_a_finding() -> None:
    frames = frames_of({"account_balances": [balance("P1", portfolio_number=None)]})
    with pytest.raises(FrameShapeError, match="without a portfolio number"):
        EPI.check_representable(frames)


def test_findings_state_each_reason_once() -> None:
    results = findings(
        accounts=[account("P1", abn="1", hin="2")],
        movement_transactions=[cash("P1", "C1", narrative="\x01"), cash("P1", "C2", narrative="\x01")],
    )
    assert [(break_["rule"], break_["subject"]) for break_ in results] == [
        ("unwritable_character", "C1"),
        ("unwritable_character", "C2"),
        ("wrong_form", ""),
        ("wrong_form", ""),
    ]


@examples(150)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.text(max_size=14), st.text(max_size=12))
def test_portfolio_is_held_back_or_becomes_a_valid_document(name: str, number: str, code: str) -> None:
    frames = frames_of(
        {
            "accounts": [account("P1", portfolio_name=name)],
            "cash_accounts": [cash_account("P1", account_number=number, account_name=name)],
            "investment_holdings": [holding("P1", security_code=code, security_name=name)],
            "movement_transactions": [cash("P1", account_number=number, narrative=name)],
        }
    )
    results = EPI.check_representable(frames)
    if not results.height:
        assert compiled().validate(etree.fromstring(page_of(frames)))
    else:
        try:
            valid = compiled().validate(etree.fromstring(page_of(frames)))
        except etree.XMLSyntaxError:
            valid = False
        assert not valid, f"held back without need: {results.to_dicts()}"
