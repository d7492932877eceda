"""The snapshot: everything a business date needs of bigsite, read once, landed as immutable Parquet.

One read-only transaction asks who consents, reads what those portfolios need, and checks on the way that bigsite's
end of day is there. Files are stored first, the descriptor last: without a descriptor there is no snapshot.
"""

from __future__ import annotations

import datetime as dt
import secrets
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import consent, queries
from classfeed_dagster.bigsite.landing import WHOLE, RowGroups, SlicedFiles, StoredTable, write_slices
from classfeed_dagster.bigsite.reading import ReadOnlyTransaction, read_only
from classfeed_dagster.store import ObjectStore

_ALL_HISTORY = "-infinity"


class SnapshotAudience(Protocol):
    """What a snapshot must know of an audience (``domains.audience.Audience`` is one)."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def recipient(self) -> str: ...  # noqa: D102
    def is_due(self, day: dt.date) -> bool: ...  # noqa: D102
    def is_first(self, day: dt.date) -> bool: ...  # noqa: D102
    def window(self, day: dt.date) -> trading_days.Window: ...  # noqa: D102


class SourceNotReadyError(RuntimeError):
    """bigsite's end of day for the business date is absent or incomplete. Nothing was landed; try again later."""

    def __init__(self, business_date: dt.date, reason: str, counts: dict[str, int]) -> None:
        listed = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())
        super().__init__(
            f"bigsite is not ready for {business_date.isoformat()}: {reason}{f' ({listed})' if listed else ''}. "
            "Nothing was landed. Wait for bigsite's end-of-day job, then run this date again."
        )
        self.business_date = business_date
        self.counts = counts


class PortfolioSlice(BaseModel, frozen=True):
    """Contiguous portfolios in order of portfolio number (code point)."""

    portfolios: int
    first: str
    last: str


class Snapshot(BaseModel, frozen=True):
    """A landed snapshot's descriptor: small, immutable, what later steps are handed instead of frames."""

    business_date: dt.date
    snapshot_id: str
    snapshot_at: AwareDatetime
    audiences: tuple[str, ...]  # keys of the audiences it was read for
    slices: tuple[PortfolioSlice, ...]
    tables: dict[str, StoredTable]
    unreadable_consents: tuple[int, ...] = ()  # ids of consents left out as unreadable, for people to mend

    def key(self) -> str:
        """Where the descriptor is stored."""
        return _descriptor_key(self.business_date, self.snapshot_id)


@dataclass(slots=True)
class _Wanted:
    # What the answer to the consent question asks bigsite for.
    numbers: list[str] = field(default_factory=list)  # of every portfolio, by position
    consents: list[tuple[int, consent.Consent]] = field(default_factory=list)  # with its portfolio's position
    parameters: dict[str, object] = field(default_factory=dict)
    read: int = 0  # portfolios whose data is read: all but the removed


@dataclass(slots=True)
class _EndOfDay:
    # What watching the end-of-day tables go by has found.
    holdings: int = 0
    holdings_missing: int = 0
    balances: int = 0
    balances_missing: int = 0
    portfolios: set[int] = field(default_factory=set)  # with something missing

    def watch_holdings(self, batch: pa.RecordBatch) -> None:
        missing = pc.is_null(batch.column("units"))
        self.holdings_missing += self._add(batch, missing)
        self.holdings += batch.num_rows

    def watch_balances(self, batch: pa.RecordBatch) -> None:
        missing = pc.and_(pc.is_null(batch.column("updated_at")), batch.column("open_on_date"))
        self.balances_missing += self._add(batch, missing)
        self.balances += pc.sum(batch.column("open_on_date")).as_py() or 0

    def _add(self, batch: pa.RecordBatch, missing: pa.Array) -> int:
        found = batch.filter(missing).column("portfolio_id").to_pylist()
        self.portfolios.update(found)
        return len(found)


