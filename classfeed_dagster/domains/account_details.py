"""The ``account_details`` domain: each portfolio's details and cash accounts. Removed portfolios have no details.

Identifiers of persons in names are masked (``free_text``).
"""

from __future__ import annotations

import polars as pl

from classfeed_dagster.domains.columns import ACCOUNTS, CASH_ACCOUNTS
from classfeed_dagster.domains.slice import Slice
from classfeed_dagster.free_text import mask_columns

_DETAILS = ("portfolio_name", "entity_type", "abn", "hin", "status", "opened_on", "closed_on")


def account_details(part: Slice) -> dict[str, pl.DataFrame]:
    """Return ACCOUNTS and CASH_ACCOUNTS opened by the business date. Removed portfolios have no details."""
    # From ``sending``: the snapshot may hold a removed portfolio's row for another recipient.
    details = part.rows("portfolio").select("portfolio_id", *_DETAILS)
    accounts = part.consented.join(details, on="portfolio_id", how="left").rename({"change": "consent"})
    cash_accounts = part.rows("cash_account").filter(pl.col("opened_on") <= part.business_date)
    return {
        ACCOUNTS.name: ACCOUNTS.conform(mask_columns(accounts, "portfolio_name")),
        CASH_ACCOUNTS.name: CASH_ACCOUNTS.conform(mask_columns(cash_accounts, "account_name")),
    }
