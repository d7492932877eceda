"""Speed of comparing two sets of movements, next to an analyst's solution with floats.

Both sides are Parquet of the same typed rows, with planted differences that every contender must find. DataComPy takes
no part: its releases refuse this project's Polars.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Part, Way, Work
from classfeed_dagster.reconciliation.compare import RowClass, compare
from classfeed_dagster.reconciliation.rules import Field, FieldType, Rule

RULE = Rule(
    "movements",
    (Field("portfolio_number"), Field("transaction_id")),
    (
        Field("transaction_type"),
        Field("transaction_date", FieldType.DATE),
        Field("units", FieldType.UNITS),
        Field("price", FieldType.RATE),
        Field("net_amount", FieldType.MONEY),
        Field("currency"),
    ),
)
KEYS = [key.name for key in RULE.keys]
FIELDS = [field.name for field in RULE.fields]
ROWS_A_PORTFOLIO = 30
PLANTED = 100  # of each kind: changed, missing on the left, missing on the right
Found = tuple[int, int, int]


def write_sides(folder: Path, rows: int) -> tuple[Path, Path]:
    """Write two Parquet files of ``rows`` movements, in different orders, with the planted differences."""
    left, right = folder / "left.parquet", folder / "right.parquet"
    step = rows // (3 * PLANTED + 1)
    source = f"""SELECT i, 'SW' || lpad((i // {ROWS_A_PORTFOLIO})::VARCHAR, 8, '0') AS portfolio_number, 'T' || i AS transaction_id,
        CASE WHEN i % 3 = 0 THEN 'SELL' ELSE 'BUY' END AS transaction_type, DATE '2025-03-12' - (i % 400)::INTEGER AS transaction_date,
        (i % 9973)::DECIMAL(20,6) AS units, (i % 7919 + 0.25)::DECIMAL(18,6) AS price, (i % 99991 + 0.37)::DECIMAL(18,2) AS net_amount,
        'AUD' AS currency FROM range({rows}) t(i)"""
    import duckdb  # imported lazily: the other measured processes load this file too

    with duckdb.connect() as db:
        dropped = f"i % {step} = 0 AND (i // {step}) BETWEEN {{}} AND {{}}"
        db.execute(
            f"COPY (SELECT * EXCLUDE (i) FROM ({source}) WHERE NOT ({dropped.format(1, PLANTED)})) TO '{left}' (FORMAT parquet)"
        )
        changed = f"CASE WHEN {dropped.format(2 * PLANTED + 1, 3 * PLANTED)} THEN net_amount + 0.01 ELSE net_amount END"
        db.execute(
            f"""COPY (SELECT * EXCLUDE (i) REPLACE (({changed})::DECIMAL(18,2) AS net_amount) FROM ({source})
            WHERE NOT ({dropped.format(PLANTED + 1, 2 * PLANTED)}) ORDER BY hash(i)) TO '{right}' (FORMAT parquet)"""
        )
    return left, right


def ours(left: Path, right: Path) -> Found:
    """Measure this project's comparison: a digest a portfolio first, then rows only where these differ."""
    found = compare(RULE, left, right, today=dt.date(2025, 3, 13), memory_limit="512MB")
    return found.of(RowClass.DIFFERS), found.of(RowClass.MISSING_LEFT), found.of(RowClass.MISSING_RIGHT)


def pandas_merge(left: Path, right: Path) -> Found:
    """Measure the baseline: an outer merge with an indicator, then column by column."""
    import pandas as pd

    merged = pd.read_parquet(left).merge(
        pd.read_parquet(right), on=KEYS, how="outer", suffixes=("_l", "_r"), indicator=True
    )
    both = merged[merged["_merge"] == "both"]
    differs = pd.Series(False, index=both.index)
    for name in FIELDS:
        column, other = both[f"{name}_l"], both[f"{name}_r"]
        differs |= ~((column == other) | (column.isna() & other.isna()))
    counts = merged["_merge"].value_counts()
    return int(differs.sum()), int(counts["right_only"]), int(counts["left_only"])


def prepare(scratch: Path, left: Path, right: Path, contender: Callable[[Path, Path], Found]) -> Work:
    """Prepare both sides on disk."""
    return lambda: {"answer": contender(left, right)}


def reconciliation(portfolios: int, *, rounds: int, until: float) -> Part:
    """Compare the movements of all portfolios, 30 each, on both sides."""
    rows = portfolios * ROWS_A_PORTFOLIO
    with tempfile.TemporaryDirectory(prefix="classfeed-bench-") as folder:
        left, right = write_sides(Path(folder), rows)
        ways = [
            Way(name, prepare, {"left": left, "right": right, "contender": contender})
            for name, contender in (("pandas merge", pandas_merge), ("this project", ours))
        ]
        what = f"{rows:,} movements a side, {PLANTED} differences of each of three kinds planted; both must find them"
        return measure.compare("reconciliation", portfolios, what, ways, rounds=rounds, until=until)
