"""Building blocks of the snapshot's queries: exact column types, and the scope's portfolios as SQL relations."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

ID = pa.int64()
DATE = pa.date32()
INSTANT = pa.timestamp("us", "UTC")
TEXT = pa.string()
MONEY = pa.decimal128(18, 2)
PRICE = pa.decimal128(18, 6)
UNITS = pa.decimal128(20, 6)
MONEY_SUM = pa.decimal128(38, 2)  # a sum may be wider than its terms
UNITS_SUM = pa.decimal128(38, 6)

POSITION = pa.field("position", pa.int32())

SCOPE = "SELECT * FROM unnest(%(ids)s::bigint[], %(positions)s::int[]) AS w (portfolio_id, position)"
FULL = """SELECT * FROM unnest(%(full_ids)s::bigint[], %(full_positions)s::int[], %(full_history)s::date[])
    AS w (portfolio_id, position, history_from)"""
DELTA = """SELECT * FROM unnest(%(delta_ids)s::bigint[], %(delta_positions)s::int[], %(delta_history)s::date[],
    %(delta_recorded_from)s::timestamptz[]) AS w (portfolio_id, position, history_from, recorded_from)"""
OPENING = """SELECT * FROM unnest(%(opening_ids)s::bigint[], %(opening_positions)s::int[], %(opening_history)s::date[],
    %(opening_recorded_from)s::timestamptz[], %(opening_audiences)s::text[])
    AS w (portfolio_id, position, history_from, recorded_from, audience)"""
SIGNED = "CASE t.side WHEN 'BUY' THEN t.units WHEN 'SELL' THEN -t.units END"


@dataclass(frozen=True, slots=True)
class Query:
    """One landed table: its columns (without the position) and the query that fills them."""

    table: str
    schema: pa.Schema
    sql: str

    @property
    def read_schema(self) -> pa.Schema:
        """Return the columns of the query's result: the position first."""
        return self.schema.insert(0, POSITION)


def columns(**types: pa.DataType) -> pa.Schema:
    """Return a landed table's columns, in order."""
    return pa.schema(list(types.items()))
