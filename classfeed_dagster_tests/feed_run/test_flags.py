"""Queries of switches: the settings, another provider, one that is down; and the live gate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from openfeature import api
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode
from openfeature.provider import AbstractProvider
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from structlog.testing import capture_logs

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.feed_run.flags import (
    DOMAIN,
    flag_values,
    live_gate,
    start_flags,
    use_provider,
)
from classfeed_dagster.feed_run.switch_values import FlagSettingsError, SettingsProvider
from classfeed_dagster.feed_run.switches import FeedFlags
from classfeed_dagster.feeds import class_cash, class_trade
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.portfolios import Portfolios
from classfeed_dagster.parity.comparison import Scorecard
from classfeed_dagster.settings import Environment, Settings

TRADE, CASH = class_trade.FEED, class_cash.FEED
PLAIN = Feed(
    "plain", "no old app", "BGL", CASH.format, ("team:x",), FeedMode.LIVE, None, renderings={"new": TRADE.format}
)
FEEDS = (TRADE, CASH, PLAIN)
DAY = dt.date(2023, 5, 5)


@pytest.fixture(autouse=True)
def no_provider_left() -> Iterator[None]:
    yield
    api.clear_providers()


def settings(flags: Mapping[str, Mapping[str, bool | str]] | None = None, **more: Any) -> Settings:
    return Settings(flags={name: dict(entries) for name, entries in (flags or {}).items()}, **more)


def ask(feed: Feed = TRADE) -> FeedFlags:
    return flag_values(feed, Environment.LOCAL)


def test_flags_without_settings_equal_the_declarations() -> None:
    start_flags(settings(), FEEDS)
    assert ask() == FeedFlags("class_trade", FeedMode.SHADOW, provider="settings")
    assert ask(PLAIN) == FeedFlags("plain", FeedMode.LIVE, provider="settings")


def test_feed_entry_wins_over_the_recipients() -> None:
    flags: dict[str, dict[str, bool | str]] = {
        "mode": {"CLASS": "off", "class_trade": "live", "plain": "shadow"},
        "include-income": {"BGL": False},
        "include-drp": {"class_trade": False},
        "portfolios": {"CLASS": "!SW2,SW1"},
        "rendering": {"plain": "new"},
        "live-override": {"class_trade": " A. Person: agreed "},
    }
    start_flags(settings(flags), FEEDS)
    assert ask() == FeedFlags(
        "class_trade",
        FeedMode.LIVE,
        Portfolios(frozenset({"SW1", "SW2"}), all_but=True),
        include_drp=False,
        live_override="A. Person: agreed",
        provider="settings",
    )
    assert ask(CASH).mode is FeedMode.OFF
    assert (ask(PLAIN).mode, ask(PLAIN).include_income, ask(PLAIN).rendering) == (FeedMode.SHADOW, False, "new")


def test_switches_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSFEED_FLAGS", '{"mode": {"class_trade": "off"}, "include-drp": {"CLASS": false}}')
    start_flags(Settings(), FEEDS)
    assert (ask().mode, ask().include_drp) == (FeedMode.OFF, False)


def test_flags_read_after_a_change_have_the_new_values() -> None:
    start_flags(settings(), FEEDS)
    frozen = ask()
    start_flags(settings({"mode": {"class_trade": "live"}}), FEEDS)
    assert (frozen.mode, ask().mode) == (FeedMode.SHADOW, FeedMode.LIVE)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"moed": {"class_trade": "live"}}, "unknown switch 'moed': use one of mode, portfolios"),
        ({"mode": {"class_trad": "live"}}, "unknown feed or recipient 'class_trad'"),
        ({"mode": {"class_trade": "Live"}}, "mode of class_trade: 'Live' is not a valid FeedMode"),
        ({"mode": {"CLASS": True}}, "mode of class_trade must be text"),
        ({"include-drp": {"plain": "no"}}, "include-drp of plain must be true or false"),
        ({"portfolios": {"plain": ""}}, "portfolios of plain: which portfolios"),
        ({"rendering": {"BGL": "newer"}}, "plain has no rendering 'newer'"),
    ],
)
def test_switch_without_effect_is_refused(flags: dict[str, dict[str, bool | str]], says: str) -> None:
    with pytest.raises(FlagSettingsError, match=says):
        start_flags(settings(flags), FEEDS)


def stand_in(flags: Mapping[str, Any]) -> InMemoryProvider:
    return InMemoryProvider({name: InMemoryFlag("on", {"on": value}) for name, value in flags.items()})


ALL: Mapping[str, Any] = {
    "mode": "live",
    "portfolios": "*",
    "include-income": True,
    "include-drp": False,
    "rendering": "standard",
    "live-override": "",
}


def test_another_provider_can_be_plugged_in() -> None:
    use_provider(stand_in(ALL))
    assert ask() == FeedFlags("class_trade", FeedMode.LIVE, include_drp=False, provider="In-Memory Provider")


class Telling(SettingsProvider):
    """Provider that records the contexts of its queries."""

    contexts: list[tuple[str | None, Mapping[str, Any]]]

    def __init__(self) -> None:
        super().__init__({})
        self.contexts = []

    def resolve_string_details(self, flag_key: str, default_value: str, evaluation_context: Any = None) -> Any:
        self.contexts.append((evaluation_context.targeting_key, dict(evaluation_context.attributes)))
        return super().resolve_string_details(flag_key, default_value, evaluation_context)


def test_provider_receives_feeds_only() -> None:
    provider = Telling()
    use_provider(provider)
    ask()
    message = {"feed": "class_trade", "recipient": "CLASS", "environment": "local"}
    assert provider.contexts == [("class_trade", message)] * 4


def test_provider_is_loaded_by_its_path() -> None:
    start_flags(settings(flag_provider=f"{__name__}:made"), FEEDS)
    assert ask().mode is FeedMode.LIVE
    for path in ("no.such.module:x", f"{__name__}:nothing", "justtext"):
        with pytest.raises(FlagSettingsError, match="cannot load"):
            start_flags(settings(flag_provider=path), FEEDS)
    with pytest.raises(FlagSettingsError, match="CLASSFEED_FLAGS has no effect"):
        start_flags(settings({"mode": {"CLASS": "off"}}, flag_provider=f"{__name__}:made"), FEEDS)


def made() -> AbstractProvider:
    return stand_in(ALL)


# --- down ------------------------------------------------------------------------------------------------------------


class Down(Telling):
    """Can't be reached, from the beginning."""

    def initialize(self, evaluation_context: Any) -> None:
        raise ConnectionError("nobody there")


