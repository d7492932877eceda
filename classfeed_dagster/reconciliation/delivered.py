"""Independent reader of deliveries: manifests, hashes, pages, and every portfolio's latest revision.

It shares no code with the exporter: manifests are read as plain JSON, pages with reconciliation's own readers. Values
stay text, exactly as in the document; the comparison gives them their types.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from classfeed_dagster.errors import DataError, ExitCode
from classfeed_dagster.reconciliation.document_layouts import EPI, DocumentLayout
from classfeed_dagster.reconciliation.epi_document import TRACE, UnreadableDeliveryError, open_document
from classfeed_dagster.reconciliation.page_contents import differences, manifest_totals
from classfeed_dagster.reconciliation.records import MOVEMENTS, RecordKind
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

__all__ = ["Delivered", "NothingDeliveredError", "Revision", "UnreadableDeliveryError", "read_delivered"]

_BATCH = 20_000


class NothingDeliveredError(DataError):
    """The feed has no delivery for the business date, so there is nothing to reconcile."""

    exit_code = ExitCode.NOT_READY

    def __init__(self, feed: str, day: dt.date) -> None:
        super().__init__(f"{feed} has no delivery for {day.isoformat()}: deliver it first")


@dataclass(frozen=True, slots=True)
class Revision:
    """One manifest: the delivered pages and portfolios, their snapshot, and the portfolios held back."""

    number: int
    manifest_key: str
    manifest_sha256: str
    feed: str
    business_date: str
    chain_position: int
    sequence_number: int
    recipient: str
    snapshot_id: str
    snapshot_at: dt.datetime
    descriptor_key: str
    descriptor_sha256: str
    recorded_after: dt.datetime
    recorded_before: dt.datetime
    consent_checked_at: dt.datetime
    correlation_id: str
    flags: Mapping[str, Any]
    pages: tuple[Mapping[str, Any], ...]
    portfolios: Mapping[str, Mapping[str, Any]]
    held_back: Mapping[str, Mapping[str, Any]]
    totals: Mapping[str, Decimal]
    ledger: tuple[Mapping[str, Any], ...] = ()  # the delivered ledger's files; () of an older manifest
    withheld: frozenset[str] = frozenset()  # ids of the files that are never sent, because a consent ended

    def header(self, page: Mapping[str, Any], at: int) -> dict[str, str]:
        """Return the expected header of the page, by element; ``at`` counts pages from 1."""
        return {
            "Feed": self.feed,
            "Recipient": self.recipient,
            "MessageId": str(page["message_id"]),
            "SequenceNumber": str(self.sequence_number),
            "Revision": str(self.number),
            "PageNumber": str(at),
            "PageCount": str(len(self.pages)),
            "BusinessDate": self.business_date,
            "RecordedAfter": _header_instant(self.recorded_after),
            "RecordedBefore": _header_instant(self.recorded_before),
            "SnapshotAt": _header_instant(self.snapshot_at),
        }


def _header_instant(at: dt.datetime) -> str:
    return f"{at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


@dataclass(frozen=True, slots=True)
class Delivered:
    """Delivery of one business date with all revisions: the latest one of each portfolio applies."""

    feed: str
    business_date: dt.date
    revisions: tuple[Revision, ...]
    latest: Mapping[str, Revision]  # by portfolio number
    files: Mapping[str, Path]  # records by kind as Parquet, all columns text, with page and line
    rows: Mapping[str, int]
    faults: tuple[tuple[str, str], ...] = field(default=())  # (object key, fault)
    layout: DocumentLayout = EPI

    @property
    def held_back(self) -> dict[str, Mapping[str, Any]]:
        """Return the portfolios in no revision, each with the last manifest's entry."""
        result: dict[str, Mapping[str, Any]] = {}
        for revision in self.revisions:
            result.update(revision.held_back)
        return {number: entry for number, entry in result.items() if number not in self.latest}

    def held_back_since(self, number: str) -> str | None:
        """Return the last revision that held a delivered portfolio back since, with its reason; None if none did."""
        latest = self.latest.get(number)
        for revision in reversed(self.revisions):
            if latest is not None and number in revision.held_back and revision.number > latest.number:
                reason = revision.held_back[number].get("reason")
                return f"revision {revision.number} would have sent it again, but held the portfolio back: {reason}"
        return None

    def first_revision(self, number: str) -> Revision:
        """Return the revision that first delivered the portfolio; the last one if none did."""
        return next((revision for revision in self.revisions if number in revision.portfolios), self.revisions[-1])


