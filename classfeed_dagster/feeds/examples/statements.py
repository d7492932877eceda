"""statements: the cash accounts of each portfolio, as one ISO 20022 camt.053 message a portfolio."""

from __future__ import annotations

import datetime as dt

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.camt_053 import CAMT_053
from classfeed_dagster.feeds.feed import Feed

FEED = Feed(
    name="statements",
    title="Cash statements: balances and entries of each cash account",
    recipient="STATEMENTS",
    format=CAMT_053,
    owners=("team:data-feeds",),
    mode=FeedMode.SHADOW,
    first_business_date=dt.date(2026, 3, 2),
)
