"""Sensor that announces incidents and their recovery."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from classfeed_dagster.alerting import alerts
from classfeed_dagster.alerting.incidents import raised, sync_incidents
from classfeed_dagster.alerting.pagerduty import pager
from classfeed_dagster.alerting.recipient_alerts import recipient_incidents
from classfeed_dagster.alerting.reconciliation_alerts import proof_incidents
from classfeed_dagster.alerting.slack import messenger
from classfeed_dagster.feed_run.flags import flags_problem
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import events_of, run_reader
from classfeed_dagster.orchestration.sensors.repair import repair_decisions
from classfeed_dagster.orchestration.step_context import current_time
from classfeed_dagster.repair.decisions import RunFact, RunState
from classfeed_dagster.repair.facts import gather
from classfeed_dagster.repair.observations import Observations
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.heartbeats import record
from classfeed_dagster.wording import counted

ExpectedChecks = Mapping[str, Collection[alerts.CheckKey]]


def expected_checks(feed_contexts: Sequence[FeedContext], checks: Sequence[dg.AssetChecksDefinition]) -> ExpectedChecks:
    """Return by feed the checks on its own assets and on its domains."""
    keys = [key for definition in checks for key in definition.check_keys]
    return {
        feed_context.feed.name: [
            (key.asset_key.to_user_string(), key.name)
            for key in keys
            if key.asset_key in feed_context.domain_keys
            or key.asset_key
            in (feed_context.key("quarantine"), feed_context.key("document"), feed_context.key("delivery"))
        ]
        for feed_context in feed_contexts
    }


def alert_sensor(
    feeds: Sequence[Feed], expected: ExpectedChecks, status: DefaultStatus, seconds: int
) -> dg.SensorDefinition:
    """Return the sensor that announces, updates and resolves incidents."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=seconds,
        default_status=status.sensor,
        description="Reports each incident once, in one thread, and its recovery. Incidents are failed or missing "
        "checks, late feeds, repairs that stopped, portfolios held back, and those that other steps raise.",
    )
    def alert(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SkipReason:
        now, store, settings = current_time(runtime), runtime.store, runtime.settings
        gathered = gather(runtime, run_reader(context.instance), feeds, now, ask_changes=False)
        current = alerts.incidents(
            gathered,
            repair_decisions(runtime, gathered),
            _checks(context.instance, gathered, expected),
            held_back_alert=settings.held_back_alert,
        )
        current += proof_incidents(runtime, gathered)
        current += recipient_incidents(store, gathered)
        if (problem := flags_problem()) is not None:
            current.append(alerts.unreadable_switches(problem))
        opened, revised, recovered = sync_incidents(
            store, [*raised(store), *current], (messenger(settings), pager(settings)), now
        )
        record(store, "alerts", now)
        return dg.SkipReason(f"{counted(opened, 'incident')} opened, {revised} revised, {recovered} recovered")

    return alert


def _checks(
    instance: dg.DagsterInstance, gathered: Observations, expected: ExpectedChecks
) -> dict[tuple[str, dt.date], alerts.DateChecks]:
    checks: dict[tuple[str, dt.date], alerts.DateChecks] = {}
    for observed in gathered.dates:
        finished = [run.fact.run_id for run in observed.runs if run.finished]
        # Dagster or repair runs again a run that died after its delivery, which evaluates the remaining checks.
        again = any(fact.state is RunState.FAILED and _may_pass(fact) for fact in observed.facts.runs[-1:])
        settled = bool(finished) and observed.facts.delivered and len(finished) == len(observed.runs) and not again
        outcomes = [(run_id, check) for run_id in finished for check in events_of(instance, run_id).checks]
        # A stopped or unfinished run will still evaluate its checks; a delivery without evaluations stays unchecked.
        due = expected.get(observed.feed.name, ()) if settled else ()
        checks[observed.feed.name, observed.due.business_date] = alerts.DateChecks(due, outcomes)
    return checks


def _may_pass(fact: RunFact) -> bool:
    return fact.cause is None or fact.cause.kind.retried
