"""The old exporter's document: its elements, one call each, and its control totals."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lxml.builder import ElementMaker

from classfeed_dagster.trading_days import instant_text

NAMESPACE = "urn:classfeed:epi-data-response:1"
E: Any = ElementMaker(namespace=NAMESPACE, nsmap={None: NAMESPACE})


@dataclass(slots=True)
class CurrencySums:
    """One currency's control totals."""

    ledger_balance: Decimal = Decimal("0.00")
    market_value: Decimal = Decimal("0.00")
    cash_amount: Decimal = Decimal("0.00")
    net_amount: Decimal = Decimal("0.00")


@dataclass(slots=True)
class Totals:
    """The control totals, added up as the elements are made."""

    currencies: dict[str, CurrencySums] = field(default_factory=dict)
    units_held: Decimal = Decimal("0.000000")
    units_moved: Decimal = Decimal("0.000000")

    def of(self, currency: str) -> CurrencySums:
        """Return the sums of one currency."""
        return self.currencies.setdefault(currency, CurrencySums())

    def element(self, counts: dict[str, int]) -> Any:
        """Return the element ControlTotals."""
        return E.ControlTotals(
            *(E(name, str(count)) for name, count in counts.items()),
            *(
                E.CurrencyTotal(
                    E.LedgerBalance(str(sums.ledger_balance)),
                    E.MarketValue(str(sums.market_value)),
                    E.CashAmount(str(sums.cash_amount)),
                    E.NetAmount(str(sums.net_amount)),
                    currency=currency,
                )
                for currency, sums in sorted(self.currencies.items())
            ),
            E.UnitsHeld(str(self.units_held)),
            E.UnitsMoved(str(self.units_moved)),
        )


def section(name: str, elements: list[Any]) -> Any:
    """Render one of the document's sections, a record a line."""
    section = E(name, *elements)
    if elements:
        section.text = "\n"
        for element in elements:
            element.tail = "\n"
    return section


def head(
    key: str,
    number: str,
    kind: str,
    day: dt.date,
    row: Any,
    *,
    settlement: dt.date | None = None,
    relates: str | None = None,
) -> list[Any]:
    """Render the first elements of a movement."""
    return [
        E.TransactionId(key),
        E.PortfolioNumber(number),
        E.TransactionType(kind),
        E.TransactionDate(day.isoformat()),
        *optional("SettlementDate", settlement),
        E.RecordedAt(instant_text(row.recorded_at.astimezone(dt.UTC))),
        *optional("RelatesTo", relates),
    ]


def of_security(security: Any) -> list[Any]:
    """Render a movement's elements of its security."""
    return [E.Exchange(security.exchange), E.SecurityCode(security.code), *optional("Isin", security.isin)]


def optional(name: str, value: object) -> list[Any]:
    """Render an element; an empty text without a value."""
    return [] if value is None else [E(name, value.isoformat() if isinstance(value, dt.date) else str(value))]
