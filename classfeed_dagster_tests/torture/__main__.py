"""``make torture``: every attack for its share of a budget of seconds, then one table of faults and outcomes.

    python -m classfeed_dagster_tests.torture --budget 120
    python -m classfeed_dagster_tests.torture --budget 3600 --only crash,machine --out table.md
    python -m classfeed_dagster_tests.torture --only crash,crash-s3 --every --at-once 2

Exit code 1 if something did not hold; what that was is printed below the table.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from classfeed_dagster_tests.torture.outcome import Budget, Row, table

# The share of the budget that each attack gets.
SHARES = {
    "time": 0.01, "security": 0.01, "crash": 0.12, "crash-s3": 0.10, "crash-localbucket": 0.08, "machine": 0.22, "readers": 0.11, "writer": 0.05,
    "daemon": 0.20, "daemon-localbucket": 0.05, "soak": 0.10, "judge": 0.10, "extremes": 0.10,
}  # fmt: skip
SOAK_FROM = 300  # seconds of budget: below that, too few days to say anything


def _attack(
    name: str, seed: int, cases: Collection[str] = (), at_once: int = 1
) -> Callable[[Budget, Path], Iterator[Row]]:
    # Imported one by one: each brings heavy libraries.
    if name == "time":
        from classfeed_dagster_tests.torture import clocks

        return clocks.attack
    if name == "security":
        from classfeed_dagster_tests.torture import security

        return security.attack
    if name.startswith("crash"):
        from classfeed_dagster_tests.torture import kills

        kind = {"crash": "disk", "crash-s3": "moto", "crash-localbucket": "localbucket"}[name]
        return partial(kills.attack, kind=kind, cases=cases, at_once=at_once)
    if name == "readers":
        from classfeed_dagster_tests.torture import hostile

        return lambda budget, folder: hostile.attack(budget, folder, seed)
    if name == "writer":
        from classfeed_dagster_tests.torture import unicode

        return lambda budget, folder: unicode.attack(budget, folder, seed)
    if name.startswith("daemon"):
        from classfeed_dagster_tests.torture.daemon import campaign

        return partial(campaign.attack, s3={"daemon": "moto", "daemon-localbucket": "localbucket"}[name])
    return lambda budget, folder: _on_bigsite(name, budget, folder, seed)


def _on_bigsite(name: str, budget: Budget, folder: Path, seed: int) -> Iterator[Row]:
    from classfeed_dagster_tests.torture.servers import bigsite_server

    with bigsite_server() as url:
        if name == "machine":
            from classfeed_dagster_tests.torture import days

            yield from days.attack(budget, folder, url, seed)
        elif name == "judge":
            from classfeed_dagster_tests.torture import judge

            yield from judge.attack(budget, folder, url, seed)
        elif name == "extremes":
            from classfeed_dagster_tests.torture import extremes

            yield from extremes.attack(budget, folder, url)
        else:
            from classfeed_dagster_tests.torture import soak

            yield from soak.attack(budget, folder, url)


def main() -> int:
    """Run the attacks; the exit code."""
    parser = argparse.ArgumentParser(description="attack the claims of exactly-once, no leak and no lost cent")
    parser.add_argument("--budget", type=float, default=120, help="seconds, about")
    parser.add_argument("--only", help=f"some of {', '.join(SHARES)}, divided by commas")
    parser.add_argument(
        "--every", action="store_true", help="the crash attacks: kill at every point, whatever the budget"
    )
    parser.add_argument("--cases", default="", help="the crash attacks: only these scenarios, divided by commas")
    parser.add_argument("--at-once", type=int, default=1, help="the crash attacks: victims at a time")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other random inputs")
    parser.add_argument("--out", type=Path, help="write the table here as well")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and daemons are stopped too
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    names = (
        options.only.split(",") if options.only else [n for n in SHARES if n != "soak" or options.budget >= SOAK_FROM]
    )
    if unknown := set(names) - SHARES.keys():
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    budget = Budget(options.budget)
    rows: list[Row] = []
    for at, name in enumerate(names):
        share = SHARES[name] / sum(SHARES[item] for item in names[at:])
        with tempfile.TemporaryDirectory(prefix="classfeed-torture-", ignore_cleanup_errors=True) as folder:
            attack = _attack(name, options.seed, list(filter(None, options.cases.split(","))), options.at_once)
            part = Budget(math.inf) if options.every and name.startswith("crash") else budget.part(share)
            for row in attack(part, Path(folder)):
                rows.append(row)
                sys.stderr.write(f"{row.attack}: {row.fault}: {'BROKEN' if row.broken else 'held'}\n")
    text = table(rows)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    broken = [f"{row.attack}, {row.fault}: {label}" for row in rows for label in row.broken]
    for subject in broken:
        print(f"BROKEN {subject}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
