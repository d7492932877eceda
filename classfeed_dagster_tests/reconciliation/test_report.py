from __future__ import annotations

import dataclasses
import datetime as dt
import io
import itertools
import re
from decimal import Decimal
from html import escape
from html.parser import HTMLParser

import polars as pl
import pytest

from classfeed_dagster.reconciliation.report import render, write_report
from classfeed_dagster.reconciliation.result import Amount, Figure, Reconciliation, Tally
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.breaks import StoredBreak
from classfeed_dagster.warehouse.records import (
    Break,
    BreakCause,
    BreakExplanation,
    BreakKind,
    BreakSeverity,
    RecordTrace,
    Side,
)

DAY = dt.date(2025, 3, 12)
NOW = dt.datetime(2025, 3, 13, 9, tzinfo=dt.UTC)
ONE = Break(
    "class_super", DAY, Side.SOURCE, BreakKind.VALUE_DIFFERS, BreakSeverity.ERROR, "SW000001", "movement_transactions", "T102", "net_amount",
    "10.50", "10.40", Decimal("0.10"), (BreakExplanation(BreakCause.FILE_ALTERED, "<script>alert(1)</script>"), BreakExplanation(BreakCause.SIGN, "turned")),
    RecordTrace("trade 102", "landing/x", "class_super-20250312-r0-p1", "17"),
)  # fmt: skip
SMALL = dataclasses.replace(ONE, subject="T1", difference=Decimal("-0.01"), trace=RecordTrace(page="p"))
LATE = dataclasses.replace(
    ONE,
    subject="T|9",
    severity=BreakSeverity.WARNING,
    kind=BreakKind.LATE,
    field=None,
    export_value=None,
    difference=None,
    trace=RecordTrace(),
)
EVENT = dataclasses.replace(LATE, severity=BreakSeverity.EVENT, portfolio_number=None, side=Side.DATA_TEAM)
CLEAN = Reconciliation(
    "class_super", DAY, Side.SOURCE, "a1", NOW, (), (Tally("accounts against bigsite", {"match": (5, 5), "excluded": (0, 2)}, 5, 0, {"held": 2}),),
    {"SW000009": "its units don't add up"}, moved_on=2,
)  # fmt: skip
BROKEN = dataclasses.replace(CLEAN, breaks=(LATE, SMALL, ONE), truncated=True, held_back={})
DATA_TEAM = dataclasses.replace(CLEAN, side=Side.DATA_TEAM, breaks=(EVENT,), tallies=())
KEPT = StoredBreak(
    "x", "class_super", Side.SOURCE, DAY, "late", "error", None, "r", "s", None, None, None, "late row", "e",
    NOW - dt.timedelta(days=5), NOW, None,
)  # fmt: skip


FIGURES = (
    Figure("movements delivered, by type", (("BUY", 3), ("DIVIDEND", 1))),
    Figure("market value delivered, AUD, by security type", (("ETF", Decimal("1234.50")), ("REIT", Decimal("0.00")))),
)
HELD_BACK = Figure("portfolios held back, by date", (("2025-03-11", 0), ("2025-03-12", 2)), over_time=True)


