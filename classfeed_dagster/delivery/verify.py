"""Verification of a feed's whole chain in a store. ``verify_paths`` verifies files and folders on their own.

Everything is read back from the stored bytes, and nothing is changed. One loss cannot be detected: the removal of the
chain's last places together with their manifests, their pages and the verdicts of their reconciliations.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from classfeed_dagster.delivery.build import read_build
from classfeed_dagster.delivery.chain import chain_entry
from classfeed_dagster.delivery.manifest import AnyManifest, ChainEntry, Link, Manifest, read_manifest
from classfeed_dagster.delivery.problems import (
    Problem,
    ProblemKind,
    Verification,
    build_differences,
    manifest_problems,
    page_problems,
    portfolios_by_page,
)
from classfeed_dagster.delivery.quarantine import quarantine
from classfeed_dagster.delivery.state import WITHHELD, checkpoint_fault
from classfeed_dagster.delivery.verify_files import MANIFEST_NAME, verify_paths
from classfeed_dagster.documents.document_format import DocumentFormat, message_id
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.ledger.files import ledger_prefix
from classfeed_dagster.store import InvalidKeyError, ObjectNotFoundError, ObjectStore, check_key
from classfeed_dagster.stored_records import (
    chain_key,
    chain_prefix,
    delivered_prefix,
    manifest_key,
    quarantine_key,
    sha256,
    stored_facts,
)

__all__ = ["Problem", "ProblemKind", "Verification", "verify_feed", "verify_paths"]

_FILE_NAME = re.compile(r"[A-Za-z0-9_=:-][A-Za-z0-9._=:-]{0,199}\Z")
_RECONCILIATION = re.compile(
    r"references/(?P<day>\d{4}-\d\d-\d\d)/(?P<feed>[^/]+)/(?:source|data_team)_reconciliation\.json\Z"
)
_POSITION = re.compile(r"([0-9]{8,})\.json\Z")


def verify_feed(
    store: ObjectStore,
    feed: str,
    document_format: DocumentFormat,
    *,
    read_pages: bool = True,
    on_page: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Verify the chain of ``feed`` from its first place to its last: every manifest, every page, every other file.

    ``read_pages=False`` skips the pages' content; they must only exist. ``on_page`` is called with the key of each
    page, for a progress bar.
    """
    walk = _Walk(store, feed, document_format, read_pages, on_page)
    walk.chain()
    walk.lost()
    walk.leftovers()
    return walk.result


