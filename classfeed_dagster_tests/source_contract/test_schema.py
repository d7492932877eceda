"""Schema model: read from each engine, spelled alike, and stored as JSON without loss."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.source_contract.drift import DriftKind, Severity
from classfeed_dagster.source_contract.live_schema import live_schema, sort_checks
from classfeed_dagster.source_contract.schema import (
    ForeignKey,
    Index,
    Schema,
    SchemaColumn,
    SchemaTable,
    SchemaUnreadableError,
)
from classfeed_dagster.source_contract.schema_changes import TypeChange, family, type_change
from classfeed_dagster.source_contract.schema_check import check_schema
from classfeed_dagster_tests.fixtures.examples import examples

TYPES = {
    "bigint": "BIGINT",
    "int": "INTEGER",
    "smallint": "SMALLINT",
    "numeric(18,2)": "NUMERIC(18,2)",
    "decimal(5)": "NUMERIC(5,0)",
    "numeric": "NUMERIC",
    "double precision": "DOUBLE",
    "real": "REAL",
    "varchar(12)": "VARCHAR(12)",
    "varchar": "VARCHAR",
    "char(3)": "CHAR(3)",
    "text": "TEXT",
    "date": "DATE",
    "timestamptz": "TIMESTAMPTZ",
    "timestamptz(3)": "TIMESTAMPTZ(3)",
    "timestamp": "TIMESTAMP",
    "boolean": "BOOLEAN",
    "uuid": "UUID",
    "jsonb": "JSONB",
    "integer[]": "ARRAY",
    "mood": "ENUM",
    "amount": "NUMERIC(18,2)",
    "note": "VARCHAR(40)",
    "day": "DATE",
    "moment": "TIMESTAMPTZ(3)",
    "instant": "TIMESTAMPTZ",
    "local": "TIMESTAMP(3)",
    "price": "NUMERIC(18,2)",
    "remark": "VARCHAR(40)",
    "event": "TIMESTAMPTZ(3)",
    "oidvector": "NULL",  # unknown to the Inspector
}


@pytest.mark.filterwarnings("ignore:Did not recognize type:sqlalchemy.exc.SAWarning")
def test_type_has_one_spelling(changing_bigsite: sa.Engine) -> None:
    columns = ", ".join(f"c{at} {native}" for at, native in enumerate(TYPES))
    with changing_bigsite.begin() as connection:
        connection.exec_driver_sql(
            "SET LOCAL search_path TO bigsite; CREATE TYPE mood AS ENUM ('good', 'bad'); "
            "CREATE DOMAIN amount AS numeric(18,2) CHECK (VALUE > 0); "
            "CREATE DOMAIN note AS varchar(40); CREATE DOMAIN day AS date; "
            "CREATE DOMAIN moment AS timestamptz(3); CREATE DOMAIN instant AS timestamptz; "
            "CREATE DOMAIN local AS timestamp(3); CREATE DOMAIN price AS amount; CREATE DOMAIN remark AS note; "
            f"CREATE DOMAIN event AS moment; CREATE TABLE everything ({columns})"
        )
    result = live_schema(changing_bigsite).tables["everything"]
    assert [column.type for column in result.columns] == list(TYPES.values())
    values = {TYPES[native]: column.values for native, column in zip(TYPES, result.columns, strict=True)}
    assert values["ENUM"] == ("bad", "good")


def test_facts_that_the_inspector_lacks_come_from_the_catalogue(changing_bigsite: sa.Engine) -> None:
    with changing_bigsite.begin() as connection:
        connection.exec_driver_sql(
            "SET LOCAL search_path TO bigsite; "
            'CREATE TABLE t (a text COLLATE "C", b int GENERATED ALWAYS AS (1 + 1) STORED, '
            "c int DEFAULT 3) PARTITION BY RANGE (c); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (1) TO (2); "
            "CREATE INDEX i ON t ((c * 2), a); CREATE MATERIALIZED VIEW m AS SELECT 1 AS one; "
            "COMMENT ON COLUMN t.a IS 'x'"
        )
    tables = live_schema(changing_bigsite).tables
    a, b, c = tables["t"].columns
    assert (a.collation, a.comment) == ("C", "x")
    assert (b.default, c.default) == ("GENERATED ALWAYS AS (1 + 1)", "3")
    assert tables["t"].indexes == (Index(("(c * 2)", "a"), "i"),)
    assert "t_1" not in tables
    assert tables["m"].kind == "view"
    assert len(str(tables["m"].definition)) == 64


def test_database_without_the_schema_is_an_error(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with pytest.raises(SchemaUnreadableError, match="no schema bigsite: check that CLASSFEED_BIGSITE_URL"):
        live_schema(engine)
    engine.dispose()


def test_schema_reading_writes_nothing(changing_bigsite: sa.Engine, asked: list[str]) -> None:
    live_schema(changing_bigsite)
    assert asked
    assert all(statement.lstrip().upper().startswith(("SELECT", "WITH", "SHOW")) for statement in asked)


@pytest.mark.parametrize(
    ("check", "vocabularies", "others"),
    [
        ("side IN ('BUY', 'SELL')", {"side": ("BUY", "SELL")}, ()),
        ("(side)::text = ANY ((ARRAY['BUY'::character varying, 'SELL'::text])::text[])", {"side": ("BUY", "SELL")}, ()),
        ("side = 'SELL' OR side = 'BUY' OR side IS NULL", {"side": ("BUY", "SELL")}, ()),
        ("`side` in (_utf8mb4'BUY',_utf8mb4'SELL')", {"side": ("BUY", "SELL")}, ()),
        ("name IN ('O''Brien')", {"name": ("O'Brien",)}, ()),
        ("side <> 'BUY'", {}, ("side <> 'BUY'",)),
        ("side = name", {}, ("side = name",)),
        ("side = 'BUY' OR name = 'x'", {}, ("side = 'BUY' OR name = 'x'",)),
        ("length(side) = 'x'", {}, ("length side = 'x'",)),
        ("(price >= (0)::numeric)", {}, ("price >= 0",)),
        ("side ~ '^[A-Z]+$'", {}, ("side ~ '^[A-Z]+$'",)),
    ],
)
def test_vocabularies_are_distinguished_from_other_checks(
    check: str, vocabularies: dict[str, tuple[str, ...]], others: tuple[str, ...]
) -> None:
    assert sort_checks([check], ["side", "name", "price"]) == (vocabularies, others)


def test_two_vocabularies_of_a_column_allow_what_both_allow() -> None:
    assert sort_checks(["side IN ('A', 'B')", "side IN ('B', 'C')"], ["side"])[0] == {"side": ("B",)}


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("VARCHAR(10)", "VARCHAR(10)", TypeChange.SAME),
        ("VARCHAR(10)", "VARCHAR", TypeChange.WIDENED),
        ("VARCHAR", "TEXT", TypeChange.SAME),
        ("TEXT", "VARCHAR(10)", TypeChange.NARROWED),
        ("CHAR(3)", "VARCHAR(3)", TypeChange.WIDENED),
        ("CHAR(3)", "VARCHAR(2)", TypeChange.NARROWED),
        ("CHAR", "CHAR(1)", TypeChange.SAME),
        ("VARCHAR(3)", "CHAR(3)", TypeChange.RETYPED),
        ("INTEGER", "BIGINT", TypeChange.WIDENED),
        ("BIGINT", "INTEGER", TypeChange.NARROWED),
        ("BIGINT", "NUMERIC(19,0)", TypeChange.RETYPED),
        ("NUMERIC(18,2)", "NUMERIC(20,4)", TypeChange.WIDENED),
        ("NUMERIC(18,2)", "NUMERIC(18,4)", TypeChange.NARROWED),
        ("NUMERIC(18,2)", "NUMERIC(19,1)", TypeChange.NARROWED),
        ("NUMERIC(18,2)", "NUMERIC", TypeChange.WIDENED),
        ("NUMERIC", "NUMERIC(18,2)", TypeChange.NARROWED),
        ("NUMERIC(18,2)", "DOUBLE", TypeChange.RETYPED),
        ("DOUBLE", "REAL", TypeChange.NARROWED),
        ("TIMESTAMPTZ", "TIMESTAMPTZ(6)", TypeChange.SAME),
        ("TIMESTAMPTZ", "TIMESTAMPTZ(0)", TypeChange.NARROWED),
        ("TIMESTAMPTZ", "TIMESTAMP", TypeChange.RETYPED),
        ("DATE", "TIMESTAMPTZ", TypeChange.RETYPED),
        ("odd-type", "DATE", TypeChange.RETYPED),
    ],
)
def test_type_change_is_named_by_its_effect_on_values(before: str, after: str, change: TypeChange) -> None:
    assert type_change(before, after) is change


@given(*(st.tuples(st.integers(1, 38), st.integers(0, 18)) for _ in range(2)))
def test_decimal_is_widened_exactly_when_its_extremes_still_fit(one: tuple[int, int], other: tuple[int, int]) -> None:
    change = type_change(f"NUMERIC({one[0] + one[1]},{one[1]})", f"NUMERIC({other[0] + other[1]},{other[1]})")
    fits = other[0] >= one[0] and other[1] >= one[1]
    assert (change in (TypeChange.SAME, TypeChange.WIDENED)) is fits


def test_text_of_every_kind_is_one_family() -> None:
    assert {family(spelling) for spelling in ("CHAR(3)", "VARCHAR(3)", "TEXT")} == {"text"}


texts = st.text(max_size=8)
several = st.lists(texts, max_size=3).map(tuple)
whole_columns = st.builds(
    SchemaColumn,
    texts,
    texts,
    st.booleans(),
    st.integers(1, 9),
    st.none() | several,
    texts,
    st.none() | texts,
    st.none() | texts,
    st.none() | texts,
)
whole_tables = st.builds(
    SchemaTable,
    texts,
    st.lists(whole_columns, max_size=3).map(tuple),
    several,
    st.lists(several, max_size=2).map(tuple),
    st.lists(st.builds(ForeignKey, several, texts, several), max_size=2).map(tuple),
    st.lists(st.builds(Index, several, texts, texts), max_size=2).map(tuple),
    several,
    st.sampled_from(["table", "view"]),
    st.none() | texts,
    st.none() | texts,
)


@examples(50)
@given(st.builds(Schema, texts, st.dictionaries(texts, whole_tables, max_size=3)))
def test_json_keeps_everything_and_is_canonical(schema: Schema) -> None:
    data = schema.to_json()
    assert Schema.from_json(data) == schema
    reordered = Schema(schema.dialect, dict(reversed(list(schema.tables.items()))))
    assert reordered.to_json() == data


@pytest.mark.parametrize("data", [b"", b"[]", b'{"dialect": "x", "tables": {"t": {}}}'])
def test_damaged_json_is_refused(data: bytes) -> None:
    with pytest.raises(SchemaUnreadableError, match="The stored schema is damaged in"):
        Schema.from_json(data)


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """Run a MariaDB with bigsite's tables, if MariaDB is installed."""
    pytest.importorskip("pymysql")
    install, server = shutil.which("mariadb-install-db"), shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    if install is None or server is None:
        pytest.skip("MariaDB isn't installed on this machine")
    folder = tmp_path_factory.mktemp("mariadb")
    subprocess.run(
        [install, "--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal"],
        check=True,
        capture_output=True,
    )
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(
            [
                server,
                "--no-defaults",
                f"--datadir={folder}/data",
                f"--socket={folder}/s",
                "--skip-networking",
                f"--pid-file={folder}/pid",
                "--user=root",
            ],
            stdout=log,
            stderr=log,
        )
    engine = sa.create_engine(f"mysql+pymysql://root@localhost/?unix_socket={folder}/s")
    try:
        for _ in range(600):  # a refused connection would leak its socket: wait for the server to open its own
            if (folder / "s").exists():
                break
            time.sleep(0.05)
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(SCHEMA))
        with engine.begin() as connection:
            metadata.create_all(connection)
        yield engine
    finally:
        engine.dispose()
        running.terminate()
        running.wait()


def test_mariadb_is_read_alike(mariadb: sa.Engine) -> None:
    assert check_schema(mariadb, column_exports()).differences == ()
    with mariadb.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE bigsite.trade RENAME COLUMN gst TO gst_amount, MODIFY units decimal(18,6) NOT NULL, "
            "DROP INDEX trade_recorded, MODIFY trade_date date NULL, DROP CONSTRAINT side_known"
        )
        connection.exec_driver_sql("ALTER TABLE bigsite.security_price MODIFY close_price decimal(18,6) NOT NULL")
    verdict = check_schema(mariadb, column_exports())
    assert {(difference.severity, difference.kind, difference.subject) for difference in verdict.differences} == {
        (Severity.BLOCKING, DriftKind.RENAMED_COLUMN, "trade.gst"),
        (Severity.BLOCKING, DriftKind.NARROWED, "trade.units"),
        (Severity.BLOCKING, DriftKind.NEWLY_NULLABLE, "trade.trade_date"),
        (Severity.BLOCKING, DriftKind.LOST_INDEX, "trade (recorded_at)"),
        (Severity.WARNING, DriftKind.VALUES_OPEN, "trade.side"),
        (Severity.WARNING, DriftKind.LOST_RULE, "security_price"),
    }