class _WellFormed(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag


@pytest.mark.parametrize("results", [[CLEAN], [BROKEN, DATA_TEAM], [dataclasses.replace(CLEAN, tallies=())]])
def test_report_is_one_well_formed_page_that_fetches_nothing(results: list[Reconciliation]) -> None:
    page = render(results, [KEPT])
    parser = _WellFormed()
    parser.feed(page)
    assert not parser.open
    assert not parser.links
    assert "<script" not in page
    assert "viewport" in page
    assert "4–7 days" in page


def test_report_shows_breaks_causes_and_totals() -> None:
    page = render([BROKEN, DATA_TEAM])
    for text in (
        "Errors",
        "T102",
        "10.50",
        "10.40",
        "delivered file altered",
        "trade 102",
        "landing/x",
        "line 17 of the document",
        "more differences than",
    ):
        assert text in page
    assert page.index("T102") < page.index("> T1<") if "> T1<" in page else True
    clean = render([CLEAN])
    assert "Correct" in clean
    assert "units don&#x27;t add up" in clean
    assert "None. Every row" in clean
    assert "At a glance" not in clean
    assert "Nothing was compared" in render([dataclasses.replace(CLEAN, tallies=())])


def test_report_shows_deliveries_and_held_back_portfolios() -> None:
    page = render([dataclasses.replace(CLEAN, figures=FIGURES)], history=[HELD_BACK])
    none = render([CLEAN], history=[dataclasses.replace(HELD_BACK, rows=(("2025-03-11", 0),))])
    assert "portfolios held back, by date: none." in none  # no empty figure
    assert "<svg" not in none
    assert "What was delivered" in page
    assert 'aria-label="BUY: 3, DIVIDEND: 1"' in page
    assert "1,234.50" in page
    assert 'aria-label="2025-03-11: 0, 2025-03-12: 2"' in page
    assert "highest 2" in page
    nothing = render([CLEAN], history=[dataclasses.replace(HELD_BACK, rows=())])
    assert "What was delivered" not in nothing


class _Landmarks(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_report_is_readable_aloud_and_by_keyboard() -> None:
    parser = _Landmarks()
    parser.feed(render([BROKEN, CLEAN], [KEPT], [HELD_BACK]))
    tags = [tag for tag, _ in parser.seen]
    assert next(attrs for tag, attrs in parser.seen if tag == "html")["lang"] == "en"
    assert (tags.count("main"), tags.count("footer"), tags.count("h1")) == (1, 1, 1)
    headings = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert tags.count("table") == tags.count("caption") > 0
    assert all(attrs.get("scope") == "col" for tag, attrs in parser.seen if tag == "th")
    assert all(attrs.get("aria-label") for tag, attrs in parser.seen if tag == "svg")
    boxes = [attrs for tag, attrs in parser.seen if attrs.get("class") == "wide"]
    assert len(boxes) == tags.count("table")
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert "prefers-reduced-motion" in render([CLEAN])


def test_report_begins_with_ours_theirs_and_difference_per_currency() -> None:
    amounts = (
        Amount("HOLDINGS", "", Decimal(2), Decimal(3), Decimal(1)),
        Amount("MARKET_VALUE", "AUD", Decimal("1234567.80"), Decimal("1234567.90"), Decimal(0)),
    )
    page = render([dataclasses.replace(DATA_TEAM, amounts=amounts)])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells[:5] == ["Market value, AUD", "1,234,567.80", "1,234,567.90", "0.00", "-0.10"]  # money first
    assert cells[5:10] == ["Holdings", "2", "3", "1", "0"]
    assert "What the words mean" in page
    assert page.index("Ours and theirs") < page.index("Rows compared") < page.index("Breaks (")


def test_report_of_the_source_explains_its_sums() -> None:
    amounts = (
        Amount("movement_transactions.net_amount", "USD", Decimal(1), Decimal(1), Decimal(0)),
        Amount("account_balances.ledger_balance", "AUD", Decimal("10.50"), Decimal("30.50"), Decimal(20)),
    )
    page = render([dataclasses.replace(BROKEN, amounts=amounts)])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells[:5] == ["Account balances: ledger balance, AUD", "10.50", "30.50", "20.00", "0.00"]
    assert cells[5] == "Movement transactions: net amount, USD"
    assert "read again without the export" in page
    assert page.index("Rows compared") < page.index("Breaks (") < page.index("At a glance")


def test_report_explains_every_cause_and_folds_repeated_breaks() -> None:
    many = tuple(
        dataclasses.replace(ONE, subject=f"T{at}", explanations=(BreakExplanation(cause, "e"),))
        for at in range(7)
        for cause in BreakCause
    )
    page = render([dataclasses.replace(BROKEN, breaks=many)])
    assert page.count("<summary>2 more</summary>") == len(BreakCause)
    assert all(f"<dt>{escape(cause.value)}</dt>" in page for cause in (*BreakCause, *BreakSeverity))


def test_report_groups_portfolios_held_back_by_reason() -> None:
    page = render([dataclasses.replace(CLEAN, held_back={f"SW{at}": "consent has ended" for at in range(30)})])
    assert page.count("consent has ended") == 1
    assert "SW29" in page


def test_report_has_one_line_a_comparison_and_breaks_by_cause() -> None:
    page = render([BROKEN])
    assert page.count("</tr>") - page.count("<thead>") == len(BROKEN.tallies)
    causes = {entry.likeliest.cause.value for entry in BROKEN.breaks}
    assert all(f"<h3>{cause} (" in page for cause in causes)
    assert "What the columns mean" in page


def test_report_cuts_many_breaks_and_stores_all(store: ObjectStore) -> None:
    many = tuple(dataclasses.replace(ONE, subject=f"T{at}") for at in range(600))
    result = dataclasses.replace(BROKEN, breaks=many)
    key = write_report(store, [result])
    assert key == "reconciliation/class_super/2025-03-12/a1/report.html"
    assert b"100 more are in breaks.parquet" in store.read(key)
    frame = pl.read_parquet(io.BytesIO(store.read(key.replace("report.html", "breaks.parquet"))))
    assert frame.height == 600
    assert frame["difference"].dtype == pl.Decimal(38, 6)
    assert write_report(store, [result]) == key


def test_report_is_of_one_attempt(local_store: ObjectStore) -> None:
    for results in ([], [CLEAN, dataclasses.replace(CLEAN, attempt="a2")]):
        with pytest.raises(ValueError, match="one feed"):
            write_report(local_store, results)


@pytest.mark.parametrize("hostile", ["a\\| b", "a | b", "a\rb", "a\nb", "a\u2028b", "<img src=x>"])
def test_report_markdown_keeps_each_break_in_its_row(hostile: str) -> None:
    (entry, *_) = BROKEN.breaks
    result = dataclasses.replace(BROKEN, breaks=(dataclasses.replace(entry, subject=hostile, export_value=hostile),))
    row = result.markdown().splitlines()[-1]
    unescaped = re.sub(r"\\.", "", row)
    assert (row[0], unescaped.count("|")) == ("|", 8)
    assert "<" not in row


def test_report_has_markdown_and_metrics() -> None:
    table = BROKEN.markdown(2)
    lines = table.splitlines()
    assert lines[4].startswith(
        "| 🔴 | SW000001 | value differs: movement_transactions T102 | net_amount | 10.50 | 10.40 |"
    )
    assert "1 more" in table
    assert "T\\|9" in BROKEN.markdown()
    assert CLEAN.markdown() == CLEAN.summary()
    metrics = BROKEN.metrics()
    assert (metrics["breaks"], metrics["errors"], metrics["warnings"], metrics["breaks_late"]) == (3, 2, 1, 1)
    assert CLEAN.metrics().keys() == metrics.keys()
    assert " error" in BROKEN.summary()
    assert "nothing is proven" in dataclasses.replace(CLEAN, tallies=()).summary()
    assert "—" in DATA_TEAM.markdown()
