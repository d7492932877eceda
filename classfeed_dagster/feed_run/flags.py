"""Asking for a feed's switches, through OpenFeature: from the settings, or from flagd, LaunchDarkly and the like.

Ask once an attempt, with ``attempt_flags``; what comes back is frozen, recorded, and used to the end.
What can't be had switches the feed off for this attempt, which loses nothing: the date stays to be delivered.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from openfeature.provider import FeatureProvider, ProviderStatus
from openfeature.provider.no_op_metadata import NoOpMetadata

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.feed_run.exclusion import exclude_each_other
from classfeed_dagster.feed_run.ssm_flags import FROM_SSM, FlagsProblem, ParameterStore, SsmProvider
from classfeed_dagster.feed_run.switch_values import (
    DECLARED,
    FROM_SETTINGS,
    FlagSettingsError,
    SettingsProvider,
    check_values,
)
from classfeed_dagster.feed_run.switches import FeedFlags, Switch, chosen_format
from classfeed_dagster.feeds.feed import STANDARD, Feed
from classfeed_dagster.feeds.portfolios import Portfolios
from classfeed_dagster.logs import get_logger
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster.stored_records import Record, from_json, sha256, to_json

if TYPE_CHECKING:
    from classfeed_dagster.parity.report import Scorecard

_SSM: list[SsmProvider] = []  # the provider in use, if it is SSM's
DOMAIN = "classfeed"  # OpenFeature's word for the part of a process that a provider serves
_V = TypeVar("_V")


def start_flags(settings: Settings, feeds: Iterable[Feed]) -> None:
    """Connect this process to its provider. Do it before anything asks; doing it again changes to other settings.

    FlagSettingsError if the settings name a switch, feed or recipient that does not exist, or a value that means
    nothing: a misspelt switch would be a dead one. A provider that can't be reached is no error here; until it
    answers, every feed is off.
    """
    declared = tuple(feeds)
    if settings.flag_provider == FROM_SETTINGS:
        use_provider(SettingsProvider(check_values(settings.flags, declared)))
        return
    if settings.flags:
        raise FlagSettingsError(
            f"CLASSFEED_FLAGS would do nothing: {settings.flag_provider} answers for switches. Unset one of the two"
        )
    use_provider(_ssm(settings, declared) if settings.flag_provider == FROM_SSM else _made(settings.flag_provider))


def flags_problem() -> FlagsProblem | None:
    """Return why the switches cannot be read at present, or None."""
    return _SSM[-1].problem if _SSM else None


def parameter_of(settings: Settings) -> ParameterStore:
    """Return the SSM parameter of the switches. FlagSettingsError if the settings name none."""
    if settings.flag_provider != FROM_SSM or settings.flags_parameter is None:
        raise FlagSettingsError(
            f"switches come from {settings.flag_provider}, not from SSM: change CLASSFEED_FLAGS, or set "
            "CLASSFEED_FLAG_PROVIDER=ssm and CLASSFEED_FLAGS_PARAMETER"
        )
    return ParameterStore(settings.flags_parameter, settings.ssm_endpoint_url)


def _ssm(settings: Settings, feeds: Sequence[Feed]) -> SsmProvider:
    parameter = parameter_of(settings)
    store = open_store(settings.store_location, s3_endpoint_url=settings.s3_endpoint_url)
    provider = SsmProvider(
        parameter,
        lambda values: check_values(values, feeds, parameter.name),
        store,
        seconds=settings.flags_seconds,
    )
    _SSM[:] = [provider]
    return provider


def use_provider(provider: FeatureProvider) -> None:
    """Let ``provider`` answer from now on, whether it is reachable or not."""
    if provider not in _SSM:
        _SSM.clear()
    try:
        api.set_provider_and_wait(provider, DOMAIN)
    except Exception as error:  # a provider may raise anything; it stays set, and its flags are errors until it answers
        get_logger().warning("the flag provider did not start; feeds are off", error_type=type(error).__name__)


def flag_values(feed: Feed, environment: Environment) -> FeedFlags:
    """The feed's switches as they are now. Never raises: what could not be had is in ``errors``, and the mode is off.

    The provider is told the feed (as targeting key), the recipient and the environment, nothing of customers.
    """
    client = api.get_client(DOMAIN)
    provider = api.get_provider_metadata(DOMAIN).name
    status = client.get_provider_status()
    if provider == NoOpMetadata().name:
        # OpenFeature's stand-in answers every question with the default, which would look like a decision.
        return _off(feed, provider, ["provider: none was started"])
    if status not in (ProviderStatus.READY, ProviderStatus.STALE):  # stale: the last values that it had
        return _off(feed, provider, [f"provider: {status.value}"])
    context = EvaluationContext(
        targeting_key=feed.name,
        attributes={"feed": feed.name, "recipient": feed.recipient, "environment": environment.value},
    )
    errors: list[str] = []

    def text(switch: Switch, declared: str) -> str:
        return _answer(switch, client.get_string_details(switch.value, declared, context), declared, errors)

    def yes(switch: Switch, declared: bool) -> bool:
        return _answer(switch, client.get_boolean_details(switch.value, declared, context), declared, errors)

    mode = _read(Switch.MODE, FeedMode, text(Switch.MODE, feed.mode.value), FeedMode.OFF, errors)
    selection = text(Switch.PORTFOLIOS, str(feed.portfolios))
    portfolios = _read(Switch.PORTFOLIOS, Portfolios.of, selection, feed.portfolios, errors)
    flags = FeedFlags(
        feed.name,
        mode,
        portfolios,
        yes(Switch.INCLUDE_INCOME, feed.include_income),
        yes(Switch.INCLUDE_DRP, feed.include_drp),
        text(Switch.RENDERING, STANDARD),
        text(Switch.LIVE_OVERRIDE, "").strip(),
        provider,
    )
    _read(Switch.RENDERING, lambda _: chosen_format(feed, flags), flags.rendering, feed.format, errors)
    return _off(feed, provider, errors) if errors else flags


class AttemptFlags(Record):
    """What one attempt at a business date found the switches to be: of its feed, and of those that it excludes."""

    feed: str
    business_date: dt.date
    correlation_id: str
    flags: dict[str, dict[str, str | int | bool]]  # as recorded, by feed


def attempt_flags(
    store: ObjectStore,
    environment: Environment,
    feed: Feed,
    feeds: Iterable[Feed],
    *,
    day: dt.date,
    correlation_id: str,
) -> dict[str, FeedFlags]:
    """The switches for one attempt, by feed: of ``feed`` and of those of ``feeds`` that it excludes.

    Asked once: the first step of an attempt puts the answers on record, the others read them there, in whatever
    process they run.
    """
    key = f"switches/{feed.name}/{day.isoformat()}/{sha256(correlation_id.encode())[:32]}.json"
    if not store.exists(key):
        asked = [feed, *(other for other in feeds if exclude_each_other(feed, other))]
        answers = {one.name: flag_values(one, environment).recorded for one in asked}
        record = AttemptFlags(feed=feed.name, business_date=day, correlation_id=correlation_id, flags=answers)
        store.create(key, to_json(record))
    kept = from_json(AttemptFlags, store.read(key), store.location(key))
    return {name: FeedFlags.from_recorded(name, values) for name, values in kept.flags.items()}


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Whether a feed may do what its mode says. ``overridden``: only because a person said so, on record."""

    allowed: bool
    reason: str
    overridden: bool = False


