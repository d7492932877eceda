"""The controllers in Dagster: repair, which starts what is missing, alerts, which tell people, and consent events.

Each look decides from what is there now, so a missed tick, a restarted daemon or a killed worker changes nothing.
"""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from classfeed_dagster.alerting import alerts
from classfeed_dagster.alerting.incidents import raise_incident, raised, settle_incident, sync_incidents
from classfeed_dagster.alerting.pagerduty import pager
from classfeed_dagster.alerting.reconciliation_alerts import proof_incidents
from classfeed_dagster.alerting.schema_alerts import tell_of_drift
from classfeed_dagster.alerting.slack import messenger
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.column_metadata import LANDING
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import events_of, run_reader
from classfeed_dagster.orchestration.run_recovery import recover_dead_runs
from classfeed_dagster.repair import consent_events
from classfeed_dagster.repair.decisions import Action, Decision, Policy, RunFact, RunState, decide_all
from classfeed_dagster.repair.facts import Gathered, Probe, gather, stopped_by_schema
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.heartbeats import record
from classfeed_dagster.tags import (
    ATTEMPT_TAG,
    CORRELATION_TAG,
    FEED_TAG,
    LAUNCHED_BY_TAG,
    REASON_TAG,
    REPAIR,
    feed_job_name,
    new_correlation_id,
)

ExpectedChecks = Mapping[str, Collection[alerts.CheckKey]]


def operation_sensors(
    feeds: Sequence[Feed],
    jobs: "Sequence[dg.UnresolvedAssetJobDefinition]",
    expected_checks: ExpectedChecks,
    *,
    running: bool,
    seconds: int,
) -> list[dg.SensorDefinition]:
    """All of them. ``expected_checks``: by feed, the checks that a whole run evaluates. ``running``: on by default.

    ``seconds``: how often repair and alerts look.
    """
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    return [_repair(feeds, jobs, status, seconds), _alerts(feeds, expected_checks, status, seconds), _consent(status)]


def expected_checks(parts: Sequence[FeedContext], checks: Sequence[dg.AssetChecksDefinition]) -> ExpectedChecks:
    """By feed, those of ``checks`` that are on its own assets and on the domains it carries."""
    keys = [key for definition in checks for key in definition.check_keys]
    return {
        part.feed.name: [
            (key.asset_key.to_user_string(), key.name)
            for key in keys
            if key.asset_key in part.domain_keys
            or key.asset_key in (part.key("quarantine"), part.key("document"), part.key("delivery"))
        ]
        for part in parts
    }


def decided(runtime: Runtime, gathered: Gathered) -> list[Decision]:
    """What is to be done about everything that was gathered."""
    settings = runtime.settings
    policy = Policy(
        max_attempts=settings.repair_attempts, code_version=settings.code_version, pace=settings.repair_pace
    )
    return decide_all(gathered.facts, gathered.at, policy, bigsite_up=gathered.bigsite_up)


def run_request(decision: Decision) -> dg.RunRequest:
    """The run that a decision asks for. Its key makes asking twice impossible."""
    selection = [dg.AssetKey.from_user_string(name) for name in decision.selection]
    reads = not selection or any(key.path[0] == LANDING for key in selection)
    config: dict[str, Any] = {}
    if decision.fresh_snapshot and reads:
        config = {"ops": {LANDING: {"config": {"fresh_snapshot": True}}}}
    return dg.RunRequest(
        run_key=decision.run_key,
        job_name=feed_job_name(decision.feed),
        partition_key=decision.business_date.isoformat(),
        run_config=config,
        asset_selection=selection or None,
        tags={
            CORRELATION_TAG: new_correlation_id(),
            FEED_TAG: decision.feed,
            LAUNCHED_BY_TAG: REPAIR,
            ATTEMPT_TAG: str(decision.attempt),
            REASON_TAG: decision.reason,
        },
    )


