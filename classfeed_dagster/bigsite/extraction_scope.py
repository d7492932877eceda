"""Consent, queried once, and the extraction scope derived from it: the parameters of every other query."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import consent
from classfeed_dagster.bigsite.ledgers import LEDGERS
from classfeed_dagster.bigsite.source_connection import ReadOnlyTransaction

_ALL_HISTORY = "-infinity"
_DAYS_TO_A_HISTORY = 4  # a day's rows are about a quarter of those that a whole history brings


class SnapshotAudience(Protocol):
    """Part of a recipient schedule that a snapshot needs (``schedules.RecipientSchedule`` is one)."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def recipient(self) -> str: ...  # noqa: D102
    def is_due(self, day: dt.date) -> bool: ...  # noqa: D102
    def is_first(self, day: dt.date) -> bool: ...  # noqa: D102
    def window(self, day: dt.date) -> trading_days.Window: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ExtractionScope:
    """Portfolios, windows and parameters that the snapshot extracts, derived from consent."""

    numbers: list[str]  # of every portfolio that a document speaks of, by position
    whole_history: bytes  # by position: 1 if all of its history is read, 0 if a window's rows are
    consents: list[tuple[int, consent.Consent]]  # with its portfolio's position
    parameters: dict[str, object]  # of every query
    read: int  # portfolios whose data is read: all but the removed
    unreadable: tuple[int, ...]  # ids of consents that can't be relied on, ascending


def ask_consent(
    bigsite: ReadOnlyTransaction, business_date: dt.date, audiences: Sequence[SnapshotAudience]
) -> ExtractionScope:
    """Ask who consents, for all ``audiences`` at once, in one statement."""
    windows = [audience.window(business_date) for audience in audiences]
    question = consent.consent_query(
        {audience.recipient for audience in audiences},
        min(window.start for window in windows),
        max(window.end for window in windows),
    )
    return _wanted(consent.consents_from(bigsite.stream(question)), business_date, audiences)


def _wanted(
    consents: list[consent.Consent], business_date: dt.date, audiences: Sequence[SnapshotAudience]
) -> ExtractionScope:
    # FULL beats DELTA, the widest window and the earliest history count: the domains filter again per audience.
    standing: dict[int, str] = {}  # number of every portfolio that some document speaks of
    full: set[int] = set()
    recorded_from: dict[int, dt.datetime] = {}
    history: dict[int, dt.date | None] = {}
    openings: list[tuple[int, dt.date, str, str]] = []
    for audience in audiences:
        window = audience.window(business_date)
        first = audience.is_first(business_date)
        for shared in consent.sharing(consents, audience.recipient, window, first=first):
            held = shared.standing
            at = held.portfolio_id
            standing[at] = held.portfolio_number
            if shared.change is consent.Change.REMOVED:
                continue
            begins = held.history_from
            known = history.get(at, begins)
            history[at] = None if begins is None or known is None else min(begins, known)
            if shared.change is consent.Change.NEW:
                full.add(at)
            recorded_from[at] = min(recorded_from.get(at, window.start), window.start)
            if begins is not None:
                since = _ALL_HISTORY if shared.change is consent.Change.NEW else window.start.isoformat()
                openings.append((at, begins, since, audience.key))
    order = sorted(standing, key=lambda portfolio_id: standing[portfolio_id])
    position = {portfolio_id: at for at, portfolio_id in enumerate(order)}
    # Every consent of theirs that was asked for, not only those in force now: the domains work out the change since
    # the date before from these rows, and one that ended since may be why a portfolio is CURRENT and not NEW.
    landed = [(position[row.portfolio_id], row) for row in consents if row.portfolio_id in position]
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
        consents=sorted(landed, key=lambda entry: (entry[0], entry[1].consent_id)),
        read=len(read),
        unreadable=tuple(consent.unreadable(consents)),
        parameters={
            "business_date": business_date,
            # Rows of closed windows: none, unless ``late_rows`` finds some.
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


def slice_ends(whole_history: bytes, portfolios: int) -> list[int]:
    """Return the ends of the slices, as exclusive positions.

    A slice holds at most ``portfolios`` of whole history, or four times as many others: memory is bounded by rows, and
    what a slice costs beside them is paid less often on ordinary dates.
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
    """A PostgreSQL array's text: one parameter for any number of portfolios."""
    return f"{{{','.join(map(str, values))}}}"
