"""Publishing after attempts that stopped, and with damaged files: nothing is lost, doubled or half done."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import pytest

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.gate import Verdict, files_checked
from classfeed_dagster.delivery.manifest import ChainEntry, Manifest, VoidManifest
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.documents.document_format import PageHeader, PageRule, Totals
from classfeed_dagster.errors import (
    ChainBusyError,
    DamagedRecordError,
    StaleBuildError,
)
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import chain_key, delivered_prefix, from_json, manifest_key, sha256, to_json
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    AUDIENCE,
    DAY1,
    DAY2,
    DAY3,
    FEED,
    FORMAT,
    Crash,
    Day,
    build,
    check,
    contents,
    deliver,
    go,
    on_s3_too,
    simple,
    sound,
)
from classfeed_dagster_tests.fixtures.fake_format import LinesFormat

# --- Attempts that stopped ----------------------------------------------------------------------------------------


def test_dead_claim_of_another_date_is_closed_after_the_wait(store: ObjectStore) -> None:
    deliver(store, simple(DAY1))
    deliver(store, simple(DAY2))
    store.create(chain_key(FEED, 3), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=1)))
    store.create(f"delivered/{FEED}/2023-01-03/r1/{FEED}-20230103-r1-p1.txt.gz", b"half")
    day = simple(DAY3)
    new_build = build(store, day)
    check(store, new_build, day)
    naps: list[float] = []
    assert go(store, new_build, day, patience_seconds=2.5, sleep=naps.append).kind == "DELIVERED"
    assert naps == [1.0, 1.0, 0.5]
    latest = delivered_state(store, FEED, DAY3).latest
    assert latest is not None
    assert latest.chain_position == 4
    void = delivered_state(store, FEED, DAY1).revisions[1].manifest
    assert isinstance(void, VoidManifest)
    assert latest.previous is not None
    assert latest.previous.key == manifest_key(FEED, DAY1, 1)
    assert not store.exists(f"delivered/{FEED}/2023-01-03/r1/{FEED}-20230103-r1-p1.txt.gz")
    assert sound(store)


@on_s3_too
def test_live_claim_is_waited_for(store: ObjectStore) -> None:
    deliver(store, simple(DAY1))
    deliver(store, simple(DAY2))
    other = simple(DAY1, "s2", P1=["5.00"], P2=["1.00"], P3=[], P4=["7.77"], P5=["0.01"])
    theirs = build(store, other)
    check(store, theirs, other)
    store.create(chain_key(FEED, 3), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=1)))
    day = simple(DAY3)
    new_build = build(store, day)
    check(store, new_build, day)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            store.create(f"delivered/{FEED}/2023-01-03/r1/sign-of-life", b"")  # patience begins anew
        if len(naps) == 4:
            store.delete(f"delivered/{FEED}/2023-01-03/r1/sign-of-life")
            assert go(store, theirs, other).kind == "DELIVERED"

    assert go(store, new_build, day, patience_seconds=3.0, sleep=nap).kind == "DELIVERED"
    assert len(naps) == 4
    assert all(isinstance(revision.manifest, Manifest) for revision in delivered_state(store, FEED, DAY1).revisions)
    assert sound(store)


def test_own_dead_claim_with_other_content_becomes_void(store: ObjectStore) -> None:
    old = build(store, simple(snapshot="s1"))
    store.create(chain_key(FEED, 1), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=0)))
    page = old.pages[0]
    store.create(f"delivered/{FEED}/2023-01-03/r0/{page.key.rpartition('/')[2]}", store.read(page.key))
    manifest = deliver(store, simple(snapshot="s2")).manifest
    assert manifest is not None
    assert (manifest.revision, manifest.chain_position, manifest.replaces) == (1, 2, None)
    assert sound(store)


def test_own_dead_claim_with_the_same_content_is_finished(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    local_store.create(chain_key(FEED, 1), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=0)))
    page = new_build.pages[0]
    local_store.create(f"delivered/{FEED}/2023-01-03/r0/{page.key.rpartition('/')[2]}", local_store.read(page.key))
    manifest = deliver(local_store, day).manifest
    assert manifest is not None
    assert (manifest.revision, manifest.chain_position) == (0, 1)
    assert sound(local_store)


def test_publish_next_run_removes_leftovers_of_a_void_revision(store: ObjectStore) -> None:
    test_own_dead_claim_with_other_content_becomes_void(store)
    late = f"delivered/{FEED}/2023-01-03/r0/{FEED}-20230103-r0-p1.txt.gz"
    store.create(late, b"written by a process that woke up late")
    problems = verify_feed(store, FEED, FORMAT)
    assert [p.kind.name for p in problems.problems] == ["LEFTOVER"]
    assert problems.sound
    deliver(store, simple(snapshot="s2"))
    assert not store.exists(late)


def test_chain_that_others_extend_gives_up(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)

    class AlwaysLate:
        def __getattr__(self, name: str) -> object:
            return getattr(local_store, name)

        def create(self, key: str, *args: object) -> bool:
            return False

    with pytest.raises(ChainBusyError, match="run it again"):
        go(AlwaysLate(), new_build, day)  # type: ignore[arg-type]
    assert contents(local_store) == {}


# --- Damage -------------------------------------------------------------------------------------------------------


def test_staged_page_changed_after_checks_is_refused(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    local_store.put(new_build.pages[1].key, b"not a gzip file")
    with pytest.raises(DamagedRecordError, match="is not the one checked"):
        go(local_store, new_build, day)
    assert not local_store.exists(manifest_key(FEED, DAY1, 0))


def test_publish_record_and_page_changed_together_is_refused(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    page, data = new_build.pages[1], b"another file"
    changed = page.model_copy(update={"bytes": len(data), "sha256": sha256(data)})
    local_store.put(page.key, data)
    forged = new_build.model_copy(update={"pages": (new_build.pages[0], changed)})
    with pytest.raises(DamagedRecordError, match="is not the one checked"):
        go(local_store, forged, day)
    assert not local_store.exists(manifest_key(FEED, DAY1, 0))


def test_publish_verdict_without_files_reads_the_document(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    for key in list(local_store.list(f"verdicts/{FEED}/")):  # as verdicts were before they named files
        local_store.put(key, to_json(from_json(Verdict, local_store.read(key), key).model_copy(update={"files": {}})))
    assert not files_checked(local_store, new_build)
    assert go(local_store, new_build, day).kind == "DELIVERED"


def test_missing_staged_page_makes_the_build_stale(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    local_store.delete(new_build.pages[0].key)
    with pytest.raises(StaleBuildError, match="a staged page is missing"):
        go(local_store, new_build, day)
    assert deliver(local_store, day).kind == "DELIVERED"


def test_missing_staged_list_makes_the_build_stale(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    assert new_build.portfolio_list is not None
    local_store.delete(new_build.portfolio_list.key)
    with pytest.raises(StaleBuildError, match="the staged list of portfolios is missing"):
        go(local_store, new_build, day)
    assert deliver(local_store, day).kind == "DELIVERED"


def test_page_stored_with_other_bytes_is_detected(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)

    class Corrupting:
        def __getattr__(self, name: str) -> object:
            return getattr(local_store, name)

        def create(self, key: str, data: object, metadata: object = None) -> bool:
            return local_store.create(key, b"bits have flipped" if key.endswith(".gz") else data, metadata)  # type: ignore[arg-type]

    with pytest.raises(DamagedRecordError, match="differs from the one written"):
        go(Corrupting(), new_build, day)  # type: ignore[arg-type]
    assert not local_store.exists(manifest_key(FEED, DAY1, 0))


def test_page_that_vanishes_while_publishing_is_no_delivery(local_store: ObjectStore) -> None:
    # Another attempt closed the revision and cleaned up between our writing and our reading back.
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)

    class Vanishing:
        def __getattr__(self, name: str) -> object:
            return getattr(local_store, name)

        def create(self, key: str, data: object, metadata: object = None) -> bool:
            if key.endswith(".gz"):
                return True
            return local_store.create(key, data, metadata)  # type: ignore[arg-type]

    with pytest.raises(StaleBuildError):
        go(Vanishing(), new_build, day)  # type: ignore[arg-type]
    assert isinstance(delivered_state(local_store, FEED, DAY1).revisions[0].manifest, VoidManifest)


def test_broken_chain_stops_publishing(local_store: ObjectStore) -> None:
    for day in (simple(DAY1), simple(DAY2)):
        deliver(local_store, day)
    day = simple(DAY3)
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    entry = local_store.read(chain_key(FEED, 1))
    local_store.delete(chain_key(FEED, 1))
    with pytest.raises(DamagedRecordError, match="some are missing"):
        go(local_store, new_build, day)
    local_store.create(chain_key(FEED, 1), entry)
    manifest = local_store.read(manifest_key(FEED, DAY1, 0))
    local_store.delete(manifest_key(FEED, DAY1, 0))
    with pytest.raises(DamagedRecordError, match="position 1 of the chain is missing"):
        go(local_store, new_build, day)
    local_store.create(manifest_key(FEED, DAY1, 0), manifest)
    assert go(local_store, new_build, day).kind == "DELIVERED"


def test_first_delivery_fixes_the_audience(local_store: ObjectStore) -> None:
    new_build = build(local_store, simple())
    assert (new_build.previous_date, new_build.sequence_number) == (None, AUDIENCE.sequence_number(DAY1))


@pytest.mark.parametrize("ask", [1, 2])
def test_delivery_before_the_consent_ended_remains(local_store: ObjectStore, ask: int) -> None:
    """While this attempt queries consent, another delivers the build; then a consent ends."""
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    local_store.create(chain_key(FEED, 1), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=0)))
    requests: list[int] = []

    def overtaken() -> frozenset[str]:
        requests.append(1)
        if len(requests) < ask:
            return day.consenting
        assert go(local_store, new_build, day, correlation_id="faster").kind == "DELIVERED"
        return day.without("P2").consenting

    outcome = go(local_store, new_build, day, consented=overtaken)
    assert outcome.kind == "ALREADY_DELIVERED"
    assert outcome.manifest is not None
    assert outcome.manifest.correlation_id == "faster"
    assert sound(local_store)


class UncountedFormat(LinesFormat):
    """One file a portfolio, which does not state how many there are."""

    @property
    def page_rule(self) -> PageRule:
        return PageRule.BY_PORTFOLIO

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        return super().page(replace(header, page_count=1), totals, sections)


def _checked(store: ObjectStore, day: Day, document_format: LinesFormat) -> Build:
    staged = build(store, day, document_format=document_format)
    check(store, staged, day)
    return staged


def test_attempt_with_fewer_pages_leaves_no_page_of_another_one(store: ObjectStore) -> None:
    uncounted = UncountedFormat()
    first, second = simple(), simple().without("P5")
    staged = _checked(store, first, uncounted)
    assert len(staged.pages) > 1
    last = delivered_prefix(FEED, DAY1, 0) + staged.pages[-1].key.rpartition("/")[2]

    def consented() -> frozenset[str]:
        if store.exists(last):  # every page is there, and the manifest is next
            raise Crash
        return first.consenting

    with pytest.raises(Crash):
        go(store, staged, first, consented=consented)
    assert store.exists(last)
    with pytest.raises(StaleBuildError):  # the place of the first attempt is closed
        go(store, _checked(store, second, uncounted), second)
    assert go(store, _checked(store, second, uncounted), second).kind == "DELIVERED"
    assert sound(store)
    assert b"P5" not in b"".join(gzip.decompress(data) for key, data in contents(store).items() if key.endswith(".gz"))
