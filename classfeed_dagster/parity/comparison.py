"""Does the new feed say what the old app said? One business date of a feed compared with the old app's output.

Lines are paired key by key and compared field by field, after the normalisation that ``legacy_files`` declares.
Differences are explained by the table in ``parity_explanations``, or they aren't; a clean date has no unexplained ones.
Both sides are complete days: of the new feed all revisions count, each portfolio as last delivered.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl

from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.documents.csv_mapping import DETAIL, CsvColumn, CsvLayout
from classfeed_dagster.documents.csv_mapping import ColumnType as FieldKind
from classfeed_dagster.documents.csv_reader import lines_of
from classfeed_dagster.documents.document_format import file_chunks
from classfeed_dagster.errors import DataError, ExitCode
from classfeed_dagster.free_text import mask_columns
from classfeed_dagster.parity.explanations import (
    EXPLANATIONS,
    LATE_ROW,
    Evidence,
    Explanation,
    Found,
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
from classfeed_dagster.parity.report import (
    LISTED,
    ParityDifference,
    ParityReport,
    SourceFile,
    read_report,
)
from classfeed_dagster.reconciliation.compare import CLEAN, Comparison, Difference, RowClass, compare
from classfeed_dagster.reconciliation.rules import Field, FieldType, Rule
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import sha256

_FREE_TEXT = "narrative"  # the domain's column that the new feed masks identifiers of persons in
_LINE, _NUMBER = "line", "portfolio_number"
_REVERSAL_OF = "reversal of "
_KINDS = {
    FieldKind.TEXT: FieldType.TEXT,
    FieldKind.DATE: FieldType.DATE,
    FieldKind.INSTANT: FieldType.INSTANT,
    FieldKind.MONEY: FieldType.MONEY,
    FieldKind.DECIMAL6: FieldType.UNITS,
}


class NothingToCompareError(DataError):
    """The new feed has not delivered the date, neither live nor to its shadow."""

    exit_code = ExitCode.NOT_READY

    def __init__(self, feed: str, day: dt.date) -> None:
        super().__init__(f"{feed} of {day.isoformat()} has not been delivered, so there is nothing to compare: run it")


def compare_parity(
    store: ObjectStore,
    *,
    feed: str,
    layout: CsvLayout,
    audience: RecipientSchedule,
    day: dt.date,
    explanations: tuple[Explanation, ...] = EXPLANATIONS,
) -> ParityReport:
    """Compare the old app's output for ``day`` with the delivered one. Writes nothing: ``record_parity`` keeps it.

    ``store`` is the feed's switched view (``delivery/shadow.py``), so that shadow and live deliveries are both seen.
    LegacyMissingError or NothingToCompareError if one side isn't there yet, LegacyFileError if the old file is
    damaged, UnreadableFileError if the new one is.
    """
    old = read_legacy(store, feed, layout, day)
    new = _delivered(store, feed, layout, day)
    promised = _promised(store, feed, layout, audience.previous(day))
    evidence = Evidence(layout, day, old.read_at, new.held_back)
    old_sides, new_sides = _sides(layout, old, {**new.lines, DETAIL: pl.concat([new.lines[DETAIL], promised])})
    promised_ids = frozenset(promised[layout.key])
    judged: list[tuple[Found, Difference, Explanation | None]] = []
    comparisons: list[Comparison] = []
    late: list[Found] = []
    for letter in layout.columns:  # details first: they are evidence for balances
        rule = _rule(layout, letter)
        both = (old_sides[letter], new_sides[letter])
        comparison = compare(rule, both[0].to_arrow(), both[1].to_arrow(), today=day)
        comparisons.append(comparison)
        for found, difference in _found(letter, layout, comparison, both, promised_ids):
            explanation = explanation_of(feed, found, evidence, explanations)
            judged.append((found, difference, explanation))
            if explanation is not None and explanation.name == LATE_ROW:
                late.append(found)
        if layout.balances and letter == DETAIL:
            evidence = Evidence(layout, day, old.read_at, new.held_back, _late_cash(layout, late, day))
    unexplained = [one for one in judged if one[2] is None]
    explained = [one for one in judged if one[2] is not None]
    missing_promises = sum(found.promised and found.row_class is RowClass.MISSING_LEFT for found, _, _ in judged)
    return ParityReport(
        feed=feed,
        business_date=day,
        legacy_files=tuple(SourceFile(key=file.key, sha256=file.sha256) for file in old.files),
        revisions=new.revisions,
        old_lines=sum(frame.height for frame in old.lines.values()),
        new_lines=sum(frame.height for frame in new.lines.values()),
        equal_lines=sum(sum(one.of(row_class) for row_class in CLEAN) for one in comparisons),
        arrived=len(promised_ids) - missing_promises,
        explained=dict(sorted(Counter(one[2].name for one in explained if one[2]).items())),
        unexplained=len(unexplained),
        differences=tuple(_shown(layout, *one) for one in [*unexplained, *explained][:LISTED]),
        promised=tuple(sorted(found.new[layout.key] for found in late if found.new is not None)),
        complete=not any(one.truncated for one in comparisons),
    )


@dataclass(frozen=True)
class _NewLines:
    lines: dict[str, pl.DataFrame]
    held_back: frozenset[str]
    revisions: tuple[int, ...]


def _delivered(store: ObjectStore, feed: str, layout: CsvLayout, day: dt.date) -> _NewLines:
    """The lines of every portfolio as last delivered for the date."""
    state = delivered_state(store, feed, day)
    if state.latest is None:
        raise NothingToCompareError(feed, day)
    lines = {letter: pl.DataFrame(schema=_schema(columns)) for letter, columns in layout.columns.items()}
    for manifest in state.deliveries:
        again = [portfolio.number for portfolio in manifest.portfolios]
        for letter, frame in lines.items():
            lines[letter] = frame.filter(~pl.col(_NUMBER).is_in(again))
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
    """Lines that the new feed delivered on the business date before, and that the old app must have today."""
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
    """Both sides in one form: a column ``line`` names a detail line, text is plain, instants equally precise.

    A reversal that the old app shows as the original again is paired with the new feed's reversing line through the
    original's id. Its figures take the opposite sign, as a reversal's do; dates, instants and description are the
    original's there and the reversal's own here, so that they say nothing about parity and are left out.
    """
    old_sides, new_sides = dict(old.lines), dict(new)
    details = old_sides[DETAIL]
    again = pl.col(REVERSAL)
    originals = details.filter(again)[layout.key].drop_nulls().to_list()
    own = [column for column in layout.details if _reversals_own(layout, column)]
    old_sides[DETAIL] = details.with_columns(
        pl.when(again).then(pl.lit(_REVERSAL_OF) + pl.col(layout.key)).otherwise(pl.col(layout.key)).alias(_LINE),
        *(
            pl.when(again).then(negated(pl.col(column.name))).otherwise(pl.col(column.name)).alias(column.name)
            for column in layout.details
            if column.signed
        ),
        *(pl.when(~again).then(pl.col(column.name)).alias(column.name) for column in own),
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
            *(plain_text(pl.col(column.name)) for column in columns if column.kind is FieldKind.TEXT),
            *(pl.col(name).dt.truncate("1s") for name in seconds),
        )
    return old_sides, new_sides


def _reversals_own(layout: CsvLayout, column: CsvColumn) -> bool:
    return column.kind in (FieldKind.DATE, FieldKind.INSTANT) or column.name in (layout.reverses, "description")


def _found(
    letter: str,
    layout: CsvLayout,
    comparison: Comparison,
    sides: tuple[pl.DataFrame, pl.DataFrame],
    promised: frozenset[str],
) -> list[tuple[Found, Difference]]:
    """The differences that matter, with the lines they are about."""
    open_ones = [one for one in comparison.differences if one.row_class not in CLEAN]
    keys = [key.name for key in comparison.rule.keys]
    rows = [_rows(layout, letter, side, keys, open_ones) for side in sides]
    return [
        (
            Found(
                letter,
                one.row_class,
                one.key,
                one.field,
                rows[0].get(one.key),
                rows[1].get(one.key),
                letter == DETAIL and (rows[1].get(one.key) or {}).get(layout.key) in promised,
            ),
            one,
        )
        for one in open_ones
    ]


def _rows(
    layout: CsvLayout, letter: str, side: pl.DataFrame, keys: Sequence[str], differences: Sequence[Difference]
) -> dict[tuple[str | None, ...], Mapping[str, Any]]:
    """The lines of some differences by key, as typed values; what can't be read as its type is None."""
    wanted = pl.DataFrame([one.key for one in differences], schema=dict.fromkeys(keys, pl.String()), orient="row")
    lines = side.join(wanted.unique(), on=list(keys), how="semi", nulls_equal=True)
    typed = lines.with_columns(
        pl.col(column.name).cast(column.kind.dtype, strict=False)
        for column in layout.columns[letter]
        if column.kind in (FieldKind.MONEY, FieldKind.DECIMAL6)
    )
    return {tuple(row[key] for key in keys): row for row in typed.iter_rows(named=True)}