def business_dates(store: ObjectStore, feed: str) -> list[dt.date]:
    """Return the business dates for which the feed has at least one manifest, in order."""
    days = {key.split("/")[2] for key in store.list(f"delivered/{feed}/") if key.endswith("/manifest.json")}
    return sorted(dt.date.fromisoformat(day) for day in days)


def read_revisions(store: ObjectStore, feed: str, day: dt.date) -> tuple[Revision, ...]:
    """Return every delivered revision of the date, in order. A void revision is none."""
    prefix = f"delivered/{feed}/{day.isoformat()}/"
    keys = list(store.list(prefix))
    manifests = [_revision(store, key) for key in keys if key.endswith("/manifest.json")]
    withheld = [_object(store, key) for key in keys if "/withheld-" in key]
    revisions = sorted(
        (_disclosed(each, withheld) for each in manifests if each is not None), key=lambda each: each.number
    )
    return tuple(revisions)


def _object(store: ObjectStore, key: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(store.read(key)))
    except ValueError:
        raise UnreadableDeliveryError(f"{store.location(key)} is not a record: restore its earlier version") from None


def _disclosed(revision: Revision, withheld: Sequence[Mapping[str, Any]]) -> Revision:
    # Without the portfolios on withheld files; those whose consent ended are held back.
    records = [record for record in withheld if record["revision"] == revision.number]
    files = frozenset(str(record["message_id"]) for record in records)
    ended = {str(number) for record in records for number in record["ended"]}
    return replace(
        revision,
        withheld=files,
        portfolios={number: entry for number, entry in revision.portfolios.items() if entry["page"] not in files},
        held_back={
            **revision.held_back,
            **{number: {"kind": "CONSENT_ENDED", "reason": "consent ended before sending"} for number in ended},
        },
    )


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
            str(manifest["feed"]),
            str(manifest["business_date"]),
            int(manifest["chain_position"]),
            int(manifest["sequence_number"]),
            str(manifest["recipient"]),
            str(snapshot["id"]),
            _instant(snapshot["snapshot_at"]),
            str(snapshot["descriptor_key"]),
            str(snapshot["descriptor_sha256"]),
            _instant(manifest["recorded_after"]),
            _instant(manifest["recorded_before"]),
            _instant(manifest["consent_checked_at"]),
            str(manifest["correlation_id"]),
            dict(manifest.get("flags", {})),
            tuple(manifest["pages"]),
            {str(entry["number"]): entry for entry in _portfolios(store, manifest)},
            {str(entry["number"]): entry for entry in manifest["held_back"]},
            manifest_totals(manifest),
            tuple(_ledger_file(entry) for entry in dict(manifest.get("ledger") or {}).get("files", ())),
        )
    except UnreadableDeliveryError:
        raise  # it names the list of portfolios
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise UnreadableDeliveryError(
            f"{store.location(key)} is not a manifest ({type(error).__name__}): restore the object's earlier version"
        ) from None


