"""Feed declaration, from which assets, checks, jobs and schedules are generated."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from classfeed_dagster.acknowledgements.mapping import AnswerMapping
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.document_format import LONGEST_ID_NUMBERS, DocumentFormat
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feeds.portfolios import ALL_PORTFOLIOS, Portfolios
from classfeed_dagster.reconciliation.document_layouts import DocumentLayout, layout_named
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster.stored_records import delivered_prefix
from classfeed_dagster.transmission.destination import Destination

STANDARD = "standard"  # the switch's name for the feed's own format
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")


class FeedDeclarationError(ConfigurationError):
    """Two feeds share a name, or a declaration contradicts itself."""


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """Delivery target and deadline of a business date: Sydney local times on the next business morning."""

    target: dt.time = dt.time(7, 0)
    deadline: dt.time = dt.time(9, 0)


@dataclass(frozen=True, slots=True)
class Feed:
    """One feed to one recipient. FeedDeclarationError if the declaration contradicts itself.

    Attributes:
        name: lower-case letters, digits and ``_``; part of object keys, message ids and asset names
        title: one line for people
        recipient: the recipient whose consents count
        format: document format; it determines the domains
        owners: teams or people to ask when the feed fails
        mode: default for the ``mode`` switch; a new feed starts in shadow
        first_business_date: date of sequence number 1, on which every portfolio is NEW; None takes the setting
        cadence: daily, or the last business date of each week
        starts_at: Sydney local time at which the run starts
        service_level: delivery target and deadline
        max_page_bytes: size limit of a page before compression; None takes the setting
        portfolios: default selection of portfolios
        include_income: default for the ``include-income`` switch
        include_drp: default for the ``include-drp`` switch
        legacy: True if an old app delivers the same file, so that going live needs parity
        renderings: other formats of the same document, by the name under which the switch selects them
        layout: published layout by which reconciliation reads the feed's own format; None finds it by the format's name
        sends_to: destination to which delivered files are sent; None: the recipient takes them from the object store
        acknowledgements: form of the recipient's messages about delivered files; None: it sends none
        sends_new_at_once: True if support may send a portfolio before its consent's first cut-off; see ADR 0019
        contract_version: version of the contract with the recipient, ``major.minor.patch``
    """

    name: str
    title: str
    recipient: str
    format: DocumentFormat
    owners: tuple[str, ...]
    mode: FeedMode
    first_business_date: dt.date | None
    cadence: Cadence = Cadence.DAILY
    starts_at: dt.time = dt.time(6, 0)
    service_level: ServiceLevel = ServiceLevel()
    max_page_bytes: int | None = None
    portfolios: Portfolios = ALL_PORTFOLIOS
    include_income: bool = True
    include_drp: bool = True
    legacy: bool = False
    renderings: Mapping[str, DocumentFormat] = field(default_factory=dict, hash=False)
    layout: DocumentLayout | None = field(default=None, hash=False)
    sends_to: Destination | None = field(default=None, hash=False)
    acknowledgements: AnswerMapping | None = field(default=None, hash=False)
    sends_new_at_once: bool = False
    contract_version: str = "1.0.0"

    def __post_init__(self) -> None:
        subject = f"Invalid feed {self.name!r}"
        if not _NAME.match(self.name):
            raise FeedDeclarationError(
                f"{subject}: the name must be lower-case letters, digits and _; keys and ids contain it"
            )
        for stated in (self.format, *self.renderings.values()):
            longest = None if stated.longest_id is None else stated.longest_id - LONGEST_ID_NUMBERS
            if longest is not None and len(self.name) > longest:
                raise FeedDeclarationError(
                    f"{subject}: {stated.name} states message ids of {stated.longest_id} characters: use a name of at "
                    f"most {longest}"
                )
        if not self.owners:
            raise FeedDeclarationError(f"{subject}: it has no owner; name the team or person to ask when it fails")
        if not self.starts_at <= self.service_level.target <= self.service_level.deadline:
            raise FeedDeclarationError(f"{subject}: it starts after its target, or its target is after its deadline")
        if self.legacy and self.format.csv_layout is None:
            raise FeedDeclarationError(f"{subject}: it replaces an old app, whose files are CSV, with another format")
        for name, other in self.renderings.items():
            if name == STANDARD or not set(other.domains) <= set(self.domains):
                raise FeedDeclarationError(f"{subject}: the rendering {name!r} needs another name, or other domains")

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the domains of its format; the consented portfolios are always used."""
        return self.format.domains

    @property
    def destination(self) -> str:
        """Return the place of its live deliveries: a prefix of the object store, or the destination."""
        return delivered_prefix(self.name) if self.sends_to is None else self.sends_to.location

    def sends_on(self, day: dt.date) -> bool:
        """Return True if the files of a business date are sent to a destination."""
        return self.sends_to is not None and self.sends_to.sends_on(day)

    def layout_of(self, document_format: DocumentFormat) -> DocumentLayout:
        """Return the layout by which reconciliation reads a format of the feed; UnknownLayoutError if there is none."""
        if self.layout is not None and document_format is self.format:
            return self.layout
        return layout_named(document_format.name)

    def audience(self, default_first_date: dt.date) -> RecipientSchedule:
        """Return the feed's recipient schedule. Feeds with equal schedules share domain frames."""
        return RecipientSchedule(self.recipient, self.first_business_date or default_first_date, self.cadence)


def require_distinct(feeds: Iterable[Feed]) -> tuple[Feed, ...]:
    """Return the feeds ordered by name; FeedDeclarationError if two share a name."""
    ordered = sorted(feeds, key=lambda feed: feed.name)
    for feed, other in itertools.pairwise(ordered):
        if feed.name == other.name:
            raise FeedDeclarationError(f"two feeds are called {feed.name}: rename one, message ids must be unique")
    return tuple(ordered)


def require_reconcilable(feeds: Iterable[Feed]) -> tuple[Feed, ...]:
    """Return the feeds; UnknownLayoutError if reconciliation cannot read the documents of one."""
    declared = tuple(feeds)
    for feed in declared:
        for document_format in (feed.format, *feed.renderings.values()):
            feed.layout_of(document_format)
    return declared


def audiences_of(feeds: Iterable[Feed], default_first_date: dt.date) -> tuple[RecipientSchedule, ...]:
    """Return the distinct recipient schedules of some feeds, ordered by key."""
    schedules = {schedule.key: schedule for schedule in (feed.audience(default_first_date) for feed in feeds)}
    return tuple(schedules[key] for key in sorted(schedules))
