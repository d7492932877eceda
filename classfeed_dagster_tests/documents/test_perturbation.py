"""Column lineage proven by doing: change one column of bigsite, and exactly what lineage names changes downstream.

On real PostgreSQL, through the functions that do the work: snapshot, domains, documents, the rows that the warehouse
loads. Four levels are compared: landed columns, columns of the domains, fields of every document, columns of the star
schema. Columns that also pick rows (``SELECTING``)
must change all that lineage names, and may change more. Keys are not changed: they only join rows.
"""

from __future__ import annotations

import csv
import string
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from lxml import etree

from classfeed_dagster.bigsite.ledgers import SAME_IN_REVERSALS
from classfeed_dagster.bigsite.lineage import SELECTING, landed_sources
from classfeed_dagster.bigsite.queries import SCHEMAS
from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.documents.class_cash import CLASS_CASH
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.lineage import field_sources
from classfeed_dagster.domains.build import CONSENTED, DOMAINS, build_consented_portfolios, build_domain, open_domains
from classfeed_dagster.domains.lineage import bigsite_columns, shown_frames
from classfeed_dagster.source_contract.contract import load_contract
from classfeed_dagster.store import LocalStore, open_store
from classfeed_dagster.warehouse.columns import warehouse_tables
from classfeed_dagster.warehouse.rows import FRAMES, rows_of_page
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite
from classfeed_dagster_tests.fixtures.databases import fresh_database
from classfeed_dagster_tests.fixtures.reading_back import CLASS, DAY, take

TODAY = "2023-02-01T02:00Z"
AFTER_CUTOFF = "2023-02-01T13:30Z"  # before the end of day, which therefore counts it
FILES = (CLASS_TRADE, CLASS_CASH)
# The domain's units take their sign from the side, and this file takes it back: it depends on the side in vain.
CANCELLED = {("trade.side", "class_trade.csv/D/units")}
# What bigsite works out by comparing rows: a change of one column that is the same in all rows leaves it as it was.
# Each with the rows whose change alone must show.
COMPARED = {
    ("portfolio.hin", "portfolio.hin_holders"): "portfolio_number = 'SW1'",
    **{
        (f"cash_account.{name}", "cash_account.number_holders"): "account_name = 'Cash of SW1' AND bsb IS NOT NULL"
        for name in ("bsb", "account_number", "currency")
    },
    **{
        (f"{ledger}.{name}", f"{ledger}.undoes_exactly"): f"reverses_{ledger}_id IS NOT NULL"
        for ledger, names in SAME_IN_REVERSALS.items()
        for name in names
        if not name.endswith("_id")
    },
}
FRAME = {frame.name: frame for domain in DOMAINS for frame in shown_frames(domain)}
Seen = dict[str, list[str]]  # every value of a landed column, a domain's column or a document's field; sorted

_LEVELS = ("landed", "domains", "documents", "warehouse")


