"""Comparison of a page read back with its record: header, portfolios and control totals. Used by gate and verify."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping

from classfeed_dagster.delivery.portfolio_list import PortfolioRecord
from classfeed_dagster.documents.document_format import CurrencyTotals, PageInspection, Totals

_SUMS = ("ledger_balance", "market_value", "cash_credits", "cash_debits", "cash_amount", "net_amount")
_STATED = ("ledger_balance", "market_value", "cash_amount", "net_amount")  # documents state cash as one sum


def numbers_in(facts: PageInspection) -> frozenset[str]:
    """Return every portfolio on a page, including announced removals."""
    return facts.removed.union(*facts.portfolios.values())


def numbers_with_data(facts: PageInspection) -> frozenset[str]:
    """Return the portfolios with data on a page, that is more than an announced removal."""
    # An announcement is in one section. A portfolio that is also in another section has data there.
    announced = {n for n in facts.removed if sum(n in numbers for numbers in facts.portfolios.values()) <= 1}
    return numbers_in(facts) - announced


def header_faults(
    header: Mapping[str, str],
    *,
    feed: str,
    business_date: dt.date,
    sequence_number: int,
    revision: int,
    message_id: str,
) -> list[str]:
    """Return the differences between the header, if the format has one, and the record of the delivery."""
    expected = {
        "Feed": feed,
        "BusinessDate": business_date.isoformat(),
        "SequenceNumber": str(sequence_number),
        "Revision": str(revision),
        "MessageId": message_id,
    }
    return [
        f"its header states {name} {header[name][:64]!r}, the record {value!r}"
        for name, value in expected.items()
        if name in header and header[name] != value
    ]


def portfolio_faults(facts: PageInspection, recorded: Iterable[PortfolioRecord]) -> list[tuple[str, str]]:
    """Return (portfolio number, fault) for the differences between a page and its recorded portfolios."""
    by_number = {portfolio.number: portfolio for portfolio in recorded}
    inside, with_data = numbers_in(facts), numbers_with_data(facts)
    faults = [(number, "is in the file and not in the record") for number in sorted(inside - by_number.keys())]
    for number, portfolio in sorted(by_number.items()):
        if number not in inside and portfolio.bytes:
            faults.append((number, "is in the record and not in the file"))
        elif portfolio.change == "REMOVED" and number in with_data:
            faults.append((number, "is announced as removed, but the file has its data"))
    return faults


def totals_faults(facts: PageInspection, expected: Totals) -> list[str]:
    """Return the differences of the page's recomputed and stated totals from the expected ones."""
    faults = [f"recomputed {fault}" for fault in _differences(facts.totals, expected, _SUMS)]
    if facts.stated is None and not facts.states_totals:
        return faults
    if facts.stated is None:
        return [*faults, "the page states no control totals"]
    return faults + [f"stated {fault}" for fault in _differences(facts.stated, expected, _STATED)]


def _differences(actual: Totals, expected: Totals, sums: Collection[str]) -> Iterator[str]:
    for name in sorted({*actual.counts, *expected.counts}):
        if actual.counts.get(name, 0) != expected.counts.get(name, 0):
            yield f"count of {name} is {actual.counts.get(name, 0)}, expected {expected.counts.get(name, 0)}"
    for currency in sorted({*actual.currencies, *expected.currencies}):
        actual_sums = actual.currencies.get(currency, CurrencyTotals())
        expected_sums = expected.currencies.get(currency, CurrencyTotals())
        for name in sums:
            if getattr(actual_sums, name) != getattr(expected_sums, name):
                yield f"{name} in {currency} is {getattr(actual_sums, name)}, expected {getattr(expected_sums, name)}"
    for name in ("units_held", "units_moved"):
        if getattr(actual, name) != getattr(expected, name):
            yield f"{name} is {getattr(actual, name)}, expected {getattr(expected, name)}"
