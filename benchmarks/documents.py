"""How fast EPI documents are written and read, against named baselines in the same run.

    python -m benchmarks.documents [--movements 300000]

Every way of writing gets the same frames and must give canonically the same document; each runs in a process of its
own, so that its peak memory is its own. The baseline is what one would write first: lxml's ``E`` builder, a call an
element, the whole tree, then ``tostring``. Exit code 1 if the writer is less than 25 times as fast.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from lxml import etree
from lxml.builder import ElementMaker

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents import epi_reader
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_mapping import Element, Group, Record
from classfeed_dagster.documents.format import PageHeader, Totals
from classfeed_dagster.trading_days import window

AIM = 25.0
DAY = dt.date(2023, 5, 3)
MOVEMENTS_EACH = 30
HEADER = PageHeader(
    "class_super", "CLASS", DAY, 1, 0, None, 1, 1, window(DAY), dt.datetime(2023, 5, 3, 20, tzinfo=dt.UTC)
)


def frames_of(movements: int) -> dict[str, pl.DataFrame]:
    """A third trades, a third dividends, a third cash; 30 movements, 15 holdings and 2 cash accounts a portfolio."""
    accounts = pl.select(pl.format("SW{}", 10_000_000 + pl.int_range(movements // MOVEMENTS_EACH))).to_series()

    def rows(each: int) -> pl.DataFrame:
        many = pl.DataFrame({"n": pl.int_range(len(accounts) * each, eager=True)})
        return many.with_columns(accounts.gather(many["n"] // each).alias(epi.PORTFOLIO), at=pl.col("n") % each)

    def number(scale: int, salt: int) -> pl.Expr:
        return ((pl.col("n") * 7919 + salt) % 100_003 - 50_000).cast(pl.Decimal(18, 0)).cast(pl.Decimal(18, scale))

    def text(value: str) -> pl.Expr:
        return pl.lit(value)

    kind = pl.col("n") % 3
    names = {
        "portfolio_name": "The Trustee for Brown & Sons <Super> Fund",
        "narrative": "Direct credit, reference 12345",
        "security_code": "BHP",
    }
    by_kind = {
        "transaction_id": pl.format("T{}", "n"),
        "transaction_type": pl.when(kind == 0)
        .then(text("BUY"))
        .when(kind == 1)
        .then(text("DIVIDEND"))
        .otherwise(text("CASH_DEPOSIT")),
        "recorded_at": pl.lit(dt.datetime(2023, 5, 3, 2, tzinfo=dt.UTC)) + pl.duration(microseconds=pl.col("n")),
    }
    of_group = {"contract note": [0], "income": [1], "cash": [2], "security": [0, 1]}
    frames = {}
    for record, each in zip(epi.RECORDS, (1, 2, 2, 15, MOVEMENTS_EACH), strict=True):
        source = rows(each)
        filled: dict[str, pl.Expr] = {}
        for part in record.content:
            for salt, element in enumerate(part.elements if isinstance(part, Group) else (part,)):
                value = _value(element, names, number, salt)
                if element.column in by_kind and record is epi.MOVEMENT_TRANSACTION:
                    value = by_kind[element.column]
                elif isinstance(part, Group) and record is epi.MOVEMENT_TRANSACTION:
                    value = pl.when(kind.is_in(of_group[part.name])).then(value)
                elif element.column in ("reverses", "relates_to", "cost_base_change", "closed_on"):
                    value = pl.lit(None)
                elif element.column in ("narrative", "settlement_date", "units") and record is epi.MOVEMENT_TRANSACTION:
                    value = pl.when(kind == (2 if element.column == "narrative" else 0)).then(value)
                filled[element.column] = value
        filled |= {epi.PORTFOLIO: pl.col(epi.PORTFOLIO), "consent": text("CURRENT"), "extract": text("DELTA")}
        if "exchange" in filled and record is epi.INVESTMENT_HOLDING:
            filled["security_code"] = pl.format("C{}", "at")
        if record in (epi.CASH_ACCOUNT, epi.ACCOUNT_BALANCE):
            filled["account_number"] = pl.format("1234{}", "at")
        frames[record.frame.name] = source.select(
            filled[name].cast(dtype).alias(name) for name, dtype in record.frame.schema.items()
        )
    return frames


def _value(element: Element, names: dict[str, str], number: Callable[[int, int], pl.Expr], salt: int) -> pl.Expr:
    if element.type in epi.NUMBERS:
        return number(2 if element.type is epi.Type.MONEY else 6, salt)
    if element.type is epi.Type.DATE:
        return pl.lit(DAY)
    simple = {
        epi.Type.CURRENCY: "AUD",
        epi.Type.HIN: "X1234567890",
        epi.Type.BSB: "062-000",
        epi.Type.ABN: "51824753556",
        epi.Type.ISIN: "AU000000BHP4",
        epi.Type.ENTITY_TYPE: "SMSF",
        epi.Type.ACCOUNT_STATUS: "ACTIVE",
        epi.Type.SECURITY_TYPE: "ORDINARY",
    }
    return pl.lit(simple.get(element.type, names.get(element.column, "ABC-12345")))


# --- Ways of writing ----------------------------------------------------------------------------------------------


def this_projects_writer(frames: dict[str, pl.DataFrame], path: Path) -> None:
    """Column expressions over blocks of portfolios."""
    spool: dict[str, list[bytes]] = {section.name: [] for section in epi.SECTIONS}
    totals = Totals()
    for portfolio in EPI.render(frames):
        totals += portfolio.totals
        for name, content in portfolio.sections.items():
            spool[name].append(content)
    with path.open("wb") as target:
        target.writelines(EPI.page(HEADER, totals, spool))


def lxml_e_builder(frames: dict[str, pl.DataFrame], path: Path) -> None:
    """The baseline: lxml's E builder, one call an element, the whole document as a tree."""
    maker = ElementMaker(namespace=epi.NAMESPACE, nsmap={None: epi.NAMESPACE})

    def make(name: str, *content: Any, **attributes: str) -> etree._Element:
        return maker(name, *content, **attributes)

    _whole_tree(frames, path, make)