def populate(bigsite: Bigsite) -> None:
    """Create customers among whom every landed column and every field of the documents has a value."""
    bhp = bigsite.security("BHP", {"2023-01-31": "45.105"})
    renamed = bigsite.security("WPL", {"2023-02-01": "33.00"}, isin=None)  # known by its code alone
    bigsite.code_change(renamed, "2023-02-02", "WDS")
    foreign = bigsite.security("MSFT", {"2023-01-31": "250.00"}, exchange="NASDAQ", currency="USD", isin=None)

    current = bigsite.portfolio("SW1").consent(history_from="2023-01-01")
    identity = {name: current.cash()[name] for name in ("bsb", "account_number")}
    current.deposit("10000.00", on="2022-12-01")
    current.buy(bhp, 100, "45.00", on="2023-01-10")
    current.deposit("5.00", on="2022-12-05", recorded_at=TODAY)  # late, before the shared history
    current.sell(bhp, "0.333333", "46.00", on=DAY, other_fees="1.10")
    current.reverse(current.buy(bhp, 7, "45.50", on=DAY, recorded_at=TODAY), "2023-02-01T03:00Z")
    moved = current.security_movement(bhp, "TRANSFER_IN", "5", on=DAY, cost_base_change="225.00")
    current.reverse(moved, "2023-02-01T04:00Z")
    current.reverse(current.dividend(bhp, "70.00", on=DAY, withholding_tax="1.00"), "2023-02-01T05:00Z")
    current.dividend(bhp, "10.00", on=DAY, franked=False)
    current.reverse(current.deposit("3.00", on=DAY), "2023-02-01T06:00Z")
    current.buy(bhp, 2, "45.20", on=DAY, recorded_at=AFTER_CUTOFF)
    current.security_movement(bhp, "TRANSFER_IN", "6", on=DAY, recorded_at=AFTER_CUTOFF)
    current.deposit("4.00", on=DAY, recorded_at=AFTER_CUTOFF)

    hin = current.row["hin"]  # one HIN, and one account, of two who share and of one whose are closed
    new = bigsite.portfolio("SW2", hin=hin, closed_on="2023-06-30").consent(
        TODAY, expires_at="2024-06-01T00:00Z", revoked_at="2024-01-01T00:00Z", history_from="2022-07-01"
    )
    new.cash_account(**identity)
    new.deposit("9000.00", on="2022-06-01")
    new.buy(renamed, 50, "30.00", on="2022-06-10")
    new.security_movement(renamed, "TRANSFER_IN", "4", on="2022-06-15")
    new.dividend(renamed, "25.00", on="2022-09-01")
    new.buy(renamed, 10, "31.00", on="2023-01-31")  # unsettled at the date
    for _ in range(2):  # the same confirmation twice
        new.buy(bhp, 3, "45.00", on="2022-10-03", confirmation_number="CN1")
    new.cash_account(closed_on="2023-03-31")
    new.buy(foreign, 2, "250.00", on="2023-01-31", account=new.cash("USD"))

    bigsite.portfolio("SW4", hin=hin, status="CLOSED").cash_account(**identity, status="CLOSED")
    bigsite.portfolio("SW3").consent(revoked_at=TODAY).deposit("77.00", on="2022-12-01")
    bigsite.end_of_day(DAY).save()


@dataclass
class Line:
    """bigsite, and everything that is made of it."""

    bigsite: Bigsite
    engine: sa.Engine
    before: dict[str, Seen]

    def changed_by(self, *columns: str, days: int = 0, where: str = "TRUE") -> dict[str, set[str]]:
        """Return the downstream differences, by level, after a change of every value of these columns (``table.column``).

        ``days``: by how much dates and instants move, if not by the least. ``where``: the rows, if not all.
        """
        with self.engine.begin() as connection:
            for column in columns:
                assert connection.execute(sa.text(statement(column, days, where))).rowcount, (
                    f"{column} has no value to change"
                )
        try:
            after = look(self.engine)
        finally:
            self.restore()
        return {level: differing(self.before[level], after[level]) for level in _LEVELS}

    def restore(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(f"TRUNCATE {', '.join(metadata.tables)} CASCADE"))
        self.bigsite.save()


def statement(column: str, days: int, where: str) -> str:
    """Give every stated value of ``table.column`` another of the same kind."""
    table, _, name = column.partition(".")
    of = metadata.tables[f"{SCHEMA}.{table}"].c[name]
    values = load_contract().vocabularies.get(column)
    if values:
        cases = " ".join(f"WHEN '{a}' THEN '{b}'" for a, b in zip(values, values[1:] + values[:1], strict=True))
        changed = f"CASE {name} {cases} END"
    elif isinstance(of.type, sa.Numeric):
        changed = f"{name} + 1"
    elif isinstance(of.type, sa.DateTime):
        changed = f"{name} + interval '{f'{days} days' if days else '1 second'}'"
    elif isinstance(of.type, sa.Date):
        changed = f"{name} + {days or 1}"
    else:
        shifted = [kind[1:] + kind[:1] for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits)]
        letters = string.ascii_lowercase + string.ascii_uppercase + string.digits
        changed = f"translate({name}, '{letters}', '{''.join(shifted)}')"
    return f"UPDATE {SCHEMA}.{table} SET {name} = {changed} WHERE {name} IS NOT NULL AND {where}"


