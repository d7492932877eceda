"""holdings: the holdings of each portfolio, as one ISO 20022 semt.002 message a portfolio."""

from __future__ import annotations

import datetime as dt

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.semt_002 import SEMT_002
from classfeed_dagster.feeds.feed import Feed

FEED = Feed(
    name="holdings",
    title="Holdings: units, price and value of each security",
    recipient="HOLDINGS",
    format=SEMT_002,
    owners=("team:data-feeds",),
    mode=FeedMode.SHADOW,
    first_business_date=dt.date(2026, 3, 2),
)
