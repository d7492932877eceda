"""bigsite's schema in Dagster and on the command line: checked daily, stored, compared; landing refuses drift."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from classfeed_dagster.alerting.incidents import raised
from classfeed_dagster.bigsite.snapshot import snapshot_for
from classfeed_dagster.cli import app as cli
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.orchestration.asset_keys import SCHEMA_ASSET
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.definitions import schema_definitions
from classfeed_dagster.orchestration.jobs import SCHEMA_JOB
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.settings import Settings, get_settings
from classfeed_dagster.source_contract.contract import load_contract
from classfeed_dagster.source_contract.schema import SchemaUnreadableError
from classfeed_dagster.source_contract.schema_check import SchemaDriftError, require_schema
from classfeed_dagster.source_contract.schema_history import days_kept
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.tags import CLOCK_TAG
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite

MONDAY = dt.date(2026, 3, 2)
RENAMED = "ALTER TABLE bigsite.trade RENAME COLUMN gst TO gst_amount"
RESTORED = "ALTER TABLE bigsite.trade RENAME COLUMN gst_amount TO gst"


def change(engine: sa.Engine, ddl: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(ddl))


@dataclass
class Watch:
    """Daily schema check through the real job."""

    engine: sa.Engine
    runtime: Runtime
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    metadata: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dg.AssetCheckEvaluation] = field(default_factory=dict)

    def look(self, day: dt.date) -> None:
        morning = dt.datetime.combine(day, dt.time(5, 30), tzinfo=dt.timezone(dt.timedelta(hours=11)))
        result = self.definitions.resolve_job_def(SCHEMA_JOB).execute_in_process(
            instance=self.instance, tags={CLOCK_TAG: morning.isoformat()}, raise_on_error=False
        )
        (event,) = result.get_asset_materialization_events()
        assert event.asset_key == SCHEMA_ASSET
        self.metadata = {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        self.checks = {
            evaluation.asset_check_key.name: evaluation for evaluation in result.get_asset_check_evaluations()
        }

    @property
    def incidents(self) -> dict[str, str]:
        return {incident.key: incident.what for incident in raised(self.runtime.store)}


@pytest.fixture
def watch(bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[Watch]:
    url = bigsite_engine.url.render_as_string(hide_password=False)
    runtime = Runtime(Settings(bigsite_url=url, home=tmp_path))
    definitions = dg.Definitions.merge(
        schema_definitions(DefaultStatus(running=True)),
        dg.Definitions(resources={"runtime": runtime}),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watch(bigsite_engine, runtime, definitions, instance)
    runtime.close()


def test_schema_that_keeps_its_contract_passes_and_is_stored(watch: Watch) -> None:
    watch.look(MONDAY)
    assert all(check.passed for check in watch.checks.values())
    assert set(watch.checks) == {"schema_drift", "schema_values"}
    assert watch.metadata["changes_since_last_check"] == "This is the first check."
    assert watch.metadata["contract"] == load_contract().version
    assert days_kept(watch.runtime.store) == (MONDAY,)
    assert watch.incidents == {}
    schedule = watch.definitions.resolve_schedule_def("schema_morning")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_renamed_column_blocks_and_names_elements_until_restored(watch: Watch) -> None:
    watch.look(MONDAY)
    change(watch.engine, RENAMED)
    watch.look(MONDAY + dt.timedelta(days=1))
    drift = watch.checks["schema_drift"]
    assert (drift.passed, drift.severity, drift.blocking) == (False, dg.AssetCheckSeverity.ERROR, True)
    assert "EPIDataResponse" in watch.metadata["verdict"]
    assert "renamed column" in watch.metadata["changes_since_last_check"]
    assert watch.metadata["differences_blocking"] == 1
    assert "renamed column trade.gst" in watch.incidents["schema-drift"]

    change(watch.engine, RESTORED)
    watch.look(MONDAY + dt.timedelta(days=2))
    assert watch.checks["schema_drift"].passed
    assert watch.incidents == {}


def test_unread_change_is_a_note_and_a_wider_type_a_warning(watch: Watch) -> None:
    change(watch.engine, "ALTER TABLE bigsite.member ADD COLUMN nickname varchar(20)")
    watch.look(MONDAY)
    assert watch.checks["schema_drift"].passed
    assert watch.metadata["differences_note"] == 1
    change(watch.engine, "ALTER TABLE bigsite.cash_transaction ALTER COLUMN description TYPE varchar(2000)")
    watch.look(MONDAY)
    drift = watch.checks["schema_drift"]
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "No portfolio is held back" in raised(watch.runtime.store)[0].means


def test_unknown_transaction_type_is_reported(watch: Watch) -> None:
    bigsite = Bigsite(watch.engine)
    bigsite.portfolio().consent().cash_transaction("LOYALTY", "5.00", "2026-02-27")
    change(watch.engine, _without_checks("cash_transaction", "transaction_type"))
    bigsite.save()
    watch.look(MONDAY)
    values = watch.checks["schema_values"]
    assert (values.passed, values.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "LOYALTY" in str(values.metadata["differences"].value)
    (incident,) = raised(watch.runtime.store)
    assert "cash_transaction.transaction_type" in incident.what
    assert "held back" in incident.means


def _without_checks(table: str, column: str) -> str:
    return (
        "DO $$ DECLARE found text; BEGIN FOR found IN SELECT conname FROM pg_constraint WHERE contype = 'c' AND "
        f"conrelid = 'bigsite.{table}'::regclass AND pg_get_constraintdef(oid) LIKE '%{column}%' LOOP EXECUTE "
        f"format('ALTER TABLE bigsite.{table} DROP CONSTRAINT %I', found); END LOOP; END $$"
    )


# -- before reading ---------------------------------------------------------------------------------------------------


def land(engine: sa.Engine, store: ObjectStore, observe: Callable[[str], None], *, fresh: bool = False) -> None:
    snapshot_for(
        engine, store, MONDAY, [RecipientSchedule("CLASS", MONDAY)], fresh=fresh, observe=observe,
        before_reading=lambda: require_schema(engine, column_exports()),
    )  # fmt: skip


def test_landing_refuses_a_changed_schema_before_reading(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    bigsite = Bigsite(bigsite_engine)
    bigsite.portfolio().consent().deposit("10.00", "2026-02-27")
    bigsite.end_of_day(MONDAY).save()
    statements: list[str] = []
    change(bigsite_engine, RENAMED)
    with pytest.raises(SchemaDriftError, match="gst"):
        land(bigsite_engine, local_store, statements.append)
    assert statements == []
    assert list(local_store.list("")) == []
    change(bigsite_engine, RESTORED)
    land(bigsite_engine, local_store, statements.append)
    assert statements
    change(bigsite_engine, RENAMED)
    land(bigsite_engine, local_store, statements.append)  # landed already: bigsite is not asked
    with pytest.raises(SchemaDriftError):
        land(bigsite_engine, local_store, statements.append, fresh=True)


def test_unreachable_or_other_database_is_an_error(database_url: str) -> None:
    away = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/bigsite")
    with pytest.raises(SourceReadError, match="could not be read"):
        require_schema(away, column_exports())
    empty = sa.create_engine(database_url)
    with pytest.raises(SchemaUnreadableError, match="CLASSFEED_BIGSITE_URL"):
        require_schema(empty, column_exports())
    empty.dispose()


# -- on the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def classfeed(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    settings = watch.runtime.settings
    monkeypatch.setenv("CLASSFEED_HOME", str(settings.home))
    assert settings.bigsite_url is not None
    monkeypatch.setenv("CLASSFEED_BIGSITE_URL", settings.bigsite_url.get_secret_value())
    monkeypatch.setenv("COLUMNS", "160")
    get_settings.cache_clear()
    yield lambda *words: CliRunner().invoke(cli.app, words)
    get_settings.cache_clear()


def test_schema_diff_compares_two_days(watch: Watch, classfeed: Callable[..., Any]) -> None:
    nothing = classfeed("schema", "diff")
    assert "materialize" in str(nothing.exception)
    watch.look(MONDAY)
    assert "no change" in classfeed("schema", "diff").output
    change(watch.engine, RENAMED)
    watch.look(MONDAY + dt.timedelta(days=1))
    for words in ((), ("--since", "2026-03-02", "--until", "2026-03-03")):
        result = classfeed("schema", "diff", *words)
        assert result.exit_code == 0, result.output
        assert "2026-03-02 to 2026-03-03" in result.output
        assert "renamed column" in result.output
    assert "no change" in classfeed("schema", "diff", "--since", "2026-03-03", "--until", "2026-03-09").output


def test_schema_check_states_whether_extraction_would_run(watch: Watch, classfeed: Callable[..., Any]) -> None:
    assert classfeed("schema", "check").exit_code == 0
    change(watch.engine, RENAMED)
    broken = classfeed("schema", "check")
    assert broken.exit_code == 3
    assert "BLOCKING" in broken.output


def test_schema_diff_compares_two_environments(
    watch: Watch, classfeed: Callable[..., Any], tmp_path: Path, local_store: ObjectStore
) -> None:
    watch.look(MONDAY)
    kept = next(key for key in watch.runtime.store.list("schemas/") if not key.endswith("latest.json"))
    file = tmp_path / "uat.json"
    file.write_bytes(watch.runtime.store.read(kept))
    assert watch.runtime.settings.bigsite_url is not None
    url = watch.runtime.settings.bigsite_url.get_secret_value()
    history = watch.runtime.settings.store_location
    for where in (str(file), url, history):
        same = classfeed("schema", "diff", "--with", where)
        assert (same.exit_code, "no change" in same.output) == (0, True), same.output
    change(watch.engine, RENAMED)
    differs = classfeed("schema", "diff", "--with", url)
    assert differs.exit_code == 3
    assert "renamed column" in differs.output
    for column in ("there", "here"):
        assert column in differs.output
    assert (sa.make_url(url).password or "no password") not in differs.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--with", "nonsense"), "neither a file"),
        (("--with", "postgresql+psycopg://nobody:secret@127.0.0.1:1/x"), "cannot be reached"),
        (("--with", "EMPTY"), "has no stored schema"),
        (("--with", "EMPTY", "--since", "2026-03-02"), "--since"),
    ],
)
def test_environment_without_a_schema_is_an_error(
    watch: Watch, classfeed: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    watch.look(MONDAY)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = classfeed("schema", "diff", *(str(empty) if word == "EMPTY" else word for word in words))
    assert refused.exit_code != 0
    assert says in str(refused.exception)
    assert "secret" not in str(refused.exception)


def test_adopted_contract_needs_no_approval(classfeed: Callable[..., Any]) -> None:
    assert "is adopted unchanged" in classfeed("schema", "adopt", "--by", "Ada").output
