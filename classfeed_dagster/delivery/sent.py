"""Sent records, positions and identities of a feed, read from the ledger files that its manifests name.

A date's ledger is a fold over its revisions: of each portfolio, the latest revision that delivered it counts. Void
revisions have no ledger. A delivery from before the ledger has one only after ``classfeed ledger rebuild``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import polars as pl
from pydantic import Field

from classfeed_dagster.delivery.chain import chain_entry, last_place, manifest_of
from classfeed_dagster.delivery.manifest import ChainEntry, Manifest
from classfeed_dagster.delivery.state import CHECKPOINT_EVERY, DeliveredState, delivered_state, read_checkpoint
from classfeed_dagster.ledger.files import FRAMES, POSITIONS, Kind, LedgerFiles, ledger_prefix, open_rows, read_kind
from classfeed_dagster.ledger.positions import CARRIED, roll_forward
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, find_record

Entries = Callable[[int], ChainEntry]
PositionsOf = Callable[[pl.Series], pl.DataFrame]  # from keys of portfolios to the columns CARRIED of their positions


class RebuiltLedger(StoredRecord):
    """The ledger of a delivery from before the ledger, named by a separate record instead of the manifest."""

    schema_version: Literal[1] = 1
    manifest_sha256: Sha256 = Field(description="of the manifest that the ledger belongs to")
    ledger: LedgerFiles


def rebuilt_key(feed: str, day: dt.date, revision: int) -> str:
    """Return the key of a rebuilt ledger's record."""
    return f"{ledger_prefix(feed, day, revision)}rebuilt.json"


def ledger_of(store: ObjectStore, manifest: Manifest, manifest_sha256: str) -> LedgerFiles | None:
    """Return the ledger of a delivery; None if it was delivered before the ledger and not rebuilt since."""
    if manifest.ledger is not None:
        return manifest.ledger
    record = find_record(store, RebuiltLedger, rebuilt_key(manifest.feed, manifest.business_date, manifest.revision))
    return record.ledger if record is not None and record.manifest_sha256 == manifest_sha256 else None


