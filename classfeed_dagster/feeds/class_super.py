"""class_super: the complete daily feed to Class, as EPIDataResponse documents."""

from __future__ import annotations

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feeds.feed import Feed

FEED = Feed(
    name="class_super",
    title="Class super: account details, balances, holdings and movements",
    recipient="CLASS",
    format=EPI,
    owners=("team:data-feeds",),
    mode=FeedMode.LIVE,
    first_business_date=None,
)
