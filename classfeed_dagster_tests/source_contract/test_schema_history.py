"""History of schemas: the stored schemas and the reported changes."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
import sqlalchemy as sa

from classfeed_dagster.source_contract.live_schema import live_schema
from classfeed_dagster.source_contract.schema import Schema, SchemaUnreadableError
from classfeed_dagster.source_contract.schema_history import (
    NoSchemaKeptError,
    SchemaChange,
    changes_between,
    days_kept,
    digest_of,
    keep_schema,
    schema_diff,
    schema_on,
)
from classfeed_dagster.store import ObjectStore

MONDAY, TUESDAY, FRIDAY = dt.date(2026, 3, 2), dt.date(2026, 3, 3), dt.date(2026, 3, 6)


def after(engine: sa.Engine, ddl: str) -> Schema:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL search_path TO bigsite; {ddl}")
    return live_schema(engine)


@pytest.fixture
def schema_before(changing_bigsite: sa.Engine) -> Schema:
    return live_schema(changing_bigsite)


def test_schema_of_a_day_is_the_last_one_recorded(
    store: ObjectStore, changing_bigsite: sa.Engine, schema_before: Schema
) -> None:
    key = keep_schema(store, MONDAY, schema_before)
    assert key == f"schemas/2026-03-02/{digest_of(schema_before)}.json"
    changed = after(changing_bigsite, "ALTER TABLE trade ADD venue text")
    keep_schema(store, FRIDAY, changed)
    assert days_kept(store) == (MONDAY, FRIDAY)
    assert schema_on(store, MONDAY) == (MONDAY, schema_before)
    assert schema_on(store, TUESDAY) == (MONDAY, schema_before)
    assert schema_on(store, FRIDAY) == (FRIDAY, changed)


def test_schema_of_a_day_with_two_states_is_the_last(
    local_store: ObjectStore, changing_bigsite: sa.Engine, schema_before: Schema
) -> None:
    changed = after(changing_bigsite, "ALTER TABLE trade ADD venue text")
    for schema in (schema_before, changed, schema_before):
        keep_schema(local_store, MONDAY, schema)
    assert schema_on(local_store, MONDAY) == (MONDAY, schema_before)
    assert len(list(local_store.list("schemas/2026-03-02/"))) == 3  # two schemas and the pointer


def test_schema_before_the_first_day_is_absent(local_store: ObjectStore, schema_before: Schema) -> None:
    with pytest.raises(NoSchemaKeptError, match="on or before 2026-03-02"):
        schema_on(local_store, MONDAY)
    keep_schema(local_store, TUESDAY, schema_before)
    with pytest.raises(NoSchemaKeptError, match="choose a later day"):
        schema_diff(local_store, MONDAY, TUESDAY)


@pytest.mark.parametrize("pointer", [b"", b"[]", b"{}"])
def test_damaged_pointer_is_refused(local_store: ObjectStore, schema_before: Schema, pointer: bytes) -> None:
    keep_schema(local_store, MONDAY, schema_before)
    local_store.put("schemas/2026-03-02/latest.json", pointer)
    with pytest.raises(SchemaUnreadableError, match="not a schema pointer"):
        schema_on(local_store, MONDAY)


def test_changed_object_is_refused(local_store: ObjectStore, schema_before: Schema) -> None:
    key = keep_schema(local_store, MONDAY, schema_before)
    local_store.put(key, replace(schema_before, dialect="other").to_json())
    with pytest.raises(SchemaUnreadableError, match="its digest differs"):
        schema_on(local_store, MONDAY)
    local_store.put(key, b'{"dialect": 1}')
    with pytest.raises(SchemaUnreadableError, match="damaged"):
        schema_on(local_store, MONDAY)


def test_diff_of_two_days_is_readable(
    local_store: ObjectStore, changing_bigsite: sa.Engine, schema_before: Schema
) -> None:
    keep_schema(local_store, MONDAY, schema_before)
    changed = after(
        changing_bigsite,
        "ALTER TABLE trade ALTER gst TYPE numeric(18,4); ALTER TABLE trade RENAME brokerage TO commission; "
        "ALTER TABLE portfolio ADD nickname text; ALTER TABLE member DROP email; DROP INDEX trade_recorded; "
        "CREATE INDEX half ON trade (recorded_at) WHERE side = 'BUY'",
    )
    keep_schema(local_store, FRIDAY, changed)
    diff = schema_diff(local_store, FRIDAY, MONDAY)  # in either order
    assert diff.to_markdown() == (
        "bigsite's schema, 2026-03-02 to 2026-03-06: 5 changes.\n\n"
        "| where | what | was | is |\n"
        "| --- | --- | --- | --- |\n"
        "| member.email | removed column | VARCHAR(254) |  |\n"
        "| portfolio.nickname | added column |  | TEXT nullable |\n"
        "| trade.commission | renamed column | brokerage | commission |\n"
        "| trade.gst | type | NUMERIC(18,2) | NUMERIC(18,4) |\n"
        "| trade | indexes | trade_recorded (recorded_at) | half (recorded_at) where ((side)::text = 'BUY'::text) |\n"
    )
    assert schema_diff(local_store, FRIDAY, FRIDAY).to_markdown().endswith("no change.\n")


CHANGES = {
    "ALTER TABLE trade ALTER currency SET DEFAULT 'AUD'": ("trade.currency", "default", "", "'AUD'::bpchar"),
    "COMMENT ON COLUMN trade.gst IS 'a | b'": ("trade.gst", "comment", "", "a | b"),
    "COMMENT ON TABLE trade IS 'notes'": ("trade", "comment", "", "notes"),
    'ALTER TABLE security ALTER name TYPE varchar(200) COLLATE "C"': ("security.name", "collation", "", "C"),
    "ALTER TABLE trade ALTER gst DROP NOT NULL": ("trade.gst", "nullable", "no", "yes"),
    "ALTER TABLE trade DROP CONSTRAINT side_known": ("trade.side", "values", "BUY, SELL", ""),
    "ALTER TABLE trade DROP CONSTRAINT side_known, ADD CHECK (side IN ('BUY', 'SHORT'))": (
        "trade.side",
        "values",
        "SELL",
        "SHORT",
    ),
    "ALTER TABLE fx_rate DROP CONSTRAINT fx_rate_pkey": (
        "fx_rate",
        "primary key",
        "from_currency, to_currency, rate_date",
        "",
    ),
    "ALTER TABLE security ADD UNIQUE (exchange, code)": ("security", "unique", "", "(exchange, code)"),
    "ALTER TABLE trade DROP CONSTRAINT trade_security_id_fkey": (
        "trade",
        "foreign keys",
        "(security_id) to security (security_id)",
        "",
    ),
    "ALTER TABLE trade ADD CHECK (price >= 0)": ("trade", "checks", "", "price >= 0"),
    "ALTER TABLE trade ADD venue text NOT NULL": ("trade.venue", "added column", "", "TEXT"),
    "CREATE TABLE loan (loan_id int PRIMARY KEY, rate numeric(9,6))": (
        "loan",
        "added table",
        "",
        "loan_id INTEGER, rate NUMERIC(9,6)",
    ),
    "DROP TABLE security_price": (
        "security_price",
        "removed table",
        "security_id BIGINT, price_date DATE, close_price NUMERIC(18,6), updated_at TIMESTAMPTZ",
        "",
    ),
    "CREATE VIEW numbers AS SELECT portfolio_number FROM portfolio": (
        "numbers",
        "added view",
        "",
        "portfolio_number VARCHAR(12)",
    ),
    "ALTER TABLE income RENAME TO distribution": ("distribution", "renamed table", "income", "distribution"),
}


@pytest.mark.parametrize(("ddl", "difference"), CHANGES.items())
def test_schema_diff_states_every_reflected_fact(
    changing_bigsite: sa.Engine, schema_before: Schema, ddl: str, difference: tuple[str, str, str, str]
) -> None:
    assert changes_between(schema_before, after(changing_bigsite, ddl)) == (SchemaChange(*difference),)


def test_views_query_is_part_of_the_history(changing_bigsite: sa.Engine) -> None:
    first = after(changing_bigsite, "CREATE VIEW v AS SELECT units FROM trade")
    [change] = changes_between(
        first, after(changing_bigsite, "CREATE OR REPLACE VIEW v AS SELECT units FROM trade WHERE units > 0")
    )
    assert (change.subject, change.what) == ("v", "definition")


def test_cell_cannot_break_its_table(
    local_store: ObjectStore, changing_bigsite: sa.Engine, schema_before: Schema
) -> None:
    keep_schema(local_store, MONDAY, schema_before)
    keep_schema(local_store, TUESDAY, after(changing_bigsite, "COMMENT ON TABLE trade IS E'a | b\n<script>'"))
    text = schema_diff(local_store, MONDAY, TUESDAY).to_markdown()
    assert "1 change.\n" in text
    assert "| trade | comment |  | a \\| b &lt;script> |\n" in text
