"""Values of the switches: their form, checks, and OpenFeature's in-memory provider that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import Metadata
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feed_run.switches import FeedFlags, Switch, chosen_format
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.portfolios import Portfolios

FROM_SETTINGS = "settings"
DECLARED = "declared"  # variant without a value: the feed's declaration applies
_YES_OR_NO = frozenset({Switch.INCLUDE_INCOME, Switch.INCLUDE_DRP})

SwitchValues = Mapping[str, Mapping[str, bool | str]]  # switch, then feed or recipient, then value


class FlagSettingsError(ConfigurationError):
    """A switch, feed or recipient does not exist, or a value is invalid."""


class SettingsProvider(InMemoryProvider):
    """OpenFeature's in-memory provider over values by switch, then by feed or recipient; the feed's own entry wins."""

    def __init__(self, values: SwitchValues) -> None:
        super().__init__({switch.value: _flag(switch, values.get(switch.value, {})) for switch in Switch})

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata(name=FROM_SETTINGS)


def _flag(switch: Switch, entries: Mapping[str, bool | str]) -> InMemoryFlag[Any]:
    neutral: bool | str = False if switch in _YES_OR_NO else ""

    def resolve(_flag: InMemoryFlag[Any], context: EvaluationContext) -> FlagResolutionDetails[Any]:
        for name in (context.targeting_key, context.attributes.get("recipient")):
            if isinstance(name, str) and name in entries:
                return FlagResolutionDetails(entries[name], reason=Reason.TARGETING_MATCH, variant=name)
        return FlagResolutionDetails(neutral, reason=Reason.DEFAULT, variant=DECLARED)

    return InMemoryFlag(DECLARED, {DECLARED: neutral, **entries}, context_evaluator=resolve)


def check_values(values: SwitchValues, feeds: Sequence[Feed], source: str = "CLASSFEED_FLAGS") -> SwitchValues:
    """Return the values. FlagSettingsError if one would have no effect, such as that of a misspelt switch."""
    for name, entries in values.items():
        if name not in {switch.value for switch in Switch}:
            raise FlagSettingsError(f"{source}: unknown switch {name!r}: use one of {', '.join(Switch)}")
        for target, value in entries.items():
            concerned = [feed for feed in feeds if target in (feed.name, feed.recipient)]
            if not concerned:
                raise FlagSettingsError(f"{source}: {name}: unknown feed or recipient {target!r}")
            for feed in concerned:
                _check_value(Switch(name), feed, value, source)
    return values


def parse_value(switch: Switch, text: str) -> bool | str:
    """Parse a value typed by a person: true and false are truth values for switches that have them."""
    if switch in _YES_OR_NO and text in ("true", "false"):
        return text == "true"
    return text


def _check_value(switch: Switch, feed: Feed, value: bool | str, source: str) -> None:
    if isinstance(value, bool) is not (switch in _YES_OR_NO):
        raise FlagSettingsError(
            f"{source}: {switch} of {feed.name} must be {'true or false' if switch in _YES_OR_NO else 'text'}"
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
        raise FlagSettingsError(f"{source}: {switch} of {feed.name}: {error}") from None
