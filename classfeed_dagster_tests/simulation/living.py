"""A world that lives and is delivered day by day through the real steps in a plain loop, and proven each evening.

The steps are those of the job without Dagster around them, so that many days are cheap.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import sqlalchemy as sa

from classfeed_dagster.bigsite.snapshot import snapshot_for
from classfeed_dagster.delivery.look import date_status
from classfeed_dagster.domains.run import CONSENTED, DOMAINS, build_consented_portfolios, build_domain
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import declared_feeds
from classfeed_dagster.feeds.flags import start_flags
from classfeed_dagster.feeds.steps import LANDING, FeedDay
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.simulation.proof import Proof, delivered_pages, prove, prove_books
from classfeed_dagster.simulation.recipient import DeliveredPage
from classfeed_dagster.simulation.rehearsal import morning_after
from classfeed_dagster.simulation.world import World


@dataclass
class Living:
    """One world, its bigsite, and everything that was delivered of it so far."""

    world: World
    runtime: Runtime
    pages: list[DeliveredPage] = field(default_factory=list)
    dates: list[dt.date] = field(default_factory=list)

    @property
    def engine(self) -> sa.Engine:
        return self.runtime.engine

    def live(self, day: dt.date) -> None:
        """Customers act on ``day``; the next morning its documents leave."""
        self.world.advance(self.engine, day)
        self.deliver(day)

    def deliver(self, day: dt.date) -> None:
        settings, store, now = self.runtime.settings, self.runtime.store, morning_after(day)
        start_flags(settings, declared_feeds())
        audience = FEED.audience(settings.first_business_date)
        snapshot = snapshot_for(self.engine, store, day, [audience], snapshot_at=now)
        self.runtime.save_reference(LANDING, day, snapshot)
        consented = build_consented_portfolios(store, snapshot, audience)
        for domain in DOMAINS:
            made = consented if domain == CONSENTED else build_domain(store, snapshot, audience, domain, consented)
            self.runtime.save_reference(audience.reference(domain), day, made)
        work = FeedDay(self.runtime, FEED, audience, day, f"day-{day:%Y%m%d}", now)
        work.hold_back()
        work.judge(work.stage())
        work.publish()
        self.dates.append(day)
        self.pages += delivered_pages(store, FEED, [day])

    def proofs(self, *, chain: bool = True) -> list[Proof]:
        """What must be true this evening; with ``chain``, also of every file delivered since the beginning."""
        return (prove if chain else prove_books)(self.runtime.store, FEED, self.world, self.dates[-1], self.pages)

    def held_back(self) -> set[str]:
        """Portfolios held back on any date."""
        status = (date_status(self.runtime.store, FEED.name, day) for day in self.dates)
        return {held.number for one in status for held in (*one.held_back, *one.quarantined)}
