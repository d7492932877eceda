"""Input of the benchmarks: a bigsite of one size, and a store with the steps before the measured one.

``Day`` calls the steps of one date in order, without Dagster; ``Site`` owns the database and hands out copies of the
store as it stood after a step.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import structlog
from pydantic import SecretStr

from benchmarks import bulk
from classfeed_dagster import trading_days
from classfeed_dagster.bigsite.snapshot import Snapshot, take_snapshot
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.domains.build import CONSENTED, DOMAINS, build_consented_portfolios, build_domain
from classfeed_dagster.feed_run.feed_date import LANDING
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.local import embedded_postgres as embedded
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.settings import Settings

FIRST = bulk.FIRST_DAY
SECOND = trading_days.next_business_day(FIRST)
AUDIENCE: RecipientSchedule = FEED.audience(FIRST)
SNAPSHOT, DOMAIN, HELD_BACK, STAGED, JUDGED, PUBLISHED = (
    "snapshot",
    "domains",
    "held back",
    "rendering and staging",
    "the gate",
    "publishing",
)
STEPS = (SNAPSHOT, DOMAIN, HELD_BACK, STAGED, JUDGED, PUBLISHED)


def morning_after(day: dt.date) -> dt.datetime:
    """Return the start of the date's run, UTC: six hours after the cut-off."""
    return trading_days.cutoff(day) + dt.timedelta(hours=6)


def runtime_at(url: str, home: Path, **settings: Any) -> Runtime:
    """Return the runtime of a run: the bigsite at ``url``, and a store under ``home``."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    runtime = Runtime(Settings(bigsite_url=SecretStr(url), home=home, first_business_date=FIRST, **settings))
    start_flags(runtime.settings, FEEDS)
    return runtime


@dataclass(frozen=True)
class Day:
    """The steps of one date, in order, in this process."""

    runtime: Runtime
    day: dt.date

    @cached_property
    def work(self) -> FeedRun:
        """Return the feed's last steps."""
        return FeedRun(self.runtime, FEED, AUDIENCE, self.day, "benchmark", morning_after(self.day))

    @property
    def steps(self) -> dict[str, Callable[[], object]]:
        """Return the steps by name."""
        return dict(
            zip(STEPS, (self.snapshot, self.domains, self.hold_back, self.stage, self.judge, self.publish), strict=True)
        )

    def until(self, last: str) -> None:
        """Do the steps up to and including ``last``."""
        for name, step in self.steps.items():
            step()
            if name == last:
                return

    def snapshot(self) -> Snapshot:
        """Read bigsite and land it."""
        runtime, now = self.runtime, morning_after(self.day)
        settings = runtime.settings
        snapshot = take_snapshot(
            runtime.engine,
            runtime.store,
            self.day,
            [AUDIENCE],
            snapshot_at=now,
            slice_portfolios=settings.slice_portfolios,
            shard_portfolios=settings.shard_portfolios,
            sessions=settings.bigsite_sessions,
        )
        runtime.save_reference(LANDING, self.day, snapshot)
        return snapshot

    def domains(self) -> None:
        """Build the consented portfolios, then each domain."""
        runtime, snapshot = self.runtime, self.work.snapshot()
        consented = build_consented_portfolios(runtime.store, snapshot, AUDIENCE)
        runtime.save_reference(AUDIENCE.reference(CONSENTED), self.day, consented)
        for domain in DOMAINS:
            if domain != CONSENTED:
                built = build_domain(runtime.store, snapshot, AUDIENCE, domain, consented)
                runtime.save_reference(AUDIENCE.reference(domain), self.day, built)

    def hold_back(self) -> None:
        """Hold portfolios back."""
        self.work.hold_back()

    def stage(self) -> Build:
        """Render, examine ahead, hash, compress and stage the pages."""
        return self.work.stage()

    def judge(self) -> None:
        """Run the gate over the staged bytes."""
        evaluations = self.work.evaluate_checks(self.work.build())
        assert all(result.passed for result in evaluations), evaluations

    def publish(self) -> None:
        """Deliver."""
        assert self.work.publish().kind == "DELIVERED"


@dataclass(frozen=True)
class Site:
    """A bigsite with ``portfolios`` consented portfolios and two finished dates, FIRST (all FULL) and SECOND (DELTA)."""

    folder: Path
    url: str
    portfolios: int

    @property
    def server(self) -> Path:
        """Return the folder of its PostgreSQL."""
        return self.folder / "postgres"

    def after(self, day: dt.date, step: str) -> Path:
        """Return a home as after ``step`` of ``day``, with earlier dates delivered. Copy it before writing."""
        home = self.folder / f"after-{day.isoformat()}-{STEPS.index(step)}"
        if not home.exists():
            making = self.folder / "making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            if day != FIRST:
                copy(self.after(FIRST, PUBLISHED), making)
            runtime = runtime_at(self.url, making)
            try:
                Day(runtime, day).until(step)
            finally:
                runtime.close()
            making.rename(home)
        return home


def copy(home: Path, target: Path) -> None:
    """Link a home into the existing folder ``target``: the store replaces files and never changes them."""
    shutil.copytree(home, target, copy_function=os.link, dirs_exist_ok=True)


@contextlib.contextmanager
def site(portfolios: int) -> Iterator[Site]:
    """Create a site of one size; remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="classfeed-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # run by root, PostgreSQL is another user
        url = embedded.start(folder)
        try:
            engine = embedded.engine_from(url)
            bulk.create(engine, portfolios, FIRST)
            bulk.add_day(engine, portfolios, SECOND)
            engine.dispose()
            yield Site(folder, url, portfolios)
        finally:
            embedded.stop(folder)
