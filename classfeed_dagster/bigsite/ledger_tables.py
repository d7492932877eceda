"""Ledger tables of bigsite: the letter in a transaction id and the column of the business date. Imports nothing."""

from __future__ import annotations

# The ledgers' letters in a transaction id (XSD, MovementTransaction).
TRADE, SECURITY_MOVEMENT, INCOME, CASH_TRANSACTION = "T", "S", "I", "C"

LETTERS = {
    "trade": TRADE,
    "security_movement": SECURITY_MOVEMENT,
    "income": INCOME,
    "cash_transaction": CASH_TRANSACTION,
}
DATES = {
    "trade": "trade_date",
    "security_movement": "effective_date",
    "income": "payment_date",
    "cash_transaction": "transaction_date",
}
