"""Session settings: the database's defaults change neither a delivery nor its reconciliation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.consent import ConsentReadError, query_consented
from classfeed_dagster.bigsite.snapshot import take_snapshot
from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.local.embedded_postgres import engine_from
from classfeed_dagster.orchestration.rehearsal import _reconcile
from classfeed_dagster.postgres_session import SETTINGS
from classfeed_dagster.repair.source_probe import ChangeQuery, changed_since
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures.desk import at_a_desk

DAY = "2026-03-02"
DEFAULTS = {
    "DateStyle": "SQL, DMY",
    "TimeZone": "Australia/Lord_Howe",
    "IntervalStyle": "sql_standard",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "search_path": "nowhere",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "statement_timeout": "100",
    "lock_timeout": "100",
    "idle_in_transaction_session_timeout": "50",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
}
NAME = "Zo\u00eb Family Fund"


@pytest.fixture(params=[pytest.param("UTF8", marks=pytest.mark.nightly), "LATIN1"])
def hostile_engine(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[sa.Engine]:
    """Connect to a bigsite of either encoding with every default that could change a client's result."""
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = f"hostile_{request.param.lower()}_test"
    create = f"CREATE DATABASE {name} ENCODING '{request.param}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with admin.connect() as connection:
        connection.execute(sa.text(create))
    url = sa.make_url(postgres_url).set(database=name)
    engine = sa.create_engine(url, client_encoding="utf8")
    try:
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(SCHEMA))
            metadata.create_all(connection)
        yield engine
    finally:
        engine.dispose()
        with admin.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


@pytest.mark.usefixtures("local_warehouse")
def test_database_defaults_change_no_delivery(hostile_engine: sa.Engine, tmp_path: Path) -> None:
    with at_a_desk(hostile_engine, tmp_path) as desk:
        customer, *_ = desk.two_customers()
        customer.row["portfolio_name"] = NAME
        desk.end_of_day(DAY)
        with hostile_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            database = connection.execute(sa.text("SELECT current_database()")).scalar_one()
            for setting, value in DEFAULTS.items():
                connection.execute(sa.text(f"ALTER DATABASE {database} SET {setting} = '{value}'"))
        report = desk.run(DAY)
        assert report.outcome == "delivered", report.message
        accounts = desk.records(DAY)["accounts"]
        assert accounts.filter(pl.col("portfolio_number") == "SW00000001")["portfolio_name"].to_list() == [NAME]
        day = dt.date.fromisoformat(DAY)
        question = ChangeQuery(day, dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
        assert changed_since(desk.runtime, "CLASS", [question]).keys() <= {day}
        feed = desk.feed("class_super")
        proofs = _reconcile(desk.definitions, desk.instance, desk.runtime, feed, day)
        assert [proof.holds for proof in proofs] == [True, True], proofs


def test_engine_sets_its_session(hostile_engine: sa.Engine) -> None:
    engine = engine_from(hostile_engine.url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        output = {name: connection.execute(sa.text(f"SHOW {name}")).scalar_one() for name in SETTINGS}
    engine.dispose()
    assert output == SETTINGS


def test_rows_hidden_by_a_policy_are_an_error(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    """A customer whose consent a policy hides would otherwise be announced as removed, or be absent silently."""
    with bigsite_engine.begin() as connection:
        user = f"reader_of_{bigsite_engine.url.database}"
        for statement in (
            f"CREATE ROLE {user} LOGIN",
            f"GRANT USAGE ON SCHEMA {SCHEMA} TO {user}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO {user}",
            f"ALTER TABLE {SCHEMA}.data_sharing_consent ENABLE ROW LEVEL SECURITY",
        ):
            connection.execute(sa.text(statement))
    engine = engine_from(bigsite_engine.url.set(username=user).render_as_string(hide_password=False))
    day = dt.date.fromisoformat(DAY)
    try:
        with pytest.raises(SourceReadError, match=r"SQLSTATE 42501.*its user may read every row"):
            take_snapshot(engine, local_store, day, [RecipientSchedule("CLASS", day)])
        with pytest.raises(ConsentReadError, match="nothing is sent"):
            query_consented(engine, "CLASS")
    finally:
        engine.dispose()
        with bigsite_engine.begin() as connection:
            connection.execute(sa.text(f"DROP OWNED BY {user}"))
            connection.execute(sa.text(f"DROP ROLE {user}"))
