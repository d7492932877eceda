"""Our side of the data team's metrics, computed from the delivered files only, by the contract's definitions."""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from classfeed_dagster.reconciliation.compare import MEMORY_LIMIT
from classfeed_dagster.reconciliation.delivered import DRP, INCOME, Delivered, left_out
from classfeed_dagster.reconciliation.record_scope import RecordScope

WINDOW_METRICS = frozenset({"MOVEMENTS", "UNITS_MOVED", "CASH_MOVED", "TRADED"})


@dataclass(frozen=True, slots=True)
class OurMetrics:
    """Metrics other than zero: portfolio_number, metric, currency ('' if none), value. All text.

    ``digests``: the MD5 over a portfolio's metrics, as Snowflake computes it for the data team's side.
    ``with_openings``: portfolios whose file sums the rows from before their shared history, which their metrics list.
    """

    rows: pa.Table
    digests: dict[str, str]
    with_openings: frozenset[str]
    movements: dict[str, list[tuple[str, str, str]]]  # by portfolio: metric, value, transaction id


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric: the count of rows in ``view``, or the sum of ``column`` (by currency if ``per_currency``)."""

    name: str
    view: str
    column: str | None = None
    type: str = "DECIMAL(38,6)"
    per_currency: bool = False
    where: str = "TRUE"

    @property
    def sql(self) -> str:
        """Return SQL for every portfolio's value, cast because a union of decimals of 2 and 6 places would keep 2."""
        value = "count(*)" if self.column is None else f"sum({self.column}::{self.type})"
        currency = "currency" if self.per_currency else "''"
        return (
            f"SELECT portfolio_number, '{self.name}' AS metric, {currency} AS currency, {value}::DECIMAL(38,6) AS value "
            f"FROM {self.view} WHERE {self.where} GROUP BY ALL"
        )


VIEWS = {
    "cash": "cash_accounts",
    "balances": "account_balances",
    "holdings": "investment_holdings",
    "moved": "movement_transactions",  # within the window
}
"""The metrics' views, and the delivered records behind each."""

METRICS = (
    MetricDefinition("CASH_ACCOUNTS", "cash"),
    MetricDefinition("LEDGER_BALANCE", "balances", "ledger_balance", "DECIMAL(18,2)", per_currency=True),
    MetricDefinition("HOLDINGS", "holdings", where="units::DECIMAL(20,6) <> 0"),
    MetricDefinition("UNITS_HELD", "holdings", "units", "DECIMAL(20,6)"),
    MetricDefinition(
        "MARKET_VALUE", "holdings", "market_value", "DECIMAL(18,2)", per_currency=True, where="market_value IS NOT NULL"
    ),
    MetricDefinition("MOVEMENTS", "moved", where="ledger <> 'O'"),
    MetricDefinition("UNITS_MOVED", "moved", "units", where="ledger <> 'I' AND units IS NOT NULL"),
    MetricDefinition("CASH_MOVED", "moved", "amount", per_currency=True, where="amount IS NOT NULL"),
    MetricDefinition("TRADED", "moved", "net_amount", per_currency=True, where="net_amount IS NOT NULL"),
)


def metrics_of(delivered: Delivered) -> tuple[MetricDefinition, ...]:
    """Return the metrics that the delivered documents can state: all of them for whole EPI documents.

    A document without a ledger, or with rows excluded by a switch, cannot state a metric that includes them.
    """
    kinds = {kind.name: kind for kind in delivered.layout.kinds}
    ledgers = kinds["movement_transactions"].ledgers if "movement_transactions" in kinds else ""
    off = {switch for switch, _ in left_out(delivered.revisions, delivered.latest)}
    needs = {"MOVEMENTS": "TSIC", "UNITS_MOVED": "TS", "CASH_MOVED": "C", "TRADED": "T"}
    switched = {"MOVEMENTS": {INCOME, DRP}, "UNITS_MOVED": {DRP}}
    return tuple(
        metric
        for metric in METRICS
        if VIEWS[metric.view] in kinds
        and set(needs.get(metric.name, "")) <= set(ledgers)
        and not off & switched.get(metric.name, set())
    )


