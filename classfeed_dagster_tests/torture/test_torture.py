"""Every attack with a small budget, and proof that the attackers notice what they are there to notice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from classfeed_dagster_tests.torture.__main__ import SHARES, _attack
from classfeed_dagster_tests.torture.kills import Nursery
from classfeed_dagster_tests.torture.outcome import Budget, Row, scattered, table

SECONDS = float(os.environ.get("CLASSFEED_TEST_TORTURE_SECONDS", "60"))


@pytest.mark.torture
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHARES)
def test_attack_has_the_declared_outcome(name: str, tmp_path: Path) -> None:
    rows = list(_attack(name, 1)(Budget(SECONDS * SHARES[name]), tmp_path))
    assert rows
    assert [row for row in rows if row.broken] == [], table(rows)


def test_victims_side_by_side_keep_their_exit_codes() -> None:
    nursery = Nursery()
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: nursery.run(os._exit, 7), range(200))) == {7}


@pytest.mark.slow
def test_crash_with_every_tries_all_points_whatever_the_budget(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "classfeed_dagster_tests.torture", "--only", "crash", "--budget", "0", "--every"]
    options = ["--cases", "sending", "--at-once", "2", "--out", str(tmp_path / "table.md")]
    subprocess.run([*command, *options], cwd=Path(__file__).parents[2], capture_output=True, check=True)
    rows = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert [(re.search(r"(SIGKILL|power cut) at every one of \d+ points", row) is not None) for row in rows] == [
        True
    ] * 2


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_crash_points_occur_once_and_begin_spread_out(count: int) -> None:
    points = scattered(count)
    assert sorted(points) == list(range(1, count + 1))
    assert points[0] == count
    if count == 100:
        assert min(points[:4]) < 30


def test_broken_row_is_shown_in_the_table() -> None:
    text = table([Row("a", "b", 3, "fine"), Row("c", "d", 1, "bad", ["why"])])
    assert text.splitlines()[2:] == ["| a | b | 3 | fine | held |", "| c | d | 1 | bad | BROKEN |"]


def test_unknown_fault_name_is_refused() -> None:
    command = [sys.executable, "-m", "classfeed_dagster_tests.torture", "--only", "everything"]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "no such attack: everything" in process.stderr


def test_victim_can_die_at_each_kind_of_disk_operation(tmp_path: Path) -> None:
    # In a process of its own: what the store does to its disk is replaced for good.
    program = f"""
from pathlib import Path
from classfeed_dagster.store import LocalStore
from classfeed_dagster_tests.torture.deaths import Disk, Reaper
reaper, root = Reaper(), Path({str(tmp_path)!r})
store = LocalStore(root)
Disk(root, reaper, power_cut=False)
store.create("a/b", b"data")
store.put("a/c", b"data")
print(*sorted(set(reaper.points)), sep=",")
"""
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    points = "fsync file,fsync folder,link,mkdir,open,rename,torn write,unlink,write"
    assert process.stdout.strip() == points


@pytest.mark.parametrize(
    ("misbehaviour", "said"),
    [("raise KeyError('name')", "KeyError"), ("bytearray(hostile.LIMIT * 4)", "MemoryError")],
)
def test_misbehaving_reader_is_reported(misbehaviour: str, said: str, tmp_path: Path) -> None:
    # In a process of its own: the limits are for good.
    program = f"""
import itertools
from classfeed_dagster_tests.torture import hostile
calls = itertools.count()
def reader(data, folder):
    if next(calls):  # the first call only warms up
        {misbehaviour}
hostile.READERS["settings"] = reader
hostile._work("settings", 1, 0, 2, {str(tmp_path / "progress")!r})
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)
    lines = (tmp_path / "progress").read_text().splitlines()
    assert len(lines) == 3
    assert said in lines[1]
