"""The first business date of a demo in a new home."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine

from classfeed_dagster.cli import local
from classfeed_dagster.errors import UsageError
from classfeed_dagster.settings import Settings, get_settings


@pytest.fixture
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Provide a home without data, and no first business date in the settings."""
    monkeypatch.setenv("CLASSFEED_HOME", str(tmp_path / "new"))
    monkeypatch.delenv("CLASSFEED_FIRST_BUSINESS_DATE", raising=False)
    get_settings.cache_clear()
    yield tmp_path / "new"
    get_settings.cache_clear()


def test_demo_in_a_new_home_begins_with_the_latest_business_days(new_home: Path) -> None:
    with time_machine.travel(dt.datetime(2026, 11, 30, 1, tzinfo=dt.UTC)):  # Monday noon in Sydney
        local._choose_first_date(None, 3)
        first = get_settings().first_business_date
    assert first == dt.date(2026, 11, 25)
    local._choose_first_date(None, 5)  # a later demo keeps the dates
    local._choose_first_date(first, 3)
    assert get_settings().first_business_date == first
    with pytest.raises(UsageError, match="this home begins on 2026-11-25"):
        local._choose_first_date(dt.date(2023, 1, 3), 3)


def test_demo_from_a_date_begins_there_and_refuses_a_holiday(new_home: Path) -> None:
    with pytest.raises(UsageError, match="2023-01-02"):
        local._choose_first_date(dt.date(2023, 1, 2), 3)
    with pytest.raises(UsageError, match="2035-12-28 is not over"):
        local._choose_first_date(dt.date(2035, 12, 27), 2)
    assert not new_home.exists()
    local._choose_first_date(dt.date(2023, 1, 4), 3)
    assert get_settings().first_business_date == dt.date(2023, 1, 4)
    assert Settings(home=new_home.parent).first_business_date == dt.date(2023, 1, 3)
