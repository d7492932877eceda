"""CSV files written from domain frames: each portfolio's lines, and the file around them.

Whole columns are spelled at once; equal frames give equal bytes in any order of their rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

import polars as pl

from classfeed_dagster.documents.csv_mapping import (
    BALANCE,
    DETAIL,
    HEAD,
    LINE_END,
    TAIL,
    CsvColumn,
    CsvLayout,
    field_of,
    heading_line,
)
from classfeed_dagster.documents.document_format import CurrencyTotals, PageHeader, RenderedPortfolio, Totals
from classfeed_dagster.documents.format_rules import csv_rule
from classfeed_dagster.domains.columns import FINDINGS, MONEY
from classfeed_dagster.trading_days import instant_text

SECTION = "details"
_LINE, _NUMBER, _CURRENCY, _AMOUNT = "_line", "_portfolio_number", "_currency", "_amount"
_RANK, _SERIAL, _ID = "_rank", "_serial", "_id"
_END = LINE_END.encode()


def render(layout: CsvLayout, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
    """Yield each portfolio of the ``accounts`` frame, by portfolio number, with its lines and totals."""
    lines = _lines(layout, frames)
    text = dict(
        lines.group_by(_NUMBER, maintain_order=True).agg(pl.col(_LINE).str.join("")).select(_NUMBER, _LINE).iter_rows()
    )
    totals = _totals(layout, lines)
    for number in frames["accounts"]["portfolio_number"].sort():
        yield RenderedPortfolio(number, {SECTION: text.get(number, "").encode()}, totals.get(number, Totals()))


def page(
    layout: CsvLayout, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]
) -> Iterator[bytes]:
    """Yield the whole file. ValueError if the plan has more than one page."""
    if not layout.per_portfolio and (header.page_number, header.page_count) != (1, 1):
        raise ValueError(f"{header.feed} has one file a revision, not page {header.page_number} of {header.page_count}")
    if not layout.framed:
        yield heading_line(layout)
        yield from sections.get(SECTION, ())
        return
    yield head_line(
        header.feed,
        header.business_date.isoformat(),
        str(header.sequence_number),
        str(header.revision),
        instant_text(header.snapshot_at),
    )
    yield from sections.get(SECTION, ())
    yield tail_line(str(totals.counts.get(SECTION, 0)), control_total(summed(totals)))


def head_line(feed: str, business_date: str, sequence_number: str, revision: str, snapshot_at: str) -> bytes:
    """Return the first line."""
    return ",".join((HEAD, feed, business_date, sequence_number, revision, snapshot_at)).encode() + _END


def tail_line(details: str, control: str) -> bytes:
    """Return the last line."""
    return f"{TAIL},{details},{control}".encode() + _END


def control_total(sums: Mapping[str, Decimal]) -> str:
    """Return ``AUD:123.45|USD:6.78``, ordered by currency; empty without detail lines."""
    return "|".join(f"{currency}:{sums[currency]:.2f}" for currency in sorted(sums))


def summed(totals: Totals) -> dict[str, Decimal]:
    """Return the sums of the control total by currency; a layout fills either."""
    return {name: amounts.cash_amount + amounts.net_amount for name, amounts in totals.currencies.items()}


def currency_totals(layout: CsvLayout, credits_: Decimal, debits: Decimal) -> CurrencyTotals:
    """Return one currency's positive and negative amounts, in the fields of the layout's control total."""
    if layout.summed == "net_amount":
        return CurrencyTotals(net_amount=credits_ + debits)
    return CurrencyTotals(cash_credits=credits_, cash_debits=debits)


def check_representable(layout: CsvLayout, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return FINDINGS: lines without a required value, without a currency code, or on an account without a balance."""
    rows = _source_rows(layout, frames)
    no_currency = rows.filter(~pl.col("currency").str.contains("^[A-Z]{3}$"))
    findings = [
        _finding(no_currency, csv_rule(layout.name, "currency"), "has a currency that is not three capital letters")
    ]
    for column in layout.details:
        if column.required:
            # The file spells an empty text and a null alike: both are missing.
            absent = rows.filter(column.source.cast(pl.String).fill_null("") == "")
            findings.append(_finding(absent, csv_rule(layout.name, "incomplete"), f"has no {column.name}"))
    if layout.balances:
        orphans = rows.join(frames["account_balances"], on=list(layout.group), how="anti")
        rule = csv_rule(layout.name, "no_balance")
        findings.append(_finding(orphans, rule, "is on a cash account that has no balance"))
    return FINDINGS.conform(pl.concat(findings).unique())


