"""Check of the landed values against those of recent dates."""

from collections.abc import Callable

import dagster as dg

from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.orchestration.asset_keys import (
    LANDING,
    landing_key,
    runbook,
)
from classfeed_dagster.orchestration.metadata_values import markdown_table
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.source_contract.drift import Exports
from classfeed_dagster.source_contract.value_drift import DATES, value_drift
from classfeed_dagster.source_contract.value_statistics import keep_statistics, statistics_before

VALUES_ASSET, VALUES_CHECK = "portfolio", "values_as_usual"


def values_check(exports: Callable[[], Exports]) -> dg.AssetChecksDefinition:
    """Whether a date's landed values look as those of the dates before did. Works on the landed files alone."""
    asset = landing_key(VALUES_ASSET)

    @dg.asset_check(
        asset=asset,
        name=VALUES_CHECK,
        description="Null rate, length, range, number of different values and codes of the landed columns are as on "
        "the last ten business dates. If it fails: nothing is held back. The table names the column, both values and "
        "the document elements made from it. Ask bigsite's team what changed. A correct change becomes usual within "
        "ten dates. Have a wrong one corrected, and run the date with a fresh snapshot. "
        f"Runbook: {runbook(VALUES_CHECK)}",
    )
    def values(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, VALUES_CHECK) as day:
            snapshot = runtime.load_reference(LANDING, day, Snapshot)
            today = keep_statistics(runtime.store, snapshot)
            before = statistics_before(runtime.store, day, DATES)
            found = value_drift(today, before, exports())
        jumps = [one for one in found if not one.expected]
        rows = [
            (one.column, one.jump, one.was, one.now, ", ".join(dict.fromkeys(map(str, one.affected)))) for one in jumps
        ]
        table = markdown_table(["column", "what jumped", "was", "is", "goes into"], rows)
        return dg.AssetCheckResult(
            check_name=VALUES_CHECK,
            asset_key=asset,
            passed=not jumps,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{day.isoformat()}: {len(jumps)} jump(s)" if jumps else f"{day.isoformat()}: as usual",
            metadata={
                "business_date": day.isoformat(),
                "jumps": len(jumps),
                "columns": len(today.columns),
                "dates_compared_with": len(before),
                "rare_codes": ", ".join(f"{one.column}: {one.now}" for one in found if one.expected) or "none",
                **({"what_jumped": table} if jumps else {}),
            },
        )

    return values
