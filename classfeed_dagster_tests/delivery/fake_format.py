"""A tiny document format: one line a record, so that delivery is tested apart from any real format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import polars as pl

from classfeed_dagster.documents.format import CurrencyTotals, PageFacts, PageHeader, RenderedPortfolio, Totals
from classfeed_dagster.domains.columns import FINDINGS

ZERO = Decimal("0.00")


@dataclass(frozen=True)
class LinesFormat:
    """``H`` header, ``A`` accounts, ``C`` cash movements, ``T`` control totals; fields divided by ``|``."""

    name: str = "lines"
    extension: str = ".txt"
    domains: tuple[str, ...] = ("account_details", "movement_transactions")
    sections: tuple[str, ...] = ("accounts", "cash")

    def unwritable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        return FINDINGS.empty()

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        cash: dict[str, list[Decimal]] = {}
        for number, amount in frames["cash"].select("portfolio_number", "amount").iter_rows():
            cash.setdefault(number, []).append(amount)
        for number, change in (
            frames["accounts"].select("portfolio_number", "change").sort("portfolio_number").iter_rows()
        ):
            amounts = cash.get(number, [])
            sums = {"AUD": _sums(amounts)} if amounts else {}
            yield RenderedPortfolio(
                number,
                {
                    "accounts": f"A|{number}|{change}\n".encode(),
                    "cash": "".join(f"C|{number}|{amount}\n" for amount in amounts).encode(),
                },
                Totals({"accounts": 1, "cash": len(amounts)}, sums),
            )

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        head = [header.feed, header.business_date, header.sequence_number, header.revision, header.message_id]
        yield f"H|{'|'.join(map(str, head))}|{header.page_count}|{header.snapshot_at.isoformat()}\n".encode()
        for name in ("accounts", "cash"):
            yield from sections.get(name, ())
        amount = totals.currencies.get("AUD", CurrencyTotals()).cash_amount
        yield f"T|{totals.counts.get('accounts', 0)}|{totals.counts.get('cash', 0)}|{amount}\n".encode()

    def examine(self, chunks: Iterable[bytes]) -> PageFacts:
        data = b"".join(chunks)
        header: dict[str, str] = {}
        errors: list[str] = []
        numbers: dict[str, set[str]] = {"accounts": set(), "cash": set()}
        removed: set[str] = set()
        amounts: list[Decimal] = []
        accounts, stated = 0, None
        for line in data.decode().splitlines():
            kind, *fields = line.split("|")
            if kind == "H" and not header:
                names = ("Feed", "BusinessDate", "SequenceNumber", "Revision", "MessageId")
                header = dict(zip(names, fields, strict=False))
            elif kind == "A":
                accounts += 1
                numbers["accounts"].add(fields[0])
                if fields[1] == "REMOVED":
                    removed.add(fields[0])
            elif kind == "C":
                numbers["cash"].add(fields[0])
                amounts.append(Decimal(fields[1]))
            elif kind == "T":
                money = {"AUD": CurrencyTotals(cash_credits=Decimal(fields[2]))} if Decimal(fields[2]) else {}
                stated = Totals({"accounts": int(fields[0]), "cash": int(fields[1])}, money)
            else:
                errors.append(f"a line of an unknown kind {kind[:1]!r}")
        totals = Totals({"accounts": accounts, "cash": len(amounts)}, {"AUD": _sums(amounts)} if amounts else {})
        return PageFacts(
            tuple(errors),
            header,
            {name: frozenset(found) for name, found in numbers.items()},
            frozenset(removed),
            totals,
            stated,
            hashlib.sha256(data).hexdigest(),
            len(data),
        )

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        raise AssertionError(f"delivering never reads a page back into frames, but {path.name} was read")


def _sums(amounts: Iterable[Decimal]) -> CurrencyTotals:
    listed = list(amounts)
    return CurrencyTotals(
        cash_credits=sum((a for a in listed if a > 0), ZERO), cash_debits=sum((a for a in listed if a < 0), ZERO)
    )
