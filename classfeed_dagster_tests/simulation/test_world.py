"""A world is the same for any writer and any steps, and is never written twice."""

from __future__ import annotations

import datetime as dt
import hashlib
import json

import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import metadata
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.simulation.day import Fault, Plan, PlantedFault
from classfeed_dagster.simulation.identifiers import ID_BASE, portfolio_number
from classfeed_dagster.simulation.world import PLANS, WorldError
from classfeed_dagster.trading_days import NotABusinessDayError
from classfeed_dagster_tests.fixtures.simulated_world import FIRST, days, small_world


def dump(engine: sa.Engine) -> dict[str, str]:
    """Return a digest of every table's rows, in order of their keys."""
    digests = {}
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            rows = connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all()
            digests[table.name] = hashlib.sha256(repr(rows).encode()).hexdigest()
    return digests


def test_catch_up_equals_day_by_day(bigsite_engine: sa.Engine, another_bigsite: sa.Engine) -> None:
    last = days(8)[-1]
    for day in days(8):  # a new process every day
        world = small_world()
        world.seed(bigsite_engine)
        assert world.advance(bigsite_engine, day).written
    ahead = small_world()
    ahead.books(days(11)[-1])  # this one has already been further
    ahead.seed(another_bigsite)
    summaries = ahead.catch_up(another_bigsite, last)
    assert [summary.day for summary in summaries] == days(8)
    assert dump(bigsite_engine) == dump(another_bigsite)


def test_day_run_again_adds_nothing(bigsite_engine: sa.Engine) -> None:
    world = small_world()
    world.seed(bigsite_engine)
    third = days(3)[-1]
    first_time = world.advance(bigsite_engine, third)
    before = dump(bigsite_engine)
    world.seed(bigsite_engine)
    again = world.advance(bigsite_engine, third)
    elsewhere = small_world()
    assert elsewhere.advance(bigsite_engine, days(1)[0]).written is False
    assert dump(bigsite_engine) == before
    assert (first_time.written, again.written) == (True, False)
    assert (again.day, again.counts, again.rows) == (third, first_time.counts, first_time.rows)


def test_world_ahead_in_memory_writes_each_day_once(bigsite_engine: sa.Engine, another_bigsite: sa.Engine) -> None:
    world = small_world()
    world.seed(bigsite_engine)
    world.seed(another_bigsite)
    world.advance(bigsite_engine, days(4)[-1])
    world.advance(another_bigsite, days(4)[-1])  # memory is after it, this database before it
    assert dump(bigsite_engine) == dump(another_bigsite)


def test_world_of_another_seed_is_not_mixed_in(bigsite_engine: sa.Engine) -> None:
    small_world().seed(bigsite_engine)
    other = small_world(31)
    with pytest.raises(
        WorldError, match=r"another world \(seed .* consented of .*and this one is seed 7, .* of 31 portfolios"
    ):
        other.seed(bigsite_engine)
    with pytest.raises(WorldError, match="another world"):
        other.advance(bigsite_engine, FIRST)


def test_unseeded_database_is_not_advanced(bigsite_engine: sa.Engine) -> None:
    assert WorldError.exit_code is ExitCode.USAGE  # another seed or size corrects it
    with pytest.raises(WorldError, match="seed it first"):
        small_world().advance(bigsite_engine, FIRST)


def test_further_customers_change_nothing_for_the_others(bigsite_engine: sa.Engine, another_bigsite: sa.Engine) -> None:
    for engine, portfolios in ((bigsite_engine, 27), (another_bigsite, 33)):
        world = small_world(portfolios, 24)
        world.seed(engine)
        world.advance(engine, days(5)[-1])

    def rows(engine: sa.Engine, table: str) -> list[sa.Row[tuple[object, ...]]]:
        with engine.connect() as connection:
            source = metadata.tables[f"bigsite.{table}"]
            mine = source.c.portfolio_id < ID_BASE + 27
            return list(connection.execute(sa.select(source).where(mine).order_by(*source.primary_key.columns)).all())

    for table in ("portfolio", "trade", "security_movement", "income", "holding_eod", "data_sharing_consent"):
        assert rows(bigsite_engine, table) == rows(another_bigsite, table), table
        assert rows(bigsite_engine, table), table


