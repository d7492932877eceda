"""Publishing: exactly once, in order, only with verdicts and consent, whatever dies or races."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal

import pytest

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.gate import REQUIRED_VERDICTS, Verdict, files_checked, record_verdict
from classfeed_dagster.delivery.manifest import ChainEntry, Manifest, VoidManifest
from classfeed_dagster.delivery.publish import publish
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.documents.document_format import PageHeader, PageRule, Totals
from classfeed_dagster.errors import (
    ChainBusyError,
    ConsentChangedError,
    DamagedRecordError,
    GateRefusedError,
    NotInOrderError,
    StaleBuildError,
    TooManyHeldBackError,
)
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import chain_key, delivered_prefix, from_json, manifest_key, sha256, to_json
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    AMOUNTS,
    ASKED_AT,
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
)
from classfeed_dagster_tests.fixtures.fake_format import LinesFormat


def sound(store: ObjectStore) -> bool:
    verification = verify_feed(store, FEED, FORMAT)
    assert verification.problems == []
    return verification.sound


@on_s3_too
def test_first_delivery_is_complete_and_a_rerun_changes_nothing(store: ObjectStore) -> None:
    outcome = deliver(store, simple())
    manifest = outcome.manifest
    assert outcome.kind == "DELIVERED"
    assert manifest is not None
    assert outcome.manifest_key == f"delivered/{FEED}/2023-01-03/r0/manifest.json"
    assert (manifest.revision, manifest.chain_position, manifest.previous, manifest.replaces) == (0, 1, None, None)
    assert [p.number for p in manifest.portfolios] == ["P1", "P2", "P3", "P4", "P5"]
    assert len(manifest.pages) > 1
    assert manifest.totals.currencies["AUD"].cash_credits == Decimal("18.78")
    assert manifest.totals.currencies["AUD"].cash_debits == Decimal("-2.50")
    assert manifest.consent_checked_at == ASKED_AT
    assert {v.check for v in manifest.verdicts} >= {"document_valid", "everyone_consented", "consent_roll"}
    before = contents(store)
    assert manifest.portfolio_list is not None
    assert set(before) == {page.key for page in manifest.pages} | {outcome.manifest_key, manifest.portfolio_list.key}

    again = deliver(store, simple(), "try-2")
    assert again.kind == "NOTHING_TO_DO"
    assert again.manifest == manifest
    assert deliver(store, simple(snapshot="s2"), "try-3").kind == "NOTHING_TO_DO"
    assert contents(store) == before
    assert sound(store)


def test_date_without_portfolios_is_an_empty_page(store: ObjectStore) -> None:
    outcome = deliver(store, Day(DAY1, {}))
    assert outcome.kind == "DELIVERED"
    assert outcome.manifest is not None
    assert [page.counts for page in outcome.manifest.pages] == [{}]
    assert deliver(store, Day(DAY1, {})).kind == "NOTHING_TO_DO"
    assert sound(store)


def test_reissue_holds_only_what_changed(store: ObjectStore) -> None:
    deliver(store, simple())
    first = contents(store)
    outcome = deliver(store, simple(snapshot="s2", P1=["10.00", "-2.50"], P2=["1.01"], P3=[], P4=["7.77"], P5=["0.01"]))
    manifest = outcome.manifest
    assert outcome.kind == "DELIVERED"
    assert manifest is not None
    assert (manifest.revision, manifest.replaces) == (1, f"{FEED}-20230103-r0-p1")
    assert [p.number for p in manifest.portfolios] == ["P2"]
    after = contents(store)
    assert {key: after[key] for key in first} == first
    assert sound(store)


def test_dates_go_in_order_and_manifests_chain(store: ObjectStore) -> None:
    second = simple(DAY2)
    new_build = build(store, second)
    check(store, new_build, second)
    with pytest.raises(NotInOrderError) as caught:
        go(store, new_build, second)
    assert caught.value.previous == DAY1
    assert caught.value.kind.retried
    assert list(store.list("chain/")) == []

    item = deliver(store, simple(DAY1)).manifest
    assert go(store, new_build, second).kind == "DELIVERED"  # what it assumed of the date before came true
    re_issued = deliver(store, simple(DAY1, "s2", P1=["10.00"], P2=["1.00"], P3=[], P4=["7.77"], P5=["0.01"])).manifest
    two = delivered_state(store, FEED, DAY2).latest
    assert item is not None
    assert two is not None
    assert re_issued is not None
    assert [m.chain_position for m in (item, two, re_issued)] == [1, 2, 3]
    assert [m.sequence_number for m in (item, two, re_issued)] == [1, 2, 1]
    assert two.previous is not None
    assert re_issued.previous is not None
    assert (two.previous.key, re_issued.previous.key) == (manifest_key(FEED, DAY1, 0), manifest_key(FEED, DAY2, 0))
    assert sound(store)


def test_held_back_waits_and_is_released_in_order(store: ObjectStore) -> None:
    first, second = replace(simple(DAY1), broken=["P2"]), simple(DAY2)
    hold = deliver(store, first).manifest
    assert hold is not None
    assert [(h.number, h.kind, h.reason) for h in hold.held_back] == [("P2", "RULE", "breaks units_ledger (2 times)")]
    waiting = deliver(store, second).manifest
    third = deliver(store, simple(DAY3)).manifest
    assert waiting is not None
    assert third is not None
    assert [(h.number, h.kind, h.reason) for h in waiting.held_back] == [("P2", "WAITING", "waiting for 2023-01-03")]
    assert [h.reason for h in third.held_back] == ["waiting for 2023-01-03"]  # the date to correct, not the one between

    # A later date can't go before the earlier one has.
    assert deliver(store, simple(DAY3)).kind == "NOTHING_TO_DO"
    for day in (simple(DAY1), second, simple(DAY3)):
        corrected = deliver(store, day).manifest
        assert corrected is not None
        assert (corrected.revision, [p.number for p in corrected.portfolios], corrected.held_back) == (1, ["P2"], ())
    assert sound(store)


def test_built_ahead_on_a_wrong_assumption_is_refused(local_store: ObjectStore) -> None:
    second = simple(DAY2)
    ahead = build(local_store, second)  # assumes that all of DAY1 will go
    check(local_store, ahead, second)
    deliver(local_store, replace(simple(DAY1), broken=["P2"]))
    with pytest.raises(StaleBuildError, match="P2"):
        go(local_store, ahead, second)
    manifest = deliver(local_store, second).manifest
    assert manifest is not None
    assert "P2" not in {p.number for p in manifest.portfolios}
    assert sound(local_store)


def test_removal_is_announced_of_delivered_portfolios_only(store: ObjectStore) -> None:
    second = Day(DAY2, {"P1": ("CURRENT", ("1.00",)), "P2": ("REMOVED", ()), "P3": ("REMOVED", ())})
    ahead = build(store, second)
    check(store, ahead, second)
    deliver(
        store, replace(simple(DAY1, P1=["1.00"], P2=["1.00"], P3=["3.00"]), broken=["P2"], held_back_limit=Decimal(1))
    )
    with pytest.raises(StaleBuildError, match=r"\(P2\)"):
        go(store, ahead, second)
    manifest = deliver(store, second).manifest
    assert manifest is not None
    assert [(p.number, p.change) for p in manifest.portfolios] == [("P1", "CURRENT"), ("P3", "REMOVED")]

    # Built while P2 was unknown to the recipient; then the earlier date's re-issue made it known.
    new_build = build(store, replace(second, content={**second.content, "P1": ("CURRENT", ("2.00",))}))
    assert new_build.unannounced == ("P2",)
    check(store, new_build, second)
    deliver(store, simple(DAY1, P1=["1.00"], P2=["1.00"], P3=["3.00"]))
    with pytest.raises(StaleBuildError, match="P2"):
        go(store, new_build, second)
    announced = deliver(store, second).manifest
    assert announced is not None
    assert [(p.number, p.change) for p in announced.portfolios] == [("P2", "REMOVED")]
    assert sound(store)


def test_held_back_share_above_the_limit_stops_the_feed(local_store: ObjectStore) -> None:
    with pytest.raises(TooManyHeldBackError, match="units_ledger"):
        deliver(local_store, replace(simple(), broken=["P1", "P2", "P3"]))
    assert list(local_store.list("")) == []


@on_s3_too
def test_equal_builds_deliver_once(store: ObjectStore) -> None:
    item, other = build(store, simple(snapshot="s1")), build(store, simple(snapshot="s2"))
    assert item.build_id != other.build_id
    for created in (item, other):
        check(store, created, simple())
    assert go(store, item, simple()).kind == "DELIVERED"
    before = contents(store)
    again, late = go(store, item, simple()), go(store, other, simple())
    assert (again.kind, late.kind) == ("ALREADY_DELIVERED", "ALREADY_DELIVERED")
    assert late.manifest == again.manifest
    assert contents(store) == before


def test_build_delivered_before_a_reissue_stays_delivered(store: ObjectStore) -> None:
    first = build(store, simple())
    check(store, first, simple())
    delivered = go(store, first, simple()).manifest
    deliver(store, simple(snapshot="s2", **{**AMOUNTS, "P2": ["2.00"]}))
    before = contents(store)
    again = go(store, first, simple())
    assert (again.kind, again.manifest) == ("ALREADY_DELIVERED", delivered)
    assert contents(store) == before


def test_build_overtaken_by_other_content_is_stale(store: ObjectStore) -> None:
    late = build(store, simple())
    check(store, late, simple())
    deliver(store, simple(snapshot="s2", P1=["99.00"]))
    before = contents(store)
    with pytest.raises(StaleBuildError, match="revision 1 comes next"):
        go(store, late, simple())
    assert contents(store) == before


def test_build_without_pages_is_stale_after_a_delivery(local_store: ObjectStore) -> None:
    deliver(local_store, simple())
    empty = build(local_store, simple())
    assert empty.pages == ()
    deliver(local_store, simple(snapshot="s2", P1=["99.00"], P2=["1.00"], P3=[], P4=["7.77"], P5=["0.01"]))
    with pytest.raises(StaleBuildError):
        go(local_store, empty, simple())


def test_build_for_another_audience_is_stale(local_store: ObjectStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    with pytest.raises(StaleBuildError, match="another recipient"):
        publish(
            local_store,
            new_build,
            consented_now=lambda: (ASKED_AT, day.active),
            audience=RecipientSchedule("CLASS", dt.date(2022, 12, 30)),
            correlation_id="x",
        )


# --- The gate -----------------------------------------------------------------------------------------------------


def test_build_without_a_verdict_is_refused(store: ObjectStore) -> None:
    day = simple()
    new_build = build(store, day)
    with pytest.raises(GateRefusedError) as caught:
        go(store, new_build, day)
    assert len(caught.value.reasons) == len(REQUIRED_VERDICTS)
    check(store, new_build, day)
    record_verdict(store, new_build, "everyone_consented", False, "P2 does not consent now", "late")
    with pytest.raises(GateRefusedError, match=r"everyone_consented failed \(P2 does not consent now\)"):
        go(store, new_build, day)
    assert contents(store) == {}
    record_verdict(store, new_build, "everyone_consented", True, "all consent again", "later")
    assert go(store, new_build, day).kind == "DELIVERED"


# --- Consent ------------------------------------------------------------------------------------------------------


def test_publish_consent_ended_after_build_writes_nothing(store: ObjectStore) -> None:
    day = simple()
    new_build = build(store, day)
    check(store, new_build, day)
    with pytest.raises(ConsentChangedError, match="P2") as caught:
        go(store, new_build, day.without("P2"))
    assert caught.value.numbers == ("P2",)
    assert list(store.list("chain/")) == []
    assert contents(store) == {}


@on_s3_too
def test_consent_that_ends_at_the_last_moment_leaves_no_page_behind(store: ObjectStore) -> None:
    day = simple()
    new_build = build(store, day)
    check(store, new_build, day)
    answers = iter([day.consenting, day.without("P2").consenting])
    with pytest.raises(ConsentChangedError):
        go(store, new_build, day, consented=lambda: next(answers))
    (void,) = delivered_state(store, FEED, DAY1).revisions
    assert isinstance(void.manifest, VoidManifest)
    assert list(contents(store)) == [manifest_key(FEED, DAY1, 0)]
    assert b"P2" not in b"".join(contents(store).values())

    manifest = deliver(store, day.without("P2")).manifest
    assert manifest is not None
    assert (manifest.revision, manifest.replaces, manifest.chain_position) == (1, None, 2)
    assert [(h.number, h.kind) for h in manifest.held_back] == [("P2", "CONSENT_ENDED")]
    assert sound(store)


def test_dead_attempts_pages_are_removed_when_a_consent_ended(store: ObjectStore) -> None:
    day = simple()
    new_build = build(store, day)
    check(store, new_build, day)
    requests: list[int] = []

    def dies() -> frozenset[str]:
        requests.append(1)
        if len(requests) == 2:
            raise ConnectionError("bigsite is gone")
        return day.consenting

    with pytest.raises(ConnectionError):
        go(store, new_build, day, consented=dies)
    assert len(contents(store)) == len(new_build.pages) + 1  # and their list of portfolios
    with pytest.raises(ConsentChangedError):
        go(store, new_build, day.without("P2"))
    assert list(contents(store)) == [manifest_key(FEED, DAY1, 0)]


def test_removed_portfolios_need_no_consent(local_store: ObjectStore) -> None:
    deliver(local_store, simple(P1=["1.00"], P2=["1.00"]))
    day = Day(DAY2, {"P1": ("CURRENT", ("1.00",)), "P2": ("REMOVED", ())})
    manifest = deliver(local_store, day).manifest
    assert manifest is not None
    assert [p.change for p in manifest.portfolios] == ["CURRENT", "REMOVED"]


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
