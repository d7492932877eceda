"""Drift on a real PostgreSQL: DDL of every kind applied to bigsite, and the check's result."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.source_contract.contract import load_contract
from classfeed_dagster.source_contract.drift import DriftKind, SchemaDifference, Severity, compare
from classfeed_dagster.source_contract.schema import Schema, SchemaColumn, SchemaTable
from classfeed_dagster.source_contract.schema_check import (
    SchemaDriftError,
    SchemaVerdict,
    check_schema,
    require_schema,
)
from classfeed_dagster_tests.fixtures.examples import examples

B, W, N = Severity.BLOCKING, Severity.WARNING, Severity.NOTE
Change = Callable[[str], SchemaVerdict]


@pytest.fixture
def after(changing_bigsite: sa.Engine) -> Change:
    """Return the check's differences after some DDL."""

    def apply(ddl: str) -> SchemaVerdict:
        with changing_bigsite.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL search_path TO bigsite; {ddl}")
        return check_schema(changing_bigsite, column_exports())

    return apply


def changes_in(verdict: SchemaVerdict) -> list[tuple[Severity, DriftKind, str]]:
    return [(difference.severity, difference.kind, difference.subject) for difference in verdict.differences]


def test_unchanged_database_has_no_difference(changing_bigsite: sa.Engine) -> None:
    verdict = check_schema(changing_bigsite, column_exports())
    assert verdict.differences == ()
    assert verdict.severity is None
    assert verdict.blocking == ()
    require_schema(changing_bigsite, column_exports())
    assert verdict.to_markdown() == "bigsite's schema matches contract 1.0.0.\n"


