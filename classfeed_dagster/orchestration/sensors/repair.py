"""Sensor that starts the runs that due business dates need."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

from classfeed_dagster.alerting.schema_alerts import sync_drift_incident
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import (
    LANDING,
)
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.run_history import run_reader
from classfeed_dagster.orchestration.run_recovery import recover_dead_runs
from classfeed_dagster.orchestration.step_context import current_time
from classfeed_dagster.repair import consent_events, restatements
from classfeed_dagster.repair.decisions import Action, Decision, Policy, decide_all
from classfeed_dagster.repair.facts import Probe, gather, stopped_by_schema
from classfeed_dagster.repair.observations import Observations
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.heartbeats import record
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.tags import (
    ATTEMPT_TAG,
    CORRELATION_TAG,
    FEED_TAG,
    FINDING_TAG,
    LAUNCHED_BY_TAG,
    REASON_TAG,
    REPAIR,
    feed_job_name,
    new_correlation_id,
)


def repair_decisions(runtime: Runtime, gathered: Observations) -> list[Decision]:
    """Decide what each due date needs."""
    settings = runtime.settings
    policy = Policy(
        max_attempts=settings.repair_attempts, code_version=settings.code_version, pace=settings.repair_pace
    )
    return decide_all(gathered.facts, gathered.at, policy, bigsite_up=gathered.bigsite_up)


def run_request(decision: Decision) -> dg.RunRequest:
    """Return the run request of a decision. Its key prevents a second request."""
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
            **({FINDING_TAG: decision.finding} if decision.finding else {}),
        },
    )


def repair_sensor(
    feeds: Sequence[Feed],
    jobs: "Sequence[dg.UnresolvedAssetJobDefinition]",
    status: DefaultStatus,
    seconds: int,
) -> dg.SensorDefinition:
    """Return the sensor that starts the runs that due dates need."""
    probes: WeakKeyDictionary[ObjectStore, Probe] = WeakKeyDictionary()  # one in a process, several in tests

    @dg.sensor(
        name="repair",
        jobs=jobs,
        minimum_interval_seconds=seconds,
        default_status=status.sensor,
        description="Checks the last due business dates of every feed and runs the incomplete ones. These failed with "
        "a transient cause, never started, or were corrected or changed in bigsite since.",
    )
    def repair(
        context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
    ) -> dg.SensorResult | dg.SkipReason:
        now, store = current_time(runtime), runtime.store
        recover_dead_runs(context.instance)
        probe = probes.setdefault(store, Probe(runtime.settings.source_probe_seconds))
        ask = probe.is_due(now, consent_events.latest_event_at(store))
        gathered = gather(runtime, run_reader(context.instance), feeds, now, ask_changes=ask, turn=probe.turn)
        if gathered.drift is not None:
            stopped = [observed for observed in gathered.dates if stopped_by_schema(observed.facts)]
            sync_drift_incident(store, gathered.drift, stopped[0].facts.runs[-1].run_id if stopped else None, stopped)
        decisions = repair_decisions(runtime, gathered)
        restatements.record(store, gathered, asked=ask)
        for decision in decisions:
            get_logger().info(
                "repair",
                feed=decision.feed,
                business_date=decision.business_date.isoformat(),
                outcome=f"{decision.action}: {decision.reason}",
                attempt=decision.attempt,
            )
        record(store, "repair", now)
        requests = [run_request(decision) for decision in decisions if decision.action is Action.RUN]
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason(_summary(decisions))

    return repair


def _summary(decisions: Sequence[Decision]) -> str:
    texts = [
        f"{decision.feed} {decision.business_date.isoformat()}: {decision.action}, {decision.reason}"
        for decision in decisions
        if decision.action is not Action.NOTHING
    ]
    return "; ".join(texts) or "every due date is delivered"
