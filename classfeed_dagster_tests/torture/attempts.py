"""One attempt at a business date of a real feed on a real bigsite, with planted failures."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from classfeed_dagster.bigsite.consent import ConsentReadError, query_consented
from classfeed_dagster.bigsite.snapshot import snapshot_for
from classfeed_dagster.bigsite.tables import metadata
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.publish import PublishOutcome, publish
from classfeed_dagster.domains.build import CONSENTED, DOMAINS, build_consented_portfolios, build_domain
from classfeed_dagster.errors import NotInOrderError
from classfeed_dagster.feed_run.feed_date import LANDING
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import LocalStore
from classfeed_dagster_tests.fixtures.delivery_pipeline import Counting


class OutageError(Exception):
    """The object store was away for a moment."""


class Failing:
    """A store that fails at one call, and works again after it."""

    def __init__(self, store: LocalStore, fail_at: int) -> None:
        self._store, self._left, self._lock = store, fail_at, threading.Lock()
        self._before = bool(fail_at % 2)  # before the call, or after it has done its work

    def __getattr__(self, name: str) -> object:
        method = getattr(self._store, name)
        if name not in ("read", "exists", "list", "create", "put", "delete", "local_file"):
            return method

        def call(*args: object, **kwargs: object) -> object:
            with self._lock:
                self._left -= 1
                now = self._left == 0
            if now and self._before:
                raise OutageError(name)
            result = method(*args, **kwargs)
            if now:  # the request arrived, the answer didn't
                raise OutageError(name)
            return result

        return call


@dataclass
class Trouble:
    """Disturbance of an attempt. ``at_question``: number of the disturbed consent query, from 1."""

    crash_at: int = 0  # the process dies at this call to the store, counted from publishing on
    outage_at: int = 0  # the store fails at this call
    at_question: int = 0
    on_question: Callable[[], None] = lambda: None
    questions: int = 0

    def asked(self) -> None:
        self.questions += 1
        if self.questions == self.at_question:
            self.on_question()


def unreadable() -> None:
    """Make bigsite unreachable."""
    raise ConsentReadError("bigsite could not be asked")


@dataclass(frozen=True)
class TroubledDay(FeedRun):
    """A FeedDay whose questions who consents may be disturbed, and which doesn't wait for anybody for long."""

    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    trouble: Trouble = field(default_factory=Trouble)

    def consent(self) -> tuple[dt.datetime, set[str]]:
        self.trouble.asked()
        return query_consented(self.runtime.engine, self.audience.recipient, at=self.clock())

    def _publish(self, build: Build, wait: Callable[[NotInOrderError], bool]) -> PublishOutcome:
        return publish(
            self.store,
            build,
            consented_now=self.consent,
            audience=self.audience,
            correlation_id=self.correlation_id,
            patience_seconds=0.02,
        )


class Desk:
    """A feed, its bigsite and its store, in a folder; attempts are made here."""

    def __init__(self, bigsite_url: str, folder: Path, first: dt.date) -> None:
        self.settings = Settings(
            bigsite_url=bigsite_url, home=folder, first_business_date=first, max_removed_share="1",
            max_held_back_share="1", slice_portfolios=2,
        )  # fmt: skip
        self.runtime = Runtime(self.settings)
        self.store = LocalStore(folder / "store")
        self.audience = FEED.audience(first)
        self.attempts = 0
        start_flags(self.settings, (FEED,))

    @property
    def engine(self) -> sa.Engine:
        return self.runtime.engine

    def land(self, day: dt.date, now: dt.datetime, *, fresh: bool) -> None:
        """Read bigsite, unless that was done, and work out the domains."""
        store = self.store
        snapshot = snapshot_for(
            self.engine, store, day, [self.audience], fresh=fresh, snapshot_at=now, slice_portfolios=2,
            max_missing_share=self.settings.max_held_back_share,
        )  # fmt: skip
        self.runtime.save_reference(LANDING, day, snapshot)
        consented = build_consented_portfolios(store, snapshot, self.audience)
        for domain in DOMAINS:
            new_build = (
                consented if domain == CONSENTED else build_domain(store, snapshot, self.audience, domain, consented)
            )
            self.runtime.save_reference(self.audience.reference(domain), day, new_build)

    def day(
        self, day: dt.date, clock: Callable[[], dt.datetime], trouble: Trouble | None = None, **settings: object
    ) -> TroubledDay:
        """Start a new attempt at a landed date."""
        self.attempts += 1
        runtime = Runtime(self.settings.model_copy(update=settings))
        runtime.__dict__.update(engine=self.engine, store=self.store)
        correlation = f"attempt-{self.attempts}"
        trouble = trouble or Trouble()
        return TroubledDay(runtime, FEED, self.audience, day, correlation, clock(), (FEED,), clock, trouble)

    def attempt(self, work: TroubledDay) -> PublishOutcome:
        """Hold back, stage, judge and publish; ``crash_at`` and ``outage_at`` count from publishing on."""
        work.hold_back()
        work.evaluate_checks(work.stage())
        trouble = work.trouble
        if trouble.crash_at:
            work.runtime.__dict__["store"] = Counting(self.store, fail_at=trouble.crash_at)
        elif trouble.outage_at:
            work.runtime.__dict__["store"] = Failing(self.store, fail_at=trouble.outage_at)
        work.__dict__.pop("store", None)
        return work.publish()

    def close(self) -> None:
        """Close the connections."""
        self.runtime.close()


def truncate(engine: sa.Engine) -> None:
    """Empty bigsite for the next example."""
    names = ", ".join(f"{table.schema}.{table.name}" for table in metadata.sorted_tables)
    with engine.begin() as connection:
        connection.execute(sa.text(f"TRUNCATE {names}"))