NOTES = {
    "CREATE TABLE margin_loan (loan_id bigint PRIMARY KEY, rate numeric(9,6))": [
        (N, DriftKind.ADDED_TABLE, "margin_loan")
    ],
    "CREATE VIEW active AS SELECT * FROM portfolio": [(N, DriftKind.ADDED_TABLE, "active")],
    "CREATE TABLE copied (LIKE trade) PARTITION BY RANGE (trade_date); "
    "CREATE TABLE copied_1 PARTITION OF copied FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')": [
        (N, DriftKind.ADDED_TABLE, "copied")
    ],
    "ALTER TABLE trade ADD venue varchar(4) NOT NULL DEFAULT 'ASX'": [(N, DriftKind.ADDED_COLUMN, "trade.venue")],
    "ALTER TABLE portfolio ALTER hin SET NOT NULL": [(N, DriftKind.NO_LONGER_NULLABLE, "portfolio.hin")],
    "ALTER TABLE trade ADD CHECK (price >= 0)": [(N, DriftKind.ADDED_RULE, "trade")],
    "ALTER TABLE trade ADD CHECK (currency IN ('AUD', 'USD'))": [(N, DriftKind.ADDED_RULE, "trade.currency")],
    "ALTER TABLE security ADD UNIQUE (exchange, code)": [(N, DriftKind.ADDED_RULE, "security (exchange, code)")],
    "ALTER TABLE security_price ADD FOREIGN KEY (security_id, price_date) REFERENCES security_price": [
        (N, DriftKind.ADDED_RULE, "security_price (security_id, price_date)")
    ],
    "DROP INDEX security_code": [(N, DriftKind.LOST_INDEX, "security (exchange, code)")],  # not used by the extraction
    "ALTER TABLE member DROP email": [(N, DriftKind.REMOVED_COLUMN, "member.email")],  # nothing reads it
    "DROP TABLE fx_rate": [(N, DriftKind.REMOVED_TABLE, "fx_rate")],
    "ALTER TABLE security ALTER listed_on TYPE timestamptz": [(N, DriftKind.RETYPED, "security.listed_on")],
}
NOTHING = [
    "CREATE INDEX by_day ON trade (trade_date)",
    "ALTER INDEX trade_recorded RENAME TO trade_recorded_at",
    "DROP INDEX trade_recorded; CREATE INDEX wider ON trade (recorded_at, portfolio_id)",
    "ALTER TABLE trade ALTER currency SET DEFAULT 'AUD'",
    "COMMENT ON COLUMN trade.gst IS 'in dollars'; COMMENT ON TABLE trade IS 'contract notes'",
    'ALTER TABLE portfolio ALTER portfolio_name TYPE varchar(200) COLLATE "C"',
    "ALTER TABLE trade RENAME CONSTRAINT trade_pkey TO trade_key",
    "ALTER TABLE trade DROP CONSTRAINT side_known, ADD CHECK (side = ANY ('{BUY,SELL}'::varchar[]))",
]
WARNINGS = {
    "ALTER TABLE portfolio ALTER portfolio_name TYPE varchar(400)": [
        (W, DriftKind.WIDENED, "portfolio.portfolio_name")
    ],
    "ALTER TABLE portfolio ALTER portfolio_name TYPE text": [(W, DriftKind.WIDENED, "portfolio.portfolio_name")],
    "ALTER TABLE trade ALTER gst TYPE numeric(20,4)": [(W, DriftKind.WIDENED, "trade.gst")],
    "ALTER TABLE trade ALTER gst TYPE numeric": [(W, DriftKind.WIDENED, "trade.gst")],
    "ALTER TABLE cash_account ALTER bsb TYPE varchar(8)": [(W, DriftKind.WIDENED, "cash_account.bsb")],
    "ALTER TABLE cash_transaction DROP CONSTRAINT transaction_type_known, ADD CHECK (transaction_type IN "
    "('DEPOSIT','WITHDRAWAL','SETTLEMENT','INCOME','INTEREST','FEE','TAX','TRANSFER','BPAY'))": [
        (W, DriftKind.NEW_VALUE, "cash_transaction.transaction_type")
    ],
    "ALTER TABLE income DROP CONSTRAINT income_type_known, "
    "ADD CHECK (income_type = 'DIVIDEND' OR income_type = 'DISTRIBUTION')": [
        (W, DriftKind.VALUE_GONE, "income.income_type")
    ],
    "ALTER TABLE trade DROP CONSTRAINT side_known, ADD CHECK (side = ANY ('{BUY,SELL,SWAP}'::text[]))": [
        (W, DriftKind.NEW_VALUE, "trade.side")
    ],
    "ALTER TABLE trade DROP CONSTRAINT side_known": [(W, DriftKind.VALUES_OPEN, "trade.side")],
    "ALTER TABLE security_price DROP CONSTRAINT security_price_close_price_check": [
        (W, DriftKind.LOST_RULE, "security_price")
    ],
    "ALTER TABLE trade DROP CONSTRAINT side_known, ADD CHECK (side IN ('BUY', 'SELL')) NOT VALID": [
        (N, DriftKind.ADDED_RULE, "trade"),
        (W, DriftKind.VALUES_OPEN, "trade.side"),
    ],
}
BLOCKING = {
    "ALTER TABLE trade DROP cash_account_id": [(B, DriftKind.REMOVED_COLUMN, "trade.cash_account_id")],
    "ALTER TABLE trade DROP gst": [(B, DriftKind.REMOVED_COLUMN, "trade.gst")],
    "ALTER TABLE portfolio DROP portfolio_number": [(B, DriftKind.REMOVED_COLUMN, "portfolio.portfolio_number")],
    "ALTER TABLE security DROP security_id CASCADE": [(B, DriftKind.REMOVED_COLUMN, "security.security_id")],
    "ALTER TABLE security_price DROP close_price": [(B, DriftKind.REMOVED_COLUMN, "security_price.close_price")],
    "DROP TABLE income CASCADE": [(B, DriftKind.REMOVED_TABLE, "income")],
    "ALTER TABLE trade ALTER gst TYPE numeric(18,1)": [(B, DriftKind.NARROWED, "trade.gst")],
    "ALTER TABLE trade ALTER units TYPE numeric(18,6)": [(B, DriftKind.NARROWED, "trade.units")],
    "ALTER TABLE trade ALTER units TYPE numeric(20,8)": [
        (B, DriftKind.NARROWED, "trade.units")
    ],  # digits lost on the left
    "ALTER TABLE portfolio ALTER portfolio_name TYPE varchar(100)": [
        (B, DriftKind.NARROWED, "portfolio.portfolio_name")
    ],
    "ALTER TABLE trade ALTER recorded_at TYPE timestamptz(0)": [(B, DriftKind.NARROWED, "trade.recorded_at")],
    "ALTER TABLE income DROP CONSTRAINT income_portfolio_id_fkey; ALTER TABLE income ALTER portfolio_id TYPE int": [
        (B, DriftKind.LOST_FOREIGN_KEY, "income.portfolio_id"),
        (B, DriftKind.NARROWED, "income.portfolio_id"),
    ],
    "ALTER TABLE trade ALTER gst TYPE float8": [(B, DriftKind.RETYPED, "trade.gst")],
    "ALTER TABLE trade ALTER trade_date TYPE timestamptz": [(B, DriftKind.RETYPED, "trade.trade_date")],
    "ALTER TABLE trade ALTER recorded_at TYPE timestamp": [(B, DriftKind.RETYPED, "trade.recorded_at")],
    "ALTER TABLE security ALTER name TYPE varchar(200)[] USING ARRAY[name]": [(B, DriftKind.RETYPED, "security.name")],
    "ALTER TABLE cash_account ALTER account_number TYPE char(12)": [
        (B, DriftKind.RETYPED, "cash_account.account_number")
    ],
    "ALTER TABLE trade ALTER gst DROP NOT NULL": [(B, DriftKind.NEWLY_NULLABLE, "trade.gst")],
    "ALTER TABLE holding_eod DROP CONSTRAINT holding_eod_pkey": [(B, DriftKind.LOST_PRIMARY_KEY, "holding_eod")],
    "ALTER TABLE holding_eod DROP CONSTRAINT holding_eod_pkey, "
    "ADD PRIMARY KEY (as_at_date, portfolio_id, security_id, updated_at)": [
        (B, DriftKind.LOST_PRIMARY_KEY, "holding_eod")
    ],
    "ALTER TABLE portfolio DROP CONSTRAINT portfolio_portfolio_number_key": [
        (B, DriftKind.LOST_UNIQUENESS, "portfolio.portfolio_number")
    ],
    "ALTER TABLE portfolio DROP CONSTRAINT portfolio_portfolio_number_key; "
    "CREATE UNIQUE INDEX open_only ON portfolio (portfolio_number) WHERE closed_on IS NULL": [
        (B, DriftKind.LOST_UNIQUENESS, "portfolio.portfolio_number")
    ],
    "ALTER TABLE trade DROP CONSTRAINT trade_security_id_fkey": [(B, DriftKind.LOST_FOREIGN_KEY, "trade.security_id")],
    "ALTER TABLE trade DROP CONSTRAINT trade_security_id_fkey, "
    "ADD FOREIGN KEY (security_id) REFERENCES security NOT VALID": [
        (B, DriftKind.LOST_FOREIGN_KEY, "trade.security_id")
    ],
    "DROP INDEX cash_transaction_recorded": [(B, DriftKind.LOST_INDEX, "cash_transaction (recorded_at)")],
    "DROP INDEX trade_recorded; CREATE INDEX trade_recorded ON trade (recorded_at) WHERE side = 'BUY'": [
        (B, DriftKind.LOST_INDEX, "trade (recorded_at)")
    ],
    "DROP INDEX trade_recorded; CREATE INDEX trade_recorded ON trade USING brin (recorded_at)": [
        (B, DriftKind.LOST_INDEX, "trade (recorded_at)")
    ],
    "DROP INDEX trade_portfolio; CREATE INDEX trade_portfolio ON trade (recorded_at, portfolio_id)": [
        (B, DriftKind.LOST_INDEX, "trade (portfolio_id, recorded_at)")
    ],
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'trade_recorded'::regclass": [
        (B, DriftKind.LOST_INDEX, "trade (recorded_at)")
    ],
    "ALTER TABLE trade RENAME gst TO gst_amount": [(B, DriftKind.RENAMED_COLUMN, "trade.gst")],
    "ALTER TABLE trade RENAME brokerage TO commission": [
        (B, DriftKind.RENAMED_COLUMN, "trade.brokerage")
    ],  # by its position
    "ALTER TABLE trade DROP gst, ADD gst_amount numeric(18,2) NOT NULL": [(B, DriftKind.RENAMED_COLUMN, "trade.gst")],
    "ALTER TABLE trade RENAME gst TO gst_cents; ALTER TABLE trade ALTER gst_cents TYPE numeric(18,4)": [
        (B, DriftKind.NARROWED, "trade.gst"),
        (B, DriftKind.RENAMED_COLUMN, "trade.gst"),
    ],
    "ALTER TABLE portfolio RENAME portfolio_id TO account_id": [
        (B, DriftKind.RENAMED_COLUMN, "portfolio.portfolio_id")
    ],
    "ALTER TABLE security_price RENAME close_price TO last_price": [
        (B, DriftKind.RENAMED_COLUMN, "security_price.close_price")
    ],
    "ALTER TABLE income RENAME TO distribution": [(B, DriftKind.RENAMED_TABLE, "income")],
    "ALTER TABLE security RENAME TO instrument": [(B, DriftKind.RENAMED_TABLE, "security")],
    "ALTER TABLE security_code_change RENAME TO code_changes; "
    "CREATE VIEW security_code_change AS SELECT * FROM code_changes": [
        (N, DriftKind.ADDED_TABLE, "code_changes"),
        (B, DriftKind.REPLACED_BY_VIEW, "security_code_change"),
    ],
    "CREATE TYPE buy_or_sell AS ENUM ('BUY', 'SELL'); ALTER TABLE trade DROP CONSTRAINT side_known, "
    "ALTER side TYPE buy_or_sell USING side::buy_or_sell": [(B, DriftKind.RETYPED, "trade.side")],
}