def take_snapshot(
    engine: sa.Engine,
    store: ObjectStore,
    business_date: dt.date,
    audiences: Sequence[SnapshotAudience],
    *,
    snapshot_at: dt.datetime | None = None,
    slice_portfolios: int = 500,
    max_missing_share: Decimal = Decimal("0.01"),
    observe: Callable[[str], None] | None = None,
) -> Snapshot:
    """Read bigsite for ``business_date`` and land it; the new snapshot.

    ``audiences`` that are not due on the date are left aside; ValueError if none is. ``snapshot_at`` is what the
    documents state (default: bigsite's clock at the start of the transaction), for rehearsals. ``observe`` is told
    every statement. Raises SourceNotReadyError (nothing landed) if the end of day is absent or if more than
    ``max_missing_share`` of the portfolios lack a row of it; SourceReadError if bigsite fails.
    """
    due = [audience for audience in audiences if audience.is_due(business_date)]
    if not due:
        raise ValueError(f"no feed is due on {business_date.isoformat()}")
    with tempfile.TemporaryDirectory(prefix="classfeed-snapshot-") as folder:
        with read_only(engine, observe) as bigsite:
            started_at = bigsite.started_at
            if (snapshot_at or started_at) < trading_days.cutoff(business_date):
                raise SourceNotReadyError(business_date, "the date is not over yet in Sydney", {})
            consents, wanted = _ask_consent(bigsite, business_date, due)
            _require_any_end_of_day(bigsite, business_date)
            files = _read(bigsite, Path(folder), business_date, wanted, slice_portfolios, max_missing_share)
        snapshot_id = f"{started_at:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}"
        tables = {name: file.stored(_table_key(business_date, name, snapshot_id)) for name, file in files.items()}
        for name, file in files.items():
            store.create(tables[name].key, file.path)
    numbers = [wanted.numbers[at : at + slice_portfolios] for at in range(0, len(wanted.numbers), slice_portfolios)]
    snapshot = Snapshot(
        business_date=business_date,
        snapshot_id=snapshot_id,
        snapshot_at=(snapshot_at or started_at).astimezone(dt.UTC),
        audiences=tuple(sorted({audience.key for audience in due})),
        slices=tuple(PortfolioSlice(portfolios=len(part), first=part[0], last=part[-1]) for part in numbers),
        tables=tables,
        unreadable_consents=tuple(consent.unreadable(consents)),
    )
    store.create(snapshot.key(), snapshot.model_dump_json(indent=1).encode() + b"\n")
    return snapshot


def snapshot_for(
    engine: sa.Engine,
    store: ObjectStore,
    business_date: dt.date,
    audiences: Sequence[SnapshotAudience],
    *,
    fresh: bool = False,
    snapshot_at: dt.datetime | None = None,
    slice_portfolios: int = 500,
    max_missing_share: Decimal = Decimal("0.01"),
    observe: Callable[[str], None] | None = None,
) -> Snapshot:
    """The landed snapshot of the date that covers the audiences; a new one if there is none or ``fresh`` is set."""
    if not fresh:
        landed = latest_snapshot(store, business_date, audiences)
        if landed is not None:
            return landed
    return take_snapshot(
        engine,
        store,
        business_date,
        audiences,
        snapshot_at=snapshot_at,
        slice_portfolios=slice_portfolios,
        max_missing_share=max_missing_share,
        observe=observe,
    )


def latest_snapshot(
    store: ObjectStore, business_date: dt.date, audiences: Sequence[SnapshotAudience] = ()
) -> Snapshot | None:
    """The newest landed snapshot of the date that was read for all ``audiences`` due on it; None if there is none."""
    asked = {audience.key for audience in audiences if audience.is_due(business_date)}
    for key in sorted(store.list(_descriptor_key(business_date, "")), reverse=True):
        snapshot = Snapshot.model_validate_json(store.read(key))
        if asked <= set(snapshot.audiences):
            return snapshot
    return None


def open_slices(snapshot: Snapshot, store: ObjectStore, tables: Iterable[str] | None = None) -> SlicedFiles:
    """The snapshot's ``tables`` (default: all) to read slice by slice, in a ``with`` block.

    A slice is a dict of table name to Polars frame; reference tables are whole in every slice. The files' SHA-256
    is checked on entering: DamagedFileError.
    """
    names = list(snapshot.tables if tables is None else tables)
    return SlicedFiles(store, {name: snapshot.tables[name] for name in names}, [n for n in names if n in WHOLE])


