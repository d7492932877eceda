"""Comparison of a date with the delivered ledger: rows sent before, and findings that hold portfolios back.

A view is computed from the landed frames and the ledger, and stored with its inputs' digest. A document records its
view. Publishing computes the view again once the earlier dates are delivered, and refuses a document of another view.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl
from pydantic import BaseModel

from classfeed_dagster.bigsite.landing import SlicedFiles
from classfeed_dagster.bigsite.queries import CONSENT_TABLE
from classfeed_dagster.delivery.chain import last_place
from classfeed_dagster.delivery.sent import PositionsOf, identities_before, open_positions_at, records_of, sent_date
from classfeed_dagster.domains.build import CONSENTED
from classfeed_dagster.domains.columns import FINDINGS, INSTANT
from classfeed_dagster.domains.ledger_rows import (
    LEDGER_BALANCES,
    LEDGER_FRAMES,
    LEDGER_HOLDINGS,
    LEDGER_RECORDS,
    OPENING_CASH,
    OPENING_UNITS,
    REFERENCES,
    UNITS_SUM,
)
from classfeed_dagster.domains.rules import DELIVERED_BALANCE, ID_SENT_BEFORE, NUMBER_CHANGED
from classfeed_dagster.feed_run.feed_date import FeedDate
from classfeed_dagster.feed_run.references import uncertain_references, unsent_references
from classfeed_dagster.ledger.files import CASH_POSITION, RECORDS, UNITS_POSITION, stated_rows
from classfeed_dagster.ledger.identities import ACCOUNT, contradictions, identities_of
from classfeed_dagster.ledger.positions import record_sums, roll_forward, unbalanced
from classfeed_dagster.stored_records import canonical, sha256
from classfeed_dagster.trading_days import cutoff

_ROW = ("portfolio_number", "transaction_id")
_CANDIDATES_SHOWN = 5


class LedgerView(BaseModel, frozen=True):
    """Rows of the date that were sent on another date, and contradictions of sent records."""

    basis: str  # digest of its inputs
    dropped: tuple[tuple[str, str], ...]  # (portfolio number, TransactionId)
    late: tuple[tuple[str, str], ...]  # rows of closed windows that this date sends
    findings: tuple[tuple[str, str, str, str, str], ...]  # rows of FINDINGS
    refreshed: str = ""  # key of the schedule, if it has refreshes
    references: tuple[tuple[str, str, str], ...] = ()  # (portfolio number, TransactionId, column) of unsent rows

    @property
    def digest(self) -> str:
        """Return the view's SHA-256."""
        refreshed = [self.refreshed] if self.refreshed else []
        references = [self.references] if self.references else []
        return sha256(canonical([self.dropped, self.late, self.findings, *refreshed, *references]))

    def frame(self) -> pl.DataFrame:
        """Return the findings as FINDINGS."""
        return FINDINGS.conform(pl.DataFrame(self.findings, schema=FINDINGS.schema, orient="row"))

    def applied(self, frames: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """Return one slice's frames without movements that another date sent, and references to unsent rows."""
        remaining = dict(frames)
        for name in ("movement_transactions", LEDGER_RECORDS.name):
            if name in remaining and self.dropped:
                dropped = pl.DataFrame(self.dropped, schema=dict.fromkeys(_ROW, pl.String()), orient="row")
                remaining[name] = remaining[name].join(dropped, on=_ROW, how="anti")
            if name in remaining and self.references:
                remaining[name] = self._without_references(remaining[name])
        return remaining

    def _without_references(self, movements: pl.DataFrame) -> pl.DataFrame:
        for column in REFERENCES:
            rows = [(number, name) for number, name, of in self.references if of == column]
            unsent = pl.DataFrame(rows, schema=dict.fromkeys(_ROW, pl.String()), orient="row")
            marked = unsent.with_columns(pl.lit(True).alias("_unsent"))
            movements = movements.join(marked, on=_ROW, how="left", maintain_order="left").with_columns(
                pl.when(pl.col("_unsent").is_null()).then(pl.col(column)).alias(column)
            )
            movements = movements.drop("_unsent")
        return movements


def ledger_view(work: FeedDate) -> LedgerView:
    """Return the current view of the date, from the store if its inputs are unchanged."""
    basis = _basis(work)
    name = f"{work.feed.name}/ledger"
    stored = work.runtime.find_reference(name, work.day, LedgerView)
    if stored is not None and stored.basis == basis:
        return stored
    view = _Examination(work).view(basis)
    work.runtime.save_reference(name, work.day, view)
    return view


def _basis(work: FeedDate) -> str:
    last = last_place(work.store, work.feed.name)
    place = None if last is None else [last.position, None if last.manifest is None else last.manifest.sha256]
    snapshot = work.snapshot()
    code = work.runtime.settings.code_version
    return sha256(canonical([place, snapshot.snapshot_id, work.inputs(), work.flags.recorded, work.format.name, code]))


class _Examination:
    """Comparison of one date with the ledger."""

    def __init__(self, work: FeedDate) -> None:
        self._work = work
        self._feed, self._day, self._audience = work.feed.name, work.day, work.audience
        self._snapshot = work.snapshot()
        self._later = self._delivered_later()
        self._findings: list[tuple[str, str, str, str, str]] = []

    def view(self, basis: str) -> LedgerView:
        """Compute the view, slice by slice."""
        identities = identities_before(self._work.store, self._feed)
        sent_rows = self._sent_elsewhere()
        sent_ids = self._ids_sent_before(sent_rows)
        dropped: list[tuple[str, str]] = []
        late: list[tuple[str, str]] = []
        uncertain: list[pl.DataFrame] = []
        previous, since = self._audience.previous(self._day), self._snapshot.late_from
        with open_positions_at(self._work.store, self._feed, self._audience, previous) as positions:
            for frames in self._slices():
                consented = frames[CONSENTED]
                records = frames.get(LEDGER_RECORDS.name, RECORDS.empty())
                stated = stated_rows(frames.get(LEDGER_BALANCES.name), frames.get(LEDGER_HOLDINGS.name))
                if identities is not None:
                    now = identities_of(consented, stated, self._day)
                    self._find_contradictions(contradictions(identities, now), consented)
                self._find_repeated_ids(records, sent_ids)
                closed = self._of_closed_windows(records, consented)
                repeated = self._sent_before(records, closed, consented, sent_rows)
                opened = self._in_openings(closed.join(repeated.select(_ROW), on=_ROW, how="anti"))
                repeated = pl.concat([repeated, opened], how="diagonal")
                dropped += repeated.select(_ROW).rows()
                late += closed.join(repeated.select(_ROW), on=_ROW, how="anti").select(_ROW).rows()
                carried = records.join(repeated.select(_ROW), on=_ROW, how="anti")
                window = self._audience.window(self._day)
                uncertain.append(uncertain_references(carried, consented, frames[CONSENT_TABLE], window, since))
                if positions is not None:
                    earlier = pl.col("sent_on") < self._day
                    before = repeated.filter(earlier) if "sent_on" in repeated.columns else repeated
                    unsent = records.join(before.select(_ROW), on=_ROW, how="anti")
                    self._find_unbalanced(positions, unsent, stated, consented)
        return LedgerView(
            basis=basis,
            dropped=tuple(sorted(dropped)),
            late=tuple(sorted(late)),
            findings=tuple(sorted(set(self._findings))),
            refreshed="" if self._work.schedule is self._audience else self._work.schedule.key,
            references=self._unsent_references(uncertain),
        )

    def _slices(self) -> Iterator[Mapping[str, pl.DataFrame]]:
        tables = {
            name: table
            for domain in self._work.domains()
            for name, table in domain.frames.items()
            if name in (CONSENTED, *(frame.name for frame in LEDGER_FRAMES.values()))
        }
        tables[CONSENT_TABLE] = self._snapshot.tables[CONSENT_TABLE]
        with SlicedFiles(self._work.store, tables) as opened:
            yield from opened

    # Rows that were sent on another date.

    def _delivered_later(self) -> list[dt.date]:
        days: list[dt.date] = []
        for day in self._audience.dates_between(self._day + dt.timedelta(days=1), dt.date.max):
            if not sent_date(self._work.store, self._feed, day).ledgers:
                break
            days.append(day)
        return days

    def _looked_back(self) -> list[dt.date]:
        # The dates that may have sent rows of the look-back: those whose window ends after it begins.
        start = self._snapshot.late_from
        if start is None:
            return []
        previous = self._audience.previous(self._day)
        dates = [] if previous is None else self._audience.dates_between(self._audience.first_business_date, previous)
        return [day for day in dates if cutoff(day) > start]

    def _sent_elsewhere(self) -> pl.DataFrame | None:
        # None: the rows that earlier dates sent are not (yet) known, so no row counts as missed.
        store, dates = self._work.store, self._looked_back()
        if not all(sent_date(store, self._feed, day).complete for day in dates):
            return None
        columns = ["portfolio_number", "transaction_id", "recorded_at"]
        start = self._snapshot.late_from or cutoff(self._day)
        earlier = records_of(store, self._feed, dates, columns, pl.col("recorded_at") >= start)
        # A FULL extract of a later date belongs to a later consent.
        later = records_of(store, self._feed, self._later, columns).filter(pl.col("extract") != "FULL")
        return pl.concat([earlier, later])

    def _of_closed_windows(self, records: pl.DataFrame, consented: pl.DataFrame) -> pl.DataFrame:
        delta = consented.filter(pl.col("extract") == "DELTA").select("portfolio_id")
        window = self._audience.window(self._day)
        return records.filter(pl.col("recorded_at") < window.start, pl.col("row_id").is_not_null()).join(
            delta, on="portfolio_id", how="semi"
        )

    def _ids_sent_before(self, sent: pl.DataFrame | None) -> pl.DataFrame:
        if sent is None:
            return pl.DataFrame(schema={"transaction_id": pl.String(), "sent_on": pl.Date()})
        earlier = sent.filter(pl.col("sent_on") < self._day)
        return earlier.select("transaction_id", "sent_on").unique("transaction_id")

    def _find_repeated_ids(self, records: pl.DataFrame, sent_ids: pl.DataFrame) -> None:
        # A row recorded in this window cannot have been sent by an earlier date: its id was given a second time.
        window = self._audience.window(self._day)
        recorded = records.filter(pl.col("recorded_at") >= window.start, pl.col("row_id").is_not_null())
        for row in recorded.join(sent_ids, on="transaction_id").iter_rows(named=True):
            detail = f"the id was sent with {row['sent_on'].isoformat()} for another row"
            self._add(row["portfolio_number"], ID_SENT_BEFORE.name, row["transaction_id"], detail)

    def _sent_before(
        self, records: pl.DataFrame, closed: pl.DataFrame, consented: pl.DataFrame, elsewhere: pl.DataFrame | None
    ) -> pl.DataFrame:
        if elsewhere is None:
            return closed
        searched = records if self._later else closed
        if searched.is_empty():
            return searched
        keys = elsewhere.select("portfolio_id", "transaction_id", "sent_on").unique(["portfolio_id", "transaction_id"])
        repeated = searched.join(keys, on=("portfolio_id", "transaction_id"), how="inner")
        # A FULL extract repeats what earlier dates sent.
        full = consented.filter(pl.col("extract") == "FULL")["portfolio_id"].implode()
        return repeated.filter((pl.col("sent_on") > self._day) | ~pl.col("portfolio_id").is_in(full))

    def _in_openings(self, closed: pl.DataFrame) -> pl.DataFrame:
        # Rows that precede the history under which their window was sent: an opening holds them, even if the customer
        # shares an earlier history since.
        dates = self._looked_back()
        if closed.is_empty() or not dates:
            return closed.clear()
        last_instants = [cutoff(day) - dt.timedelta(microseconds=1) for day in dates]
        windows = pl.DataFrame({"recorded_at": last_instants, "window": dates}).cast({"recorded_at": INSTANT})
        placed = closed.sort("recorded_at").join_asof(windows, on="recorded_at", strategy="forward")
        sent = placed.sort("window").join_asof(
            self._histories,  # in order of the dates, which Polars does not check within groups
            left_on="window",
            right_on="sent_on",
            by="portfolio_id",
            strategy="forward",
            check_sortedness=False,
        )
        return sent.filter(pl.col("transaction_date") < pl.col("history_from")).drop("window", "history_from")

    @cached_property
    def _histories(self) -> pl.DataFrame:
        # Start of the shared history of every portfolio that a date of the look-back sent with data, by date.
        columns = ["portfolio_id", "history_from", "change"]
        frames = [
            sent_date(self._work.store, self._feed, day)
            .frame("portfolios", columns, pl.col("change") != "REMOVED")
            .with_columns(pl.lit(day).alias("sent_on"))
            for day in self._looked_back()
        ]
        return pl.concat(frames).drop("change")

    # References.

    def _unsent_references(self, uncertain: Sequence[pl.DataFrame]) -> tuple[tuple[str, str, str], ...]:
        if not uncertain:
            return ()
        earlier = self._audience.dates_between(self._audience.first_business_date, self._day - dt.timedelta(days=1))
        dates = (
            (sent_date(self._work.store, self._feed, day), self._audience.window(day).start)
            for day in reversed(earlier)
        )
        unsent = unsent_references(pl.concat(uncertain), dates)
        return tuple(sorted(set(unsent.select(*_ROW, "reference").iter_rows())))

    # Numbers.

    def _find_contradictions(self, changes: pl.DataFrame, consented: pl.DataFrame) -> None:
        numbers = dict(consented.select("portfolio_id", "portfolio_number").iter_rows())
        for row in changes.iter_rows(named=True):
            account = row["kind"] == ACCOUNT
            # An account's number is personal: the finding names its key.
            subject_text = "the cash account" if account else f"the portfolio, last sent as {row['was']},"
            detail = (
                f"{subject_text} has another number than it was last sent under"
                if row["conflict"] == "CHANGED"
                else f"the number of {'the cash account' if account else 'the portfolio'} was sent for another one"
            )
            subject = str(row["key_id"]) if account else "portfolio_number"
            self._add(numbers[row["portfolio_id"]], NUMBER_CHANGED.name, subject, detail)

    # Balances.

    @cached_property
    def _sent_before_numbers(self) -> frozenset[str]:
        previous = self._audience.previous(self._day)
        return frozenset() if previous is None else sent_date(self._work.store, self._feed, previous).state.numbers

    def _find_unbalanced(
        self, previous: PositionsOf, records: pl.DataFrame, stated: pl.DataFrame, consented: pl.DataFrame
    ) -> None:
        # A CURRENT portfolio that the previous date did not send waits for that date and has no position yet.
        new = pl.col("change") == "NEW"
        sent_before = pl.col("portfolio_number").is_in(self._sent_before_numbers)
        included = consented.filter(new | ((pl.col("change") == "CURRENT") & sent_before))
        # The openings of a history that begins later count on the day before it: until then no sums can agree.
        counting = pl.col("history_from").is_null() | (pl.col("history_from") <= self._day + dt.timedelta(days=1))
        compared = pl.col("portfolio_id").is_in(included.filter(counting)["portfolio_id"].implode())
        full = included.filter(pl.col("extract") == "FULL")["portfolio_id"]
        ids = pl.col("portfolio_id").is_in(included["portfolio_id"].implode())
        before = previous(included["portfolio_id"])
        positions = roll_forward(before, records.filter(ids), stated.filter(ids), full, self._day)
        judged = positions.filter(compared, pl.col("kind").is_in(self._judged_kinds))
        later = judged.filter(pl.col("counts_on").is_not_null(), ~pl.col("portfolio_id").is_in(full.implode()))
        for row in self._without_later_openings(unbalanced(judged), later).iter_rows(named=True):
            cash = row["kind"] == CASH_POSITION
            subject = str(row["key_id"]) if cash else str(row["known_as"])
            stated_as = "none is stated" if row["stated"] is None else f"{_plain(row['stated'])} stated"
            detail = f"{_plain(row['sent'])} sent so far, {stated_as}, {_plain(row['difference'])} differ"
            if candidates := self._candidates(row):
                detail += f"; sent records of that size: {', '.join(candidates)}"
            self._add(row["portfolio_number"], DELIVERED_BALANCE.name, subject, detail)

    def _without_later_openings(self, differences: pl.DataFrame, later: pl.DataFrame) -> pl.DataFrame:
        # Openings sent under a history that was to begin later still count on the day before it, though the customer
        # shares an earlier one since. They are read only for positions that differ and have records of a later date.
        key = ["portfolio_id", "kind", "key_id"]
        portfolios = differences.join(later, on=key, how="semi")["portfolio_id"].unique()
        openings = self._openings_dated_later(portfolios).group_by(key).agg(pl.col("sent").sum().alias("_opened"))
        opened = pl.col("_opened").fill_null(0)
        return (
            differences.join(openings, on=key, how="left")
            .with_columns(pl.col("sent") + opened, pl.col("difference") - opened)
            .filter(pl.col("difference") != 0)
        )

    def _openings_dated_later(self, portfolios: pl.Series) -> pl.DataFrame:
        # Sums of the openings dated after the business date that were sent since each portfolio's last FULL extract.
        opening = pl.col("ledger").is_in([OPENING_UNITS, OPENING_CASH]) & (pl.col("transaction_date") > self._day)
        records = [RECORDS.empty()]
        for day in reversed(self._audience.dates_between(self._audience.first_business_date, self._day)[:-1]):
            if portfolios.is_empty():
                break
            sent = sent_date(self._work.store, self._feed, day)
            among = pl.col("portfolio_id").is_in(portfolios.implode())
            records.append(sent.frame("records", where=among & opening))
            full = sent.frame("portfolios", ["portfolio_id"], among & (pl.col("extract") == "FULL"))
            portfolios = portfolios.filter(~portfolios.is_in(full["portfolio_id"].implode()))
        return record_sums(pl.concat(records), self._day)

    @cached_property
    def _recent(self) -> pl.DataFrame:
        columns = ["transaction_id", "security_id", "cash_account_id", "units", "amount"]
        return records_of(self._work.store, self._feed, self._looked_back(), columns)

    def _candidates(self, position: dict[str, Any]) -> list[str]:
        # Records whose removal from bigsite would explain the difference.
        cash = position["kind"] == CASH_POSITION
        key, value = ("cash_account_id", "amount") if cash else ("security_id", "units")
        rows = self._recent.filter(
            pl.col("portfolio_id") == position["portfolio_id"],
            pl.col(key) == position["key_id"],
            pl.col(value).cast(UNITS_SUM) == -position["difference"],
        )
        return rows["transaction_id"].unique().sort().head(_CANDIDATES_SHOWN).to_list()

    @cached_property
    def _judged_kinds(self) -> list[str]:
        carried, flags = self._work.format.ledgers, self._work.flags
        names = {name for domain in self._work.domains() for name in domain.frames}
        kinds: list[str] = []
        if LEDGER_RECORDS.name not in names:
            return kinds  # holdings without movements have no sum to compare
        if LEDGER_BALANCES.name in names and "C" in carried:
            kinds.append(CASH_POSITION)
        if LEDGER_HOLDINGS.name in names and {"T", "S"} <= carried and flags.include_drp:
            kinds.append(UNITS_POSITION)
        return kinds

    def _add(self, number: str, rule: str, subject: str, detail: str) -> None:
        self._findings.append((number, rule, "QUARANTINE", subject, detail))


def _plain(value: object) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
