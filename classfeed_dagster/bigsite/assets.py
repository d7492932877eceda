"""bigsite in Dagster: its tables as external assets, and the landing, one asset a landed table."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import re
from collections.abc import Callable, Iterator, Sequence

import dagster as dg
import pyarrow as pa

from classfeed_dagster.bigsite import queries, tables
from classfeed_dagster.bigsite.drift import Exports
from classfeed_dagster.bigsite.schema_check import require_schema
from classfeed_dagster.bigsite.snapshot import Snapshot, snapshot_for
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.seam import (
    GROUP_LANDING,
    GROUP_SOURCE,
    LANDING,
    SOURCE_TEAM,
    TEAM,
    idle_observation,
    landing_key,
    source_key,
    step,
)

_SOURCE_TABLE = re.compile(rf"\b{tables.SCHEMA}\.(\w+)")
_DERIVED = {
    queries.REPEATED_CONFIRMATION.table: "contract notes whose confirmation stands more than once",
    queries.OPENING_UNITS.table: "units that stood before the shared history, summed by bigsite",
    queries.OPENING_CASH.table: "cash that stood before the shared history, summed by bigsite",
}


class LandingConfig(dg.Config):
    """What a person may choose when materializing the landing."""

    fresh_snapshot: bool = False
    """Read bigsite again even if the date has a snapshot; what changed since is then re-issued, and only that."""


def source_assets() -> list[dg.AssetSpec]:
    """bigsite's tables: not ours to materialize, but where every number comes from."""
    return [
        dg.AssetSpec(
            source_key(table.name),
            description=table.comment or f"bigsite's table {table.name}.",
            group_name=GROUP_SOURCE,
            kinds={"postgres"},
            owners=[SOURCE_TEAM],
            metadata={
                "dagster/column_schema": dg.TableSchema(
                    columns=[
                        dg.TableColumn(
                            name=column.name,
                            type=str(column.type),
                            description=column.comment,
                            constraints=dg.TableColumnConstraints(nullable=bool(column.nullable)),
                        )
                        for column in table.columns
                    ]
                )
            },
        )
        for table in tables.metadata.sorted_tables
    ]


def landing_assets(
    audiences: Sequence[Audience], partitions: dg.PartitionsDefinition[str], exports: Callable[[], Exports]
) -> dg.AssetsDefinition:
    """One step that reads bigsite once for all ``audiences`` due on the date and lands every table.

    It reads nothing while bigsite's schema breaks its contract; ``exports`` says what a broken column feeds.
    """
    landed: dict[str, tuple[pa.Schema, frozenset[str]]] = {
        query.table: (query.schema, frozenset(_SOURCE_TABLE.findall(query.sql)))
        for query in (*queries.SLICED, *queries.REFERENCES)
    }
    landed[queries.CONSENT_TABLE] = (queries.CONSENTS, frozenset({"data_sharing_consent", "portfolio"}))

    @dg.multi_asset(
        name=LANDING,
        specs=[
            dg.AssetSpec(
                landing_key(table),
                deps=[source_key(source) for source in sorted(sources)],
                description=f"bigsite's {_DERIVED.get(table, f'`{table}`')}, of the consented portfolios only, as read "
                "in the date's one transaction. Immutable Parquet, exact decimals. If bigsite's end of day is not "
                "there yet, nothing is landed (source not ready).",
                group_name=GROUP_LANDING,
                kinds={"parquet", "s3"},
                owners=[TEAM],
                metadata={"dagster/column_schema": _arrow_schema(schema)},
                skippable=True,  # on a date on which no feed is due
            )
            for table, (schema, sources) in sorted(landed.items())
        ],
        partitions_def=partitions,
    )
    def landing(
        context: dg.AssetExecutionContext, config: LandingConfig, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        with step(context, LANDING) as day:
            if not any(audience.is_due(day) for audience in audiences):
                idle_observation(context, landing_key("portfolio"), f"no feed is due on {day.isoformat()}")
                return
            settings = runtime.settings
            snapshot = snapshot_for(
                runtime.engine,
                runtime.store,
                day,
                audiences,
                fresh=config.fresh_snapshot,
                snapshot_at=runtime.clock(context.run.tags),
                slice_portfolios=settings.slice_portfolios,
                max_missing_share=settings.max_held_back_share,
                before_reading=lambda: require_schema(runtime.engine, exports()),
            )
            runtime.save_reference(LANDING, day, snapshot)
            rows = sum(table.rows for table in snapshot.tables.values())
            get_logger().info("landed", snapshot_id=snapshot.snapshot_id, rows=rows)
        for table in sorted(landed):
            yield _materialized(runtime, snapshot, table)

    return landing


def _materialized(runtime: Runtime, snapshot: Snapshot, table: str) -> dg.MaterializeResult[None]:
    stored = snapshot.tables[table]
    return dg.MaterializeResult(
        asset_key=landing_key(table),
        data_version=dg.DataVersion(stored.sha256),
        metadata={
            "dagster/row_count": stored.rows,
            "dagster/uri": runtime.store.location(stored.key),
            "bytes": stored.bytes,
            "portfolios": sum(part.portfolios for part in snapshot.slices),
            "snapshot": snapshot.snapshot_id,
            "sha256": stored.sha256,
        },
    )


def _arrow_schema(schema: pa.Schema) -> dg.TableSchema:
    return dg.TableSchema(columns=[dg.TableColumn(name=field.name, type=str(field.type)) for field in schema])
