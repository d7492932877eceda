"""bigsite's tables as external assets, and its schema as an asset that is recorded daily."""

import datetime as dt
import time
from collections.abc import Callable, Iterator

import dagster as dg

from classfeed_dagster import trading_days
from classfeed_dagster.alerting.schema_alerts import sync_schema_incidents
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import (
    GROUP_SOURCE,
    SCHEMA_ASSET,
    runbook,
    source_key,
)
from classfeed_dagster.orchestration.assets.landing import decimal_unit, personal_tag
from classfeed_dagster.orchestration.column_metadata import AssetColumn, table_metadata
from classfeed_dagster.orchestration.step_context import since
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.source_contract.contract import Contract, load_contract
from classfeed_dagster.source_contract.drift import DriftKind, Exports, SchemaDifference, Severity
from classfeed_dagster.source_contract.schema import SchemaColumn
from classfeed_dagster.source_contract.schema_check import SchemaVerdict, check_schema
from classfeed_dagster.source_contract.schema_history import (
    NoSchemaKeptError,
    changes_between,
    changes_to_markdown,
    keep_schema,
    schema_on,
)
from classfeed_dagster.store import ObjectStore

_LOOK_BACK = dt.timedelta(days=7)  # older ledger rows were compared on an earlier day


def source_assets() -> list[dg.AssetSpec]:
    """bigsite's tables: not ours to materialize, but where every number comes from."""
    contract = load_contract()
    return [
        dg.AssetSpec(
            source_key(table.name),
            description=f"**bigsite's table `{table.name}`**, in the broker's PostgreSQL, the system of record. "
            "Another team's: read once per business date in one read-only transaction, and asked again by "
            "reconciliation. "
            "*What can go wrong:* it changes without notice; the schema is compared with the contract every day.",
            group_name=GROUP_SOURCE,
            metadata=table_metadata([_source_column(contract, table.name, column) for column in table.columns]),
        )
        for table in contract.schema.tables.values()
    ]


def _source_column(contract: Contract, table: str, column: SchemaColumn) -> AssetColumn:
    name = f"{table}.{column.name}"
    unit = decimal_unit(column.type)
    meaning, personal = contract.meanings[name], personal_tag(contract, (name,))
    return AssetColumn(column.name, column.type, meaning, column.nullable, unit, personal)


def schema_asset(exports: Callable[[], Exports]) -> dg.AssetsDefinition:
    """What bigsite's schema is today, kept; with the checks of its shape and of its values."""

    @dg.asset(
        key=SCHEMA_ASSET,
        group_name=GROUP_SOURCE,
        description="bigsite's schema as it was seen: tables, columns, types, keys, indexes and what columns may hold. "
        "Every day is kept, so any two can be compared: classfeed schema diff --since D --until E.",
        check_specs=[
            dg.AssetCheckSpec(
                "schema_drift",
                asset=SCHEMA_ASSET,
                blocking=True,
                description="bigsite's tables and columns agree with its contract where a feed reads them. If it fails "
                "with an error: nothing is extracted; the message names each column and the document elements made "
                "from it. Ask bigsite's team whether the change is intended. If not, they restore it and the waiting "
                "dates run. If so, change the contract, `bigsite/tables.py` and the SQL together. Never lower a "
                "severity to get a morning through. With a warning: extraction continues; ask what will come. "
                f"Runbook: {runbook('schema_drift')}",
            ),
            dg.AssetCheckSpec(
                "schema_values",
                asset=SCHEMA_ASSET,
                description="Coded columns (types, statuses, exchanges) have values of the contract only. If it fails: "
                "portfolios with an unknown value are held back. Ask bigsite's team for its meaning, extend mapping "
                "and contract, and deploy; the portfolios are then delivered. "
                f"Runbook: {runbook('schema_values')}",
            ),
        ],
    )
    def schema(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        now = utc_now(runtime.clock(context.run.tags))
        today = now.astimezone(trading_days.SYDNEY).date()
        verdict = check_schema(runtime.engine, exports(), since=now - _LOOK_BACK)
        since_last = _since_last(runtime.store, today, verdict)
        key = keep_schema(runtime.store, today, verdict.schema)
        sync_schema_incidents(runtime.store, verdict, context.run.run_id)
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


def _parts(verdict: SchemaVerdict) -> tuple[list[SchemaDifference], list[SchemaDifference]]:
    values = [found for found in verdict.differences if found.kind is DriftKind.VALUE_IN_DATA]
    return [found for found in verdict.differences if found not in values], values


def _result(check: str, found: list[SchemaDifference], fine: str) -> dg.AssetCheckResult:
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


def _count(found: list[SchemaDifference] | tuple[SchemaDifference, ...], severity: Severity) -> int:
    return sum(one.severity is severity for one in found)


def _plain(text: str) -> str:
    return text.replace("_", "\\_").replace("<", "&lt;").replace("*", "\\*")
