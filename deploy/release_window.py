"""Release calendar: the hours and days on which production may be released.

Only the standard library and the package's ASX calendar are imported, so that the pipeline runs it before it installs
anything: ``python3 -m deploy.release_window prod``.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Mapping

from classfeed_dagster.trading_days import SYDNEY, is_business_day, previous_business_day

OPENS, CLOSES = dt.time(9), dt.time(15)  # Sydney: after the morning's deliveries, with people at work
FREEZE = (6, 24), (7, 7)  # around 30 June, the end of the financial year
_SATURDAY = 5


def closed(now: dt.datetime) -> str | None:
    """Return the reason for which production must not be released at ``now``; None if it may."""
    local = now.astimezone(SYDNEY)
    day = local.date()
    if FREEZE[0] <= (day.month, day.day) <= FREEZE[1]:
        return "24 June to 7 July is frozen for the end of the financial year"
    if not is_business_day(day):
        return f"{day.isoformat()} is not an ASX business day"
    if is_half_day(day):
        return f"{day.isoformat()} is an ASX half day"
    if before_holiday(day):
        return f"{day.isoformat()} is the last business day before a public holiday"
    if not OPENS <= local.time() < CLOSES:
        return f"it is {local:%H:%M} in Sydney; releases go out from {OPENS:%H:%M} to {CLOSES:%H:%M}"
    return None


def is_half_day(day: dt.date) -> bool:
    """Return True for the last trading day before Christmas and before New Year, when the ASX closes early."""
    return day in {
        previous_business_day(dt.date(day.year, 12, 25)),
        previous_business_day(dt.date(day.year + 1, 1, 1)),
    }


def before_holiday(day: dt.date) -> bool:
    """Return True if the ASX is closed on the next weekday."""
    following = day + dt.timedelta(days=1)
    while following.weekday() >= _SATURDAY:
        following += dt.timedelta(days=1)
    return not is_business_day(following)


def decide(environment: str, now: dt.datetime, environ: Mapping[str, str]) -> tuple[int, str]:
    """Return exit code and message. ``OVERRIDE`` is the recorded reason for a release in a closed window."""
    reason = closed(now) if environment == "prod" else None
    override = environ.get("OVERRIDE", "").strip()
    if reason is None:
        return 0, f"release window of {environment} is open"
    if override:
        by = environ.get("BY", "unknown")
        return 0, f"release window of prod is closed ({reason}). Override by {by}: {override}"
    return 3, (
        f"release window of prod is closed: {reason}. Wait, or run the workflow deploy by hand with an override: "
        "the on-call person and one other who approve, and the reason (CONTRIBUTING.md, release calendar)"
    )


def main() -> int:
    """Print the decision for the environment on the command line."""
    code, message = decide(sys.argv[1], dt.datetime.now(dt.UTC), os.environ)
    (sys.stderr if code else sys.stdout).write(f"{message}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