def look(engine: sa.Engine) -> dict[str, Seen]:
    """Return every value at every level."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(str(Path(folder) / "store"))
        assert isinstance(store, LocalStore)
        snapshot, landed = take(engine, store, max_missing_share=1)
        consented = build_consented_portfolios(store, snapshot, CLASS)
        domains = [consented]
        domains += [build_domain(store, snapshot, CLASS, name, consented) for name in DOMAINS if name != CONSENTED]
        with open_domains(store, domains) as slices:
            frames = [dict(slice_) for slice_ in slices]
    levels: dict[str, Seen] = {"landed": values_of(landed), "domains": {}, "documents": defaultdict(list)}
    levels["warehouse"] = defaultdict(list)
    for item in frames:
        for name in item.keys() - FRAME.keys():  # findings, and the delivered ledger's input: lineage shows neither
            item.pop(name)
        # The load reads the frames back from the document, as they are here.
        for name, texts in values_of(loaded(item)).items():
            levels["warehouse"][name] += texts
        levels["domains"] |= values_of(item)
        for portfolio in EPI.render(item):
            for name, section in portfolio.sections.items():
                for path, text in elements(name, section):
                    levels["documents"][path].append(text)
        for file in FILES:
            for name, text in fields(file, b"".join(p.sections["details"] for p in file.render(item))):
                levels["documents"][name].append(text)
    return {level: {name: sorted(texts) for name, texts in values.items()} for level, values in levels.items()}


def values_of(frames: dict[str, pl.DataFrame]) -> Seen:
    return {
        f"{table}.{name}": [str(value) for value in frame[name].to_list() if value is not None]
        for table, frame in frames.items()
        for name in frame.columns
    }


def loaded(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    rows = rows_of_page(
        frames, feed="f", recipient="CLASS", business_date=pl.lit(DAY), message_id="m", correlation_id="c"
    )
    return {name: frame.select(pl.exclude("version")).rename(str.upper) for name, frame in rows.items()}


def elements(section: str, content: bytes) -> Iterator[tuple[str, str]]:
    root = etree.fromstring(b"<r>" + content + b"</r>")
    for element in root.iter():
        above = [str(ancestor.tag) for ancestor in reversed(list(element.iterancestors()))][1:]
        path = "/".join(["EPIDataResponse", section, *above, str(element.tag)])
        for name, value in element.attrib.items():
            yield f"{path}/@{name}", value
        if len(element) == 0:
            yield path, element.text or ""


def fields(file: CsvFormat, content: bytes) -> Iterator[tuple[str, str]]:
    for line in csv.reader(content.decode().splitlines()):
        letter, *values = line
        for field, value in zip(file.layout.columns[letter], values, strict=True):
            if value:
                yield f"{file.name}.csv/{letter}/{field.name}", value


def differing(before: Seen, after: Seen) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name, []) != after.get(name, [])}


@cache
def named(column: str) -> dict[str, set[str]]:
    """Return the downstream names of a bigsite column in the lineage, by level."""
    documents = [("", field) for field in EPI.columns]
    documents += [(f"{file.name}.csv/", field) for file in FILES for field in file.columns]
    return {
        "landed": {
            f"{table}.{name}"
            for table in SCHEMAS
            for name, sources in landed_sources(table).items()
            if column in sources
        },
        "domains": {
            f"{frame.name}.{created.name}"
            for domain in DOMAINS
            for frame in shown_frames(domain)
            for created in frame.columns
            if column in bigsite_columns(created)
        },
        "documents": {f"{file}{field.name}" for file, field in documents if column in field_sources(field)},
        "warehouse": {
            f"{table}.{created.name}"
            for table in FRAMES
            for created in warehouse_tables()[table]
            if any(
                column in bigsite_columns(FRAME[frame].column(name), created.rows) for frame, name in created.made_of
            )
        },
    }


def landed_values() -> list[str]:
    """Return every landed bigsite column except keys, which have a row of their own or join to one."""
    keys = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.c
        if (column.primary_key and column.name.endswith("_id")) or column.foreign_keys
    }
    landed = {source for table in SCHEMAS for sources in landed_sources(table).values() for source in sources}
    return sorted(landed - keys)


@pytest.fixture(scope="module")
def line(postgres_url: str) -> Iterator[Line]:
    with fresh_database(postgres_url) as url:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(SCHEMA))
            metadata.create_all(connection)
        bigsite = Bigsite(engine)
        populate(bigsite)
        yield Line(bigsite, engine, look(engine))
        engine.dispose()


def test_perturbation_has_a_value_for_every_field(line: Line) -> None:
    documents = {field.name for field in EPI.columns}
    documents |= {f"{file.name}.csv/{field.name}" for file in FILES for field in file.columns}
    assert documents - {name for name, values in line.before["documents"].items() if values} == set()


def together(columns: list[str]) -> list[tuple[str, ...]]:
    """Group the columns by different tables without common downstream values, so that one run serves a group."""
    groups: list[list[str]] = []
    for column in columns:
        mine, table = named(column), column.partition(".")[0]
        for group in groups:
            apart = all(not mine[level] & named(other)[level] for other in group for level in _LEVELS)
            if apart and all(other.partition(".")[0] != table for other in group):
                group.append(column)
                break
        else:
            groups.append([column])
    return [tuple(group) for group in groups]


@pytest.mark.slow
@pytest.mark.parametrize(
    "columns", together([value for value in landed_values() if value not in SELECTING]), ids=" ".join
)
def test_perturbed_column_changes_exactly_its_lineage(line: Line, columns: tuple[str, ...]) -> None:
    changed = line.changed_by(*columns)
    for level in _LEVELS:
        expected = {(column, name) for column in columns for name in named(column)[level]}
        expected -= CANCELLED | COMPARED.keys()
        assert changed[level] == {name for _, name in expected}, level


@pytest.mark.slow
@pytest.mark.parametrize(("column", "compared"), COMPARED)
def test_perturbed_comparison_changes_with_either_row(line: Line, column: str, compared: str) -> None:
    assert compared in named(column)["landed"]
    assert compared in line.changed_by(column, where=COMPARED[column, compared])["landed"]


@pytest.mark.slow
@pytest.mark.parametrize("column", [value for value in landed_values() if value in SELECTING])
def test_perturbed_selecting_column_changes_all_its_lineage(line: Line, column: str) -> None:
    expected = named(column)
    unmoved = {level: set(names) for level, names in expected.items()}
    for days in (45, -600, 1500, 0, 1, -1, -45):  # mostly the first is enough
        changed = line.changed_by(column, days=days)
        unmoved = {level: names - changed[level] for level, names in unmoved.items()}
        if not any(unmoved.values()):
            break
    assert not any(unmoved.values()), f"lineage names {unmoved}, which no change of {column} moves"


def test_perturbed_unlanded_column_changes_nothing(line: Line) -> None:
    assert line.changed_by("portfolio_member.role") == {level: set() for level in _LEVELS}


def test_perturbation_finds_a_column_missing_from_lineage(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classfeed_dagster.bigsite.lineage.DERIVED", {})
    named.cache_clear()
    assert line.changed_by("trade.units") != named("trade.units")
    named.cache_clear()
