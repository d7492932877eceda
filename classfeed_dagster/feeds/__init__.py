"""Feed declarations, one file a feed, and the tuple of them all."""

from __future__ import annotations

from classfeed_dagster.feeds import class_cash, class_super, class_trade
from classfeed_dagster.feeds.feed import Feed, require_distinct, require_reconcilable

FEEDS: tuple[Feed, ...] = require_reconcilable(require_distinct((class_cash.FEED, class_super.FEED, class_trade.FEED)))
