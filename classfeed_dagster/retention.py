"""Retention of the object store: days after which a prefix expires, and the prefixes that never do.

Manifests, chain and delivered ledger never expire, in any environment. A chain whose entries outlive what they name
cannot be verified, and a feed continues only from its last manifest.
The bucket's lifecycle rules are made from this table, and readers distinguish expired from missing objects by it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

# As long as the feed.
KEPT = (
    "delivered", "transmitted", "acknowledged", "acknowledged-content", "acknowledgements",
    "shadow", "chain", "ledger", "releases", "reruns", "schemas", "toil",
    "closed-incidents", "owner-numbers", "owner-report",
)  # fmt: skip
# One object a name, written again and again: nothing to expire.
STATES = ("incidents", "raised-incidents", "heartbeats", "warehouse", "simulation", "restatements")
_CUSTOMERS = ("landing", "domains", "staged", "outgoing")
_RECORDS = ("verdicts", "references", "switches", "quarantine", "reconciliation", "parity", "values", "legacy",
            "notices")  # fmt: skip
_NO_RULES = "local"  # a folder has no lifecycle rules
_REAL_CUSTOMERS = "prod"


def retention_days(*, simulated: bool) -> Mapping[str, int]:
    """Return the days that each expiring prefix is kept, by prefix."""
    return {
        **dict.fromkeys(_CUSTOMERS, 7 if simulated else 90),
        # Reports and verdicts of a date are needed until the next year's audit.
        **dict.fromkeys(_RECORDS, 30 if simulated else 550),
        # An event is delivered twice within days, not months.
        "consent-events": 30,
    }


@dataclass(frozen=True, slots=True)
class Retention:
    """Rules by which objects of a store expire; without any, nothing does.

    Attributes:
        days: days that an object is kept, by the first part of its key.
    """

    days: Mapping[str, int] = field(default_factory=dict)

    def expired_on(self, key: str, written_at: dt.datetime, now: dt.datetime | None = None) -> dt.date | None:
        """Return the date on which a rule removed an object written then; None if none did.

        An object that is absent without such a date is missing. Rules run by the real clock.
        """
        days = self.days.get(key.partition("/")[0])
        if days is None:
            return None
        end = written_at.astimezone(dt.UTC) + dt.timedelta(days=days)
        return end.date() if end <= (now or dt.datetime.now(dt.UTC)) else None


NOTHING_EXPIRES = Retention()


def retention_of(env: str) -> Retention:
    """Return the rules of an environment's store."""
    if env == _NO_RULES:
        return NOTHING_EXPIRES
    return Retention(retention_days(simulated=env != _REAL_CUSTOMERS))
