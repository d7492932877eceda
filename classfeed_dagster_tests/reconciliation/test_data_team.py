"""The data team's metrics against ours: every way in which they can disagree, each its own kind of break."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from classfeed_dagster.delivery.manifest import HeldBack
from classfeed_dagster.reconciliation import data_team
from classfeed_dagster.reconciliation.data_team import HELD_BACK, INCOMPLETE, reconcile_data_team
from classfeed_dagster.reconciliation.result import Reconciliation
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster.trading_days import cutoff
from classfeed_dagster.warehouse.breaks import save_breaks, stored_breaks
from classfeed_dagster.warehouse.database import execute, literal
from classfeed_dagster.warehouse.records import BreakCause, BreakKind, BreakSeverity, Side
from classfeed_dagster_tests.fixtures import reconciliation_world as w

CONTRACT = """CREATE TABLE CLASS_FEED_METRICS (BUSINESS_DATE DATE NOT NULL, RECIPIENT VARCHAR(20) NOT NULL,
    PORTFOLIO_NUMBER VARCHAR(12) NOT NULL, METRIC VARCHAR(30) NOT NULL, CURRENCY CHAR(3), VALUE NUMBER(38,6) NOT NULL,
    COMPUTED_AT TIMESTAMP_TZ NOT NULL)"""
COMPUTED = w.SNAPSHOT_AT + dt.timedelta(hours=2)
NOW = w.SNAPSHOT_AT + dt.timedelta(hours=6)
Metrics = dict[tuple[str, str, str | None], Decimal]


def their_metrics(world: w.World) -> Metrics:
    """Return the metrics by the contract's definitions, from bigsite's rows."""
    result: Metrics = defaultdict(Decimal)
    numbers = {row["portfolio_id"]: row["portfolio_number"] for row in world.rows["portfolio"]}
    consented = {number for number, scope in world.scope().items() if scope["consent"] != "REMOVED"}
    accounts = {row["cash_account_id"]: row for row in world.rows["cash_account"]}

    def window(row: w.Row) -> bool:
        return bool(cutoff(w.BEFORE) <= row["recorded_at"] < cutoff(w.DAY))

    for account in accounts.values():
        result[numbers[account["portfolio_id"]], "CASH_ACCOUNTS", None] += 1
    for row in world.rows["cash_balance_eod"]:
        account = accounts[row["cash_account_id"]]
        result[numbers[account["portfolio_id"]], "LEDGER_BALANCE", account["currency"]] += row["ledger_balance"]
    frames = world.frames()
    for row in frames["investment_holdings"].iter_rows(named=True):
        result[row["portfolio_number"], "HOLDINGS", None] += row["units"] != 0
        result[row["portfolio_number"], "UNITS_HELD", None] += row["units"]
        result[row["portfolio_number"], "MARKET_VALUE", row["currency"]] += row["market_value"]
    for table, units in (("trade", w.signed), ("security_movement", lambda row: row["units_change"]), ("income", None)):
        for row in filter(window, world.rows[table]):
            number = numbers[row["portfolio_id"]]
            result[number, "MOVEMENTS", None] += 1
            if units:
                result[number, "UNITS_MOVED", None] += units(row)
            if table == "trade":
                result[number, "TRADED", row["currency"]] += row["net_amount"]
    for row in filter(window, world.rows["cash_transaction"]):
        number = numbers[accounts[row["cash_account_id"]]["portfolio_id"]]
        result[number, "MOVEMENTS", None] += 1
        result[number, "CASH_MOVED", row["currency"]] += row["amount"]
    return {key: value for key, value in result.items() if key[0] in consented and value}


@pytest.fixture(scope="module")
def metrics_table(warehouse_server: dict[str, Any]) -> Any:
    import snowflake.connector

    from classfeed_dagster.warehouse.schema import apply_schema

    connection = snowflake.connector.connect(**{**warehouse_server, "schema": "DATA_TEAM"})
    apply_schema(connection)
    execute(connection, CONTRACT)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> tuple[w.World, ObjectStore]:
    """Return one delivery for the whole file, whose tests change only the data team's table."""
    from classfeed_dagster.bigsite.tables import SCHEMA, metadata

    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE data_team_test"))
    admin.dispose()
    engine = sa.create_engine(sa.make_url(postgres_url).set(database="data_team_test"))
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        metadata.create_all(connection)
    world = w.make_world(8)
    world.load(engine)
    store = open_store(str(tmp_path_factory.mktemp("store")))
    snapshot = w.land(engine, store)
    hold = HeldBack(number="SW000007", kind="RULE", reason="its units don't add up")
    w.deliver(store, world, world.frames(), snapshot, held_back=(hold,))
    engine.dispose()
    return world, store


