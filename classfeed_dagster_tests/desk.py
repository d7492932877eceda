"""A feed on a desk: a small bigsite, a store and a Dagster instance, and the real job between them."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import time_machine
from dagster import DagsterInstance, Definitions
from openfeature import api

from classfeed_dagster.bigsite import tables
from classfeed_dagster.definitions import build_definitions
from classfeed_dagster.delivery.look import DateStatus, date_status, wherever
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.feeds.feed import Feed, declared_feeds
from classfeed_dagster.operations.runs import RunReport, run_date
from classfeed_dagster.runtime import CLOCK_TAG, Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.simulation.rehearsal import morning_after
from classfeed_dagster_tests.bigsite_builder import Bigsite, Portfolio

FEED = "class_super"


@dataclass
class Desk:
    """What a person at work on the feed has before them."""

    bigsite: Bigsite
    runtime: Runtime
    instance: DagsterInstance
    definitions: Definitions
    feeds: tuple[Feed, ...]

    def run(self, day: str, *, feed: str = FEED, at: dt.datetime | None = None, **options: Any) -> RunReport:
        """Run the feed's job for a business date, at 06:00 Sydney of the next one unless ``at`` says otherwise."""
        date = dt.date.fromisoformat(day)
        now = at or morning_after(date)
        return run_date(self.definitions, self.instance, feed, date, tags={CLOCK_TAG: now.isoformat()}, **options)

    @contextlib.contextmanager
    def at(self, instant: str) -> Iterator[None]:
        """It is ``instant`` for a while: for the runtime and for Dagster alike. ISO text with its offset."""
        now = dt.datetime.fromisoformat(instant).astimezone(dt.UTC)
        before = self.runtime.settings
        self.runtime.settings = before.model_copy(update={"now": now})
        try:
            with time_machine.travel(now, tick=True):
                yield
        finally:
            self.runtime.settings = before

    def tick(self, sensor: str) -> tuple[list[dg.RunRequest], str]:
        """What a sensor asks for now, and what it says if it asks for nothing."""
        repository = self.definitions.get_repository_def()
        definition = repository.get_sensor_def(sensor)
        with dg.build_sensor_context(
            instance=self.instance, repository_def=repository, resources={"runtime": self.runtime}
        ) as context:
            tick = definition.evaluate_tick(context)
        # A sensor of one job leaves its name out.
        named = [
            one if one.job_name else one.with_replaced_attrs(job_name=definition.job_name)
            for one in tick.run_requests or ()
        ]
        return named, tick.skip_message or ""

    def carry_out(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Do what the daemon does with a sensor's request."""
        assert request.job_name is not None
        return self.definitions.resolve_job_def(request.job_name).execute_in_process(
            partition_key=request.partition_key,
            run_config=request.run_config,
            asset_selection=request.asset_selection,
            tags=request.tags,
            instance=self.instance,
            raise_on_error=False,
        )

    def two_customers(self) -> list[Portfolio]:
        """Two that consented and hold a share and cash; one more with cash who never consents. Not saved yet."""
        bhp = self.bigsite.security("BHP", price={"2026-02-27": "45.10", "2026-03-02": "45.50"})
        for number in ("SW00000001", "SW00000002"):
            one = self.bigsite.portfolio(number)
            one.consent(granted_at="2026-02-20T00:00:00Z")
            one.deposit("10000.00", "2026-02-23")
            one.buy(bhp, "100", "45.00", "2026-02-24")
        self.bigsite.portfolio("SW00000009").deposit("77.00", "2026-02-23")
        return self.bigsite.portfolios[:2]

    def end_of_day(self, day: str) -> None:
        """bigsite's own end of day for ``day``, and everything in the database."""
        self.bigsite.end_of_day(day)
        self.bigsite.save()

    def break_units(self, portfolio: Portfolio, day: str) -> None:
        """Make the end of day state one unit more of each holding than the ledgers do; saved with the rest."""
        for row in self.bigsite.rows[tables.holding_eod]:
            if row["portfolio_id"] == portfolio.id and row["as_at_date"] == dt.date.fromisoformat(day):
                row["units"] += 1

    def status(self, day: str, feed: str = FEED) -> DateStatus:
        """What was delivered for a business date."""
        return date_status(self.runtime.store, feed, dt.date.fromisoformat(day))

    def manifest(self, day: str, revision: int = 0, feed: str = FEED) -> Manifest:
        """One revision's manifest."""
        return next(one for one in self.status(day, feed).deliveries if one.revision == revision)

    def records(self, day: str, revision: int = 0, feed: str = FEED) -> dict[str, Any]:
        """The records of a revision's only page, as frames."""
        (page,) = self.manifest(day, revision, feed).pages
        with wherever(self.runtime.store, feed).local_file(page.key) as path:
            return self.feed(feed).format.read(path)

    def feed(self, name: str) -> Feed:
        """One of the feeds on the desk."""
        return next(feed for feed in self.feeds if feed.name == name)

    def switch(self, **values: dict[str, bool | str]) -> None:
        """Change switches, as a person does with ``CLASSFEED_FLAGS``: by switch, then feed or recipient."""
        flags = {name.replace("_", "-"): value for name, value in values.items()}
        self.runtime.settings = self.runtime.settings.model_copy(update={"flags": flags})
        self.definitions = build_definitions(self.runtime, self.feeds)

    def add(self, *feeds: Feed) -> None:
        """More feeds than the declared ones."""
        self.feeds = (*self.feeds, *feeds)
        self.definitions = build_definitions(self.runtime, self.feeds)


@contextlib.contextmanager
def at_a_desk(engine: sa.Engine, home: Path, feeds: Sequence[Feed] | None = None) -> Iterator[Desk]:
    """An empty bigsite, an empty store, an instance of its own; the feeds' first business date is 2 March 2026."""
    url = engine.url.render_as_string(hide_password=False)
    runtime = Runtime(
        Settings(bigsite_url=url, home=home, first_business_date=dt.date(2026, 3, 2), max_held_back_share="0.5")
    )
    declared = tuple(feeds or declared_feeds())
    with DagsterInstance.ephemeral() as instance:
        yield Desk(Bigsite(engine), runtime, instance, build_definitions(runtime, declared), declared)
    runtime.close()
    api.clear_providers()


@pytest.fixture
def desk(bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[Desk]:
    """A desk with every feed."""
    with at_a_desk(bigsite_engine, tmp_path) as made:
        yield made
