"""The manifest: the record that makes a delivery effective, typed and documented field by field.

A revision's files are written first, its manifest last. Manifests of a feed form a chain by their hashes, which
reveals a gap or a change. A place in the chain whose attempt was abandoned is filled by a void manifest, which
delivers nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveInt, TypeAdapter

from classfeed_dagster.delivery.portfolio_list import ListsPortfolios
from classfeed_dagster.documents.document_format import CurrencyTotals, Totals
from classfeed_dagster.ledger.files import LedgerFiles
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, from_json, is_none

Sum = Annotated[Decimal, Field(max_digits=38, decimal_places=6)]


class ChainEntry(StoredRecord):
    """One position of a feed's chain, claimed for one (business date, revision)."""

    feed: str
    business_date: dt.date
    revision: NonNegativeInt
    pages: Sha256 | None = Field(
        default=None,
        description="digest of all pages, if there are several: only an attempt with these pages continues the place",
        exclude_if=is_none,
    )


class Link(StoredRecord):
    """An object in the store, by its hash."""

    key: str = Field(description="its key in the store")
    sha256: Sha256 = Field(description="SHA-256 of its bytes")


class SnapshotRef(StoredRecord):
    """The snapshot of bigsite from which the whole delivery is computed."""

    id: str = Field(description="the snapshot's id, as in the landing's keys")
    snapshot_at: AwareDatetime = Field(description="when bigsite was read, by bigsite's own clock; UTC")
    descriptor_key: str = Field(description="the snapshot descriptor's key in the store")
    descriptor_sha256: Sha256 = Field(description="SHA-256 of the descriptor's bytes")


class CurrencySums(StoredRecord):
    """Sums in one currency, exact to the cent; decimals are strings in JSON."""

    ledger_balance: Sum = Field(description="sum of cash balances")
    market_value: Sum = Field(description="sum of holdings' values")
    cash_credits: Sum = Field(description="sum of positive cash movements")
    cash_debits: Sum = Field(description="sum of negative cash movements: zero or negative")
    net_amount: Sum = Field(description="sum of contract notes' net amounts")


class ControlTotals(StoredRecord):
    """Control totals of the records of one page or of all pages. Credits and debits of cash are separate."""

    currencies: dict[str, CurrencySums] = Field(description="by ISO 4217 code")
    units_held: Sum = Field(description="sum of holdings' units")
    units_moved: Sum = Field(description="sum of movements' units other than income's")

    @classmethod
    def of(cls, totals: Totals) -> ControlTotals:
        """Return the persisted form of a page's totals."""
        return cls(
            currencies={
                name: CurrencySums(
                    ledger_balance=sums.ledger_balance,
                    market_value=sums.market_value,
                    cash_credits=sums.cash_credits,
                    cash_debits=sums.cash_debits,
                    net_amount=sums.net_amount,
                )
                for name, sums in sorted(totals.currencies.items())
            },
            units_held=totals.units_held,
            units_moved=totals.units_moved,
        )

    def with_counts(self, counts: dict[str, int]) -> Totals:
        """Return the totals in the form that rendering and reading use."""
        return Totals(
            counts,
            {name: CurrencyTotals(**sums.model_dump()) for name, sums in self.currencies.items()},
            self.units_held,
            self.units_moved,
        )


class Page(StoredRecord):
    """One file of the delivery."""

    message_id: str = Field(description="<feed>-<YYYYMMDD>-r<revision>-p<page>, never reused")
    key: str = Field(description="the file's key in the store")
    bytes: NonNegativeInt = Field(description="size of the file as stored")
    sha256: Sha256 = Field(description="SHA-256 of the file as stored")
    document_bytes: NonNegativeInt = Field(description="size of the document before compression")
    document_sha256: Sha256 = Field(description="SHA-256 of the document before compression")
    counts: dict[str, NonNegativeInt] = Field(description="records by section")
    totals: ControlTotals = Field(description="control totals of the page's records")

    @property
    def expected(self) -> Totals:
        """Return counts and totals together."""
        return self.totals.with_counts(dict(self.counts))


class RuleCount(StoredRecord):
    """A rule that a portfolio breaks."""

    rule: str = Field(description="the rule's name")
    findings: PositiveInt = Field(description="number of breaches in the portfolio")
    subjects: tuple[str, ...] = Field(description="ids and codes that break it, at most five, never names")
    detail: str | None = Field(
        default=None, description="the first finding in detail; no personal data", exclude_if=is_none
    )


