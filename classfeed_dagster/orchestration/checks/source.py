"""bigsite's schema in Dagster: an asset that keeps what was seen each day, and the checks of it against the contract.

The same comparison stands before every reading of bigsite (see the landing); this is for people, and for the morning.
"""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import datetime as dt
import time
from collections.abc import Callable, Iterator

import dagster as dg

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.column_metadata import (
    GROUP_SOURCE,
    LANDING,
    TEAM,
    landing_key,
    markdown_table,
    runbook,
    since,
    step,
)
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.source_contract.drift import Difference, DriftKind, Exports, Severity
from classfeed_dagster.source_contract.schema_check import SchemaVerdict, check_schema
from classfeed_dagster.source_contract.schema_history import (
    NoSchemaKeptError,
    changes_between,
    changes_to_markdown,
    keep_schema,
    schema_on,
)
from classfeed_dagster.source_contract.value_drift import DATES, value_drift
from classfeed_dagster.source_contract.value_statistics import keep_statistics, statistics_before
from classfeed_dagster.store import ObjectStore

SCHEMA_ASSET = dg.AssetKey(["bigsite", "schema"])
SCHEMA_JOB = "schema_job"
VALUES_ASSET, VALUES_CHECK = "portfolio", "values_as_usual"
_LOOKED_AT = dt.timedelta(days=7)  # of a ledger, rows this old have been looked at before
Tell = Callable[[ObjectStore, SchemaVerdict, str], None]
"""Who hears of a verdict: is given the store, the verdict and the run's id."""


def schema_definitions(exports: Callable[[], Exports], tell: Tell, *, running: bool) -> dg.Definitions:
    """The asset with its checks, its job, and its schedule, which is on by default if ``running``."""
    job = dg.define_asset_job(
        SCHEMA_JOB,
        selection=dg.AssetSelection.assets(SCHEMA_ASSET),
        description="Looks at bigsite's schema, compares it with the contract, and keeps it in the history.",
        executor_def=dg.in_process_executor,
    )
    schedule = dg.ScheduleDefinition(
        name="schema_morning",
        job=job,
        cron_schedule="30 5 * * *",
        execution_timezone=trading_days.SYDNEY.key,
        description="Every day at 05:30 Sydney, before the feeds: has bigsite's schema changed?",
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
    )
    return dg.Definitions(assets=[schema_asset(exports, tell)], jobs=[job], schedules=[schedule])


def schema_asset(exports: Callable[[], Exports], tell: Tell) -> dg.AssetsDefinition:
    """What bigsite's schema is today, kept; with the checks of its shape and of its values."""

    @dg.asset(
        key=SCHEMA_ASSET,
        group_name=GROUP_SOURCE,
        kinds={"postgres", "json"},
        owners=[TEAM],
        description="bigsite's schema as it was seen: tables, columns, types, keys, indexes and what columns may hold. "
        "Every day is kept, so any two can be compared: classfeed schema diff --since D --until E.",
        check_specs=[
            dg.AssetCheckSpec(
                "schema_drift",
                asset=SCHEMA_ASSET,
                blocking=True,
                description="bigsite's tables and columns are as its contract says, where a feed reads them. If it "
                "fails with an error: nothing is extracted until schema and contract agree; the exports concerned are "
                f"named. With a warning: extraction goes on; look soon. Runbook: {runbook('schema_drift')}",
            ),
            dg.AssetCheckSpec(
                "schema_values",
                asset=SCHEMA_ASSET,
                description="Coded columns (types, statuses, exchanges) hold values of the contract alone. If it "
                "fails: each portfolio with such a row is held back, the others go. Ask bigsite's team what the value "
                f"means, map it, and extend the contract. Runbook: {runbook('schema_values')}",
            ),
        ],
    )
    def schema(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        now = runtime.clock(context.run.tags) or dt.datetime.now(dt.UTC)
        today = now.astimezone(trading_days.SYDNEY).date()
        verdict = check_schema(runtime.engine, exports(), since=now - _LOOKED_AT)
        since_last = _since_last(runtime.store, today, verdict)
        key = keep_schema(runtime.store, today, verdict.schema)
        tell(runtime.store, verdict, context.run.run_id)
        shape, values = _parts(verdict)
        get_logger().info("schema seen", run_id=context.run.run_id, differences=len(verdict.differences))
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(key.rpartition("/")[2].removesuffix(".json")),
            metadata={
                "verdict": dg.MetadataValue.md(verdict.to_markdown()),
                "since_last_time": dg.MetadataValue.md(since_last),
                "contract": verdict.contract_version,
                "tables": len(verdict.schema.tables),
                "columns": sum(len(table.columns) for table in verdict.schema.tables.values()),
                **{f"differences_{one.name.lower()}": _count(verdict.differences, one) for one in Severity},
                "dagster/uri": runtime.store.location(key),
                "seconds": since(started),
            },
            check_results=[
                _result("schema_drift", shape, "bigsite's schema is as agreed where a feed reads it"),
                _result("schema_values", values, "no value that the contract doesn't know"),
            ],
        )

    return schema


def values_check(exports: Callable[[], Exports]) -> dg.AssetChecksDefinition:
    """Whether a date's landed values look as those of the dates before did. Works on the landed files alone."""
    asset = landing_key(VALUES_ASSET)

    @dg.asset_check(
        asset=asset,
        name=VALUES_CHECK,
        description="The landed columns look as on the last business dates: null rate, length, range, number of "
        "different values, codes. It stops nothing: a jump says where to look, and what in the documents is made of "
        f"it. Runbook: {runbook(VALUES_CHECK)}",
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


def _parts(verdict: SchemaVerdict) -> tuple[list[Difference], list[Difference]]:
    values = [found for found in verdict.differences if found.kind is DriftKind.VALUE_IN_DATA]
    return [found for found in verdict.differences if found not in values], values


def _result(check: str, found: list[Difference], fine: str) -> dg.AssetCheckResult:
    blocking, warnings = _count(found, Severity.BLOCKING), _count(found, Severity.WARNING)
    listed = "\n".join(f"- **{one.severity.name}** {_plain(one.message)}" for one in found)
    return dg.AssetCheckResult(
        check_name=check,
        asset_key=SCHEMA_ASSET,
        passed=not (blocking or warnings),
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        description=f"{blocking} blocking, {warnings} to look at" if blocking or warnings else fine,
        metadata={
            "blocking": blocking,
            "warnings": warnings,
            "notes": _count(found, Severity.NOTE),
            **({"differences": dg.MetadataValue.md(listed)} if found else {}),
        },
    )


def _since_last(store: ObjectStore, today: dt.date, verdict: SchemaVerdict) -> str:
    try:
        day, before = schema_on(store, today)
    except NoSchemaKeptError:
        return "Seen for the first time."
    return changes_to_markdown(f"Since {day.isoformat()}", changes_between(before, verdict.schema))


def _count(found: list[Difference] | tuple[Difference, ...], severity: Severity) -> int:
    return sum(one.severity is severity for one in found)


def _plain(text: str) -> str:
    return text.replace("_", "\\_").replace("<", "&lt;").replace("*", "\\*")
