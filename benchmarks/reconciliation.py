"""How fast two sets of movements are compared, beside what people would otherwise write, in one run.

    python benchmarks/reconciliation.py [--rows 3000000] [--baseline-rows 3000000]

Both sides are Parquet of the same typed rows, with planted differences that every contender must find. Ratios are of
wall time in this run; each contender runs in a process of its own, whose peak memory is shown. ``pandas`` is the
merge-and-compare that analysts write (floats and all); ``datacompy`` takes part if it can be imported.
"""

from __future__ import annotations

import argparse
import datetime as dt
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from classfeed_dagster.reconciliation.compare import RowClass, compare
from classfeed_dagster.reconciliation.rules import Field, Kind, Rule

RULE = Rule(
    "movements",
    (Field("portfolio_number"), Field("transaction_id")),
    (
        Field("transaction_type"),
        Field("transaction_date", Kind.DATE),
        Field("units", Kind.UNITS),
        Field("price", Kind.RATE),
        Field("net_amount", Kind.MONEY),
        Field("currency"),
    ),
)
KEYS = [key.name for key in RULE.keys]
FIELDS = [field.name for field in RULE.fields]
ROWS_A_PORTFOLIO = 30
PLANTED = 100  # of each kind: changed, missing on the left, missing on the right
Found = tuple[int, int, int]


def write_sides(folder: Path, rows: int) -> tuple[Path, Path]:
    """Two Parquet files of ``rows`` movements, in different orders, with the planted differences."""
    left, right = folder / "left.parquet", folder / "right.parquet"
    step = rows // (3 * PLANTED + 1)
    source = f"""SELECT i, 'SW' || lpad((i // {ROWS_A_PORTFOLIO})::VARCHAR, 8, '0') AS portfolio_number, 'T' || i AS transaction_id,
        CASE WHEN i % 3 = 0 THEN 'SELL' ELSE 'BUY' END AS transaction_type, DATE '2025-03-12' - (i % 400)::INTEGER AS transaction_date,
        (i % 9973)::DECIMAL(20,6) AS units, (i % 7919 + 0.25)::DECIMAL(18,6) AS price, (i % 99991 + 0.37)::DECIMAL(18,2) AS net_amount,
        'AUD' AS currency FROM range({rows}) t(i)"""
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
    """This project's judge: digests a portfolio first, pairs rows only where they differ."""
    found = compare(RULE, left, right, today=dt.date(2025, 3, 13), memory_limit="512MB")
    return found.of(RowClass.DIFFERS), found.of(RowClass.MISSING_LEFT), found.of(RowClass.MISSING_RIGHT)


def pandas_merge(left: Path, right: Path) -> Found:
    """The baseline: an outer merge with an indicator, then column by column."""
    import pandas as pd

    merged = pd.read_parquet(left).merge(
        pd.read_parquet(right), on=KEYS, how="outer", suffixes=("_l", "_r"), indicator=True
    )
    both = merged[merged["_merge"] == "both"]
    differs = pd.Series(False, index=both.index)
    for name in FIELDS:
        one, other = both[f"{name}_l"], both[f"{name}_r"]
        differs |= ~((one == other) | (one.isna() & other.isna()))
    counts = merged["_merge"].value_counts()
    return int(differs.sum()), int(counts["right_only"]), int(counts["left_only"])


def datacompy_pandas(left: Path, right: Path) -> Found:
    """DataComPy over pandas: for its time only, it compares numbers as floats."""
    import datacompy
    import pandas as pd

    make = getattr(datacompy, "PandasCompare", None) or datacompy.Compare
    found = make(pd.read_parquet(left), pd.read_parquet(right), join_columns=KEYS)
    return len(found.all_mismatch()), len(found.df2_unq_rows), len(found.df1_unq_rows)


def _child(
    work: Callable[[Path, Path], Found],
    left: Path,
    right: Path,
    results: multiprocessing.Queue[tuple[float, int, Found]],
) -> None:
    before = time.perf_counter()
    found = work(left, right)
    seconds = time.perf_counter() - before
    results.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, found))


def measure(work: Callable[[Path, Path], Found], left: Path, right: Path) -> tuple[float, int, Found]:
    """Seconds, peak memory in MB, and what was found, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[float, int, Found]] = context.Queue()
    process = context.Process(target=_child, args=(work, left, right, results))
    process.start()
    answer = results.get()
    process.join()
    return answer


def main() -> int:
    """Print the table; 1 if a contender didn't find what was planted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    rows = parser.parse_args().rows
    contenders: dict[str, Callable[[Path, Path], Found]] = {"ours": ours, "pandas merge": pandas_merge}
    try:
        import datacompy  # noqa: F401
    except ImportError:
        print("datacompy is not installed here: left out")
    else:
        contenders["datacompy"] = datacompy_pandas
    with tempfile.TemporaryDirectory(prefix="classfeed-benchmark-") as folder:
        left, right = write_sides(Path(folder), rows)
        print(f"{rows:,} rows a side, {PLANTED} planted of each of three kinds\n")
        print(f"{'':14}{'seconds':>9}{'ours is':>10}{'peak MB':>9}  found")
        wrong, first = False, 0.0
        for name, work in contenders.items():
            seconds, peak, found = measure(work, left, right)
            first = first or seconds
            wrong |= found != (PLANTED,) * 3
            print(f"{name:14}{seconds:9.2f}{seconds / first:9.1f}x{peak:9,}  {found}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