class HeldBack(StoredRecord):
    """A portfolio that is consented for the date and not delivered, with the reason."""

    number: str = Field(description="the portfolio's number")
    kind: Literal["RULE", "WAITING", "CONSENT_ENDED"] = Field(description="category of the reason")
    reason: str = Field(description="the reason, for people")
    rules: tuple[RuleCount, ...] = Field(default=(), description="the rules it breaks")
    waiting_for: dt.date | None = Field(
        default=None, description="the earlier business date that must be delivered first"
    )


class PassedCheck(StoredRecord):
    """A verdict that allowed the delivery."""

    check: str = Field(description="the check's name")
    passed: bool = Field(description="its verdict over exactly the pages listed")
    key: str = Field(description="the verdict's key in the store")
    evaluated_by: str = Field(description="correlation id of the attempt that evaluated it")


class Manifest(ListsPortfolios):
    """A delivery: its files, totals and verdicts, and the portfolios in it."""

    kind: Literal["delivery"] = "delivery"
    feed: str = Field(description="the feed's name")
    recipient: str = Field(description="the recipient's name")
    business_date: dt.date = Field(description="the ASX business day")
    sequence_number: PositiveInt = Field(description="1 for the feed's first business date, counting up")
    revision: NonNegativeInt = Field(description="0 for the first delivery of the date; re-issues count up")
    chain_position: PositiveInt = Field(description="place in the feed's chain of manifests, from 1")
    previous: Link | None = Field(description="the manifest one place earlier; null at position 1")
    replaces: str | None = Field(description="message id of page 1 of the revision before; null on the first delivery")
    recorded_after: AwareDatetime = Field(description="start of the window of recorded_at, included")
    recorded_before: AwareDatetime = Field(description="end of the window of recorded_at, not included")
    snapshot: SnapshotRef
    build_id: str = Field(pattern=r"^[0-9a-f]{32}$", description="identifies the bytes and the plan that was delivered")
    code_version: str = Field(description="the code that built it")
    correlation_id: str = Field(description="the attempt that delivered it")
    consent_checked_at: AwareDatetime = Field(description="time of the last consent query, by bigsite's clock")
    flags: dict[str, str | int | bool] = Field(default={}, description="the feed's switches in effect")
    pages: tuple[Page, ...] = Field(min_length=1)
    held_back: tuple[HeldBack, ...] = Field(description="every portfolio held back, ordered by number")
    counts: dict[str, NonNegativeInt] = Field(description="records by section, over all pages")
    totals: ControlTotals = Field(description="what all pages add up to")
    ledger: LedgerFiles | None = Field(
        default=None,
        description="the delivered ledger of this revision, by hash; absent before there was one",
        exclude_if=is_none,
    )
    checkpoint: Link | None = Field(
        default=None,
        description="earlier revisions of the date, folded; absent unless many were delivered since the last one",
        exclude_if=is_none,
    )
    verdicts: tuple[PassedCheck, ...] = Field(description="the checks that the delivery required")


class VoidManifest(StoredRecord):
    """A place in the chain whose attempt was abandoned. It delivers nothing."""

    schema_version: Literal[1] = Field(default=1, description="version of this record's form")
    kind: Literal["void"] = "void"
    feed: str = Field(description="the feed's name")
    business_date: dt.date = Field(description="the business date of the abandoned attempt")
    revision: NonNegativeInt = Field(description="the revision of the abandoned attempt")
    chain_position: PositiveInt = Field(description="place in the feed's chain of manifests, from 1")
    previous: Link | None = Field(description="the manifest one place earlier; null at position 1")
    reason: str = Field(description="the reason for closing the place, for people")
    correlation_id: str = Field(description="the attempt that closed it")


AnyManifest = Manifest | VoidManifest
_ADAPTER: TypeAdapter[AnyManifest] = TypeAdapter(Annotated[AnyManifest, Field(discriminator="kind")])


def read_manifest(data: bytes, location: str, store: ObjectStore) -> AnyManifest:
    """Return the manifest in ``data``; raise DamagedRecordError, naming ``location``, if it is invalid.

    Portfolios that a file lists are read from ``store`` when they are iterated.
    """
    manifest = from_json(_ADAPTER, data, location)
    return manifest.listed_in(store) if isinstance(manifest, Manifest) else manifest


SCHEMA_ID = "urn:classfeed:manifest:2"  # with the schema's version; docs/manifest.schema.json is this schema


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``manifest.json``, for programs that read deliveries without this code."""
    return {"$id": SCHEMA_ID, **_ADAPTER.json_schema(mode="serialization")}


def sum_totals(pages: Iterable[Page]) -> Totals:
    """Return the control totals over ``pages``."""
    return sum((page.expected for page in pages), Totals())
