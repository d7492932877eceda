"""Quarantine, the release of consent jumps, and looking at what was delivered."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from classfeed_dagster.delivery.approve_removals import approvals, approve_removals, is_approved
from classfeed_dagster.delivery.delivery_history import date_status, delivered_dates, deliveries_of
from classfeed_dagster.delivery.manifest import ChainEntry
from classfeed_dagster.delivery.quarantine import held, quarantine, update_quarantine
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import ChainBusyError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import chain_key, to_json
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    AUDIENCE,
    CHANGED,
    DAY1,
    DAY2,
    DAY3,
    FEED,
    Day,
    deliver,
    on_s3_too,
    plan,
    simple,
)

T1, T2, T3 = (dt.datetime(2023, 1, 3 + at, 20, tzinfo=dt.UTC) for at in range(3))


def attempt(store: ObjectStore, day: Day, at: dt.datetime) -> None:
    planned = plan(store, day)
    deliver(store, day, f"try at {at:%d}")
    state = delivered_state(store, FEED, day.date)
    update_quarantine(store, planned.held_back, state, at=at, correlation_id=f"try at {at:%d}")


def test_held_back_portfolio_is_released_in_a_revision(store: ObjectStore) -> None:
    attempt(store, replace(simple(), broken=["P2"]), T1)
    (record,) = held(store, FEED, DAY1)
    assert (record.number, record.status, record.held_since, record.correlation_id) == ("P2", "HELD", T1, "try at 03")
    assert record.held_back.reason == "breaks units_ledger (2 times)"
    assert record.age(T2) == dt.timedelta(days=1)
    assert list(store.list("quarantine/")) == [f"quarantine/{FEED}/2023-01-03/P2.json"]

    before = store.read(f"quarantine/{FEED}/2023-01-03/P2.json")
    attempt(store, replace(simple(), broken=["P2"]), T2)  # nothing new
    assert store.read(f"quarantine/{FEED}/2023-01-03/P2.json") == before

    attempt(store, simple(), T3)
    assert held(store, FEED) == ()
    (record,) = quarantine(store, FEED, DAY1)
    assert (record.status, record.released_at, record.released_in, record.held_since) == ("RELEASED", T3, 1, T1)
    assert record.age(T3 + dt.timedelta(days=9)) == dt.timedelta(days=2)
    attempt(store, simple(), T3 + dt.timedelta(days=1))
    assert quarantine(store, FEED, DAY1) == (record,)


def test_earlier_hold_does_not_hide_a_later_one(local_store: ObjectStore) -> None:
    attempt(local_store, replace(simple(), broken=["P2"]), T1)
    attempt(local_store, replace(simple(), broken=["P2", "P4"]), T2)
    assert [(record.number, record.held_since) for record in held(local_store, FEED)] == [("P2", T1), ("P4", T2)]
    attempt(local_store, replace(simple(), broken=["P2"]), T3)
    attempt(local_store, replace(simple(), broken=["P5"]), T3)  # P4, released long ago, is between the two
    assert [record.number for record in held(local_store, FEED)] == ["P5"]


def test_hold_with_another_reason_keeps_its_start_and_a_new_hold_restarts(local_store: ObjectStore) -> None:
    attempt(local_store, replace(simple(), broken=["P2"]), T1)
    attempt(local_store, replace(simple().without("P2"), broken=[]), T2)
    (record,) = held(local_store, FEED, DAY1)
    assert (record.held_back.kind, record.held_since, record.changed_at) == ("CONSENT_ENDED", T1, T2)
    state = delivered_state(local_store, FEED, DAY1)
    update_quarantine(local_store, [], state, at=T3, correlation_id="x")
    (record,) = quarantine(local_store, FEED, DAY1)
    assert (record.status, record.released_in) == ("RELEASED", None)  # it ceased to be due
    later = T3 + dt.timedelta(days=1)
    attempt(local_store, replace(simple(), broken=["P2"]), later)
    assert held(local_store, FEED)[0].held_since == later


def test_record_of_a_delivered_portfolio_names_its_revision(local_store: ObjectStore) -> None:
    attempt(local_store, simple(), T1)
    attempt(local_store, replace(simple(), broken=["P2"]), T2)  # its row was spoilt after the delivery
    (record,) = held(local_store, FEED, DAY1)
    assert (record.delivered_in, record.lacks_data) == (0, False)
    attempt(local_store, simple(), T3)
    (record,) = quarantine(local_store, FEED, DAY1)
    assert (record.status, record.released_in, record.delivered_in) == ("RELEASED", 0, None)


def test_quarantine_key_accepts_any_portfolio_number(local_store: ObjectStore) -> None:
    numbers = ["../../etc/passwd", "P 1", "é", "x" * 300, "P1"]
    day = Day(DAY1, dict.fromkeys(numbers, ("NEW", ("1.00",))))
    planned = plan(local_store, day.without(*numbers))
    state = delivered_state(local_store, FEED, DAY1)
    records = update_quarantine(local_store, planned.held_back, state, at=T1, correlation_id="x")
    assert [record.number for record in records] == sorted(numbers)
    keys = list(local_store.list(""))
    assert len(keys) == 5
    assert all(key.startswith(f"quarantine/{FEED}/2023-01-03/") for key in keys)
    assert {record.number for record in held(local_store, FEED)} == set(numbers)


# --- Consent removals ------------------------------------------------------------------------------------------------


@on_s3_too
def test_approval_covers_exactly_one_set(store: ObjectStore) -> None:
    assert not is_approved(store, AUDIENCE, DAY1, ["P1", "P2"])
    approval = approve_removals(store, AUDIENCE, DAY1, ["P2", "P1"], approved_by=" jo ", reason="fund closed", at=T1)
    assert (approval.approved_by, approval.removed) == ("jo", 2)
    assert list(store.list("releases/")) == [f"releases/{AUDIENCE.key}/2023-01-03/consent-jump.json"]
    assert is_approved(store, AUDIENCE, DAY1, ["P1", "P2"])
    assert not is_approved(store, AUDIENCE, DAY1, ["P1", "P2", "P3"])
    assert not is_approved(store, AUDIENCE, DAY1, ["P1"])
    assert not is_approved(store, AUDIENCE, DAY2, ["P1", "P2"])
    again = approve_removals(store, AUDIENCE, DAY1, ["P1", "P2"], approved_by="max", reason="me too", at=T2)
    assert again == approval


def test_further_approvals_keep_the_earlier_ones(local_store: ObjectStore) -> None:
    for at in range(12):
        approve_removals(local_store, AUDIENCE, DAY1, [f"P{at}"], approved_by="jo", reason="checked", at=T1)
    assert [is_approved(local_store, AUDIENCE, DAY1, [f"P{at}"]) for at in range(13)] == [True] * 12 + [False]
    assert [approval.removed for approval in approvals(local_store, AUDIENCE, DAY1)] == [1] * 12


@on_s3_too
def test_concurrent_approvals_are_all_kept(store: ObjectStore) -> None:
    def approve(at: int) -> None:
        approve_removals(store, AUDIENCE, DAY1, [f"P{at}"], approved_by="jo", reason="checked", at=T1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(approve, range(4)))
    assert all(is_approved(store, AUDIENCE, DAY1, [f"P{at}"]) for at in range(4))


@pytest.mark.parametrize(("person", "reason"), [("", "checked"), ("jo", " ")])
def test_approval_without_name_or_reason_is_refused(local_store: ObjectStore, person: str, reason: str) -> None:
    with pytest.raises(ValueError, match="state who approves"):
        approve_removals(local_store, AUDIENCE, DAY1, ["P1"], approved_by=person, reason=reason, at=T1)


def test_approval_gives_up_after_lost_races(local_store: ObjectStore) -> None:
    class AlwaysLate:
        def __getattr__(self, name: str) -> object:
            return getattr(local_store, name)

        def create(self, *_: object) -> bool:
            return False

    with pytest.raises(ChainBusyError):
        approve_removals(AlwaysLate(), AUDIENCE, DAY1, ["P1"], approved_by="jo", reason="x", at=T1)  # type: ignore[arg-type]


# --- History ------------------------------------------------------------------------------------------------------


def test_status_and_history_list_every_hold(store: ObjectStore) -> None:
    attempt(store, replace(simple(DAY1), broken=["P3"]), T1)
    attempt(store, simple(DAY2), T1)
    store.create(chain_key(FEED, 3), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=1)))
    attempt(store, simple(DAY3), T2)  # closes revision 1 of the first date
    assert delivered_dates(store, FEED) == (DAY1, DAY2, DAY3)
    status = date_status(store, FEED, DAY1)
    assert (status.delivered, status.void_revisions, status.complete) == (4, (1,), False)
    assert [entry.number for entry in status.held_back] == ["P3"]
    assert [record.number for record in status.quarantined] == ["P3"]

    attempt(store, simple(DAY1, "s2", **CHANGED), T3)
    status = date_status(store, FEED, DAY1)
    assert (status.delivered, [m.revision for m in status.deliveries], status.complete) == (5, [0, 2], True)
    nothing = date_status(store, FEED, dt.date(2023, 1, 6))
    assert (nothing.delivered, nothing.complete, nothing.deliveries) == (0, False, ())

    both = deliveries_of(store, FEED, DAY1, "P2")
    assert [(side.manifest.revision, side.superseded) for side in both] == [(0, True), (2, False)]
    assert both[0].page.message_id == both[0].portfolio.page
    assert store.exists(both[1].manifest_key)
    assert store.exists(both[1].page.key)
    assert len(deliveries_of(store, FEED, DAY1)) == 6
    histories = {
        number: [
            delivery for day in delivered_dates(store, FEED) for delivery in deliveries_of(store, FEED, day, number)
        ]
        for number in ("P2", "P9")
    }
    assert [item.manifest.business_date for item in histories["P2"]] == [DAY1, DAY1, DAY2, DAY3]
    assert histories["P9"] == []
