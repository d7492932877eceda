"""Who shares data with the recipient on a business date, worked out once and used by everything after.

The rule of consent itself is bigsite.consent's; here it becomes a frame, and the roll from the date before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import polars as pl

from classfeed_dagster.bigsite.consent import Change, Consent, sharing, standings
from classfeed_dagster.bigsite.queries import CONSENT_TABLE
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS
from classfeed_dagster.domains.slice import NUMBER, Tables
from classfeed_dagster.schedules import RecipientSchedule

EXTRACTS = {Change.NEW: "FULL", Change.CURRENT: "DELTA", Change.REMOVED: "NONE"}
_FIELDS = tuple(Consent.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class ConsentRoll:
    """How the set of consented portfolios got from the audience's date before to this one.

    ``balanced``: the portfolios before, plus the new, less the removed, are exactly those now. What share of removals
    is a jump, and whether a person released it, is decided where the document is judged.
    """

    previous: int
    new: int
    removed: int
    current: int
    balanced: bool
    removed_numbers: tuple[str, ...]

    @property
    def removed_share(self) -> Decimal:
        """Removed portfolios as a share of those before; 0 if there were none."""
        return Decimal(self.removed) / self.previous if self.previous else Decimal(0)

    @property
    def none_left(self) -> bool:
        """True if there were portfolios and now there is none."""
        return self.previous > 0 and self.current == 0


def consents_of(tables: Tables) -> list[Consent]:
    """The landed consents as the rule of consent takes them."""
    return [Consent(*row) for row in tables[CONSENT_TABLE].select(_FIELDS).iter_rows()]


def consented_portfolios(tables: Tables, audience: RecipientSchedule, business_date: dt.date) -> pl.DataFrame:
    """NEW, CURRENT and REMOVED portfolios as CONSENTED_PORTFOLIOS. ValueError if the audience isn't due on the date."""
    window, first = audience.window(business_date), audience.is_first(business_date)
    rows = [
        (
            shared.standing.portfolio_id,
            shared.standing.portfolio_number,
            shared.standing.recipient_reference,
            shared.change.value,
            EXTRACTS[shared.change],
            shared.standing.history_from,
            list(shared.standing.consent_ids),
        )
        for shared in sharing(consents_of(tables), audience.recipient, window, first=first)
    ]
    return CONSENTED_PORTFOLIOS.conform(pl.DataFrame(rows, schema=CONSENTED_PORTFOLIOS.schema, orient="row"))


def consent_roll(
    consents: Iterable[Consent], consented: pl.DataFrame, audience: RecipientSchedule, business_date: dt.date
) -> ConsentRoll:
    """The roll of consent over a whole business date.

    Who was consented before, and who is now, comes from ``consents``; the changes from the frame ``consented``. On
    the audience's first date nobody was before.
    """
    listed = list(consents)
    window = audience.window(business_date)

    def held(at: dt.datetime) -> set[str]:
        return {standing.portfolio_number for standing in standings(listed, audience.recipient, at).values()}

    before = set() if audience.is_first(business_date) else held(window.start)
    now = held(window.end)
    changed = {
        change: set(consented.filter(pl.col("change") == change.value)[NUMBER].to_list())
        for change in (Change.NEW, Change.REMOVED)
    }
    # A portfolio that another fund of the recipient gets is NEW, and was shared before as well.
    moved = changed[Change.NEW] & before
    new, removed = changed[Change.NEW] - before, changed[Change.REMOVED]
    balanced = (before | new) - removed == now and moved <= now and removed <= before
    return ConsentRoll(len(before), len(new), len(removed), len(now), balanced, tuple(sorted(removed)))
