"""Settings: defaults that need nothing, and what a bad one says."""

from __future__ import annotations

import datetime as dt

import pytest
from pydantic import ValidationError

from classfeed_dagster.runtime import ClockRefusedError, Runtime
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.tags import CLOCK_TAG


def test_nothing_set_means_embedded_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLASSFEED_STORE_URL", raising=False)
    settings = Settings()
    assert settings.env is Environment.LOCAL
    assert settings.bigsite_url is None
    assert settings.store_location == ".classfeed/store"


def test_the_database_password_is_never_shown() -> None:
    settings = Settings(bigsite_url="postgresql+psycopg://feed:hunter2@db/bigsite")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_a_set_clock_is_refused_outside_rehearsals() -> None:
    noon = dt.datetime(2023, 1, 4, 1, tzinfo=dt.UTC)
    assert Runtime(Settings(env=Environment.DEV, now=noon)).clock({}) == noon
    assert Runtime(Settings()).clock({CLOCK_TAG: "2023-01-04T12:00:00+11:00"}) == noon
    with pytest.raises(ValidationError, match="local and dev, never for prod"):
        Settings(env=Environment.PROD, now=noon)
    with pytest.raises(ClockRefusedError, match="never for stg"):
        Runtime(Settings(env=Environment.STG)).clock({CLOCK_TAG: noon.isoformat()})
    assert Runtime(Settings(env=Environment.PROD)).clock({}) is None


def test_no_more_sessions_read_a_date_than_the_engine_has_connections_for() -> None:
    assert Settings(bigsite_sessions=8).bigsite_sessions == 8
    with pytest.raises(ValidationError, match="bigsite_sessions"):
        Settings(bigsite_sessions=9)
