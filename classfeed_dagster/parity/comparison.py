"""Comparison of one business date of a feed with the old app's output.

Lines are paired by key and compared field by field, after the normalisation declared in ``legacy_files``. The rules in
``explanations`` explain differences; a clean date has no unexplained ones. Both sides are complete days: the new feed's
includes all revisions, each portfolio as last delivered. The report of each date is stored, and gives the running
score of clean dates.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import polars as pl
from pydantic import NonNegativeInt

from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.documents.csv_mapping import DETAIL, ColumnType, CsvColumn, CsvLayout
from classfeed_dagster.documents.csv_reader import lines_of
from classfeed_dagster.documents.document_format import file_chunks
from classfeed_dagster.errors import DataError, ExitCode
from classfeed_dagster.free_text import mask_columns
from classfeed_dagster.parity.explanations import (
    LATE_ROW,
    PARITY_RULES,
    LineDifference,
    ParityEvidence,
    ParityRule,
    explanation_of,
)
from classfeed_dagster.parity.legacy_files import (
    REVERSAL,
    LegacyLines,
    negated,
    plain_text,
    read_legacy,
    shows_seconds_only,
)
from classfeed_dagster.reconciliation.compare import CLEAN, Comparison, Difference, RowClass, compare
from classfeed_dagster.reconciliation.rules import Field, FieldType, Rule
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, find_record, sha256, to_json

LISTED = 1000  # differences that a report lists; its counts are complete


class SourceFile(StoredRecord):
    """A compared file of the old app."""

    key: str
    sha256: str


class ParityDifference(StoredRecord):
    """One difference. Values of personal fields are masked; a cash account is named by a hash."""

    line: Literal["D", "B"]
    portfolio_number: str
    key: str
    kind: str
    field: str | None
    old: str | None
    new: str | None
    explanation: str | None


class ParityReport(StoredRecord):
    """Result of comparing one feed's business date."""

    feed: str
    business_date: dt.date
    legacy_files: tuple[SourceFile, ...]
    revisions: tuple[NonNegativeInt, ...]  # of the new feed
    old_lines: NonNegativeInt
    new_lines: NonNegativeInt
    equal_lines: NonNegativeInt
    arrived: NonNegativeInt  # late lines of the previous business date that the old app has on this date
    explained: dict[str, NonNegativeInt]  # differences by rule
    unexplained: NonNegativeInt
    differences: tuple[ParityDifference, ...]  # unexplained ones first; at most LISTED
    promised: tuple[str, ...]  # late lines that the old app must have on the next business date
    complete: bool  # False: too many differences to classify each

    @property
    def clean(self) -> bool:
        """Return True if every difference is explained."""
        return self.unexplained == 0 and self.complete

    @property
    def empty(self) -> bool:
        """Return True if neither side has a line: clean, but without evidence."""
        return self.old_lines == self.new_lines == 0


def report_key(feed: str, day: dt.date) -> str:
    """Return the key of the latest report of a date."""
    return f"parity/{feed}/{day.isoformat()}.json"


def record_parity(store: ObjectStore, report: ParityReport) -> str:
    """Store the report permanently under its hash, and as the latest of its date. Return the permanent key."""
    data = to_json(report)
    key = f"reconciliation/{report.feed}/{report.business_date.isoformat()}/parity/{sha256(data)[:32]}.json"
    store.create(key, data)
    store.put(report_key(report.feed, report.business_date), data)
    return key


