"""class_trade: the contract notes of each business date, as one CSV file. Replaces the old app."""

from __future__ import annotations

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.feeds.feed import Feed

FEED = Feed(
    name="class_trade",
    title="Class trade: the contract notes of each business date",
    recipient="CLASS",
    format=CLASS_TRADE,
    owners=("team:data-feeds",),
    mode=FeedMode.SHADOW,
    first_business_date=None,
    legacy=True,
)