@dataclass(frozen=True)
class SentDate:
    """Records of one business date of a feed, by its ledger."""

    store: ObjectStore
    state: DeliveredState
    portfolios: pl.Series | None = None  # keys of the only portfolios in its frames; None: all

    @cached_property
    def ledgers(self) -> tuple[tuple[Manifest, LedgerFiles | None], ...]:
        """Return the deliveries that count, in order of revision, each with its ledger."""
        return tuple(
            (revision.manifest, ledger_of(self.store, revision.manifest, revision.sha256))
            for revision in self.state.current
            if isinstance(revision.manifest, Manifest)
        )

    @property
    def complete(self) -> bool:
        """Return True if the date was delivered and each of its deliveries has a ledger."""
        return bool(self.ledgers) and all(ledger is not None for _, ledger in self.ledgers)

    @property
    def has_positions(self) -> bool:
        """Return True if each delivery of the date has positions; they are omitted if earlier dates have no ledger."""
        return self.complete and all(
            ledger is not None and len(ledger.of("positions")) == len(ledger.of("portfolios"))
            for _, ledger in self.ledgers
        )

    def frame(self, kind: Kind, columns: Sequence[str] | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
        """Return the rows of one kind that count, or some ``columns`` of those ``where`` is true."""
        names = list(FRAMES[kind].schema if columns is None else columns)
        read = list(dict.fromkeys([*names, "portfolio_number", "portfolio_id"]))
        parts = [FRAMES[kind].empty().select(names)]
        for manifest, ledger in self.ledgers:
            if ledger is None:
                continue
            prefix = ledger_prefix(manifest.feed, manifest.business_date, manifest.revision)
            rows = read_kind(self.store, prefix, ledger, kind, read, where)
            if self.portfolios is not None:
                rows = rows.filter(pl.col("portfolio_id").is_in(self.portfolios.implode()))
            parts.append(rows.filter(self._counts(manifest)).select(names))
        return pl.concat(parts)

    def _counts(self, manifest: Manifest) -> pl.Expr:
        # Of each portfolio, the latest revision that delivered it counts.
        if len(self.ledgers) == 1 and not self.state.withheld_numbers:
            return pl.lit(True)
        portfolios = self.state.portfolios.items()
        latest = [number for number, delivery in portfolios if delivery.revision == manifest.revision]
        return pl.col("portfolio_number").is_in(pl.Series(latest, dtype=pl.String).implode())

    @contextmanager
    def open_positions(self) -> Iterator[PositionsOf]:
        """Open the positions that count, to be read for some portfolios at a time, as they are carried on."""
        with ExitStack() as stack:
            opened = [
                (
                    stack.enter_context(
                        open_rows(
                            self.store,
                            ledger_prefix(manifest.feed, manifest.business_date, manifest.revision),
                            ledger.of("positions"),
                            "positions",
                            CARRIED,
                        )
                    ),
                    self._counts(manifest),
                )
                for manifest, ledger in self.ledgers
                if ledger is not None
            ]

            def of(portfolio_ids: pl.Series) -> pl.DataFrame:
                found = (rows("portfolio_id", portfolio_ids).filter(counts) for rows, counts in opened)
                return pl.concat([POSITIONS.empty().select(CARRIED), *found])

            yield of


def sent_date(store: ObjectStore, feed: str, day: dt.date, before: int | None = None) -> SentDate:
    """Return the records of ``day``; with ``before``, as of the claim of that position of the chain."""
    state = delivered_state(store, feed, day)
    return SentDate(store, state if before is None else state.before(before))


def positions_at(
    store: ObjectStore,
    feed: str,
    audience: RecipientSchedule,
    day: dt.date,
    before: int | None = None,
    entries: Entries | None = None,
) -> pl.DataFrame | None:
    """Return the positions of ``day``; None if a delivery that they depend on has no ledger.

    A date's stored positions depend on those of the previous date. If an earlier date was re-issued after ``day`` was
    delivered, they are recomputed from that date on. ``before`` as in ``sent_date``. ``entries`` reads the chain.
    """
    records_sent = sent_date(store, feed, day, before)
    if not records_sent.has_positions:
        return None
    first = reissued_since(store, feed, records_sent, before, entries)
    if first is None:
        return records_sent.frame("positions")
    previous = audience.previous(first)
    positions = POSITIONS.empty() if previous is None else positions_at(store, feed, audience, previous, before)
    for date in audience.dates_between(first, day):
        positions = None if positions is None else roll_date(positions, sent_date(store, feed, date, before), date)
    return positions


@contextmanager
def open_positions_at(
    store: ObjectStore, feed: str, audience: RecipientSchedule, day: dt.date | None, before: int | None = None
) -> Iterator[PositionsOf | None]:
    """Open the positions of ``day`` (None: the feed has no earlier date) as ``positions_at`` returns them.

    They are read for some portfolios at a time, unless they must be computed.
    """
    sent = None if day is None else sent_date(store, feed, day, before)
    if day is None or sent is None:
        yield _among(POSITIONS.empty())
    elif not sent.has_positions:
        yield None
    elif reissued_since(store, feed, sent, before) is None:
        with sent.open_positions() as positions:
            yield positions
    else:
        computed = positions_at(store, feed, audience, day, before)
        yield None if computed is None else _among(computed)


def _among(positions: pl.DataFrame) -> PositionsOf:
    return lambda ids: positions.filter(pl.col("portfolio_id").is_in(ids.implode())).select(CARRIED)


def roll_date(previous: pl.DataFrame, sent: SentDate, day: dt.date, *, sums_only: bool = False) -> pl.DataFrame:
    """Return the positions after ``day``, from those of the date before and the date's records alone.

    With ``sums_only``, without what the date states.
    """
    portfolios = sent.frame("portfolios", ["portfolio_id", "change", "extract"])
    current = portfolios.filter(pl.col("change") != "REMOVED")["portfolio_id"]
    full = portfolios.filter(pl.col("extract") == "FULL")["portfolio_id"]
    positions = POSITIONS.empty() if sums_only else sent.frame("positions")
    stated = positions.filter(pl.col("counts_on").is_null(), pl.col("stated").is_not_null())
    carried = previous.filter(pl.col("portfolio_id").is_in(current.implode()))
    return roll_forward(carried, sent.frame("records"), stated, full, day)


def reissued_since(
    store: ObjectStore, feed: str, sent: SentDate, before: int | None = None, entries: Entries | None = None
) -> dt.date | None:
    """Return the earliest date before ``sent`` that was delivered again after its first delivery that counts."""
    first, _ = sent.ledgers[0]
    earlier: list[dt.date] = []
    position = _end(store, feed, before) - 1
    while position > first.chain_position:
        entry = chain_entry(store, feed, position) if entries is None else entries(position)
        position -= 1
        if entry.business_date < first.business_date or entry.revision >= CHECKPOINT_EVERY:
            place = manifest_of(store, entry)
            manifest = None if place is None else place[0]
            if isinstance(manifest, Manifest) and entry.business_date < first.business_date:
                earlier.append(entry.business_date)
            checkpoint = None if manifest is None else read_checkpoint(store, manifest)
            if checkpoint is not None and checkpoint.chain_position == position:
                position = checkpoint.run_from  # the entries skipped are of this date as well
    return min(earlier, default=None)


def records_of(
    store: ObjectStore, feed: str, dates: Iterable[dt.date], columns: Sequence[str], where: pl.Expr | None = None
) -> pl.DataFrame:
    """Return ``columns`` of the records that some dates sent, with each portfolio's ``extract`` and the ``sent_on``.

    ``where``: a condition on the records; the others take no memory.
    """
    parts = []
    for day in dates:
        date_records = sent_date(store, feed, day)
        if not date_records.ledgers:
            continue
        extracts = date_records.frame("portfolios", ["portfolio_id", "extract"])
        rows = date_records.frame("records", list(dict.fromkeys([*columns, "portfolio_id"])), where)
        parts.append(rows.join(extracts, on="portfolio_id", how="left").with_columns(pl.lit(day).alias("sent_on")))
    empty = FRAMES["records"].empty().select(list(dict.fromkeys([*columns, "portfolio_id"])))
    empty = empty.with_columns(pl.lit(None, pl.String()).alias("extract"), pl.lit(None, pl.Date()).alias("sent_on"))
    return pl.concat([empty, *parts])


def _end(store: ObjectStore, feed: str, before: int | None) -> int:
    # The first position of the chain that is not read.
    if before is not None:
        return before
    last = last_place(store, feed)
    return last.position + 1 if last else 1


def identities_before(store: ObjectStore, feed: str, before: int | None = None) -> pl.DataFrame | None:
    """Return every identity that the feed sent so far; None if its latest delivery has no ledger.

    ``before`` as in ``sent_date``.
    """
    for position in range(_end(store, feed, before) - 1, 0, -1):
        place = manifest_of(store, chain_entry(store, feed, position))
        if place is None:
            continue  # the last position, whose attempt is in progress
        manifest, manifest_sha256 = place
        if isinstance(manifest, Manifest):
            ledger = ledger_of(store, manifest, manifest_sha256)
            if ledger is None:
                return None
            prefix = ledger_prefix(feed, manifest.business_date, manifest.revision)
            return read_kind(store, prefix, ledger, "identities")
    return FRAMES["identities"].empty()