def live_gate(
    feed: Feed, flags: FeedFlags, last: tuple[dt.date, FeedMode] | None, scorecard: Scorecard, required: int
) -> GateVerdict:
    """May the feed go live? A feed that replaces an old app needs ``required`` clean dates in a row, or an override.

    ``last`` is the newest business date that the feed delivered, and where; the scorecard's run must end there. Once
    a date has gone live the feed stays live until it is switched back.
    """
    if flags.mode is not FeedMode.LIVE:
        return GateVerdict(True, f"{feed.name} is {flags.mode}: nothing reaches the recipient")
    if not feed.legacy:
        return GateVerdict(True, f"{feed.name} replaces no old app")
    if last is not None and last[1] is FeedMode.LIVE:
        return GateVerdict(True, f"{feed.name} has been live since {last[0].isoformat()} or longer")
    if scorecard.clean_run >= required:
        return GateVerdict(True, f"{scorecard.clean_run} clean dates in a row up to {scorecard.last.isoformat()}")
    state = f"{scorecard.clean_run} of {required} clean dates in a row up to {scorecard.last.isoformat()}"
    if flags.live_override:
        return GateVerdict(True, f"{state}; let live by a person: {flags.live_override}", overridden=True)
    broken = f", broken by {scorecard.broken_by}" if scorecard.broken_by else ""
    return GateVerdict(
        False,
        f"{feed.name} may not go live: {state}{broken}. Leave it in shadow, explain or mend what differs, or set the "
        f"switch {Switch.LIVE_OVERRIDE} to who decided otherwise and why",
    )


def _answer(switch: Switch, details: FlagEvaluationDetails[_V], declared: _V, errors: list[str]) -> _V:
    if details.error_code is not None or details.reason == Reason.ERROR:
        errors.append(f"{switch}: {details.error_code or Reason.ERROR}")
        return declared
    return declared if details.variant == DECLARED else details.value


def _read(switch: Switch, read: Callable[[str], _V], text: str, safe: _V, errors: list[str]) -> _V:
    try:
        return read(text)
    except ValueError:
        errors.append(f"{switch}: INVALID_VALUE")
        return safe


def _off(feed: Feed, provider: str, errors: Sequence[str]) -> FeedFlags:
    return FeedFlags(feed.name, FeedMode.OFF, provider=provider, errors=tuple(errors))


def _made(path: str) -> FeatureProvider:
    module, _, name = path.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise FlagSettingsError(
            f"CLASSFEED_FLAG_PROVIDER: {path} can't be loaded ({error}); write module:callable and install its package"
        ) from None
    provider: FeatureProvider = make()
    return provider


def is_live(feed: Feed, environment: Environment) -> bool:
    """True if the feed delivers to customers, as its switches say now; as it declares if they can't be had."""
    flags = flag_values(feed, environment)
    return (feed.mode if flags.errors else flags.mode) is FeedMode.LIVE
