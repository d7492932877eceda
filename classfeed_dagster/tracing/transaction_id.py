"""Transaction ids of the documents: the letter of a ledger and the row's number. Imports nothing of the data path."""

from __future__ import annotations

import re

from classfeed_dagster.errors import UsageError

_LEDGER_ROW = re.compile(r"([TSIC])(0|[1-9][0-9]{0,18})\Z")


class NotATransactionError(UsageError):
    """The text is not a transaction id of the documents."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"Invalid transaction id {text[:40]!r}: expected T, S, I or C and the ledger's number, e.g. T1042. "
            "(An opening record sums many rows: trace those. For a holding, give the portfolio's number and "
            "EXCHANGE:CODE.)"
        )


def split_transaction_id(text: str) -> tuple[str, int]:
    """Return the ledger's letter and the row's number. NotATransactionError for any other text."""
    match = _LEDGER_ROW.match(text)
    if match is None:
        raise NotATransactionError(text)
    return match[1], int(match[2])