class Team:
    def __init__(self, connection: Any, world: w.World, store: ObjectStore) -> None:
        self.connection, self.store = connection, store
        self.metrics = {key: value for key, value in their_metrics(world).items() if key[0] != "SW000007"}
        execute(connection, "DELETE FROM CLASS_FEED_METRICS")

    def publish(self, metrics: Metrics | None = None, at: dt.datetime = COMPUTED, day: dt.date = w.DAY) -> None:
        rows = ", ".join(
            f"({literal(day)}, 'CLASS', {literal(number)}, {literal(metric)}, {literal(currency)}, {value}, '{at:%Y-%m-%d %H:%M:%S} +00:00'::TIMESTAMP_TZ)"
            for (number, metric, currency), value in (self.metrics if metrics is None else metrics).items()
        )
        execute(self.connection, f"INSERT INTO CLASS_FEED_METRICS VALUES {rows}")

    def reconcile(self, **options: Any) -> Reconciliation:
        return reconcile_data_team(self.connection, self.store, w.FEED, w.DAY, "a1", at=NOW, **options)

    def only_break(self, **options: Any) -> Any:
        result = self.reconcile(**options)
        assert len(result.breaks) == 1, result.markdown(50)
        return result.breaks[0]


@pytest.fixture
def team(metrics_table: Any, delivered: tuple[w.World, ObjectStore]) -> Team:
    return Team(metrics_table, *delivered)


def test_data_team_metrics_that_agree_have_no_break(team: Team) -> None:
    team.publish()
    result = team.reconcile(due=COMPUTED)
    assert result.breaks == (), result.markdown(50)
    counted = {name: rows for name, rows in result.tallies[0].counts.items() if rows != (0, 0)}
    # Portfolios with an opening can't be separated for the window's metrics: left out, with the reason.
    assert set(counted) <= {"match", "excluded"}
    assert counted["match"][0] > 30


def test_data_team_zero_rows_are_optional(team: Team) -> None:
    team.publish(
        {**team.metrics, ("SW000001", "TRADED", "NZD"): Decimal(0), ("SW000001", "CASH_MOVED", "NZD"): Decimal(0)}
    )
    assert team.reconcile().breaks == ()


def test_data_team_wrong_metric_is_a_break(team: Team) -> None:
    key = ("SW000001", "MARKET_VALUE", "AUD")
    team.publish({**team.metrics, key: team.metrics[key] + Decimal("0.01")})
    break_ = team.only_break()
    assert (break_.kind, break_.record, break_.subject) == (BreakKind.VALUE_DIFFERS, "MARKET_VALUE", "AUD")
    assert break_.difference == Decimal("-0.01")
    off = {amount.metric: amount.difference for amount in team.reconcile().amounts if amount.difference}
    assert off == {"MARKET_VALUE": Decimal("-0.01")}
    assert break_.severity is BreakSeverity.WARNING
    assert break_.likeliest.cause is BreakCause.UNKNOWN


def test_data_team_difference_of_one_row_names_it(team: Team, delivered: tuple[w.World, ObjectStore]) -> None:
    trade = delivered[0].one("cash_transaction", cash_transaction_id=102)
    key = ("SW000001", "CASH_MOVED", "AUD")
    team.publish({**team.metrics, key: team.metrics[key] - trade["amount"]})
    assert "C102, which theirs may lack" in team.only_break().likeliest.evidence
    execute(team.connection, "DELETE FROM CLASS_FEED_METRICS")
    team.publish({**team.metrics, key: team.metrics[key] + trade["amount"]})
    assert "C102, which theirs may count twice" in team.only_break().likeliest.evidence


