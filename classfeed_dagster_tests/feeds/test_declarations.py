"""Feeds as declarations: what they say, and what they can't; and the small checks that need no database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib
import pkgutil
from decimal import Decimal
from typing import Any

import pytest

from classfeed_dagster import feeds, trading_days
from classfeed_dagster.delivery.build import read_build
from classfeed_dagster.delivery.feed_mode import FeedMode, FeedStoreView
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.documents.csv_format import CsvFormat
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.domains.consented_portfolios import ConsentRoll
from classfeed_dagster.feed_run.delivery_checks import check_consent_rollforward
from classfeed_dagster.feed_run.volumes import unusual_volumes
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.class_cash import FEED as CASH
from classfeed_dagster.feeds.class_super import FEED as SUPER
from classfeed_dagster.feeds.class_trade import FEED as TRADE
from classfeed_dagster.feeds.feed import Feed, FeedDeclarationError, ServiceLevel, audiences_of, require_distinct
from classfeed_dagster.parity.run import NoOldAppError, compare_date, to_compare
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures import csv_frames as make
from classfeed_dagster_tests.fixtures.delivering import deliver

FIRST = dt.date(2023, 1, 3)
DAYS = trading_days.business_days_between(FIRST, dt.date(2023, 2, 28))
CLASS = RecipientSchedule("CLASS", FIRST)


def test_declared_feeds_are_the_known_ones() -> None:
    assert all(feed in FEEDS for feed in (CASH, SUPER, TRADE))
    assert [feed.name for feed in FEEDS] == sorted(feed.name for feed in FEEDS)
    assert (SUPER.domains, SUPER.destination) == (EPI.domains, "delivered/class_super/")
    assert audiences_of((CASH, SUPER, TRADE), FIRST) == (CLASS,)
    later = dataclasses.replace(TRADE, first_business_date=DAYS[5])
    assert [item.first_business_date for item in audiences_of((TRADE, later), FIRST)] == [FIRST, DAYS[5]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Class Trade"}, "lower-case letters"),
        ({"owners": ()}, "no owner"),
        ({"starts_at": dt.time(8, 0)}, "starts after its target"),
        ({"service_level": ServiceLevel(dt.time(9), dt.time(8))}, "after its deadline"),
        ({"format": EPI}, "whose files are CSV"),
        ({"renderings": {"standard": CLASS_TRADE}}, "another name"),
        ({"renderings": {"more": CASH.format}}, "or other domains"),
    ],
)
def test_invalid_declaration_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(FeedDeclarationError, match=says):
        dataclasses.replace(TRADE, **changes)


def test_feed_names_are_distinct() -> None:
    with pytest.raises(FeedDeclarationError, match="two feeds are called class_trade"):
        require_distinct((TRADE, dataclasses.replace(TRADE, format=CsvFormat(CLASS_TRADE.layout))))


def test_feed_declared_in_the_folder_is_in_the_tuple() -> None:
    """A declaration under any name and in any way of writing counts; one that FEEDS lacks would silently not run."""
    modules = [
        importlib.import_module(f"{feeds.__name__}.{module.name}") for module in pkgutil.iter_modules(feeds.__path__)
    ]
    declared = {
        value.name: module.__name__ for module in modules for value in vars(module).values() if isinstance(value, Feed)
    }
    assert declared.keys() == {feed.name for feed in FEEDS}, "add the missing feed to FEEDS in feeds/__init__.py"


def test_mode_and_first_business_date_must_be_declared() -> None:
    with pytest.raises(TypeError, match="'mode' and 'first_business_date'"):
        Feed("bgl", "BGL", "BGL", EPI, ("team:x",))  # type: ignore[call-arg]


def test_volume_far_from_usual_is_reported(local_store: ObjectStore) -> None:
    view = FeedStoreView(local_store, "class_trade", FeedMode.SHADOW)
    accounts = [make.account("SW00000001")]
    matches = []
    for at, day in enumerate(DAYS[:9]):
        count = {6: 40 * 6, 7: 40 * 5, 8: 7}.get(at, 40)
        frames = make.frames(accounts, [make.trade(1000 * at + item, transaction_date=day) for item in range(count)])
        manifest = deliver(local_store, CLASS_TRADE, CLASS, day, frames)
        judged = unusual_volumes(view, "class_trade", CLASS, read_build(view, "class_trade", day, manifest.build_id))
        matches.append((judged.passed, judged.summary))
    assert matches[4] == (True, "too few dates to compare with")
    assert matches[5] == (True, "compared with 5 dates")
    assert matches[6] == (False, "details: 240 records; the median of 6 dates is 40")
    assert matches[7][0]
    assert matches[8] == (False, "details: 7 records; the median of 8 dates is 40")


def test_roll_that_does_not_add_up_fails(local_store: ObjectStore) -> None:
    roll = ConsentRoll(previous=3, new=1, removed=1, current=2, balanced=False, removed_numbers=("SW1",))
    judged = check_consent_rollforward(local_store, CLASS, DAYS[1], roll, Decimal(1))
    assert not judged.passed
    assert judged.summary.endswith("does not hold")


def test_parity_covers_delivered_dates_of_feeds_with_an_old_app(local_store: ObjectStore) -> None:
    with pytest.raises(NoOldAppError, match="class_super replaces no old app"):
        compare_date(local_store, SUPER, CLASS, FIRST)
    local_store.put(f"legacy/class_trade/{FIRST}/old.csv", b"")
    assert list(to_compare(local_store, TRADE, CLASS)) == []
