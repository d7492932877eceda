"""Facts for the decisions of repair and alerts, from the object store, Dagster's runs and bigsite.

They cover the latest due dates. Only immutable facts are cached between ticks: manifests and events of finished runs.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite.snapshot import Snapshot, latest_snapshot
from classfeed_dagster.delivery.approve_removals import approvals
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.delivery.quarantine import Quarantined, quarantine
from classfeed_dagster.delivery.refreshes import undelivered_refreshes
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.domains.rules import SHARED_NUMBERS
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.feed_run.acknowledged import read_answers
from classfeed_dagster.feed_run.flags import flag_values, is_live
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.repair import restatements, source_probe
from classfeed_dagster.repair.causes import SCHEMA_ERRORS
from classfeed_dagster.repair.decisions import DateFacts, RunFact
from classfeed_dagster.repair.observations import Observations, ObservedDate, ObservedRun, RunReader
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.service_levels.service_levels import Due, deliveries, due, latest_due
from classfeed_dagster.source_contract.drift import SchemaDifference
from classfeed_dagster.source_contract.schema import SchemaUnreadableError
from classfeed_dagster.source_contract.schema_check import SchemaDriftError, require_schema
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.transmission.send import outstanding
from classfeed_dagster.warehouse.records import Side

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime

REFRESH_OVERDUE = dt.timedelta(hours=1)  # a granted refresh takes minutes
REFRESH_REPORTED = dt.timedelta(days=7)


def gather(
    runtime: Runtime,
    read_runs: RunReader,
    feeds: Iterable[Feed],
    now: dt.datetime,
    *,
    ask_changes: bool = True,
    turn: int = 0,
) -> Observations:
    """Return the facts about the last due dates of ``feeds``, and about older dates that bigsite changed.

    ``now`` is UTC. ``ask_changes``: query bigsite for changes as well, which reads those dates' rows. ``turn`` selects
    the batch of older dates of that query. If bigsite does not answer, no change is known.
    """
    settings = runtime.settings
    up = source_probe.is_reachable(runtime)
    observed: list[ObservedDate] = []
    for feed in feeds:
        flags = flag_values(feed, settings.env)
        if flags.mode is FeedMode.OFF and not flags.errors:
            continue  # switched off: no date is due
        audience = feed.audience(settings.first_business_date)
        live = is_live(feed, settings.env)
        dues = latest_due(feed, audience, now, settings.repair_dates)
        # A record restored from a backup may be of a date that another first date, cadence or calendar had.
        older = {day for day in restatements.open_dates(runtime.store, feed.name) if audience.is_due(day)}
        if dues:
            older |= _unsent_before(runtime.store, feed, audience, dues[0].business_date)
        if up and ask_changes and dues:
            before = [day for day in audience.dates() if day < dues[0].business_date]
            batch = restatements.batch(before, turn)
            changed, up = _changed_since_delivery(runtime, feed, audience, batch)
            older |= changed | {day for day in batch if _freed(runtime.store, feed, audience, day) is not None}
        # What a re-issue delivers may free the next date, and so on up to those that are watched.
        following = [after for day, after in itertools.pairwise(audience.dates()) if day in older]
        older |= {day for day in following if _freed(runtime.store, feed, audience, day) is not None}
        restated = [due(feed, day) for day in sorted(older) if dues and day < dues[0].business_date]
        runs = read_runs(feed.name, [each.business_date for each in (*restated, *dues)], now)
        whose = (feed, audience, live)
        dates = [_observe(runtime, whose, each, runs.get(each.business_date, ())) for each in dues]
        dates = _with_order(runtime.store, feed, audience, dates)
        dates = _with_refreshes(runtime.store, feed, dates, now)
        for older_due in reversed(restated):
            date = _observe(runtime, whose, older_due, runs.get(older_due.business_date, ()))
            freed = _freed(runtime.store, feed, audience, older_due.business_date)
            facts = replace(date.facts, budget_from=dues[-1].starts_at, freed=freed)
            dates.insert(0, replace(date, facts=facts, restated=True))
        dates = _with_sending_order(runtime.store, feed, audience, dates)
        if up and ask_changes:
            dates, up = _with_changes(runtime, audience, dates)
        observed += dates
    drift = _drift(runtime, observed) if up else None
    if drift == ():
        observed = [replace(date, facts=replace(date.facts, schema_agrees=True)) for date in observed]
    return Observations(now, tuple(observed), up, drift)


def stopped_by_schema(facts: DateFacts) -> bool:
    """Return True if a date's latest run failed because bigsite's schema violates its contract."""
    cause = facts.runs[-1].cause if facts.runs else None
    return cause is not None and cause.error in SCHEMA_ERRORS


def _drift(runtime: Runtime, observed: Iterable[ObservedDate]) -> tuple[SchemaDifference, ...] | None:
    # Query the catalogue only while a date's latest run failed by the schema.
    if not any(stopped_by_schema(date.facts) for date in observed):
        return None
    try:
        require_schema(runtime.engine, column_exports())
    except SchemaDriftError as drift:
        return drift.differences
    except (SourceReadError, SchemaUnreadableError):
        return None
    return ()


def _observe(
    runtime: Runtime, schedule: tuple[Feed, RecipientSchedule, bool], when: Due, runs: Sequence[ObservedRun]
) -> ObservedDate:
    store = runtime.store
    feed, audience, live = schedule
    day = when.business_date
    facts_of_runs = tuple(run.fact for run in runs)
    delivered = deliveries(store, feed, day)
    held_back = tuple(record for record in quarantine(store, feed.name, day) if record.status == "HELD")
    landed = latest_snapshot(store, day, [audience])
    released = [approval.approved_at for approval in approvals(store, audience, day)]
    verdict = runtime.find_reference(Side.SOURCE.reference(feed.name), day, ReconciliationSummary)
    facts = DateFacts(
        feed=feed.name,
        business_date=day,
        due_at=when.starts_at,
        deadline=when.deadline_at,
        delivered=bool(delivered),
        runs=facts_of_runs,
        held_back=sum(record.lacks_data for record in held_back),
        held_by_rule=any(record.lacks_data and record.held_back.kind == "RULE" for record in held_back),
        snapshot_at=_worked_from(store, day, facts_of_runs) or (delivered[-1].snapshot_at if delivered else None),
        landed_at=landed.snapshot_at if landed else None,
        unsent=outstanding(store, feed.name, day) if delivered and feed.sends_on(day) else 0,
        released_at=max(released, default=None),
        finding=verdict.finding if verdict and delivered and verdict.revision == delivered[-1].revision else None,
    )
    answers = read_answers(runtime, feed, day) if delivered else ()
    return ObservedDate(feed, live, when, facts, delivered, held_back, tuple(runs), answers)


def _worked_from(store: ObjectStore, day: dt.date, runs: Sequence[RunFact]) -> dt.datetime | None:
    # Snapshot of the latest run that has one: a resumed run continues with that of its first part.
    for run in reversed(runs):
        if run.snapshot_id is not None:
            key = f"landing/{day.isoformat()}/snapshot/{run.snapshot_id}.json"
            try:
                return Snapshot.model_validate_json(store.read(key)).snapshot_at
            except ObjectNotFoundError:
                return None
    return None


def _with_order(
    store: ObjectStore, feed: Feed, audience: RecipientSchedule, dates: Sequence[ObservedDate]
) -> list[ObservedDate]:
    # Facts from neighbouring dates: an undelivered date before the first, portfolios freed by the previous date.
    result: list[ObservedDate] = []
    for at, date in enumerate(dates):
        previous = audience.previous(date.due.business_date)
        waits_for = previous if at == 0 and previous is not None and not deliveries(store, feed, previous) else None
        freed = _freed(store, feed, audience, date.due.business_date)
        budget_from = dates[-1].due.starts_at
        result.append(
            replace(date, facts=replace(date.facts, waits_for=waits_for, freed=freed, budget_from=budget_from))
        )
    return result


def _unsent_before(store: ObjectStore, feed: Feed, audience: RecipientSchedule, day: dt.date) -> set[dt.date]:
    # The dates right before ``day`` whose files are not sent: ``day`` waits for them, however old they are.
    unsent: set[dt.date] = set()
    previous = audience.previous(day)
    while previous is not None and feed.sends_on(previous) and outstanding(store, feed.name, previous):
        unsent.add(previous)
        previous = audience.previous(previous)
    return unsent


def _with_sending_order(
    store: ObjectStore, feed: Feed, audience: RecipientSchedule, dates: Sequence[ObservedDate]
) -> list[ObservedDate]:
    result: list[ObservedDate] = []
    for date in dates:
        previous = audience.previous(date.due.business_date) if date.facts.unsent else None
        waits = previous is not None and feed.sends_on(previous) and outstanding(store, feed.name, previous)
        result.append(replace(date, facts=replace(date.facts, sends_after=previous)) if waits else date)
    return result


def _with_refreshes(
    store: ObjectStore, feed: Feed, dates: Sequence[ObservedDate], now: dt.datetime
) -> list[ObservedDate]:
    # Only the latest delivered date can still deliver a refresh; of an earlier one it has lapsed.
    waiting = undelivered_refreshes(store, feed.name, now - REFRESH_REPORTED, now - REFRESH_OVERDUE)
    latest = max((date.due.business_date for date in dates if date.facts.delivered), default=None)
    result: list[ObservedDate] = []
    for date in dates:
        records = tuple(record for record in waiting if record.business_date == date.due.business_date)
        keys = sorted(record.request for record in records if record.business_date == latest)
        identity = hashlib.sha256(repr(keys).encode()).hexdigest()[:16] if keys else None
        result.append(replace(date, facts=replace(date.facts, refreshes=identity), refreshes=records))
    return result


def _freed(store: ObjectStore, feed: Feed, audience: RecipientSchedule, day: dt.date) -> str | None:
    # Hash of the portfolios waiting on `day` that the previous date has delivered since. The manifests decide; the
    # small quarantine records show if reading them is worthwhile.
    previous = audience.previous(day)
    held = [record for record in quarantine(store, feed.name, day) if record.status == "HELD"]
    waiting = {record.number for record in held if record.held_back.kind == "WAITING"}
    if previous is None or not waiting:
        return None
    records = quarantine(store, feed.name, previous)
    released = {record.number for record in records if record.number in waiting and record.status == "RELEASED"}
    if not released:
        return None
    delivered = delivered_state(live_and_shadow(store, feed.name), feed.name, previous)
    freed = sorted((number, delivered.portfolios[number].revision) for number in released & delivered.numbers)
    return hashlib.sha256(repr(freed).encode()).hexdigest()[:16] if freed else None


def _changed_since_delivery(
    runtime: Runtime, feed: Feed, audience: RecipientSchedule, days: Sequence[dt.date]
) -> tuple[set[dt.date], bool]:
    # Returns the dates whose rows changed after the snapshot of their latest delivery.
    delivered = {day: deliveries(runtime.store, feed, day) for day in days}
    queries = [
        _change_query(audience, day, revisions[-1].snapshot_at, quarantine(runtime.store, feed.name, day))
        for day, revisions in delivered.items()
        if revisions
    ]
    try:
        return set(source_probe.changed_since(runtime, audience.recipient, queries)), True
    except sa.exc.SQLAlchemyError:
        return set(), source_probe.is_reachable(runtime)


def _change_query(
    audience: RecipientSchedule,
    day: dt.date,
    seen_at: dt.datetime,
    records: Iterable[Quarantined],
    *,
    delivered: bool = True,
) -> source_probe.ChangeQuery:
    held = [record for record in records if record.status == "HELD"]
    suspects = {
        record.number: any(breach.rule in SHARED_NUMBERS for breach in record.held_back.rules)
        for record in held
        if record.held_back.kind == "RULE"
    }
    lapsed = tuple(record.number for record in held if record.held_back.kind == "CONSENT_ENDED" and record.lacks_data)
    next_cutoff = trading_days.cutoff(audience.around(day)[-1])
    return source_probe.ChangeQuery(day, seen_at, suspects, delivered, lapsed, next_cutoff)


def _with_changes(
    runtime: Runtime, audience: RecipientSchedule, dates: Sequence[ObservedDate]
) -> tuple[list[ObservedDate], bool]:
    queries = [
        _change_query(
            audience, date.due.business_date, date.facts.snapshot_at, date.held, delivered=date.facts.delivered
        )
        for date in dates
        if date.facts.snapshot_at is not None
    ]
    try:
        changed: Mapping[dt.date, dt.datetime] = source_probe.changed_since(runtime, audience.recipient, queries)
    except sa.exc.SQLAlchemyError:
        return list(dates), source_probe.is_reachable(runtime)
    return [
        replace(date, facts=replace(date.facts, source_changed_at=changed.get(date.due.business_date)))
        for date in dates
    ], True


class Probe:
    """Timer of the queries of bigsite's changes: every ``seconds``, and at once after a consent event."""

    def __init__(self, seconds: int) -> None:
        self._every = dt.timedelta(seconds=seconds)
        self._asked_at: dt.datetime | None = None
        self.turn = 0  # number of probes so far: selects the batch of older dates

    def is_due(self, now: dt.datetime, event_at: dt.datetime | None = None) -> bool:
        """Return True if a query is due at ``now``, and restart the timer. ``event_at``: the latest consent event."""
        asked_at = self._asked_at
        if asked_at is not None and now - asked_at < self._every and (event_at is None or event_at <= asked_at):
            return False
        self._asked_at = now
        self.turn += 1
        return True
