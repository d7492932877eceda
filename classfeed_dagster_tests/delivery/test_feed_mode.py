"""Shadow and live: two places, one chain, and nothing in ``delivered/`` that is not live."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from classfeed_dagster import trading_days
from classfeed_dagster.delivery.feed_mode import FeedMode, FeedStoreView, last_delivery, shadow_key
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore, open_store
from classfeed_dagster.stored_records import manifest_key
from classfeed_dagster_tests.fixtures import csv_frames as make
from classfeed_dagster_tests.fixtures.delivering import deliver
from classfeed_dagster_tests.fixtures.delivery_pipeline import on_s3_too

FIRST = dt.date(2023, 5, 1)
DAYS = trading_days.business_days_between(FIRST, dt.date(2023, 5, 31))
AUDIENCE = RecipientSchedule("CLASS", FIRST)
FEED = "class_trade"
PREFIX = f"delivered/{FEED}/2023-05-01/"


def frames(*ids: int) -> dict[str, pl.DataFrame]:
    return make.frames([make.account("SW00000001")], [make.trade(number) for number in ids])


@on_s3_too
def test_feed_mode_decides_the_prefix_and_reads_see_both(store: ObjectStore) -> None:
    shadow, live = FeedStoreView(store, FEED, FeedMode.SHADOW), FeedStoreView(store, FEED, FeedMode.LIVE)
    assert shadow.create(PREFIX + "a", b"shadow", {"k": "v"})
    assert live.create(PREFIX + "b", b"live")
    assert store.read(shadow_key(PREFIX + "a")) == b"shadow"
    assert store.read(PREFIX + "b") == b"live"
    assert not store.exists(PREFIX + "a")
    for view in (shadow, live):
        assert list(view.list(PREFIX)) == [PREFIX + "a", PREFIX + "b"]
        assert (view.read(PREFIX + "a"), view.read(PREFIX + "b")) == (b"shadow", b"live")
        assert not view.create(PREFIX + "a", b"again")
        assert not view.create(PREFIX + "b", b"again")
        assert view.location(PREFIX + "a") == store.location(shadow_key(PREFIX + "a"))
        with view.local_file(PREFIX + "a") as path:
            assert path.read_bytes() == b"shadow"
    live.put(PREFIX + "a", b"changed")
    assert store.read(shadow_key(PREFIX + "a")) == b"changed"
    live.delete(PREFIX + "a")
    assert not shadow.exists(PREFIX + "a")
    with pytest.raises(ObjectNotFoundError, match="delivered"):
        live.read(PREFIX + "a")


def test_feed_store_view_leaves_other_keys_unchanged(local_store: ObjectStore) -> None:
    view = FeedStoreView(local_store, FEED, FeedMode.SHADOW)
    for key in ("chain/class_trade/1", "delivered/class_trade_more/x", "legacy/class_trade/x"):
        assert view.create(key, b"1")
        assert local_store.exists(key)
        assert view.exists(key)
    assert list(view.list("chain/")) == ["chain/class_trade/1"]


def test_feed_off_delivers_no_document(local_store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="has no place to deliver"):
        FeedStoreView(local_store, FEED, FeedMode.OFF)


def test_cut_over_and_back_keep_one_chain_and_one_sequence(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    modes = [FeedMode.SHADOW, FeedMode.SHADOW, FeedMode.LIVE, FeedMode.LIVE, FeedMode.SHADOW, FeedMode.LIVE]
    manifests = [
        deliver(store, CLASS_TRADE, AUDIENCE, day, frames(at), mode=mode)
        for at, (day, mode) in enumerate(zip(DAYS, modes, strict=False), start=1)
    ]
    assert [manifest.sequence_number for manifest in manifests] == [1, 2, 3, 4, 5, 6]
    assert [manifest.chain_position for manifest in manifests] == [1, 2, 3, 4, 5, 6]
    live = [DAYS[2], DAYS[3], DAYS[5]]
    names = [key for key in store.list("delivered/") if key.endswith(".csv")]
    assert names == [f"delivered/{FEED}/{day}/r0/{FEED}_{day:%Y%m%d}_r0.csv" for day in live]
    assert last_delivery(store, FEED, DAYS[0]) is None
    assert last_delivery(store, FEED, DAYS[2]) == (DAYS[1], FeedMode.SHADOW)
    assert last_delivery(store, FEED, DAYS[4]) == (DAYS[3], FeedMode.LIVE)
    assert last_delivery(store, FEED, dt.date(2024, 1, 1)) == (DAYS[5], FeedMode.LIVE)


def test_shadow_delivery_is_not_delivered_again_live(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    deliver(store, CLASS_TRADE, AUDIENCE, FIRST, frames(1))
    deliver(store, CLASS_TRADE, AUDIENCE, FIRST, frames(1), mode=FeedMode.LIVE)
    assert list(store.list("delivered/")) == []
    again = deliver(store, CLASS_TRADE, AUDIENCE, FIRST, frames(1, 2), mode=FeedMode.LIVE)
    assert again.revision == 1
    assert last_delivery(store, FEED, DAYS[1]) == (FIRST, FeedMode.LIVE)


def test_void_manifest_is_no_delivery(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    deliver(store, CLASS_TRADE, AUDIENCE, FIRST, frames(1))
    void = (
        '{"kind":"void","feed":"class_trade","business_date":"2023-05-02","revision":0,"chain_position":2,'
        '"previous":null,"reason":"stopped","correlation_id":"c"}'
    )
    store.create(manifest_key(FEED, DAYS[1], 0), void.encode())
    assert last_delivery(store, FEED, DAYS[2]) == (FIRST, FeedMode.SHADOW)
    store.create(f"delivered/{FEED}/{DAYS[1]}/r0/notes.txt", b"")
    assert last_delivery(store, FEED, FIRST) is None