def test_data_team_metric_on_one_side_is_a_break(team: Team) -> None:
    metrics = dict(team.metrics)
    del metrics["SW000001", "UNITS_HELD", None]
    metrics["SW000001", "LEDGER_BALANCE", "USD"] = Decimal(7)
    team.publish(metrics)
    deviation = {break_.record: (break_.export_value, break_.other_value) for break_ in team.reconcile().breaks}
    assert deviation["LEDGER_BALANCE"] == ("0.000000", "7.000000")
    assert deviation["UNITS_HELD"][1] == "0.000000"


def test_data_team_metrics_computed_earlier_are_explained(team: Team) -> None:
    key = ("SW000001", "UNITS_HELD", None)
    team.publish({**team.metrics, key: Decimal(3)}, at=w.SNAPSHOT_AT - dt.timedelta(hours=1))
    assert team.only_break().likeliest.cause is BreakCause.DATA_TEAM_TIMING


def test_data_team_without_figures_for_a_recipient_says_so_once(team: Team) -> None:
    team.publish()
    execute(team.connection, "UPDATE CLASS_FEED_METRICS SET RECIPIENT = 'OTHER'")
    execute(team.connection, "DELETE FROM RECONCILIATION_BREAK")
    for _ in range(2):  # its own date states it however often it is reconciled
        break_ = team.only_break()
        assert (break_.kind, break_.severity) == (BreakKind.MISSING_DATE, BreakSeverity.EVENT)
        save_breaks(team.connection, w.FEED, Side.DATA_TEAM, w.DAY, [break_], at=NOW, attempt="a1")
    earlier = replace(break_, business_date=w.BEFORE)
    save_breaks(team.connection, w.FEED, Side.DATA_TEAM, w.BEFORE, [earlier], at=NOW, attempt="a3")
    later = team.reconcile()
    assert later.breaks == ()
    assert later.summary().endswith("there was nothing to compare, so nothing is proven")
    execute(team.connection, "DELETE FROM RECONCILIATION_BREAK")


def test_data_team_date_that_is_missing_is_read_when_it_arrives(team: Team) -> None:
    break_ = team.only_break()
    assert (break_.kind, break_.portfolio_number) == (BreakKind.MISSING_DATE, None)
    assert "nor for any other" in break_.likeliest.evidence
    save_breaks(team.connection, w.FEED, Side.DATA_TEAM, w.DAY, [break_], at=NOW, attempt="a1")
    team.publish(day=w.BEFORE)
    assert str(w.BEFORE) in team.only_break().likeliest.evidence
    team.publish()
    saved = save_breaks(team.connection, w.FEED, Side.DATA_TEAM, w.DAY, team.reconcile().breaks, at=NOW, attempt="a2")
    assert saved.resolved == 1
    assert stored_breaks(team.connection, only_open=True) == []


def test_data_team_date_that_arrived_late_is_an_event(team: Team) -> None:
    team.publish()
    break_ = team.only_break(due=COMPUTED - dt.timedelta(hours=1))
    assert (break_.kind, break_.severity) == (BreakKind.LATE_DATE, BreakSeverity.EVENT)
    assert team.reconcile(due=COMPUTED - dt.timedelta(hours=1)).clean


def test_data_team_metrics_computed_again_replace_earlier_ones(team: Team) -> None:
    team.publish({key: value + 1 for key, value in team.metrics.items()})
    team.publish(at=COMPUTED + dt.timedelta(hours=1))
    break_ = team.only_break()
    assert (break_.kind, break_.severity) == (BreakKind.RECOMPUTED_DATE, BreakSeverity.EVENT)


def test_data_team_metrics_of_some_portfolios_are_replaced(team: Team) -> None:
    wrong = ("SW000001", "UNITS_HELD", None)
    team.publish({**team.metrics, wrong: Decimal(3)})
    team.publish(
        {key: value for key, value in team.metrics.items() if key[0] == "SW000005"}, at=COMPUTED + dt.timedelta(hours=1)
    )
    deviation = next(break_ for break_ in team.reconcile().breaks if break_.kind is BreakKind.VALUE_DIFFERS)
    assert deviation.likeliest.cause is BreakCause.DATA_TEAM_TIMING


