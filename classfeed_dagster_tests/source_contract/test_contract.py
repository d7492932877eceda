"""The contract file is the only description of bigsite, and any other content is refused."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sqlalchemy as sa
import yaml

from classfeed_dagster.bigsite import queries, tables
from classfeed_dagster.bigsite.consent import consent_query
from classfeed_dagster.documents import epi_schema
from classfeed_dagster.domains import columns
from classfeed_dagster.domains.columns import Frame
from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.source_contract.contract import CONTRACT, ContractError, load_contract
from classfeed_dagster.source_contract.drift import columns_read
from classfeed_dagster.source_contract.live_schema import live_schema
from classfeed_dagster.source_contract.schema import Schema
from classfeed_dagster_tests.fixtures.epi_data import element_lineage

OWNERS_DDL = Path(__file__).with_name("bigsite.sql")  # as delivered by bigsite's team
FRAMES = [frame for frame in vars(columns).values() if isinstance(frame, Frame)]


def without_places(schema: Schema) -> dict[str, Any]:
    return {
        name: (
            {column.name: (column.type, column.nullable, column.values) for column in table.columns},
            table.primary_key,
            table.unique,
            table.foreign_keys,
            table.indexes,
            table.checks,
        )
        for name, table in schema.tables.items()
    }


def test_file_obeys_the_open_data_contract_standard() -> None:
    standard = json.loads(resources.files("open_data_contract_standard").joinpath("schema.json").read_text())
    jsonschema.validate(yaml.load(CONTRACT.read_text(), yaml.CSafeLoader), standard)


def test_contract_equals_the_owners_schema(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(OWNERS_DDL.read_text())
    live = live_schema(engine)
    engine.dispose()
    assert live.bare() == load_contract().schema.bare()


def test_declared_tables_equal_the_contract(changing_bigsite: sa.Engine) -> None:
    assert without_places(live_schema(changing_bigsite).bare()) == without_places(load_contract().schema.bare())


def test_declared_vocabularies_equal_the_contract() -> None:
    assert load_contract().vocabularies == {
        "portfolio.entity_type": tuple(sorted(tables.ENTITY_TYPES)),
        "portfolio.status": tuple(sorted(tables.STATUSES)),
        "portfolio_member.role": tuple(sorted(tables.MEMBER_ROLES)),
        "cash_account.status": tuple(sorted(tables.STATUSES)),
        "security.security_type": tuple(sorted(tables.SECURITY_TYPES)),
        "trade.side": tuple(sorted(tables.SIDES)),
        "security_movement.movement_type": tuple(sorted(tables.MOVEMENT_TYPES)),
        "income.income_type": tuple(sorted(tables.INCOME_TYPES)),
        "cash_transaction.transaction_type": tuple(sorted(tables.CASH_TYPES)),
    }


def test_contract_type_has_its_document_type() -> None:
    known = load_contract().vocabularies
    as_sent = {
        *known["trade.side"],
        *known["security_movement.movement_type"],
        *("INTEREST_INCOME" if value == "INTEREST" else value for value in known["income.income_type"]),
        *(f"CASH_{value}" for value in known["cash_transaction.transaction_type"]),
    }
    stated = set(epi_schema.text_rules()["TransactionType"].vocabulary)
    assert as_sent == stated - {"OPENING_UNITS", "OPENING_CASH"}


def test_contract_column_has_meaning_class_and_owner() -> None:
    contract = load_contract()
    assert contract.owner == "bigsite"
    assert contract.version == "1.0.0"
    assert contract.meanings.keys() == contract.classifications.keys()
    assert all(contract.meanings.values())
    latency = [level for level in contract.service_levels if level.property == "latency"]
    assert ("2", "h", ("holding_eod.updated_at", "cash_balance_eod.updated_at")) in {
        (level.value, level.unit, level.elements) for level in latency
    }
    assert all(element in contract.meanings for level in contract.service_levels for element in level.elements)


def test_contract_personal_columns_match_domains_and_restricted_unread() -> None:
    contract = load_contract()
    marked = {column.name: column for frame in FRAMES for column in frame.columns}
    for frame in FRAMES:
        for column in frame.columns:
            assert column.personal == bool(contract.personal.intersection(column.source)), (frame.name, column.name)
    assert marked
    assert contract.restricted == {"member.given_name", "member.family_name", "member.email"}
    assert contract.restricted < contract.personal
    assert not contract.restricted & columns_read()
    assert not contract.restricted & column_exports().keys()


def test_relied_index_serves_its_query() -> None:
    contract = load_contract()
    assert "trade.trade_recorded" in contract.relied_indexes
    assert "security.security_code" not in contract.relied_indexes
    for name in contract.relied_indexes:
        table, _, index_name = name.partition(".")
        [index] = [index for index in contract.schema.tables[table].indexes if index.name == index_name]
        assert {f"{table}.{column}" for column in index.columns} <= columns_read()


class TestExtraction:
    """Prove with privileges that ``columns_read`` returns the columns that are read."""

    @pytest.fixture
    def reader(self, changing_bigsite: sa.Engine) -> Iterator[sa.Connection]:
        with changing_bigsite.connect() as connection:  # never committed: roles outlive a database
            connection.exec_driver_sql("CREATE ROLE feed_reader; GRANT USAGE ON SCHEMA bigsite TO feed_reader")
            for name in sorted(columns_read()):
                table, _, column = name.partition(".")
                connection.exec_driver_sql(f"GRANT SELECT ({column}) ON bigsite.{table} TO feed_reader")
            connection.exec_driver_sql("SET ROLE feed_reader")
            yield connection

    @staticmethod
    def refused(connection: sa.Connection) -> bool:
        day = dt.date(2026, 3, 2)
        at = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
        statements = [query.sql for query in (*queries.SLICED, *queries.REFERENCES)]
        parameters: dict[str, object] = dict.fromkeys(("business_date", "cutoff", "earliest"), day)
        arrays = {name: "{}" for sql in statements for name in re.findall(r"%\((\w+)\)s::\w+\[\]", sql)}
        savepoint = connection.begin_nested()
        try:
            for sql in statements:
                connection.exec_driver_sql(f"EXPLAIN {sql}", {**parameters, **arrays})
            connection.execute(sa.text(queries.READINESS), {"business_date": day})
            connection.execute(consent_query(["CLASS"], at, at))
        except sa.exc.ProgrammingError as error:
            return "permission denied" in str(error.orig)
        finally:
            savepoint.rollback()
        return False

    def test_role_with_only_the_relied_columns_can_extract(self, reader: sa.Connection) -> None:
        assert not self.refused(reader)

    def test_relied_column_is_read(self, reader: sa.Connection) -> None:
        in_vain = []
        for name in sorted(columns_read()):
            table, _, column = name.partition(".")
            savepoint = reader.begin_nested()
            reader.exec_driver_sql(
                f"RESET ROLE; REVOKE SELECT ({column}) ON bigsite.{table} FROM feed_reader; SET ROLE feed_reader"
            )
            if not self.refused(reader):
                in_vain.append(name)
            savepoint.rollback()
        assert in_vain == []

    def test_source_named_by_a_domain_is_read(self) -> None:
        assert column_exports().keys() <= columns_read() <= load_contract().meanings.keys()


class TestLineage:
    """Lineage of bigsite's columns into the documents."""

    def test_document_element_has_a_source_or_is_derived(self) -> None:
        reached = {(export.column, export.element) for exports in column_exports().values() for export in exports}
        frames = {frame.name: frame for frame in FRAMES}
        for element, frame, column in element_lineage():
            derived = frames[frame].column(column).source == ("derived",)
            assert ((f"{frame}.{column}", element) in reached) is not derived

    def test_legacy_file_comes_from_its_own_ledger_alone(self) -> None:
        exports = column_exports()

        def files(source: str) -> set[str]:
            known = ("EPIDataResponse", "class_cash.csv", "class_trade.csv")  # other feeds have files of their own
            return {export.element.partition("/")[0] for export in exports[source]}.intersection(known)

        assert files("trade.units") == {"EPIDataResponse", "class_trade.csv"}
        assert files("security_movement.units_change") == {"EPIDataResponse"}
        assert files("cash_transaction.amount") == {"EPIDataResponse", "class_cash.csv"}
        assert files("cash_balance_eod.ledger_balance") == {"EPIDataResponse", "class_cash.csv"}
        assert files("portfolio.hin") == {"EPIDataResponse", "class_trade.csv"}