@pytest.mark.parametrize(
    ("ddl", "expected"),
    [pytest.param(ddl, result, id=ddl[:60]) for ddl, result in (NOTES | WARNINGS | BLOCKING).items()],
)
def test_change_is_reported_once_with_its_severity(
    after: Change, ddl: str, expected: list[tuple[Severity, DriftKind, str]]
) -> None:
    verdict = after(ddl)
    assert sorted(changes_in(verdict), key=str) == sorted(expected, key=str)
    assert verdict.severity is max(severity for severity, _, _ in expected)
    assert bool(verdict.blocking) is (verdict.severity is B)
    for difference in verdict.differences:
        assert difference.message.startswith(f"{difference.subject}: {difference.kind.title}")
        assert difference.advice in difference.message
        assert bool(difference.affected) is ("Affects " in difference.message)
        assert difference.affected or difference.severity is N  # anything above a note names the affected exports


@pytest.mark.parametrize("ddl", NOTHING)
def test_change_that_no_reader_notices_is_no_difference(after: Change, ddl: str) -> None:
    assert changes_in(after(ddl)) == []


def test_blocking_change_states_place_effect_and_remedy(changing_bigsite: sa.Engine, after: Change) -> None:
    verdict = after("ALTER TABLE trade ALTER gst TYPE numeric(18,1); ALTER TABLE trade ADD venue text")
    with pytest.raises(SchemaDriftError) as stopped:
        require_schema(changing_bigsite, column_exports())
    message = str(stopped.value)
    assert "trade.gst: narrowed type (contract: NUMERIC(18,2); bigsite: NUMERIC(18,1))" in message
    assert "movement_transactions.gst (EPIDataResponse/MovementTransactions/MovementTransaction/Gst)" in message
    assert "movement_transactions.gst (class_trade.csv/D/gst)" in message
    assert "Have the team bigsite restore the type" in message
    assert "contract.yaml" in message
    assert "venue" not in message
    assert verdict.summary == "bigsite's schema differs from contract 1.0.0: 1 blocking, 1 note."


