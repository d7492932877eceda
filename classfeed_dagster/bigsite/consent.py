"""Consent: the portfolios that a recipient may receive at an instant, and the changes since another.

One implementation of the rule serves the snapshot, the consented portfolios and the query at the moment of
publishing. These are pure functions over consent rows; the SQL only limits the fetched rows.
"""

from __future__ import annotations

import datetime as dt
import itertools
import operator
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from classfeed_dagster.bigsite.consent_change import Change
from classfeed_dagster.bigsite.tables import data_sharing_consent, portfolio
from classfeed_dagster.errors import Dependency, UnavailableError
from classfeed_dagster.schedules import NOT_REFRESHED, EarlyConsent, Refreshed
from classfeed_dagster.trading_days import Window

_FIRST_INSTANT = dt.datetime(1900, 1, 1, tzinfo=dt.UTC)
_LAST_INSTANT = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)
_FIRST_DATE = dt.date(1900, 1, 1)
_LAST_DATE = dt.date(9999, 1, 1)
_ROWS = 10_000  # fetched at a time
_BLANKS = " \t\n\v\f\r\xa0"  # around a reference: a pasted code may have some
# A later start is a mistyped year or an open-ended date: no customer agrees today to share that far ahead.
_LONGEST_WAIT = dt.timedelta(days=3660)


class ConsentReadError(UnavailableError):
    """Consent could not be read from bigsite. An older result may not be used in its place."""

    dependency = Dependency.BIGSITE


