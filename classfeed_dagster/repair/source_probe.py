"""Cheap queries of bigsite: its reachability, and its changes since the snapshots of due dates.

Only consented portfolios count. A row whose transaction was open while the snapshot was taken has an earlier instant
and is missed here; reconciliation, which compares contents, detects it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from classfeed_dagster import trading_days
from classfeed_dagster.postgres_session import configure_sessions

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime

_CONNECT_SECONDS = 5
_STATEMENT_MILLISECONDS = 20_000

# `asked`: a business date, its cut-off, and the instant of the snapshot it was sent from. `suspect`: portfolios held
# back on a date by a rule. An end of day or a price is rewritten in place and counts for every portfolio that received
# it. For suspects, every row counts that could correct them. `sharing`: suspects whose number another portfolio had,
# perhaps one that never consented. Once they have it alone, the latest change of any portfolio or account counts.
# `open`: not delivered yet, so that a consent that was revoked or expired since counts too: the date must be built
# without it. `lapsed`: portfolios left out because their consent had ended. One that is shared anew before the next
# cut-off is delivered after all: the next date, on which it is no removal, waits for it. An infinite instant is no
# change: the date would be issued again without end.
_CHANGES = """
WITH asked AS (
  SELECT * FROM unnest(CAST(:dates AS date[]), CAST(:cutoffs AS timestamptz[]), CAST(:seen AS timestamptz[]),
                       CAST(:open AS boolean[]))
           AS t(business_date, cutoff, seen, open)
), consented AS (
  SELECT DISTINCT portfolio_id FROM bigsite.data_sharing_consent
  WHERE recipient = :recipient AND granted_at < now() AND (expires_at IS NULL OR expires_at >= now())
    AND (revoked_at IS NULL OR revoked_at >= now())
), suspect AS (
  SELECT s.business_date, a.seen, s.sharing, p.portfolio_id, p.hin, p.updated_at
  FROM unnest(CAST(:suspect_dates AS date[]), CAST(:suspect_numbers AS text[]), CAST(:suspect_sharing AS boolean[]))
       AS s(business_date, portfolio_number, sharing)
  JOIN asked a USING (business_date) JOIN bigsite.portfolio p USING (portfolio_number)
), lapsed AS (
  SELECT l.business_date, a.seen, l.next_cutoff, p.portfolio_id
  FROM unnest(CAST(:lapsed_dates AS date[]), CAST(:lapsed_numbers AS text[]), CAST(:next_cutoffs AS timestamptz[]))
       AS l(business_date, portfolio_number, next_cutoff)
  JOIN asked a USING (business_date) JOIN bigsite.portfolio p USING (portfolio_number)
), of_suspects AS (
  SELECT s.business_date, s.seen, h.security_id FROM suspect s
    JOIN bigsite.holding_eod h ON h.as_at_date = s.business_date AND h.portfolio_id = s.portfolio_id
  UNION SELECT s.business_date, s.seen, t.security_id FROM suspect s JOIN bigsite.trade t USING (portfolio_id)
  UNION SELECT s.business_date, s.seen, m.security_id FROM suspect s
    JOIN bigsite.security_movement m USING (portfolio_id)
  UNION SELECT s.business_date, s.seen, i.security_id FROM suspect s JOIN bigsite.income i USING (portfolio_id)
)
SELECT business_date, max(changed_at) FROM (
  SELECT a.business_date, h.updated_at AS changed_at FROM asked a
    JOIN bigsite.holding_eod h ON h.as_at_date = a.business_date AND h.updated_at > a.seen
    JOIN consented USING (portfolio_id)
  UNION ALL
  SELECT a.business_date, b.updated_at FROM asked a
    JOIN bigsite.cash_balance_eod b ON b.as_at_date = a.business_date AND b.updated_at > a.seen
    JOIN bigsite.cash_account c USING (cash_account_id) JOIN consented USING (portfolio_id)
  UNION ALL
  SELECT d.business_date, p.updated_at
    FROM (SELECT DISTINCT a.business_date, a.seen, h.security_id FROM asked a
            JOIN bigsite.holding_eod h ON h.as_at_date = a.business_date JOIN consented USING (portfolio_id)) AS d
    CROSS JOIN LATERAL (SELECT l.updated_at FROM bigsite.security_price l
                        WHERE l.security_id = d.security_id AND l.price_date <= d.business_date
                        ORDER BY l.price_date DESC LIMIT 1) AS p
    WHERE p.updated_at > d.seen
  UNION ALL
  SELECT a.business_date, c.updated_at FROM asked a
    JOIN bigsite.data_sharing_consent c ON c.recipient = :recipient AND c.updated_at > a.seen
     AND c.granted_at < a.cutoff AND (a.open OR c.revoked_at IS NULL OR c.revoked_at < a.cutoff)
  UNION ALL
  SELECT a.business_date, c.expires_at FROM asked a
    JOIN bigsite.data_sharing_consent c ON a.open AND c.recipient = :recipient AND c.granted_at < a.cutoff
     AND c.expires_at > a.seen AND c.expires_at < now()
  UNION ALL
  SELECT l.business_date, greatest(c.granted_at, c.updated_at) FROM lapsed l
    JOIN bigsite.data_sharing_consent c USING (portfolio_id)
    WHERE c.recipient = :recipient AND c.granted_at < least(l.next_cutoff, now())
      AND (c.expires_at IS NULL OR c.expires_at >= now()) AND (c.revoked_at IS NULL OR c.revoked_at >= now())
      AND greatest(c.granted_at, c.updated_at) > l.seen
  UNION ALL
  SELECT business_date, updated_at FROM suspect WHERE updated_at > seen
  UNION ALL
  SELECT s.business_date, c.updated_at FROM suspect s JOIN bigsite.cash_account c USING (portfolio_id)
    WHERE c.updated_at > s.seen
  UNION ALL
  SELECT o.business_date, y.updated_at FROM of_suspects o
    JOIN bigsite.security y USING (security_id) WHERE y.updated_at > o.seen
  UNION ALL
  SELECT o.business_date, y.updated_at FROM of_suspects o
    JOIN bigsite.security_code_change y USING (security_id) WHERE y.updated_at > o.seen
  UNION ALL
  SELECT s.business_date, latest.updated_at FROM suspect s
    CROSS JOIN (SELECT max(updated_at) AS updated_at FROM (SELECT updated_at FROM bigsite.portfolio
                UNION ALL SELECT updated_at FROM bigsite.cash_account) AS every
                WHERE updated_at < TIMESTAMPTZ '9999-01-01 00:00+00') AS latest
    WHERE s.sharing AND latest.updated_at > s.seen
      AND NOT EXISTS (SELECT FROM bigsite.portfolio p WHERE p.hin = s.hin AND p.portfolio_id <> s.portfolio_id
                      AND p.status <> 'CLOSED')
      AND NOT EXISTS (SELECT FROM bigsite.cash_account c
                      JOIN bigsite.cash_account o USING (bsb, account_number, currency)
                      WHERE c.portfolio_id = s.portfolio_id AND o.cash_account_id <> c.cash_account_id
                      AND c.status <> 'CLOSED' AND o.status <> 'CLOSED')
  UNION ALL
  SELECT s.business_date, t.recorded_at FROM suspect s JOIN bigsite.trade t USING (portfolio_id)
    WHERE t.recorded_at > s.seen AND t.trade_date <= s.business_date
  UNION ALL
  SELECT s.business_date, m.recorded_at FROM suspect s JOIN bigsite.security_movement m USING (portfolio_id)
    WHERE m.recorded_at > s.seen AND m.effective_date <= s.business_date
  UNION ALL
  SELECT s.business_date, i.recorded_at FROM suspect s JOIN bigsite.income i USING (portfolio_id)
    WHERE i.recorded_at > s.seen AND i.payment_date <= s.business_date
  UNION ALL
  SELECT s.business_date, x.recorded_at FROM suspect s JOIN bigsite.cash_account USING (portfolio_id)
    JOIN bigsite.cash_transaction x USING (cash_account_id)
    WHERE x.recorded_at > s.seen AND x.transaction_date <= s.business_date
) AS changes WHERE changed_at < TIMESTAMPTZ '9999-01-01 00:00+00' GROUP BY business_date
"""


@dataclass(frozen=True, slots=True)
class ChangeQuery:
    """A business date whose changes are queried.

    Attributes:
        seen_at: instant (UTC) of the snapshot that the date was delivered from or last tried with.
        suspects: numbers of portfolios that a rule holds back; True if for a number that another portfolio has.
        delivered: True if the date was delivered.
        lapsed: numbers of portfolios that were left out because their consent had ended.
        next_cutoff: cut-off (UTC) of the audience's next business date; required with ``lapsed``.
    """

    business_date: dt.date
    seen_at: dt.datetime
    suspects: Mapping[str, bool] = field(default_factory=dict)
    delivered: bool = True
    lapsed: tuple[str, ...] = ()
    next_cutoff: dt.datetime | None = None


def is_reachable(runtime: Runtime) -> bool:
    """Return True if bigsite answers within seconds."""
    engine = _engine(runtime)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError:
        return False
    finally:
        engine.dispose()
    return True


def changed_since(runtime: Runtime, recipient: str, queries: Sequence[ChangeQuery]) -> Mapping[dt.date, dt.datetime]:
    """Return by date the latest change (UTC) of a row that the date was delivered from or holds back.

    Dates without a change are absent. Raises SQLAlchemy's errors if bigsite fails or takes longer than 20 s.
    """
    if not queries:
        return {}
    suspects = [(query.business_date, *suspect) for query in queries for suspect in sorted(query.suspects.items())]
    lapsed = [(query.business_date, number, query.next_cutoff) for query in queries for number in query.lapsed]
    parameters: dict[str, Any] = {
        "recipient": recipient,
        "dates": [query.business_date for query in queries],
        "cutoffs": [trading_days.cutoff(query.business_date) for query in queries],
        "seen": [query.seen_at for query in queries],
        "open": [not query.delivered for query in queries],
        "suspect_dates": [day for day, _, _ in suspects],
        "suspect_numbers": [number for _, number, _ in suspects],
        "suspect_sharing": [sharing for _, _, sharing in suspects],
        "lapsed_dates": [day for day, _, _ in lapsed],
        "lapsed_numbers": [number for _, number, _ in lapsed],
        "next_cutoffs": [cutoff for _, _, cutoff in lapsed],
    }
    engine = _engine(runtime)
    try:
        with engine.connect().execution_options(postgresql_readonly=True) as connection:
            rows = connection.execute(sa.text(_CHANGES), parameters).all()
    finally:
        engine.dispose()
    return {day: at.astimezone(dt.UTC) for day, at in rows}


def _engine(runtime: Runtime) -> sa.Engine:
    # A sensor has a minute in all: a host that drops packets must not use it up.
    engine = sa.create_engine(
        runtime.engine.url,
        poolclass=sa.pool.NullPool,
        hide_parameters=True,
        connect_args={"connect_timeout": _CONNECT_SECONDS},
    )
    return configure_sessions(engine, statement_timeout=f"{_STATEMENT_MILLISECONDS}ms")
