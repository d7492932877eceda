"""Resolution of a feed's switches through OpenFeature: from the settings, or from a provider such as flagd.

An attempt resolves its switches once, with ``attempt_flags``. The result is frozen, recorded and used to its end.
If a switch cannot be resolved, the feed is off for this attempt. The date stays pending.
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
from classfeed_dagster.stored_records import StoredRecord, read_record, sha256, to_json

if TYPE_CHECKING:
    from classfeed_dagster.parity.comparison import Scorecard

_SSM: list[SsmProvider] = []  # the provider in use, if it is SSM's
DOMAIN = "classfeed"  # OpenFeature's domain: the part of a process that a provider serves
_V = TypeVar("_V")


def start_flags(settings: Settings, feeds: Iterable[Feed]) -> None:
    """Connect this process to its provider. Call before the first resolution; another call applies other settings.

    Raise FlagSettingsError if the settings name an unknown switch, feed, recipient or value, since a misspelt switch
    would have no effect. An unreachable provider is not an error; until it responds, every feed is off.
    """
    declared = tuple(feeds)
    if settings.flag_provider == FROM_SETTINGS:
        use_provider(SettingsProvider(check_values(settings.flags, declared)))
        return
    if settings.flags:
        raise FlagSettingsError(
            f"CLASSFEED_FLAGS has no effect: switches come from {settings.flag_provider} "
            "(CLASSFEED_FLAG_PROVIDER). Unset one of the two"
        )
    use_provider(
        _ssm(settings, declared) if settings.flag_provider == FROM_SSM else _load_provider(settings.flag_provider)
    )


def flags_problem() -> FlagsProblem | None:
    """Return why the switches cannot be read at present, or None."""
    return _SSM[-1].problem if _SSM else None


def parameter_of(settings: Settings) -> ParameterStore:
    """Return the SSM parameter of the switches. FlagSettingsError if the settings name none."""
    if settings.flag_provider == FROM_SSM and settings.flags_parameter is None:
        raise FlagSettingsError("CLASSFEED_FLAG_PROVIDER=ssm needs the parameter's name: set CLASSFEED_FLAGS_PARAMETER")
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
    """Resolve all switches by ``provider`` from now on, whether it is reachable or not."""
    if provider not in _SSM:
        _SSM.clear()
    try:
        api.set_provider_and_wait(provider, DOMAIN)
    except Exception as error:  # a provider may raise anything; it stays set, and feeds are off until it responds
        get_logger().warning("the flag provider did not start; feeds are off", error_type=type(error).__name__)


def flag_values(feed: Feed, environment: Environment) -> FeedFlags:
    """Return the feed's current switches. Never raises: unresolved switches are in ``errors``, and the mode is off.

    The provider receives the feed (as targeting key), the recipient and the environment, no customer data.
    """
    client = api.get_client(DOMAIN)
    provider = api.get_provider_metadata(DOMAIN).name
    status = client.get_provider_status()
    if provider == NoOpMetadata().name:
        # OpenFeature's no-op provider returns every default, which would look like a decision.
        return _off(feed, provider, ["provider: none was started"])
    if status not in (ProviderStatus.READY, ProviderStatus.STALE):  # stale: the last known values
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


class AttemptFlags(StoredRecord):
    """The switches that one attempt at a business date resolved: of its feed and of the feeds that it excludes."""

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
    """Return the switches for one attempt, by feed: of ``feed`` and of those of ``feeds`` that it excludes.

    The first step of an attempt resolves and records them; the other steps read the record, in any process.
    """
    key = f"switches/{feed.name}/{day.isoformat()}/{sha256(correlation_id.encode())[:32]}.json"
    if not store.exists(key):
        concerned = [feed, *(other for other in feeds if exclude_each_other(feed, other))]
        values = {each.name: flag_values(each, environment).recorded for each in concerned}
        record = AttemptFlags(feed=feed.name, business_date=day, correlation_id=correlation_id, flags=values)
        store.create(key, to_json(record))
    recorded = read_record(store, AttemptFlags, key)
    return {name: FeedFlags.from_recorded(name, values) for name, values in recorded.flags.items()}


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Permission of a feed's mode. ``overridden``: granted only by a person's recorded override."""

    allowed: bool
    reason: str
    overridden: bool = False


def live_gate(
    feed: Feed, flags: FeedFlags, last: tuple[dt.date, FeedMode] | None, scorecard: Scorecard, required: int
) -> GateVerdict:
    """Return the permission to go live: ``required`` clean dates in a row or an override, if it replaces an old app.

    ``last`` is the newest business date that the feed delivered, and its mode; the scorecard's run must end there.
    Once a date has been delivered live, the feed stays live until it is switched back.
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
        return GateVerdict(True, f"{state}; allowed by a person: {flags.live_override}", overridden=True)
    broken_by = f", broken by {scorecard.broken_by}" if scorecard.broken_by else ""
    return GateVerdict(
        False,
        f"{feed.name} may not go live: {state}{broken_by}. Leave it in shadow, explain or fix the differences, or set "
        f"the switch {Switch.LIVE_OVERRIDE} to the name of the person who decides otherwise, and the reason",
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


def _load_provider(path: str) -> FeatureProvider:
    module, _, name = path.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise FlagSettingsError(
            f"CLASSFEED_FLAG_PROVIDER: cannot load {path} ({error}): use module:callable and install its package"
        ) from None
    provider: FeatureProvider = make()
    return provider


def is_live(feed: Feed, environment: Environment) -> bool:
    """Return True if the feed's switches make it live; if they cannot be resolved, its declaration decides."""
    flags = flag_values(feed, environment)
    return (feed.mode if flags.errors else flags.mode) is FeedMode.LIVE