def fields(columns: Sequence[CsvColumn], letter: str, values: Mapping[str, pl.Expr]) -> pl.Expr:
    """Return a line: its letter unless that is empty, then the fields in order, in the file's spelling."""
    spelled = [field_of(column, values[column.name]) for column in columns]
    start = [pl.lit(letter)] if letter else []
    return pl.concat_str(*start, *spelled, separator=",") + pl.lit(LINE_END)


def _source_rows(layout: CsvLayout, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    hins = frames["accounts"].select("portfolio_number", "hin")
    return frames["movement_transactions"].filter(layout.rows).join(hins, on="portfolio_number", how="left")


def _lines(layout: CsvLayout, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    # Every line in the file's order, with its portfolio, and for details its currency and amount.
    sources = {column.name: column.source for column in layout.details}
    key = sources[layout.key]
    number = key.cast(pl.Int64, strict=False)
    parts = [
        _source_rows(layout, frames).select(
            pl.col("portfolio_number").alias(_NUMBER),
            *(sources[name].alias(f"_group{at}") for at, name in enumerate(layout.group)),
            pl.lit(0).alias(_RANK),
            number.alias(_SERIAL),
            key.alias(_ID),
            fields(layout.details, DETAIL if layout.framed else "", sources).alias(_LINE),
            sources["currency"].alias(_CURRENCY),
            sources[layout.summed].cast(MONEY).alias(_AMOUNT),
        )
    ]
    if layout.balances:
        balances = {column.name: column.source for column in layout.balances}
        parts.append(
            frames["account_balances"].select(
                pl.col("portfolio_number").alias(_NUMBER),
                *(balances[name].alias(f"_group{at}") for at, name in enumerate(layout.group)),
                pl.lit(1).alias(_RANK),
                pl.lit(None, pl.Int64).alias(_SERIAL),
                pl.lit(None, pl.String).alias(_ID),
                fields(layout.balances, BALANCE, balances).alias(_LINE),
                pl.lit(None, pl.String).alias(_CURRENCY),
                pl.lit(None, MONEY).alias(_AMOUNT),
            )
        )
    order = [_NUMBER, *(f"_group{at}" for at in range(len(layout.group))), _RANK, _SERIAL, _ID]
    return pl.concat(parts).sort(order, nulls_last=False)


def _totals(layout: CsvLayout, lines: pl.DataFrame) -> dict[str, Totals]:
    amount = pl.col(_AMOUNT)
    zero = pl.lit(Decimal("0.00"), MONEY)
    sums = (
        lines.filter(pl.col(_CURRENCY).is_not_null())
        .group_by(_NUMBER, _CURRENCY)
        .agg(
            pl.len().alias("details"),
            pl.when(amount > 0).then(amount).otherwise(zero).sum().alias("credits"),
            pl.when(amount < 0).then(amount).otherwise(zero).sum().alias("debits"),
        )
        .sort(_NUMBER, _CURRENCY)
    )
    totals: dict[str, Totals] = {}
    for number, currency, details, credits_, debits in sums.iter_rows():
        part = Totals({SECTION: details}, {currency: currency_totals(layout, credits_, debits)})
        totals[number] = totals.get(number, Totals()) + part
    return totals


def _finding(rows: pl.DataFrame, rule: str, detail: str) -> pl.DataFrame:
    return rows.select(
        "portfolio_number",
        pl.lit(rule).alias("rule"),
        pl.lit("QUARANTINE").alias("severity"),
        pl.col("transaction_id").alias("subject"),
        (pl.lit("the row ") + pl.col("transaction_id") + pl.lit(f" {detail}")).alias("detail"),
    )
