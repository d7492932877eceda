"""Gathers what repair and alerts decide from: the object store, Dagster's runs and bigsite, for the last due dates.

Nothing is remembered from tick to tick but what can't change: manifests and the events of finished runs.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from classfeed_dagster.bigsite.snapshot import Snapshot, latest_snapshot
from classfeed_dagster.delivery.approve_removals import approvals
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.delivery.quarantine import Quarantined, quarantine
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.documents.lineage import column_exports
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.feed_run.flags import flag_values, is_live
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.repair import source_probe
from classfeed_dagster.repair.causes import SCHEMA_ERRORS
from classfeed_dagster.repair.decisions import DateFacts, RunFact
from classfeed_dagster.runtime import NotBuiltError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.service_levels.delivery_summary import Delivery, deliveries
from classfeed_dagster.service_levels.due import Due, latest_due
from classfeed_dagster.source_contract.drift import SchemaDifference
from classfeed_dagster.source_contract.schema import SchemaUnreadableError
from classfeed_dagster.source_contract.schema_check import SchemaDriftError, require_schema
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.warehouse.records import Side

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """One run of a feed for a date. ``finished``: Dagster ended it, with success or with a failure."""

    fact: RunFact
    finished: bool


# Reads the runs of a feed's dates at an instant (UTC), by date, oldest first.
RunReader = Callable[[str, Collection[dt.date], dt.datetime], Mapping[dt.date, Sequence[ObservedRun]]]


@dataclass(frozen=True, slots=True)
class Observed:
    """One due date with everything seen of it: the facts for repair, and more for alerts."""

    feed: Feed
    live: bool  # customers get it; else it is rehearsed in the shadow, or switched off
    due: Due
    facts: DateFacts
    deliveries: tuple[Delivery, ...]
    held: tuple[Quarantined, ...]  # still held back
    runs: tuple[ObservedRun, ...]  # oldest first


@dataclass(frozen=True, slots=True)
class Gathered:
    """One look at everything. ``bigsite_up``: whether bigsite answered just now."""

    at: dt.datetime
    dates: tuple[Observed, ...]
    bigsite_up: bool
    drift: tuple[SchemaDifference, ...] | None = (
        None  # what forbids extraction; None: nothing failed by it, so nobody asked
    )

    @property
    def facts(self) -> list[DateFacts]:
        """The facts alone, as repair takes them."""
        return [one.facts for one in self.dates]


def gather(
    runtime: Runtime,
    read_runs: RunReader,
    feeds: Iterable[Feed],
    now: dt.datetime,
    *,
    ask_changes: bool = True,
) -> Gathered:
    """Everything that is known of the last due dates of ``feeds``. ``now`` is UTC.

    ``ask_changes``: whether bigsite is also asked what changed, which costs it a scan of those dates' rows. If bigsite
    doesn't answer, nothing is known to have changed.
    """
    settings = runtime.settings
    up = source_probe.is_reachable(runtime)
    observed: list[Observed] = []
    for feed in feeds:
        flags = flag_values(feed, settings.env)
        if flags.mode is FeedMode.OFF and not flags.errors:
            continue  # switched off on purpose: nothing is due
        audience = feed.audience(settings.first_business_date)
        live = is_live(feed, settings.env)
        dues = latest_due(feed, audience, now, settings.repair_dates)
        found = read_runs(feed.name, [one.business_date for one in dues], now)
        dates: list[Observed] = []
        for one in dues:
            runs = found.get(one.business_date, ())
            dates.append(_observe(runtime, (feed, audience, live), one, runs))
        dates = _with_order(runtime.store, feed, audience, dates)
        if up and ask_changes:
            dates, up = _with_changes(runtime, audience, dates)
        observed += dates
    drift = _drift(runtime, observed) if up else None
    if drift == ():
        observed = [replace(one, facts=replace(one.facts, schema_agrees=True)) for one in observed]
    return Gathered(now, tuple(observed), up, drift)


def stopped_by_schema(facts: DateFacts) -> bool:
    """True if a date's latest run failed because bigsite's schema is not what it should be."""
    cause = facts.runs[-1].cause if facts.runs else None
    return cause is not None and cause.error in SCHEMA_ERRORS


def _drift(runtime: Runtime, observed: Iterable[Observed]) -> tuple[SchemaDifference, ...] | None:
    # Asks the catalogue only while the schema is what some date's latest run failed by.
    if not any(stopped_by_schema(one.facts) for one in observed):
        return None
    try:
        require_schema(runtime.engine, column_exports())
    except SchemaDriftError as drift:
        return drift.differences
    except (SourceReadError, SchemaUnreadableError):
        return None
    return ()


def _observe(
    runtime: Runtime, whose: tuple[Feed, RecipientSchedule, bool], due: Due, runs: Sequence[ObservedRun]
) -> Observed:
    store = runtime.store
    feed, audience, live = whose
    day = due.business_date
    facts_of_runs = tuple(run.fact for run in runs)
    sent = deliveries(store, feed, day)
    held = tuple(record for record in quarantine(store, feed.name, day) if record.status == "HELD")
    landed = latest_snapshot(store, day, [audience])
    released = [approval.approved_at for approval in approvals(store, audience, day)]
    verdict = _verdict(runtime, feed.name, day)
    facts = DateFacts(
        feed=feed.name,
        business_date=day,
        due_at=due.starts_at,
        deadline=due.deadline_at,
        delivered=bool(sent),
        runs=facts_of_runs,
        held_back=len(held),
        snapshot_at=_worked_from(store, day, facts_of_runs) or (sent[-1].snapshot_at if sent else None),
        landed_at=landed.snapshot_at if landed else None,
        released_at=max(released, default=None),
        finding=verdict.finding if verdict and sent and verdict.revision == sent[-1].revision else None,
    )
    return Observed(feed, live, due, facts, sent, held, tuple(runs))


def _verdict(runtime: Runtime, feed: str, day: dt.date) -> ReconciliationSummary | None:
    try:
        return runtime.load_reference(f"{feed}/{Side.SOURCE.value}_reconciliation", day, ReconciliationSummary)
    except NotBuiltError:
        return None


def _worked_from(store: ObjectStore, day: dt.date, runs: Sequence[RunFact]) -> dt.datetime | None:
    # The latest run that read bigsite, or took what was landed; a resumed run goes on with what its first part had.
    for run in reversed(runs):
        if run.snapshot_id is not None:
            key = f"landing/{day.isoformat()}/snapshot/{run.snapshot_id}.json"
            try:
                return Snapshot.model_validate_json(store.read(key)).snapshot_at
            except ObjectNotFoundError:
                return None
    return None


def _with_order(
    store: ObjectStore, feed: Feed, audience: RecipientSchedule, dates: Sequence[Observed]
) -> list[Observed]:
    # What a date's neighbours say of it: an undelivered date before the first, portfolios freed by the date before.
    result: list[Observed] = []
    for at, one in enumerate(dates):
        previous = audience.previous(one.due.business_date)
        waits_for = previous if at == 0 and previous is not None and not deliveries(store, feed, previous) else None
        waiting = {record.number for record in one.held if record.held_back.kind == "WAITING"}
        freed = _freed(store, feed.name, waiting, previous) if previous is not None else None
        budget_from = dates[-1].due.starts_at
        result.append(replace(one, facts=replace(one.facts, waits_for=waits_for, freed=freed, budget_from=budget_from)))
    return result


def _freed(store: ObjectStore, feed: str, waiting: set[str], previous: dt.date) -> str | None:
    # Names those of `waiting` that the date before has delivered since. The manifests tell; the quarantine's records,
    # which are small, say whether it is worth reading them.
    records = quarantine(store, feed, previous) if waiting else ()
    released = {record.number for record in records if record.number in waiting and record.status == "RELEASED"}
    if not released:
        return None
    delivered = delivered_state(live_and_shadow(store, feed), feed, previous)
    gone = sorted((number, delivered.portfolios[number].revision) for number in released & delivered.numbers)
    return hashlib.sha256(repr(gone).encode()).hexdigest()[:16] if gone else None


def _with_changes(
    runtime: Runtime, audience: RecipientSchedule, dates: Sequence[Observed]
) -> tuple[list[Observed], bool]:
    questions = [
        source_probe.Question(
            one.due.business_date,
            one.facts.snapshot_at,
            {record.number for record in one.held if record.held_back.kind == "RULE"},
            one.facts.delivered,
        )
        for one in dates
        if one.facts.snapshot_at is not None
    ]
    try:
        changed: Mapping[dt.date, dt.datetime] = source_probe.changed_since(runtime, audience.recipient, questions)
    except sa.exc.SQLAlchemyError:
        return list(dates), source_probe.is_reachable(runtime)
    return [
        replace(one, facts=replace(one.facts, source_changed_at=changed.get(one.due.business_date))) for one in dates
    ], True


class Probe:
    """Says when to ask bigsite what changed: every ``seconds``, and at once after an event said look."""

    def __init__(self, seconds: int) -> None:
        self._every = dt.timedelta(seconds=seconds)
        self._asked_at: dt.datetime | None = None

    def is_due(self, now: dt.datetime, look_at: dt.datetime | None = None) -> bool:
        """True if it is time at ``now``; then the time begins anew. ``look_at``: when an event last said look."""
        asked = self._asked_at
        if asked is not None and now - asked < self._every and (look_at is None or look_at <= asked):
            return False
        self._asked_at = now
        return True