class TestRefused:
    """An invalid contract file is refused with its fault."""

    @staticmethod
    def load(tmp_path: Path, change: Any) -> None:
        document = yaml.load(CONTRACT.read_text(), yaml.CSafeLoader)
        trade = next(table for table in document["schema"] if table["name"] == "trade")
        change(document, trade, {column["name"]: column for column in trade["properties"]})
        path = tmp_path / "contract.yaml"
        path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
        load_contract(path)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda _, __, trade: trade["gst"].pop("description"), "trade.gst lacks description"),
            (lambda _, __, trade: trade["gst"].pop("required"), "trade.gst lacks required"),
            (lambda _, __, trade: trade["gst"].update(classification="secret"), "classification 'secret'"),
            (
                lambda _, __, trade: trade["security_id"].update(relationships=[{"to": "security.id"}]),
                "references security.id",
            ),
            (
                lambda _, table, __: table["customProperties"][0]["value"][0].update(columns=["nowhere"]),
                "an index of trade needs",
            ),
            (
                lambda _, table, __: table["customProperties"][0]["value"][0].pop("reliedOn"),
                "an index of trade needs",
            ),
            (lambda document, _, __: document.pop("apiVersion"), "it has no apiVersion"),
            (lambda document, _, __: document.pop("schema"), "it has no schema"),
            (lambda document, _, __: document.update(tables=[]), "not a contract in the Open Data Contract Standard"),
            (lambda document, _, __: document.update(schema="none"), "not a contract"),
        ],
    )
    def test_contract_with_a_missing_part_is_refused(self, tmp_path: Path, change: Any, says: str) -> None:
        with pytest.raises(ContractError, match=says):
            self.load(tmp_path, change)

    @pytest.mark.parametrize("text", ["{", "- a\n- b\n", ""])
    def test_file_that_is_not_a_contract_is_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "contract.yaml"
        path.write_text(text)
        with pytest.raises(ContractError, match="not a contract"):
            load_contract(path)