def test_drift_markdown_names_every_export_of_a_key(after: Change) -> None:
    verdict = after("ALTER TABLE cash_transaction DROP CONSTRAINT cash_transaction_pkey CASCADE")
    [lost] = verdict.blocking[:1]
    assert lost.kind is DriftKind.LOST_PRIMARY_KEY
    assert {export.column.partition(".")[0] for export in lost.affected} == {"movement_transactions"}
    assert {"class_cash.csv/D/amount", "EPIDataResponse/MovementTransactions/MovementTransaction/Amount"} <= {
        export.element for export in lost.affected
    }
    assert "and " in lost.message
    assert " more. " in lost.message
    text = verdict.to_markdown()
    assert text.count("\n- ") == sum(len(difference.affected) for difference in verdict.differences)
    assert "class\\_cash.csv/D/amount" in text


def test_drift_of_a_condition_column_has_the_weight_of_its_table(after: Change) -> None:
    [missing] = after("ALTER TABLE holding_eod DROP updated_at").differences
    assert {"investment_holdings.units", "investment_holdings.cost_base"} <= {item.column for item in missing.affected}


def test_key_has_the_lineage_of_its_table(after: Change) -> None:
    [missing] = after("ALTER TABLE cash_account DROP portfolio_id CASCADE").differences
    assert "cash_accounts.account_name" in {item.column for item in missing.affected}


