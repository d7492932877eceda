"""Computation and storage of a business date's domains, slice by slice.

A domain's frames and findings are stored under names derived from their content: a second build stores nothing new. A
file holds one shard of the snapshot, with one row group per slice. Steps pass each other a small DomainReference.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, Field

from classfeed_dagster.bigsite.landing import RowGroups, SlicedFiles, StoredFile, StoredTable
from classfeed_dagster.bigsite.snapshot import Snapshot, open_slices
from classfeed_dagster.domains import columns
from classfeed_dagster.domains.account_balances import account_balances
from classfeed_dagster.domains.account_details import account_details
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS, FINDINGS, Frame
from classfeed_dagster.domains.consented_portfolios import ConsentRoll, consent_roll, consented_portfolios, consents_of
from classfeed_dagster.domains.investment_holdings import investment_holdings
from classfeed_dagster.domains.landed_tables import TABLES
from classfeed_dagster.domains.ledger_rows import LEDGER_FRAMES
from classfeed_dagster.domains.measures import Measures, added_up
from classfeed_dagster.domains.movement_transactions import movement_transactions
from classfeed_dagster.domains.rules import find
from classfeed_dagster.domains.slice import Slice
from classfeed_dagster.errors import OvertakenError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore

CONSENTED = CONSENTED_PORTFOLIOS.name
FRAMES: Mapping[str, tuple[Frame, ...]] = {
    CONSENTED: (CONSENTED_PORTFOLIOS, FINDINGS),
    **{domain: (*frames, FINDINGS) for domain, frames in columns.DOMAINS.items()},
}
DOMAINS: tuple[str, ...] = tuple(FRAMES)
# What is stored of each domain: its frames, and its part of the delivered ledger's input.
STORED: Mapping[str, tuple[Frame, ...]] = {
    domain: (*frames, LEDGER_FRAMES[domain]) if domain in LEDGER_FRAMES else frames for domain, frames in FRAMES.items()
}

_COMPUTE: Mapping[str, Callable[[Slice], dict[str, pl.DataFrame]]] = {
    CONSENTED: lambda part: {CONSENTED: part.consented},
    "account_details": account_details,
    "account_balances": account_balances,
    "investment_holdings": investment_holdings,
    "movement_transactions": movement_transactions,
}
_DIGEST_LENGTH = 32  # hexadecimal digits of a file's SHA-256 in its name


class MixedSnapshotsError(OvertakenError):
    """Refusal to combine frames of different snapshots, dates or audiences."""


class AudienceNotReadError(OvertakenError):
    """Refusal of a snapshot that was not read for the audience, and so lacks data of its document."""


class DomainReference(BaseModel, frozen=True):
    """A computed domain: the location of its frames, and figures about them for people. Holds no personal data."""

    domain: str
    business_date: dt.date
    audience: str
    snapshot_id: str
    slices: int
    frames: dict[str, StoredTable]
    measures: dict[str, int | str]


class DomainShard(BaseModel, frozen=True, populate_by_name=True, serialize_by_alias=True):
    """One shard of a domain, which any worker may compute in advance. A domain is merged from all its shards."""

    input_digest: str = Field(alias="made_from")  # a shard with the same digest is not computed again
    frames: dict[str, StoredFile]
    measures: dict[str, int | str]


class DomainSlices:
    """The frames of several domains, opened together and read slice by slice. Findings are merged over all domains."""

    def __init__(
        self,
        store: ObjectStore,
        references: Iterable[DomainReference],
        slices: range | None = None,
        *,
        ledger_rows: bool = True,
    ) -> None:
        self._references = list(references)
        left_out = set() if ledger_rows else {frame.name for frame in LEDGER_FRAMES.values()}
        tables = {
            (f"{FINDINGS.name}@{reference.domain}" if name == FINDINGS.name else name): table
            for reference in self._references
            for name, table in reference.frames.items()
            if name not in left_out
        }
        self._files = SlicedFiles(store, tables, slices=slices)

    def __enter__(self) -> Self:
        self._files.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._files.slices)

    def slice(self, number: int) -> dict[str, pl.DataFrame]:
        """Return the frames of slice ``number`` (from 0) by name."""
        frames = self._files.slice(number)
        findings = [frames.pop(name) for name in list(frames) if name.startswith(f"{FINDINGS.name}@")]
        return {**frames, FINDINGS.name: FINDINGS.conform(pl.concat(findings))}

    def __iter__(self) -> Iterator[dict[str, pl.DataFrame]]:
        for number in self._files.slices:
            yield self.slice(number)


def build_consented_portfolios(store: ObjectStore, snapshot: Snapshot, audience: RecipientSchedule) -> DomainReference:
    """Compute and store the portfolios that share data with ``audience`` on the snapshot's business date.

    Raise AudienceNotReadError if the snapshot was not read for the audience, ValueError if no document is due.
    """
    _require_read(snapshot, audience)

    def shard(slices: range) -> DomainShard:
        with open_slices(snapshot, store, TABLES[CONSENTED], slices) as landed:
            day = snapshot.business_date
            late_from, values = snapshot.late_from, snapshot.unreadable_values
            parts = (
                Slice(tables, audience, day, consented_portfolios(tables, audience, day), late_from, values)
                for tables in landed
            )
            return _build(store, snapshot, audience, CONSENTED, parts)

    return _merge(snapshot, audience, CONSENTED, map(shard, snapshot.shards))


def build_domain(
    store: ObjectStore,
    snapshot: Snapshot,
    audience: RecipientSchedule,
    domain: str,
    consented: DomainReference,
    *,
    code_version: str = "",
    ahead: Callable[[int], DomainShard | None] = lambda shard: None,
) -> DomainReference:
    """Compute and store one export domain for the portfolios in ``consented``.

    ``ahead`` returns a shard (from 0) that was computed in advance, or None. Shards with another input digest are
    ignored and computed here. Raise MixedSnapshotsError if ``consented`` is of another snapshot or audience,
    AudienceNotReadError if the snapshot was not read for the audience, KeyError for an unknown domain.
    """
    _require_consented_of(snapshot, audience, consented)
    input_digest = _input_digest(snapshot, audience, domain, consented, code_version)

    def shard(number: int) -> DomainShard:
        precomputed = ahead(number)
        if precomputed is not None and precomputed.input_digest == input_digest:
            return precomputed
        return build_domain_shard(store, snapshot, audience, domain, consented, number, code_version=code_version)

    return _merge(snapshot, audience, domain, map(shard, range(len(snapshot.shards))))


def build_domain_shard(
    store: ObjectStore,
    snapshot: Snapshot,
    audience: RecipientSchedule,
    domain: str,
    consented: DomainReference,
    number: int,
    *,
    code_version: str = "",
) -> DomainShard:
    """Compute and store shard ``number`` (from 0) of an export domain. Raise as ``build_domain`` does."""
    _require_consented_of(snapshot, audience, consented)
    slices = snapshot.shards[number]
    with (
        open_slices(snapshot, store, TABLES[domain], slices) as landed,
        SlicedFiles(store, {CONSENTED: consented.frames[CONSENTED]}, slices=slices) as sharing,
    ):
        day = snapshot.business_date
        late_from, values = snapshot.late_from, snapshot.unreadable_values
        parts = (
            Slice(landed.slice(at), audience, day, sharing.slice(at)[CONSENTED], late_from, values) for at in slices
        )
        input_digest = _input_digest(snapshot, audience, domain, consented, code_version)
        return _build(store, snapshot, audience, domain, parts, input_digest)


def _input_digest(
    snapshot: Snapshot, audience: RecipientSchedule, domain: str, consented: DomainReference, code_version: str
) -> str:
    return "/".join((snapshot.snapshot_id, audience.key, domain, consented.frames[CONSENTED].sha256, code_version))


def read_consent_roll(
    store: ObjectStore, snapshot: Snapshot, audience: RecipientSchedule, consented: DomainReference
) -> ConsentRoll:
    """Return the consent roll-forward of the date, from the landed consents and the ``consented`` frame."""
    _require_consented_of(snapshot, audience, consented)
    with open_slices(snapshot, store, TABLES[CONSENTED]) as landed:
        consents = [consent for tables in landed for consent in consents_of(tables)]
    return consent_roll(consents, read_frame(store, consented, CONSENTED), audience, snapshot.business_date)


def read_frame(store: ObjectStore, reference: DomainReference, name: str) -> pl.DataFrame:
    """Return one frame of a domain, all slices at once. For small frames: consented portfolios and findings."""
    frames = {frame.name: frame for frame in FRAMES[reference.domain]}
    with SlicedFiles(store, {name: reference.frames[name]}) as files:
        return pl.concat([frames[name].empty(), *(tables[name] for tables in files)])


def open_domains(
    store: ObjectStore, references: Iterable[DomainReference], slices: range | None = None, *, ledger_rows: bool = True
) -> DomainSlices:
    """Open the frames of several domains together, all slices or only ``slices``. Use in a ``with`` block.

    ``ledger_rows``: with the input of the delivered ledger. Raise MixedSnapshotsError unless all are of one snapshot,
    date and audience, each domain once.
    """
    listed = list(references)
    if not listed:
        raise ValueError("no domains to open: pass at least one domain reference")
    origins = {(it.snapshot_id, it.business_date, it.audience, it.slices) for it in listed}
    if len(origins) > 1 or len({reference.domain for reference in listed}) < len(listed):
        named = ", ".join(f"{it.domain} of {it.audience} {it.business_date} from {it.snapshot_id}" for it in listed)
        raise MixedSnapshotsError(
            f"frames of different snapshots cannot be combined: {named}. Rebuild the consented portfolios and every "
            "domain from one snapshot of one date"
        )
    return DomainSlices(store, listed, slices, ledger_rows=ledger_rows)


def _require_read(snapshot: Snapshot, audience: RecipientSchedule) -> None:
    if audience.key not in snapshot.audiences:
        raise AudienceNotReadError(
            f"snapshot {snapshot.snapshot_id} of {snapshot.business_date.isoformat()} was read for "
            f"{', '.join(snapshot.audiences)}, not for {audience.key}: take a fresh snapshot that includes it"
        )


def _require_consented_of(snapshot: Snapshot, audience: RecipientSchedule, consented: DomainReference) -> None:
    _require_read(snapshot, audience)
    expected = (CONSENTED, snapshot.snapshot_id, snapshot.business_date, audience.key)
    if (consented.domain, consented.snapshot_id, consented.business_date, consented.audience) != expected:
        raise MixedSnapshotsError(
            f"the domain is built from snapshot {snapshot.snapshot_id} of {snapshot.business_date.isoformat()} for "
            f"{audience.key}, but was given {consented.domain} of {consented.audience} "
            f"{consented.business_date.isoformat()} from {consented.snapshot_id}: build the consented portfolios again"
        )


def _build(
    store: ObjectStore,
    snapshot: Snapshot,
    audience: RecipientSchedule,
    domain: str,
    parts: Iterable[Slice],
    input_digest: str = "",
) -> DomainShard:
    measures = Measures(FRAMES[domain])
    with tempfile.TemporaryDirectory(prefix="classfeed-domains-") as scratch:
        with ExitStack() as writers:
            files = {
                frame.name: writers.enter_context(
                    RowGroups(Path(scratch) / f"{frame.name}.parquet", _arrow(frame.empty()).schema)
                )
                for frame in STORED[domain]
            }
            for part in parts:
                frames = _COMPUTE[domain](part)
                frames[FINDINGS.name] = find(domain, part, frames)
                for name, file in files.items():
                    file.write(_arrow(frames[name]))
                measures.add({frame.name: frames[frame.name] for frame in FRAMES[domain]})
                del part, frames  # frees the memory before the next slice is read
        folder = f"domains/{snapshot.business_date.isoformat()}/{audience.key}"
        stored = {name: file.store(store, _content_keys(f"{folder}/{name}")).files[0] for name, file in files.items()}
    return DomainShard(input_digest=input_digest, frames=stored, measures=measures.figures())


def _content_keys(folder: str) -> Callable[[int, str], str]:
    return lambda _, digest: f"{folder}/{digest[:_DIGEST_LENGTH]}.parquet"  # an existing file has equal content


def _merge(
    snapshot: Snapshot, audience: RecipientSchedule, domain: str, shards: Iterable[DomainShard]
) -> DomainReference:
    parts = list(shards)
    frames = {
        frame.name: StoredTable(
            files=tuple(shard.frames[frame.name] for shard in parts), shard_slices=snapshot.shard_slices
        )
        for frame in STORED[domain]
    }
    return DomainReference(
        domain=domain,
        business_date=snapshot.business_date,
        audience=audience.key,
        snapshot_id=snapshot.snapshot_id,
        slices=len(snapshot.slices),
        frames=frames,
        measures={
            **added_up(shard.measures for shard in parts),
            "bytes": sum(table.bytes for table in frames.values()),
        },
    )


def _arrow(frame: pl.DataFrame) -> pa.Table:
    # Plain strings, not views: the Parquet file's metadata is then the same for every reader.
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
