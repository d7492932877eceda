"""Checks for values that an EPI document cannot hold; such a portfolio is held back with the reason.

Every rule comes from the XSD (patterns, lengths, vocabularies, digits) or from XML itself (characters). A finding
names the element and the fault, never the value: names and account numbers are personal data.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.epi_mapping import Element, ElementType, RecordMapping
from classfeed_dagster.documents.epi_schema import TextRule, text_rules
from classfeed_dagster.documents.epi_totals import currency_sums, unit_sums
from classfeed_dagster.documents.epi_writer import Frames, FrameShapeError, declared_frame, group_breaches
from classfeed_dagster.documents.format_rules import format_rule
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.wording import counted

# XML 1.0 cannot represent these, not even as references (surrogates cannot be in a frame).
NOT_XML = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{FFFE}\\x{FFFF}]"
_FIRST_DAY, _LAST_DAY = dt.date(1, 1, 1), dt.date(9999, 12, 31)
_SEVERITY = "QUARANTINE"


@dataclass(frozen=True, slots=True)
class _ValueProblem:
    """Fault of the rows for which ``broken`` is true, with its rule and a sentence."""

    rule: str
    broken: pl.Expr
    detail: pl.Expr


def check_representable(frames: Frames) -> pl.DataFrame:
    """Return FINDINGS rows (severity QUARANTINE) for every value and row of the five frames that no document can hold.

    Portfolios without a finding can be rendered, and the result is valid against the XSD. FrameShapeError if a frame's
    columns or types differ from the declaration, or a row has no portfolio number, which is a defect of the code.
    """
    checked = {record.frame.name: declared_frame(record, frames) for record in epi.RECORDS}
    for name, frame in checked.items():
        if frame[epi.PORTFOLIO].null_count():
            raise FrameShapeError(f"{name} has rows without a portfolio number: no portfolio could be held back")
    findings = [rows for record in epi.RECORDS for rows in _of_record(record, checked[record.frame.name])]
    findings.extend(_of_portfolios(checked))
    findings.extend(_of_sums({section.name: checked[section.record.frame.name] for section in epi.SECTIONS}))
    return FINDINGS.conform(pl.concat([FINDINGS.empty(), *findings]).unique())


def _of_record(record: RecordMapping, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    problems = list(_problems(record))
    # One pass, almost always without a result, instead of one per rule.
    broken = frame.select(problem.broken.any().alias(str(at)) for at, problem in enumerate(problems)).row(0)
    subject = pl.col(record.subject).cast(pl.String).fill_null("") if record.subject else pl.lit("")
    for problem, is_broken in zip(problems, broken, strict=True):
        if is_broken:
            yield _findings(frame.filter(problem.broken), problem.rule, subject, problem.detail)


def _findings(rows: pl.DataFrame, rule: str, subject: pl.Expr, detail: pl.Expr) -> pl.DataFrame:
    return rows.select(
        pl.col(epi.PORTFOLIO),
        pl.lit(format_rule(rule).name).alias("rule"),
        pl.lit(_SEVERITY).alias("severity"),
        subject.alias("subject"),
        detail.alias("detail"),
    )


def _problems(record: RecordMapping) -> Iterator[_ValueProblem]:
    in_group = {element for group in record.groups for element in group.elements}
    # The details of a REMOVED account are not written, so they cannot be wrong.
    unwritten = set(epi.DETAILS.elements) if record is epi.ACCOUNT else set()
    for element in record.typed():
        value, name = pl.col(element.column), f"{record.name}/{element.name}"
        if not element.optional and element not in in_group:
            yield _ValueProblem(
                "missing_value", value.is_null(), pl.lit(f"{name} is missing and is required in every record")
            )
        for problem in _of_value(element, value, name):
            written = (pl.col(epi.CONSENT) != epi.REMOVED) if element in unwritten else pl.lit(value=True)
            yield _ValueProblem(problem.rule, (written & problem.broken).fill_null(value=False), problem.detail)
    for name, broken in group_breaches(record).items():
        says = f"{record.name} has only part of its {name}: send all of it or none"
        yield _ValueProblem("incomplete_group", broken.fill_null(value=False), pl.lit(says))


def _of_value(element: Element, value: pl.Expr, name: str) -> Iterator[_ValueProblem]:
    if element.type in epi.MOMENTS:
        day = value.cast(pl.Date)
        detail = pl.lit(f"{name} lies outside the years 0001 to 9999")
        yield _ValueProblem("date_out_of_range", ~day.is_between(_FIRST_DAY, _LAST_DAY), detail)
        return
    rule = text_rules()[element.type]
    if element.type in epi.NUMBERS:
        detail = pl.lit(f"{name} has more digits than the document's pattern {rule.pattern} allows")
        yield _ValueProblem("too_many_digits", ~_obeys(value.cast(pl.String), rule), detail)
        return
    unwritable_text = value.str.contains(NOT_XML)
    yield _ValueProblem("unwritable_character", unwritable_text, _first_unwritable(value, name))
    # One reason a value: other faults are reported once its characters are right.
    for problem in _of_text(element, value, rule, name):
        yield _ValueProblem(problem.rule, ~unwritable_text & problem.broken, problem.detail)


def _of_text(element: Element, value: pl.Expr, rule: TextRule, name: str) -> Iterator[_ValueProblem]:
    length = value.str.len_chars()
    if rule.pattern:
        detail = pl.lit(f"{name} does not match the document's pattern {rule.pattern}")
        yield _ValueProblem("wrong_form", ~_obeys(value, rule), detail)
    if rule.vocabulary:
        detail = pl.lit(f"{name} is not one of {', '.join(rule.vocabulary)}")
        yield _ValueProblem("unknown_value", ~value.is_in(rule.vocabulary), detail)
    if rule.max_length is not None:
        detail = pl.format(f"{name} has {{}} characters, and the document allows at most {rule.max_length}", length)
        yield _ValueProblem("too_long", length > rule.max_length, detail)
    if rule.min_length and not element.optional:  # an optional text that is empty is left out
        detail = pl.lit(f"{name} is empty, and the document requires at least {counted(rule.min_length, 'character')}")
        yield _ValueProblem("too_short", length < rule.min_length, detail)


def _obeys(text: pl.Expr, rule: TextRule) -> pl.Expr:
    # An XSD pattern covers the whole value. This XSD's patterns mean the same to Polars.
    return text.str.contains(f"^(?:{rule.pattern})$")


def _first_unwritable(value: pl.Expr, name: str) -> pl.Expr:
    first = value.str.extract(f"({NOT_XML})", 1)
    before = value.str.extract(f"^((?s:.*?)){NOT_XML}", 1)
    code_point = first.map_elements(lambda character: f"U+{ord(character):04X}", return_dtype=pl.String)
    return pl.format(
        f"{name} has {{}} as character {{}}, which XML cannot represent: correct it in bigsite",
        code_point,
        before.str.len_chars() + 1,
    )


def _of_portfolios(frames: Mapping[str, pl.DataFrame]) -> Iterator[pl.DataFrame]:
    # Portfolios with two accounts, and rows of portfolios without an account or REMOVED.
    accounts = frames[epi.ACCOUNT.frame.name]
    twice = accounts.group_by(epi.PORTFOLIO).len().filter(pl.col("len") > 1)
    yield _findings(twice, "two_accounts", pl.lit(""), pl.lit("the portfolio has two accounts; one is allowed"))
    sent = accounts.filter(pl.col(epi.CONSENT) != epi.REMOVED)
    for record in epi.RECORDS[1:]:
        stray = frames[record.frame.name].join(sent, on=epi.PORTFOLIO, how="anti").group_by(epi.PORTFOLIO).len()
        detail = pl.format(f"{record.name} of a portfolio that has no account or is REMOVED (records: {{}})", "len")
        yield _findings(stray, "no_account", pl.lit(record.name), detail)


def _of_sums(frames: Mapping[str, pl.DataFrame]) -> Iterator[pl.DataFrame]:
    # Portfolios whose own sums exceed the control totals' digits.
    for kind, sums, subject in (
        (ElementType.MONEY, currency_sums(frames), pl.col(epi.CURRENCY).fill_null("")),
        (ElementType.DECIMAL6, unit_sums(frames), pl.lit("units")),
    ):
        numbers = [name for name, dtype in sums.schema.items() if dtype.is_decimal()]
        fits = pl.all_horizontal(_obeys(pl.col(name).cast(pl.String), text_rules()[kind]) for name in numbers)
        detail = pl.lit("a sum of the portfolio has more digits than a control total may have")
        yield _findings(sums.filter(~fits), "sum_too_long", subject, detail)