def read_report(store: ObjectStore, feed: str, day: dt.date) -> ParityReport | None:
    """Return the latest report of a date; None if it was never compared. DamagedRecordError if it is unreadable."""
    return find_record(store, ParityReport, report_key(feed, day))


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Clean dates in a row up to ``last``. ``dates`` has the verdicts, newest first.

    A date on which neither side has a line neither counts nor ends the run.
    """

    feed: str
    last: dt.date
    clean_run: int
    broken_by: str | None  # date and verdict that ended the run; None if it reaches the feed's first date
    dates: tuple[tuple[dt.date, str], ...]


def scorecard(
    store: ObjectStore, feed: str, audience: RecipientSchedule, last: dt.date, *, show: int = 30
) -> Scorecard:
    """Return the running score up to ``last``, over the whole run, with at least ``show`` dates."""
    run, broken_by, dates = 0, None, list[tuple[dt.date, str]]()
    day: dt.date | None = last
    while day is not None and (broken_by is None or len(dates) < show):
        report = read_report(store, feed, day)
        verdict = _verdict(report)
        dates.append((day, verdict))
        if broken_by is None and (report is None or not report.clean):
            broken_by = f"{day.isoformat()}, {verdict}"
        elif broken_by is None and report is not None and not report.empty:
            run += 1
        day = audience.previous(day)
    return Scorecard(feed, last, run, broken_by, tuple(dates))


def _verdict(report: ParityReport | None) -> str:
    if report is None:
        return "not compared"
    if report.empty:
        return "empty"
    if not report.clean:
        return f"{report.unexplained} unexplained" if report.complete else "too many differences"
    return f"clean, {sum(report.explained.values())} explained"


_FREE_TEXT = "narrative"  # the domain's column that the new feed masks identifiers of persons in
_LINE, _NUMBER = "line", "portfolio_number"
_REVERSAL_OF = "reversal of "
_KINDS = {
    ColumnType.TEXT: FieldType.TEXT,
    ColumnType.DATE: FieldType.DATE,
    ColumnType.INSTANT: FieldType.INSTANT,
    ColumnType.MONEY: FieldType.MONEY,
    ColumnType.DECIMAL6: FieldType.UNITS,
}


class NothingToCompareError(DataError):
    """The new feed has not delivered the date, neither live nor in shadow."""

    exit_code = ExitCode.NOT_READY

    def __init__(self, feed: str, day: dt.date) -> None:
        super().__init__(f"{feed} of {day.isoformat()} is not delivered, so it cannot be compared: run the date first")


def compare_parity(
    store: ObjectStore,
    *,
    feed: str,
    layout: CsvLayout,
    audience: RecipientSchedule,
    day: dt.date,
    explanations: tuple[ParityRule, ...] = PARITY_RULES,
) -> ParityReport:
    """Compare the old app's output for ``day`` with the delivered lines. ``record_parity`` stores the report.

    ``store`` is a view with shadow and live deliveries (``live_and_shadow``). LegacyMissingError or
    NothingToCompareError while one side is missing, LegacyFileError if the old file is damaged, UnreadableFileError if
    the new one is.
    """
    old = read_legacy(store, feed, layout, day)
    new = _delivered(store, feed, layout, day)
    promised = _promised(store, feed, layout, audience.previous(day))
    evidence = ParityEvidence(layout, day, old.read_at, new.held_back)
    old_sides, new_sides = _sides(layout, old, {**new.lines, DETAIL: pl.concat([new.lines[DETAIL], promised])})
    promised_ids = frozenset(promised[layout.key])
    results: list[tuple[LineDifference, Difference, ParityRule | None]] = []
    comparisons: list[Comparison] = []
    late: list[LineDifference] = []
    for letter in layout.columns:  # details first: they are evidence for balances
        rule = _rule(layout, letter)
        both = (old_sides[letter], new_sides[letter])
        comparison = compare(rule, both[0].to_arrow(), both[1].to_arrow(), today=day)
        comparisons.append(comparison)
        for line, difference in _open_differences(letter, layout, comparison, both, promised_ids):
            explanation = explanation_of(feed, line, evidence, explanations)
            results.append((line, difference, explanation))
            if explanation is not None and explanation.name == LATE_ROW:
                late.append(line)
        if layout.balances and letter == DETAIL:
            evidence = ParityEvidence(layout, day, old.read_at, new.held_back, _late_cash(layout, late, day))
    unexplained = [result for result in results if result[2] is None]
    explained = [result for result in results if result[2] is not None]
    missing_promises = sum(line.promised and line.row_class is RowClass.MISSING_LEFT for line, _, _ in results)
    return ParityReport(
        feed=feed,
        business_date=day,
        legacy_files=tuple(SourceFile(key=file.key, sha256=file.sha256) for file in old.files),
        revisions=new.revisions,
        old_lines=sum(frame.height for frame in old.lines.values()),
        new_lines=sum(frame.height for frame in new.lines.values()),
        equal_lines=sum(sum(comparison.of(row_class) for row_class in CLEAN) for comparison in comparisons),
        arrived=len(promised_ids) - missing_promises,
        explained=dict(sorted(Counter(rule.name for _, _, rule in explained if rule).items())),
        unexplained=len(unexplained),
        differences=tuple(_report_entry(layout, *result) for result in [*unexplained, *explained][:LISTED]),
        promised=tuple(sorted(line.new[layout.key] for line in late if line.new is not None)),
        complete=not any(comparison.truncated for comparison in comparisons),
    )


@dataclass(frozen=True)
class _NewLines:
    lines: dict[str, pl.DataFrame]
    held_back: frozenset[str]
    revisions: tuple[int, ...]


def _delivered(store: ObjectStore, feed: str, layout: CsvLayout, day: dt.date) -> _NewLines:
    """Return the lines of each portfolio as last delivered for the date."""
    state = delivered_state(store, feed, day)
    if state.latest is None:
        raise NothingToCompareError(feed, day)
    lines = {letter: pl.DataFrame(schema=_schema(columns)) for letter, columns in layout.columns.items()}
    for manifest in state.deliveries:
        numbers = [portfolio.number for portfolio in manifest.portfolios]
        for letter, frame in lines.items():
            lines[letter] = frame.filter(~pl.col(_NUMBER).is_in(numbers))
        for page in manifest.pages:
            with store.local_file(page.key) as path:
                for letter, frame in lines_of(layout, file_chunks(path)).items():
                    lines[letter] = pl.concat([lines[letter], frame])
    return _NewLines(
        lines,
        frozenset(state.held_back) - state.portfolios.keys(),
        tuple(manifest.revision for manifest in state.deliveries),
    )


def _promised(store: ObjectStore, feed: str, layout: CsvLayout, previous: dt.date | None) -> pl.DataFrame:
    """Return the lines that the new feed delivered on the previous business date and the old app must have on this."""
    report = read_report(store, feed, previous) if previous is not None else None
    if report is None or previous is None or not report.promised:
        return pl.DataFrame(schema=_schema(layout.details))
    details = _delivered(store, feed, layout, previous).lines[DETAIL]
    return details.filter(pl.col(layout.key).is_in(report.promised))


def _schema(columns: Iterable[CsvColumn]) -> dict[str, pl.DataType]:
    return {column.name: column.kind.dtype for column in columns}


def _rule(layout: CsvLayout, letter: str) -> Rule:
    columns = layout.columns[letter]
    keys = (_NUMBER, _LINE) if letter == DETAIL else layout.group
    fields = [Field(column.name, _KINDS[column.kind], personal=column.personal) for column in columns]
    by_name = {field.name: field for field in [*fields, Field(_LINE)]}
    return Rule(
        f"{layout.name} {letter}",
        tuple(by_name[key] for key in keys),
        tuple(field for field in fields if field.name not in (*keys, layout.key)),
    )


def _sides(
    layout: CsvLayout, old: LegacyLines, new: Mapping[str, pl.DataFrame]
) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """Return both sides in one form: ``line`` identifies a detail line, text is plain, instants are equally precise.

    The old app may show a reversal as a copy of the original. It is paired with the new feed's reversing line by the
    original's id, and its figures are negated. Dates, instants and description are left out: the old app has the
    original's, the new feed the reversal's own.
    """
    old_sides, new_sides = dict(old.lines), dict(new)
    details = old_sides[DETAIL]
    is_copy = pl.col(REVERSAL)
    originals = details.filter(is_copy)[layout.key].drop_nulls().to_list()
    own = [column for column in layout.details if _reversals_own(layout, column)]
    old_sides[DETAIL] = details.with_columns(
        pl.when(is_copy).then(pl.lit(_REVERSAL_OF) + pl.col(layout.key)).otherwise(pl.col(layout.key)).alias(_LINE),
        *(
            pl.when(is_copy).then(negated(pl.col(column.name))).otherwise(pl.col(column.name)).alias(column.name)
            for column in layout.details
            if column.signed
        ),
        *(pl.when(~is_copy).then(pl.col(column.name)).alias(column.name) for column in own),
    )
    undoing = pl.col(layout.reverses).is_in(originals).fill_null(False)
    new_sides[DETAIL] = new_sides[DETAIL].with_columns(
        pl.when(undoing)
        .then(pl.lit(_REVERSAL_OF) + pl.col(layout.reverses))
        .otherwise(pl.col(layout.key))
        .alias(_LINE),
        *(pl.when(~undoing).then(pl.col(column.name)).alias(column.name) for column in own),
    )
    for letter, columns in layout.columns.items():
        old_sides[letter] = mask_columns(
            old_sides[letter], *(column.name for column in columns if _FREE_TEXT in column.source.meta.root_names())
        )
        seconds = set(shows_seconds_only(old_sides[letter], columns))
        new_sides[letter] = new_sides[letter].with_columns(
            *(plain_text(pl.col(column.name)) for column in columns if column.kind is ColumnType.TEXT),
            *(pl.col(name).dt.truncate("1s") for name in seconds),
        )
    return old_sides, new_sides


def _reversals_own(layout: CsvLayout, column: CsvColumn) -> bool:
    return column.kind in (ColumnType.DATE, ColumnType.INSTANT) or column.name in (layout.reverses, "description")


def _open_differences(
    letter: str,
    layout: CsvLayout,
    comparison: Comparison,
    sides: tuple[pl.DataFrame, pl.DataFrame],
    promised: frozenset[str],
) -> list[tuple[LineDifference, Difference]]:
    """Return the differences outside tolerance, with their lines."""
    differences = [difference for difference in comparison.differences if difference.row_class not in CLEAN]
    keys = [key.name for key in comparison.rule.keys]
    rows = [_rows(layout, letter, side, keys, differences) for side in sides]
    return [
        (
            LineDifference(
                letter,
                difference.row_class,
                difference.key,
                difference.field,
                rows[0].get(difference.key),
                rows[1].get(difference.key),
                letter == DETAIL and (rows[1].get(difference.key) or {}).get(layout.key) in promised,
            ),
            difference,
        )
        for difference in differences
    ]


def _rows(
    layout: CsvLayout, letter: str, side: pl.DataFrame, keys: Sequence[str], differences: Sequence[Difference]
) -> dict[tuple[str | None, ...], Mapping[str, Any]]:
    """Return the lines of some differences by key, as typed values; None for a value that is not of its type."""
    line_keys = pl.DataFrame(
        [difference.key for difference in differences], schema=dict.fromkeys(keys, pl.String()), orient="row"
    )
    lines = side.join(line_keys.unique(), on=list(keys), how="semi", nulls_equal=True)
    typed = lines.with_columns(
        pl.col(column.name).cast(column.kind.dtype, strict=False)
        for column in layout.columns[letter]
        if column.kind in (ColumnType.MONEY, ColumnType.DECIMAL6)
    )
    return {tuple(row[key] for key in keys): row for row in typed.iter_rows(named=True)}


def _late_cash(
    layout: CsvLayout, late: Sequence[LineDifference], day: dt.date
) -> dict[tuple[str | None, ...], Decimal]:
    """Return the sums of late rows dated on or before ``day``, by cash account."""
    sums: dict[tuple[str | None, ...], Decimal] = {}
    for line in late:
        row = line.new or {}
        if row[layout.business_date] <= day:
            account = tuple(row[name] for name in layout.group)
            sums[account] = sums.get(account, Decimal("0.00")) + row[layout.summed]
    return sums


def _report_entry(
    layout: CsvLayout, line: LineDifference, difference: Difference, explanation: ParityRule | None
) -> ParityDifference:
    personal = {column.name for column in layout.columns[line.letter] if column.personal}
    names = [_NUMBER, _LINE] if line.letter == DETAIL else layout.group
    parts = [
        f"account-{sha256(part.encode())[:8]}" if part is not None and name in personal else part or "(none)"
        for name, part in zip(names[1:], line.key[1:], strict=True)
    ]
    hidden = line.field in personal
    return ParityDifference(
        line="D" if line.letter == DETAIL else "B",
        portfolio_number=line.portfolio,
        key=" ".join(parts),
        kind=line.row_class.value,
        field=line.field,
        old="(hidden)" if hidden and difference.left is not None else difference.left,
        new="(hidden)" if hidden and difference.right is not None else difference.right,
        explanation=explanation.name if explanation is not None else None,
    )
