"""Refreshes on request of the support group: one portfolio in full, with the feed's latest delivered date.

The request has the permission, budget and record of a re-run. In addition the portfolio must consent at the moment and
must not be held back. The run that follows delivers it as a revision of the date; see docs/adr/0019.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classfeed_dagster.bigsite.consent import standings
from classfeed_dagster.bigsite.portfolio_number import UnknownPortfolioError
from classfeed_dagster.delivery.chain import last_place
from classfeed_dagster.delivery.delivery_history import latest_date, live_and_shadow
from classfeed_dagster.delivery.feed_mode import shadow_key
from classfeed_dagster.delivery.refreshes import Refresh, record_refresh
from classfeed_dagster.errors import DeliveryError
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.support import reruns
from classfeed_dagster.support.customer import portfolio_consents, read_date
from classfeed_dagster.support.portfolio_search import PortfolioSearch
from classfeed_dagster.trading_days import cutoff

if TYPE_CHECKING:
    from classfeed_dagster.feeds.feed import Feed


class RefreshNotDeliveredError(DeliveryError):
    """A refresh's run ended without a delivery of the portfolio in full."""


@dataclass(frozen=True, slots=True)
class _Decision:
    refusal: str | None
    early: bool = False
    consented_at: dt.datetime | None = None


def refreshed_date(runtime: Runtime, feed: Feed) -> dt.date:
    """Return the date that a refresh of ``feed`` re-issues now: its latest delivered one. RerunRefusedError if none."""
    latest = latest_date(runtime.store, feed.name)
    if latest is None:
        raise reruns.RerunRefusedError(
            f"{feed.name} has delivered no business date to {feed.recipient}: "
            "its first delivery sends every portfolio in full"
        )
    return latest


def request_refresh(
    runtime: Runtime,
    feed: Feed,
    number: str,
    requester: reruns.Requester,
    reason: str,
    *,
    under_way: Callable[[dt.date], bool],
    mode: str,
    correlation_id: str,
) -> tuple[str, dt.date]:
    """Record a granted refresh; return the request's key and the business date to run.

    ``under_way`` is true while a run of a date is queued or running; ``mode`` is the feed's mode now. Raise
    RerunRefusedError if it is not granted, SourceReadError if bigsite cannot be reached.
    """
    settings, store = runtime.settings, runtime.store
    if not reruns.is_number(number):
        raise reruns.RerunRefusedError("a portfolio number has letters, digits and . _ : -, at most 64")
    day = refreshed_date(runtime, feed)
    dates = feed.audience(settings.first_business_date).dates_between(day, dt.date.max)
    decisions: list[_Decision] = []

    def refusal() -> str | None:
        decisions.append(_decide(runtime, feed, number, day, mode))
        return decisions[-1].refusal

    key, record = reruns.request_rerun(
        store,
        feed,
        settings.first_business_date,
        day,
        requester,
        reason,
        rules=reruns.RerunPolicy.of(settings),
        under_way=lambda: any(map(under_way, dates[:2])),
        at=utc_now(settings.now),
        correlation_id=correlation_id,
        portfolio_number=number,
        refusal_of_portfolio=refusal,
    )
    decision = decisions[-1]
    refresh = Refresh(
        feed=feed.name,
        business_date=day,
        portfolio_number=number,
        early=decision.early,
        consented_at=decision.consented_at or record.requested_at,
        requested_at=record.requested_at,
        request=key,
        correlation_id=correlation_id,
    )
    record_refresh(store, refresh)  # it exists if an earlier run of it failed
    return key, day


def require_refreshed(runtime: Runtime, feed: Feed, number: str, day: dt.date) -> None:
    """Raise RefreshNotDeliveredError unless the latest delivery of the portfolio on the date is in full."""
    disclosures, held_back = read_date(runtime.store, feed, day, PortfolioSearch(runtime.store, number))
    live = [entry for entry in disclosures if not entry.shadow]
    if not live or live[-1].extract != "FULL":
        why = f": {held_back.explanation}" if held_back is not None and held_back.released_at is None else ""
        raise RefreshNotDeliveredError(
            f"{number} was not sent in full with {day.isoformat()}{why or ''}. See classfeed customer {number}, and "
            "request it again after the cause is removed"
        )


def _decide(runtime: Runtime, feed: Feed, number: str, day: dt.date, mode: str) -> _Decision:
    if mode != "live":
        return _Decision(
            f"{feed.name} is {'switched off' if mode == 'off' else 'in shadow'}: nothing of it reaches {feed.recipient}"
        )
    blocked = _blocked(runtime, feed, day)
    if blocked is not None:
        return _Decision(blocked)
    try:
        at, consents = portfolio_consents(runtime, number, [feed.recipient])
    except UnknownPortfolioError as error:
        return _Decision(str(error))
    if not standings(consents, feed.recipient, at):
        return _Decision(
            f"{number} does not consent to sharing with {feed.recipient} now: the customer has to consent first"
        )
    disclosures, held_back = read_date(runtime.store, feed, day, PortfolioSearch(runtime.store, number))
    live = [entry for entry in disclosures if not entry.shadow]
    if live and live[-1].extract == "FULL":
        return _Decision(
            f"{number} was sent in full with {day.isoformat()} (revision {live[-1].revision}): run that date again if "
            "bigsite was corrected since, or wait for the next date"
        )
    if held_back is not None and held_back.released_at is None:
        return _Decision(f"{number} is held back on {day.isoformat()}. {held_back.explanation}")
    if live and live[-1].change != "REMOVED":
        return _Decision(None, consented_at=at)
    if standings(consents, feed.recipient, cutoff(day)):
        return _Decision(
            f"{number} consented in time but {feed.name} does not carry it on {day.isoformat()}: see classfeed "
            f"customer {number}"
        )
    if not feed.sends_new_at_once:
        return _Decision(
            f"{number} consented after the cut-off of {day.isoformat()}: {feed.name} sends it in full with the first "
            "business date after its consent, automatically"
        )
    return _Decision(None, early=True, consented_at=at)


def _blocked(runtime: Runtime, feed: Feed, day: dt.date) -> str | None:
    place = last_place(live_and_shadow(runtime.store, feed.name), feed.name)
    if place is None or place.manifest is None:
        entry = day if place is None else place.entry.business_date
        return (
            f"the delivery of {entry.isoformat()} has begun and is not finished, which blocks the feed's chain: wait "
            "for its run, or run that date again"
        )
    if runtime.store.exists(shadow_key(place.manifest.key)):
        return f"the latest delivery of {feed.name} is in shadow: nothing of it reaches {feed.recipient}"
    return None
