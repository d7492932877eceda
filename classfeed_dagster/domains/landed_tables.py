"""Landed tables that each domain reads."""

from __future__ import annotations

from collections.abc import Mapping

from classfeed_dagster.bigsite.queries import CONSENT_TABLE
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS

_SECURITIES = ("security", "security_code_change")
TABLES: Mapping[str, tuple[str, ...]] = {
    CONSENTED_PORTFOLIOS.name: (CONSENT_TABLE,),
    "account_details": ("portfolio", "cash_account"),
    "account_balances": ("cash_balance_eod", "cash_account"),
    "investment_holdings": ("holding_eod", "portfolio", "security_price", *_SECURITIES),
    "movement_transactions": (
        "trade",
        "security_movement",
        "income",
        "cash_transaction",
        "opening_units",
        "opening_cash",
        "repeated_confirmation",
        "cash_account",
        *_SECURITIES,
    ),
}
