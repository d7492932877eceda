"""Domains of a date with refreshes: those of the feed's own schedule, in which the refreshed portfolios are FULL.

The domain assets are shared by all feeds of a schedule. A feed with refreshes builds its own frames from the same
snapshot, which was read for it too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pydantic import BaseModel

from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.refreshes import with_refreshes
from classfeed_dagster.domains.build import DomainReference, build_consented_portfolios, build_domain
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule


class RefreshedDomains(BaseModel, frozen=True):
    """The domains of one schedule with refreshes, built from one snapshot by one version of the code."""

    snapshot_id: str
    code_version: str
    domains: tuple[DomainReference, ...]  # the consented portfolios first


def refreshed_schedules(runtime: Runtime, feeds: Sequence[Feed], day: dt.date) -> list[RecipientSchedule]:
    """Return the schedules of the feeds with refreshes on ``day``, for which a snapshot is read in addition."""
    plain = ((feed, feed.audience(runtime.settings.first_business_date)) for feed in feeds)
    pairs = ((schedule, with_refreshes(runtime.store, feed.name, schedule, day)) for feed, schedule in plain)
    return [refreshed for schedule, refreshed in pairs if refreshed is not schedule]


def refreshed_domains(
    runtime: Runtime, schedule: RecipientSchedule, snapshot: Snapshot, names: Sequence[str]
) -> list[DomainReference]:
    """Return the consented portfolios of ``schedule`` and the domains ``names``, built unless they were built before.

    AudienceNotReadError if the snapshot was taken before the refreshes were requested.
    """
    store, day, version = runtime.store, snapshot.business_date, runtime.settings.code_version
    reference = schedule.reference("refreshed")
    stored = runtime.find_reference(reference, day, RefreshedDomains)
    if stored is None or (stored.snapshot_id, stored.code_version) != (snapshot.snapshot_id, version):
        consented = build_consented_portfolios(store, snapshot, schedule)
        others = (build_domain(store, snapshot, schedule, name, consented, code_version=version) for name in names)
        domains = (consented, *others)
        stored = RefreshedDomains(snapshot_id=snapshot.snapshot_id, code_version=version, domains=domains)
        runtime.save_reference(reference, day, stored)
    return list(stored.domains)
