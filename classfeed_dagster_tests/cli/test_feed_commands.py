"""The command line on a feed in shadow: it is seen, and said to be in the shadow; and parity, as a person asks for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from classfeed_dagster.cli import app as cli
from classfeed_dagster.cli import deliveries as cli_look
from classfeed_dagster.delivery.feed_mode import FeedMode, shadow_key
from classfeed_dagster.documents.class_cash import CLASS_CASH
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.documents.locate import NotAPageError
from classfeed_dagster.documents.locate import locate_line as locate
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.settings import get_settings
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster_tests.fixtures import csv_frames as make
from classfeed_dagster_tests.fixtures import old_app
from classfeed_dagster_tests.fixtures.delivering import deliver

DAY = dt.date(2023, 1, 3)
ROWS = [make.trade(item, transaction_date=DAY) for item in (1, 2)]
Command = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Return the store of the settings, with one date of class trade in shadow."""
    store = open_store(str(tmp_path / "store"))
    deliver(store, CLASS_TRADE, RecipientSchedule("CLASS", DAY), DAY, make.frames([make.account("SW00000001")], ROWS))
    return store


@pytest.fixture
def classfeed(store: ObjectStore, tmp_path: Path) -> Iterator[Command]:
    """Yield a runner of ``classfeed`` on that store; no database is there."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CLASSFEED_HOME", str(tmp_path))
        # Not by COLUMNS: where the terminal is a dumb one, that counts for nothing.
        environment.setattr(cli_look, "out", Console(width=160))
        get_settings.cache_clear()
        yield lambda *words: CliRunner().invoke(cli.app, words)
    get_settings.cache_clear()


def test_shadow_deliveries_are_shown_as_such(classfeed: Command, store: ObjectStore) -> None:
    assert "delivered (shadow)" in classfeed("status", "--feed", "class_trade").output
    verified = classfeed("verify", "--feed", "class_trade")
    assert verified.exit_code == 0
    assert "1 page read and checked, 1 of the manifests in the shadow" in verified.output
    more = make.frames([make.account("SW00000001")], ROWS[:1])
    deliver(store, CLASS_TRADE, RecipientSchedule("CLASS", DAY), DAY, more, mode=FeedMode.LIVE)
    assert (
        "delivered (shadow: revision 0)" in classfeed("status", "--date", "2023-01-03", "--feed", "class_trade").output
    )


def test_parity_prints_differences_and_score(classfeed: Command, store: ObjectStore) -> None:
    for rows, code, says in (
        (ROWS, 0, ("clean  class_trade 2023-01-03: 2 old lines, 2 new, 2 equal", "1 of 10 clean dates in a row")),
        ([ROWS[0], {**ROWS[1], "gst": Decimal("0.99")}], 3, ("1 unexplained", "gst", "0.99", "0 of 10", "broken by")),
    ):
        data = old_app.write("class_trade", DAY, [old_app.trade_fields(row) for row in rows])
        store.put(f"legacy/class_trade/{DAY}/old.csv", data)
        result = classfeed("parity", "--date", DAY.isoformat())
        assert result.exit_code == code, result.output
        for part in says:
            assert part in result.output
    late = {**make.trade(3, transaction_date=dt.date(2022, 12, 30))}
    frames = make.frames([make.account("SW00000001")], [*ROWS, late])
    deliver(store, CLASS_TRADE, RecipientSchedule("CLASS", DAY), DAY, frames)
    data = old_app.write("class_trade", DAY, [old_app.trade_fields(row) for row in ROWS])
    store.put(f"legacy/class_trade/{DAY}/old.csv", data)
    assert "explained by late-row: 1" in classfeed("parity", "--date", DAY.isoformat()).output


def test_transaction_is_located_in_csv_to_the_byte(store: ObjectStore, tmp_path: Path) -> None:
    key = shadow_key(f"delivered/class_trade/{DAY}/r0/class_trade_20230103_r0.csv")
    with store.local_file(key) as path:
        (place,) = locate(path, "T2")
        assert (place.element, place.line) == ("D", 3)
        line = path.read_bytes()[place.offset : place.offset + place.length]
        assert line == path.read_bytes().split(b"\r\n")[2]
        assert locate(path, "T3") == []
        assert locate(path, ("SW00000001", "ASX", "MBH")) == []
        broken = tmp_path / "broken.csv"
        broken.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(NotAPageError, match="truncated"):
        locate(broken, "T9")


def test_description_that_looks_like_a_csv_line_is_not_one(tmp_path: Path) -> None:
    rows = [make.cash(1, "1.00", narrative="x\nD,2,y"), make.cash(2, "2.00")]
    path = tmp_path / "cash.csv"
    path.write_bytes(
        make.written(CLASS_CASH, [make.frames([make.account("SW00000001")], rows, [make.balance("3.00")])])
    )
    (place,) = locate(path, "C2")
    assert path.read_bytes()[place.offset :].startswith(b"D,2,")
    assert place.line == 4