class Failing(Telling):
    """Was reached, and fails now."""

    def resolve_boolean_details(self, flag_key: str, default_value: bool, evaluation_context: Any = None) -> Any:
        raise TimeoutError("too slow")


def test_provider_down_switches_all_feeds_off() -> None:
    with capture_logs() as logged:
        use_provider(Down())
    assert [(entry["log_level"], entry["error_type"]) for entry in logged] == [("warning", "ConnectionError")]
    for feed in FEEDS:
        flags = ask(feed)
        assert flags.mode is FeedMode.OFF
        assert flags.errors == ("provider: ERROR",)
        assert flags.recorded["mode"] == "off"
        assert flags.recorded["errors"] == "provider: ERROR"


def test_provider_that_recovers_is_used_again() -> None:
    provider = Down()
    use_provider(provider)
    assert ask().mode is FeedMode.OFF
    provider.emit_provider_ready(ProviderEventDetails())
    assert ask().mode is FeedMode.SHADOW
    provider.emit_provider_stale(ProviderEventDetails())
    assert ask().mode is FeedMode.SHADOW


def test_missing_provider_switches_feeds_off() -> None:
    flags = ask(PLAIN)
    assert (flags.mode, flags.errors) == (FeedMode.OFF, ("provider: none was started",))


def test_failing_switch_switches_the_feed_off() -> None:
    use_provider(Failing())
    flags = ask(PLAIN)
    assert flags.mode is FeedMode.OFF
    assert [error.partition(":")[0] for error in flags.errors] == ["include-income", "include-drp"]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"mode": None}, "mode: FLAG_NOT_FOUND"),
        ({"mode": "on"}, "mode: INVALID_VALUE"),
        ({"mode": True}, "mode: TYPE_MISMATCH"),
        ({"portfolios": ""}, "portfolios: INVALID_VALUE"),
        ({"rendering": "unheard-of"}, "rendering: INVALID_VALUE"),
        ({"include-drp": "yes"}, "include-drp: TYPE_MISMATCH"),
    ],
)
def test_invalid_answer_switches_the_feed_off(changed: dict[str, Any], error: str) -> None:
    use_provider(stand_in({name: value for name, value in {**ALL, **changed}.items() if value is not None}))
    flags = ask()
    assert (flags.mode, flags.errors) == (FeedMode.OFF, (error,))


def test_flags_from_settings_use_openfeatures_in_memory_provider() -> None:
    provider = SettingsProvider({})
    assert isinstance(provider, InMemoryProvider)
    assert provider.resolve_boolean_details("x", True).error_code is ErrorCode.FLAG_NOT_FOUND
    use_provider(provider)
    assert api.get_provider_metadata(DOMAIN).name == "settings"


# --- the gate --------------------------------------------------------------------------------------------------------


def gate(
    run: int,
    *,
    feed: Feed = TRADE,
    mode: FeedMode = FeedMode.LIVE,
    override: str = "",
    last: FeedMode | None = FeedMode.SHADOW,
    broken_by: str | None = "2023-05-04, 2 unexplained",
) -> tuple[bool, bool, str]:
    card = Scorecard(feed.name, DAY, run, broken_by, ())
    flags = FeedFlags(feed.name, mode, live_override=override)
    verdict = live_gate(feed, flags, (DAY, last) if last else None, card, 10)
    return verdict.allowed, verdict.overridden, verdict.reason


def test_live_mode_needs_the_clean_run() -> None:
    assert gate(10)[:2] == gate(11, last=None)[:2] == (True, False)
    allowed, _, reason = gate(9)
    assert not allowed
    assert "class_trade may not go live: 9 of 10 clean dates in a row up to 2023-05-05" in reason
    assert "broken by 2023-05-04, 2 unexplained" in reason
    assert "broken by" not in gate(9, broken_by=None)[2]


def test_parity_override_is_explicit_and_reported() -> None:
    allowed, overridden, reason = gate(0, override="A. Person: agreed with Class")
    assert (allowed, overridden) == (True, True)
    assert "A. Person" in reason
    assert gate(10, override="A. Person: not needed any more")[1] is False


def test_live_feed_stays_live_and_others_need_no_parity() -> None:
    assert gate(0, last=FeedMode.LIVE)[0]
    assert gate(0, feed=PLAIN)[0]
    for mode in (FeedMode.OFF, FeedMode.SHADOW):
        assert gate(0, mode=mode)[0]