def test_planted_faults_remain_until_corrected(bigsite_engine: sa.Engine) -> None:
    planted, corrected = days(2)[1], days(4)[3]
    world = small_world(faults=[PlantedFault(fault, planted, corrected) for fault in Fault])
    world.seed(bigsite_engine)
    units = portfolio_number(world.plan.faulty(Fault.UNBALANCED_UNITS))
    name = portfolio_number(world.plan.faulty(Fault.ILLEGAL_CHARACTER))
    assert {units, name} <= world.sharing(FIRST)

    def unbalanced() -> set[tuple[str, dt.date]]:
        with bigsite_engine.connect() as connection:
            result = connection.execute(
                sa.text("""
                SELECT p.portfolio_number, h.as_at_date
                FROM bigsite.holding_eod h JOIN bigsite.portfolio p USING (portfolio_id)
                WHERE h.units <> COALESCE((
                    SELECT SUM(CASE side WHEN 'BUY' THEN units ELSE -units END) FROM bigsite.trade t
                    WHERE t.portfolio_id = h.portfolio_id AND t.security_id = h.security_id
                    AND t.trade_date <= h.as_at_date AND t.recorded_at <= h.updated_at), 0)
                  + COALESCE((SELECT SUM(units_change) FROM bigsite.security_movement m
                    WHERE m.portfolio_id = h.portfolio_id AND m.security_id = h.security_id
                    AND m.effective_date <= h.as_at_date AND m.recorded_at <= h.updated_at), 0)""")
            ).all()
        return {(number, day) for number, day in result}

    def shown() -> str:
        with bigsite_engine.connect() as connection:
            query = sa.text("SELECT portfolio_name FROM bigsite.portfolio WHERE portfolio_number = :number")
            return str(connection.execute(query, {"number": name}).scalar_one())

    world.advance(bigsite_engine, days(1)[0])
    assert unbalanced() == set()
    assert "\x0b" not in shown()
    assert world.advance(bigsite_engine, planted).counts["faults planted"] == 2
    world.advance(bigsite_engine, days(3)[2])
    assert unbalanced() == {(units, planted), (units, days(3)[2])}
    assert "\x0b" in shown()
    assert world.advance(bigsite_engine, corrected).counts["faults corrected"] == 2
    assert unbalanced() == set()
    assert "\x0b" not in shown()


@pytest.mark.parametrize(
    ("portfolios", "consented", "more"),
    [
        (0, 0, {}),
        (5, 6, {}),
        (5, -1, {}),
        (5, 3, {"history_days": 2}),
        (5, 0, {"faults": [PlantedFault(Fault.ILLEGAL_CHARACTER, FIRST)]}),
        (5, 3, {"faults": [PlantedFault(Fault.ILLEGAL_CHARACTER, dt.date(2022, 12, 30))]}),
    ],
)
def test_invalid_plan_is_refused(portfolios: int, consented: int, more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no world|faults"):
        small_world(portfolios, consented, **more)


def test_days_outside_the_world_are_refused(bigsite_engine: sa.Engine) -> None:
    with pytest.raises(NotABusinessDayError):
        small_world(first_day=dt.date(2023, 1, 1))
    with pytest.raises(NotABusinessDayError):
        small_world().advance(bigsite_engine, dt.date(2023, 1, 7))
    with pytest.raises(ValueError, match="before the world's first day"):
        small_world().advance(bigsite_engine, dt.date(2022, 12, 30))


def test_plan_with_a_fault_keeps_its_stored_form() -> None:
    plan = Plan(1, 2, 3, FIRST, 30, (PlantedFault(Fault.ILLEGAL_CHARACTER, FIRST, FIRST + dt.timedelta(days=1)),))
    stored = json.loads(PLANS.dump_json(plan, by_alias=True))
    assert stored["faults"][0] == {
        "fault": Fault.ILLEGAL_CHARACTER.value,
        "planted_on": "2023-01-03",
        "mended_on": "2023-01-04",
    }
    assert PLANS.validate_python(stored) == plan