def test_data_team_portfolio_on_one_side_is_a_break(team: Team) -> None:
    metrics = {key: value for key, value in team.metrics.items() if key[0] != "SW000004"}
    for number in ("SW000003", "SW000007", "SW999999"):
        metrics[number, "CASH_ACCOUNTS", None] = Decimal(1)
    team.publish(metrics)
    deviation = {break_.portfolio_number: (break_.kind, break_.likeliest.cause) for break_ in team.reconcile().breaks}
    assert deviation == {
        "SW000003": (BreakKind.MISSING_IN_EXPORT, BreakCause.CONSENT_CHANGED),
        "SW000004": (BreakKind.EXTRA_IN_EXPORT, BreakCause.UNKNOWN),
        "SW000007": (BreakKind.MISSING_IN_EXPORT, BreakCause.QUARANTINE),
        "SW999999": (BreakKind.MISSING_IN_EXPORT, BreakCause.UNKNOWN),
    }
    assert len(team.reconcile().breaks) == 4


def test_data_team_held_back_portfolio_alone_needs_no_action(team: Team) -> None:
    team.publish({**team.metrics, ("SW000007", "CASH_ACCOUNTS", None): Decimal(1)})
    result = team.reconcile()
    assert [(break_.portfolio_number, break_.severity) for break_ in result.breaks] == [
        ("SW000007", BreakSeverity.EVENT)
    ]
    assert result.clean
    assert result.held_back == {"SW000007": "its units don't add up"}
    (tally,) = result.tallies
    assert tally.counts["missing_left"] == (0, 0)  # its metrics are accounted for as held back
    assert tally.excluded[HELD_BACK] == 1
    (accounts,) = (amount for amount in result.amounts if amount.metric == "CASH_ACCOUNTS")
    assert accounts.theirs - accounts.ours == accounts.known == Decimal(1)
    assert all(amount.difference == 0 for amount in result.amounts)


def test_data_team_figures_of_one_instant_have_one_outcome(team: Team) -> None:
    team.publish({key: value + 1 for key, value in team.metrics.items()})
    team.publish()
    evidence = [break_.likeliest.evidence for break_ in team.reconcile().breaks]
    assert len(evidence) == 1
    execute(team.connection, "DELETE FROM CLASS_FEED_METRICS")
    team.publish()
    team.publish({key: value + 1 for key, value in team.metrics.items()})
    assert [break_.likeliest.evidence for break_ in team.reconcile().breaks] == evidence


@pytest.fixture
def altered_table(metrics_table: Any) -> Iterator[Callable[[str], None]]:
    """Return a function that creates their table anew with other columns."""

    def create(contract: str) -> None:
        execute(metrics_table, "DROP TABLE CLASS_FEED_METRICS", contract)

    yield create
    create(CONTRACT)


@pytest.mark.parametrize("scale", ["NUMBER(38,8)", "NUMBER(38,2)", "FLOAT", "VARCHAR"])
def test_data_team_value_of_another_type_is_compared(
    team: Team, altered_table: Callable[[str], None], scale: str
) -> None:
    altered_table(CONTRACT.replace("NUMBER(38,6)", scale))
    wrong = ("SW000001", "LEDGER_BALANCE", "AUD")
    team.publish({**team.metrics, wrong: team.metrics[wrong] + Decimal("0.01")})
    assert team.only_break().difference == Decimal("-0.01")


def test_data_team_table_without_an_agreed_column_is_a_warning(
    team: Team, altered_table: Callable[[str], None]
) -> None:
    altered_table(CONTRACT.replace("VALUE NUMBER", "AMOUNT NUMBER"))
    team.publish()
    break_ = team.only_break()
    assert (break_.kind, break_.severity) == (BreakKind.MISSING_DATE, BreakSeverity.WARNING)
    assert break_.likeliest.evidence == "their table CLASS_FEED_METRICS lacks the agreed VALUE: ask the data team"


