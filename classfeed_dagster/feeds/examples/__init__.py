"""Example feeds, which tests run and production does not: not in ``FEEDS``."""

from __future__ import annotations

from classfeed_dagster.feeds.examples import bgl, holdings, statements, trade_list
from classfeed_dagster.feeds.feed import Feed

EXAMPLES: tuple[Feed, ...] = (bgl.FEED, statements.FEED, holdings.FEED, trade_list.FEED)
