"""bgl: the complete daily feed to BGL, as EPIDataResponse documents."""

from __future__ import annotations

import datetime as dt

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feeds.feed import Feed

FEED = Feed(
    name="bgl",
    title="BGL: account details, balances, holdings and movements",
    recipient="BGL",
    format=EPI,
    owners=("team:data-feeds",),
    mode=FeedMode.SHADOW,
    first_business_date=dt.date(2026, 3, 2),
)
