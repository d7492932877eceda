"""Delivered files that are never sent: a consent ended between the delivery and the sending.

A record is created next to the manifest, which never changes. ``delivered_state`` returns manifests without these
files: their portfolios count as not delivered, so that the next build of the date carries those that still consent.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.delivery.manifest import ControlTotals, HeldBack, Manifest, sum_totals
from classfeed_dagster.stored_records import StoredRecord, delivered_prefix

WITHHELD = re.compile(r"r(?P<revision>0|[1-9][0-9]*)/withheld-(?P<message_id>.+)\.json\Z")


class WithheldFile(StoredRecord):
    """One delivered file that is not sent."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    revision: NonNegativeInt
    message_id: str = Field(description="id of the file")
    ended: tuple[str, ...] = Field(description="numbers of the portfolios whose consent ended")
    may_have_arrived: bool = Field(description="true if an attempt began to send it and there is no receipt")
    withheld_at: AwareDatetime
    correlation_id: str


def withheld_key(feed: str, day: dt.date, revision: int, message_id: str) -> str:
    """Return the key of a withheld file's record."""
    return f"{delivered_prefix(feed, day, revision)}withheld-{message_id}.json"


def disclosed(manifest: Manifest, withheld: Sequence[WithheldFile]) -> Manifest:
    """Return a manifest without the withheld files and their portfolios. Those whose consent ended are held back."""
    if not withheld:
        return manifest
    names = {file.message_id for file in withheld}
    pages = tuple(page for page in manifest.pages if page.message_id not in names)
    totals = sum_totals(pages)
    ended = sorted({number for file in withheld for number in file.ended})
    entries = [HeldBack(number=number, kind="CONSENT_ENDED", reason="consent ended before sending") for number in ended]
    return manifest.model_copy(
        update={
            "pages": pages,
            "portfolios": tuple(portfolio for portfolio in manifest.portfolios if portfolio.page not in names),
            "held_back": tuple(sorted([*manifest.held_back, *entries], key=lambda entry: entry.number)),
            "counts": dict(totals.counts),
            "totals": ControlTotals.of(totals),
        }
    )
