"""Incidents as docs/alerts.md shows them; `python -m classfeed_dagster_tests.operations.sample_incidents` writes it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

from classfeed_dagster.operations.alerts import dead_letters, reconciliation_breaks, schema_drift
from classfeed_dagster.operations.incidents import Incident
from classfeed_dagster.operations.slack import Links, blocks

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
_BEGIN, _END = "<!-- messages: begin -->\n", "<!-- messages: end -->\n"
_RUN = "0c9d6f3e-1111-4222-8333-444455556666"
_LINKS = Links("https://dagster.example", "runbook/alerts.md")
_DAY = dt.date(2026, 3, 2)


def samples() -> dict[str, Incident]:
    """One of each kind, by a title."""
    customers = "Customers' funds at the recipient stay at the last business date that was delivered."
    return {
        "Late, past the deadline (also pages)": Incident(
            key="late.2026-03-02",
            what="class_super is late: past the deadline of 09:00 Sydney",
            means=customers,
            feeds=("class_super",),
            dates=(_DAY,),
            counts={"dates": 1},
            doing="Waiting: bigsite's end of day is not there yet, next at 09:12 Sydney.",
            run_id=_RUN,
            runbook="late",
            page=True,
        ),
        "A failed check": Incident(
            key="check.class.investment_holdings.units_ledger",
            what="Check units_ledger of class/investment_holdings failed: 2026-03-02: 2 finding(s)",
            means="The portfolios concerned are held back from the recipient; everyone else's data went.",
            feeds=("class_super",),
            dates=(_DAY,),
            counts={"dates": 1, "offenders": 2},
            offenders=("SW00000001", "SW00000417"),
            doing="The dates run again by themselves once bigsite's rows are mended.",
            run_id=_RUN,
            runbook="units-ledger",
        ),
        "Repair gave up, many dates and one cause": Incident(
            key="gave-up.InsufficientPrivilege",
            what="Repair gave up on class_super: InsufficientPrivilege: nothing has changed since, so it would fail again",
            means=customers,
            feeds=("class_super",),
            dates=tuple(_DAY + dt.timedelta(days=days) for days in (0, 1, 2, 3, 4, 7)),
            counts={"dates": 6, "attempts": 9},
            doing="It starts again by itself when bigsite's rows change, new code is deployed, or a person releases it.",
            run_id=_RUN,
            runbook="repair-gave-up",
            page=True,
        ),
        "bigsite's schema": schema_drift("column removed trade.other_fees", 1, _RUN),
        "Reconciliation": reconciliation_breaks("class_super", _DAY, 3, ["SW00000001"], _RUN),
        "Dead letters": dead_letters(2),
    }


def rendered() -> str:
    """All samples as Markdown, from the very blocks that Slack is sent."""
    parts: list[str] = []
    for title, incident in samples().items():
        parts.append(f"### {title}\n\n" + "\n>\n".join(f"> {line}" for line in _lines(incident)) + "\n")
    return "\n".join(parts)


def _lines(incident: Incident, recovered_after: dt.timedelta | None = None) -> Iterator[str]:
    for block in blocks(incident, _LINKS, recovered_after=recovered_after):
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
