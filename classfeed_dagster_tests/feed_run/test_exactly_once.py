"""Every visible ledger row is sent exactly once, whenever it becomes visible and whatever is run again."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature import api

from classfeed_dagster.delivery.ledger_rebuild import audit_positions
from classfeed_dagster.delivery.sent import positions_at, sent_date
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.trading_days import window
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite
from classfeed_dagster_tests.fixtures.databases import fresh_bigsite
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.morning import attempt, deliver, prepare

DATES = [dt.date(2020, 4, 3), dt.date(2020, 4, 6), dt.date(2020, 4, 7), dt.date(2020, 4, 8)]
AUDIENCE = FEED.audience(DATES[0])


@dataclass(frozen=True)
class Deposit:
    """A row recorded in one date's window, which a later date's snapshot is the first to see."""

    fund: int
    recorded: int
    visible: int
    cents: int


@st.composite
def deposits(draw: st.DrawFn) -> list[Deposit]:
    created = []
    for _ in range(draw(st.integers(1, 6))):
        recorded = draw(st.integers(0, len(DATES) - 1))
        visible = draw(st.integers(recorded, len(DATES) - 1))
        created.append(Deposit(draw(st.integers(0, 1)), recorded, visible, draw(st.integers(-9999, 9999))))
    return created


# After each date, perhaps an earlier date again from a fresh snapshot, with or without a rewritten end of day.
again = st.lists(st.none() | st.tuples(st.integers(0, 3), st.booleans()), min_size=len(DATES), max_size=len(DATES))


@pytest.mark.nightly
@examples(20)
@given(rows=deposits(), reruns=again)
def test_rows_of_any_visibility_are_sent_once_and_add_up(
    postgres_url: str, rows: list[Deposit], reruns: list[tuple[int, bool] | None]
) -> None:
    with fresh_bigsite(postgres_url) as engine, tempfile.TemporaryDirectory() as home:
        url = engine.url.render_as_string(hide_password=False)
        runtime = Runtime(
            Settings(bigsite_url=url, home=Path(home), first_business_date=DATES[0], max_held_back_share="1")
        )
        start_flags(runtime.settings, (FEED,))
        bigsite = Bigsite(engine)
        funds = [bigsite.portfolio(n).consent(granted_at="2020-03-01T00:00:00Z") for n in ("SW1", "SW2")]
        for fund in funds:
            fund.deposit("1000.00", "2020-04-01")

        def run(day: dt.date, *, fresh: bool = False) -> None:
            work = attempt(runtime, FEED, day, (FEED,))
            prepare(work, fresh=fresh)
            deliver(work)

        sent: dict[str, tuple[int, Decimal]] = {}
        for at, day in enumerate(DATES):
            for row in rows:
                if row.visible == at:
                    amount = Decimal(row.cents) / 100
                    recorded = window(DATES[row.recorded]).start + dt.timedelta(hours=3)
                    created = funds[row.fund].deposit(amount, DATES[row.recorded], recorded_at=recorded)
                    sent[f"C{created.id}"] = (row.fund, amount)
            bigsite.end_of_day(day)
            bigsite.save()
            run(day)
            match reruns[at]:
                case (earlier, rewritten) if earlier < at:
                    if rewritten:
                        bigsite.end_of_day(DATES[earlier])
                        bigsite.save()
                    run(DATES[earlier], fresh=True)
        runtime.close()
        api.clear_providers()

        records = pl.concat([sent_date(runtime.store, FEED.name, day).frame("records") for day in DATES])
        counted = Counter(records["transaction_id"])
        assert set(counted.values()) == {1}, counted
        assert sent.keys() <= counted.keys()
        positions = positions_at(runtime.store, FEED.name, AUDIENCE, DATES[-1])
        assert positions is not None
        for at, fund in enumerate(funds):
            result = positions.filter(pl.col("portfolio_id") == fund.id)["sent"].sum()
            assert result == Decimal(1000) + sum((amount for of, amount in sent.values() if of == at), Decimal(0))
        assert not any(difference.wrong for difference in audit_positions(runtime.store, FEED.name, AUDIENCE))