@pytest.mark.parametrize("column", ["COMPUTED_AT", "VALUE"])
@pytest.mark.parametrize("computed_twice", [False, True])
def test_data_team_row_with_a_null_leaves_out_its_own_metric(
    team: Team, altered_table: Callable[[str], None], column: str, computed_twice: bool
) -> None:
    altered_table(CONTRACT.replace(f"{column} {'NUMBER(38,6)' if column == 'VALUE' else 'TIMESTAMP_TZ'} NOT NULL",
                                   f"{column} {'NUMBER(38,6)' if column == 'VALUE' else 'TIMESTAMP_TZ'}"))  # fmt: skip
    wrong, null = ("SW000001", "LEDGER_BALANCE", "AUD"), ("SW000001", "HOLDINGS", None)
    team.publish({**team.metrics, wrong: team.metrics[wrong] + Decimal("0.01")})
    execute(
        team.connection,
        f"UPDATE CLASS_FEED_METRICS SET {column} = NULL WHERE PORTFOLIO_NUMBER = 'SW000001' AND METRIC = 'HOLDINGS'",
    )
    if computed_twice:
        team.publish({null: team.metrics[null]})
    result = team.reconcile()
    lasting = [entry for entry in result.breaks if entry.kind is not BreakKind.RECOMPUTED_DATE]
    assert (lasting != list(result.breaks)) == (
        computed_twice and column == "VALUE"
    )  # a row without an instant is none
    value, incomplete = sorted(lasting, key=lambda one: one.record, reverse=True)
    assert (value.record, value.difference) == ("LEDGER_BALANCE", Decimal("-0.01"))
    assert (incomplete.kind, incomplete.severity) == (BreakKind.UNREADABLE, BreakSeverity.WARNING)
    assert (incomplete.portfolio_number, incomplete.subject) == ("SW000001", "HOLDINGS")
    assert incomplete.likeliest.evidence == (
        f"a row of theirs has no {column}, so the latest figure is not known: ask the data team"
    )
    assert result.tallies[0].excluded[INCOMPLETE] == 2
    unexplained = {amount.metric: amount.difference for amount in result.amounts}
    assert {metric for metric, rest in unexplained.items() if rest} == {"LEDGER_BALANCE"}


def test_data_team_portfolio_without_any_instant_is_named_by_metric(
    team: Team, altered_table: Callable[[str], None]
) -> None:
    altered_table(CONTRACT.replace("TIMESTAMP_TZ NOT NULL", "TIMESTAMP_TZ"))
    team.publish()
    execute(team.connection, "UPDATE CLASS_FEED_METRICS SET COMPUTED_AT = NULL WHERE PORTFOLIO_NUMBER = 'SW000001'")
    result = team.reconcile()
    assert {(entry.kind, entry.portfolio_number) for entry in result.breaks} == {(BreakKind.UNREADABLE, "SW000001")}
    assert {entry.record for entry in result.breaks} == {key[1] for key in team.metrics if key[0] == "SW000001"}


def test_data_team_date_with_too_many_nulls_is_one_warning(
    team: Team, altered_table: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    altered_table(CONTRACT.replace("NUMBER(38,6) NOT NULL", "NUMBER(38,6)"))
    team.publish()
    execute(team.connection, "UPDATE CLASS_FEED_METRICS SET VALUE = NULL WHERE METRIC = 'HOLDINGS'")
    without_value = sum(key[1] == "HOLDINGS" for key in team.metrics)
    monkeypatch.setattr(data_team, "_MOST_INCOMPLETE", without_value)
    assert {entry.kind for entry in team.reconcile().breaks} == {BreakKind.UNREADABLE}
    monkeypatch.setattr(data_team, "_MOST_INCOMPLETE", without_value - 1)
    break_ = team.only_break()
    assert break_.kind is BreakKind.MISSING_DATE
    assert break_.likeliest.evidence == (
        f"more than {without_value - 1} metrics of their table CLASS_FEED_METRICS lack COMPUTED_AT or VALUE: "
        "ask the data team"
    )


@pytest.mark.parametrize("kind", ["DATE", "VARCHAR", "TIMESTAMP_TZ"])
def test_data_team_computation_without_an_instant_is_a_warning(
    team: Team, altered_table: Callable[[str], None], kind: str
) -> None:
    altered_table(CONTRACT.replace("TIMESTAMP_TZ NOT NULL", kind))
    team.publish()
    if kind == "TIMESTAMP_TZ":
        execute(team.connection, "UPDATE CLASS_FEED_METRICS SET COMPUTED_AT = NULL")
    break_ = team.only_break()
    assert (break_.kind, break_.severity) == (BreakKind.MISSING_DATE, BreakSeverity.WARNING)
    assert break_.likeliest.evidence == (
        "the COMPUTED_AT of their table CLASS_FEED_METRICS is not always an instant: ask the data team"
    )


def test_data_team_table_must_be_a_name(team: Team) -> None:
    with pytest.raises(ValueError, match="Invalid table name"):
        team.reconcile(table="X; DROP TABLE Y")