def _portfolios(store: ObjectStore, manifest: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    # A manifest of version 1 holds the list itself.
    if "portfolios" in manifest:
        return cast(Sequence[Mapping[str, Any]], manifest["portfolios"])
    stated = manifest["portfolio_list"]
    key = str(stated["key"])
    try:
        data = store.read(key)
    except ObjectNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != stated["sha256"]:
        raise UnreadableDeliveryError(
            f"{store.location(key)} is not the list of portfolios that the manifest names: restore the object's "
            "earlier version"
        )
    return pq.read_table(pa.BufferReader(data)).to_pylist()


def _ledger_file(entry: Mapping[str, Any]) -> dict[str, Any]:
    stated = dict(entry)  # ValueError or TypeError if it is no object
    prefix = stated.get("prefix")
    return {
        "kind": str(stated["kind"]),
        "part": int(stated["part"]),
        "sha256": str(stated["sha256"]),
        "prefix": None if prefix is None else str(prefix),
    }


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)


def read_delivered(
    store: ObjectStore, feed: str, day: dt.date, folder: Path, layout: DocumentLayout = EPI
) -> Delivered:
    """Read every page of every revision, keep each portfolio's latest, and write the records to ``folder`` as Parquet.

    Files that differ from their manifest are read and listed in ``faults``: their records are compared as well, to show
    the fault's effect. Memory does not grow with the delivery.
    """
    revisions = read_revisions(store, feed, day)
    if not revisions:
        raise NothingDeliveredError(feed, day)
    latest = {number: revision for revision in revisions for number in revision.portfolios}
    faults = [fault for revision in revisions for fault in _manifest_faults(revision, feed, day)]
    # A document without movements has an empty file of them.
    kinds = {MOVEMENTS.name: MOVEMENTS} | {kind.name: kind for kind in layout.kinds}
    files = {name: folder / f"delivered-{name}.parquet" for name in kinds}
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_Writer(kind, files[name])) for name, kind in kinds.items()}
        for revision in revisions:
            for at, page in enumerate(revision.pages, 1):
                if page["message_id"] in revision.withheld:
                    continue
                key = str(page["key"])
                try:
                    with store.local_file(key) as path:
                        faults += [(key, fault) for fault in _wrong_hashes(path, page)]
                        contents = layout.contents()
                        for kind, row in layout.read(path, key, contents):
                            number = row["portfolio_number"]
                            # A portfolio that the manifest does not list is kept, so that it becomes a break.
                            if latest.get(number or "", revision) is revision:
                                writers[kind.name].add(row)
                        faults += [(key, fault) for fault in contents.faults(page, revision.header(page, at))]
                except ObjectNotFoundError:
                    faults.append((key, "the manifest lists this page, but it does not exist"))
        rows = {name: writer.rows for name, writer in writers.items()}
    return Delivered(feed, day, revisions, latest, files, rows, tuple(faults), layout)


def carried_ids(
    store: ObjectStore, revisions: Sequence[Revision], numbers: frozenset[str], layout: DocumentLayout = EPI
) -> dict[str, frozenset[str]]:
    """Return the last delivered TransactionIds of some portfolios. An unreadable page has none."""
    ids_by_portfolio: dict[str, set[str]] = defaultdict(set)
    for revision in revisions:
        entries = {number: revision.portfolios[number] for number in numbers if number in revision.portfolios}
        for number in entries:
            ids_by_portfolio[number] = set()
        pages = {str(entry["page"]) for entry in entries.values()}
        for page in revision.pages:
            if str(page["message_id"]) in pages:
                for number, transaction_id in _ids_on(store, str(page["key"]), layout):
                    if number in entries:
                        ids_by_portfolio[number].add(transaction_id)
    return {number: frozenset(ids) for number, ids in ids_by_portfolio.items()}


def _ids_on(store: ObjectStore, key: str, layout: DocumentLayout) -> Iterator[tuple[str, str]]:
    try:
        with store.local_file(key) as path:
            for kind, row in layout.read(path, key, layout.contents()):
                if kind.name == "movement_transactions":
                    yield str(row["portfolio_number"]), str(row["transaction_id"])
    except (ObjectNotFoundError, UnreadableDeliveryError):
        return