def _repair(
    feeds: Sequence[Feed],
    jobs: "Sequence[dg.UnresolvedAssetJobDefinition]",
    status: dg.DefaultSensorStatus,
    seconds: int,
) -> dg.SensorDefinition:
    probes: dict[int, Probe] = {}  # by runtime: one in a process, several in tests

    @dg.sensor(
        name="repair",
        jobs=jobs,
        minimum_interval_seconds=seconds,
        default_status=status,
        description="Looks at the last due business dates of every feed and starts again what did not get through: "
        "failed with a cause that passes, never started, held back and mended since, re-written in bigsite since.",
    )
    def repair(
        context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
    ) -> dg.SensorResult | dg.SkipReason:
        now, store = _now(runtime), runtime.store
        recover_dead_runs(context.instance)
        probe = probes.setdefault(id(runtime), Probe(runtime.settings.source_probe_seconds))
        ask = probe.is_due(now, consent_events.look_at(store))
        gathered = gather(runtime, run_reader(context.instance), feeds, now, ask_changes=ask)
        if gathered.drift is not None:
            stopped = [one for one in gathered.dates if stopped_by_schema(one.facts)]
            tell_of_drift(store, gathered.drift, stopped[0].facts.runs[-1].run_id if stopped else None, stopped)
        decisions = decided(runtime, gathered)
        for one in decisions:
            get_logger().info(
                "repair",
                feed=one.feed,
                business_date=one.business_date.isoformat(),
                outcome=f"{one.action}: {one.reason}",
                attempt=one.attempt,
            )
        record(store, "repair", now)
        requests = [run_request(one) for one in decisions if one.action is Action.RUN]
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason(_summary(decisions))

    return repair


def _alerts(
    feeds: Sequence[Feed], expected: ExpectedChecks, status: dg.DefaultSensorStatus, seconds: int
) -> dg.SensorDefinition:
    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=seconds,
        default_status=status,
        description="Tells people what is wrong, once, in one thread each, and that it has recovered: failed or "
        "missing checks, late feeds, repairs that gave up, portfolios held back, and what other steps report.",
    )
    def alert(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SkipReason:
        now, store, settings = _now(runtime), runtime.store, runtime.settings
        gathered = gather(runtime, run_reader(context.instance), feeds, now, ask_changes=False)
        current = alerts.incidents(
            gathered,
            decided(runtime, gathered),
            _checks(context.instance, gathered, expected),
            held_back_alert=settings.held_back_alert,
        )
        current += proof_incidents(runtime, gathered)
        opened, revised, recovered = sync_incidents(
            store, [*current, *raised(store)], (messenger(settings), pager(settings)), now
        )
        record(store, "alerts", now)
        return dg.SkipReason(f"{opened} incident(s) opened, {revised} revised, {recovered} recovered")

    return alert


def _consent(status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name="consent_events",
        minimum_interval_seconds=30,
        default_status=status,
        description="Takes bigsite's consent events off their queue. They say look; bigsite says what holds.",
    )
    def consent(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SkipReason:
        queues = consent_events.Queues.of(runtime.settings)
        if queues is None:
            return dg.SkipReason("no queue is set (CLASSFEED_CONSENT_QUEUE_URL)")
        found = consent_events.consume(queues, runtime.store, _now(runtime))
        for event in found.events:
            get_logger().info("consent event", correlation_id=event.correlation_id, outcome=event.kind)
        waiting = queues.waiting_dead_letters()
        incident = alerts.dead_letters(waiting)
        if waiting:
            raise_incident(runtime.store, incident)
        else:
            settle_incident(runtime.store, incident.key)
        return dg.SkipReason(f"{len(found.events)} event(s), {found.duplicates} duplicate(s), {found.dead} unreadable")

    return consent


def _checks(
    instance: dg.DagsterInstance, gathered: Gathered, expected: ExpectedChecks
) -> dict[tuple[str, dt.date], alerts.DateChecks]:
    found: dict[tuple[str, dt.date], alerts.DateChecks] = {}
    for one in gathered.dates:
        finished = [run.fact.run_id for run in one.runs if run.finished]
        # A run that died after it had delivered is run again, by Dagster or by repair, and that evaluates the rest.
        again = any(fact.state is RunState.FAILED and _may_pass(fact) for fact in one.facts.runs[-1:])
        settled = bool(finished) and one.facts.delivered and len(finished) == len(one.runs) and not again
        outcomes = [(run_id, check) for run_id in finished for check in events_of(instance, run_id).checks]
        # What a stopped or unfinished run did not evaluate, it will; what was delivered unchecked stays unchecked.
        wanted = expected.get(one.feed.name, ()) if settled else ()
        found[one.feed.name, one.due.business_date] = alerts.DateChecks(wanted, outcomes)
    return found


def _may_pass(fact: RunFact) -> bool:
    return fact.cause is None or fact.cause.kind.retried


def _now(runtime: Runtime) -> dt.datetime:
    return runtime.settings.now or dt.datetime.now(dt.UTC)


def _summary(decisions: Sequence[Decision]) -> str:
    said = [
        f"{one.feed} {one.business_date.isoformat()}: {one.action}, {one.reason}"
        for one in decisions
        if one.action is not Action.NOTHING
    ]
    return "; ".join(said) or "every due date is delivered"
