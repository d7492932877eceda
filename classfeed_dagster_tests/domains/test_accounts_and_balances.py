"""account_details and account_balances from small landed tables."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

from classfeed_dagster.domains.account_balances import account_balances
from classfeed_dagster.domains.account_details import account_details
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster_tests.fixtures.landed import TODAY, D, part

NONE_STATED = {"updated_at": None, "ledger_balance": None, "available_balance": None}


def test_account_is_sent_with_its_details() -> None:
    frames = account_details(part())
    account = frames["accounts"].row(0, named=True)
    assert account["portfolio_name"] == "One & Only Super"
    assert (account["consent"], account["extract"], account["recipient_reference"]) == ("CURRENT", "DELTA", "FUND1")
    assert frames["cash_accounts"]["account_number"].to_list() == ["000000001"]


def test_removed_account_has_number_and_reference_only() -> None:
    # Its row is landed for another audience that may still see it.
    mine = {"revoked_at": TODAY}
    other = {"recipient": "BGL"}
    frames = account_details(part(data_sharing_consent=[mine, other]))
    account = frames["accounts"].row(0, named=True)
    text = {name for name, value in account.items() if value is not None}
    assert text == {"portfolio_number", "recipient_reference", "consent", "extract"}
    assert (account["consent"], account["extract"]) == ("REMOVED", "NONE")
    assert frames["cash_accounts"].is_empty()


def test_portfolios_shared_with_another_recipient_are_left_out() -> None:
    theirs = {"portfolio_id": 2, "portfolio_number": "SW2", "recipient": "BGL"}
    values = part(
        data_sharing_consent=[{}, theirs],
        portfolio=[{}, {"portfolio_id": 2, "portfolio_name": "Secret"}],
        cash_account=[{}, {"portfolio_id": 2}],
        cash_balance_eod=[{}, {"portfolio_id": 2, "cash_account_id": 2}],
    )
    for frame in (*account_details(values).values(), *account_balances(values).values()):
        assert frame["portfolio_number"].to_list() == ["SW000001"]
    to_them = RecipientSchedule("BGL", dt.date(2023, 1, 3))
    theirs_only = part(to_them, D, data_sharing_consent=[{}, theirs], portfolio=[{}, {"portfolio_id": 2}])
    assert account_details(theirs_only)["accounts"]["portfolio_number"].to_list() == ["SW2"]


def test_cash_accounts_opened_later_are_not_sent_yet() -> None:
    accounts = [{"opened_on": "2023-02-01"}, {"account_number": "2", "opened_on": "2023-02-02"}]
    assert account_details(part(cash_account=accounts))["cash_accounts"]["account_number"].to_list() == ["000000001"]


def test_accounts_are_ordered_by_number_by_code_point() -> None:
    numbers = ["SW10", "SW9", "sw1", "SW-1"]
    consents = [{"portfolio_id": at, "portfolio_number": number} for at, number in enumerate(numbers, 1)]
    values = part(data_sharing_consent=consents, portfolio=[{"portfolio_id": at} for at in range(1, 5)])
    assert account_details(values)["accounts"]["portfolio_number"].to_list() == sorted(numbers)


def test_balance_is_carried_as_stated() -> None:
    stated = {"ledger_balance": "1234.50", "available_balance": "-0.01"}
    balance = account_balances(part(cash_balance_eod=[stated]))["account_balances"].row(0, named=True)
    assert (balance["ledger_balance"], balance["available_balance"]) == (Decimal("1234.50"), Decimal("-0.01"))
    assert (balance["as_at_date"], balance["currency"], balance["bsb"]) == (D, "AUD", "999-001")


def test_account_closed_empty_has_a_balance_of_zero() -> None:
    closed = {**NONE_STATED, "open_on_date": False, "ledger_cash": "0"}
    balance = account_balances(part(cash_balance_eod=[closed]))["account_balances"].row(0, named=True)
    assert (balance["ledger_balance"], balance["available_balance"]) == (Decimal("0.00"), Decimal("0.00"))


def test_balance_that_bigsite_lacks_is_not_invented() -> None:
    for row in (
        {**NONE_STATED, "ledger_cash": "0"},  # open, and the end of day lacks it
        {**NONE_STATED, "open_on_date": False, "ledger_cash": "5.00"},  # closed, and cash is left
        {**NONE_STATED, "open_on_date": False, "opened_by_date": False, "ledger_cash": "5.00"},  # not open yet
        {"open_on_date": False, "opened_by_date": False},  # stated before it opens, empty
    ):
        assert account_balances(part(cash_balance_eod=[row]))["account_balances"].is_empty()
