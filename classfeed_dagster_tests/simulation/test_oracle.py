"""The oracle: what was delivered, added up as the recipient does, equals the customers' own books on every day.

Sixteen days here; 250, a year of them, in the nightly run.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.create_schema import create_schema
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.proof import prove_books
from classfeed_dagster.simulation.world import World
from classfeed_dagster.trading_days import business_days_between
from classfeed_dagster_tests.fixtures.databases import fresh_database
from classfeed_dagster_tests.fixtures.simulated_days import Living

pytestmark = pytest.mark.slow

FIRST = dt.date(2023, 1, 3)
NIGHTLY_PORTFOLIOS = int(os.environ.get("CLASSFEED_TEST_ORACLE_PORTFOLIOS", "60"))


def business_days(count: int) -> list[dt.date]:
    return list(business_days_between(FIRST, dt.date(2025, 12, 31)))[:count]


@contextmanager
def living(postgres_url: str, folder: Path, *, seed: int, portfolios: int) -> Iterator[Living]:
    with fresh_database(postgres_url) as url:
        runtime = Runtime(
            Settings(
                bigsite_url=url, home=folder, first_business_date=FIRST, max_removed_share="1", slice_portfolios=40
            )
        )
        engine = sa.create_engine(url)
        world = World(
            seed,
            InventedMarket(seed, FIRST),
            consented=portfolios,
            portfolios=portfolios + 8,
            first_day=FIRST,
            history_days=12,
            environment=Environment.LOCAL,
        )
        create_schema(engine)
        engine.dispose()
        try:
            world.seed(runtime.engine)
            yield Living(world, runtime)
        finally:
            runtime.close()


@pytest.fixture(scope="module")
def sixteen_days(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Living, list[str]]]:
    """Return sixteen simulated and delivered days, with every failed proof of an evening."""
    with living(postgres_url, tmp_path_factory.mktemp("oracle"), seed=48, portfolios=48) as world:
        broken = []
        for day in business_days(16):
            world.live(day)
            broken += [f"{day}: {proof.statement}" for proof in world.proofs(chain=False) if not proof.holds]
        yield world, broken


def test_documents_equal_the_customers_books_for_sixteen_days(
    sixteen_days: tuple[Living, list[str]],
) -> None:
    world, broken = sixteen_days
    assert broken == []
    assert all(proof.holds for proof in world.proofs())
    assert world.held_back() == set(), "simulated data breaks a rule: generator and checks judge each other"


def test_sixteen_days_include_the_difficult_events(sixteen_days: tuple[Living, list[str]]) -> None:
    world, _ = sixteen_days
    happened: Counter[str] = Counter()
    for summary in world.world.recent(world.dates[-1], len(world.dates)):
        happened.update(summary.counts)
    for difficult in (
        "buys", "sells", "settlement", "dividend", "distribution", "drp", "fee", "split", "merger_in", "delisting",
        "reversed trades", "late rows", "rewritten holdings", "rows between cut-off and end of day", "transfer_in",
        "consents granted", "consents revoked", "consents expired",
    ):  # fmt: skip
        assert happened[difficult], f"nobody did {difficult}: {dict(happened)}"
    sent = {number for page in world.pages for number in page.frames["accounts"]["portfolio_number"]}
    strangers = {
        number
        for day in world.dates
        for number in world.world.books(day).portfolios
        if all(number not in world.world.sharing(date) for date in world.dates)
    }
    assert strangers, "the world has nobody who never shares"
    assert not sent & strangers


@pytest.mark.parametrize("plant", ["a unit", "a cent", "a stranger", "somebody missing"])
def test_oracle_notices_a_planted_difference(sixteen_days: tuple[Living, list[str]], plant: str) -> None:
    world, _ = sixteen_days
    pages = list(world.pages)
    at = len(pages) - 1
    frames = dict(pages[at].frames)
    if plant == "a unit":
        frames["investment_holdings"] = _raised(frames["investment_holdings"], "units", "1")
    elif plant == "a cent":
        frames["account_balances"] = _raised(frames["account_balances"], "ledger_balance", "0.01")
    elif plant == "a stranger":
        accounts = frames["accounts"]
        frames["accounts"] = accounts.with_columns(
            pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("SW00000001")).otherwise(pl.col("portfolio_number"))
            .alias("portfolio_number")
        )  # fmt: skip
    else:
        removed = frames["accounts"].filter(pl.col("consent") != "REMOVED")["portfolio_number"][0]
        frames = {name: frame.filter(pl.col("portfolio_number") != removed) for name, frame in frames.items()}
    pages[at] = type(pages[at])(pages[at].business_date, pages[at].revision, frames)
    proofs = prove_books(world.runtime.store, FEED, world.world, world.dates[-1], pages)
    assert not all(proof.holds for proof in proofs)


@pytest.mark.nightly
def test_documents_equal_the_books_for_a_year(postgres_url: str, tmp_path: Path) -> None:
    """250 business days: every evening the content, every tenth and at the end every file since the beginning."""
    began = time.monotonic()
    with living(postgres_url, tmp_path, seed=23, portfolios=NIGHTLY_PORTFOLIOS) as world:
        for at, day in enumerate(business_days(250), start=1):
            world.live(day)
            broken = [proof.statement for proof in world.proofs(chain=at % 50 == 0) if not proof.holds]
            assert broken == [], day
            if at % 25 == 0:
                sys.stderr.write(f"{at} days proven after {time.monotonic() - began:.0f} s\n")
        assert world.held_back() == set()


def _raised(frame: pl.DataFrame, column: str, by: str) -> pl.DataFrame:
    first = pl.int_range(pl.len()) == 0
    more = pl.when(first).then(pl.lit(by).cast(frame.schema[column])).otherwise(pl.lit("0").cast(frame.schema[column]))
    return frame.with_columns((pl.col(column) + more).cast(frame.schema[column]).alias(column))
