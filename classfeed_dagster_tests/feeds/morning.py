"""A feed's morning without Dagster: the plain functions that the assets call, one after the other."""

from __future__ import annotations

import datetime as dt
import uuid

from classfeed_dagster.bigsite.snapshot import snapshot_for
from classfeed_dagster.delivery.publish import Outcome
from classfeed_dagster.domains.run import CONSENTED, DOMAINS, build_consented_portfolios, build_domain
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.steps import LANDING, FeedDay
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.simulation.rehearsal import morning_after


def attempt(runtime: Runtime, feed: Feed, day: dt.date, feeds: tuple[Feed, ...] | None = None) -> FeedDay:
    """A fresh attempt at a date, on the morning after it."""
    audience = feed.audience(runtime.settings.first_business_date)
    return FeedDay(runtime, feed, audience, day, uuid.uuid4().hex, morning_after(day), feeds)


def prepare(work: FeedDay, *, fresh: bool = False) -> None:
    """Everything before the feed's own steps: snapshot and domains."""
    runtime, audience, day = work.runtime, work.audience, work.day
    snapshot = snapshot_for(runtime.engine, runtime.store, day, [audience], snapshot_at=work.now, fresh=fresh)
    runtime.save_reference(LANDING, day, snapshot)
    consented = build_consented_portfolios(runtime.store, snapshot, audience)
    runtime.save_reference(audience.reference(CONSENTED), day, consented)
    for domain in DOMAINS:
        if domain != CONSENTED and domain in work.feed.domains:
            reference = build_domain(runtime.store, snapshot, audience, domain, consented)
            runtime.save_reference(audience.reference(domain), day, reference)


def deliver(work: FeedDay) -> Outcome:
    """The feed's own steps."""
    work.hold_back()
    work.judge(work.stage())
    return work.publish()
