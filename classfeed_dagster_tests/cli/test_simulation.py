"""``classfeed simulate`` as a person uses it: some more days, refused in production."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from classfeed_dagster.bigsite.tables import portfolio
from classfeed_dagster.cli import app as cli
from classfeed_dagster.cli.local import demo_faults
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.settings import get_settings
from classfeed_dagster.simulation.guard import SimulationRefusedError, world_table
from classfeed_dagster.simulation.world import WorldError

Command = Callable[..., Result]


@pytest.fixture
def classfeed(bigsite_engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.setenv("CLASSFEED_HOME", str(tmp_path))
    monkeypatch.setenv("CLASSFEED_BIGSITE_URL", bigsite_engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("CLASSFEED_SIMULATION_PORTFOLIOS", "6")
    monkeypatch.setenv("COLUMNS", "160")
    get_settings.cache_clear()
    yield lambda *words: CliRunner().invoke(cli.app, words)
    get_settings.cache_clear()


def last_day(engine: sa.Engine) -> dt.date:
    with engine.connect() as connection:
        day: dt.date = connection.execute(sa.select(world_table.c.last_day)).scalar_one()
        return day


def test_simulate_days_follow_each_other(classfeed: Command, bigsite_engine: sa.Engine) -> None:
    first = classfeed("simulate", "--days", "2")
    assert first.exit_code == 0, first.output
    assert "2 days" in first.output
    assert "classfeed run --date 2023-01-03 --until 2023-01-04" in first.output
    assert last_day(bigsite_engine) == dt.date(2023, 1, 4)
    third = classfeed("simulate").output
    assert "2023-01-05" in third
    assert "1 day " in third
    assert last_day(bigsite_engine) == dt.date(2023, 1, 5)


def test_second_seed_writes_no_rows_and_reports_it(classfeed: Command) -> None:
    first = classfeed("seed", "--portfolios", "6")
    assert "6 consented portfolios" in first.output, first.output
    again = classfeed("seed", "--portfolios", "6")
    assert again.exit_code == 0, again.output
    assert "nothing to write: bigsite already holds these" in again.output
    assert isinstance(classfeed("seed", "--portfolios", "7").exception, WorldError)


def test_run_without_any_bigsite_is_refused_and_creates_none(
    classfeed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLASSFEED_BIGSITE_URL")
    monkeypatch.setenv("CLASSFEED_HOME", str(tmp_path / "new"))
    get_settings.cache_clear()
    refused = classfeed("run", "--date", "2023-01-03")
    assert isinstance(refused.exception, SourceReadError)
    assert "run `classfeed demo` or `classfeed seed`" in str(refused.exception)
    assert not (tmp_path / "new" / "postgres").exists()


def test_unknown_database_needs_a_persons_marker(classfeed: Command, bigsite_engine: sa.Engine) -> None:
    real = {"portfolio_id": 1, "portfolio_number": "SW00000001", "portfolio_name": "Real", "entity_type": "TRUST"}
    state = {"status": "ACTIVE", "opened_on": dt.date(2020, 1, 1), "updated_at": dt.datetime(2023, 1, 1, tzinfo=dt.UTC)}
    with bigsite_engine.begin() as connection:
        connection.execute(sa.insert(portfolio), [real | state])
    refused = classfeed("simulate")
    assert isinstance(refused.exception, SimulationRefusedError)
    assert classfeed("simulate", "--mark").exit_code == 0


def test_production_is_refused_before_connecting(classfeed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSFEED_ENV", "prod")
    monkeypatch.setenv("CLASSFEED_STORE_URL", "s3://bucket")
    monkeypatch.setenv("CLASSFEED_FIRST_BUSINESS_DATE", "2023-01-03")
    monkeypatch.setenv("CLASSFEED_BIGSITE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/bigsite")
    get_settings.cache_clear()
    for words in (("simulate",), ("simulate", "--mark")):
        refused = classfeed(*words)
        assert isinstance(refused.exception, SimulationRefusedError)


# -- faults of the demo -----------------------------------------------------------------------------------------------


def test_demo_faults_of_one_date_stay_uncorrected() -> None:
    day = dt.date(2023, 1, 3)
    assert [(fault.planted_on, fault.corrected_on) for fault in demo_faults([day], 3)] == [(day, None), (day, None)]


def test_demo_faults_of_two_dates_are_one_corrected_and_one_kept() -> None:
    first, last = dt.date(2023, 1, 3), dt.date(2023, 1, 4)
    faults = demo_faults([first, last], 3)
    assert [(fault.planted_on, fault.corrected_on) for fault in faults] == [(first, last), (last, None)]


def test_demo_faults_stay_within_the_limit() -> None:
    assert [len(demo_faults([dt.date(2023, 1, 3)], most)) for most in range(4)] == [0, 1, 2, 2]
    assert demo_faults([], 3) == []