def test_drift_of_a_selecting_column_is_named_without_an_element(after: Change) -> None:
    [lost] = after("ALTER TABLE data_sharing_consent DROP revoked_at").differences
    assert {export.column for export in lost.affected if export.element} == {"accounts.consent", "accounts.extract"}
    assert "consented_portfolios.change" in {export.column for export in lost.affected if not export.element}


def test_index_that_cannot_serve_is_named_with_its_reason(after: Change) -> None:
    [lost] = after("DROP INDEX trade_recorded; CREATE INDEX half ON trade (recorded_at) WHERE side = 'BUY'").differences
    assert "half where" in lost.message
    assert "trade_recorded" in lost.message


def test_database_domain_is_read_as_its_base_type(after: Change) -> None:
    verdict = after(
        "CREATE DOMAIN direction AS varchar(4) CHECK (VALUE IN ('BUY', 'SELL', 'SHORT')); "
        "ALTER TABLE trade DROP CONSTRAINT side_known, ALTER side TYPE direction"
    )
    assert changes_in(verdict) == [(W, DriftKind.NEW_VALUE, "trade.side")]


def insert_cash(connection: sa.Connection, key: int, kind: str | None, recorded_at: str) -> None:
    if key == 1:
        connection.exec_driver_sql(
            "INSERT INTO bigsite.portfolio "
            "VALUES (1, 'SW1', 'n', 'SMSF', NULL, NULL, 'ACTIVE', '2026-01-01', NULL, now());"
            "INSERT INTO bigsite.cash_account VALUES (1, 1, NULL, '1', 'n', 'AUD', 'ACTIVE', '2026-01-01', NULL, now())"
        )
    connection.exec_driver_sql(
        "INSERT INTO bigsite.cash_transaction VALUES (%s, 1, %s, '2026-01-01', 1, 'AUD', 'd', NULL, NULL, NULL, %s)",
        (key, kind, recorded_at),
    )


