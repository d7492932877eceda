"""Checks of the landed values: against recent dates, and of each holder against the others."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import polars as pl

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite.snapshot import Snapshot, open_slices
from classfeed_dagster.domains.holder_events import TABLES, missed_actions, silent_zeros
from classfeed_dagster.orchestration.asset_keys import LANDING, landing_key, runbook
from classfeed_dagster.orchestration.metadata_values import check_result, markdown_table
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.source_contract.drift import Exports
from classfeed_dagster.source_contract.value_drift import DATES, keep_statistics, statistics_before, value_drift
from classfeed_dagster.wording import counted

VALUES_ASSET, VALUES_CHECK = "portfolio", "values_as_usual"
HOLDERS_CHECK = "holders_treated_alike"
_SHOWN = 20


def values_check(exports: Callable[[], Exports], partitions: dg.PartitionsDefinition[str]) -> dg.AssetChecksDefinition:
    """Return the check for value drift. It reads the landed files only."""
    asset = landing_key(VALUES_ASSET)

    @dg.asset_check(
        asset=asset,
        name=VALUES_CHECK,
        partitions_def=partitions,
        description="The values of the landed columns are as on the last ten business dates (null rate, length, "
        "range, number of different values, codes). If it fails: nothing is held back. Ask bigsite's team what "
        "changed. Have a wrong change corrected, and run the date with a fresh snapshot. "
        f"{runbook(VALUES_CHECK)}",
    )
    def values(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, VALUES_CHECK) as day:
            snapshot = runtime.load_reference(LANDING, day, Snapshot)
            today = keep_statistics(runtime.store, snapshot)
            before = statistics_before(runtime.store, day, DATES)
            drifts = value_drift(today, before, exports())
        jumps = [drift for drift in drifts if not drift.expected]
        rows = [
            (drift.column, drift.jump, drift.was, drift.now, ", ".join(dict.fromkeys(map(str, drift.affected))))
            for drift in jumps
        ]
        metadata: dict[str, Any] = {
            "jumps": len(jumps),
            "columns": len(today.columns),
            "dates_compared_with": len(before),
            "rare_codes": ", ".join(f"{drift.column}: {drift.now}" for drift in drifts if drift.expected) or "none",
        }
        if jumps:
            metadata["anomalies"] = markdown_table(["column", "anomaly", "was", "is", "exported to"], rows)
        summary = counted(len(jumps), "jump") if jumps else "as usual"
        return check_result((asset, VALUES_CHECK), day, not jumps, summary, metadata)

    return values


def holders_check(partitions: dg.PartitionsDefinition[str]) -> dg.AssetChecksDefinition:
    """Return the check that income and corporate actions reach every holder of a security alike."""
    asset = landing_key("income")

    @dg.asset_check(
        asset=asset,
        name=HOLDERS_CHECK,
        partitions_def=partitions,
        description="No holder of a security lacks an amount of an income payment, or a corporate action, that the "
        "others have. If it fails: nothing is held back. Ask bigsite's team whether the row is complete. A correction "
        f"is delivered automatically.{runbook(HOLDERS_CHECK)}",
    )
    def holders(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, HOLDERS_CHECK) as day:
            snapshot = runtime.load_reference(LANDING, day, Snapshot)
            start = trading_days.window(day).start
            with open_slices(snapshot, runtime.store, TABLES) as slices:
                income = [part["income"].filter(pl.col("recorded_at") >= start) for part in slices]
                uneven = missed_actions(lambda: slices, start)
            if income:
                uneven = pl.concat([silent_zeros(pl.concat(income)), uneven])
        rows = [
            (row["portfolio_id"], row["security_id"], row["on"].isoformat(), row["subject"], row["detail"])
            for row in uneven.head(_SHOWN).iter_rows(named=True)
        ]
        metadata: dict[str, Any] = {"differences": uneven.height}
        if rows:
            metadata["examples"] = markdown_table(["portfolio_id", "security_id", "date", "row", "difference"], rows)
        summary = f"{counted(uneven.height, 'row')} unlike the other holders'" if rows else "all holders alike"
        return check_result((asset, HOLDERS_CHECK), day, uneven.is_empty(), summary, metadata)

    return holders
