"""What a feed is: a declaration. Assets, checks, jobs and schedules are made from it."""

from __future__ import annotations

import datetime as dt
import importlib
import itertools
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.feeds.portfolios import EVERYBODY, Portfolios
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster.stored_records import delivered_prefix

STANDARD = "standard"  # what the switch calls the feed's own format
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")


class FeedDeclarationError(ValueError):
    """Two feeds share a name, or a file in ``feeds/`` declares something impossible."""


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """When a business date must be delivered: Sydney local times on the morning after which it is due."""

    target: dt.time = dt.time(7, 0)
    deadline: dt.time = dt.time(9, 0)


@dataclass(frozen=True, slots=True)
class Feed:
    """One feed to one recipient: all that there is to say about it. FeedDeclarationError if it can't be.

    What goes: ``format`` makes the document out of the ``domains`` that it carries; ``renderings`` are other ways to
    make the same document, by the name under which the switch picks one. ``max_page_bytes`` is the size of a page
    before compression; None takes the setting. The document goes to ``destination``.

    When: ``cadence``, from ``first_business_date`` on (sequence number 1, everyone is NEW; None takes the setting),
    with a run at ``starts_at``, Sydney local time, that must be done by the ``service_level``.

    Unless a switch says otherwise: ``mode`` is what becomes of the document, ``portfolios`` whom the feed may carry,
    ``include_income`` and ``include_drp`` whether it carries what some recipients derive themselves. ``legacy`` says
    that an old app delivers the same, so that going live needs parity.
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
    max_page_bytes: int | None = None
    portfolios: Portfolios = EVERYBODY
    include_income: bool = True
    include_drp: bool = True
    mode: FeedMode = FeedMode.LIVE
    legacy: bool = False
    renderings: Mapping[str, DocumentFormat] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        what = f"the feed {self.name!r}"
        if not _NAME.match(self.name):
            raise FeedDeclarationError(f"{what}: a name is small letters, digits and _, for it goes into keys and ids")
        if not self.owners:
            raise FeedDeclarationError(f"{what} has no owner: say who is asked when it fails")
        if not self.starts_at <= self.service_level.target <= self.service_level.deadline:
            raise FeedDeclarationError(f"{what} starts after its target, or its target is after its deadline")
        if self.legacy and not isinstance(self.format, CsvFormat):
            raise FeedDeclarationError(f"{what} replaces an old app, whose files are CSV, with another kind of file")
        for name, other in self.renderings.items():
            if name == STANDARD or not set(other.domains) <= set(self.domains):
                raise FeedDeclarationError(f"{what}: the rendering {name!r} needs another name, or other domains")

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that it uses, beside the consented portfolios: those that its format carries."""
        return self.format.domains

    @property
    def destination(self) -> str:
        """The prefix of the object store under which the recipient finds it when it is live."""
        return delivered_prefix(self.name)

    def audience(self, default_first_date: dt.date) -> RecipientSchedule:
        """For whom the feed's data is worked out; feeds with equal audiences share the frames."""
        return RecipientSchedule(self.recipient, self.first_business_date or default_first_date, self.cadence)


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
        # The folder also holds what Dagster makes of feeds: not imported, so that the command line stays quick.
        source = Path(package.__path__[0], f"{module.name}.py").read_text()
        if "\nFEED = Feed(" not in source:
            continue
        declared = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "FEED", None)
        if isinstance(declared, Feed):
            found.append(declared)
    return require_distinct(found)


def audiences_of(feeds: Iterable[Feed], default_first_date: dt.date) -> tuple[RecipientSchedule, ...]:
    """The distinct audiences of some feeds, ordered by key."""
    distinct = {audience.key: audience for audience in (feed.audience(default_first_date) for feed in feeds)}
    return tuple(distinct[key] for key in sorted(distinct))
