"""The independent judge against planted faults: every harmful one must be an error, no innocent one may be.

    python -m classfeed_dagster_tests.torture.judge --cases 300 --out docs/results/judge.md

Cases are drawn from a seed: every fault alone, every innocent edit alone, then random ones together. They are planted on
the way to the recipient, in what was loaded of the date and in the data team's figures, or in all of these at once.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import sqlalchemy as sa

from classfeed_dagster.store import open_store
from classfeed_dagster_tests.fixtures import planted_faults as planted
from classfeed_dagster_tests.fixtures import planted_warehouse as loaded
from classfeed_dagster_tests.torture.outcome import MEGABYTES, Budget, Row, measured
from classfeed_dagster_tests.torture.servers import bigsite_server

_FEWEST = 20  # cases, whatever the budget
Verdicts = Generator[planted.Verdict, None, None]


def verdicts(url: str, folder: Path, seed: int) -> Verdicts:
    """Judge case after case, in one bigsite, each with a store of its own."""
    engine = sa.create_engine(url)
    with mock.patch("os.fsync"):  # no power cut is played here
        for at, (faults, innocent) in enumerate(planted.combinations(seed)):
            case = planted.Case(engine, open_store(str(folder / str(at))))
            yield planted.play(case, faults, innocent)


def warehouse_verdicts(url: str, folder: Path, seed: int) -> Verdicts:
    """Look at case after case of a delivered date that was loaded and agreed with the data team."""
    with _warehouse(folder) as connection:
        case = loaded.LoadedCase(sa.create_engine(url), open_store(str(folder / "store")), warehouse=connection)
        case.deliver()
        for faults, innocent in loaded.combinations(seed):
            yield loaded.play(case, faults, innocent)


def joint_verdicts(url: str, folder: Path, seed: int) -> Verdicts:
    """Judge case after case with edits on the way to the recipient, in the warehouse and in the figures at once."""
    engine = sa.create_engine(url)
    alone = len(planted.FAULTS) + len(planted.INNOCENT)
    loaded_alone = len(loaded.FAULTS) + len(loaded.INNOCENT)
    pairs = zip(
        itertools.islice(planted.combinations(seed), alone, None),
        itertools.islice(loaded.combinations(seed), loaded_alone, None),
        strict=False,
    )
    with _warehouse(folder) as connection, mock.patch("os.fsync"):
        for at, (delivery, warehouse) in enumerate(pairs):
            case = loaded.LoadedCase(engine, open_store(str(folder / str(at))), warehouse=connection)
            yield loaded.play_together(case, delivery, warehouse)


@contextlib.contextmanager
def _warehouse(folder: Path) -> Iterator[Any]:
    import snowflake.connector

    from classfeed_dagster.local import snowflake_server
    from classfeed_dagster.warehouse.schema import apply_schema

    home = folder / "warehouse"
    try:
        with contextlib.closing(snowflake.connector.connect(**snowflake_server.start(home))) as connection:
            apply_schema(connection)
            yield connection
    finally:
        snowflake_server.stop(home)


CAMPAIGNS: Mapping[str, Callable[[str, Path, int], Verdicts]] = {
    "planted faults and innocent edits": verdicts,
    "rows of the warehouse and figures changed": warehouse_verdicts,
    "both of these at once": joint_verdicts,
}


def attack(budget: Budget, folder: Path, url: str, seed: int) -> Iterator[Row]:
    """Judge cases of each campaign until its part of the budget is spent."""
    for at, (name, campaign) in enumerate(CAMPAIGNS.items()):
        part = budget.part(1 / (len(CAMPAIGNS) - at))
        with measured() as peak, contextlib.closing(campaign(url, folder / str(at), seed)) as cases:
            judged = list(_until(part, cases))
        wrong = [f"{_names(case)}: {case.errors} error(s)" for case in judged if not case.right]
        harmful = sum(bool(case.faults) for case in judged)
        outcome = f"{harmful} harmful, {len(judged) - harmful} harmless, {len(wrong)} judged wrongly ({peak})"
        if peak.megabytes > MEGABYTES:
            wrong.append(f"{peak.megabytes} MB")
        yield Row("judge", name, len(judged), outcome, wrong)


def _until(budget: Budget, cases: Iterator[planted.Verdict]) -> Iterator[planted.Verdict]:
    for at, verdict in enumerate(cases, 1):
        yield verdict
        if budget.left < 0 and at >= _FEWEST:
            return


def _names(verdict: planted.Verdict) -> str:
    return ", ".join(edit.name for edit in (*verdict.faults, *verdict.innocent))


def _by_fault(tried: Counter[tuple[str, str]], rightly: Counter[tuple[str, str]]) -> Iterator[str]:
    yield "| fault | planted in |"
    yield "|---|---|"
    for fault in dict.fromkeys(name for name, _ in tried):
        counts = {places: count for (name, places), count in tried.items() if name == fault}
        right = {places: rightly[fault, places] for places in counts}
        cases = (
            f"{places}: {count if right[places] == count else f'{right[places]} of {count}'}"
            for places, count in counts.items()
        )
        yield f"| {fault} | {'; '.join(cases)} |"


def page(judged: Sequence[planted.Verdict], seed: int, seconds: float, day: dt.date) -> str:
    """Return the results as a page of the docs."""
    harmful = [case for case in judged if case.faults]
    harmless = [case for case in judged if not case.faults]
    rightly = Counter((fault.name, fault.places) for case in harmful if case.right for fault in case.faults)
    tried = Counter((fault.name, fault.places) for case in harmful for fault in case.faults)
    edits = Counter(edit.name for case in judged for edit in case.innocent)
    wrong = [f"- {_names(case)}: {case.errors} error(s)" for case in judged if not case.right]
    return "\n".join(
        (
            "# Planted faults and the independent judge",
            "",
            "Generated by `python -m classfeed_dagster_tests.torture.judge`. Do not edit.",
            "",
            f"{day:%d %B %Y}, seed {seed}, {len(judged)} cases in {seconds:.0f} seconds. Harmful cases that were errors: "
            f"{sum(case.right for case in harmful)} of {len(harmful)}, {sum(len(case.faults) > 1 for case in harmful)} of "
            f"them with several faults. Harmless cases with an error: "
            f"{sum(not case.right for case in harmless)} of {len(harmless)}.",
            "",
            "A BSB, an account number or a recipient reference that landing and page have alike is an error if the "
            "delivery's own ledger has another one, even if its row was updated after the snapshot. Another status, name, "
            "price or cost base is not decidable in that case, and therefore not planted: no record shows whether it was "
            "set before the snapshot and changed again after it. Deliveries without a ledger (older releases) have no "
            "evidence of the identity either.",
            "",
            "Cases by fault and by where it was planted; *n of m* if not all were found:",
            "",
            *_by_fault(tried, rightly),
            "",
            f"Innocent edits: {'; '.join(f'{name} {count}' for name, count in sorted(edits.items()))}.",
            "",
            *(("Judged wrongly:", "", *wrong, "") if wrong else ()),
        )
    )


def main() -> int:
    """Judge some hundred cases and write the page; exit code 1 if one is judged wrongly."""
    parser = argparse.ArgumentParser(description="plant faults consistently and count what the judge finds")
    parser.add_argument("--cases", type=int, default=300, help="half in deliveries, a quarter each in the others")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began, judged = time.monotonic(), list[planted.Verdict]()
    with bigsite_server() as url, tempfile.TemporaryDirectory(prefix="classfeed-judge-") as name:
        for share, (label, campaign) in zip((2, 4, 4), CAMPAIGNS.items(), strict=True):
            with contextlib.closing(campaign(url, Path(name) / str(len(judged)), options.seed)) as cases:
                for case in itertools.islice(cases, options.cases // share):
                    judged.append(case)
                    if not case.right:
                        sys.stderr.write(f"{_names(case)}\n{case.report}\n")
            sys.stderr.write(f"{label}: {len(judged)} cases after {time.monotonic() - began:.0f} s\n")
    text = page(judged, options.seed, time.monotonic() - began, dt.datetime.now(dt.UTC).date())
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    sys.stdout.write(text)
    return 0 if all(case.right for case in judged) else 1


if __name__ == "__main__":
    raise SystemExit(main())
