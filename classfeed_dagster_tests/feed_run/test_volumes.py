"""Volumes against recent dates: far more or fewer records of a kind than usual is worth a look."""

from __future__ import annotations

import pytest

from classfeed_dagster.feed_run.volumes import compare_volumes

USUAL = [{"MovementTransactions": 100, "AccountDetails": 30}] * 5


@pytest.mark.parametrize(
    ("movements", "passed"),
    [(100, True), (20, True), (19, False), (500, True), (501, False), (0, False)],
)
def test_volume_within_five_times_the_median_is_usual(movements: int, passed: bool) -> None:
    judged = compare_volumes({"MovementTransactions": movements, "AccountDetails": 30}, USUAL)
    assert judged.passed is passed
    assert [name for name, _ in judged.offenders] == ([] if passed else ["MovementTransactions"])


def test_volume_of_few_dates_or_small_counts_is_not_reported() -> None:
    assert compare_volumes({"MovementTransactions": 10_000}, USUAL[:4]).passed
    assert compare_volumes({"MovementTransactions": 19}, [{"MovementTransactions": 1}] * 5).passed


def test_volume_of_a_vanished_or_new_kind_is_named() -> None:
    judged = compare_volumes({"InvestmentHoldings": 50}, [{"MovementTransactions": 50}] * 5)
    assert [name for name, _ in judged.offenders] == ["InvestmentHoldings", "MovementTransactions"]
    assert not judged.passed
