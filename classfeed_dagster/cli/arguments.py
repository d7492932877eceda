"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from classfeed_dagster.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.settings import Settings

Date = Annotated[dt.datetime, typer.Option(formats=["%Y-%m-%d"], help="Business date, YYYY-MM-DD.")]
FeedName = Annotated[str, typer.Option(help="Name of the feed.")]


class UnknownFeedError(UsageError):
    """No feed of this name is declared."""


class StoreMissingError(NotReadyError):
    """The object store does not exist yet."""


def output_file(path: Path | None) -> Path | None:
    """Return the path of a file to write; UsageError unless its folder exists and is writable. For typer's callback."""
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise UsageError(f"Cannot write {path}: its folder does not exist or is not writable. Choose another one")
    return path


def require_impersonal(reason: str) -> None:
    """Raise UsageError if a reason for the record contains an e-mail address or a number of a person or account."""
    from classfeed_dagster.support.reruns import names_a_person

    if names_a_person(reason):
        raise UsageError("The reason contains an e-mail address or a number of a person or account: leave it out")


def require_feed(name: str) -> Feed:
    """Return the declared feed called ``name``; UnknownFeedError lists the declared ones."""
    from classfeed_dagster.feeds import FEEDS

    feeds = {feed.name: feed for feed in FEEDS}
    if name not in feeds:
        raise UnknownFeedError(f"there is no feed {name!r}; the feeds are {', '.join(sorted(feeds))}")
    return feeds[name]


def date_range(dates: str) -> tuple[dt.date, dt.date]:
    """Return the ends of ``D1..D2`` or of one date; UsageError if it is neither."""
    since, dots, until = dates.partition("..")
    try:
        return dt.date.fromisoformat(since), dt.date.fromisoformat(until if dots else since)
    except ValueError:
        raise UsageError(f"Invalid dates {dates[:40]!r}: write D1..D2, e.g. 2023-01-03..2023-01-31") from None


def require_month(month: str | None, now: dt.datetime) -> dt.date:
    """Return the first day of ``YYYY-MM``, by default of this month; UsageError before 2010 or in the future."""
    from classfeed_dagster.trading_days import FIRST_SUPPORTED, SYDNEY

    current = now.astimezone(SYDNEY).date().replace(day=1)
    if month is None:
        return current
    try:
        first = dt.date.fromisoformat(f"{month}-01")
    except ValueError:
        raise UsageError(f"Invalid month {month[:40]!r}: expected YYYY-MM") from None
    if first > current:
        raise UsageError(f"{month} has not begun: choose {current:%Y-%m} or an earlier month")
    if first < FIRST_SUPPORTED:
        raise UsageError(f"{month} is before the calendar's first month: choose {FIRST_SUPPORTED:%Y-%m} or a later one")
    return first


def require_past(settings: Settings, day: dt.date) -> dt.date:
    """Return ``day``, an ASX business day that is over; UsageError otherwise. Imports no feed."""
    from classfeed_dagster import trading_days

    trading_days.require_business_day(day)
    cutoff = trading_days.cutoff(day)
    if cutoff > (settings.now or dt.datetime.now(dt.UTC)):
        raise UsageError(
            f"{day.isoformat()} is not over: its cut-off is {cutoff:%Y-%m-%d %H:%M} UTC. Choose an earlier date"
        )
    return day


def require_due(settings: Settings, feed: str, day: dt.date) -> dt.date:
    """Return ``day`` if the feed has a document for it; UsageError otherwise."""
    require_past(settings, day)
    audience = require_feed(feed).audience(settings.first_business_date)
    if day < audience.first_business_date:
        raise UsageError(
            f"{day.isoformat()} is before {feed}'s first business date, {audience.first_business_date.isoformat()} "
            "(CLASSFEED_FIRST_BUSINESS_DATE)"
        )
    if not audience.is_due(day):
        raise UsageError(f"{day.isoformat()} is not a date of {feed}, which is {audience.cadence}")
    return day


def require_store(runtime: Runtime) -> None:
    """Raise StoreMissingError if the object store has nothing delivered and its folder does not exist.

    On S3: an error that names the setting if the bucket is missing or unreachable.
    """
    from classfeed_dagster.store import LocalStore, check_reachable

    store = runtime.store
    check_reachable(store)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise StoreMissingError(
            f"The object store {store.root} does not exist: deliver a date first (classfeed run, or make demo), or "
            "correct CLASSFEED_STORE_URL"
        )
