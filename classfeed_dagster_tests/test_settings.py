"""Settings: defaults that need nothing, and the error of a bad one."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import ValidationError

from classfeed_dagster.runtime import ClockRefusedError, Runtime
from classfeed_dagster.settings import REQUIRED, Component, Environment, Settings, SettingsError, get_settings
from classfeed_dagster.tags import CLOCK_TAG

# The least that any process outside local needs.
ELSEWHERE: dict[str, Any] = {"store_url": "s3://bucket", "first_business_date": dt.date(2026, 3, 2)}


def test_settings_without_variables_use_embedded_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLASSFEED_STORE_URL", raising=False)
    monkeypatch.delenv("CLASSFEED_HOME", raising=False)
    settings = Settings()
    assert settings.env is Environment.LOCAL
    assert settings.bigsite_url is None
    assert settings.store_location == ".classfeed/store"


def test_database_password_is_never_shown() -> None:
    settings = Settings(bigsite_url="postgresql+psycopg://feed:hunter2@db/bigsite")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_set_clock_is_refused_outside_rehearsals() -> None:
    noon = dt.datetime(2023, 1, 4, 1, tzinfo=dt.UTC)
    assert Runtime(Settings(env=Environment.DEV, now=noon, **ELSEWHERE)).clock({}) == noon
    assert Runtime(Settings()).clock({CLOCK_TAG: "2023-01-04T12:00:00+11:00"}) == noon
    with pytest.raises(ValidationError, match="local and dev, never for prod"):
        Settings(env=Environment.PROD, now=noon, **ELSEWHERE)
    with pytest.raises(ClockRefusedError, match="never for stg"):
        Runtime(Settings(env=Environment.STG, **ELSEWHERE)).clock({CLOCK_TAG: noon.isoformat()})
    assert Runtime(Settings(env=Environment.PROD, **ELSEWHERE)).clock({}) is None


def test_read_sessions_fit_the_engines_connections() -> None:
    assert Settings(bigsite_sessions=8).bigsite_sessions == 8
    with pytest.raises(ValidationError, match="bigsite_sessions"):
        Settings(bigsite_sessions=9)


@pytest.mark.parametrize("component", [*Component, None])
def test_settings_outside_local_missing_ones_are_named_at_once(
    component: Component | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLASSFEED_STORE_URL", raising=False)
    if not REQUIRED[component]:
        assert Settings(env=Environment.PROD, component=component).env is Environment.PROD
        return
    with pytest.raises(ValidationError) as refused:
        Settings(env=Environment.STG, component=component)
    for name in REQUIRED[component]:
        assert f"CLASSFEED_{name.upper()}" in str(refused.value)


def test_first_business_date_outside_local_has_no_default() -> None:
    with pytest.raises(ValidationError, match="missing in prod: CLASSFEED_FIRST_BUSINESS_DATE"):
        Settings(env=Environment.PROD, store_url="s3://bucket")
    assert Settings().first_business_date == dt.date(2023, 1, 3)


def test_settings_of_production_need_a_pager_and_an_absolute_runbook() -> None:
    code: dict[str, Any] = ELSEWHERE | {
        "component": "code", "ui_url": "https://feed/view", "runbook_url": "https://feed/alerts.md", "slack_token": "x",
        "bigsite_url": "postgresql://db/bigsite", "consent_queue_url": "https://q", "consent_dead_letter_url": "https://d",
    }  # fmt: skip
    assert Settings(env=Environment.STG, **code).component is Component.CODE
    with pytest.raises(ValidationError, match="missing in prod: CLASSFEED_PAGERDUTY_KEY"):
        Settings(env=Environment.PROD, **code)
    with pytest.raises(ValidationError, match=r"CLASSFEED_RUNBOOK_URL is not a URL: docs/alerts.md"):
        Settings(env=Environment.STG, **code | {"runbook_url": "docs/alerts.md"})


def test_runbook_url_of_the_former_alerts_page_leads_to_the_runbook() -> None:
    former = "https://git.broker/classfeed/docs/runbook/alerts.md"
    assert Settings(runbook_url=former).runbook_url == "https://git.broker/classfeed/docs/runbook.md"
    assert Settings(runbook_url="https://wiki/alerts.md").runbook_url == "https://wiki/alerts.md"


def test_settings_error_names_every_variable_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    for name, value in {
        "ENV": "prod",
        "BIGSITE_URL": "postgresql://feed:hunter2@db/b",
        "REPAIR_DATES": "hunter2",
    }.items():
        monkeypatch.setenv(f"CLASSFEED_{name}", value)
    with pytest.raises(SettingsError) as refused:
        get_settings()
    assert "CLASSFEED_REPAIR_DATES: " in str(refused.value)
    assert "hunter2" not in str(refused.value)
    monkeypatch.delenv("CLASSFEED_REPAIR_DATES")
    with pytest.raises(SettingsError, match="CLASSFEED_FIRST_BUSINESS_DATE") as refused:
        get_settings()
    assert "hunter2" not in str(refused.value)
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("STORE_URL", "", "settings without a value: CLASSFEED_STORE_URL. Set them, or unset the variables"),
        ("HOME", " ", "settings without a value: CLASSFEED_HOME. Set them, or unset the variables"),
        ("FLAGS", "", "settings without a value: CLASSFEED_FLAGS. Set them, or unset the variables"),
        ("KEEP_RUNS_DAYS", "1000000", "CLASSFEED_KEEP_RUNS_DAYS: must be less than or equal to 36500"),
        ("SIMULATION_KEEP_DAYS", "1000000", "CLASSFEED_SIMULATION_KEEP_DAYS: must be less than or equal to 36500"),
        ("FLAGS", "{mode", 'CLASSFEED_FLAGS: must be a JSON object, such as {"name": …}'),
        ("FLAGS", "[]", "CLASSFEED_FLAGS: must be a valid dictionary"),
        (
            "TRANSMISSION_CREDENTIALS",
            "hunter2",
            'CLASSFEED_TRANSMISSION_CREDENTIALS: must be a JSON object, such as {"n',
        ),
        (
            "S3_ENDPOINT_URL",
            "hunter2",
            "CLASSFEED_S3_ENDPOINT_URL: must be a URL with a host, such as https://host/pat",
        ),
        (
            "OPENLINEAGE_URL",
            "https://",
            "CLASSFEED_OPENLINEAGE_URL: must be a URL with a host, such as https://host/pa",
        ),
        ("NOW", "2023-01-05", "CLASSFEED_NOW: must have timezone info"),
        (
            "STOR_URL",
            "hunter2",
            "CLASSFEED_STOR_URL is not a setting: did you mean CLASSFEED_STORE_URL? Correct or unse",
        ),
    ],
)
def test_setting_with_a_wrong_value_or_name_is_refused_by_name(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_settings.cache_clear()
    monkeypatch.setenv(f"CLASSFEED_{name}", value)
    with pytest.raises(SettingsError) as refused:
        get_settings()
    assert str(refused.value).startswith(sentence)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CLASSFEED_ENB", "CLASSFEED_ENV"),
        ("CLASSFEED_NWO", "CLASSFEED_NOW"),
        ("CLASSFEED_HOMR", "CLASSFEED_HOME"),
        ("CLASFEED_HOME", "CLASSFEED_HOME"),
        ("CLASSFED_STORE_URL", "CLASSFEED_STORE_URL"),
        ("CLASSFEEDHOME", "CLASSFEED_HOME"),
        ("classfeed_stor_url", "CLASSFEED_STORE_URL"),
    ],
)
def test_setting_misspelt_by_a_letter_names_the_one_meant(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_settings.cache_clear()
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=f"{name} is not a setting: did you mean {meant}"):
        get_settings()


@pytest.mark.parametrize("name", ["CLASSFEED_DEV", "CLASSFEED_TEST_EXAMPLES", "CLASSPATH", "FEED_URL", "OLD_NOW"])
def test_variable_of_another_program_is_not_a_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    monkeypatch.setenv(name, "x")
    get_settings()


def test_settings_read_switches_credentials_and_no_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSFEED_FLAGS", '{"mode": {"class_trade": "off"}}')
    monkeypatch.setenv("CLASSFEED_TRANSMISSION_CREDENTIALS", '{"recipient": "hunter2"}')
    monkeypatch.setenv("CLASSFEED_EXPIRY_NOTICE_DAYS", "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    settings = Settings()
    assert settings.otlp_endpoint is None
    assert settings.flags == {"mode": {"class_trade": "off"}}
    assert settings.transmission_credentials["recipient"].get_secret_value() == "hunter2"
    assert settings.expiry_notice_leads == ()


@pytest.mark.parametrize(
    ("url", "password", "broker"),
    [
        (None, None, None),
        (None, "p", None),
        ("rediss://host:6379/0", None, "rediss://host:6379/0"),
        ("rediss://host:6379/0?a=b", "p@/w", "rediss://:p%40%2Fw@host:6379/0?a=b"),
    ],
)
def test_celery_broker_has_its_password_inserted(url: str | None, password: str | None, broker: str | None) -> None:
    assert Settings(celery_broker_url=url, celery_broker_password=password).celery_broker == broker


def test_run_worker_with_celery_requires_the_broker() -> None:
    with pytest.raises(ValidationError, match="CLASSFEED_CELERY_BROKER_URL"):
        Settings(env=Environment.STG, component=Component.WORKER, executor="celery")
