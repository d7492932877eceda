"""Totals of each portfolio's records: counts, sums by currency, units. Exact and columnar."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import polars as pl

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.document_format import CurrencyTotals, Totals

_AMOUNTS = ("ledger_balance", "market_value", "cash_credits", "cash_debits", "net_amount")
_KEY = [epi.PORTFOLIO, epi.CURRENCY]
_ZERO_UNITS = Decimal("0.000000")
# Least amounts that exceed the digits of the XSD's types Money and Decimal6.
_TOO_MUCH_MONEY = Decimal(10) ** 16
_TOO_MANY_UNITS = Decimal(10) ** 14


def fits_control_totals(totals: Totals) -> bool:
    """Return True if a page's control totals can state these sums."""
    return (
        abs(totals.units_held) < _TOO_MANY_UNITS
        and abs(totals.units_moved) < _TOO_MANY_UNITS
        and all(
            abs(amount) < _TOO_MUCH_MONEY
            for sums in totals.currencies.values()
            for amount in (sums.ledger_balance, sums.market_value, sums.cash_amount, sums.net_amount)
        )
    )


def currency_sums(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the five sums of ``CurrencyTotals`` per portfolio and currency, ordered, as Decimal(38, 2).

    ``frames`` is by section. A currency has a row if a record has it with one of the amounts.
    """
    amount, net = pl.col("amount"), pl.col("net_amount")
    parts = [
        frames[epi.BALANCES_SECTION].select(*_KEY, _wide("ledger_balance")),
        frames[epi.HOLDINGS_SECTION].filter(pl.col("market_value").is_not_null()).select(*_KEY, _wide("market_value")),
        frames[epi.MOVEMENTS_SECTION]
        .filter(amount.is_not_null() | net.is_not_null())
        .select(
            *_KEY,
            pl.when(amount > 0).then(amount).cast(_WIDE).alias("cash_credits"),
            pl.when(amount < 0).then(amount).cast(_WIDE).alias("cash_debits"),
            _wide("net_amount"),
        ),
    ]
    summed = [part.group_by(_KEY).agg(pl.exclude(_KEY).sum()) for part in parts]
    return pl.concat(summed, how="diagonal").group_by(_KEY).agg(pl.col(_AMOUNTS).sum()).sort(_KEY)


def unit_sums(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return ``units_held`` per portfolio, and ``units_moved`` by movements except income, as Decimal(38, 6)."""
    moving = pl.col("units").is_not_null() & ~pl.col("transaction_type").is_in(sorted(epi.INCOME_TYPES))
    units = pl.col("units").cast(pl.Decimal(38, 6))
    holdings = frames[epi.HOLDINGS_SECTION].select(epi.PORTFOLIO, units.alias("units_held"))
    movements = frames[epi.MOVEMENTS_SECTION].filter(moving).select(epi.PORTFOLIO, units.alias("units_moved"))
    summed = [part.group_by(epi.PORTFOLIO).agg(pl.exclude(epi.PORTFOLIO).sum()) for part in (holdings, movements)]
    both = pl.concat(summed, how="diagonal")
    return both.group_by(epi.PORTFOLIO).agg(pl.col("units_held", "units_moved").sum())


def portfolio_totals(numbers: pl.Series, frames: Mapping[str, pl.DataFrame]) -> list[Totals]:
    """Return the totals of each portfolio of ``numbers``, in that order, from the sections' frames."""
    currencies: dict[str, dict[str, CurrencyTotals]] = {}
    for number, currency, *sums in currency_sums(frames).select(*_KEY, *_AMOUNTS).iter_rows():
        currencies.setdefault(number, {})[currency] = CurrencyTotals(*sums)
    table = pl.DataFrame({epi.PORTFOLIO: numbers}).join(
        unit_sums(frames), on=epi.PORTFOLIO, how="left", maintain_order="left"
    )
    for name, frame in frames.items():
        counted = frame.group_by(epi.PORTFOLIO).agg(pl.len().alias(name))
        table = table.join(counted, on=epi.PORTFOLIO, how="left", maintain_order="left")
    names = list(frames)
    return [
        Totals(
            {name: count or 0 for name, count in zip(names, counts, strict=True)},
            currencies.get(number, {}),
            units_held if units_held is not None else _ZERO_UNITS,
            units_moved if units_moved is not None else _ZERO_UNITS,
        )
        for number, units_held, units_moved, *counts in table.iter_rows()
    ]


def totals_of(frames: Mapping[str, pl.DataFrame]) -> Totals:
    """Return the totals of all rows of the sections' frames. Amounts without a currency are left out."""
    sums = currency_sums(frames).filter(pl.col(epi.CURRENCY).is_not_null())
    by_currency = sums.group_by(epi.CURRENCY).agg(pl.col(_AMOUNTS).sum()).sort(epi.CURRENCY)
    units = unit_sums(frames).select(pl.col("units_held", "units_moved").sum())
    units_held, units_moved = units.row(0)
    return Totals(
        {name: frame.height for name, frame in frames.items()},
        {currency: CurrencyTotals(*amounts) for currency, *amounts in by_currency.iter_rows()},
        _ZERO_UNITS + units_held,
        _ZERO_UNITS + units_moved,
    )


_WIDE = pl.Decimal(38, 2)


def _wide(column: str) -> pl.Expr:
    return pl.col(column).cast(_WIDE)
