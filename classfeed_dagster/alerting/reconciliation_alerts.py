"""What reconciliation found of the watched dates, told: breaks, and deliveries that nobody has proven yet."""

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
from classfeed_dagster.repair.facts import Gathered, Observed
from classfeed_dagster.runtime import NotBuiltError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.warehouse.records import Severity, Side

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime

PROVEN_WITHIN = dt.timedelta(hours=6)


def proof_incidents(runtime: Runtime, gathered: Gathered) -> list[Incident]:
    """Breaks of the watched dates, and dates without proof hours after their delivery; at most one each a feed."""
    broken: dict[str, list[tuple[Observed, Side, ReconciliationSummary]]] = defaultdict(list)
    unproven: dict[str, list[Observed]] = defaultdict(list)
    for one in gathered.dates:
        if not one.deliveries:
            continue
        latest = one.deliveries[-1]
        found = {side: _assured(runtime, one, side) for side in Side}
        broken[one.feed.name] += [(one, side, said) for side, said in found.items() if said is not None and said.errors]
        source = found[Side.SOURCE]
        proven = source is not None and not source.stopped and source.revision >= latest.revision
        if not proven and gathered.at - latest.delivered_at > PROVEN_WITHIN:
            unproven[one.feed.name].append(one)
    return [
        *(_breaks(runtime.store, feed, members) for feed, members in broken.items() if members),
        *(_unproven(feed, members) for feed, members in unproven.items()),
    ]


def _assured(runtime: Runtime, one: Observed, side: Side) -> ReconciliationSummary | None:
    try:
        return runtime.load_reference(
            f"{one.feed.name}/{side.value}_reconciliation", one.due.business_date, ReconciliationSummary
        )
    except NotBuiltError:
        return None


def _breaks(store: ObjectStore, feed: str, members: list[tuple[Observed, Side, ReconciliationSummary]]) -> Incident:
    one, _, latest = members[-1]
    numbers = sorted({number for _, _, said in members for number in _portfolios(store, said.report)})
    incident = reconciliation_breaks(
        feed,
        one.due.business_date,
        sum(said.errors for _, _, said in members),
        numbers[:OFFENDERS_SHOWN],
        doing="The warehouse is not loaded with what is in doubt. Repair reads bigsite again, once for "
        f"the same breaks. A re-issue is reconciled by itself. The report: {store.location(latest.report)}",
    )
    means = incident.means
    if all(side is Side.DATA_TEAM for _, side, _ in members):
        means = "What was delivered agrees with bigsite; the data team's figures of it do not."
    return incident.model_copy(update={"means": means, "dates": _dates(one for one, _, _ in members)})


def _portfolios(store: ObjectStore, report: str) -> set[str]:
    # The breaks lie beside their report.
    key = f"{report.rpartition('/')[0]}/breaks.parquet"
    try:
        breaks = pl.read_parquet(io.BytesIO(store.read(key)), columns=["severity", "portfolio_number"])
    except ObjectNotFoundError:
        return set()
    errors = breaks.filter(pl.col("severity") == Severity.ERROR.value)
    return set(errors["portfolio_number"].drop_nulls().to_list())


def _unproven(feed: str, members: list[Observed]) -> Incident:
    hours = int(PROVEN_WITHIN.total_seconds() // 3600)
    return Incident(
        key=f"unproven.{feed}",
        what=f"{feed} was delivered and not proven against bigsite within {hours} hours",
        means="Customers' data went, past every check before delivery; nobody has compared it with bigsite since.",
        feeds=(feed,),
        dates=_dates(members),
        counts={"dates": len(members)},
        doing="Reconciliation is tried again while its cause can pass; if that can't, its failed run says why.",
        runbook="unproven",
    )


def _dates(members: Iterable[Observed]) -> tuple[dt.date, ...]:
    return tuple(sorted({one.due.business_date for one in members}))
