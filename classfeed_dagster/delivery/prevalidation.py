"""Records examined ahead: while a page's portfolios are still being rendered, on another core, and on record by hash.

A page can't be written before the last portfolio is rendered, since it says how many pages there are; its records are
known long before. The gate reads the staged file all the same, whole: where it finds, by their SHA-256, exactly the
bytes that were examined, it takes what was found; anything else is examined then and there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, NonNegativeInt

from classfeed_dagster.delivery.manifest import ControlTotals, Sha256
from classfeed_dagster.documents.document_format import DocumentFormat, KnownRecords, RecordInspection
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import Record, from_json, to_json


class ExaminedBlock(Record):
    """Facts of some records of one section: see ``RecordInspection``."""

    counts: dict[str, NonNegativeInt]
    totals: ControlTotals
    portfolios: tuple[str, ...]
    removed: tuple[str, ...]
    without_currency: tuple[str, ...]


class AheadRecord(Record):
    """What was found of a page's records before the page was written."""

    schema_version: Literal[1] = 1
    code_version: str = Field(description="the code that examined them: other code examines for itself")
    blocks: dict[Sha256, ExaminedBlock] = Field(description="by the SHA-256 that the format gives to a block's bytes")


def examine_ahead(document: DocumentFormat, sections: Mapping[str, Iterable[bytes]]) -> KnownRecords:
    """The facts of a page's records, by block."""
    found: dict[str, RecordInspection] = {}
    for section, chunks in sections.items():
        found.update(document.inspect_records(section, chunks))
    return found


def record_ahead(store: ObjectStore, key: str, code_version: str, found: KnownRecords) -> None:
    """Put on record what was found of a page's records; what is there already stays."""
    blocks = {
        digest: ExaminedBlock(
            counts=dict(facts.totals.counts),
            totals=ControlTotals.of(facts.totals),
            portfolios=tuple(sorted(facts.portfolios)),
            removed=tuple(sorted(facts.removed)),
            without_currency=facts.without_currency,
        )
        for digest, facts in found.items()
    }
    store.create(key, to_json(AheadRecord(code_version=code_version, blocks=blocks)))


def read_ahead(store: ObjectStore, key: str, code_version: str) -> KnownRecords:
    """What is on record under ``key``; nothing if there is no record, it can't be read, or other code made it."""
    try:
        record = from_json(AheadRecord, store.read(key), store.location(key))
    except (ObjectNotFoundError, DamagedRecordError):
        return {}
    if record.code_version != code_version:
        return {}
    return {
        digest: RecordInspection(
            block.totals.with_counts(dict(block.counts)),
            frozenset(block.portfolios),
            frozenset(block.removed),
            block.without_currency,
        )
        for digest, block in record.blocks.items()
    }


def ahead_key(page_key: str, message_id: str) -> str:
    """Where the record of a staged page is: beside the page."""
    return f"{page_key.rpartition('/')[0]}/examined/{message_id}.json"
