"""Prevalidation: inspection of a page's records while other portfolios are rendered, recorded by their hash.

A page cannot be written before the last portfolio is rendered, since it states the number of pages, but its records
are known long before. The gate still reads the whole staged file. For blocks with the SHA-256 of prevalidated records
it uses the recorded result; all other bytes are inspected by the gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, NonNegativeInt

from classfeed_dagster.delivery.manifest import ControlTotals
from classfeed_dagster.documents.document_format import DocumentFormat, KnownRecords, RecordInspection
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, read_record, to_json


class PrevalidatedBlock(StoredRecord):
    """Facts of some records of one section: see ``RecordInspection``."""

    counts: dict[str, NonNegativeInt]
    totals: ControlTotals
    portfolios: tuple[str, ...]
    removed: tuple[str, ...]
    without_currency: tuple[str, ...]


class PrevalidationRecord(StoredRecord):
    """The prevalidated records of one page."""

    schema_version: Literal[1] = 1
    code_version: str = Field(description="the code that inspected them; other code ignores the record")
    blocks: dict[Sha256, PrevalidatedBlock] = Field(description="by the SHA-256 of a block's bytes")


def prevalidate(document: DocumentFormat, sections: Mapping[str, Iterable[bytes]]) -> KnownRecords:
    """Return the facts of a page's records, by block."""
    blocks: dict[str, RecordInspection] = {}
    for section, chunks in sections.items():
        blocks.update(document.inspect_records(section, chunks))
    return blocks


def record_prevalidation(store: ObjectStore, key: str, code_version: str, known: KnownRecords) -> None:
    """Store the facts of a page's records. An existing object is kept."""
    blocks = {
        digest: PrevalidatedBlock(
            counts=dict(facts.totals.counts),
            totals=ControlTotals.of(facts.totals),
            portfolios=tuple(sorted(facts.portfolios)),
            removed=tuple(sorted(facts.removed)),
            without_currency=facts.without_currency,
        )
        for digest, facts in known.items()
    }
    store.create(key, to_json(PrevalidationRecord(code_version=code_version, blocks=blocks)))


def read_prevalidation(store: ObjectStore, key: str, code_version: str) -> KnownRecords:
    """Return the facts stored under ``key``; none if the record is missing, unreadable or of another code version."""
    try:
        record = read_record(store, PrevalidationRecord, key)
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


def prevalidation_key(page_key: str, message_id: str) -> str:
    """Return the key of a staged page's prevalidated records, next to the page."""
    return f"{page_key.rpartition('/')[0]}/examined/{message_id}.json"
