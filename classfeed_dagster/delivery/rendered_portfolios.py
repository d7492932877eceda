"""Rendered portfolios in a Parquet file: rendered by one worker, paged by others.

A row is a portfolio with its manifest entry, its control totals and its records, one column per section. Columns are
read one row group at a time, so memory does not grow with the shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import NonNegativeInt

from classfeed_dagster.bigsite.landing import RowGroups, StoredFile
from classfeed_dagster.delivery.manifest import ControlTotals
from classfeed_dagster.delivery.plan import PlannedPortfolio
from classfeed_dagster.documents.document_format import RenderedPortfolio, Totals
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, sha256_of

_ROW_GROUP_SIZE = 200  # portfolios in a row group of a rendered shard
_SECTION = "section:"
MANIFEST_COLUMNS = ("number", "change", "extract", "consent_ids", "digest", "bytes")
_FIELDS = [
    ("number", pa.string()),
    ("change", pa.string()),
    ("extract", pa.string()),
    ("consent_ids", pa.list_(pa.int64())),
    ("digest", pa.string()),
    ("bytes", pa.int64()),
    ("totals", pa.string()),  # as JSON, exact
]


class _SumsAndCounts(StoredRecord):
    counts: dict[str, NonNegativeInt]
    totals: ControlTotals


class RenderedWriter:
    """Writer of rendered portfolios to Parquet: each one's manifest entry, totals and records."""

    def __init__(self, path: Path, sections: Sequence[str]) -> None:
        fields = [*_FIELDS, *((_SECTION + name, pa.large_binary()) for name in sections)]
        self.target = RowGroups(path, pa.schema(fields))
        self._sections = sections
        self._rows: list[dict[str, object]] = []

    def add(self, planned: PlannedPortfolio, digest: str, rendered: RenderedPortfolio) -> None:
        """Append one portfolio."""
        totals = _SumsAndCounts(counts=dict(rendered.totals.counts), totals=ControlTotals.of(rendered.totals))
        self._rows.append(
            {
                "number": planned.number,
                "change": planned.change,
                "extract": planned.extract,
                "consent_ids": planned.consent_ids,
                "digest": digest,
                "bytes": rendered.size,
                "totals": totals.model_dump_json(),
                **{_SECTION + name: rendered.sections.get(name, b"") for name in self._sections},
            }
        )
        if len(self._rows) == _ROW_GROUP_SIZE:
            self._write()

    def _write(self) -> None:
        self.target.write(pa.Table.from_pylist(self._rows, schema=self.target.schema))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._rows:
            self._write()
        self.target.__exit__(kind, error, trace)


class RenderedReader:
    """Reader of rendered shards as one table. Only the shards that overlap ``portfolios`` are fetched."""

    def __init__(self, store: ObjectStore, files: Iterable[StoredFile], portfolios: range | None = None) -> None:
        self._store = store
        self._files = list(files)
        self._portfolios = portfolios
        self._stack = ExitStack()
        self._groups: list[tuple[range, pq.ParquetFile, int]] = []

    def __enter__(self) -> Self:
        first = 0
        with ExitStack() as opened:
            for stored in self._files:
                rows = range(first, first + stored.rows)
                first = rows.stop
                if self._portfolios is not None and not _overlap(rows, self._portfolios):
                    continue
                path = opened.enter_context(self._store.local_file(stored.key))
                if sha256_of(path) != stored.sha256:
                    raise DamagedRecordError(self._store.location(stored.key), "it differs from the rendered file")
                self._open(opened.enter_context(pq.ParquetFile(path)), rows.start)
            self._stack = opened.pop_all()
        return self

    def _open(self, file: pq.ParquetFile, start: int) -> None:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            self._groups.append((range(start, start + count), file, group))
            start += count

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sections(self, names: Iterable[str], portfolios: range) -> Mapping[str, Iterator[bytes]]:
        """Return the records of ``portfolios`` by section."""
        return {name: self.column(_SECTION + name, portfolios) for name in names}

    def totals(self, portfolios: range) -> Totals:
        """Return the control totals of ``portfolios``."""
        return sum(self.totals_of_each(portfolios), Totals())

    def totals_of_each(self, portfolios: range) -> Iterator[Totals]:
        """Yield the control totals of each of ``portfolios``, in order."""
        yield from map(_totals, self.column("totals", portfolios))

    def column(self, name: str, portfolios: range) -> Iterator[Any]:
        """Yield the values of a column for ``portfolios`` in order, with one row group in memory at a time."""
        for rows, file, group in self._groups:
            overlap = _overlap(rows, portfolios)
            if overlap:
                values = file.read_row_group(group, columns=[name]).column(0)
                yield from values.slice(overlap.start - rows.start, len(overlap)).to_pylist()


def _overlap(rows: range, other: range) -> range:
    return range(max(rows.start, other.start), min(rows.stop, other.stop))


def _totals(text: str) -> Totals:
    sums = _SumsAndCounts.model_validate_json(text)
    return sums.totals.with_counts(dict(sums.counts))
