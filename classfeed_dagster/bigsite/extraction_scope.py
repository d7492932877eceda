"""The extraction scope, derived from one consent query: the parameters of every other query."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import consent, queries
from classfeed_dagster.bigsite.consent_change import Change
from classfeed_dagster.bigsite.ledgers import LEDGERS
from classfeed_dagster.bigsite.source_connection import ReadOnlyTransaction
from classfeed_dagster.bigsite.sql_types import POSITION
from classfeed_dagster.schedules import RecipientSchedule

_ALL_HISTORY = "-infinity"
_DAYS_TO_A_HISTORY = 4  # a day's rows are about a quarter of a whole history's
_OBJECTS = 10_000  # consents in memory as Python objects: columns take a quarter of their memory


@dataclass(frozen=True, slots=True)
class ExtractionScope:
    """Portfolios, windows and parameters that the snapshot extracts, derived from consent."""

    numbers: list[str]  # of every portfolio in a document, by position
    whole_history: bytes  # by position: 1 to read all history, 0 to read a window's rows
    consents: pa.Table  # the landed rows with their portfolio's position, in that order
    parameters: dict[str, object]  # shared by all queries
    read: int  # portfolios whose data is read: all but the removed ones
    unreadable: tuple[int, ...]  # ids of unreliable consents, ascending


def query_scope(
    bigsite: ReadOnlyTransaction, business_date: dt.date, audiences: Sequence[RecipientSchedule]
) -> ExtractionScope:
    """Query consent for all ``audiences`` in one statement and derive the scope."""
    windows = [audience.window(business_date) for audience in audiences]
    early = [one.until for audience in audiences for one in audience.refreshed.early]
    query = consent.consent_query(
        {audience.recipient for audience in audiences},
        min(window.start for window in windows),
        max([*early, *(window.end for window in windows)]),
    )
    rows = bigsite.stream(consent.by_portfolio(query))
    grouped = itertools.groupby(rows, key=consent.portfolio_of)
    return _scope((consent.consents_from(group) for _, group in grouped), business_date, audiences)


def _scope(
    portfolios: Iterable[list[consent.Consent]], business_date: dt.date, audiences: Sequence[RecipientSchedule]
) -> ExtractionScope:
    # ``portfolios`` are the consents of one portfolio each, so that few are in memory.
    # FULL beats DELTA; the widest window and the earliest history win. The domains filter again by audience.
    standing: dict[int, str] = {}  # numbers of the portfolios in a document, by id
    full: set[int] = set()
    recorded_from: dict[int, dt.datetime] = {}
    history: dict[int, dt.date | None] = {}
    openings: list[tuple[int, dt.date, str, str]] = []
    unreadable: list[int] = []
    landed = _Consents()
    for consents in portfolios:
        unreadable += consent.unreadable(consents)
        for audience in audiences:
            window = audience.window(business_date)
            first, refreshed = audience.is_first(business_date), audience.refreshed
            for shared in consent.sharing(consents, audience.recipient, window, first=first, refreshed=refreshed):
                effective = shared.standing
                at = effective.portfolio_id
                standing[at] = effective.portfolio_number
                if shared.change is Change.REMOVED:
                    continue
                begins = effective.history_from
                known = history.get(at, begins)
                history[at] = None if begins is None or known is None else min(begins, known)
                if shared.extract == "FULL":
                    full.add(at)
                recorded_from[at] = min(recorded_from.get(at, window.start), window.start)
                if begins is not None:
                    since = _ALL_HISTORY if shared.extract == "FULL" else window.start.isoformat()
                    openings.append((at, begins, since, audience.key))
        landed.add(consents)
    order = sorted(standing, key=lambda portfolio_id: standing[portfolio_id])
    position = {portfolio_id: at for at, portfolio_id in enumerate(order)}
    read = [portfolio_id for portfolio_id in order if portfolio_id in history]
    deltas = [portfolio_id for portfolio_id in read if portfolio_id not in full]
    fulls = [portfolio_id for portfolio_id in read if portfolio_id in full]

    def positions(ids: Iterable[int]) -> str:
        return array(position[portfolio_id] for portfolio_id in ids)

    def histories(ids: Iterable[int]) -> str:
        return array(_ALL_HISTORY if (day := history[portfolio_id]) is None else day for portfolio_id in ids)

    return ExtractionScope(
        numbers=[standing[portfolio_id] for portfolio_id in order],
        whole_history=bytes(portfolio_id in full for portfolio_id in order),
        consents=landed.in_order(order),
        read=len(read),
        unreadable=tuple(sorted(unreadable)),
        parameters={
            "business_date": business_date,
            # Rows of closed windows: ``late_rows`` adds their ids.
            **{f"late_{query.table}": array(()) for query in LEDGERS},
            "cutoff": trading_days.cutoff(business_date),
            "earliest": min((recorded_from[at] for at in deltas), default=trading_days.cutoff(business_date)),
            "ids": array(read),
            "positions": positions(read),
            "full_ids": array(fulls),
            "full_positions": positions(fulls),
            "full_history": histories(fulls),
            "delta_ids": array(deltas),
            "delta_positions": positions(deltas),
            "delta_history": histories(deltas),
            "delta_recorded_from": array(f'"{recorded_from[at].isoformat()}"' for at in deltas),
            "opening_ids": array(at for at, _, _, _ in openings),
            "opening_positions": positions(at for at, _, _, _ in openings),
            "opening_history": array(day for _, day, _, _ in openings),
            "opening_recorded_from": array(f'"{since}"' for _, _, since, _ in openings),
            "opening_audiences": array(f'"{key}"' for _, _, _, key in openings),
        },
    )


class _Consents:
    """Consents in columns, as they are landed."""

    def __init__(self) -> None:
        # Through Polars, because pyarrow imports pandas when it converts a list.
        self._schema = pl.DataFrame(pa.Table.from_batches([], schema=queries.CONSENTS)).schema
        self._frames = [pl.DataFrame(schema=self._schema)]
        self._waiting: list[consent.Consent] = []

    def add(self, consents: Iterable[consent.Consent]) -> None:
        """Append consents."""
        self._waiting += consents
        if len(self._waiting) >= _OBJECTS:
            self._flush()

    def _flush(self) -> None:
        values = [tuple(getattr(row, name) for name in self._schema) for row in self._waiting]
        self._frames.append(pl.DataFrame(values, schema=self._schema, orient="row"))
        self._waiting.clear()

    def in_order(self, portfolio_ids: Sequence[int]) -> pa.Table:
        """Return every consent of these portfolios with the position of its portfolio, in that order and by id.

        Not only those in force now: the domains derive the change since the previous date from these rows, and an ended
        one may be why a portfolio is CURRENT and not NEW.
        """
        self._flush()
        positions = pl.DataFrame({"portfolio_id": portfolio_ids}, schema={"portfolio_id": pl.Int64()})
        placed = pl.concat(self._frames).join(positions.with_row_index(POSITION.name), on="portfolio_id")
        ordered = placed.sort(POSITION.name, "consent_id").select(POSITION.name, *self._schema)
        return ordered.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(queries.CONSENTS.insert(0, POSITION))


def slice_ends(whole_history: bytes, portfolios: int) -> list[int]:
    """Return the ends of the slices, as exclusive positions.

    A slice holds at most ``portfolios`` with whole history, or four times as many others. Memory is thus bounded by
    rows, and ordinary dates have fewer slices.
    """
    starts: list[int] = []
    room = 0
    for position, whole in enumerate(whole_history):
        takes = _DAYS_TO_A_HISTORY if whole else 1
        if takes > room:
            starts.append(position)
            room = portfolios * _DAYS_TO_A_HISTORY
        room -= takes
    return [*starts[1:], len(whole_history)] if starts else []


def array(values: Iterable[object]) -> str:
    """Return the text of a PostgreSQL array: one parameter for any number of portfolios."""
    return f"{{{','.join(map(str, values))}}}"
