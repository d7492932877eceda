"""The switches of a feed: which there are, what they were found to be for one attempt, and what they do to the data.

Asking for them is ``flags.py``. Here is what a build carries and its manifest records: values frozen once
an attempt, so that nothing flips between the document and its delivery.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feeds.feed import STANDARD, Feed
from classfeed_dagster.feeds.portfolios import EVERYBODY, Portfolios

_ERRORS = "errors"


class Switch(enum.StrEnum):
    """Every switch, by its name at the provider. A name that isn't here does not exist."""

    MODE = "mode"  # off, shadow or live
    PORTFOLIOS = "portfolios"  # which portfolios the feed may carry, see Portfolios
    INCLUDE_INCOME = "include-income"  # dividends, distributions, interest: some recipients derive their own
    INCLUDE_DRP = "include-drp"  # units from dividend reinvestment: likewise
    RENDERING = "rendering"  # which of the feed's renderings makes the document
    LIVE_OVERRIDE = "live-override"  # why a person lets the feed go live before its parity allows it


class SwitchValueError(ConfigurationError):
    """A switch has a value that means nothing. The message names the switch and what it may be."""


@dataclass(frozen=True, slots=True)
class FeedFlags:
    """The switches of one feed as one attempt found them. ``errors`` says which could not be had, and why.

    With an error the feed is off: nothing is delivered or recorded, so the date stays to be done. Going on in
    shadow would count the date as delivered, and the recipient would never get it.
    """

    feed: str
    mode: FeedMode
    portfolios: Portfolios = EVERYBODY
    include_income: bool = True
    include_drp: bool = True
    rendering: str = STANDARD
    live_override: str = ""
    provider: str = ""
    errors: tuple[str, ...] = ()

    @property
    def recorded(self) -> dict[str, str | int | bool]:
        """The values as the build and the manifest keep them; equal flags, equal record."""
        values: dict[str, str | int | bool] = {
            Switch.MODE.value: self.mode.value,
            Switch.PORTFOLIOS.value: str(self.portfolios),
            Switch.INCLUDE_INCOME.value: self.include_income,
            Switch.INCLUDE_DRP.value: self.include_drp,
            Switch.RENDERING.value: self.rendering,
            "provider": self.provider,
        }
        if self.live_override:
            values[Switch.LIVE_OVERRIDE.value] = self.live_override
        if self.errors:
            values[_ERRORS] = "; ".join(self.errors)
        return values

    @classmethod
    def from_recorded(cls, feed: str, values: Mapping[str, str | int | bool]) -> FeedFlags:
        """The flags that a build or a manifest keeps: what delivers must use these, not ask again."""
        errors = str(values.get(_ERRORS, ""))
        return cls(
            feed,
            FeedMode(str(values[Switch.MODE])),
            Portfolios.of(str(values[Switch.PORTFOLIOS])),
            bool(values[Switch.INCLUDE_INCOME]),
            bool(values[Switch.INCLUDE_DRP]),
            str(values[Switch.RENDERING]),
            str(values.get(Switch.LIVE_OVERRIDE, "")),
            str(values["provider"]),
            tuple(errors.split("; ")) if errors else (),
        )


def switched_frames(frames: Mapping[str, pl.DataFrame], flags: FeedFlags) -> dict[str, pl.DataFrame]:
    """One slice's domain frames without what the switches leave out. With every switch at its default: unchanged.

    Cash that income or reinvestment moved stays: it is in the balance.
    """
    kept = dict(frames)
    movements = kept.get("movement_transactions")
    if movements is None:
        return kept
    if not flags.include_income:
        movements = movements.filter(~pl.col("transaction_id").str.starts_with("I"))
    if not flags.include_drp:
        movements = movements.filter(pl.col("transaction_type") != "DRP")
    kept["movement_transactions"] = movements
    return kept


def carried(consented: pl.DataFrame, flags: FeedFlags) -> pl.DataFrame:
    """Those rows (a column ``portfolio_number``) whose portfolio the feed may carry; no other is its business."""
    if not flags.portfolios.numbers:
        return consented
    listed = pl.col("portfolio_number").is_in(sorted(flags.portfolios.numbers))
    return consented.filter(~listed if flags.portfolios.all_but else listed)


def chosen_format(feed: Feed, flags: FeedFlags) -> DocumentFormat:
    """The rendering that the switch picks; SwitchValueError if the feed has none of that name."""
    if flags.rendering == STANDARD:
        return feed.format
    if flags.rendering not in feed.renderings:
        raise SwitchValueError(
            f"{feed.name} has no rendering {flags.rendering!r}; the switch {Switch.RENDERING} may be "
            f"{', '.join(sorted([STANDARD, *feed.renderings]))}"
        )
    return feed.renderings[flags.rendering]