def lxml_subelement(frames: dict[str, pl.DataFrame], path: Path) -> None:
    """lxml's SubElement, the whole document as a tree."""

    def make(name: str, *content: Any, **attributes: str) -> etree._Element:
        element = etree.Element(epi.tag(name), attributes, nsmap={None: epi.NAMESPACE})
        for one in content:
            if isinstance(one, str):
                element.text = one
            else:
                element.append(one)
        return element

    _whole_tree(frames, path, make)


def _whole_tree(frames: dict[str, pl.DataFrame], path: Path, make: Callable[..., etree._Element]) -> None:
    root = etree.fromstring(b"".join(EPI.page(HEADER, _totals(frames), {})))
    nested = {
        number: list(rows)
        for number, rows in groupby(
            frames[epi.CASH_ACCOUNT.frame.name].sort(epi.CASH_ACCOUNT.sort_key).iter_rows(named=True),
            key=lambda row: row[epi.PORTFOLIO],
        )
    }
    for section in epi.SECTIONS:
        parent = root.find(epi.tag(section.name))
        assert parent is not None
        for row in frames[section.record.frame.name].sort(section.record.sort_key).iter_rows(named=True):
            element = make(
                section.record.name,
                *_content(section.record, row, nested, make),
                **{attribute.name: row[attribute.column] for attribute in section.record.attributes},
            )
            element.tail = "\n"
            parent.append(element)
        parent.text = "\n" if len(parent) else None
    path.write_bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8"))


def _content(record: Record, row: dict[str, Any], nested: dict[str, Any], make: Callable[..., Any]) -> Iterator[Any]:
    for part in record.content:
        for member in part.members if isinstance(part, Group) else (part,):
            if isinstance(member, Record):
                for inner in nested.get(row[epi.PORTFOLIO], ()):
                    yield make(member.name, *_content(member, inner, nested, make))
            elif row[member.column] is not None:
                yield make(member.name, _text(row[member.column]))


