"""Nightly audit of what was delivered: positions, the warehouse's rows, and the data team's figures, checked again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from classfeed_dagster.delivery.delivery_history import delivered_dates, live_and_shadow
from classfeed_dagster.delivery.ledger_rebuild import AUDITED_DATES, audit_positions
from classfeed_dagster.feed_run.post_delivery import PostDelivery, ReconciliationSummary
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.warehouse.records import Side


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One thing that is not as it was delivered: the business date and a sentence. No personal data."""

    business_date: dt.date
    what: str
    portfolio_number: str | None = None


def audit_feed(runtime: Runtime, feed: Feed, correlation_id: str, now: dt.datetime | None = None) -> list[AuditFinding]:
    """Audit a feed: positions of a sample from scratch, and the newest dates' warehouse rows and figures."""
    findings = list(_positions(runtime, feed))
    audience = feed.audience(runtime.settings.first_business_date)
    for day in delivered_dates(runtime.store, feed.name)[-AUDITED_DATES:]:
        work = PostDelivery(runtime, feed, audience, day, correlation_id, now)
        findings += [
            AuditFinding(day, f"rows of the warehouse changed since they were loaded: {table}")
            for table in work.warehouse_changes()
        ]
        findings += _figures(work)
    return findings


def _positions(runtime: Runtime, feed: Feed) -> Iterator[AuditFinding]:
    sample = runtime.settings.audit_portfolios
    if not sample:
        return
    audience = feed.audience(runtime.settings.first_business_date)
    for audited in audit_positions(live_and_shadow(runtime.store, feed.name), feed.name, audience, sample=sample):
        for number, kind, key, stored, sums in audited.wrong:
            what = f"position {kind} {key}: {stored} stored, the records sent add up to {sums}"
            yield AuditFinding(audited.business_date, what, number)


def _figures(work: PostDelivery) -> Iterator[AuditFinding]:
    # The data team's figures agreed once: a break now is a figure that they changed since.
    before = work.runtime.find_reference(Side.DATA_TEAM.reference(work.feed.name), work.day, ReconciliationSummary)
    if before is None or before.stopped or before.errors or before.warnings:
        return
    result = work.data_team()
    work.keep(result)
    if not result.clean:
        what = f"{result.warnings} of the data team's figures changed since they agreed with the delivery"
        yield AuditFinding(work.day, what)
