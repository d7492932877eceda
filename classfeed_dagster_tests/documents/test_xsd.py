"""Compilation of the XSDs in a process of several threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from lxml import etree

from classfeed_dagster.documents import xsd

EPI, CAMT = "epi_data_response.xsd", "camt_053_001_08.xsd"

# Each child is a process in which libxml2 has compiled nothing yet.
_FIRST_COMPILATIONS = """
import os, sys, threading
from classfeed_dagster.documents import xsd

def compile_with(others, compiled):
    others.wait()
    compiled.append(xsd.compiled("epi_data_response.xsd"))

for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        others, compiled = threading.Barrier(2), []
        threads = [threading.Thread(target=compile_with, args=(others, compiled)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0 if len(compiled) == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_threads_compile_one_after_the_other_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together, overlaps = threading.Barrier(2), []

    def compile_schema(root: etree._Element) -> object:
        try:
            together.wait(timeout=0.2)  # passes only with another compilation
        except threading.BrokenBarrierError:
            together.reset()
        else:
            overlaps.append(root.tag)
        return object()

    xsd._compiled.cache_clear()
    monkeypatch.setattr(etree, "XMLSchema", compile_schema)
    try:
        with ThreadPoolExecutor(4) as threads:
            first, second, *others = threads.map(xsd.compiled, [EPI, EPI, CAMT, CAMT])
    finally:
        xsd._compiled.cache_clear()
    assert (overlaps, first, others[0]) == ([], second, others[1])


@pytest.mark.nightly
def test_first_compilation_by_two_threads_at_once_succeeds() -> None:
    command = [sys.executable, "-c", _FIRST_COMPILATIONS, "400"]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""
