"""Incidents as docs/alerts.md shows them: worked out by the product from example facts, said in the product's words.

``python -m classfeed_dagster_tests.operations.sample_incidents`` writes the page's part; ``scripts/alert_images.py``
takes the pictures.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from classfeed_dagster.delivery.manifest import HeldBack, RuleCount
from classfeed_dagster.delivery.quarantine import Quarantined
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.operations import alerts
from classfeed_dagster.operations.causes import Cause, Kind
from classfeed_dagster.operations.due import due
from classfeed_dagster.operations.facts import Delivery, Gathered, Observed
from classfeed_dagster.operations.incidents import Incident
from classfeed_dagster.operations.repair import DateFacts, Policy, RunFact, RunState, decide_all
from classfeed_dagster.operations.run_history import CheckOutcome
from classfeed_dagster.operations.slack import Links, blocks

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
_BEGIN, _END = "<!-- messages: begin -->\n", "<!-- messages: end -->\n"
_RUN = "0c9d6f3e-1111-4222-8333-444455556666"
LINKS = Links("https://dagster.example", "runbook/alerts.md")
_DAY = dt.date(2026, 3, 2)
_WEEK = tuple(_DAY + dt.timedelta(days=days) for days in (0, 1, 2, 3, 4, 7))
_THRESHOLD = 10


def samples() -> dict[str, Incident]:
    """One of each kind, by a title."""
    return {
        "Late, past the deadline (also pages)": _late(),
        "A failed check": _failed_check(),
        "Many portfolios held back": _held_back(),
        "Repair gave up, many dates and one cause": _gave_up(),
        "bigsite's schema": _schema(),
        "Reconciliation": alerts.reconciliation_breaks("class_super", _DAY, 3, ["SW00000001"], _RUN),
        "Dead letters": alerts.dead_letters(2),
    }


def _late() -> Incident:
    now = _morning(9, 2)
    run = RunFact(_RUN, RunState.FAILED, now, Cause(Kind.NOT_READY, "SourceNotReadyError"))
    return _only(_found([_observed(_DAY, [run])], now), "late.")


def _failed_check() -> Incident:
    broken = [_quarantined(number, "units_ledger") for number in ("SW00000001", "SW00000417")]
    outcome = CheckOutcome("class/investment_holdings", "units_ledger", False, True, f"{_DAY}: 2 finding(s)", 2)
    checks = {("class_super", _DAY): alerts.DateChecks([], [(_RUN, outcome)])}
    return _only(_found([_observed(_DAY, [_SUCCESS], broken)], _morning(6, 10), checks), "check.")


def _held_back() -> Incident:
    broken = [_quarantined(f"SW{at:08d}", "balances_ledger") for at in range(1, 15)]
    return _only(_found([_observed(_DAY, [_SUCCESS], broken)], _morning(6, 10)), "held-back.")


def _gave_up() -> Incident:
    ended = _morning(6, 4)
    run = RunFact(_RUN, RunState.FAILED, ended, Cause(Kind.CONFIGURATION, "InsufficientPrivilege"))
    days = [_observed(_DAY, [run]), *(_observed(day, [replace(run, run_id=f"run-{day}")]) for day in _WEEK[1:])]
    # Seen apart from each other, as dates of several feeds are; one that waits for another belongs to that one's.
    now = due(FEED, _WEEK[-1]).target_at
    decisions = [one for day in days for one in decide_all([day.facts], now, Policy())]
    found = alerts.incidents(Gathered(now, tuple(days), True), decisions, {}, held_back_alert=_THRESHOLD)
    return _only(found, "gave-up.")


def _schema() -> Incident:
    run = RunFact(_RUN, RunState.FAILED, _morning(6, 1), Cause(Kind.DATA, "SchemaDriftError"))
    return alerts.schema_drift("removed column trade.other_fees", 1, _RUN, stopped=[_observed(_DAY, [run])])


_SUCCESS = RunFact(_RUN, RunState.SUCCEEDED, dt.datetime(2026, 3, 2, 19, 3, tzinfo=dt.UTC))


def _morning(hour: int, minute: int) -> dt.datetime:
    # Sydney time of the morning after the first date, in UTC; there is daylight saving.
    return dt.datetime(2026, 3, 3, hour, minute, tzinfo=dt.timezone(dt.timedelta(hours=11))).astimezone(dt.UTC)


def _observed(day: dt.date, runs: Sequence[RunFact], held: Sequence[Quarantined] = ()) -> Observed:
    times = due(FEED, day)
    delivered = any(run.state is RunState.SUCCEEDED for run in runs)
    facts = DateFacts(FEED.name, day, times.starts_at, times.deadline_at, delivered, runs, len(held))
    sent = (Delivery(0, times.starts_at, times.starts_at, 812 - len(held), len(held)),) if delivered else ()
    return Observed(FEED, True, times, facts, sent, tuple(held), ())


def _quarantined(number: str, rule: str) -> Quarantined:
    why = HeldBack(number=number, kind="RULE", reason=rule, rules=(RuleCount(rule=rule, findings=1, subjects=()),))
    at = _morning(6, 3)
    return Quarantined(
        feed=FEED.name, business_date=_DAY, held_back=why, status="HELD", held_since=at, changed_at=at, correlation_id="c"
    )  # fmt: skip


def _found(
    days: Sequence[Observed], now: dt.datetime, checks: dict[tuple[str, dt.date], alerts.DateChecks] | None = None
) -> list[Incident]:
    gathered = Gathered(now, tuple(days), True)
    decisions = decide_all(gathered.facts, now, Policy())
    return alerts.incidents(gathered, decisions, checks or {}, held_back_alert=_THRESHOLD)


def _only(found: Sequence[Incident], begins: str) -> Incident:
    (one,) = [incident for incident in found if incident.key.startswith(begins)]
    return one


def rendered() -> str:
    """All samples as Markdown, from the very blocks that Slack is sent."""
    parts: list[str] = []
    for title, incident in samples().items():
        lines = "\n>\n".join(f"> {line}" for line in _lines(incident))
        picture = f"![{title}](images/alert-{picture_name(title)}.png)"
        parts.append(
            f"### {title}\n\n{picture}\n\n<details><summary>The same as text</summary>\n\n{lines}\n\n</details>\n"
        )
    return "\n".join(parts)


def picture_name(title: str) -> str:
    """The picture's name: the title's words up to the comma."""
    return re.sub(r"[^a-z]+", "-", title.partition(",")[0].lower().removesuffix(" (also pages)")).strip("-")


def _lines(incident: Incident, recovered_after: dt.timedelta | None = None) -> Iterator[str]:
    for block in blocks(incident, LINKS, recovered_after=recovered_after):
        texts = [block["text"]] if "text" in block else block.get("fields", block.get("elements"))
        for text in texts:
            yield _markdown(text["text"])


def _markdown(text: str) -> str:
    text = re.sub(r"<([^|>]+)\|([^>]+)>", r"[\2](\1)", text)
    text = re.sub(r"\*([^*\n]+)\*", r"**\1**", text).replace("\n", ": ", 1)
    return text.replace(":rotating_light:", "🚨").replace(":warning:", "⚠️").replace(":white_check_mark:", "✅")


def write(page: Path = PAGE) -> None:
    """Bring the page up to date."""
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{rendered()}\n{_END}{after}")


if __name__ == "__main__":
    write()
