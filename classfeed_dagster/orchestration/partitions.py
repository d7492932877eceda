"""Dagster's partitions: one an ASX business day."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from classfeed_dagster.trading_days import LAST_SUPPORTED, SYDNEY, is_business_day


def business_date_partitions(first: dt.date) -> dg.DailyPartitionsDefinition:
    """Return a partition per ASX business day from ``first``, keyed YYYY-MM-DD.

    A day's partition exists once the day has ended in Sydney. The key is the business date. Time windows of partitions
    with exclusions include the excluded days, so no code may read them.
    """
    holidays: list[dt.datetime] = []
    day = first
    while day <= LAST_SUPPORTED:
        if day.weekday() < 5 and not is_business_day(day):
            holidays.append(dt.datetime.combine(day, dt.time()))
        day += dt.timedelta(days=1)
    weekends = ["0 0 * * 6", "0 0 * * 0"]
    return dg.DailyPartitionsDefinition(
        start_date=first.isoformat(), timezone=SYDNEY.key, exclusions=[*weekends, *holidays]
    )
