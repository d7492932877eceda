"""Promises of the product, and the scenarios that prove them by their tags. docs/promises.md is generated from here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PREFIX = "proves-"
PROMISES: Mapping[str, str] = {
    "consent-required": "A document contains only portfolios with active consent at the cut-off.",
    "consent-rechecked": "Consent is queried again before publishing; a portfolio revoked meanwhile is not delivered.",
    "removal-announced-once": "A removed portfolio is announced once, with its number and reference only.",
    "full-history-for-new": "A new portfolio is delivered with its whole shared history.",
    "sums-match": "All records sent add up to the holdings and balances stated to the recipient.",
    "portfolios-independent": "A portfolio that breaks a rule is held back; the others are delivered.",
    "dates-in-order": "A portfolio's dates are delivered in order: a later date waits for an earlier one.",
    "automatic-retry": "A held-back portfolio or late date is delivered automatically once the source is corrected.",
    "corrections-delivered": "A correction is sent in the window in which it was recorded. Changed dates are re-issued.",
    "end-of-day-required": "Nothing is stored of a date before its end of day is complete.",
    "one-notification": "A late feed causes one notification, and one more when it has recovered.",
    "delivered-once": "A date that is run again is delivered once.",
    "refreshed-once": "A portfolio that support refreshes is sent again in full, once, with the latest delivered date.",
    "rerun-restricted": "Only members of the support group may request a re-run.",
    "rerun-recorded": "A granted re-run is recorded with person and reason; of refused ones the first per hour. All are logged.",
    "shadow-first": "Before a feed is live, its documents are written where the recipient does not read.",
    "live-after-parity": "A feed replaces its old app only after clean dates of parity.",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario of a feature, and the promises that it proves."""

    feature: str
    title: str
    proves: tuple[str, ...]


def scenarios() -> Iterator[Scenario]:
    """Yield every scenario of every feature, in order."""
    for path in sorted(HERE.glob("*.feature")):
        tags: list[str] = []
        feature = path.stem
        for line in map(str.strip, path.read_text().splitlines()):
            if line.startswith("@"):
                tags += line.split()
            elif line.startswith("Feature:"):
                feature = line.removeprefix("Feature:").strip()
            elif line.startswith("Scenario:"):
                proves = tuple(tag.removeprefix(f"@{PREFIX}") for tag in tags if tag.startswith(f"@{PREFIX}"))
                yield Scenario(feature, line.removeprefix("Scenario:").strip(), proves)
                tags = []


def matrix() -> Iterator[str]:
    """Yield the list of docs/promises.md: each promise with its tag."""
    yield from (f"- {promise} `{tag}`" for tag, promise in PROMISES.items())
