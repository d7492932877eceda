"""The ASX's calendar, built once for all processes forked from this one: that takes a second, a mutant's tests less."""

from __future__ import annotations

from functools import cache

import exchange_calendars

_get = cache(exchange_calendars.get_calendar)
exchange_calendars.get_calendar = _get
_get("XASX", start="2010-01-01", end="2035-12-31")
