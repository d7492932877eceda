"""Retention of the object store: days after which a prefix expires, and the prefixes that never do.

Manifests, chain and delivered ledger live as long as the feed: a chain whose entries outlive what they name cannot be
verified, and a feed continues only from its last manifest. So nothing under these prefixes expires, in any environment.
"""

from __future__ import annotations

from collections.abc import Mapping

# As long as the feed.
KEPT = (
    "delivered", "transmitted", "acknowledged", "acknowledged-content", "acknowledgements",
    "shadow", "chain", "ledger", "releases", "reruns", "schemas", "toil",
    "closed-incidents",
)  # fmt: skip
# One object a name, written again and again: nothing to expire.
STATES = ("incidents", "raised-incidents", "restatements", "heartbeats", "warehouse", "simulation")
_CUSTOMERS = ("landing", "domains", "staged")
_RECORDS = ("verdicts", "references", "switches", "quarantine", "reconciliation", "parity", "values", "legacy")


def retention_days(*, simulated: bool) -> Mapping[str, int]:
    """Return the days that each expiring prefix is kept, by prefix."""
    return {
        **dict.fromkeys(_CUSTOMERS, 7 if simulated else 90),
        # Reports and verdicts of a date are asked for until the next year's audit.
        **dict.fromkeys(_RECORDS, 30 if simulated else 550),
        # An event is delivered twice within days, not months.
        "consent-events": 30,
    }