def _descriptor_key(business_date: dt.date, snapshot_id: str) -> str:
    key = f"landing/{business_date.isoformat()}/snapshot/{snapshot_id}"
    return f"{key}.json" if snapshot_id else key


def _table_key(business_date: dt.date, table: str, snapshot_id: str) -> str:
    return f"landing/{business_date.isoformat()}/{table}/{snapshot_id}.parquet"


def _ask_consent(
    bigsite: ReadOnlyTransaction, business_date: dt.date, audiences: Sequence[SnapshotAudience]
) -> tuple[list[consent.Consent], _Wanted]:
    windows = [audience.window(business_date) for audience in audiences]
    question = consent.consent_query(
        {audience.recipient for audience in audiences},
        min(window.start for window in windows),
        max(window.end for window in windows),
    )
    consents = consent.consents_from(bigsite.rows(question))
    return consents, _wanted(consents, business_date, audiences)


def _wanted(
    consents: list[consent.Consent], business_date: dt.date, audiences: Sequence[SnapshotAudience]
) -> _Wanted:
    # FULL beats DELTA, the widest window and the earliest history count: the domains filter again per audience.
    standing: dict[int, str] = {}  # number of every portfolio that some document speaks of
    used: set[int] = set()  # consents that some audience relies on
    full: set[int] = set()
    recorded_from: dict[int, dt.datetime] = {}
    history: dict[int, dt.date | None] = {}
    openings: list[tuple[int, dt.date, str, str]] = []
    for audience in audiences:
        window = audience.window(business_date)
        first = audience.is_first(business_date)
        for shared in consent.sharing(consents, audience.recipient, window, first=first):
            held = shared.standing
            at = held.portfolio_id
            standing[at] = held.portfolio_number
            used.update(held.consent_ids)
            if shared.change is consent.Change.REMOVED:
                continue
            begins = held.history_from
            known = history.get(at, begins)
            history[at] = None if begins is None or known is None else min(begins, known)
            if shared.change is consent.Change.NEW:
                full.add(at)
            recorded_from[at] = min(recorded_from.get(at, window.start), window.start)
            if begins is not None:
                since = _ALL_HISTORY if shared.change is consent.Change.NEW else window.start.isoformat()
                openings.append((at, begins, since, audience.key))
    order = sorted(standing, key=lambda portfolio_id: standing[portfolio_id])
    position = {portfolio_id: at for at, portfolio_id in enumerate(order)}
    # A portfolio NEW now may have been shared before: its ended consents tell the domains that it was not.
    landed = [(position[row.portfolio_id], row) for row in consents if row.consent_id in used]
    read = [portfolio_id for portfolio_id in order if portfolio_id in history]
    deltas = [portfolio_id for portfolio_id in read if portfolio_id not in full]
    fulls = [portfolio_id for portfolio_id in read if portfolio_id in full]

    def positions(ids: Iterable[int]) -> str:
        return _array(position[portfolio_id] for portfolio_id in ids)

    def histories(ids: Iterable[int]) -> str:
        return _array(_ALL_HISTORY if (day := history[portfolio_id]) is None else day for portfolio_id in ids)

    return _Wanted(
        numbers=[standing[portfolio_id] for portfolio_id in order],
        consents=sorted(landed, key=lambda entry: (entry[0], entry[1].consent_id)),
        read=len(read),
        parameters={
            "business_date": business_date,
            "cutoff": trading_days.cutoff(business_date),
            "earliest": min((recorded_from[at] for at in deltas), default=trading_days.cutoff(business_date)),
            "ids": _array(read),
            "positions": positions(read),
            "full_ids": _array(fulls),
            "full_positions": positions(fulls),
            "full_history": histories(fulls),
            "delta_ids": _array(deltas),
            "delta_positions": positions(deltas),
            "delta_history": histories(deltas),
            "delta_recorded_from": _array(f'"{recorded_from[at].isoformat()}"' for at in deltas),
            "opening_ids": _array(at for at, _, _, _ in openings),
            "opening_positions": positions(at for at, _, _, _ in openings),
            "opening_history": _array(day for _, day, _, _ in openings),
            "opening_recorded_from": _array(f'"{since}"' for _, _, since, _ in openings),
            "opening_audiences": _array(f'"{key}"' for _, _, _, key in openings),
        },
    )


