"""A fourth feed, for another recipient: its own consents, JSON Lines, weekly. Its format and declaration are here."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.document_format import (
    DocumentFormat,
    KnownRecords,
    PageHeader,
    PageInspection,
    RenderedPortfolio,
    Totals,
)
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.schedules import Cadence
from classfeed_dagster_tests.fixtures.desk import Desk


class JsonLines(DocumentFormat):
    name = "bgl_lines"
    extension = ".jsonl"
    domains = ("account_details", "investment_holdings")
    sections = ("lines",)

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        for number in frames["accounts"]["portfolio_number"].sort():
            holding = frames["investment_holdings"].filter(pl.col("portfolio_number") == number).sort("security_code")
            line = {
                "portfolio": number,
                "units": {row["security_code"]: str(row["units"]) for row in holding.to_dicts()},
            }
            yield RenderedPortfolio(number, {"lines": json.dumps(line).encode() + b"\n"}, Totals({"lines": 1}))

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        yield json.dumps({"MessageId": header.message_id, "lines": totals.counts}).encode() + b"\n"
        yield from sections["lines"]

    def inspect_page(self, chunks: Iterable[bytes], known: KnownRecords | None = None) -> PageInspection:
        header, *lines = map(json.loads, (data := b"".join(chunks)).splitlines())
        numbers, stated = frozenset(line["portfolio"] for line in lines), Totals(header.pop("lines"))
        result, digest = Totals({"lines": len(lines)}), hashlib.sha256(data).hexdigest()
        return PageInspection((), header, {"lines": numbers}, frozenset(), result, stated, digest, len(data))

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        return {"lines": pl.read_ndjson(gzip.open(path).read().split(b"\n", 1)[1])}


BGL = Feed(
    "bgl", "BGL: holdings of each week", "BGL", JsonLines(), ("team:data-feeds",), FeedMode.LIVE, None, Cadence.WEEKLY
)


def test_weekly_feed_has_consents_of_its_own(desk: Desk) -> None:
    desk.add(BGL)
    bhp = desk.bigsite.security("BHP", price={"2026-03-06": "45.50"})
    for number, recipient in (("SW00000001", "CLASS"), ("SW00000002", "BGL")):
        desk.bigsite.portfolio(number).consent(recipient=recipient).buy(bhp, 7, 45, "2026-02-24")
    for day in ("2026-03-05", "2026-03-06"):
        desk.end_of_day(day)
    early = desk.run("2026-03-05", feed="bgl")
    assert (early.outcome, early.message) == ("nothing to do", "2026-03-05 is not a date of BGL's weekly feed")
    assert desk.run("2026-03-06", feed="bgl").outcome == "delivered"
    assert desk.records("2026-03-06", feed="bgl")["lines"]["portfolio"].to_list() == ["SW00000002"]


def test_large_date_of_another_recipient_is_rendered_in_shards(desk: Desk) -> None:
    """Four shards and several pages give the recipient every customer once, as one process does."""
    small = {"executor": "multiprocess", "shard_portfolios": 2, "slice_portfolios": 1, "max_page_bytes": 8 * 1024 + 100}
    desk.runtime.settings = desk.runtime.settings.model_copy(update=small)
    desk.add(BGL)
    bhp = desk.bigsite.security("BHP", price={"2026-03-06": "45.50"})
    numbers = [f"SW0000000{at}" for at in range(1, 8)]
    for number in numbers:
        desk.bigsite.portfolio(number).consent(recipient="BGL").buy(bhp, 7, 45, "2026-02-24")
    desk.end_of_day("2026-03-06")
    assert desk.run("2026-03-06", feed="bgl").outcome == "delivered"
    manifest = desk.manifest("2026-03-06", feed="bgl")
    assert len(manifest.pages) > 1
    pages = [gzip.decompress(desk.runtime.store.read(page.key)).splitlines() for page in manifest.pages]
    assert [json.loads(line)["portfolio"] for _, *lines in pages for line in lines] == numbers
