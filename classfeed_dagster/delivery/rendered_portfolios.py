"""Rendered portfolios as a Parquet file: what one worker renders and others put on pages.

A row is a portfolio, with what the manifest says of it, what its records add up to, and the records themselves, a
column a section. Read back column by column, a row group at a time: memory doesn't grow with the shard.
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

from classfeed_dagster.bigsite.landing import RowGroups, StoredFile, sha256_of
from classfeed_dagster.delivery.manifest import ControlTotals
from classfeed_dagster.delivery.plan import PlannedPortfolio
from classfeed_dagster.documents.document_format import RenderedPortfolio, Totals
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Record

_TOGETHER = 200  # portfolios in a row group of a rendered shard
_SECTION = "section:"
OF_A_PORTFOLIO = ("number", "change", "extract", "consent_ids", "digest", "bytes")
_SAID = [
    ("number", pa.string()),
    ("change", pa.string()),
    ("extract", pa.string()),
    ("consent_ids", pa.list_(pa.int64())),
    ("digest", pa.string()),
    ("bytes", pa.int64()),
    ("totals", pa.string()),  # as JSON, exact
]


class _SumsAndCounts(Record):
    counts: dict[str, NonNegativeInt]
    totals: ControlTotals


class RenderedWriter:
    """Writes rendered portfolios to Parquet: what is said of each, and its records, a column a section."""

    def __init__(self, path: Path, sections: Sequence[str]) -> None:
        fields = [*_SAID, *((_SECTION + name, pa.large_binary()) for name in sections)]
        self.target = RowGroups(path, pa.schema(fields))
        self._sections = sections
        self._rows: list[dict[str, object]] = []

    def add(self, going: PlannedPortfolio, digest: str, rendered: RenderedPortfolio) -> None:
        """Append one portfolio."""
        totals = _SumsAndCounts(counts=dict(rendered.totals.counts), totals=ControlTotals.of(rendered.totals))
        self._rows.append(
            {
                "number": going.number,
                "change": going.change,
                "extract": going.extract,
                "consent_ids": going.consent_ids,
                "digest": digest,
                "bytes": rendered.size,
                "totals": totals.model_dump_json(),
                **{_SECTION + name: rendered.sections.get(name, b"") for name in self._sections},
            }
        )
        if len(self._rows) == _TOGETHER:
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
    """Rendered shards as one long table, of which columns are read in parts. No shard outside ``wanted`` is fetched."""

    def __init__(self, store: ObjectStore, files: Iterable[StoredFile], wanted: range | None = None) -> None:
        self._store = store
        self._files = list(files)
        self._wanted = wanted
        self._stack = ExitStack()
        self._groups: list[tuple[range, pq.ParquetFile, int]] = []

    def __enter__(self) -> Self:
        first = 0
        with ExitStack() as opened:
            for stored in self._files:
                rows = range(first, first + stored.rows)
                first = rows.stop
                if self._wanted is not None and not _overlap(rows, self._wanted):
                    continue
                path = opened.enter_context(self._store.local_file(stored.key))
                if sha256_of(path) != stored.sha256:
                    raise DamagedRecordError(self._store.location(stored.key), "it isn't what was rendered")
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

    def sections(self, names: Iterable[str], wanted: range) -> Mapping[str, Iterator[bytes]]:
        """The records of some portfolios, by section."""
        return {name: self.column(_SECTION + name, wanted) for name in names}

    def totals(self, wanted: range) -> Totals:
        """What the records of some portfolios add up to."""
        return sum(map(_totals, self.column("totals", wanted)), Totals())

    def column(self, name: str, wanted: range) -> Iterator[Any]:
        """The values of a column, one a portfolio, in order; one row group is in memory at a time."""
        for rows, file, group in self._groups:
            both = _overlap(rows, wanted)
            if both:
                values = file.read_row_group(group, columns=[name]).column(0)
                yield from values.slice(both.start - rows.start, len(both)).to_pylist()


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _totals(text: str) -> Totals:
    found = _SumsAndCounts.model_validate_json(text)
    return found.totals.with_counts(dict(found.counts))
