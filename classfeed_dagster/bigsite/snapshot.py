"""The snapshot: all of bigsite's data for a business date, read once and landed as immutable Parquet.

One read-only transaction queries consent, reads the data of the consented portfolios and checks bigsite's end of day.
Large dates are read through several sessions that share that transaction's state. Files are stored first and the
descriptor last: without a descriptor there is no snapshot.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ValidationError

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import consent, queries
from classfeed_dagster.bigsite.extraction_scope import ExtractionScope, array, query_scope, slice_ends
from classfeed_dagster.bigsite.landing import (
    WHOLE,
    DamagedFileError,
    RowGroups,
    SlicedFiles,
    StoredTable,
    numbered,
    write_slices,
)
from classfeed_dagster.bigsite.late_rows import SentRows, find_late_rows
from classfeed_dagster.bigsite.readiness import EndOfDay, SourceNotReadyError
from classfeed_dagster.bigsite.source_connection import ReadOnlyTransaction, UnreadableSourceError, read_only
from classfeed_dagster.bigsite.sql_types import Query
from classfeed_dagster.bigsite.unreadable_values import MAX_VALUES, UnreadableValue
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import sha256

# A replica does not list the transactions in progress: only those before the first of them are surely visible.
_VISIBLE_TRANSACTIONS = """
SELECT CASE WHEN pg_is_in_recovery() THEN CONCAT_WS(':', pg_snapshot_xmin(s), pg_snapshot_xmin(s), '') ELSE s::text END
FROM pg_current_snapshot() s
"""


class PortfolioSlice(BaseModel, frozen=True):
    """Contiguous portfolios in order of portfolio number (code point)."""

    portfolios: int
    first: str
    last: str


class Snapshot(BaseModel, frozen=True):
    """Descriptor of a landed snapshot: small and immutable, passed between steps in place of frames."""

    business_date: dt.date
    snapshot_id: str
    snapshot_at: AwareDatetime
    audiences: tuple[str, ...]  # keys of its audiences
    slices: tuple[PortfolioSlice, ...]
    shard_slices: int = 40  # slices a shard
    tables: dict[str, StoredTable]
    unreadable_consents: tuple[int, ...] = ()  # ids of consents left out as unreadable, to be corrected
    unreadable_values: tuple[UnreadableValue, ...] = ()  # rows left out; their portfolios are held back
    statements: int = 0  # number of statements sent to bigsite
    late_from: AwareDatetime | None = None  # start of the look-back for late rows; None: no look-back
    late_rows: int = 0  # rows of closed windows that no earlier snapshot saw
    consent_questions: int = 0  # statements that read consent: exactly one
    visible_transactions: str = ""  # PostgreSQL's snapshot: shows later whether a row could be seen

    def key(self) -> str:
        """Return the key of the descriptor."""
        return _descriptor_key(self.business_date, self.snapshot_id)

    @property
    def shards(self) -> tuple[range, ...]:
        """Return the ranges of slices by shard, at least one. Their number depends on the data only."""
        count = len(self.slices)
        return tuple(range(at, min(at + self.shard_slices, count)) for at in range(0, max(count, 1), self.shard_slices))


def take_snapshot(
    engine: sa.Engine,
    store: ObjectStore,
    business_date: dt.date,
    audiences: Sequence[RecipientSchedule],
    *,
    snapshot_at: dt.datetime | None = None,
    slice_portfolios: int = 300,
    shard_portfolios: int = 12_000,
    sessions: int = 1,
    max_missing_share: Decimal = Decimal("0.01"),
    sent: SentRows | None = None,
    observe: Callable[[str], None] | None = None,
) -> Snapshot:
    """Read bigsite for ``business_date``, land it and return the new snapshot.

    Audiences that are not due on the date are ignored; ValueError if none is due. ``snapshot_at`` is the documents'
    instant (default: bigsite's clock at the start of the transaction), for rehearsals. A date of several shards is read
    through up to ``sessions`` sessions that see one state of bigsite. Rows of closed windows that are not in ``sent``
    land too. ``observe`` receives every statement.
    Raises SourceReadError if bigsite fails, and SourceNotReadyError (nothing landed) if the end of day is absent. It is
    absent as well if more than ``max_missing_share`` of the portfolios lack a row of it.
    """
    due = [audience for audience in audiences if audience.is_due(business_date)]
    if not due:
        raise ValueError(f"No feed is due on {business_date.isoformat()}")
    shard_slices = max(1, shard_portfolios // slice_portfolios)
    with tempfile.TemporaryDirectory(prefix="classfeed-snapshot-") as folder:
        with read_only(engine, observe) as bigsite:
            started_at = bigsite.started_at
            visible = str(bigsite.rows(sa.text(_VISIBLE_TRANSACTIONS))[0][0])
            if (snapshot_at or started_at) < trading_days.cutoff(business_date):
                raise SourceNotReadyError(business_date, "the date is not over yet in Sydney", {})
            scope = query_scope(bigsite, business_date, due)
            late_rows = 0 if sent is None else find_late_rows(bigsite, scope.parameters, sent)
            end_of_day = EndOfDay(business_date)
            end_of_day.require_any(bigsite)
            ends = slice_ends(scope.whole_history, slice_portfolios)
            reader = _Reader(Path(folder), scope, end_of_day, ends, shard_slices=shard_slices)
            with ExitStack() as opened:
                others = min(sessions, reader.shards) - 1
                exported = bigsite.export_snapshot() if others > 0 else None
                more = [opened.enter_context(read_only(engine, observe, exported)) for _ in range(others)]
                reader.read([bigsite, *more], max_missing_share)
                statements = [statement for session in (bigsite, *more) for statement in session.statements]
        snapshot_id = f"{started_at:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}"
        tables = {
            name: file.store(store, _file_keys(business_date, name, snapshot_id)) for name, file in reader.files.items()
        }
    numbers = [scope.numbers[start:end] for start, end in itertools.pairwise([0, *ends])]
    snapshot = Snapshot(
        business_date=business_date,
        snapshot_id=snapshot_id,
        snapshot_at=(snapshot_at or started_at).astimezone(dt.UTC),
        audiences=tuple(sorted({audience.key for audience in due})),
        slices=tuple(PortfolioSlice(portfolios=len(part), first=part[0], last=part[-1]) for part in numbers),
        shard_slices=shard_slices,
        tables=tables,
        unreadable_consents=scope.unreadable,
        late_from=None if sent is None else sent.since,
        late_rows=late_rows,
        unreadable_values=reader.unreadable_values,
        statements=len(statements),
        consent_questions=sum(consent.reads_consent(statement) for statement in statements),
        visible_transactions=visible,
    )
    store.create(snapshot.key(), snapshot.model_dump_json(indent=1).encode() + b"\n")
    return snapshot


def snapshot_for(
    engine: sa.Engine,
    store: ObjectStore,
    business_date: dt.date,
    audiences: Sequence[RecipientSchedule],
    *,
    fresh: bool = False,
    snapshot_at: dt.datetime | None = None,
    slice_portfolios: int = 300,
    shard_portfolios: int = 12_000,
    sessions: int = 1,
    max_missing_share: Decimal = Decimal("0.01"),
    sent: Callable[[], SentRows | None] = lambda: None,
    observe: Callable[[str], None] | None = None,
    before_reading: Callable[[], None] = lambda: None,
) -> Snapshot:
    """Return the landed snapshot of the date that covers the audiences; take one if there is none or ``fresh`` is set.

    ``before_reading`` may raise to refuse the read. It is called only if bigsite will be read.
    """
    if not fresh:
        landed = latest_snapshot(store, business_date, audiences)
        if landed is not None:
            return landed
    before_reading()
    return take_snapshot(
        engine,
        store,
        business_date,
        audiences,
        snapshot_at=snapshot_at,
        slice_portfolios=slice_portfolios,
        shard_portfolios=shard_portfolios,
        sessions=sessions,
        max_missing_share=max_missing_share,
        sent=sent(),
        observe=observe,
    )


def latest_snapshot(
    store: ObjectStore, business_date: dt.date, audiences: Sequence[RecipientSchedule] = ()
) -> Snapshot | None:
    """Return the newest snapshot of the date that covers all ``audiences`` due on it; None if there is none."""
    due_keys = {audience.key for audience in audiences if audience.is_due(business_date)}
    for key in sorted(store.list(_descriptor_key(business_date, "")), reverse=True):
        try:
            snapshot = Snapshot.model_validate_json(store.read(key))
        except ValidationError:
            raise DamagedFileError(
                f"{store.location(key)} is not a valid snapshot descriptor: take a fresh snapshot."
            ) from None
        if due_keys <= set(snapshot.audiences):
            return snapshot
    return None


def read_snapshot(store: ObjectStore, key: str, digest: str) -> Snapshot:
    """Return the snapshot that a manifest names; raise DamagedRecordError if its descriptor has another SHA-256."""
    data = store.read(key)
    if sha256(data) != digest:
        raise DamagedRecordError(store.location(key), "it isn't the descriptor that the manifest names")
    return Snapshot.model_validate_json(data)


def open_slices(
    snapshot: Snapshot, store: ObjectStore, tables: Iterable[str] | None = None, slices: range | None = None
) -> SlicedFiles:
    """Open the snapshot's ``tables`` (default: all), or only some ``slices``, to be read slice by slice.

    A slice is a dict of table name to Polars frame; reference tables are whole in every slice. DamagedFileError on
    entering if a file's SHA-256 differs.
    """
    names = list(snapshot.tables if tables is None else tables)
    return SlicedFiles(
        store,
        {name: snapshot.tables[name] for name in names},
        [name for name in names if name in WHOLE],
        slices,
    )


def _descriptor_key(business_date: dt.date, snapshot_id: str) -> str:
    key = f"landing/{business_date.isoformat()}/snapshot/{snapshot_id}"
    return f"{key}.json" if snapshot_id else key


def _file_keys(business_date: dt.date, table: str, snapshot_id: str) -> Callable[[int, str], str]:
    folder = f"landing/{business_date.isoformat()}/{table}"
    return lambda at, _: f"{folder}/{numbered(snapshot_id, at)}.parquet"


class _Reader:
    """Reader of a scope, table after table; several sessions that see one state read large dates."""

    def __init__(
        self, folder: Path, scope: ExtractionScope, end_of_day: EndOfDay, ends: Sequence[int], *, shard_slices: int
    ) -> None:
        self._folder = folder
        self._scope = scope
        self._end_of_day = end_of_day
        self._slice_ends = ends
        self._shard_slices = shard_slices
        self._securities: set[int] = set()
        self._unreadable: list[UnreadableValue] = []
        self.files: dict[str, RowGroups] = {}

    @property
    def unreadable_values(self) -> tuple[UnreadableValue, ...]:
        """Return the values that could not be landed, in a stable order."""
        return tuple(sorted(self._unreadable, key=lambda value: (value.table, value.key, value.column)))

    def _report(self, value: UnreadableValue) -> None:
        self._unreadable.append(value)
        if len(self._unreadable) > MAX_VALUES:
            raise UnreadableSourceError(
                f"bigsite holds more than {MAX_VALUES} values that no feed can hold, e.g. {value.reason}. "
                "Nothing was landed."
            )

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return -(-len(self._slice_ends) // self._shard_slices)

    def read(self, sessions: Sequence[ReadOnlyTransaction], limit: Decimal) -> None:
        """Read with all ``sessions`` at once; the first one is the transaction that queried consent."""
        self._land(queries.CONSENT_TABLE, queries.CONSENTS, self._scope.consents.to_batches())
        idle: SimpleQueue[ReadOnlyTransaction] = SimpleQueue()
        for session in sessions:
            idle.put(session)

        def land(query: Query) -> None:
            bigsite = idle.get()
            try:
                batches = bigsite.copy(
                    query.sql, self._scope.parameters, query.read_schema, table=query.table, report=self._report
                )
                # Closed after an error as well: the next table would wait for the session forever.
                with contextlib.closing(batches):
                    self._land(query.table, query.schema, batches)
            finally:
                idle.put(bigsite)

        with ThreadPoolExecutor(len(sessions)) as pool:
            # End of day first: if it is missing, nothing else is read.
            list(pool.map(land, queries.END_OF_DAY))
            self._end_of_day.require_complete(self._scope.read, limit)
            list(pool.map(land, [query for query in queries.SLICED if query not in queries.END_OF_DAY]))
        for query in queries.REFERENCES:
            parameters = {**self._scope.parameters, "securities": array(sorted(self._securities))}
            with RowGroups(self._folder / f"{query.table}.parquet", query.schema) as target:
                batches = sessions[0].copy(query.sql, parameters, query.schema, table=query.table, report=self._report)
                target.write(pa.Table.from_batches(batches, schema=query.schema))
            self.files[query.table] = target

    def _land(self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        def watch(batch: pa.RecordBatch) -> None:
            self._end_of_day.watch(table, batch)
            if "security_id" in schema.names:
                securities: list[Any] = batch.column("security_id").unique().to_pylist()
                self._securities.update(securities)

        with RowGroups(self._folder / f"{table}.parquet", schema, self._shard_slices) as target:
            write_slices(target, batches, self._slice_ends, watch)
        self.files[table] = target
