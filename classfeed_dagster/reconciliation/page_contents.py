"""Facts that a page states of itself (header, control totals), and the totals that its records really have."""

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
    """A page's header, the totals it states, and the totals of the records read from it. ``section`` names a CSV's."""

    sums: tuple[str, ...]  # which amounts of a movement the totals add up
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
        """Yield where header or totals contradict the manifest, or the records; never a personal value."""
        for name, value in expected_header.items():
            found = self.header.get(name)
            if found is not None and found != value:
                yield f"its header states {name} {found[:64]}, expected {value}"
            if found is None and name in _REQUIRED and self.states_header:
                yield f"its header states no {name}, expected {value}"
        stated_by_manifest = manifest_totals(page)
        yield from differences("the manifest's totals of the page", stated_by_manifest, self.counted)
        if self.stated is None and not self.states_totals:
            return
        if self.stated is None:
            yield "it states no control totals"
        else:
            yield from differences("its control totals", self.stated, _as_stated(self.counted))


_REQUIRED = frozenset({"Feed", "BusinessDate", "SequenceNumber", "Revision"})


def manifest_totals(member: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return the counts and totals that a manifest states of a page, or of all, by name."""
    totals = member["totals"]
    found = {str(name): Decimal(count) for name, count in member["counts"].items()}
    for currency, sums in totals["currencies"].items():
        found |= {f"{currency} {name}": Decimal(value) for name, value in sums.items()}
    return found | {name: Decimal(totals[name]) for name in ("units_held", "units_moved")}


def differences(what: str, stated: Mapping[str, Decimal], counted: Mapping[str, Decimal]) -> Iterator[str]:
    """Yield each total that is stated otherwise than the records add up to."""
    for name in sorted({*stated, *counted}):
        left, right = stated.get(name, _ZERO), counted.get(name, _ZERO)
        if left != right:
            yield f"{what} state {name} {left}, the records add up to {right}"


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
