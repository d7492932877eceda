"""Publishing: exactly once, in order, only with verdicts and consent, whatever dies or races."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from classfeed_dagster.delivery.gate import REQUIRED_VERDICTS, record_verdict
from classfeed_dagster.delivery.manifest import VoidManifest
from classfeed_dagster.delivery.publish import publish
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import (
    ConsentChangedError,
    GateRefusedError,
    NotInOrderError,
    StaleBuildError,
    TooManyHeldBackError,
)
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import manifest_key
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    AMOUNTS,
    ASKED_AT,
    DAY1,
    DAY2,
    DAY3,
    FEED,
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
