"""A date's bytes do not depend on the number of threads that compute it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from benchmarks import bulk

DELIVER = """
import pathlib, sys
import polars as pl
from benchmarks.site import FIRST, PUBLISHED, Day, runtime_at
Day(runtime_at(sys.argv[1], pathlib.Path(sys.argv[2])), FIRST).until(PUBLISHED)
print(pl.thread_pool_size())
"""
PORTFOLIOS = 120  # 15,840 records


def _delivered(url: str, home: Path, threads: int) -> dict[str, str]:
    """Deliver the first date in a process of its own; return the SHA-256 of each page and ledger file by its name."""
    command = [sys.executable, "-c", DELIVER, url, str(home)]
    environment = {**os.environ, "POLARS_MAX_THREADS": str(threads)}
    process = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert process.stdout.split() == [str(threads)]
    files = [path for path in home.rglob("delivered/**/*") if path.is_file() and path.suffix != ".json"]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_one_and_four_threads_deliver_the_same_bytes(database_url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(database_url)
    bulk.create(engine, PORTFOLIOS)
    engine.dispose()
    alone = _delivered(database_url, tmp_path / "one", 1)
    assert {Path(name).suffix for name in alone} == {".gz", ".parquet"}
    assert _delivered(database_url, tmp_path / "four", 4) == alone
