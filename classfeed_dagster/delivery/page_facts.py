"""What a page read back must agree with: header, portfolios, control totals. For the gate and for verify."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping

from classfeed_dagster.delivery.manifest import Portfolio
from classfeed_dagster.documents.document_format import CurrencyTotals, PageInspection, Totals

_SUMS = ("ledger_balance", "market_value", "cash_credits", "cash_debits", "cash_amount", "net_amount")
_STATED = ("ledger_balance", "market_value", "cash_amount", "net_amount")  # documents don't state cash apart


def numbers_in(facts: PageInspection) -> frozenset[str]:
    """Every portfolio that a page says anything of, its removal included."""
    return facts.removed.union(*facts.portfolios.values())


def numbers_with_data(facts: PageInspection) -> frozenset[str]:
    """Portfolios of which a page says more than that they were removed."""
    # The announcement stands in one section; whoever stands in another too has data there, whatever was announced.
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
    """Where the header, as far as the format has one, says otherwise than the record of the delivery."""
    said = {
        "Feed": feed,
        "BusinessDate": business_date.isoformat(),
        "SequenceNumber": str(sequence_number),
        "Revision": str(revision),
        "MessageId": message_id,
    }
    return [
        f"its header says {name} {header[name][:64]!r}, the record {value!r}"
        for name, value in said.items()
        if name in header and header[name] != value
    ]


def portfolio_faults(facts: PageInspection, said: Iterable[Portfolio]) -> list[tuple[str, str]]:
    """(portfolio number, what is wrong) where the page and ``said``, the record's portfolios on it, disagree."""
    listed = {portfolio.number: portfolio for portfolio in said}
    inside, with_data = numbers_in(facts), numbers_with_data(facts)
    faults = [(number, "is in the file and not in the record") for number in sorted(inside - listed.keys())]
    for number, portfolio in sorted(listed.items()):
        if number not in inside and portfolio.bytes:
            faults.append((number, "is in the record and not in the file"))
        elif portfolio.change == "REMOVED" and number in with_data:
            faults.append((number, "is announced as removed, and the file has data of it"))
    return faults


def totals_faults(facts: PageInspection, expected: Totals) -> list[str]:
    """Where the totals recomputed from the page, or those that it states, aren't the ones expected."""
    faults = [f"recomputed {fault}" for fault in _differences(facts.totals, expected, _SUMS)]
    if facts.stated is None:
        return [*faults, "the page states no control totals"]
    return faults + [f"stated {fault}" for fault in _differences(facts.stated, expected, _STATED)]


def _differences(found: Totals, expected: Totals, sums: Collection[str]) -> Iterator[str]:
    for name in sorted({*found.counts, *expected.counts}):
        if found.counts.get(name, 0) != expected.counts.get(name, 0):
            yield f"count of {name} is {found.counts.get(name, 0)}, expected {expected.counts.get(name, 0)}"
    for currency in sorted({*found.currencies, *expected.currencies}):
        one = found.currencies.get(currency, CurrencyTotals())
        other = expected.currencies.get(currency, CurrencyTotals())
        for name in sums:
            if getattr(one, name) != getattr(other, name):
                yield f"{name} in {currency} is {getattr(one, name)}, expected {getattr(other, name)}"
    for name in ("units_held", "units_moved"):
        if getattr(found, name) != getattr(expected, name):
            yield f"{name} is {getattr(found, name)}, expected {getattr(expected, name)}"