class TestValues:
    """Values in the rows that the mapping does not have."""

    @pytest.fixture
    def open_engine(self, changing_bigsite: sa.Engine) -> sa.Engine:
        with changing_bigsite.begin() as connection:
            connection.exec_driver_sql(
                "ALTER TABLE bigsite.cash_transaction DROP CONSTRAINT transaction_type_known, "
                "ALTER transaction_type DROP NOT NULL"
            )
            insert_cash(connection, 1, "DEPOSIT", "2026-01-01T00:00:00Z")
            insert_cash(connection, 2, "BPAY", "2026-01-02T00:00:00Z")
            insert_cash(connection, 3, "BPAY", "2026-01-03T00:00:00Z")
            insert_cash(connection, 4, "to J. Smith", "2026-01-03T00:00:00Z")
            insert_cash(connection, 5, None, "2026-01-03T00:00:00Z")
        return changing_bigsite

    @staticmethod
    def in_data(verdict: SchemaVerdict) -> list[SchemaDifference]:
        return [difference for difference in verdict.differences if difference.kind is DriftKind.VALUE_IN_DATA]

    def test_unknown_values_are_warned_of_with_rows_and_elements(self, open_engine: sa.Engine) -> None:
        [difference] = self.in_data(check_schema(open_engine, column_exports()))
        assert difference.severity is W
        assert difference.subject == "cash_transaction.transaction_type"
        assert difference.now == "BPAY in 2 rows, something that is no code in 1 row, null in 1 row"
        assert "TransactionType" in difference.message
        assert "held back" in difference.message

    def test_unknown_values_of_free_text_are_not_shown(self, open_engine: sa.Engine) -> None:
        assert "Smith" not in check_schema(open_engine, column_exports()).to_markdown()

    def test_unknown_values_of_a_ledger_are_queried_since_the_last_date(self, open_engine: sa.Engine) -> None:
        since = dt.datetime(2026, 1, 3, tzinfo=dt.UTC)
        [difference] = self.in_data(check_schema(open_engine, column_exports(), since=since))
        assert "BPAY in 1 row," in difference.now
        assert self.in_data(check_schema(open_engine, column_exports(), since=since + dt.timedelta(days=1))) == []

    def test_unknown_values_under_a_constraint_are_not_queried(
        self, changing_bigsite: sa.Engine, asked: list[str]
    ) -> None:
        check_schema(changing_bigsite, column_exports())
        assert asked
        assert not any("count(*)" in statement.lower() for statement in asked)

    def test_unknown_values_of_a_missing_column_are_not_queried(self, after: Change) -> None:
        verdict = after("ALTER TABLE trade DROP side; DROP TABLE income CASCADE")
        assert self.in_data(verdict) == []


def test_unknown_value_adopted_by_the_contract_is_no_difference(after: Change, changing_bigsite: sa.Engine) -> None:
    verdict = after("ALTER TABLE trade DROP CONSTRAINT side_known, ADD CHECK (side IN ('BUY', 'SELL', 'SHORT'))")
    assert changes_in(verdict) == [(W, DriftKind.NEW_VALUE, "trade.side")]
    contract = load_contract()
    trade = contract.schema.tables["trade"]
    columns = tuple(
        replace(column, values=("BUY", "SELL", "SHORT")) if column.name == "side" else column
        for column in trade.columns
    )
    adopted = replace(
        contract,
        schema=replace(contract.schema, tables={**contract.schema.tables, "trade": replace(trade, columns=columns)}),
    )
    assert check_schema(changing_bigsite, column_exports(), contract=adopted).differences == ()


names = st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8})?", fullmatch=True)
column_types = st.sampled_from(["BIGINT", "DATE", "TEXT", "VARCHAR(10)", "NUMERIC(18,2)", "TIMESTAMPTZ", "JSONB"])


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    tables = {}
    for name in draw(st.lists(names, unique=True, min_size=1, max_size=4)):
        columns = tuple(
            SchemaColumn(column, draw(column_types), draw(st.booleans()), position)
            for position, column in enumerate(draw(st.lists(names, unique=True, min_size=1, max_size=5)), start=1)
        )
        tables[name] = SchemaTable(name, columns, primary_key=(columns[0].name,))
    return Schema("contract", tables)


@examples(60)
@given(agreed=schemas(), live=schemas())
def test_difference_is_found_exactly_where_schemas_differ(agreed: Schema, live: Schema) -> None:
    contract = replace(load_contract(), schema=agreed)
    everything = {f"{table.name}.{column.name}" for table in agreed.tables.values() for column in table.columns}
    comparison = compare(contract, live, {}, everything)

    def facts(schema: Schema) -> object:
        return {
            name: (table.primary_key, {(column.name, column.type, column.nullable) for column in table.columns})
            for name, table in schema.tables.items()
        }

    assert bool(comparison) is (facts(agreed) != facts(live))
    assert not compare(contract, agreed, {}, everything)
    lost = [
        name
        for name, table in agreed.tables.items()
        if name not in live.tables or {c.name for c in table.columns} - {c.name for c in live.tables[name].columns}
    ]
    assert not lost or any(
        break_.severity is B for break_ in comparison
    )  # a loss in a column that is read is always noticed
    assert all(difference.severity is N for difference in compare(contract, live, {}, ()))
