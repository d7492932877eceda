"""Incidents of reconciliation: breaks, deliveries that are not reconciled in time, and runs that failed for good."""

from __future__ import annotations

import datetime as dt
import io
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import polars as pl

from classfeed_dagster.alerting.alerts import reconciliation_breaks
from classfeed_dagster.alerting.incidents import Incident, raise_incident, raised, settle_incident
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.repair.observations import Observations, ObservedDate
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.warehouse.records import BreakSeverity, Side

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime

PROVEN_WITHIN = dt.timedelta(hours=6)


def proof_incidents(runtime: Runtime, observations: Observations) -> list[Incident]:
    """Return each feed's incidents of breaks and of dates not reconciled hours after their delivery.

    The latter include the dates whose reconciliation failed for good, as ``report_failed`` recorded them.
    """
    differing: dict[str, list[tuple[ObservedDate, Side, ReconciliationSummary]]] = defaultdict(list)
    unproven: dict[str, set[dt.date]] = defaultdict(set)
    for date in observations.dates:
        if not date.deliveries:
            continue
        latest = date.deliveries[-1]
        summaries = {side: _summary(runtime, date.feed.name, date.due.business_date, side) for side in Side}
        differing[date.feed.name] += [
            (date, side, summary) for side, summary in summaries.items() if summary is not None and summary.errors
        ]
        source = summaries[Side.SOURCE]
        proven = source is not None and not source.stopped and source.revision >= latest.revision
        if not proven and observations.at - latest.delivered_at > PROVEN_WITHIN:
            unproven[date.feed.name].add(date.due.business_date)
    return [
        *(_breaks(runtime.store, feed, members) for feed, members in differing.items() if members),
        *(_unproven(feed, {*days, *failed_dates(runtime.store, feed)}) for feed, days in unproven.items()),
    ]


def failed_dates(store: ObjectStore, feed: str) -> tuple[dt.date, ...]:
    """Return the dates whose reconciliation failed for good, as recorded last."""
    return next((incident.dates for incident in raised(store) if incident.key == _unproven_key(feed)), ())


def report_failed(runtime: Runtime, feed: str, days: Collection[dt.date], watched: Collection[dt.date]) -> None:
    """Raise the incident of the dates of any age whose reconciliation failed for good; settle it if there are none.

    Breaks of ``watched`` dates have an incident of their own.
    """
    stopped = {day for day in days if day not in watched or not _has_errors(runtime, feed, day)}
    if stopped == {*failed_dates(runtime.store, feed)}:
        return
    if stopped:
        raise_incident(runtime.store, _unproven(feed, stopped))
    else:
        settle_incident(runtime.store, _unproven_key(feed))


def _has_errors(runtime: Runtime, feed: str, day: dt.date) -> bool:
    summaries = (_summary(runtime, feed, day, side) for side in Side)
    return any(summary is not None and summary.errors for summary in summaries)


def _summary(runtime: Runtime, feed: str, day: dt.date, side: Side) -> ReconciliationSummary | None:
    return runtime.find_reference(side.reference(feed), day, ReconciliationSummary)


def _breaks(store: ObjectStore, feed: str, members: list[tuple[ObservedDate, Side, ReconciliationSummary]]) -> Incident:
    date, _, latest = members[-1]
    numbers = sorted({number for _, _, summary in members for number in _portfolios(store, summary.report)})
    incident = reconciliation_breaks(
        feed,
        date.due.business_date,
        sum(summary.errors for _, _, summary in members),
        numbers,
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


def _unproven_key(feed: str) -> str:
    return f"unproven.{feed}"


def _unproven(feed: str, days: Collection[dt.date]) -> Incident:
    hours = int(PROVEN_WITHIN.total_seconds() // 3600)
    return Incident(
        key=_unproven_key(feed),
        what=f"{feed} was delivered but its reconciliation failed, or did not complete within {hours} hours",
        means="The data passed every check before delivery, but is not confirmed by the comparison with bigsite since.",
        feeds=(feed,),
        dates=tuple(sorted(days)),
        counts={"dates": len(days)},
        doing="Reconciliation is retried while its cause can pass. Otherwise its failed run states the reason.",
        runbook="unproven",
    )


def _dates(members: Iterable[ObservedDate]) -> tuple[dt.date, ...]:
    return tuple(sorted({date.due.business_date for date in members}))
