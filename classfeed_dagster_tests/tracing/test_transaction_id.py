"""Transaction ids are read as documents write them, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from classfeed_dagster.tracing.transaction_id import NotATransactionError, split_transaction_id


@pytest.mark.parametrize(
    ("text", "parts"), [("T1042", ("T", 1042)), ("C0", ("C", 0)), ("I9223372036854775807", ("I", 9223372036854775807))]
)
def test_transaction_id_is_split(text: str, parts: tuple[str, int]) -> None:
    assert split_transaction_id(text) == parts


# Another spelling of a row's number would find the row, but none of its documents.
@pytest.mark.parametrize(
    "text", ["T１０４２", "T١٠٤٢", "T01042", "t1042", "T-1", "T", "O1", "T1042\n", "T12345678901234567890"]
)
def test_other_spelling_of_a_transaction_id_is_refused(text: str) -> None:
    with pytest.raises(NotATransactionError, match="Invalid transaction id"):
        split_transaction_id(text)
