"""A fourth feed, for another recipient: its own consents, JSON Lines, weekly. All of it is in this file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from classfeed_dagster.documents.format import PageFacts, PageHeader, RenderedPortfolio, Totals
from classfeed_dagster.domains.audience import Cadence
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.operations.runs import Outcome
from classfeed_dagster_tests.feeds.conftest import Desk


@dataclass(frozen=True)
class JsonLines:
    """The header, then a line a portfolio, then the number of those lines."""

    name: str = "bgl_lines"
    extension: str = ".jsonl"
    domains: tuple[str, ...] = ("account_details", "investment_holdings")

    def unwritable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        return FINDINGS.empty()

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        for number in frames["accounts"]["portfolio_number"].sort():
            held = frames["investment_holdings"].filter(pl.col("portfolio_number") == number).sort("security_code")
            line = {"portfolio": number, "holdings": {row["security_code"]: str(row["units"]) for row in held.to_dicts()}}
            yield RenderedPortfolio(number, {"lines": json.dumps(line).encode() + b"\n"}, Totals({"lines": 1}))

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        about = {"MessageId": header.message_id, "SequenceNumber": str(header.sequence_number), "Feed": header.feed}
        yield json.dumps({**about, "BusinessDate": header.business_date.isoformat(), "Revision": str(header.revision)}).encode() + b"\n"
        yield from sections["lines"]
        yield json.dumps({"lines": totals.counts.get("lines", 0)}).encode() + b"\n"

    def examine(self, chunks: Iterable[bytes]) -> PageFacts:
        data = b"".join(chunks)
        header, *lines, tail = map(json.loads, data.splitlines())
        numbers, found = frozenset(line["portfolio"] for line in lines), Totals({"lines": len(lines)})
        digest = hashlib.sha256(data).hexdigest()
        return PageFacts((), header, {"lines": numbers}, frozenset(), found, Totals(tail), digest, len(data))

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        return {"lines": pl.read_ndjson(path)}
