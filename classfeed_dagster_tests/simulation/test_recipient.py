"""The recipient's arithmetic: replacing re-issues, starting again from FULL, forgetting the removed."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest

from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, ACCOUNTS, INVESTMENT_HOLDINGS, MOVEMENT_TRANSACTIONS
from classfeed_dagster.simulation.recipient import DeliveredPage, load

D1, D2, D3 = dt.date(2023, 1, 3), dt.date(2023, 1, 4), dt.date(2023, 1, 5)


def _frame(columns: object, rows: list[dict[str, object]]) -> pl.DataFrame:
    schema = columns.schema  # type: ignore[attr-defined]
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema, orient="row")


def page(
    day: dt.date,
    *,
    revision: int = 0,
    consent: str = "CURRENT",
    moved: str | None = None,
    paid: str | None = None,
    held: str | None = None,
    balance: str | None = None,
    code: str = "BHP",
) -> DeliveredPage:
    extract = {"NEW": "FULL", "CURRENT": "DELTA", "REMOVED": "NONE"}[consent]
    person = {"portfolio_number": "SW1", "exchange": "ASX", "isin": "AU000000BHP4", "security_code": code}
    account = {"portfolio_number": "SW1", "account_number": "1", "currency": "AUD", "as_at_date": day}
    movements = []
    if moved:
        movements.append({**person, "transaction_type": "BUY", "transaction_date": day, "units": Decimal(moved)})
        movements.append({**person, "transaction_type": "DIVIDEND", "transaction_date": day, "units": Decimal(moved)})
    if paid:
        movements.append({**account, "transaction_type": "CASH_FEE", "transaction_date": day, "amount": Decimal(paid)})
    holdings = [{**person, "as_at_date": day, "units": Decimal(held)}] if held else []
    balances = [{**account, "ledger_balance": Decimal(balance)}] if balance else []
    return DeliveredPage(
        day,
        revision,
        {
            "accounts": _frame(ACCOUNTS, [{"portfolio_number": "SW1", "consent": consent, "extract": extract}]),
            "movement_transactions": _frame(MOVEMENT_TRANSACTIONS, movements),
            "investment_holdings": _frame(INVESTMENT_HOLDINGS, holdings),
            "account_balances": _frame(ACCOUNT_BALANCES, balances),
        },
    )


def test_movements_of_all_dates_add_up_to_the_last_holding() -> None:
    books = load([page(D1, consent="NEW", moved="10", held="10"), page(D2, moved="-4", held="6")], D2)
    assert books.unbalanced().is_empty()
    assert books.units["loaded"].to_list() == [Decimal("6.000000")]
    assert books.portfolios == ["SW1"]


def test_missing_movement_is_detected() -> None:
    books = load([page(D1, consent="NEW", moved="10", held="10", paid="5", balance="7"), page(D2, held="6")], D1)
    assert books.unbalanced().rows() == [("SW1", "cash", "AUD", Decimal("5.000000"), Decimal("7.000000"))]


def test_reissue_replaces_what_was_sent_for_its_date() -> None:
    first = page(D1, consent="NEW", moved="10", held="10")
    again = page(D1, revision=1, consent="NEW", moved="12", held="12")
    assert load([first, page(D2, held="12"), again], D2).unbalanced().is_empty()


def test_full_extract_starts_again() -> None:
    before = page(D1, consent="NEW", moved="10", held="10")
    assert load([before, page(D3, consent="NEW", moved="3", held="3")], D3).unbalanced().is_empty()


def test_removed_portfolio_is_absent_until_it_returns() -> None:
    there, missing = page(D1, consent="NEW", moved="10", held="10"), page(D2, consent="REMOVED")
    assert load([there, missing], D2).portfolios == []
    assert load([there, missing, page(D3, consent="NEW", moved="2", held="2")], D3).portfolios == ["SW1"]


def test_new_code_is_the_same_security() -> None:
    renamed = page(D2, held="10", code="BHQ")
    assert load([page(D1, consent="NEW", moved="10", held="10"), renamed], D2).unbalanced().is_empty()


def test_recipient_without_deliveries_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was delivered"):
        load([], D1)
