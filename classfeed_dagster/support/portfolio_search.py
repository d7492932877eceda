"""Search for one portfolio in the ledger and the manifests of many dates, reading a few rows of each.

Both are in order of portfolio number, so that a portfolio is near its place in another date. That place is tried first.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectStore

_COLUMNS = ["portfolio_number", "change", "extract", "recipient_reference", "history_from", "consent_ids"]
_ROWS, _BYTES = 512, 1 << 17  # around the place
_FLAGS = b'"flags":'


class PortfolioSearch:
    """Search for one portfolio, with its place in the date that was searched last. Threads may share it."""

    def __init__(self, store: ObjectStore, number: str) -> None:
        self.number = number
        self._store = store
        self._place = (0, 0)  # part, and row in it
        self._byte = 0  # of the manifest

    def rows(self, parts: Sequence[str]) -> pl.DataFrame | None:
        """Return the portfolio's rows in a revision's ``parts``, by their keys in order; None if none has it."""
        part, row = self._place
        start = max(row - _ROWS // 2, 0)
        if part < len(parts):
            near = self._read(parts[part], start, _ROWS)
            numbers = near["portfolio_number"]
            if (at := numbers.index_of(self.number)) is not None:
                return near.slice(at, 1)  # a revision has one row of a portfolio
            if self._passed(numbers, first=part == start == 0):
                return None
        return self._search_all(parts)

    def _passed(self, near: pl.Series, *, first: bool) -> bool:
        # True if the rows near the place begin before the number, end after it, and lack it.
        if near.is_empty() or not near.is_sorted():
            return False
        return (first or bool(near[0] < self.number)) and bool(self.number < near[-1])

    def _search_all(self, parts: Sequence[str]) -> pl.DataFrame | None:
        for part, key in enumerate(parts):
            with self._readable(key) as path:
                numbers = pl.read_parquet(path, columns=["portfolio_number"], glob=False)["portfolio_number"]
            before = int((numbers < self.number).sum())
            if before or not part:
                self._place = (part, before)
            if (at := numbers.index_of(self.number)) is not None:
                return self._read(key, at, 1)
        return None

    def _read(self, key: str, start: int, rows: int) -> pl.DataFrame:
        with self._readable(key) as path:
            scan = pl.scan_parquet(path, glob=False, use_statistics=False, parallel="none")
            return scan.slice(start, rows).select(_COLUMNS).collect(engine="in-memory")

    @contextmanager
    def _readable(self, key: str) -> Iterator[Path]:
        try:
            with self._store.local_file(key) as path:
                yield path
        except pl.exceptions.PolarsError as error:
            fault = f"it cannot be read ({type(error).__name__})"
            raise DamagedRecordError(self._store.location(key), fault) from None

    def page(self, manifest: str) -> str:
        """Return the message id of the portfolio's page in a delivery; empty if it is not in it."""
        named = b'"number":' + json.dumps(self.number, ensure_ascii=False).encode() + b',"page":"'
        with _content(self._store, manifest) as content:
            if (listed := _member(content, b'"portfolio_list":')) is not None:
                return self._listed_page(str(listed["key"]))
            # A manifest of version 1, whose other portfolios are not read.
            at = content.find(named, max(self._byte - _BYTES, 0), self._byte + _BYTES)
            at = content.find(named) if at < 0 else at
            if at < 0:
                return ""
            self._byte, start = at, at + len(named)
            return content[start : content.find(b'"', start)].decode()

    def _listed_page(self, key: str) -> str:
        with self._readable(key) as path:
            rows = pl.scan_parquet(path, glob=False).filter(pl.col("number") == self.number).select("page").collect()
        return str(rows.item()) if rows.height else ""


def switches_of(store: ObjectStore, manifest: str) -> dict[str, object]:
    """Return the switches in a manifest, without reading its portfolios; {} for one older than the switches."""
    with _content(store, manifest) as content:
        return _member(content, _FLAGS) or {}


def _member(content: mmap.mmap, name: bytes) -> dict[str, object] | None:
    # The object that is the first member of this name; None without one.
    if (named := content.find(name)) < 0:
        return None
    start = named + len(name)
    text = content[start : start + _BYTES].decode(errors="ignore")  # the end may cut a character
    member: dict[str, object]
    member, _ = json.JSONDecoder().raw_decode(text)
    return member


@contextmanager
def _content(store: ObjectStore, key: str) -> Iterator[mmap.mmap]:
    with (
        store.local_file(key) as path,
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        yield content