def _late_cash(layout: CsvLayout, late: Sequence[Found], day: dt.date) -> dict[tuple[str | None, ...], Decimal]:
    """What late rows dated on or before the day add up to, by cash account."""
    sums: dict[tuple[str | None, ...], Decimal] = {}
    for found in late:
        row = found.new or {}
        if row[layout.business_date] <= day:
            account = tuple(row[name] for name in layout.group)
            sums[account] = sums.get(account, Decimal("0.00")) + row[layout.summed]
    return sums


def _shown(layout: CsvLayout, found: Found, one: Difference, explanation: Explanation | None) -> ParityDifference:
    personal = {column.name for column in layout.columns[found.letter] if column.personal}
    names = [_NUMBER, _LINE] if found.letter == DETAIL else layout.group
    parts = [
        f"account-{sha256(part.encode())[:8]}" if part is not None and name in personal else part or "(none)"
        for name, part in zip(names[1:], found.key[1:], strict=True)
    ]
    hidden = found.field in personal
    return ParityDifference(
        line="D" if found.letter == DETAIL else "B",
        portfolio_number=found.portfolio,
        key=" ".join(parts),
        kind=found.row_class.value,
        field=found.field,
        old="(hidden)" if hidden and one.left is not None else one.left,
        new="(hidden)" if hidden and one.right is not None else one.right,
        explanation=explanation.name if explanation is not None else None,
    )
