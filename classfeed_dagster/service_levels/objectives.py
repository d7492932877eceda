"""The service levels, in one place: alarms, the dashboard's lines and the table in the docs are made from it.

The hours themselves are the feed's (``feeds/feed.py``), in Sydney's local time on the morning of the business day after
the business date, so that neither a weekend, a holiday nor the change to summer time is ever late. Nothing but the
standard library is imported here: the infrastructure is synthesised in an environment of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from classfeed_dagster.service_levels.metrics import METRICS

# The feeds whose delays reach people: those that are declared live.
WATCHED_FEEDS = ("class_super",)


@dataclass(frozen=True, slots=True)
class Objective:
    """What we hold ourselves to, the metric that tells, and above which value somebody is told.

    ``name`` is the alarm's, and its section's in docs/deployment.md. ``periods`` of ``seconds`` must be above
    ``above``. ``silence``: whether an absent figure counts as kept, or as broken because nobody measures any more.
    """

    name: str
    objective: str
    metric: str
    question: str
    above: float
    seconds: int = 300
    periods: int = 1
    silence: str = "notBreaching"


OBJECTIVES = (
    # The measures are written every minute of every day, so silence means that the daemon or the store is gone, on a
    # Sunday too. The figure itself counts from deadlines, and stays 0 while no business date is due.
    Objective(
        "delivery-overdue",
        "no business date stays undelivered after its deadline",
        "overdue_seconds",
        "Is a business date overdue, or does nobody measure any more?",
        above=0,
        periods=3,
        silence="breaching",
    ),
    Objective(
        "deadline-missed",
        "every business date is delivered by 09:00 Sydney",
        "deadlines_missed",
        "Was a business date of the last day not delivered by its deadline?",
        above=0,
    ),
    Objective(
        "target-missed",
        "business dates are delivered by 07:00 Sydney",
        "targets_missed",
        "Was a business date of the last day later than its target?",
        above=0,
    ),
    Objective(
        "late-expected",
        "a morning that will be late is known before it is",
        "expected_late_seconds",
        "Will the date be late, if it takes as long as the last twenty did?",
        above=0,
        periods=2,
    ),
    Objective(
        "breaks-found",
        "what was delivered is what bigsite has",
        "breaks",
        "Does what was delivered differ from bigsite?",
        above=0,
    ),
    Objective(
        "many-held-back",
        "few portfolios are held back",
        "held_back",
        "Are unusually many portfolios held back?",
        above=50,
    ),
    Objective(
        "repairs-in-a-row",
        "what can pass by itself is mended without people",
        "repair_attempts",
        "Does repair keep trying without success?",
        above=4,
    ),
)


def require_declared(objectives: tuple[Objective, ...] = OBJECTIVES) -> None:
    """ValueError if an objective rests on a metric that nothing emits."""
    unknown = sorted({one.metric for one in objectives} - set(METRICS))
    if unknown:
        raise ValueError(f"no such metric: {', '.join(unknown)}; declare it in operations/metrics.py")
