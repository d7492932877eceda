"""Visibility of rows to a snapshot, by transaction numbers."""

from __future__ import annotations

import pytest

from classfeed_dagster.reconciliation.landing import TransactionSnapshot


@pytest.mark.parametrize(
    ("snapshot", "xmin", "visible"),
    [
        ("10:20:12,15", 9, True),
        ("10:20:12,15", 12, False),  # in progress
        ("10:20:12,15", 14, True),
        ("10:20:", 20, False),  # began afterwards
        ("4294967306:4294967306:", 9, True),  # after the counter of 32 bits wrapped
        ("4294967306:4294967306:", 12, False),
        ("4294967306:4294967306:", 4294967290, True),  # of the epoch before
        ("4294967290:4294967290:", 3, False),  # of the epoch after
    ],
)
def test_row_is_visible_if_its_transaction_had_committed(snapshot: str, xmin: int, visible: bool) -> None:
    parsed = TransactionSnapshot.parse(snapshot)
    assert parsed is not None
    assert parsed.saw(xmin) is visible


@pytest.mark.parametrize("text", ["", None, "x", "1:2"])
def test_descriptor_without_a_snapshot_claims_nothing(text: str | None) -> None:
    assert TransactionSnapshot.parse(text) is None
