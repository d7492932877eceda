"""A bigsite as the benchmarks make it, of a few portfolios, and measuring without a process a run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from openfeature import api

from benchmarks import measure
from benchmarks.measure import Run, Way
from benchmarks.site import Site, site

PORTFOLIOS = 12  # every tenth of them, the first included, trades on the second date


@pytest.fixture(scope="session")
def small() -> Iterator[Site]:
    """Create a site of a few portfolios."""
    with site(PORTFOLIOS) as created:
        yield created


@pytest.fixture(autouse=True)
def _no_switches_of_another_test() -> Iterator[None]:
    yield
    api.clear_providers()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything in this process: a new one imports for a second or two first."""

    def run_once(way: Way, server: Path | None = None) -> Run:
        scratch = Path(tempfile.mkdtemp(prefix="classfeed-bench-run-"))
        used: set[sa.Engine] = set()  # a process of its own would end, and its connections with it
        sa.event.listen(sa.Engine, "engine_connect", result := lambda connection: used.add(connection.engine))
        try:
            facts = way.prepare(scratch, **way.arguments)() or {}
        finally:
            sa.event.remove(sa.Engine, "engine_connect", result)
            shutil.rmtree(scratch)
            for engine in used:
                engine.dispose()
        return Run(1.0, 2.0, 0.0 if server is None else 0.5, 3_000_000, 1_000_000, facts)

    monkeypatch.setattr(measure, "run_once", run_once)
