"""The switches of a feed: names, values of one attempt, and their effect on the data.

``flags.py`` resolves them. The values are frozen once per attempt and recorded in the build and the manifest, so that
nothing changes between the document and its delivery.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.domains.ledger_rows import LEDGER_RECORDS, REVERSED_TYPE, landed_since
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feeds.feed import STANDARD, Feed
from classfeed_dagster.feeds.portfolios import ALL_PORTFOLIOS, Portfolios

_ERRORS = "errors"


class Switch(enum.StrEnum):
    """Every switch, by its name at the provider. Other names are refused."""

    MODE = "mode"  # off, shadow or live
    PORTFOLIOS = "portfolios"  # portfolios that the feed may carry, see Portfolios
    INCLUDE_INCOME = "include-income"  # dividends, distributions, interest: some recipients derive their own
    INCLUDE_DRP = "include-drp"  # units from dividend reinvestment: some recipients derive their own
    RENDERING = "rendering"  # name of the feed's rendering to use
    LIVE_OVERRIDE = "live-override"  # a person's reason to go live before parity allows it


class SwitchValueError(ConfigurationError):
    """An invalid value of a switch. The message names the switch and the valid values."""


@dataclass(frozen=True, slots=True)
class FeedFlags:
    """The switches of one feed in one attempt. ``errors`` lists unresolved switches with their reason.

    With an error the feed is off: nothing is delivered or recorded, so the date stays pending. A delivery to the
    shadow would count the date as delivered, and the recipient would never get it.
    """

    feed: str
    mode: FeedMode
    portfolios: Portfolios = ALL_PORTFOLIOS
    include_income: bool = True
    include_drp: bool = True
    rendering: str = STANDARD
    live_override: str = ""
    provider: str = ""
    errors: tuple[str, ...] = ()

    @property
    def recorded(self) -> dict[str, str | int | bool]:
        """Return the values in the form that builds and manifests record. Equal flags give equal records."""
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
        """Return the flags recorded in a build or a manifest. A delivery uses these and never resolves them again."""
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
    """Return one slice's domain frames without the rows that the switches exclude. Defaults exclude nothing.

    Cash rows of income or reinvestment stay, since they are part of the balance. No row refers to one that is left out.
    """
    filtered = dict(frames)
    movements = filtered.get("movement_transactions")
    if movements is None:
        return filtered
    if not flags.include_income:
        movements = movements.filter(~pl.col("transaction_id").str.starts_with("I"))
        of_income = pl.col("relates_to").str.starts_with("I").fill_null(value=False)
        movements = movements.with_columns(pl.when(~of_income).then("relates_to").alias("relates_to"))
    if not flags.include_drp:
        movements = movements.filter(pl.col("transaction_type") != "DRP")
        records = filtered.get(LEDGER_RECORDS.name, LEDGER_RECORDS.empty())
        undone = records.filter(landed_since(records, REVERSED_TYPE, pl.String()) == "DRP")["transaction_id"]
        of_drp = pl.col("transaction_id").is_in(undone.implode())
        movements = movements.with_columns(pl.when(~of_drp).then("reverses").alias("reverses"))
    filtered["movement_transactions"] = movements
    return filtered


def carried(consented: pl.DataFrame, flags: FeedFlags) -> pl.DataFrame:
    """Return the rows (with ``portfolio_number``) of portfolios that the feed may carry."""
    if not flags.portfolios.numbers:
        return consented
    in_list = pl.col("portfolio_number").is_in(sorted(flags.portfolios.numbers))
    return consented.filter(~in_list if flags.portfolios.all_but else in_list)


def chosen_format(feed: Feed, flags: FeedFlags) -> DocumentFormat:
    """Return the rendering that the switch selects; raise SwitchValueError if the feed has none of that name."""
    if flags.rendering == STANDARD:
        return feed.format
    if flags.rendering not in feed.renderings:
        raise SwitchValueError(
            f"{feed.name} has no rendering {flags.rendering!r}; the switch {Switch.RENDERING} may be "
            f"{', '.join(sorted([STANDARD, *feed.renderings]))}"
        )
    return feed.renderings[flags.rendering]
