"""Division of the portfolios into slices."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.bigsite.extraction_scope import slice_ends


@pytest.mark.parametrize(
    ("portfolios", "ends"),
    [
        ("", []),
        ("-", [1]),
        ("HHHHH", [2, 4, 5]),
        ("-" * 9, [8, 9]),
        ("H----H----", [5, 10]),
        ("H-----H", [5, 7]),  # no room for the next one, and a later one does not take its place
        ("-----H--", [5, 8]),
    ],
)
def test_slice_holds_two_full_or_four_times_as_many_delta_portfolios(portfolios: str, ends: list[int]) -> None:
    assert slice_ends(bytes(portfolio == "H" for portfolio in portfolios), 2) == ends


@given(st.binary(max_size=60).map(lambda some: bytes(portfolio % 2 for portfolio in some)), st.integers(1, 5))
def test_slices_hold_each_portfolio_once_within_the_limit(whole_history: bytes, size: int) -> None:
    ends = slice_ends(whole_history, size)
    assert ends == sorted(set(ends))
    assert ends[-1:] == ([len(whole_history)] if whole_history else [])

    def takes(start: int, end: int) -> int:
        return sum(4 if whole else 1 for whole in whole_history[start:end])

    for start, end in pairwise([0, *ends]):
        assert takes(start, end) <= 4 * size
        assert end == len(whole_history) or takes(start, end + 1) > 4 * size
