"""Switches and exclusion: rows that they exclude, records, and feeds that may not be live together."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.domains.ledger_rows import LEDGER_RECORDS
from classfeed_dagster.feed_run.exclusion import (
    delivered_elsewhere,
    exclude_each_other,
    switched_to_clash,
)
from classfeed_dagster.feed_run.switches import (
    FeedFlags,
    SwitchValueError,
    carried,
    chosen_format,
    switched_frames,
)
from classfeed_dagster.feeds import class_cash, class_trade
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.portfolios import Portfolios, SelectionError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import open_store
from classfeed_dagster_tests.fixtures import csv_frames as make
from classfeed_dagster_tests.fixtures.delivering import deliver

TRADE, CASH = class_trade.FEED, class_cash.FEED
SUPER = Feed("super", "all of it", "CLASS", EPI, ("team:x",), FeedMode.LIVE, None)
OTHER = dataclasses.replace(TRADE, name="other_trade", recipient="BGL")
FEEDS = (TRADE, CASH, SUPER, OTHER)


def test_legacy_feeds_begin_in_shadow_behind_parity() -> None:
    for feed in (TRADE, CASH):
        assert (feed.recipient, feed.mode, feed.legacy) == ("CLASS", FeedMode.SHADOW, True)


selections = st.builds(Portfolios, st.frozensets(st.sampled_from("ABC"), min_size=1), st.booleans()) | st.just(
    Portfolios()
)


@given(selections, selections)
def test_selection_reads_back_and_overlaps_where_a_portfolio_is_in_both(one: Portfolios, other: Portfolios) -> None:
    assert Portfolios.of(str(one)) == one
    assert one.overlaps(other) is other.overlaps(one)
    assert one.overlaps(other) is any(number in one and number in other for number in "ABCD")
    frame = pl.DataFrame({"portfolio_number": list("ABCD")})
    kept = carried(frame, FeedFlags("f", FeedMode.LIVE, one))["portfolio_number"].to_list()
    assert kept == [number for number in "ABCD" if number in one]


@pytest.mark.parametrize("text", ["", "A,,B", "!", "*,A", "!*", ","])
def test_invalid_selection_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match="portfolio numbers with commas"):
        Portfolios.of(text)


def test_income_switch_changes_no_other_record() -> None:
    rows = [
        make.trade(1),
        make.cash(2, "5.00", relates_to="I3"),
        {**make.trade(3), "transaction_id": "I3", "transaction_type": "DIVIDEND"},
        {**make.trade(4), "transaction_id": "S4", "transaction_type": "DRP"},
        {**make.trade(5), "transaction_id": "S5", "transaction_type": "SPLIT"},
        make.trade(6, reverses="T1"),
        make.cash(7, "-5.00", reverses="C2"),
        {**make.trade(8), "transaction_id": "I8", "transaction_type": "DIVIDEND", "reverses": "I3"},
        {
            **make.trade(9),
            "transaction_id": "S9",
            "transaction_type": "SPLIT",
            "reverses": "S5",
            "reversed_type": "SPLIT",
        },
        {**make.trade(10), "transaction_id": "S10", "transaction_type": "TRANSFER_OUT", "reverses": "S4"}
        | {"reversed_type": "DRP"},
    ]
    others = {"T6": "T1", "C7": "C2", "S9": "S5"}
    frames = dict(make.frames([make.account("SW00000001")], rows))
    frames[LEDGER_RECORDS.name] = pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in ("transaction_id", "reversed_type")}
    )
    for income, drp, kept in (
        (True, True, {"I3", "I8", "S4"}),
        (False, True, {"S4"}),
        (True, False, {"I3", "I8"}),
        (False, False, set()),
    ):
        flags = FeedFlags("f", FeedMode.LIVE, include_income=income, include_drp=drp)
        result = switched_frames(frames, flags)
        assert set(result["movement_transactions"]["transaction_id"]) == kept | {"T1", "C2", "S5", "S10", *others}
        reverses = dict(result["movement_transactions"].select("transaction_id", "reverses").iter_rows())
        of_income, of_drp = {"I8": "I3"} if income else {}, {"S10": "S4"} if drp else {}
        assert {key: value for key, value in reverses.items() if value} == {**others, **of_income, **of_drp}
        relates_to = result["movement_transactions"].filter(pl.col("transaction_id") == "C2")["relates_to"].to_list()
        assert relates_to == (["I3"] if income else [None])
        assert result["accounts"].equals(frames["accounts"])
    assert switched_frames({}, flags) == {}


@given(
    st.builds(
        FeedFlags,
        st.just("f"),
        st.sampled_from(FeedMode),
        selections,
        st.booleans(),
        st.booleans(),
        st.sampled_from(["standard", "new"]),
        st.sampled_from(["", "A. Person: agreed with Class"]),
        st.just("settings"),
        st.lists(st.sampled_from(["mode: FLAG_NOT_FOUND", "portfolios: GENERAL"])).map(tuple),
    )
)
def test_recorded_flags_read_back(flags: FeedFlags) -> None:
    assert FeedFlags.from_recorded("f", flags.recorded) == flags


def test_recorded_flags_are_rendered_for_people() -> None:
    other = CsvFormat(CLASS_TRADE.layout)
    feed = dataclasses.replace(TRADE, renderings={"new": other})
    assert chosen_format(feed, FeedFlags("f", FeedMode.LIVE)) is CLASS_TRADE
    assert chosen_format(feed, FeedFlags("f", FeedMode.LIVE, rendering="new")) is other
    with pytest.raises(SwitchValueError, match=r"class_trade has no rendering 'old'.* new, standard"):
        chosen_format(feed, FeedFlags("f", FeedMode.LIVE, rendering="old"))


def test_feeds_with_a_ledger_in_common_exclude_each_other() -> None:
    assert SUPER.format.ledgers == set("TSIC")
    assert exclude_each_other(TRADE, SUPER)
    assert exclude_each_other(SUPER, CASH)
    assert not exclude_each_other(TRADE, CASH)
    assert not exclude_each_other(TRADE, TRADE)
    assert not exclude_each_other(OTHER, SUPER)


def flags(**selections: str) -> dict[str, FeedFlags]:
    return {name: FeedFlags(name, FeedMode.LIVE, Portfolios.of(text)) for name, text in selections.items()}


def test_switches_that_clash_are_named() -> None:
    assert switched_to_clash(FEEDS, flags(super="*", class_trade="*", class_cash="*", other_trade="*")) == [
        ("class_cash", "super"),
        ("class_trade", "super"),
    ]
    assert switched_to_clash(FEEDS, flags(super="A,B", class_trade="!A,B", class_cash="!A,B,C")) == []
    assert switched_to_clash(FEEDS, flags(super="A,B", class_trade="!A", class_cash="C")) == [("class_trade", "super")]
    off = {**flags(super="*"), "class_trade": FeedFlags("class_trade", FeedMode.SHADOW)}
    assert switched_to_clash(FEEDS, off) == []


def test_live_deliveries_of_another_feed_count_despite_switches(tmp_path: Path) -> None:
    store, day = open_store(str(tmp_path)), dt.date(2023, 5, 1)
    audience = RecipientSchedule("CLASS", day)
    frames = make.frames([make.account("SW1"), make.account("SW2")], [make.trade(1, "SW1")])
    deliver(store, CLASS_TRADE, audience, day, frames, mode=FeedMode.SHADOW)
    numbers = {"SW2", "SW3"}
    assert delivered_elsewhere(store, SUPER, FEEDS, day, numbers) == {}
    live = make.frames([make.account("SW1"), make.account("SW2")], [make.trade(1, "SW1"), make.trade(2, "SW2")])
    deliver(store, CLASS_TRADE, audience, day, live, mode=FeedMode.LIVE)
    assert delivered_elsewhere(store, SUPER, FEEDS, day, numbers) == {"SW2": ("class_trade",)}
    assert delivered_elsewhere(store, CASH, FEEDS, day, numbers) == {}
