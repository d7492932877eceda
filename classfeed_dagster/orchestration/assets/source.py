"""Assets of bigsite: its tables as external assets, and its schema, which is recorded daily."""

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence

import dagster as dg

from classfeed_dagster import trading_days
from classfeed_dagster.alerting.schema_alerts import sync_schema_incidents
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import GROUP_SOURCE, SCHEMA_ASSET, runbook, source_key
from classfeed_dagster.orchestration.assets.landing import decimal_unit, personal_tag
from classfeed_dagster.orchestration.column_metadata import AssetColumn, table_metadata
from classfeed_dagster.orchestration.step_context import since
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.source_contract.contract import Contract, load_contract
from classfeed_dagster.source_contract.drift import DriftKind, Exports, SchemaDifference, Severity
from classfeed_dagster.source_contract.schema import SchemaColumn
from classfeed_dagster.source_contract.schema_check import SchemaVerdict, check_schema, plain_markdown
from classfeed_dagster.source_contract.schema_history import (
    NoSchemaKeptError,
    changes_between,
    changes_to_markdown,
    keep_schema,
    schema_on,
)
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.wording import counted

_LOOK_BACK = dt.timedelta(days=7)  # older ledger rows were compared on an earlier day


def source_assets() -> list[dg.AssetSpec]:
    """Return bigsite's tables as external assets, the source of every number."""
    contract = load_contract()
    return [
        dg.AssetSpec(
            source_key(table.name),
            description=f"{contract.tables[table.name]}\n\nA table of bigsite, the broker's PostgreSQL and system of "
            "record. Owned by another team: read once per business date in one read-only transaction, and again by "
            "reconciliation. *Problems:* it changes without notice; the schema is compared with the contract daily.",
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
    """Return the daily record of bigsite's schema, with the checks of its structure and its values."""

    @dg.asset(
        key=SCHEMA_ASSET,
        group_name=GROUP_SOURCE,
        description="bigsite's observed schema: tables, columns, types, keys, indexes and column vocabularies. Every "
        "day is stored, so that any two can be compared: classfeed schema diff --since D --until E.",
        check_specs=[
            dg.AssetCheckSpec(
                "schema_drift",
                asset=SCHEMA_ASSET,
                blocking=True,
                description="bigsite's tables and columns agree with its contract where a feed reads them. If it fails "
                "with an error: nothing is extracted; the message names each column and the document elements made "
                "from it. Ask bigsite's team whether the change is intended. If not, they restore it and the waiting "
                "dates run. If so, adopt it in the contract (docs/schema-drift.md). Never lower a severity for a "
                "morning. With a warning: extraction continues. Ask which values to expect. "
                f"{runbook('schema_drift')}",
            ),
            dg.AssetCheckSpec(
                "schema_values",
                asset=SCHEMA_ASSET,
                description="Coded columns (types, statuses, exchanges) have values of the contract only. If it fails: "
                "portfolios with an unknown value are held back. Ask bigsite's team for its meaning, extend mapping "
                "and contract, and deploy; the portfolios are then delivered. "
                f"{runbook('schema_values')}",
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
        structure, values = _by_check(verdict)
        get_logger().info("schema checked", run_id=context.run.run_id, differences=len(verdict.differences))
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(key.rpartition("/")[2].removesuffix(".json")),
            metadata={
                "verdict": dg.MetadataValue.md(verdict.to_markdown()),
                "changes_since_last_check": dg.MetadataValue.md(since_last),
                "contract": verdict.contract_version,
                "tables": len(verdict.schema.tables),
                "columns": sum(len(table.columns) for table in verdict.schema.tables.values()),
                **{f"differences_{level.name.lower()}": _count(verdict.differences, level) for level in Severity},
                "dagster/uri": runtime.store.location(key),
                "seconds": since(started),
            },
            check_results=[
                _result("schema_drift", structure, "bigsite's schema matches the contract where a feed reads it"),
                _result("schema_values", values, "every coded value is in the contract"),
            ],
        )

    return schema


def _by_check(verdict: SchemaVerdict) -> tuple[list[SchemaDifference], list[SchemaDifference]]:
    values = [each for each in verdict.differences if each.kind is DriftKind.VALUE_IN_DATA]
    return [each for each in verdict.differences if each not in values], values


def _result(check: str, differences: list[SchemaDifference], passed_text: str) -> dg.AssetCheckResult:
    blocking, warnings = _count(differences, Severity.BLOCKING), _count(differences, Severity.WARNING)
    listed = "\n".join(f"- **{each.severity.name}** {plain_markdown(each.message)}" for each in differences)
    return dg.AssetCheckResult(
        check_name=check,
        asset_key=SCHEMA_ASSET,
        passed=not (blocking or warnings),
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        description=f"{blocking} blocking, {counted(warnings, 'warning')}" if blocking or warnings else passed_text,
        metadata={
            "blocking": blocking,
            "warnings": warnings,
            "notes": _count(differences, Severity.NOTE),
            **({"differences": dg.MetadataValue.md(listed)} if differences else {}),
        },
    )


def _since_last(store: ObjectStore, today: dt.date, verdict: SchemaVerdict) -> str:
    try:
        day, before = schema_on(store, today)
    except NoSchemaKeptError:
        return "This is the first check."
    return changes_to_markdown(f"Since {day.isoformat()}", changes_between(before, verdict.schema))


def _count(differences: Sequence[SchemaDifference], severity: Severity) -> int:
    return sum(each.severity is severity for each in differences)
