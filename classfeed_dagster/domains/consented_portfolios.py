"""The portfolios that share data with a recipient on a business date, and the consent roll-forward.

``bigsite.consent`` implements the rule of consent. This module turns its result into a frame.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import polars as pl

from classfeed_dagster.bigsite.consent import Consent, counted_early, sharing, standings
from classfeed_dagster.bigsite.consent_change import Change
from classfeed_dagster.bigsite.queries import CONSENT_TABLE
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS
from classfeed_dagster.domains.slice import NUMBER, Tables
from classfeed_dagster.schedules import RecipientSchedule

_FIELDS = tuple(Consent.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class ConsentRoll:
    """The roll-forward of the consented portfolios from the previous date to this one.

    ``balanced``: the previous portfolios, plus the new, less the removed, are exactly the current ones. The check
    ``consent_roll`` decides whether the removals are unusually many and whether a person approved them.
    """

    previous: int
    new: int
    removed: int
    current: int
    balanced: bool
    removed_numbers: tuple[str, ...]

    @property
    def removed_share(self) -> Decimal:
        """Return the removed portfolios as a share of the previous ones; 0 if there were none."""
        return Decimal(self.removed) / self.previous if self.previous else Decimal(0)

    def exceeds(self, max_removed_share: Decimal) -> bool:
        """Return True if a person must approve the removals: a larger share at once, or no portfolio is left."""
        return self.removed_share > max_removed_share or (self.previous > 0 and self.current == 0)


def consents_of(tables: Tables) -> list[Consent]:
    """Return the landed consents as input of the rule of consent."""
    return [Consent(*row) for row in tables[CONSENT_TABLE].select(_FIELDS).iter_rows()]


def consented_portfolios(tables: Tables, audience: RecipientSchedule, business_date: dt.date) -> pl.DataFrame:
    """Return NEW, CURRENT and REMOVED portfolios as CONSENTED_PORTFOLIOS. Raise ValueError if no document is due."""
    window, first = audience.window(business_date), audience.is_first(business_date)
    rows = [
        (
            shared.standing.portfolio_id,
            shared.standing.portfolio_number,
            shared.standing.recipient_reference,
            shared.change.value,
            shared.extract,
            shared.standing.history_from,
            list(shared.standing.consent_ids),
        )
        for shared in sharing(
            consents_of(tables), audience.recipient, window, first=first, refreshed=audience.refreshed
        )
    ]
    return CONSENTED_PORTFOLIOS.conform(pl.DataFrame(rows, schema=CONSENTED_PORTFOLIOS.schema, orient="row"))


def consent_roll(
    consents: Iterable[Consent], consented: pl.DataFrame, audience: RecipientSchedule, business_date: dt.date
) -> ConsentRoll:
    """Return the consent roll-forward of a business date.

    The previous and current portfolios are those of ``consents``, the changes those of the frame ``consented``. On the
    first date there are no previous portfolios.
    """
    listed = counted_early(consents, audience.refreshed.early)
    window = audience.window(business_date)

    def consented_at(at: dt.datetime) -> set[str]:
        return {standing.portfolio_number for standing in standings(listed, audience.recipient, at).values()}

    before = set() if audience.is_first(business_date) else consented_at(window.start)
    now = consented_at(window.end)
    changed = {
        change: set(consented.filter(pl.col("change") == change.value)[NUMBER].to_list())
        for change in (Change.NEW, Change.REMOVED)
    }
    # A portfolio that another fund of the recipient gets is NEW, and was shared before as well.
    moved = changed[Change.NEW] & before
    new, removed = changed[Change.NEW] - before, changed[Change.REMOVED]
    balanced = (before | new) - removed == now and moved <= now and removed <= before
    return ConsentRoll(len(before), len(new), len(removed), len(now), balanced, tuple(sorted(removed)))
