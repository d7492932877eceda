"""Lineage of each landed column from bigsite.

A landed column comes from the column of its table with the same name, unless bigsite computes it: those few are
declared here. Columns that only select rows (a cut-off, a join) are not sources of a value.
"""

from __future__ import annotations

from collections.abc import Mapping

from classfeed_dagster.bigsite import queries
from classfeed_dagster.bigsite.ledgers import OPPOSITE_IN_REVERSALS, SAME_IN_REVERSALS

_TRADED = ("trade.units", "trade.side")
_MOVED = ("security_movement.units_change",)
_HISTORY = "data_sharing_consent.history_from"

# Columns that bigsite computes during the extraction, by ``landed table.column``.
DERIVED: Mapping[str, tuple[str, ...]] = {
    "data_sharing_consent.portfolio_number": ("portfolio.portfolio_number",),
    # A holding that the end of day lacks lands with its trades' and movements' keys.
    "holding_eod.portfolio_id": ("holding_eod.portfolio_id", "trade.portfolio_id", "security_movement.portfolio_id"),
    "holding_eod.security_id": ("holding_eod.security_id", "trade.security_id", "security_movement.security_id"),
    "holding_eod.ledger_units": (*_TRADED, *_MOVED),
    "holding_eod.unsettled_units": (*_TRADED, "trade.trade_date", "trade.settlement_date"),
    "holding_eod.later_units": (*_TRADED, *_MOVED),
    "cash_balance_eod.portfolio_id": ("cash_account.portfolio_id",),
    "cash_balance_eod.cash_account_id": ("cash_account.cash_account_id",),
    "cash_balance_eod.open_on_date": ("cash_account.opened_on", "cash_account.closed_on"),
    "cash_balance_eod.opened_by_date": ("cash_account.opened_on",),
    "cash_balance_eod.ledger_cash": ("cash_transaction.amount",),
    "cash_balance_eod.later_cash": ("cash_transaction.amount",),
    "portfolio.hin_holders": ("portfolio.hin", "portfolio.portfolio_number", "portfolio.status"),
    "cash_account.number_holders": (
        "cash_account.bsb",
        "cash_account.account_number",
        "cash_account.currency",
        "cash_account.status",
        "portfolio.portfolio_number",
    ),
    "cash_transaction.portfolio_id": ("cash_account.portfolio_id",),
    **{
        f"{ledger}.reversed_portfolio_id": (f"{ledger}.portfolio_id",)
        for ledger in ("trade", "security_movement", "income")
    },
    "cash_transaction.reversed_portfolio_id": ("cash_account.portfolio_id",),
    "cash_transaction.related_portfolio_id": ("trade.portfolio_id", "income.portfolio_id"),
    "cash_transaction.related_on": ("trade.trade_date", "income.payment_date"),
    "cash_transaction.related_recorded_at": ("trade.recorded_at", "income.recorded_at"),
    **{
        f"{ledger}.reversed_recorded_at": (f"{ledger}.recorded_at",)
        for ledger in ("trade", "security_movement", "income", "cash_transaction")
    },
    "trade.reversed_on": ("trade.trade_date",),
    "security_movement.reversed_on": ("security_movement.effective_date",),
    "security_movement.reversed_type": ("security_movement.movement_type",),
    "income.reversed_on": ("income.payment_date",),
    "cash_transaction.reversed_on": ("cash_transaction.transaction_date",),
    # A reversal is compared with its original in each of these.
    **{
        f"{ledger}.undoes_exactly": tuple(
            f"{ledger}.{column}"
            for column in (*SAME_IN_REVERSALS[ledger], *OPPOSITE_IN_REVERSALS[ledger], f"reverses_{ledger}_id")
        )
        for ledger in ("trade", "security_movement", "income", "cash_transaction")
    },
    **{
        f"{ledger}.reversals_standing": (f"{ledger}.reverses_{ledger}_id",)
        for ledger in ("trade", "security_movement", "income", "cash_transaction")
    },
    **{
        f"repeated_confirmation.{column}": (f"trade.{column}",)
        for column in ("portfolio_id", "confirmation_number", "side", "security_id", "units")
    },
    "repeated_confirmation.standing": ("trade.trade_id",),  # counted
    "opening_units.portfolio_id": ("trade.portfolio_id", "security_movement.portfolio_id"),
    "opening_units.audience": ("data_sharing_consent.recipient",),
    "opening_units.security_id": ("trade.security_id", "security_movement.security_id"),
    "opening_units.units": (*_TRADED, "trade.trade_date", *_MOVED, "security_movement.effective_date", _HISTORY),
    "opening_units.recorded_at": ("trade.recorded_at", "security_movement.recorded_at"),
    "opening_cash.portfolio_id": ("cash_account.portfolio_id",),
    "opening_cash.audience": ("data_sharing_consent.recipient",),
    "opening_cash.cash_account_id": ("cash_transaction.cash_account_id",),
    "opening_cash.amount": ("cash_transaction.amount", "cash_transaction.transaction_date", _HISTORY),
    "opening_cash.recorded_at": ("cash_transaction.recorded_at",),
}

# Columns that also select rows, so that a change moves whole rows and not only values: business dates and instants of
# the ledgers' cut-offs, and consent. Keys select too. All other columns are only values.
SELECTING = frozenset(
    {
        *(f"{ledger}.recorded_at" for ledger in ("trade", "security_movement", "income", "cash_transaction")),
        "trade.trade_date",
        "trade.settlement_date",
        "security_movement.effective_date",
        "income.payment_date",
        "cash_transaction.transaction_date",
        "cash_account.opened_on",
        "cash_account.closed_on",
        "security_code_change.effective_on",
        "security_price.price_date",
        "data_sharing_consent.recipient",
        "data_sharing_consent.granted_at",
        "data_sharing_consent.expires_at",
        "data_sharing_consent.revoked_at",
        "data_sharing_consent.history_from",
        "holding_eod.updated_at",
        "cash_balance_eod.updated_at",
    }
)


def landed_sources(table: str) -> dict[str, tuple[str, ...]]:
    """Return the source columns (``table.column``) in bigsite of each column of a landed table."""
    return {name: DERIVED.get(f"{table}.{name}", (f"{table}.{name}",)) for name in queries.SCHEMAS[table].names}
