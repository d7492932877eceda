"""Frames for analysts: the landed tables and domain frames behind a delivered date, with exact decimals."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import polars as pl

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS, DOMAINS, Frame
from classfeed_dagster.domains.landed_tables import TABLES
from classfeed_dagster.errors import NotReadyError, UsageError
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.tags import DEFAULT_FEED
from classfeed_dagster.trading_days import require_business_day

if TYPE_CHECKING:
    import pandas as pd

    from classfeed_dagster.bigsite.landing import StoredTable
    from classfeed_dagster.bigsite.snapshot import Snapshot

# The libraries of the data path are imported by the functions that read: an unknown name is refused without them.
_DOMAIN_OF = {
    CONSENTED_PORTFOLIOS.name: (CONSENTED_PORTFOLIOS.name, CONSENTED_PORTFOLIOS),
    **{declared.name: (domain, declared) for domain, frames in DOMAINS.items() for declared in frames},
}


class UnknownAssetError(UsageError):
    """No frame has this name."""


class FrameMissingError(NotReadyError):
    """The frame of the delivered snapshot is not stored."""


@overload
def frame(
    asset: str, date: dt.date | str, *, feed: str = ..., library: Literal["polars"] = ..., runtime: Runtime | None = ...
) -> pl.DataFrame: ...


@overload
def frame(
    asset: str, date: dt.date | str, *, feed: str = ..., library: Literal["pandas"], runtime: Runtime | None = ...
) -> pd.DataFrame: ...


def frame(
    asset: str,
    date: dt.date | str,
    *,
    feed: str = DEFAULT_FEED,
    library: Literal["polars", "pandas"] = "polars",
    runtime: Runtime | None = None,
) -> pl.DataFrame | pd.DataFrame:
    """Return the frame ``asset`` of a delivered business date, as the snapshot of its latest delivery has it.

    Decimals are exact: ``pl.Decimal`` columns in Polars, ``decimal128`` Arrow-backed columns in pandas.

    Args:
        asset: ``landing/<table>`` (such as ``landing/trade``), a domain frame such as ``investment_holdings``, or the
            key of a domain's asset.
        date: the business date.
        feed: name of the feed that delivered it.
        library: ``polars`` or ``pandas``.
        runtime: where the object store is; default: this process's settings.

    Raises:
        UnknownAssetError: no frame has this name; the message lists them.
        FrameMissingError: nothing was delivered, or the domain was built again from a newer snapshot since.
    """
    day = dt.date.fromisoformat(date) if isinstance(date, str) else date
    table = _load(asset, day, _feed(feed), runtime or Runtime())[0]
    if library == "polars":
        return table
    import pandas as pd

    return table.to_arrow().to_pandas(types_mapper=pd.ArrowDtype)


def assets() -> tuple[str, ...]:
    """Return the names that ``frame`` accepts."""
    landed = {table for tables in TABLES.values() for table in tables}
    return (*sorted(f"landing/{table}" for table in landed), *_DOMAIN_OF)


def write_parquet(asset: str, day: dt.date, path: Path, *, feed: str = DEFAULT_FEED, runtime: Runtime) -> int:
    """Write the frame to a Parquet file with metadata; the number of rows.

    The file states feed, asset, business date and snapshot; each column states its description, its unit if it has
    one, and whether it is personal data.
    """
    import pyarrow.parquet as pq

    asset = _frame_name(asset)
    table, snapshot, declared = _load(asset, day, _feed(feed), runtime)
    arrow = table.to_arrow()
    described = _described(declared) if declared else _described_landing(asset.partition("/")[2])
    schema = arrow.schema
    for at, field in enumerate(schema):
        column = described.get(field.name)
        if column is not None:
            stated: dict[bytes | str, bytes | str] = {
                "description": column.description,
                "personal": str(column.personal).lower(),
                **({"unit": column.unit} if column.unit else {}),
            }
            schema = schema.set(at, field.with_metadata(stated))
    facts = {
        "classfeed.feed": feed,
        "classfeed.asset": asset,
        "classfeed.business_date": day.isoformat(),
        "classfeed.snapshot_id": snapshot.snapshot_id,
        "classfeed.snapshot_at": snapshot.snapshot_at.isoformat(),
        "classfeed.personal_columns": json.dumps([name for name, column in described.items() if column.personal]),
    }
    pq.write_table(arrow.cast(schema.with_metadata(facts)), path)
    return table.height


@dataclass(frozen=True, slots=True)
class _Described:
    description: str
    personal: bool
    unit: str | None = None


def _described(frame: Frame) -> dict[str, _Described]:
    return {column.name: _Described(column.description, column.personal, column.unit) for column in frame.columns}


def _described_landing(table: str) -> dict[str, _Described]:
    from classfeed_dagster.bigsite.lineage import landed_sources
    from classfeed_dagster.source_contract.contract import load_contract

    # A landed column has the meaning of its source in bigsite's contract, and is personal if any source is.
    contract = load_contract()
    return {
        name: _Described(
            contract.meanings[sources[0]] if len(sources) == 1 else f"derived from {', '.join(sources)}",
            any(contract.classifications[source] in ("personal", "restricted") for source in sources),
        )
        for name, sources in landed_sources(table).items()
    }


def _feed(name: str) -> Feed:
    for feed in FEEDS:
        if feed.name == name:
            return feed
    raise UsageError(f"there is no feed {name!r}; the feeds are {', '.join(sorted(feed.name for feed in FEEDS))}")


def _frame_name(asset: str) -> str:
    # A domain is also named by its asset's key, as the UI shows it: class/investment_holdings.
    if asset in assets():
        return asset
    domain = asset.rpartition("/")[2]
    frames = [name for name, (of, _) in _DOMAIN_OF.items() if domain == of]
    if len(frames) == 1:
        return frames[0]
    if frames:
        raise UnknownAssetError(f"{asset} has several frames: choose {' or '.join(frames)}")
    raise UnknownAssetError(f"there is no frame {asset!r}; the frames are {', '.join(assets())}")


def _load(asset: str, day: dt.date, feed: Feed, runtime: Runtime) -> tuple[pl.DataFrame, Snapshot, Frame | None]:
    asset = _frame_name(asset)
    require_business_day(day)
    from classfeed_dagster.bigsite.snapshot import read_snapshot
    from classfeed_dagster.domains.build import DomainReference

    store = runtime.store
    latest = delivered_state(live_and_shadow(store, feed.name), feed.name, day).deliveries
    if not latest:
        raise FrameMissingError(f"{feed.name} has no delivery for {day.isoformat()}: deliver it first")
    taken = latest[-1].snapshot
    snapshot = read_snapshot(store, taken.descriptor_key, taken.descriptor_sha256)
    if asset not in _DOMAIN_OF:
        table = snapshot.tables.get(asset.partition("/")[2])
        if table is None:
            raise FrameMissingError(f"the snapshot of {feed.name} {day.isoformat()} does not hold {asset}")
        return _read(runtime, table, None), snapshot, None
    domain, declared = _DOMAIN_OF[asset]
    audience = feed.audience(runtime.settings.first_business_date)
    reference = runtime.load_reference(audience.reference(domain), day, DomainReference)
    if reference.snapshot_id != snapshot.snapshot_id:
        raise FrameMissingError(
            f"{asset} of {day.isoformat()} was built again from a newer snapshot than the delivered one: read the "
            f"landing tables, or run {feed.name} for that date again"
        )
    return _read(runtime, reference.frames[asset], declared), snapshot, declared


def _read(runtime: Runtime, table: StoredTable, declared: Frame | None) -> pl.DataFrame:
    import pyarrow.parquet as pq

    from classfeed_dagster.bigsite.landing import verified_file

    parts = []
    for stored in table.files:
        with verified_file(runtime.store, stored) as path:
            parts.append(pl.DataFrame(pl.from_arrow(pq.read_table(path))))
    frame = pl.concat(parts)
    return frame if declared is None else declared.conform(frame)
