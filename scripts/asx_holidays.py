"""Writer of ``classfeed_dagster/asx_holidays.txt`` from the library of exchange calendars, after its update.

A test fails while the table differs from the library. Read the difference before committing it: a changed date in the
past changes the partitions.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import exchange_calendars

from classfeed_dagster.trading_days import FIRST_SUPPORTED, HOLIDAYS_FILE, LAST_SUPPORTED

TABLE = Path(__file__).parent.parent / "classfeed_dagster" / HOLIDAYS_FILE
HEAD = """\
# Weekdays on which the ASX does not trade, of every supported year. Written by scripts/asx_holidays.py from the
# XASX calendar of exchange_calendars; corrections to it stand in trading_days.py, never here.
"""


def table() -> str:
    """Return the table of the installed library."""
    calendar = exchange_calendars.get_calendar(
        "XASX", start=FIRST_SUPPORTED.isoformat(), end=LAST_SUPPORTED.isoformat()
    )
    sessions = {session.date() for session in calendar.sessions}
    days = [FIRST_SUPPORTED + dt.timedelta(days=at) for at in range((LAST_SUPPORTED - FIRST_SUPPORTED).days + 1)]
    if unexpected := [day for day in sessions if day.weekday() >= 5]:
        raise ValueError(f"The library has an ASX session on a weekend, {min(unexpected)}: the table cannot state that")
    return HEAD + "".join(f"{day.isoformat()}\n" for day in days if day.weekday() < 5 and day not in sessions)


if __name__ == "__main__":
    TABLE.write_text(table())
    sys.stdout.write(f"{TABLE} written\n")
