"""Contents of a page: its header, its stated control totals, and the totals of its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classfeed_dagster.reconciliation.records import RecordKind

_ZERO = Decimal(0)
_COUNTS = {
    "accounts": "AccountDetails",
    "account_balances": "AccountBalances",
    "investment_holdings": "InvestmentHoldings",
    "movement_transactions": "MovementTransactions",
}
CSV_DETAILS = "details"


@dataclass(slots=True)
class PageContents:
    """A page's header, its stated totals, and the totals of its records. ``section``: name of a CSV's only section."""

    sums: tuple[str, ...]  # amounts of a movement that the totals include
    section: str | None = None
    states_totals: bool = True
    states_header: bool = True
    header: dict[str, str] = field(default_factory=dict)
    stated: dict[str, Decimal] | None = None
    counted: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    def add(self, kind: RecordKind, row: Mapping[str, str | None]) -> None:
        """Add a record to the totals."""
        name = _COUNTS.get(kind.name)
        if self.section is not None:
            if kind.name != "movement_transactions":
                return
            name = self.section
        if name is None:
            return
        self.counted[name] += 1
        currency = row.get("currency")
        if kind.name == "account_balances":
            self._sum(f"{currency} ledger_balance", row.get("ledger_balance"))
        elif kind.name == "investment_holdings":
            self._sum(f"{currency} market_value", row.get("market_value"))
            self._sum("units_held", row.get("units"))
        elif kind.name == "movement_transactions":
            if "net_amount" in self.sums:
                self._sum(f"{currency} net_amount", row.get("net_amount"))
            amount = _decimal(row.get("amount")) if "amount" in self.sums else None
            if amount is not None:
                self.counted[f"{currency} cash_{'credits' if amount > 0 else 'debits'}"] += amount
            if "units" in self.sums and (row.get("transaction_id") or "")[:1] != "I":
                self._sum("units_moved", row.get("units"))

    def _sum(self, name: str, text: str | None) -> None:
        value = _decimal(text)
        if value is not None:
            self.counted[name] += value

    def faults(self, page: Mapping[str, Any], expected_header: Mapping[str, str]) -> Iterator[str]:
        """Yield contradictions of header or totals with the manifest or the records, without personal values."""
        for name, value in expected_header.items():
            actual = self.header.get(name)
            if actual is not None and actual != value:
                yield f"its header states {name} {actual[:64]}, expected {value}"
            if actual is None and name in _REQUIRED and self.states_header:
                yield f"its header lacks {name}, expected {value}"
        stated_by_manifest = manifest_totals(page)
        yield from differences("the manifest's totals of the page", stated_by_manifest, self.counted)
        if self.stated is None and not self.states_totals:
            return
        if self.stated is None:
            yield "it has no control totals"
        else:
            yield from differences("its control totals", self.stated, _as_stated(self.counted))


_REQUIRED = frozenset({"Feed", "BusinessDate", "SequenceNumber", "Revision"})


def manifest_totals(member: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return the counts and totals in a manifest's entry of a page, or of all pages, by name."""
    totals = member["totals"]
    sums_by_name = {str(name): Decimal(count) for name, count in member["counts"].items()}
    for currency, sums in totals["currencies"].items():
        sums_by_name |= {f"{currency} {name}": Decimal(value) for name, value in sums.items()}
    return sums_by_name | {name: Decimal(totals[name]) for name in ("units_held", "units_moved")}


def differences(source: str, stated: Mapping[str, Decimal], counted: Mapping[str, Decimal]) -> Iterator[str]:
    """Yield each stated total that differs from the records' sum."""
    for name in sorted({*stated, *counted}):
        left, right = stated.get(name, _ZERO), counted.get(name, _ZERO)
        if left != right:
            yield f"{source} state {name} {left}, the records add up to {right}"


def _as_stated(counted: Mapping[str, Decimal]) -> dict[str, Decimal]:
    # A document states the movements of cash as one sum.
    merged: dict[str, Decimal] = defaultdict(Decimal)
    for name, value in counted.items():
        merged[name.replace("cash_credits", "cash_amount").replace("cash_debits", "cash_amount")] += value
    return merged


def _decimal(text: str | None) -> Decimal | None:
    try:
        value = Decimal(text or "")
    except ArithmeticError:
        return None
    return value if value.is_finite() else None
