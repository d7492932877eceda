"""The state machine as an attack: examples for as long as the budget lasts, each run fixed by its seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from classfeed_dagster_tests.torture.machine import Feed
from classfeed_dagster_tests.torture.outcome import Budget, Row

STEPS = 40
EXAMPLES = 3  # a round: the budget is looked at between rounds
SHRINK_FROM = 600  # seconds of budget: making a failure small takes minutes
MEANINGS = {
    "none": "an ordinary run, in or out of turn",
    "crash": "dead at a call to the store, while publishing",
    "outage": "the store fails before a call, or after it did its work",
    "revoked": "a consent ends between two questions",
    "unreadable": "bigsite can't say who consents",
    "racers": "three runs of one date at once",
    "strict": "more portfolios break a rule than the limit allows",
    "source not ready": "no end of day yet",
}


def attack(budget: Budget, folder: Path, url: str, seed: int = 1) -> Iterator[Row]:
    """Run rounds of examples until the budget is spent; a row for each kind of trouble."""
    Feed.url = url
    Feed.tally.clear()
    phases = [Phase.generate, Phase.shrink] if budget.seconds >= SHRINK_FROM else [Phase.generate]
    options = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None, phases=phases,
        suppress_health_check=list(HealthCheck), verbosity=Verbosity.normal, print_blob=False,
    )  # fmt: skip
    broken: list[str] = []
    rounds, began = 0, time.monotonic()
    while rounds == 0 or budget.left > (time.monotonic() - began) / rounds * 0.7:
        machine = seeded(seed + rounds)(type("Feed", (Feed,), {"__doc__": Feed.__doc__}))
        try:
            run_state_machine_as_test(machine, settings=options)
        except Exception as error:
            notes = "\n".join(getattr(error, "__notes__", []))
            broken.append(f"round {seed + rounds}: {type(error).__name__}: {str(error)[:2000]}\n{notes[:6000]}")
            break
        rounds += 1
    troubles = dict.fromkeys(trouble for trouble, _ in Feed.tally)
    for trouble in troubles or ["none"]:
        outcomes = Counter({outcome: count for (item, outcome), count in Feed.tally.items() if item == trouble})
        text = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
        yield Row("random days", MEANINGS.get(trouble, trouble), outcomes.total(), text)
    yield Row(
        "random days", f"model and Class's books compared after every attempt, {rounds * EXAMPLES} examples",
        Feed.tally.total(), "equal, balanced, nobody else's data, nothing twice, nobody without a reason", broken,
    )  # fmt: skip
