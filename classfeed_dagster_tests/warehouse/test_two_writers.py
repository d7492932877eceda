"""Two processes that write the warehouse at the same time: each row is stored once, of the latest delivery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from snowflake.connector.errors import Error

from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.breaks import stored_breaks
from classfeed_dagster.warehouse.database import query
from classfeed_dagster.warehouse.load import LoadOutdatedError, load_delivery
from classfeed_dagster.warehouse.schema import ensure_dates
from classfeed_dagster_tests.fixtures import reconciliation_world as w
from classfeed_dagster_tests.warehouse.test_breaks import ONE, save
from classfeed_dagster_tests.warehouse.test_load import Landed, content, landed, store

__all__ = ["landed", "store"]  # fixtures


@dataclass
class Interrupted:
    """A connection on which ``act`` runs once, just before a statement."""

    connection: Any
    statement: str
    act: Callable[[], object]
    errors: list[Exception] = field(default_factory=list)

    def cursor(self) -> Any:
        """Open a cursor."""
        cursor = self.connection.cursor()
        execute = cursor.execute

        def interrupted(statement: str, *params: Any) -> Any:
            if statement == self.statement:
                self.statement = ""
                try:
                    self.act()
                except Error as error:
                    self.errors.append(error)
            return execute(statement, *params)

        cursor.execute = interrupted
        return cursor


# Snowflake lets the second writer wait. The local server refuses it, with an error of its own.
WRITES: dict[str, Callable[[Any, ObjectStore], object]] = {
    "load": lambda connection, store: load_delivery(connection, store, w.FEED, w.DAY, EPI),
    "dates": lambda connection, _: ensure_dates(connection, w.DAY),
    "breaks": lambda connection, _: save(connection, ONE),
}


@pytest.mark.parametrize("name", WRITES)
def test_two_writers_at_once_store_every_row_once(
    landed: Landed, store: ObjectStore, warehouse: Any, second_connection: Any, name: str
) -> None:
    landed.deliver(store)
    if name == "load":
        ensure_dates(warehouse, w.DAY)
    first = Interrupted(warehouse, "COMMIT", lambda: WRITES[name](second_connection, store))
    WRITES[name](first, store)
    assert len(first.errors) == 1
    WRITES[name](second_connection, store)
    rows = content(warehouse) | {"DIM_DATE": query(warehouse, "SELECT * FROM DIM_DATE")}
    assert any(rows.values()) or name == "breaks"
    assert {table: len(stored) for table, stored in rows.items()} == {table: len({*of}) for table, of in rows.items()}
    assert len(stored_breaks(warehouse)) == (name == "breaks")


def test_load_of_an_earlier_delivery_replaces_no_later_one(
    landed: Landed, store: ObjectStore, warehouse: Any, second_connection: Any
) -> None:
    landed.deliver(store)
    balances = landed.frames["account_balances"].with_columns(
        ledger_balance=pl.lit(Decimal("1.23")).cast(pl.Decimal(18, 2))
    )

    def deliver_again() -> None:
        changed = {**landed.frames, "account_balances": balances}
        landed.deliver(store, changed, revision=1, only=frozenset({"SW000001"}))
        load_delivery(second_connection, store, w.FEED, w.DAY, EPI)

    ensure_dates(warehouse, w.DAY)
    with pytest.raises(LoadOutdatedError, match="delivered again during its load"):
        load_delivery(Interrupted(warehouse, "BEGIN", deliver_again), store, w.FEED, w.DAY, EPI)
    revisions = query(warehouse, "SELECT MAX(REVISION) FROM FACT_DELIVERY WHERE PORTFOLIO_NUMBER = 'SW000001'")
    assert revisions == [(1,)]
    result = load_delivery(warehouse, store, w.FEED, w.DAY, EPI)
    assert result.revisions == 2
