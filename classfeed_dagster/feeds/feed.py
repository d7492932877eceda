"""What a feed is: a declaration. Assets, checks, jobs and schedules are made from it."""

from __future__ import annotations

import datetime as dt
import importlib
import itertools
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from classfeed_dagster.delivery.shadow import FeedMode
from classfeed_dagster.documents.format import DocumentFormat
from classfeed_dagster.domains.audience import Audience, Cadence


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """When a business date must be delivered: Sydney local times on the morning after which it is due."""

    target: dt.time = dt.time(7, 0)
    deadline: dt.time = dt.time(9, 0)


@dataclass(frozen=True, slots=True)
class Feed:
    """One feed to one recipient.

    ``first_business_date`` is sequence number 1, on which everyone is NEW; None takes the setting.
    ``starts_at`` is the Sydney local time at which the morning's run starts. ``mode`` is what the feed does unless
    its switch says otherwise; ``legacy`` says that an old app delivers the same, so that going live needs parity;
    ``renderings`` are other ways to make the same document, by the name under which the switch picks one.
    """

    name: str
    title: str
    recipient: str
    format: DocumentFormat
    owners: tuple[str, ...]
    cadence: Cadence = Cadence.DAILY
    first_business_date: dt.date | None = None
    starts_at: dt.time = dt.time(6, 0)
    service_level: ServiceLevel = ServiceLevel()
    max_page_bytes: int | None = None  # before compression; None takes the setting
    mode: FeedMode = FeedMode.LIVE
    legacy: bool = False
    renderings: Mapping[str, DocumentFormat] = field(default_factory=dict, hash=False)

    def audience(self, default_first_date: dt.date) -> Audience:
        """For whom the feed's data is worked out; feeds with equal audiences share the frames."""
        return Audience(self.recipient, self.first_business_date or default_first_date, self.cadence)


class FeedDeclarationError(ValueError):
    """Two feeds share a name, or a file in ``feeds/`` declares something impossible."""


def require_distinct(feeds: Iterable[Feed]) -> tuple[Feed, ...]:
    """The feeds ordered by name; FeedDeclarationError if two share one."""
    ordered = sorted(feeds, key=lambda feed: feed.name)
    for one, other in itertools.pairwise(ordered):
        if one.name == other.name:
            raise FeedDeclarationError(f"two feeds are called {one.name}: rename one, message ids must be unique")
    return tuple(ordered)


def declared_feeds() -> tuple[Feed, ...]:
    """Every ``FEED`` declared by a file in this folder, ordered by name."""
    package = importlib.import_module("classfeed_dagster.feeds")
    found: list[Feed] = []
    for module in pkgutil.iter_modules(package.__path__):
        declared = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "FEED", None)
        if isinstance(declared, Feed):
            found.append(declared)
    return require_distinct(found)


def audiences_of(feeds: Iterable[Feed], default_first_date: dt.date) -> tuple[Audience, ...]:
    """The distinct audiences of some feeds, ordered by key."""
    distinct = {audience.key: audience for audience in (feed.audience(default_first_date) for feed in feeds)}
    return tuple(distinct[key] for key in sorted(distinct))
