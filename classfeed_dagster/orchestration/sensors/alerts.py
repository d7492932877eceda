"""Sensor that announces incidents and their recovery."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from classfeed_dagster.alerting import alerts
from classfeed_dagster.alerting.incidents import raised, sync_incidents
from classfeed_dagster.alerting.pagerduty import pager
from classfeed_dagster.alerting.reconciliation_alerts import proof_incidents
from classfeed_dagster.alerting.slack import messenger
from classfeed_dagster.feed_run.flags import flags_problem
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import events_of, run_reader
from classfeed_dagster.orchestration.sensors.repair import repair_decisions
from classfeed_dagster.orchestration.step_context import current_time
from classfeed_dagster.repair.decisions import RunFact, RunState
from classfeed_dagster.repair.facts import Observations, gather
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.heartbeats import record

ExpectedChecks = Mapping[str, Collection[alerts.CheckKey]]


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


def alert_sensor(
    feeds: Sequence[Feed], expected: ExpectedChecks, status: dg.DefaultSensorStatus, seconds: int
) -> dg.SensorDefinition:
    """Return the sensor that announces, updates and resolves incidents."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=seconds,
        default_status=status,
        description="Tells people what is wrong, once, in one thread each, and that it has recovered: failed or "
        "missing checks, late feeds, repairs that gave up, portfolios held back, and what other steps report.",
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
        if (problem := flags_problem()) is not None:
            current.append(alerts.unreadable_switches(problem))
        opened, revised, recovered = sync_incidents(
            store, [*current, *raised(store)], (messenger(settings), pager(settings)), now
        )
        record(store, "alerts", now)
        return dg.SkipReason(f"{opened} incident(s) opened, {revised} revised, {recovered} recovered")

    return alert


def _checks(
    instance: dg.DagsterInstance, gathered: Observations, expected: ExpectedChecks
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