def _array(values: Iterable[object]) -> str:
    # A PostgreSQL array's text: one parameter for any number of portfolios.
    return f"{{{','.join(map(str, values))}}}"


def _require_any_end_of_day(bigsite: ReadOnlyTransaction, business_date: dt.date) -> None:
    statement = sa.text(queries.READINESS).bindparams(business_date=business_date)
    holdings, balances = bigsite.rows(statement)[0]
    if not holdings and not balances:
        raise SourceNotReadyError(
            business_date, "its end of day has not been written", {"holding_rows": 0, "balance_rows": 0}
        )


def _read(
    bigsite: ReadOnlyTransaction,
    folder: Path,
    business_date: dt.date,
    wanted: _Wanted,
    slice_size: int,
    max_missing_share: Decimal,
) -> dict[str, RowGroups]:
    slice_count = -(-len(wanted.numbers) // slice_size)
    end_of_day = _EndOfDay()
    securities: set[int] = set()
    watchers: dict[str, list[Callable[[pa.RecordBatch], None]]] = defaultdict(list)
    watchers[queries.HOLDING.table].append(end_of_day.watch_holdings)
    watchers[queries.CASH_BALANCE.table].append(end_of_day.watch_balances)
    files: dict[str, RowGroups] = {}

    def watch_securities(batch: pa.RecordBatch) -> None:
        securities.update(pc.unique(batch.column("security_id")).to_pylist())

    def land(table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], read_schema: pa.Schema) -> None:
        def watch(batch: pa.RecordBatch) -> None:
            for watcher in watchers[table]:
                watcher(batch)

        del read_schema
        with RowGroups(folder / f"{table}.parquet", schema) as target:
            write_slices(target, batches, schema, slice_size, slice_count, watch)
        files[table] = target

    for query in queries.SLICED:
        if "security_id" in query.schema.names:
            watchers[query.table].append(watch_securities)
        land(
            query.table, query.schema, bigsite.copy(query.sql, wanted.parameters, query.read_schema), query.read_schema
        )
        if query is queries.END_OF_DAY[-1]:
            _require_complete(business_date, end_of_day, wanted.read, max_missing_share)
    land(queries.CONSENT_TABLE, queries.CONSENTS, [_consent_batch(wanted)], queries.CONSENTS)
    for query in queries.REFERENCES:
        parameters = {**wanted.parameters, "securities": _array(sorted(securities))}
        with RowGroups(folder / f"{query.table}.parquet", query.schema) as target:
            batches = bigsite.copy(query.sql, parameters, query.schema)
            target.write(pa.Table.from_batches(batches, schema=query.schema))
        files[query.table] = target
    return files


def _require_complete(business_date: dt.date, found: _EndOfDay, portfolios: int, limit: Decimal) -> None:
    counts = {
        "portfolios": portfolios,
        "portfolios_incomplete": len(found.portfolios),
        "holding_rows": found.holdings - found.holdings_missing,
        "holding_rows_missing": found.holdings_missing,
        "balance_rows": found.balances - found.balances_missing,
        "balance_rows_missing": found.balances_missing,
    }
    if found.holdings_missing and found.holdings == found.holdings_missing:
        raise SourceNotReadyError(business_date, "its end of day has no holdings", counts)
    if found.balances_missing and found.balances == found.balances_missing:
        raise SourceNotReadyError(business_date, "its end of day has no cash balances", counts)
    if len(found.portfolios) > limit * portfolios:
        raise SourceNotReadyError(business_date, "its end of day is incomplete", counts)


def _consent_batch(wanted: _Wanted) -> pa.RecordBatch:
    schema = queries.CONSENTS.insert(0, queries.POSITION)
    columns: list[pa.Array] = [pa.array([at for at, _ in wanted.consents], queries.POSITION.type)]
    columns += [
        pa.array([getattr(row, name) for _, row in wanted.consents], queries.CONSENTS.field(name).type)
        for name in queries.CONSENTS.names
    ]
    return pa.record_batch(columns, schema=schema)
