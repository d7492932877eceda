"""One feed on one business date before its steps: switches, snapshot, domains. NotBuiltError names a missing step."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.feed_mode import FeedMode, FeedStoreView
from classfeed_dagster.delivery.refreshes import with_refreshes
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.domains.build import CONSENTED, DomainReference, read_consent_roll
from classfeed_dagster.domains.consented_portfolios import ConsentRoll
from classfeed_dagster.errors import CodeFaultError
from classfeed_dagster.feed_run.flags import attempt_flags
from classfeed_dagster.feed_run.refreshed_domains import refreshed_domains
from classfeed_dagster.feed_run.switches import FeedFlags, chosen_format
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore

LANDING = "landing"  # name of the snapshot's reference


class FeedIdleError(CodeFaultError):
    """Refusal of a step because the feed is idle on the date: check ``FeedDate.idle`` first."""


@dataclass(frozen=True)
class FeedDate:
    """One business date of one feed in one attempt: its switches and the results of earlier steps.

    ``now`` is a rehearsal's clock; None: the real clock. ``feeds`` are all feeds, since some exclude each other;
    None: the declared feeds.
    """

    runtime: Runtime
    feed: Feed
    audience: RecipientSchedule
    day: dt.date
    correlation_id: str
    now: dt.datetime | None = None
    feeds: tuple[Feed, ...] | None = None

    @cached_property
    def switches(self) -> dict[str, FeedFlags]:
        """Return the switches, recorded by the attempt's first step, of this feed and of the feeds that it excludes."""
        environment = self.runtime.settings.env
        return attempt_flags(
            self.runtime.store, environment, self.feed, self._feeds, day=self.day, correlation_id=self.correlation_id
        )

    @property
    def _feeds(self) -> tuple[Feed, ...]:
        return FEEDS if self.feeds is None else self.feeds

    @property
    def flags(self) -> FeedFlags:
        """Return this feed's switches."""
        return self.switches[self.feed.name]

    @cached_property
    def idle(self) -> str | None:
        """Return the reason why there is nothing to do, in a sentence; None if there is something to do."""
        if not self.audience.is_due(self.day):
            return self.audience.not_due(self.day)
        if self.flags.errors:
            return f"{self.feed.name} is off for now: its switches are unavailable ({'; '.join(self.flags.errors)})"
        return f"{self.feed.name} is switched off" if self.flags.mode is FeedMode.OFF else None

    @cached_property
    def store(self) -> ObjectStore:
        """Return the store's view for the feed's mode; raise FeedIdleError if there is nothing to do."""
        if self.idle is not None:
            raise FeedIdleError(self.idle)
        return FeedStoreView(self.runtime.store, self.feed.name, self.flags.mode)

    @property
    def format(self) -> DocumentFormat:
        """Return the format that the switches select."""
        return chosen_format(self.feed, self.flags)

    def snapshot(self) -> Snapshot:
        """Return the landed snapshot."""
        return self.runtime.load_reference(LANDING, self.day, Snapshot)

    @property
    def schedule(self) -> RecipientSchedule:
        """Return the audience with the refreshes in effect now; the audience itself if there are none."""
        if self.flags.mode is not FeedMode.LIVE:
            return self.audience
        return with_refreshes(self.runtime.store, self.feed.name, self.audience, self.day)

    def domains(self) -> list[DomainReference]:
        """Return the consented portfolios, first, and the domains that the format carries."""
        schedule = self.schedule
        if schedule is not self.audience:
            return refreshed_domains(self.runtime, schedule, self.snapshot(), self.feed.domains)
        names = (CONSENTED, *self.feed.domains)
        load = self.runtime.load_reference
        return [load(self.audience.reference(name), self.day, DomainReference) for name in names]

    def consent_roll(self) -> ConsentRoll:
        """Return the consent roll-forward from the previous date to this one."""
        return read_consent_roll(self.runtime.store, self.snapshot(), self.schedule, self.domains()[0])

    def inputs(self) -> list[str]:
        """Return the SHA-256 of every frame from which the document is built."""
        return [table.sha256 for domain in self.domains() for _, table in sorted(domain.frames.items())]

    @property
    def shards(self) -> int:
        """Return the number of shards for a fan-out of the date's work; 0 on ordinary dates."""
        if self.idle is not None:
            return 0
        count = len(self.snapshot().shards)
        return count if count > 1 else 0
