"""The console script as a process: its exit code, and outputs that are closed, full or without Unicode."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ENDING = """
import atexit, sys, threading, time
import classfeed_dagster.cli.app as app
def main():
    atexit.register(lambda: print("handlers", flush=True))
    print("x" * 200_000)
    if {late}:
        threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    sys.exit({code})
app.main = main
app.script()
"""


@pytest.mark.parametrize(("code", "ends"), [("None", 0), ("3", 3), ("'a sentence'", 1)])
@pytest.mark.parametrize("late", [False, True])
def test_script_ends_with_its_code_after_handlers_and_output(code: str, ends: int, late: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING.format(code=code, late=late)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == ends, ended.stderr
    assert ended.stdout.splitlines() == ["x" * 200_000, *["thread"] * late, "handlers"]
    assert ended.stderr.splitlines() == ["a sentence"] * (ends == 1)


def run_script(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the console script as a process of its own."""
    call = (
        f"import sys; sys.argv = ['classfeed', *{[*words]!r}]; from classfeed_dagster.cli.app import script; script()"
    )
    return subprocess.run([sys.executable, "-c", call], check=False, text=True, **options)


def test_script_without_an_output_ends_with_its_code() -> None:
    shell = 'exec "$0" -m classfeed_dagster.cli.app "$@"'
    for closed in (">&-", "2>&-"):
        ends = [
            subprocess.run(["bash", "-c", f"{shell} {closed}", sys.executable, *words], check=False).returncode
            for words in (["flags"], ["status", "--feed", "nope"])
        ]
        assert ends == [0, 2], closed


def test_script_on_a_full_disk_names_the_remedy() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_script(["flags"], stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr == (
        "classfeed: Cannot use the output: No space left on device. Correct the path or its rights, or free space\n"
    )


def test_script_without_unicode_prints_the_code_point() -> None:
    ended = run_script(["--help"], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stderr) == (0, "")


def test_script_with_a_closed_pipe_ends_without_a_hang() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDING.format(code=0, late=False)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) != 0
