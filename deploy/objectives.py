"""Service level objectives: the source of the alarms, the dashboard's thresholds and the table in the docs.

The hours are the feed's (``classfeed_dagster/feeds/feed.py``), in Sydney local time on the next business day. So
weekends, holidays and the change to summer time are never late. Only the standard library is imported here: the
infrastructure is synthesised in its own environment.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

_DECLARATIONS = Path(__file__).parent.parent / "classfeed_dagster" / "feeds"


def declared_live() -> tuple[str, ...]:
    """Return the feeds that the modules of ``feeds`` declare live, read as text, ordered by name."""
    calls = [
        {keyword.arg: keyword.value for keyword in node.keywords}
        for file in sorted(_DECLARATIONS.glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Feed"
    ]
    live = [call["name"] for call in calls if "mode" in call and ast.unparse(call["mode"]) == "FeedMode.LIVE"]
    return tuple(sorted(name.value for name in live if isinstance(name, ast.Constant) and isinstance(name.value, str)))


# Feeds with alarms: those declared live.
WATCHED_FEEDS = declared_live()


@dataclass(frozen=True, slots=True)
class Objective:
    """Objective, its metric, and the value above which its alarm is raised.

    Attributes:
        name: name of the alarm and of its section in docs/runbook.md.
        above: threshold that ``periods`` of ``seconds`` must exceed.
        silence: CloudWatch's treatment of missing data: met (notBreaching) or violated (breaching).
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
    # Metrics are written every minute of every day, so missing data means that the daemon or the store is down, also on
    # a Sunday. The value counts from deadlines and stays 0 while no business date is due.
    Objective(
        "delivery-overdue",
        "no business date stays undelivered after its deadline",
        "overdue_seconds",
        "Is a business date overdue, or are metrics missing?",
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
        "a late morning is known in advance",
        "expected_late_seconds",
        "Will the date be late, if it takes as long as the last twenty?",
        above=0,
        periods=2,
    ),
    Objective(
        "breaks-found",
        "delivered data equals bigsite's",
        "breaks",
        "Does delivered data differ from bigsite?",
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
        "transient failures are repaired automatically",
        "repair_attempts",
        "Does repair retry without success?",
        above=4,
    ),
)
