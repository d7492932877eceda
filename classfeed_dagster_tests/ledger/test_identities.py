"""A number keeps its owner: which numbers contradict the ones that were sent before."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from classfeed_dagster.ledger.files import IDENTITIES
from classfeed_dagster.ledger.identities import ACCOUNT, PORTFOLIO, contradictions

SENT_ON = dt.date(2023, 1, 3)


def identities(*rows: tuple[str, int, str]) -> pl.DataFrame:
    return IDENTITIES.conform(
        pl.DataFrame(
            [
                {"kind": kind, "key_id": key, "portfolio_id": key, "known_as": name, "first_sent_on": SENT_ON}
                for kind, key, name in rows
            ],
            schema=IDENTITIES.schema,
        )
    )


@pytest.mark.parametrize(
    ("kind", "was", "now", "conflicts"),
    [
        (ACCOUNT, "/1/AUD", "/1/AUD", []),
        (ACCOUNT, "/1/AUD", "062-000/1/AUD", []),  # a BSB is added
        (ACCOUNT, "062-000/1/AUD", "/1/AUD", ["CHANGED"]),
        (ACCOUNT, "/1/AUD", "062-000/2/AUD", ["CHANGED"]),
        (ACCOUNT, "/1/AUD", "/1/USD", ["CHANGED"]),
        (PORTFOLIO, "W1", "SW1", ["CHANGED"]),
    ],
)
def test_number_of_one_key_may_only_gain_a_bsb(kind: str, was: str, now: str, conflicts: list[str]) -> None:
    conflicting = contradictions(identities((kind, 1, was)), identities((kind, 1, now)))
    assert conflicting["conflict"].to_list() == conflicts


def test_number_of_another_key_is_reused() -> None:
    before = identities((PORTFOLIO, 1, "SW1"), (ACCOUNT, 2, "SW2"))
    conflicting = contradictions(before, identities((PORTFOLIO, 2, "SW1"), (ACCOUNT, 3, "SW1")))
    assert conflicting.select("key_id", "was", "conflict").rows() == [(2, "SW1", "REUSED")]
