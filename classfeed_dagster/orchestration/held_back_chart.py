"""What people would rather look at than read: portfolios held back over the last dates, as an SVG."""

from __future__ import annotations

import datetime as dt

from classfeed_dagster.charts import columns
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore

RECENT_DATES = 30


def held_back_over_time(store: ObjectStore, feed: str, audience: RecipientSchedule, day: dt.date, today: int) -> str:
    """Portfolios that each date's first delivery left out, up to ``day``, for which ``today`` are held back.

    Reads at most thirty dates' manifests; it ends at the first date that was not delivered.
    """
    values = [(day.isoformat(), today)]
    before = audience.previous(day)
    while before is not None and len(values) < RECENT_DATES:
        deliveries = delivered_state(store, feed, before).deliveries
        if not deliveries:
            break
        values.append((before.isoformat(), len(deliveries[0].held_back)))
        before = audience.previous(before)
    return columns(f"{feed}: portfolios held back", values[::-1])
