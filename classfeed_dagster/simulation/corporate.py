"""Calendar of corporate events: dividends, splits, code changes, mergers and delistings.

Patterns follow a year of the ASX (half-yearly dividends, quarterly fund distributions, far more renames than
delistings). The first eight rarer events are within sixteen business days of the anchor, so that a short demonstration
has each of them.
"""

from __future__ import annotations

import bisect
import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from classfeed_dagster.simulation.market import (
    CapitalReturn,
    CodeChange,
    CorporateEvent,
    Delisting,
    Dividend,
    Merger,
    Security,
    UnitsChange,
)
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.trading_days import business_days

DAYS_BEFORE_ANCHOR = 300
DAYS_AFTER_ANCHOR = 1500
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CYCLE = ("SPLIT", "RENAME", "RETURN", "CONSOLIDATION", "TAKEOVER", "RENAME", "BONUS_ISSUE", "MERGER")
_LAST_LEAVING = 40  # later events never delist, or a long simulation would run out of securities


class CorporateCalendar:
    """All events of ``securities``, from 300 business days before ``anchor`` to 1,500 after."""

    def __init__(self, seed: int, securities: Sequence[Security], anchor: dt.date) -> None:
        self._days = business_days()
        self._anchor = bisect.bisect_left(self._days, anchor)
        self._events: dict[dt.date, list[CorporateEvent]] = defaultdict(list)
        self._going_ex: dict[dt.date, list[Dividend]] = defaultdict(list)
        self._ratios: dict[int, list[tuple[dt.date, Fraction]]] = defaultdict(list)
        self._gone: dict[int, dt.date] = {}
        self._plan_rare_events(seed, securities)
        for security in securities:
            self._plan_dividends(seed, security)

    def events(self, day: dt.date) -> Sequence[CorporateEvent]:
        """Return the events that take effect on ``day``, in the order of their planning."""
        return self._events.get(day, ())

    def going_ex(self, day: dt.date) -> Sequence[Dividend]:
        """Return the dividends with the ex-date ``day``."""
        return self._going_ex.get(day, ())

    def is_listed(self, security_id: int, day: dt.date) -> bool:
        """Return False from the day of the security's delisting."""
        delisted = self._gone.get(security_id)
        return delisted is None or day < delisted

    def units_of_today(self, security_id: int, day: dt.date) -> Fraction:
        """Return the units that one original unit has become by ``day``; prices are divided by it."""
        ratios = self._ratios.get(security_id)
        result = Fraction(1)
        if ratios is not None:
            for effective_on, ratio in ratios:
                if effective_on <= day:
                    result *= ratio
        return result

    def _plan_rare_events(self, seed: int, securities: Sequence[Security]) -> None:
        names = {s.security_id: (s.code, s.name) for s in securities}
        taken = {s.code for s in securities}
        ordinary = [s for s in securities if s.exchange == "ASX" and s.security_type == "ORDINARY"]
        stream = HashRandom(seed, "corporate")
        candidates = stream.some(ordinary, len(ordinary))
        turn = 0
        while candidates:
            offset = 1 + 2 * turn if turn < len(_CYCLE) else 17 + 12 * (turn - len(_CYCLE) + 1)
            if offset > DAYS_AFTER_ANCHOR or self._anchor + offset >= len(self._days):
                break
            day = self._days[self._anchor + offset]
            kind = _CYCLE[turn % len(_CYCLE)]
            listed = [s for s in candidates if self.is_listed(s.security_id, day)]
            if (turn > _LAST_LEAVING or len(listed) < 3) and kind in ("TAKEOVER", "MERGER"):
                kind = "RENAME"
            security_id = listed[turn % len(listed)].security_id
            if kind == "RENAME":
                old_code, old_name = names[security_id]
                new_code = self._unused_code(stream, taken)
                new_name = f"{old_name.removesuffix(' LIMITED')[:180]} RENAMED {turn} LIMITED"
                names[security_id] = (new_code, new_name)
                self._events[day].append(CodeChange(security_id, day, old_code, new_code, old_name, new_name))
            elif kind == "TAKEOVER":
                self._gone[security_id] = day
                self._events[day].append(Delisting(security_id, day, pays=not stream.one_in(3)))
            elif kind == "MERGER":
                into = listed[(turn + 1) % len(listed)].security_id
                self._gone[security_id] = day
                self._events[day].append(Merger(security_id, day, into, 10, stream.between(8, 30)))
            elif kind == "RETURN":
                self._events[day].append(CapitalReturn(security_id, day, stream.between(100, 600)))
            else:
                new, old = {
                    "SPLIT": (stream.between(2, 5), 1),
                    "CONSOLIDATION": (1, stream.between(4, 20)),
                    "BONUS_ISSUE": (11, 10),
                }[kind]
                self._ratios[security_id].append((day, Fraction(new, old)))
                self._events[day].append(UnitsChange(security_id, day, kind, new, old))
            turn += 1

    @staticmethod
    def _unused_code(stream: HashRandom, taken: set[str]) -> str:
        while True:
            code = "Z" + stream.choice(_LETTERS) + stream.choice(_LETTERS)
            if code not in taken:
                taken.add(code)
                return code

    def _plan_dividends(self, seed: int, security: Security) -> None:
        quarterly = security.security_type == "ETF" or security.exchange != "ASX"
        period = 63 if quarterly else 126
        trust = security.security_type in ("ETF", "REIT")
        habits = HashRandom(seed, "dividend", security.security_id)
        if not trust and habits.one_in(4):
            return  # a company without dividends
        franked = 0 if trust or security.exchange != "ASX" else habits.choice((0, 50, 100, 100, 100))
        tax = habits.choice((30, 30, 25))
        reinvests = security.exchange == "ASX" and not habits.one_in(3)
        phase = habits.below(period)
        first = max(0, self._anchor - DAYS_BEFORE_ANCHOR)
        last = min(len(self._days) - 30, self._anchor + DAYS_AFTER_ANCHOR)
        # Counted from the calendar's beginning, not from the anchor, so that a security pays in the same weeks.
        for at in range(first - (first - phase) % period, last, period):
            draw = HashRandom(seed, "dividend", security.security_id, at)
            ex = at + draw.below(10)
            if ex < first or not self.is_listed(security.security_id, self._days[ex]):
                continue
            dividend = Dividend(
                security.security_id,
                self._days[ex],
                self._days[ex + draw.between(6, 15)],
                draw.between(40, 120) if quarterly else draw.between(80, 350),
                franked,
                tax,
                "DISTRIBUTION" if trust else "DIVIDEND",
                15 if security.exchange != "ASX" else 0,
                reinvests,
            )
            self._going_ex[dividend.ex_date].append(dividend)
