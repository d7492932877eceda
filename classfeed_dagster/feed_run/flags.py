"""Asking for a feed's switches, through OpenFeature: from the settings, or from flagd, LaunchDarkly and the like.

Ask once an attempt, with ``attempt_flags``; what comes back is frozen, recorded, and used to the end.
What can't be had switches the feed off for this attempt, which loses nothing: the date stays to be delivered.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, FeatureProvider, Metadata, ProviderStatus
from openfeature.provider.no_op_metadata import NoOpMetadata

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feed_run.exclusion import exclude_each_other
from classfeed_dagster.feed_run.switches import FeedFlags, Switch, chosen_format
from classfeed_dagster.feeds.feed import STANDARD, Feed
from classfeed_dagster.feeds.portfolios import Portfolios
from classfeed_dagster.logs import get_logger
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Record, from_json, sha256, to_json

if TYPE_CHECKING:
    from classfeed_dagster.parity.report import Scorecard

DOMAIN = "classfeed"  # OpenFeature's word for the part of a process that a provider serves
FROM_SETTINGS = "settings"
_DECLARED = "declared"  # the variant that says: no opinion, the feed's declaration holds
_YES_OR_NO = frozenset({Switch.INCLUDE_INCOME, Switch.INCLUDE_DRP})
_V = TypeVar("_V")


class FlagSettingsError(ConfigurationError):
    """The settings switch something that does not exist, or to a value that means nothing."""


class SettingsProvider(AbstractProvider):
    """The in-process provider: values by switch, then by feed or recipient; the feed's own entry wins."""

    def __init__(self, values: Mapping[str, Mapping[str, bool | str]]) -> None:
        super().__init__()
        self._values = values

    def get_metadata(self) -> Metadata:
        """The provider's name."""
        return Metadata(name=FROM_SETTINGS)

    def _resolve(
        self, flag_key: str, default_value: _V, evaluation_context: EvaluationContext | None
    ) -> FlagResolutionDetails[_V]:
        context = evaluation_context or EvaluationContext()
        entries: Mapping[str, Any] = self._values.get(flag_key, {})
        for name in (context.targeting_key, context.attributes.get("recipient")):
            if isinstance(name, str) and name in entries:
                return FlagResolutionDetails(entries[name], reason=Reason.TARGETING_MATCH, variant=name)
        return FlagResolutionDetails(default_value, reason=Reason.DEFAULT, variant=_DECLARED)

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """See OpenFeature."""
        return self._resolve(flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """See OpenFeature."""
        return self._resolve(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """See OpenFeature."""
        return self._resolve(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """See OpenFeature."""
        return self._resolve(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """See OpenFeature."""
        return self._resolve(flag_key, default_value, evaluation_context)


def start_flags(settings: Settings, feeds: Iterable[Feed]) -> None:
    """Connect this process to its provider. Do it before anything asks; doing it again changes to other settings.

    FlagSettingsError if the settings name a switch, feed or recipient that does not exist, or a value that means
    nothing: a misspelt switch would be a dead one. A provider that can't be reached is no error here; until it
    answers, every feed is off.
    """
    if settings.flag_provider == FROM_SETTINGS:
        provider: FeatureProvider = SettingsProvider(_checked(settings.flags, tuple(feeds)))
    else:
        if settings.flags:
            raise FlagSettingsError(
                f"CLASSFEED_FLAGS would do nothing: {settings.flag_provider} answers for switches. Unset one of the two"
            )
        provider = _made(settings.flag_provider)
    use_provider(provider)


def use_provider(provider: FeatureProvider) -> None:
    """Let ``provider`` answer from now on, whether it is reachable or not."""
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
    return declared if details.variant == _DECLARED else details.value


def _read(switch: Switch, read: Callable[[str], _V], text: str, safe: _V, errors: list[str]) -> _V:
    try:
        return read(text)
    except ValueError:
        errors.append(f"{switch}: INVALID_VALUE")
        return safe


def _off(feed: Feed, provider: str, errors: Sequence[str]) -> FeedFlags:
    return FeedFlags(feed.name, FeedMode.OFF, provider=provider, errors=tuple(errors))


def _checked(
    values: Mapping[str, Mapping[str, bool | str]], feeds: Sequence[Feed]
) -> Mapping[str, Mapping[str, bool | str]]:
    for name, entries in values.items():
        if name not in {switch.value for switch in Switch}:
            raise FlagSettingsError(f"CLASSFEED_FLAGS: there is no switch {name!r}; there are {', '.join(Switch)}")
        for whose, value in entries.items():
            concerned = [feed for feed in feeds if whose in (feed.name, feed.recipient)]
            if not concerned:
                raise FlagSettingsError(f"CLASSFEED_FLAGS: {name}: there is no feed or recipient {whose!r}")
            for feed in concerned:
                _check_value(Switch(name), feed, value)
    return values


def _check_value(switch: Switch, feed: Feed, value: bool | str) -> None:
    if isinstance(value, bool) is not (switch in _YES_OR_NO):
        raise FlagSettingsError(
            f"CLASSFEED_FLAGS: {switch} of {feed.name} must be {'true or false' if switch in _YES_OR_NO else 'text'}"
        )
    try:
        match switch:
            case Switch.MODE:
                FeedMode(str(value))
            case Switch.PORTFOLIOS:
                Portfolios.of(str(value))
            case Switch.RENDERING:
                chosen_format(feed, FeedFlags(feed.name, FeedMode.OFF, rendering=str(value)))
    except ValueError as error:
        raise FlagSettingsError(f"CLASSFEED_FLAGS: {switch} of {feed.name}: {error}") from None


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
