"""Incidents of reconciliation: breaks, and deliveries that are not reconciled in time."""

from __future__ import annotations

import datetime as dt
import io
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from classfeed_dagster.alerting.alerts import reconciliation_breaks
from classfeed_dagster.alerting.incidents import OFFENDERS_SHOWN, Incident
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.repair.observations import Observations, ObservedDate
from classfeed_dagster.runtime import NotBuiltError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.warehouse.records import BreakSeverity, Side

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime

PROVEN_WITHIN = dt.timedelta(hours=6)


def proof_incidents(runtime: Runtime, observations: Observations) -> list[Incident]:
    """Return each feed's incidents of breaks and of dates not reconciled hours after their delivery."""
    differing: dict[str, list[tuple[ObservedDate, Side, ReconciliationSummary]]] = defaultdict(list)
    unproven: dict[str, list[ObservedDate]] = defaultdict(list)
    for date in observations.dates:
        if not date.deliveries:
            continue
        latest = date.deliveries[-1]
        summaries = {side: _assured(runtime, date, side) for side in Side}
        differing[date.feed.name] += [
            (date, side, summary) for side, summary in summaries.items() if summary is not None and summary.errors
        ]
        source = summaries[Side.SOURCE]
        proven = source is not None and not source.stopped and source.revision >= latest.revision
        if not proven and observations.at - latest.delivered_at > PROVEN_WITHIN:
            unproven[date.feed.name].append(date)
    return [
        *(_breaks(runtime.store, feed, members) for feed, members in differing.items() if members),
        *(_unproven(feed, members) for feed, members in unproven.items()),
    ]


def _assured(runtime: Runtime, date: ObservedDate, side: Side) -> ReconciliationSummary | None:
    try:
        return runtime.load_reference(side.reference(date.feed.name), date.due.business_date, ReconciliationSummary)
    except NotBuiltError:
        return None


def _breaks(store: ObjectStore, feed: str, members: list[tuple[ObservedDate, Side, ReconciliationSummary]]) -> Incident:
    date, _, latest = members[-1]
    numbers = sorted({number for _, _, summary in members for number in _portfolios(store, summary.report)})
    incident = reconciliation_breaks(
        feed,
        date.due.business_date,
        sum(summary.errors for _, _, summary in members),
        numbers[:OFFENDERS_SHOWN],
        doing="The warehouse is not loaded with these dates. Repair reads bigsite again, once for the same breaks. A "
        f"re-issue is reconciled automatically. Report: {store.location(latest.report)}",
    )
    means = incident.means
    if all(side is Side.DATA_TEAM for _, side, _ in members):
        means = "The delivered data agrees with bigsite; the data team's figures differ."
    return incident.model_copy(update={"means": means, "dates": _dates(date for date, _, _ in members)})


def _portfolios(store: ObjectStore, report: str) -> set[str]:
    # The breaks are stored in the report's folder.
    key = f"{report.rpartition('/')[0]}/breaks.parquet"
    try:
        breaks = pl.read_parquet(io.BytesIO(store.read(key)), columns=["severity", "portfolio_number"])
    except ObjectNotFoundError:
        return set()
    errors = breaks.filter(pl.col("severity") == BreakSeverity.ERROR.value)
    return set(errors["portfolio_number"].drop_nulls().to_list())


def _unproven(feed: str, members: list[ObservedDate]) -> Incident:
    hours = int(PROVEN_WITHIN.total_seconds() // 3600)
    return Incident(
        key=f"unproven.{feed}",
        what=f"{feed} was delivered but not reconciled with bigsite within {hours} hours",
        means="The data passed every check before delivery, but has not been compared with bigsite since.",
        feeds=(feed,),
        dates=_dates(members),
        counts={"dates": len(members)},
        doing="Reconciliation is retried while its cause can pass. Otherwise its failed run states the reason.",
        runbook="unproven",
    )


def _dates(members: Iterable[ObservedDate]) -> tuple[dt.date, ...]:
    return tuple(sorted({date.due.business_date for date in members}))
