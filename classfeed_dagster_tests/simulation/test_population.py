"""The simulated population has the statistics of a broker's customers: targets, in docs/simulation.md, asserted here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import isin as isin_number
from stdnum.au import abn as abn_number
from stdnum.au import acn as acn_number

from classfeed_dagster.simulation import identifiers
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.simulated_world import FIRST, Simulated

PAGE = Path(__file__).parent.parent.parent / "docs" / "simulation.md"
_TARGET = re.compile(r"^\| (.+?) \| ([\d.]+) to ([\d.]+) \|$", re.MULTILINE)
_TRADES = """SELECT p.portfolio_id, count(t.trade_id) AS n FROM bigsite.portfolio p LEFT JOIN bigsite.trade t
    ON t.portfolio_id = p.portfolio_id AND t.trade_date >= :first AND t.reverses_trade_id IS NULL GROUP BY 1"""
_NOTES = "FROM bigsite.trade WHERE reverses_trade_id IS NULL"
_AT = "recorded_at AT TIME ZONE 'Australia/Sydney'"


def median(share: float, of: str, rows: str) -> str:
    return f"SELECT percentile_cont({share}) WITHIN GROUP (ORDER BY {of}) {rows}"


MEASURED = {
    "trades a portfolio in 30 business days, median": median(0.5, "n", f"FROM ({_TRADES}) x"),
    "trades a portfolio in 30 business days, 99th percentile": median(0.99, "n", f"FROM ({_TRADES}) x"),
    "share of portfolios that don't trade at all": f"SELECT avg((n = 0)::int) FROM ({_TRADES}) x",
    "share of contract notes that are reversed": "SELECT avg((reverses_trade_id IS NOT NULL)::int) FROM bigsite.trade",
    "share of contract notes that are purchases": f"SELECT avg((side = 'BUY')::int) {_NOTES}",
    "99th percentile of a note's amount, in medians": (
        f"SELECT ({median(0.99, 'consideration', _NOTES)}) / ({median(0.5, 'consideration', _NOTES)})"
    ),
    "busiest weekday's notes, in the quietest's": (
        "SELECT max(n) / min(n)::numeric FROM "
        f"(SELECT extract(isodow FROM trade_date), count(*) AS n {_NOTES} GROUP BY 1) x"
    ),
    "share of notes recorded while the market is open": (
        f"SELECT avg((extract(hour FROM {_AT}) BETWEEN 10 AND 16)::int) {_NOTES}"
    ),
    "securities held by a portfolio that holds any, mean": (
        "SELECT avg(n) FROM (SELECT count(*) AS n FROM bigsite.holding_eod WHERE as_at_date = :last "
        "GROUP BY portfolio_id) x"
    ),
    "share of portfolios without an ABN": "SELECT avg((abn IS NULL)::int) FROM bigsite.portfolio",
}


def targets() -> dict[str, tuple[Decimal, Decimal]]:
    return {name: (Decimal(low), Decimal(high)) for name, low, high in _TARGET.findall(PAGE.read_text())}


def test_population_target_is_measured() -> None:
    assert targets().keys() == MEASURED.keys()


@pytest.mark.parametrize("name", MEASURED)
def test_population_meets_its_targets(simulated: Simulated, name: str) -> None:
    low, high = targets()[name]
    requests = {
        key: value for key, value in {"first": FIRST, "last": simulated.days[-1]}.items() if f":{key}" in MEASURED[name]
    }
    ((result,),) = simulated.query(MEASURED[name], **requests)
    assert low <= Decimal(str(result)) <= high, f"{name}: {result}"


# -- identifiers ------------------------------------------------------------------------------------------------------


def numbers() -> Iterator[int]:
    """Yield ten thousand numbers, and both ends of the range."""
    yield from range(0, 10**6, 100)
    yield 10**6 - 1


def test_ten_thousand_identifiers_are_valid_distinct_and_unassigned() -> None:
    makers: dict[str, Callable[[int], str]] = {
        "abn": identifiers.abn,
        "hin": identifiers.hin,
        "portfolio": identifiers.portfolio_number,
        "account": identifiers.account_number,
        "isin": partial(identifiers.isin, "AU"),
    }
    created = {kind: [make(number) for number in numbers()] for kind, make in makers.items()}
    for kind, values in created.items():
        assert len(set(values)) == len(values), kind
    assert all(map(abn_number.is_valid, created["abn"]))
    assert all(map(isin_number.is_valid, created["isin"]))
    # Reserved: no company number lies under these ABNs, the HIN range 0000 and the ISIN series 9ZZ are never issued.
    assert all(value[2:4] == "99" for value in created["abn"])
    assert all(value.startswith("X0000") for value in created["hin"])
    assert all(value[2:5] == "9ZZ" for value in created["isin"])
    assert all(value.startswith("SW99") for value in created["portfolio"])
    assert all(value.startswith("000") for value in created["account"])


@examples(200)
@given(st.integers(0, 10**6 - 1), st.integers(0, 10), st.integers(1, 9))
def test_identifier_with_a_wrong_digit_is_invalid(number: int, at: int, off: int) -> None:
    abn = identifiers.abn(number)
    wrong = f"{abn[:at]}{(int(abn[at]) + off) % 10}{abn[at + 1 :]}"
    assert not abn_number.is_valid(wrong)


@examples(200)
@given(st.integers(0, 10**6 - 1))
def test_simulated_abn_is_unassigned(number: int) -> None:
    # A company's ABN is its ACN behind two digits; those in use are far below 990 000 000.
    body = identifiers.abn(number)[2:]
    assert int(body) >= 990_000_000
    assert acn_number.compact(body) == body
