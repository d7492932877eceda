"""A world that lives and is delivered day by day through the real steps in a plain loop, and proven each evening.

The steps are those of the job without Dagster around them, so that many days are cheap.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from classfeed_dagster.delivery.look import date_status
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import declared_feeds
from classfeed_dagster.feeds.flags import start_flags
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.simulation.proof import Proof, delivered_pages, prove, prove_books
from classfeed_dagster.simulation.recipient import DeliveredPage
from classfeed_dagster.simulation.world import World
from classfeed_dagster_tests.feeds.morning import attempt, deliver, prepare


@dataclass
class Living:
    """One world, its bigsite, and everything that was delivered of it so far."""

    world: World
    runtime: Runtime
    pages: list[DeliveredPage] = field(default_factory=list)
    dates: list[dt.date] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feeds = declared_feeds()
        start_flags(self.runtime.settings, self.feeds)

    def live(self, day: dt.date) -> None:
        """Customers act on ``day``; the next morning its documents leave."""
        self.world.advance(self.runtime.engine, day)
        work = attempt(self.runtime, FEED, day, self.feeds)
        prepare(work)
        deliver(work)
        self.dates.append(day)
        self.pages += delivered_pages(self.runtime.store, FEED, [day])

    def proofs(self, *, chain: bool = True) -> list[Proof]:
        """What must be true this evening; with ``chain``, also of every file delivered since the beginning."""
        return (prove if chain else prove_books)(self.runtime.store, FEED, self.world, self.dates[-1], self.pages)

    def held_back(self) -> set[str]:
        """Portfolios held back on any date."""
        status = (date_status(self.runtime.store, FEED.name, day) for day in self.dates)
        return {held.number for one in status for held in (*one.held_back, *one.quarantined)}
