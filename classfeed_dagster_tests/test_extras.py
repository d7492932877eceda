"""Optional dependencies: a command that lacks one names the extra before it starts anything."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from classfeed_dagster import errors
from classfeed_dagster.cli.app import app
from classfeed_dagster.extras import MissingExtraError, require_extra
from classfeed_dagster.local import embedded_postgres, snowflake_server
from classfeed_dagster.settings import get_settings


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Return an environment without the extras, and without its own bigsite and Snowflake."""
    for name in ("embedded_postgres", "fakesnow", "dagster_postgres"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delenv("CLASSFEED_BIGSITE_URL", raising=False)
    get_settings.cache_clear()
    yield monkeypatch
    get_settings.cache_clear()


def test_require_extra_installed_returns_silently() -> None:
    require_extra("The test", "dev", "pytest")


def test_require_extra_missing_names_package_and_extra() -> None:
    with pytest.raises(MissingExtraError) as raised:
        require_extra("The test", "none", "no_such_module", "pytest", instead="go home")
    assert str(raised.value) == (
        "The test needs no_such_module, which is not installed: pip install 'classfeed-dagster[none]', or go home"
    )


@pytest.mark.parametrize("start", [embedded_postgres.start, snowflake_server.start])
def test_embedded_service_missing_is_refused_before_a_folder(
    missing: pytest.MonkeyPatch, tmp_path: Path, start: object
) -> None:
    with pytest.raises(MissingExtraError, match=r"classfeed-dagster\[embedded\]"):
        start(tmp_path)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["demo", "replay", "up", "seed"])
def test_local_command_without_extra_starts_nothing(missing: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    missing.setenv("CLASSFEED_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(app, [command])
    assert isinstance(result.exception, MissingExtraError)
    assert not (tmp_path / "home").exists()


def test_up_with_bigsite_still_needs_the_local_snowflake(missing: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing.setenv("CLASSFEED_HOME", str(tmp_path / "home"))
    missing.setenv("CLASSFEED_BIGSITE_URL", "postgresql://user@host/bigsite")
    result = CliRunner().invoke(app, ["up"])
    assert "The local Snowflake needs fakesnow" in str(result.exception)


def test_demo_with_services_of_its_own_needs_no_extra(missing: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing.setenv("CLASSFEED_HOME", str(tmp_path / "home"))
    missing.setenv("CLASSFEED_BIGSITE_URL", "postgresql://user@127.0.0.1:1/bigsite")
    missing.setenv("CLASSFEED_SNOWFLAKE_ACCOUNT", "account")
    result = CliRunner().invoke(app, ["demo"])
    assert result.exception is not None
    assert not isinstance(result.exception, MissingExtraError)


def test_migrate_without_extra_names_it(missing: pytest.MonkeyPatch) -> None:
    missing.setenv("DAGSTER_HOME", "/nowhere")
    result = CliRunner().invoke(app, ["migrate"])
    assert "classfeed-dagster[production]" in str(result.exception)


def test_exception_classes_skip_modules_whose_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "classfeed_dagster.orchestration.celery_executor"
    importlib.import_module(module)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "celery", None)
    assert errors.exception_class("NoSuchError") is None


def test_exception_classes_missing_required_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "classfeed_dagster.documents.epi_validator"
    importlib.import_module(module)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "lxml", None)
    with pytest.raises(ModuleNotFoundError):
        errors.exception_classes()
