"""An independent reader of what was delivered: manifests, hashes, pages, and the latest revision of every portfolio.

Shares nothing with the exporter: manifests are read as plain JSON, pages with a parser of its own. Values stay text,
exactly as they stand in the document; the comparison reads them under its own types.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from lxml import etree

from classfeed_dagster.errors import DataError, ExitCode
from classfeed_dagster.reconciliation.records import ACCOUNTS, CASH_ACCOUNTS, KINDS, NAMESPACE, RecordKind
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

TRACE = ("page", "line")
_BATCH = 20_000
_MAX_LINE = 65_535  # libxml2 counts no further; beyond it the line is left out rather than wrong
_GZIP = b"\x1f\x8b"


class NothingDeliveredError(DataError):
    """The feed has no delivery for the business date, so there is nothing to reconcile."""

    exit_code = ExitCode.NOT_READY

    def __init__(self, feed: str, day: dt.date) -> None:
        super().__init__(f"{feed} has no delivery for {day.isoformat()}: deliver it first")


class UnreadableDeliveryError(DataError):
    """A manifest or page can't be read at all; what stands in it can't be judged."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What one manifest says: the pages and portfolios that left, from which reading of bigsite, and who did not go."""

    number: int
    manifest_key: str
    manifest_sha256: str
    recipient: str
    snapshot_id: str
    snapshot_at: dt.datetime
    descriptor_key: str
    descriptor_sha256: str
    recorded_after: dt.datetime
    recorded_before: dt.datetime
    consent_checked_at: dt.datetime
    correlation_id: str
    pages: tuple[Mapping[str, Any], ...]
    portfolios: Mapping[str, Mapping[str, Any]]
    held_back: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The delivery of one business date, all revisions folded: for each portfolio the latest one counts."""

    feed: str
    business_date: dt.date
    revisions: tuple[Revision, ...]
    latest: Mapping[str, Revision]  # by portfolio number
    files: Mapping[str, Path]  # records by kind, Parquet, all columns text, with page and line
    rows: Mapping[str, int]
    faults: tuple[tuple[str, str], ...] = field(default=())  # (object key, what is wrong with it)

    @property
    def held_back(self) -> dict[str, Mapping[str, Any]]:
        """Portfolios not delivered in any revision, with what the last manifest says of them."""
        result: dict[str, Mapping[str, Any]] = {}
        for revision in self.revisions:
            result.update(revision.held_back)
        return {number: held for number, held in result.items() if number not in self.latest}


def business_dates(store: ObjectStore, feed: str) -> list[dt.date]:
    """The business dates for which the feed has at least one manifest, in order."""
    days = {key.split("/")[2] for key in store.list(f"delivered/{feed}/") if key.endswith("/manifest.json")}
    return sorted(dt.date.fromisoformat(day) for day in days)


def read_revisions(store: ObjectStore, feed: str, day: dt.date) -> tuple[Revision, ...]:
    """Every delivered revision of the date, in order; NothingDeliveredError if there is none."""
    prefix = f"delivered/{feed}/{day.isoformat()}/"
    found = [_revision(store, key) for key in store.list(prefix) if key.endswith("/manifest.json")]
    revisions = sorted((one for one in found if one is not None), key=lambda one: one.number)
    if not revisions:
        raise NothingDeliveredError(feed, day)
    return tuple(revisions)


def _revision(store: ObjectStore, key: str) -> Revision | None:
    data = store.read(key)
    try:
        manifest = cast(dict[str, Any], json.loads(data))
        if manifest["kind"] == "void":
            return None
        snapshot = manifest["snapshot"]
        return Revision(
            int(manifest["revision"]),
            key,
            hashlib.sha256(data).hexdigest(),
            str(manifest["recipient"]),
            str(snapshot["id"]),
            _instant(snapshot["snapshot_at"]),
            str(snapshot["descriptor_key"]),
            str(snapshot["descriptor_sha256"]),
            _instant(manifest["recorded_after"]),
            _instant(manifest["recorded_before"]),
            _instant(manifest["consent_checked_at"]),
            str(manifest["correlation_id"]),
            tuple(manifest["pages"]),
            {str(one["number"]): one for one in manifest["portfolios"]},
            {str(one["number"]): one for one in manifest["held_back"]},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableDeliveryError(
            f"{store.location(key)} is not a manifest ({type(error).__name__}): restore the object's earlier version"
        ) from None


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)


def read_delivered(store: ObjectStore, feed: str, day: dt.date, folder: Path) -> Delivered:
    """Read every page of every revision, keep each portfolio's latest, write the records as Parquet into ``folder``.

    Files that aren't what their manifest says are read all the same, and listed in ``faults``: what they hold is
    compared too, so that the fault's effect is seen. Memory doesn't grow with the delivery.
    """
    revisions = read_revisions(store, feed, day)
    latest = {number: revision for revision in revisions for number in revision.portfolios}
    faults: list[tuple[str, str]] = []
    with ExitStack() as stack:
        writers = {
            kind.name: stack.enter_context(_Writer(kind, folder / f"delivered-{kind.name}.parquet")) for kind in KINDS
        }
        for revision in revisions:
            for page in revision.pages:
                try:
                    with store.local_file(str(page["key"])) as path:
                        faults += [(str(page["key"]), fault) for fault in _wrong_hashes(path, page)]
                        for kind, row in _records(path, str(page["key"])):
                            number = row["portfolio_number"]
                            # A portfolio that the manifest doesn't list is kept: it is a break, not a mistake to hide.
                            if latest.get(number or "", revision) is revision:
                                writers[kind.name].add(row)
                except ObjectNotFoundError:
                    faults.append((str(page["key"]), "the manifest lists this page, and it does not exist"))
        rows = {name: writer.rows for name, writer in writers.items()}
    files = {kind.name: folder / f"delivered-{kind.name}.parquet" for kind in KINDS}
    return Delivered(feed, day, revisions, latest, files, rows, tuple(faults))


def _wrong_hashes(path: Path, page: Mapping[str, Any]) -> Iterator[str]:
    with path.open("rb") as stored:
        if hashlib.file_digest(stored, "sha256").hexdigest() != page["sha256"]:
            yield "its SHA-256 is not the one in the manifest: the file was changed after delivery"
            return
    with _document(path) as document:
        if hashlib.file_digest(cast(Any, document), "sha256").hexdigest() != page["document_sha256"]:
            yield "the document's SHA-256 is not the one in the manifest"


def _document(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def _records(path: Path, key: str) -> Iterator[tuple[RecordKind, dict[str, str | None]]]:
    """Each record of a page, in document order, with its page and line."""
    message = Path(key).name.split(".xml")[0]
    kinds = {_name(kind.path[-1]): kind for kind in KINDS}
    try:
        with _document(path) as document:
            events = etree.iterparse(
                document, events=("end",), tag=list(kinds), resolve_entities=False, no_network=True, huge_tree=False
            )
            for _, element in events:
                if element.getroottree().docinfo.doctype:
                    raise UnreadableDeliveryError(f"{key}: a DOCTYPE has no place in a delivered document")
                kind = kinds[str(element.tag)]
                yield kind, _row(kind, element, message)
                if kind is not CASH_ACCOUNTS:
                    element.clear()
                    while element.getprevious() is not None:
                        del element.getparent()[0]  # type: ignore[index, union-attr, unused-ignore]
    except (etree.XMLSyntaxError, OSError, EOFError) as error:
        raise UnreadableDeliveryError(f"{key} can't be read to its end ({type(error).__name__})") from None


def _name(element: str) -> str:
    return f"{{{NAMESPACE}}}{element}"


_COLUMNS = {kind.name: {_name(name): column.name for name, column in kind.columns if name[0] != "@"} for kind in KINDS}
_ATTRIBUTES = {kind.name: {name[1:]: column.name for name, column in kind.columns if name[0] == "@"} for kind in KINDS}
_EMPTY: dict[str, dict[str, str | None]] = {kind.name: dict.fromkeys((*kind.names, *TRACE)) for kind in KINDS}
_NUMBER = _name(ACCOUNTS.columns[0][0])


def _row(kind: RecordKind, element: Any, message: str) -> dict[str, str | None]:
    row = _EMPTY[kind.name].copy()
    columns = _COLUMNS[kind.name]
    for child in element:
        column = columns.get(child.tag)
        if column is not None:
            row[column] = child.text or ""
    for name, column in _ATTRIBUTES[kind.name].items():
        row[column] = element.get(name)
    if kind is CASH_ACCOUNTS:
        row["portfolio_number"] = element.getparent().findtext(_NUMBER)
    line = element.sourceline
    row["page"] = message
    row["line"] = str(line) if line is not None and line < _MAX_LINE else None
    return row


class _Writer:
    """Rows of one kind, written to Parquet in batches."""

    def __init__(self, kind: RecordKind, path: Path) -> None:
        self._schema = pa.schema([(name, pa.string()) for name in (*kind.names, *TRACE)])
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._pending: list[dict[str, str | None]] = []
        self.rows = 0

    def add(self, row: dict[str, str | None]) -> None:
        """Take one row."""
        self._pending.append(row)
        self.rows += 1
        if len(self._pending) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._pending, schema=self._schema))
        self._pending.clear()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()