def _text(value: object) -> str:
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _totals(frames: dict[str, pl.DataFrame]) -> Totals:
    from classfeed_dagster.documents.epi_totals import totals_of

    return totals_of({section.name: frames[section.record.frame.name] for section in epi.SECTIONS})


# --- Ways of reading ----------------------------------------------------------------------------------------------


def examine(_: dict[str, pl.DataFrame], path: Path) -> None:
    """Validation, digest, totals and portfolios, as the gate does it."""
    facts = EPI.examine(epi_reader.file_chunks(path))
    assert facts.valid, facts.errors


def read(_: dict[str, pl.DataFrame], path: Path) -> None:
    """The document as typed frames, validated."""
    EPI.read(path)


def lxml_iterparse(_: dict[str, pl.DataFrame], path: Path) -> None:
    """The baseline: lxml's iterparse with the XSD, one dict a record, Decimal sums."""
    from classfeed_dagster.documents.epi_schema import compiled

    total, portfolios = Decimal(0), set()
    tags = [epi.tag(section.record.name) for section in epi.SECTIONS]
    for _event, element in etree.iterparse(str(path), tag=tags, schema=compiled(), resolve_entities=False):
        row = {child.tag: child.text for child in element}
        portfolios.add(row[epi.tag("PortfolioNumber")])
        for name in ("LedgerBalance", "MarketValue", "Amount", "NetAmount", "Units"):
            total += Decimal(row.get(epi.tag(name)) or 0)
        element.clear()
        parent = element.getparent()
        while parent is not None and element.getprevious() is not None:
            del parent[0]


def _measured(way: Callable[..., None], frames: Path, path: Path) -> tuple[float, float, float]:
    loaded = {file.stem: pl.read_parquet(file) for file in frames.glob("*.parquet")}
    wall, processor = time.perf_counter(), time.process_time()
    way(loaded, path)
    took = time.process_time() - processor
    return took, time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(way: Callable[..., None], frames: Path, path: Path) -> tuple[float, float, float]:
    """Seconds of processor, seconds, and peak memory in MiB (the frames' own included), in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, way, frames, path).result()


def _canonical(path: Path) -> str:
    return hashlib.sha256(etree.tostring(etree.parse(path), method="c14n")).hexdigest()


def main() -> int:
    """Print a table of both comparisons."""
    parser = argparse.ArgumentParser(description="How fast EPI documents are written and read.")
    parser.add_argument("--movements", type=int, default=300_000)
    movements = parser.parse_args().movements
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for frame, rows in frames_of(movements).items():
            rows.write_parquet(folder / f"{frame}.parquet")
        records = movements * 48 // MOVEMENTS_EACH
        print(f"{movements:,} movements, {records:,} records; seconds of processor, then of the clock")
        paths = {way: folder / f"{way.__name__}.xml" for way in (lxml_e_builder, lxml_subelement, this_projects_writer)}
        ratio = _table("write", paths, folder)
        if movements <= 60_000:  # the tree of a larger document may not fit
            assert len({_canonical(path) for path in paths.values()}) == 1, "they wrote different documents"
        page = paths[this_projects_writer]
        _table("read", dict.fromkeys((lxml_iterparse, examine, read), page), folder)
    return 0 if ratio >= AIM else 1


def _table(what: str, ways: dict[Callable[..., None], Path], frames: Path) -> float:
    """Measure and print; the last way's ratio to the first, in processor time, which neighbours don't change."""
    baseline = ratio = 0.0
    for way, path in ways.items():
        took, wall, memory = run(way, frames, path)
        baseline = baseline or took
        ratio = baseline / took
        speed = path.stat().st_size / took / 1e6
        print(f"{what:6}{way.__name__:22}{took:8.2f} s{wall:8.2f} s{ratio:7.1f}x{memory:7.0f} MiB{speed:6.0f} MB/s")
    return ratio


if __name__ == "__main__":
    sys.exit(main())
