"""class_cash: the cash movements and balances of each business date, as one CSV file. Replaces the old app."""

from __future__ import annotations

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.class_cash import CLASS_CASH
from classfeed_dagster.feeds.feed import Feed

FEED = Feed(
    name="class_cash",
    title="Class cash: the cash movements and balances of each business date",
    recipient="CLASS",
    format=CLASS_CASH,
    owners=("team:data-feeds",),
    mode=FeedMode.SHADOW,
    first_business_date=None,
    legacy=True,
)