def our_metrics(delivered: Delivered) -> OurMetrics:
    """Return every metric of every delivered portfolio, exact. Removed portfolios have none."""
    import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

    last = delivered.revisions[-1]
    start, end = RecordScope.at(last.recorded_after), RecordScope.at(last.recorded_before)
    with duckdb.connect() as db:
        db.execute(f"SET memory_limit='{MEMORY_LIMIT}'; SET TimeZone='UTC'")
        files = delivered.files
        for view, name in VIEWS.items():
            if view != "moved" and name in files:
                db.execute(f"CREATE VIEW {view} AS SELECT * FROM read_parquet('{files[name]}')")
        available = {name: f'"{name}"' for kind in delivered.layout.kinds for name in kind.names}
        units, amount, net = (available.get(name, "NULL") for name in ("units", "amount", "net_amount"))
        db.register(
            "deltas",
            pa.table(
                {
                    "portfolio_number": pa.array(
                        [
                            number
                            for number, revision in delivered.latest.items()
                            if revision.portfolios[number].get("extract") == "DELTA"
                        ],
                        pa.string(),
                    )
                }
            ),
        )
        # A FULL extract lists all of history, and its openings sum it: the window's part of an opening is unknown. The
        # openings of a DELTA belong to the window.
        db.execute(
            f"""CREATE TABLE moved AS SELECT portfolio_number, transaction_id, transaction_id[1] AS ledger, currency,
            {units}::DECIMAL(38,6) AS units, {amount}::DECIMAL(38,2) AS amount, {net}::DECIMAL(38,2) AS net_amount
            FROM read_parquet('{files["movement_transactions"]}') m
            WHERE m.recorded_at::TIMESTAMP WITH TIME ZONE >= {start} AND m.recorded_at::TIMESTAMP WITH TIME ZONE < {end}
            AND (m.transaction_id[1] <> 'O' OR m.portfolio_number IN (SELECT portfolio_number FROM deltas))"""
        )
        union = " UNION ALL ".join(metric.sql for metric in metrics_of(delivered))
        db.execute(f"CREATE TABLE metrics AS SELECT * FROM ({union}) WHERE value <> 0")
        rows = db.sql(
            "SELECT portfolio_number, metric, currency, value::DECIMAL(38,6)::VARCHAR AS value FROM metrics"
        ).to_arrow_table()
        digests = db.execute(
            """SELECT portfolio_number, md5(string_agg(metric || '|' || currency || '|' || value::DECIMAL(38,6)::VARCHAR, ';'
            ORDER BY metric, currency)) FROM metrics GROUP BY 1"""
        ).fetchall()
        openings = db.execute(
            f"SELECT DISTINCT portfolio_number FROM read_parquet('{files['movement_transactions']}') WHERE transaction_id[1] = 'O'"
        ).fetchall()
        movements: dict[str, list[tuple[str, str, str]]] = {}
        listed = db.execute(
            """SELECT portfolio_number, 'CASH_MOVED', amount::DECIMAL(38,6)::VARCHAR, transaction_id FROM moved WHERE amount IS NOT NULL
            UNION ALL SELECT portfolio_number, 'TRADED', net_amount::DECIMAL(38,6)::VARCHAR, transaction_id FROM moved WHERE net_amount IS NOT NULL
            UNION ALL SELECT portfolio_number, 'UNITS_MOVED', units::VARCHAR, transaction_id FROM moved WHERE ledger <> 'I' AND units IS NOT NULL
            ORDER BY 1, 4"""
        )
        for number, metric, value, transaction_id in listed.fetchall():
            movements.setdefault(number, []).append((metric, value, transaction_id))
    return OurMetrics(rows, {str(n): str(d) for n, d in digests}, frozenset(str(row[0]) for row in openings), movements)