@dataclass(frozen=True, slots=True)
class Consent:
    """One authority to share: a row of data_sharing_consent with its portfolio's number. Instants are UTC."""

    consent_id: int
    portfolio_id: int
    portfolio_number: str
    recipient: str
    recipient_reference: str | None
    history_from: dt.date | None
    granted_at: dt.datetime | None
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None

    def readable(self) -> bool:
        """Return False without a reference or a grant, with an impossible history, or if it ended before its grant."""
        if not self.reference() or self.granted_at is None or self.impossible_history():
            return False
        ends = [end for end in (self.expires_at, self.revoked_at) if end is not None]
        return all(end >= self.granted_at for end in ends)

    def impossible_history(self) -> bool:
        """Return True if the shared history begins more than ten years after the grant, for example at infinity."""
        if self.history_from is None or self.granted_at is None:
            return False
        return self.history_from > self.granted_at.date() + _LONGEST_WAIT

    def reference(self) -> str:
        """Return the recipient's code for the fund; empty if the row has none."""
        return (self.recipient_reference or "").strip(_BLANKS)

    def active(self, at: dt.datetime) -> bool:
        """Return True if it was granted before ``at`` and neither expired nor was revoked before it."""
        return (
            self.granted_at is not None
            and self.granted_at < at
            and not (self.expires_at is not None and self.expires_at < at)
            and not (self.revoked_at is not None and self.revoked_at < at)
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Effective consent of a portfolio for one recipient."""

    portfolio_id: int
    portfolio_number: str
    recipient_reference: str
    history_from: dt.date | None  # null: all history
    consent_ids: tuple[int, ...]  # ascending


@dataclass(frozen=True, slots=True)
class Sharing:
    """A portfolio's standing at the cut-off (for REMOVED: at the previous one) and how it changed."""

    standing: Standing
    change: Change
    extract: str  # FULL for NEW and refreshed portfolios, DELTA for others, NONE for REMOVED


def counted_early(consents: Iterable[Consent], early: Collection[EarlyConsent]) -> list[Consent]:
    """Return the consents, those of ``early`` portfolios as if they were granted just before their cut-off."""
    by_number = {one.number: one for one in early}

    def counted(consent: Consent) -> Consent:
        one, granted = by_number.get(consent.portfolio_number), consent.granted_at
        if one is None or granted is None or not one.since <= granted < one.until:
            return consent
        return replace(consent, granted_at=one.since - dt.timedelta(microseconds=1))

    return [counted(consent) for consent in consents]


def standings(consents: Iterable[Consent], recipient: str, at: dt.datetime) -> dict[int, Standing]:
    """Return the portfolios consented for ``recipient`` at ``at``, by portfolio id.

    Of several active consents, the earliest ``history_from`` applies (all history if one has none) and the most
    recently granted reference. If that one is empty, or two granted at the same instant differ, the fund is unknown and
    the portfolio is left out. Otherwise a row without a reference does not count. A row whose history begins more than
    ten years after its grant never counts.
    """
    active: dict[int, list[Consent]] = defaultdict(list)
    for consent in consents:
        if consent.recipient == recipient and consent.active(at) and not consent.impossible_history():
            active[consent.portfolio_id].append(consent)
    effective: dict[int, Standing] = {}
    for portfolio_id, rows in active.items():
        latest = max(_granted(consent) for consent in rows)
        references = {consent.reference() for consent in rows if consent.granted_at == latest}
        if len(references) > 1 or "" in references:
            continue
        relied_on = [consent for consent in rows if consent.readable()]
        starts = [consent.history_from for consent in relied_on]
        effective[portfolio_id] = Standing(
            portfolio_id,
            rows[0].portfolio_number,
            references.pop(),
            None if None in starts else min(start for start in starts if start is not None),
            tuple(sorted(consent.consent_id for consent in relied_on)),
        )
    return effective


def sharing(
    consents: Sequence[Consent],
    recipient: str,
    window: Window,
    *,
    first: bool,
    refreshed: Refreshed = NOT_REFRESHED,
) -> list[Sharing]:
    """Return the NEW, CURRENT and REMOVED portfolios, ordered by portfolio number (code point).

    ``window`` lasts from the audience's previous cut-off to this one. On its ``first`` business date every consented
    portfolio is NEW and none is REMOVED.
    """
    in_full = frozenset(refreshed.in_full)
    if refreshed.early:
        consents = counted_early(consents, refreshed.early)
    now = standings(consents, recipient, window.end)
    before = {} if first else standings(consents, recipient, window.start)
    listed: list[Sharing] = []
    for portfolio_id, standing in now.items():
        change = _change(standing, before.get(portfolio_id))
        full = change is Change.NEW or standing.portfolio_number in in_full
        listed.append(Sharing(standing, change, "FULL" if full else "DELTA"))
    listed += [
        Sharing(standing, Change.REMOVED, "NONE")
        for portfolio_id, standing in before.items()
        if portfolio_id not in now
    ]
    return sorted(listed, key=lambda shared: shared.standing.portfolio_number)


def _change(now: Standing, before: Standing | None) -> Change:
    # Another reference is another fund of the recipient, which has nothing of the portfolio yet.
    known = before is not None and before.recipient_reference == now.recipient_reference
    return Change.CURRENT if known else Change.NEW


def unreadable(consents: Iterable[Consent]) -> list[int]:
    """Return the ids of the unreliable consents, ascending, for correction in bigsite."""
    return sorted(consent.consent_id for consent in consents if not consent.readable())


def consent_query(
    recipients: Iterable[str],
    earliest: dt.datetime | sa.ColumnElement[dt.datetime],
    latest: dt.datetime | sa.ColumnElement[dt.datetime],
) -> sa.Select[Any]:
    """Build the consent query: every row that is, or may be, active at an instant from ``earliest`` to ``latest``."""
    rows = data_sharing_consent.c
    return (
        sa.select(
            rows.consent_id,
            rows.portfolio_id,
            portfolio.c.portfolio_number,
            rows.recipient,
            rows.recipient_reference,
            _within(rows.history_from, _FIRST_DATE, _LAST_DATE),
            _within(rows.granted_at, _FIRST_INSTANT, _LAST_INSTANT),
            _within(rows.expires_at, _FIRST_INSTANT, _LAST_INSTANT),
            _within(rows.revoked_at, _FIRST_INSTANT, _LAST_INSTANT),
        )
        .join_from(data_sharing_consent, portfolio, rows.portfolio_id == portfolio.c.portfolio_id)
        .where(
            rows.recipient.in_(sorted(set(recipients))),
            sa.or_(rows.granted_at.is_(None), rows.granted_at < latest),
            sa.or_(rows.expires_at.is_(None), rows.expires_at >= earliest),
            sa.or_(rows.revoked_at.is_(None), rows.revoked_at >= earliest),
        )
        .order_by(rows.consent_id)
    )


def by_portfolio(query: sa.Select[Any]) -> sa.Select[Any]:
    """Order a consent query by portfolio, for ``itertools.groupby`` with ``portfolio_of``."""
    rows = data_sharing_consent.c
    return query.order_by(None).order_by(rows.portfolio_id, rows.consent_id)


portfolio_of = operator.itemgetter(1)  # of the rows of ``consent_query``


def reads_consent(statement: str) -> bool:
    """Return True if a statement's text reads consent."""
    return data_sharing_consent.name in statement


def consents_from(rows: Iterable[Sequence[Any]]) -> list[Consent]:
    """Return rows of ``consent_query`` as Consents, with instants in UTC."""
    return [Consent(*row[:6], *(None if at is None else at.astimezone(dt.UTC) for at in row[6:9])) for row in rows]


# By engine and recipient: the fingerprint of the rows read last in this process, and the portfolios consented by them.
_KNOWN: WeakKeyDictionary[sa.Engine, dict[str, tuple[str, frozenset[str]]]] = WeakKeyDictionary()


def query_consented(
    engine: sa.Engine, recipient: str, numbers: Iterable[str] | None = None, at: dt.datetime | None = None
) -> tuple[dt.datetime, set[str]]:
    """Query the portfolios that consent at ``at`` (default: bigsite's clock), in one statement.

    Returns the instant (UTC) and the numbers of the consented portfolios, limited to ``numbers`` if given. After the
    first query of a process, bigsite first fingerprints the rows that are active at the instant. Equal rows have the
    same result, so they are read again only if they changed. Any failure to read raises ConsentReadError: a missing
    result never counts as consent.
    """
    instant: sa.ColumnElement[dt.datetime] = (
        sa.func.current_timestamp() if at is None else sa.literal(at, sa.DateTime(timezone=True))
    )
    known = _KNOWN.setdefault(engine, {})
    try:
        with engine.connect() as connection:
            if recipient in known:
                row = connection.execute(sa.select(_clock(recipient, instant))).one()
                if row.fingerprint == known[recipient][0]:
                    return row.queried_at.astimezone(dt.UTC), _limited(known[recipient][1], numbers)
            queried_at, fingerprint, consented = _read_consented(connection, recipient, instant)
    except sa.exc.SQLAlchemyError as error:
        raise ConsentReadError(
            f"Consent for {recipient} could not be read from bigsite ({type(error).__name__}): nothing is sent. "
            "Check the connection to bigsite and run again."
        ) from error
    known[recipient] = fingerprint, frozenset(consented)
    return queried_at, _limited(consented, numbers)


def _limited(consented: Collection[str], numbers: Iterable[str] | None) -> set[str]:
    return set(consented) if numbers is None else set(consented).intersection(numbers)


def _active_rows(recipient: str, instant: sa.ColumnElement[dt.datetime]) -> sa.Subquery:
    # All rows of the recipient: a list of 100,000 numbers costs bigsite more than its consents do.
    return consent_query([recipient], instant, instant).order_by(None).subquery()


def _clock(recipient: str, instant: sa.ColumnElement[dt.datetime]) -> sa.Subquery:
    """Build the query of the instant and of the fingerprint of every value of the rows active at it, in one row."""
    rows = _active_rows(recipient, instant)
    text = sa.cast(sa.func.row(*rows.c), sa.Text)
    # Hashed twice, so that the aggregate stays small however many rows there are.
    each = sa.func.sha256(sa.func.convert_to(text, "UTF8"))
    separator = postgresql.aggregate_order_by(sa.literal(b"", sa.LargeBinary), rows.c.consent_id)
    together = sa.func.encode(sa.func.sha256(sa.func.string_agg(each, separator)), "hex")
    fingerprint = sa.select(sa.func.coalesce(together, "")).select_from(rows).scalar_subquery()
    return sa.select(instant.label("queried_at"), fingerprint.label("fingerprint")).subquery()


def _read_consented(
    connection: sa.Connection, recipient: str, instant: sa.ColumnElement[dt.datetime]
) -> tuple[dt.datetime, str, set[str]]:
    clock, consents = _clock(recipient, instant), _active_rows(recipient, instant)
    statement = sa.select(clock, consents).select_from(clock.outerjoin(consents, sa.true()))
    numbers_consented: set[str] = set()
    # In order of portfolios, so that one portfolio's consents are in memory at a time.
    streaming = {"yield_per": _ROWS}
    rows = connection.execute(statement.order_by(consents.c.portfolio_id), execution_options=streaming)
    first = next(rows)  # always exists, with the instant
    queried_at: dt.datetime = first[0].astimezone(dt.UTC)
    answered = (row[2:] for row in itertools.chain([first], rows) if row[2] is not None)
    for _, group in itertools.groupby(answered, key=portfolio_of):
        effective = standings(consents_from(group), recipient, queried_at)
        numbers_consented.update(standing.portfolio_number for standing in effective.values())
    return queried_at, first[1], numbers_consented


def _within(column: sa.Column[Any], lowest: dt.date, highest: dt.date) -> sa.Label[Any]:
    # 'infinity' and years beyond 9999 are valid in PostgreSQL and unreadable in Python. They are clamped, so that one
    # such row does not stop the whole feed. No cut-off is beyond these bounds.
    bounded = sa.case((column > highest, highest), (column < lowest, lowest), else_=column)
    return bounded.label(column.name)


def _granted(consent: Consent) -> dt.datetime:
    assert consent.granted_at is not None  # noqa: S101  # an active consent was granted
    return consent.granted_at
