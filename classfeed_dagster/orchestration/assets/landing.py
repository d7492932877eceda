"""Landing assets, one a landed table."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import dagster as dg

from classfeed_dagster.bigsite import queries, tables
from classfeed_dagster.bigsite.lineage import landed_sources
from classfeed_dagster.bigsite.snapshot import Snapshot, snapshot_for
from classfeed_dagster.feed_run.refreshed_domains import refreshed_schedules
from classfeed_dagster.feed_run.sent_rows import sent_rows
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import (
    GROUP_LANDING,
    LANDING,
    landing_key,
    runbook_value,
    source_key,
)
from classfeed_dagster.orchestration.column_metadata import PERSONAL_DATA, AssetColumn, table_metadata
from classfeed_dagster.orchestration.metadata_values import object_link, previews
from classfeed_dagster.orchestration.step_context import idle_observation, since, step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.source_contract.contract import Contract, load_contract
from classfeed_dagster.source_contract.drift import Exports
from classfeed_dagster.source_contract.schema_check import require_schema

POOL = "bigsite"  # Dagster's pool of the steps that read much of bigsite: its limit applies to all runs and workers
_SOURCE_TABLE = re.compile(rf"\b{tables.SCHEMA}\.(\w+)")
# Unit of a decimal by its precision and scale: the contract has one type for each.
_UNITS = {"(18,2)": "currency", "(38,2)": "currency", "(18,6)": "currency", "(20,6)": "units", "(38,6)": "units"}
_DERIVED = {
    queries.REPEATED_CONFIRMATION.table: "Contract notes with a repeated confirmation number.",
    queries.OPENING_UNITS.table: "Units from before the shared history, summed by bigsite.",
    queries.OPENING_CASH.table: "Cash from before the shared history, summed by bigsite.",
}


class LandingConfig(dg.Config):
    """Options for a materialization of the landing."""

    fresh_snapshot: bool = False
    """Read bigsite again even if the date has a snapshot. Only changes since then are sent again."""


def decimal_unit(sql_type: str) -> str | None:
    """Return the unit of a decimal type of the contract; None for any other type."""
    return next((unit for ending, unit in _UNITS.items() if sql_type.endswith(ending)), None)


def landed_columns(table: str) -> list[AssetColumn]:
    """Return the columns of a landed table with bigsite's as sources; meaning and classification are the contract's."""
    contract, schema = load_contract(), queries.SCHEMAS[table]
    shown: list[AssetColumn] = []
    for name, sources in landed_sources(table).items():
        kind = str(schema.field(name).type)
        carried = sources == (f"{table}.{name}",)
        meaning = contract.meanings[sources[0]] if carried else f"computed by bigsite from {', '.join(sources)}"
        source_columns = tuple((source_key(source.partition(".")[0]), source.partition(".")[2]) for source in sources)
        unit = decimal_unit(kind.replace(" ", ""))
        shown.append(AssetColumn(name, kind, meaning, True, unit, personal_tag(contract, sources), source_columns))
    return shown


def _source_tables(table: str) -> frozenset[str]:
    # More than the query's own tables: consent determines its parameters.
    return frozenset(source.partition(".")[0] for sources in landed_sources(table).values() for source in sources)


def personal_tag(contract: Contract, columns: Iterable[str]) -> str | None:
    """Return the personal-data tag of a column with these sources; None if none is personal."""
    kinds = {contract.classifications[column] for column in columns}
    return "restricted" if "restricted" in kinds else PERSONAL_DATA if "personal" in kinds else None


def landing_assets(
    audiences: Sequence[RecipientSchedule],
    partitions: dg.PartitionsDefinition[str],
    exports: Callable[[], Exports],
    feeds: Sequence[Feed],
) -> dg.AssetsDefinition:
    """Return the step that reads bigsite once for all ``audiences`` due on the date and lands every table.

    It reads nothing while bigsite's schema breaks its contract. ``exports``: the exports of a broken column.
    """
    landed = {
        query.table: frozenset(_SOURCE_TABLE.findall(query.sql)) for query in (*queries.SLICED, *queries.REFERENCES)
    }
    landed[queries.CONSENT_TABLE] = frozenset({"data_sharing_consent", "portfolio"})

    @dg.multi_asset(
        name=LANDING,
        specs=[
            dg.AssetSpec(
                landing_key(table),
                deps=[source_key(source) for source in sorted(sources | _source_tables(table))],
                description=f"{_DERIVED.get(table) or load_contract().tables[table]}\n\nbigsite's rows of the "
                "consented portfolios only, from the date's single transaction. *For* the domains and reconciliation. "
                "Immutable Parquet, exact decimals; row group k contains the k-th slice of portfolios. *Fresh* once "
                "bigsite's end of day is written. *Problems:* it is not written yet; then nothing is landed (source "
                "not ready) and the date is retried.",
                group_name=GROUP_LANDING,
                metadata={
                    **table_metadata(landed_columns(table)),
                    "runbook": runbook_value("source-not-ready"),
                },
                skippable=True,  # on a date without a due feed
            )
            for table, sources in sorted(landed.items())
        ],
        partitions_def=partitions,
        pool=POOL,
    )
    def landing(
        context: dg.AssetExecutionContext, config: LandingConfig, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        with step(context, LANDING) as day:
            if not any(audience.is_due(day) for audience in audiences):
                idle_observation(context, landing_key("portfolio"), f"no feed is due on {day.isoformat()}")
                return
            settings = runtime.settings
            snapshot = snapshot_for(
                runtime.engine,
                runtime.store,
                day,
                [*audiences, *refreshed_schedules(runtime, feeds, day)],
                fresh=config.fresh_snapshot,
                snapshot_at=runtime.clock(context.run.tags),
                slice_portfolios=settings.slice_portfolios,
                shard_portfolios=settings.shard_portfolios,
                sessions=settings.bigsite_sessions,
                max_missing_share=settings.max_held_back_share,
                sent=lambda: sent_rows(runtime.store, feeds, settings.first_business_date, day, settings.late_row_days),
                before_reading=lambda: require_schema(runtime.engine, exports()),
            )
            runtime.save_reference(LANDING, day, snapshot)
            rows = sum(table.rows for table in snapshot.tables.values())
            get_logger().info("landed", snapshot_id=snapshot.snapshot_id, rows=rows, late_rows=snapshot.late_rows)
        seconds = since(started)
        for table in sorted(landed):
            yield _materialized(runtime, snapshot, table, seconds)

    return landing


def _materialized(runtime: Runtime, snapshot: Snapshot, table: str, seconds: float) -> dg.MaterializeResult[None]:
    stored = snapshot.tables[table]
    personal = {column.name for column in landed_columns(table) if column.personal}
    return dg.MaterializeResult(
        asset_key=landing_key(table),
        data_version=dg.DataVersion(stored.sha256),
        metadata={
            "dagster/row_count": stored.rows,
            "dagster/uri": runtime.store.location(stored.key),
            "bytes": stored.bytes,
            "portfolios": sum(part.portfolios for part in snapshot.slices),
            "seconds": seconds,
            "snapshot": snapshot.snapshot_id,
            "descriptor": object_link(runtime.store.location(snapshot.key())),
            "sha256": stored.sha256,
            **previews(runtime, "preview", stored, personal),
        },
    )