@dataclass
class _Walk:
    store: ObjectStore
    feed: str
    document_format: DocumentFormat
    read_pages: bool
    on_page: Callable[[str], None]
    result: Verification = field(default_factory=Verification)
    known: set[str] = field(default_factory=set)  # keys that a manifest accounts for
    open_prefixes: list[str] = field(default_factory=list)  # revisions under way
    void_prefixes: list[str] = field(default_factory=list)
    latest: dict[str, Manifest] = field(default_factory=dict)  # the latest delivery of each business date
    revisions: dict[str, int] = field(default_factory=dict)  # revisions seen of each business date
    reported: set[str] = field(default_factory=set)  # business dates whose missing manifest is reported
    sent: dict[str, str] = field(default_factory=dict)  # page 1 of the latest revision with a file that is not withheld

    def chain(self) -> None:
        """Verify every place in order."""
        prefix = chain_prefix(self.feed)
        names = {key: _POSITION.match(key.removeprefix(prefix)) for key in self.store.list(prefix)}
        for key in [key for key, name in names.items() if name is None]:
            self.result.add(ProblemKind.ORPHAN, self.store.location(key), "not an entry of the chain")
        positions = {int(name[1]) for name in names.values() if name is not None}
        last = max(positions, default=0)
        before: Link | None = None
        comparable = True  # the place before is readable
        for position in range(1, last + 1):
            location = self.store.location(chain_key(self.feed, position))
            if position not in positions:
                self.result.add(ProblemKind.CHAIN_GAP, location, f"position {position} of {last} is missing")
                comparable = False
                continue
            try:
                entry = chain_entry(self.store, self.feed, position)
                check_key(manifest_key(entry.feed, entry.business_date, entry.revision))
            except (DamagedRecordError, InvalidKeyError) as error:
                self.result.add(ProblemKind.RECORD_DAMAGED, location, str(error))
                comparable = False
                continue
            link = None
            if entry.feed == self.feed:
                link = self.place(position, entry, is_last=position == last, before=before, comparable=comparable)
            else:
                self.result.add(ProblemKind.CHAIN_CHANGED, location, "it is an entry of another feed")
            before, comparable = link, link is not None

    def lost(self) -> None:
        """Report deliveries that were reconciled and that the chain no longer has: its last places were removed."""
        for day, (revision, proof) in sorted(self._reconciled().items()):
            if self.revisions.get(day, -1) < revision and day not in self.reported:
                location = self.store.location(manifest_key(self.feed, dt.date.fromisoformat(day), revision))
                fault = f"the chain has no place for it, although {proof} states that it was delivered"
                self.result.add(ProblemKind.CHAIN_GAP, location, fault)

    def _reconciled(self) -> dict[str, tuple[int, str]]:
        """Return the highest reconciled revision of each business date, and the record of it."""
        highest: dict[str, tuple[int, str]] = {}
        for key in self.store.list("references/"):
            match = _RECONCILIATION.match(key)
            if match is None or match["feed"] != self.feed:
                continue
            with contextlib.suppress(ObjectNotFoundError, ValueError, KeyError, TypeError):
                verdict = (int(json.loads(self.store.read(key))["revision"]), key)
                highest[match["day"]] = max(highest.get(match["day"], verdict), verdict)
        return highest

    def _proof_of_delivery(self, entry: ChainEntry) -> str | None:
        """Return the record that proves the entry's delivery: a reconciliation of it, or a quarantine release in it."""
        revision, key = self._reconciled().get(entry.business_date.isoformat(), (-1, ""))
        if revision >= entry.revision:
            return key
        for record in quarantine(self.store, self.feed, entry.business_date):
            if record.released_in is not None and record.released_in >= entry.revision:
                return quarantine_key(self.feed, entry.business_date, record.number)
        return None

    def place(
        self, position: int, entry: ChainEntry, *, is_last: bool, before: Link | None, comparable: bool
    ) -> Link | None:
        """Verify one place: its manifest, its record and its pages. Return the link to the manifest, if any."""
        key = manifest_key(entry.feed, entry.business_date, entry.revision)
        location, prefix = self.store.location(key), delivered_prefix(entry.feed, entry.business_date, entry.revision)
        try:
            data = self.store.read(key)
        except ObjectNotFoundError:
            if is_last and (proof := self._proof_of_delivery(entry)):
                fault = f"the manifest at position {position} is missing, although {proof} states that it was delivered"
                self.result.add(ProblemKind.CHAIN_GAP, location, fault)
                self.reported.add(entry.business_date.isoformat())
            elif is_last:
                self.open_prefixes.append(prefix)
                self.result.add(ProblemKind.UNFINISHED, location, f"position {position} has no manifest yet")
            else:
                self.result.add(ProblemKind.CHAIN_GAP, location, f"the manifest at position {position} is missing")
            return None
        self.known.add(key)
        self.result.manifests += 1
        link = Link(key=key, sha256=sha256(data))
        try:
            manifest = read_manifest(data, location, self.store)
        except DamagedRecordError as error:
            self.result.add(ProblemKind.RECORD_DAMAGED, location, str(error))
            return link
        self.result.problems += manifest_problems(manifest, data, location)
        stated = (manifest.feed, manifest.business_date, manifest.revision, manifest.chain_position)
        if stated != (entry.feed, entry.business_date, entry.revision, position):
            self.result.add(ProblemKind.CHAIN_CHANGED, location, f"it names another place than position {position}")
        if comparable and manifest.previous != before:
            self.result.add(ProblemKind.CHAIN_CHANGED, location, "the manifest before it is not the one that it names")
        self.sequence(manifest, location)
        if isinstance(manifest, Manifest):
            self.build(manifest, location)
            self.pages(manifest)
            self.ledger(manifest)
        else:
            self.void_prefixes.append(prefix)
        return link

    def sequence(self, manifest: AnyManifest, location: str) -> None:
        """Verify that revisions count up from 0 and business dates from sequence number 1, without gaps."""
        day = manifest.business_date.isoformat()
        due = self.revisions.get(day, -1) + 1
        if manifest.revision != due:
            self.result.add(ProblemKind.OUT_OF_ORDER, location, f"revision {due} comes next")
        self.revisions[day] = manifest.revision
        if not isinstance(manifest, Manifest):
            return
        earlier = self.latest.get(day)
        replaces: set[str | None] = {self.sent.get(day)}
        if earlier is not None:
            number, date = earlier.sequence_number, earlier.business_date
            # A file may be withheld before or after the next revision is built.
            replaces.add(message_id(self.feed, date, earlier.revision, 1))
        else:
            number = len(self.latest) + 1
            if any(day < other for other in self.latest):
                self.result.add(ProblemKind.OUT_OF_ORDER, location, "a later business date was delivered before")
        if manifest.sequence_number != number:
            self.result.add(
                ProblemKind.OUT_OF_ORDER, location, f"its sequence number is {manifest.sequence_number}, not {number}"
            )
        if manifest.replaces not in replaces:
            names = " or ".join(sorted(name or "nothing" for name in replaces))
            self.result.add(ProblemKind.OUT_OF_ORDER, location, f"it should replace {names}")
        self.latest[day] = manifest
        withheld = self.withheld(manifest)
        if any(page.message_id not in withheld for page in manifest.pages):
            self.sent[day] = message_id(self.feed, manifest.business_date, manifest.revision, 1)

    def withheld(self, manifest: Manifest) -> set[str]:
        """Return the message ids of the delivery's withheld files, whose records are accounted for."""
        date = delivered_prefix(manifest.feed, manifest.business_date)
        prefix = delivered_prefix(manifest.feed, manifest.business_date, manifest.revision)
        names = {key: WITHHELD.match(key.removeprefix(date)) for key in self.store.list(f"{prefix}withheld-")}
        records = {key: name["message_id"] for key, name in names.items() if name is not None}
        files = {page.message_id for page in manifest.pages}
        self.known |= {key for key, message in records.items() if message in files}
        return set(records.values())

    def build(self, manifest: Manifest, location: str) -> None:
        """Compare the manifest with its build, if that exists: no successor names the last manifest's hash."""
        try:
            build = read_build(self.store, manifest.feed, manifest.business_date, manifest.build_id)
        except ObjectNotFoundError:
            return
        except DamagedRecordError as error:
            self.result.add(ProblemKind.RECORD_DAMAGED, error.location, str(error))
            return
        try:
            changed = build_differences(build, manifest)
        except DamagedRecordError as error:
            own = build.portfolio_list
            if own is not None and error.location == self.store.location(own.key):
                self.result.add(ProblemKind.RECORD_DAMAGED, error.location, str(error))
            return  # or the manifest's list of portfolios, which ``manifest_problems`` reports
        if changed:
            self.result.add(
                ProblemKind.CHAIN_CHANGED, location, f"{', '.join(changed)} are not those of the build delivered"
            )

    def ledger(self, manifest: Manifest) -> None:
        """Check every file of a delivery's ledger, and fold the date's earlier revisions again."""
        if manifest.checkpoint is not None and (fault := checkpoint_fault(self.store, manifest)):
            self.result.add(ProblemKind.LEDGER_CHANGED, self.store.location(manifest.checkpoint.key), fault)
        if manifest.portfolio_list is not None:
            self.known.add(manifest.portfolio_list.key)
        prefix = ledger_prefix(manifest.feed, manifest.business_date, manifest.revision)
        for file in manifest.ledger.files if manifest.ledger else ():
            key = (file.prefix or prefix) + file.name
            self.known.add(key)
            try:
                same = stored_facts(self.store, key) == (file.bytes, file.sha256)
            except ObjectNotFoundError:
                self.result.add(ProblemKind.LEDGER_CHANGED, self.store.location(key), "the manifest lists it")
                continue
            if not same:
                location = self.store.location(key)
                self.result.add(ProblemKind.LEDGER_CHANGED, location, "its size or SHA-256 isn't the manifest's")

    def pages(self, manifest: Manifest) -> None:
        """Verify every page of a delivery."""
        on_page = portfolios_by_page(manifest) or {}
        prefix = delivered_prefix(manifest.feed, manifest.business_date, manifest.revision)
        self.result.portfolios += len(manifest.portfolios)
        for page in manifest.pages:
            if not _FILE_NAME.match(page.key.removeprefix(prefix)):
                location = self.store.location(manifest_key(manifest.feed, manifest.business_date, manifest.revision))
                self.result.add(
                    ProblemKind.RECORD_DAMAGED, location, f"page {page.message_id} is not among its revision's files"
                )
                continue
            self.known.add(page.key)
            self.result.pages += 1
            self.on_page(page.key)
            location = self.store.location(page.key)
            if not self.read_pages and self.store.exists(page.key):
                continue
            try:
                with self.store.local_file(page.key) as path:
                    self.result.problems += page_problems(
                        path,
                        location,
                        page=page,
                        manifest=manifest,
                        portfolios=on_page.get(page.message_id),
                        document_format=self.document_format,
                    )
            except ObjectNotFoundError:
                self.result.add(ProblemKind.PAGE_MISSING, location, "the manifest lists it")

    def leftovers(self) -> None:
        """Report files that no manifest accounts for."""
        for key in self.store.list(delivered_prefix(self.feed)):
            location = self.store.location(key)
            if key in self.known or any(key.startswith(prefix) for prefix in self.open_prefixes):
                continue
            if key.endswith(f"/{MANIFEST_NAME}"):
                self.result.add(ProblemKind.NOT_IN_CHAIN, location, "the chain has no place for it")
            elif any(key.startswith(prefix) for prefix in self.void_prefixes):
                self.result.add(ProblemKind.LEFTOVER, location, "its revision is void")
            else:
                self.result.add(ProblemKind.ORPHAN, location, "no manifest lists it")