def _manifest_faults(revision: Revision, feed: str, day: dt.date) -> Iterator[tuple[str, str]]:
    # Contradictions between a manifest and its key, or the sum of its own pages.
    key = revision.manifest_key
    place = (feed, day.isoformat(), f"r{revision.number}")
    if (revision.feed, revision.business_date, key.split("/")[3]) != place:
        yield key, "it states another feed, business date or revision than its key"
    pages: dict[str, Decimal] = defaultdict(Decimal)
    for page in revision.pages:
        for name, value in manifest_totals(page).items():
            pages[name] += value
    yield from ((key, fault) for fault in differences("its totals", revision.totals, pages))


def _wrong_hashes(path: Path, page: Mapping[str, Any]) -> Iterator[str]:
    with path.open("rb") as stored:
        if hashlib.file_digest(stored, "sha256").hexdigest() != page["sha256"]:
            yield "its SHA-256 differs from the manifest's: the file was changed after delivery"
            return
    with open_document(path) as document:
        if hashlib.file_digest(cast(Any, document), "sha256").hexdigest() != page["document_sha256"]:
            yield "the document's SHA-256 differs from the manifest's"


class _Writer:
    """Writer of one kind's rows as Parquet, in batches."""

    def __init__(self, kind: RecordKind, path: Path) -> None:
        self._schema = pa.schema([(name, pa.string()) for name in (*kind.names, *TRACE)])
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._pending: list[dict[str, str | None]] = []
        self.rows = 0

    def add(self, row: dict[str, str | None]) -> None:
        """Add a row."""
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


INCOME, DRP, PORTFOLIOS = "include-income", "include-drp", "portfolios"
LeftOut = tuple[tuple[str, tuple[str, ...] | None], ...]


def excluded_by_switch(transaction_id: str, movement_type: str | None, flags: Mapping[str, Any]) -> bool:
    """Return True if a switch that was off excludes the movement."""
    if transaction_id.startswith("I"):
        return not flags.get(INCOME, True)
    return movement_type == "DRP" and not flags.get(DRP, True)


def left_out(revisions: Sequence[Revision], latest: Mapping[str, Revision]) -> LeftOut:
    """Return the switches that were off, each with its portfolios; None if it was off for all."""
    switched_off: list[tuple[str, tuple[str, ...] | None]] = []
    for switch in (INCOME, DRP):
        off = [revision for revision in revisions if not revision.flags.get(switch, True)]
        if len(off) == len(revisions):
            switched_off.append((switch, None))
        elif off:
            numbers = sorted(number for number, revision in latest.items() if not revision.flags.get(switch, True))
            if numbers:
                switched_off.append((switch, tuple(numbers)))
    return tuple(switched_off)


def carried(revisions: Sequence[Revision], latest: Mapping[str, Revision]) -> str:
    """Return the selection of portfolios in the last revision's switch, with those delivered under an earlier one.

    A person may have changed the switch between two revisions of the date.
    """
    last = _selection(revisions[-1])
    before = {
        number
        for number, revision in latest.items()
        if (selection := _selection(revision)) != last and selects(selection, number) and not selects(last, number)
    }
    if not before:
        return last
    if not last.startswith("!"):
        return ",".join(sorted(_listed(last) | before))
    return "!" + ",".join(sorted(_listed(last) - before)) if _listed(last) - before else "*"


def selects(selection: str, number: str) -> bool:
    """Return True if a selection contains a portfolio: ``*`` all, ``A,B`` some, ``!A,B`` all but some."""
    return selection == "*" or (number in _listed(selection)) is not selection.startswith("!")


@lru_cache(maxsize=16)
def _listed(selection: str) -> frozenset[str]:
    return frozenset(number.strip() for number in selection.removeprefix("!").split(","))


def _selection(revision: Revision) -> str:
    return str(revision.flags.get(PORTFOLIOS, "*"))
