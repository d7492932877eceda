"""Parity: equal facts in any dialect are clean, planted differences are named rightly, a clean run opens the gate."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from classfeed_dagster import trading_days
from classfeed_dagster.delivery.feed_mode import FeedMode, FeedStoreView, last_delivery
from classfeed_dagster.documents.class_cash import CLASS_CASH
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.feed_run.flags import live_gate
from classfeed_dagster.feed_run.switches import FeedFlags
from classfeed_dagster.feeds import class_trade
from classfeed_dagster.parity import legacy_files
from classfeed_dagster.parity.comparison import (
    NothingToCompareError,
    ParityReport,
    compare_parity,
    read_report,
    record_parity,
    report_key,
    scorecard,
)
from classfeed_dagster.parity.explanations import PARITY_RULES
from classfeed_dagster.parity.legacy_files import LegacyFileError, LegacyMissingError, legacy_prefix
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster_tests.fixtures import csv_frames as make
from classfeed_dagster_tests.fixtures import old_app
from classfeed_dagster_tests.fixtures.delivering import deliver
from classfeed_dagster_tests.fixtures.old_app import DIALECTS, Dialect, balance_fields, cash_fields, trade_fields

FIRST = dt.date(2023, 1, 3)
DAYS = trading_days.business_days_between(FIRST, dt.date(2023, 12, 29))[:30]
AUDIENCE = RecipientSchedule("CLASS", FIRST)
NUMBERS = ("SW00000001", "SW00000002", "SW00000003")
ACCOUNTS = [make.account(number) for number in NUMBERS]
Rows = list[dict[str, Any]]


class Shadow:
    """One feed in shadow next to its old app."""

    def __init__(self, store: ObjectStore, document: Any) -> None:
        self.store, self.document = store, document
        self.view = FeedStoreView(store, document.name, FeedMode.SHADOW)

    def new(self, day: dt.date, rows: Rows, balances: Rows = [], **how: Any) -> None:  # noqa: B006
        deliver(self.store, self.document, AUDIENCE, day, make.frames(ACCOUNTS, rows, balances), **how)

    def old(self, day: dt.date, data: bytes, name: str = "out.csv") -> None:
        self.store.put(legacy_prefix(self.document.name, day) + name, data)

    def compare(self, day: dt.date, **how: Any) -> ParityReport:
        report = compare_parity(
            self.view, feed=self.document.name, layout=self.document.layout, audience=AUDIENCE, day=day, **how
        )
        record_parity(self.view, report)
        assert read_report(self.view, self.document.name, day) == report
        return report


@pytest.fixture
def trades(tmp_path: Path) -> Shadow:
    return Shadow(open_store(str(tmp_path)), CLASS_TRADE)


@pytest.fixture
def cash(tmp_path: Path) -> Shadow:
    return Shadow(open_store(str(tmp_path)), CLASS_CASH)


def noon(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(2), tzinfo=dt.UTC)


def trade(one: int, day: dt.date, number: str = NUMBERS[0], **values: Any) -> dict[str, Any]:
    dates = {"transaction_date": day, "settlement_date": trading_days.add_business_days(day, 2)}
    return make.trade(one, number, **{**dates, "recorded_at": noon(day), **values})


def legacy_trades(day: dt.date, rows: Rows, dialect: Dialect = DIALECTS[0], **how: Any) -> bytes:
    return old_app.write("class_trade", day, [trade_fields(row) for row in rows], dialect=dialect, **how)


BIG: dict[str, Any] = {"consideration": Decimal("1234567.80"), "net_amount": Decimal("1234577.30")}


@pytest.mark.parametrize("dialect", DIALECTS, ids=range(len(DIALECTS)))
def test_trades_in_every_dialect_are_clean(trades: Shadow, dialect: Dialect) -> None:
    day = DAYS[0]
    sale = trade(2, day, transaction_type="SELL", units=Decimal("-1500"), isin=None, **BIG)
    odd = trade(3, day, NUMBERS[1], confirmation_number="=1+1")
    rows = [trade(1, day), sale, odd, make.reversal_of(sale, 4), trade(5, day, price=Decimal("0.000001"))]
    trades.new(day, rows)
    trades.old(day, legacy_trades(day, rows, dialect))
    report = trades.compare(day)
    assert report.differences == ()
    assert report.clean
    assert not report.empty
    assert (report.old_lines, report.new_lines, report.equal_lines) == (5, 5, 5)


def test_cash_text_that_the_old_app_did_not_mask_is_clean(cash: Shadow) -> None:
    day = DAYS[0]
    row = make.cash(1, "12.60", transaction_date=day, narrative="ATO 123456782, a@example.com")
    balances = [make.balance("12.60", NUMBERS[0], as_at_date=day)]
    cash.new(day, [{**row, "narrative": "ATO *********, ***"}], balances)
    cash.old(
        day, old_app.write("class_cash", day, [cash_fields(row)], [balance_fields(balance) for balance in balances])
    )
    assert cash.compare(day).clean


@pytest.mark.parametrize("dialect", DIALECTS, ids=range(len(DIALECTS)))
def test_cash_in_every_dialect_is_clean(cash: Shadow, dialect: Dialect) -> None:
    day = DAYS[0]
    first = make.cash(1, "12345.60", transaction_date=day, narrative=" Deposit, of \n many ")
    rows = [first, make.reversal_of(first, 2), make.cash(3, "-0.05", NUMBERS[1], transaction_date=day)]
    balances = [make.balance("-1234567.00", number, as_at_date=day) for number in NUMBERS]
    cash.new(day, rows, balances)
    details, holds = [cash_fields(row) for row in rows], [balance_fields(row) for row in balances]
    cash.old(day, old_app.write("class_cash", day, details, holds, dialect))
    report = cash.compare(day)
    assert report.differences == ()
    assert report.clean
    assert report.equal_lines == 6


def test_old_files_with_byte_order_mark_and_blank_lines_are_read(trades: Shadow) -> None:
    day, rows = DAYS[0], [trade(1, DAYS[0]), trade(2, DAYS[0])]
    trades.new(day, rows)
    trades.old(day, b"\xef\xbb\xbf" + legacy_trades(day, rows[:1]) + b"\n\n", "a.csv")
    trades.old(day, legacy_trades(day, rows[1:], DIALECTS[1]), "b.csv")
    report = trades.compare(day)
    assert report.clean
    assert [file.key.rpartition("/")[2] for file in report.legacy_files] == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("shown", "clean"),
    [
        ("2023-01-03T02:00:00Z", True),
        ("2023-01-03 13:00:00+11:00", True),
        ("03/01/2023 13:00:00", True),
        ("3/1/2023 13:00:00.000000", True),
        ("2023-01-03T13:00:00", True),
        ("2023-01-03T02:00:01Z", False),
        ("yesterday", False),
    ],
)
def test_instants_of_the_old_apps_clock_are_converted(trades: Shadow, shown: str, clean: bool) -> None:
    day = DAYS[0]
    rows = [trade(1, day, recorded_at=noon(day) + dt.timedelta(microseconds=5))]
    trades.new(day, rows)
    trades.old(day, old_app.write("class_trade", day, [{**trade_fields(rows[0]), "recorded_at": shown}]))
    assert trades.compare(day).clean is clean


def test_fractions_are_compared_if_the_old_app_states_them(trades: Shadow) -> None:
    day = DAYS[0]
    rows = [trade(item, day, recorded_at=noon(day) + dt.timedelta(microseconds=item)) for item in (1, 2)]
    trades.new(day, rows)
    lines = [trade_fields(row) for row in rows]
    lines[0]["recorded_at"] = "2023-01-03T02:00:00Z"
    trades.old(day, old_app.write("class_trade", day, lines))
    assert [(difference.field, difference.key) for difference in trades.compare(day).differences] == [
        ("recorded_at", "1")
    ]


# --- thirty days -----------------------------------------------------------------------------------------------------

Plant = Callable[[dt.date, Rows], tuple[Rows, Rows, set[str]]]  # rows of the new feed, of the old app, held back
LATE, LOST = 9001, 9002


def late(one: int) -> Plant:
    def plant(day: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
        backdated = trade(one, trading_days.previous_business_day(day), recorded_at=noon(day))
        return [*rows, backdated], rows, set()

    return plant


def arrives(day: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    yesterday = trading_days.previous_business_day(day)
    backdated = trade(LATE, trading_days.previous_business_day(yesterday), recorded_at=noon(yesterday))
    return rows, [*rows, backdated], set()


def other_amount(_: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, [{**rows[0], "net_amount": Decimal("692.61")}, *rows[1:]], set()


def not_in_old(_: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, rows[1:], set()


def only_in_old(day: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, [*rows, trade(9003, day)], set()


def todays_code(_: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, [{**rows[0], "security_code": "NEW"}, *rows[1:]], set()


def other_security(_: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, [{**rows[0], "security_code": "BHP", "isin": "AU000000BHP4"}, *rows[1:]], set()


def held(_: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, rows, {NUMBERS[2]}


def twice(_: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, [*rows, rows[0]], set()


def undone(day: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    both = [*rows, make.reversal_of(rows[0], 9004, recorded_at=noon(day) + dt.timedelta(hours=3))]
    return both, both, set()


def wrong_sign_undone(day: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    new, _, _ = undone(day, rows)
    return new, [*new[:-1], {**new[-1], "net_amount": -new[-1]["net_amount"]}], set()


def same(_: dt.date, rows: Rows) -> tuple[Rows, Rows, set[str]]:
    return rows, rows, set()


def quiet(_: dt.date, __: Rows) -> tuple[Rows, Rows, set[str]]:
    return [], [], set()


# What is planted on which date, and what must be found: explained by rule, unexplained by (kind, field).
PLANTED: dict[int, tuple[Plant, dict[str, int], list[tuple[str, str | None]]]] = {
    2: (late(LATE), {"late-row": 1}, []),
    3: (arrives, {}, []),
    5: (late(LOST), {"late-row": 1}, []),
    6: (same, {}, [("missing_left", None)]),  # the late row never came
    7: (other_amount, {}, [("differs", "net_amount")]),
    8: (not_in_old, {}, [("missing_left", None)]),
    9: (only_in_old, {}, [("missing_right", None)]),
    10: (todays_code, {"code-of-today": 1}, []),
    11: (other_security, {}, [("differs", "code"), ("differs", "isin")]),
    12: (held, {"held-back": 1}, []),
    13: (twice, {}, [("duplicate_left", None)]),
    14: (undone, {}, []),
    15: (wrong_sign_undone, {}, [("differs", "net_amount")]),
    20: (quiet, {}, []),
}


def test_thirty_days_in_shadow_open_the_gate(trades: Shadow) -> None:
    flags = FeedFlags("class_trade", FeedMode.LIVE)
    last_bad = max(at for at, (_, _, unexplained) in PLANTED.items() if unexplained)
    for at, day in enumerate(DAYS):
        plant, explained, unexplained = PLANTED.get(at, (same, {}, []))
        ordinary = [trade(100 * at + item, day, number) for item, number in enumerate(NUMBERS, start=1)]
        new, old, held_back = plant(day, ordinary)
        trades.new(day, new, held_back=held_back)
        trades.old(day, legacy_trades(day, old, DIALECTS[at % len(DIALECTS)]))
        report = trades.compare(day)
        matches = [
            (difference.kind, difference.field) for difference in report.differences if difference.explanation is None
        ]
        assert (report.explained, matches) == (explained, unexplained), day
        assert report.clean is (not unexplained)
        assert report.arrived == (at == 3)

        if held_back:  # the broken rule is corrected: the rest is delivered as a revision, and nothing needs explaining
            trades.new(day, new)
            report = trades.compare(day)
            assert (report.differences, report.revisions) == ((), (0, 1))

        card = scorecard(trades.view, "class_trade", AUDIENCE, day)
        run = sum(1 for past in range(last_bad + 1, at + 1) if past != 20) if at > last_bad else card.clean_run
        assert card.clean_run == run
        gate = live_gate(class_trade.FEED, flags, last_delivery(trades.store, "class_trade", DAYS[-1]), card, 10)
        assert gate.allowed is (card.clean_run >= 10), (day, gate.reason)
    assert card.clean_run == 13
    assert card.broken_by == f"{DAYS[last_bad].isoformat()}, 1 unexplained"
    assert (DAYS[20], "empty") in card.dates
    assert len(card.dates) == 30


def test_run_starts_again_at_a_date_without_comparison(trades: Shadow) -> None:
    for day in DAYS[:3]:
        trades.new(day, [trade(1, day)])
        trades.old(day, legacy_trades(day, [trade(1, day)]))
        trades.compare(day)
    assert scorecard(trades.view, "class_trade", AUDIENCE, DAYS[2]) == dataclasses.replace(
        scorecard(trades.view, "class_trade", AUDIENCE, DAYS[2], show=1), broken_by=None
    )
    trades.store.delete(report_key("class_trade", DAYS[1]))
    card = scorecard(trades.view, "class_trade", AUDIENCE, DAYS[2], show=1)
    assert (card.clean_run, card.broken_by) == (1, f"{DAYS[1].isoformat()}, not compared")
    assert card.dates == ((DAYS[2], "clean, 0 explained"), (DAYS[1], "not compared"))


def test_explanation_ends_on_its_last_date(trades: Shadow) -> None:
    day = DAYS[1]
    trades.new(DAYS[0], [])
    trades.new(day, [trade(1, DAYS[0], recorded_at=noon(day))])
    trades.old(day, legacy_trades(day, []))
    for last, clean in ((day, True), (DAYS[0], False)):
        table = tuple(dataclasses.replace(rule, last=last) for rule in PARITY_RULES)
        assert trades.compare(day, explanations=table).clean is clean


def test_parity_rules_have_name_dates_owner_and_reason() -> None:
    assert len({rule.name for rule in PARITY_RULES}) == len(PARITY_RULES)
    for rule in PARITY_RULES:
        assert rule.first < rule.last <= dt.date(2030, 1, 1)
        assert rule.owner.startswith("team:")
        assert len(rule.reason) > 40


def test_row_after_the_old_apps_read_is_late(trades: Shadow) -> None:
    day = DAYS[0]
    rows = [trade(1, day), trade(2, day, recorded_at=noon(day) + dt.timedelta(hours=4))]
    trades.new(day, rows)
    trades.old(day, legacy_trades(day, rows[:1], read_at="2023-01-03T16:00:00"))
    report = trades.compare(day)
    assert (report.explained, report.promised) == ({"late-row": 1}, ("2",))
    trades.old(day, legacy_trades(day, rows[:1], read_at="unknown"))
    assert trades.compare(day).unexplained == 1


def test_late_row_is_compared_field_by_field_when_it_comes(trades: Shadow) -> None:
    item = trade(1, trading_days.previous_business_day(DAYS[0]), recorded_at=noon(DAYS[0]))
    trades.new(DAYS[0], [item])
    trades.old(DAYS[0], legacy_trades(DAYS[0], []))
    assert trades.compare(DAYS[0]).clean
    trades.new(DAYS[1], [])
    trades.old(DAYS[1], legacy_trades(DAYS[1], [{**item, "gst": Decimal("0.87")}]))
    report = trades.compare(DAYS[1])
    assert [(difference.field, difference.old, difference.new) for difference in report.differences] == [
        ("gst", "0.87", "0.86")
    ]
    assert report.arrived == 1


def test_revisions_count_each_portfolio_as_last_delivered(trades: Shadow) -> None:
    day = DAYS[0]
    before = [trade(1, day, gst=Decimal("0.01")), trade(2, day, NUMBERS[1])]
    after = [trade(1, day), trade(2, day, NUMBERS[1])]
    trades.new(day, before)
    trades.new(day, after)
    trades.old(day, legacy_trades(day, after))
    report = trades.compare(day)
    assert report.clean
    assert report.revisions == (0, 1)


# --- cash -------------------------------------------------------------------------------------------------------------


def cash_day(day: dt.date, **values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    row = make.cash(1, "100.00", transaction_date=day, recorded_at=noon(day), **values)
    return row, make.balance("350.00", as_at_date=day)


def test_balance_without_the_late_rows_is_explained_only_to_the_cent(cash: Shadow) -> None:
    day = DAYS[1]
    row, hold = cash_day(day)
    backdated = make.cash(2, "50.00", transaction_date=DAYS[0], recorded_at=noon(day))
    also = make.cash(3, "0.25", transaction_date=DAYS[0], recorded_at=noon(day))
    cash.new(DAYS[0], [])
    cash.new(day, [row, backdated, also], [hold])
    for output, explained, unexplained in (
        ("299.75", {"late-row": 2, "balance-before-late-rows": 2}, 0),
        ("299.76", {"late-row": 2}, 2),
    ):
        balances = [balance_fields(make.balance(output, as_at_date=day))]
        cash.old(day, old_app.write("class_cash", day, [cash_fields(row)], balances))
        report = cash.compare(day)
        assert (report.explained, report.unexplained) == (explained, unexplained)


def test_opening_is_new_and_a_missing_balance_is_not_explained(cash: Shadow) -> None:
    day = DAYS[0]
    row, hold = cash_day(day)
    opening = {
        **make.cash(0, "250.00", transaction_date=FIRST - dt.timedelta(days=9), recorded_at=noon(day), narrative=None),
        "transaction_id": "OC-SW00000001-7-20230103",
        "transaction_type": "OPENING_CASH",
    }
    cash.new(day, [row, opening], [hold])
    cash.old(day, old_app.write("class_cash", day, [cash_fields(row)], []))
    report = cash.compare(day)
    assert report.explained == {"opening-is-new": 1}
    assert [
        (difference.line, difference.kind) for difference in report.differences if difference.explanation is None
    ] == [("B", "missing_left")]
    assert report.promised == ()


def test_report_shows_no_personal_data(cash: Shadow) -> None:
    day = DAYS[0]
    row, hold = cash_day(day, narrative="for Mrs Smith")
    cash.new(day, [row], [hold])
    old = {**cash_fields(row), "description": "for Mr Smith", "bsb": "999-999"}
    cash.old(day, old_app.write("class_cash", day, [old], [balance_fields({**hold, "ledger_balance": "1.00"})]))
    report = cash.compare(day)
    assert {difference.field for difference in report.differences} == {"bsb", "description", "ledger_balance"}
    text = report.model_dump_json()
    for personal in ("Smith", "999-999", "062-000", "100200300"):
        assert personal not in text
    assert '"350.00"' in text


def test_differences_above_the_limit_are_never_clean(trades: Shadow) -> None:
    day = DAYS[0]
    trades.new(day, [])
    trades.old(day, legacy_trades(day, []))
    report = trades.compare(day).model_copy(update={"complete": False})
    record_parity(trades.view, report)
    assert not report.clean
    assert scorecard(trades.view, "class_trade", AUDIENCE, day, show=1).broken_by is not None


# --- what can't be compared -------------------------------------------------------------------------------------------


def test_missing_side_is_never_equal(trades: Shadow) -> None:
    with pytest.raises(LegacyMissingError, match=r"legacy/class_trade/2023-01-03 has no file"):
        trades.compare(DAYS[0])
    trades.old(DAYS[0], legacy_trades(DAYS[0], []))
    with pytest.raises(NothingToCompareError, match="class_trade of 2023-01-03 is not delivered"):
        trades.compare(DAYS[0])


GOOD = legacy_trades(DAYS[0], [trade(1, DAYS[0]), trade(2, DAYS[0])])
NAMED = legacy_trades(DAYS[0], [trade(1, DAYS[0])], DIALECTS[1])


def damaged(data: bytes, changes: Sequence[tuple[bytes, bytes]]) -> bytes:
    for before, after in changes:
        assert before in data
        data = data.replace(before, after, 1)
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
        (GOOD[: GOOD.rindex(b"T,")], "the trailer is missing"),
        (damaged(GOOD, [(b"T,2", b"T,3")]), "it is incomplete"),
        (GOOD + b"D\n", "is after the trailer"),
        (damaged(GOOD, [(b"03/01/2023", b"04/01/2023")]), "does not state class_trade of 2023-01-03"),
        (damaged(GOOD, [(b"class_trade", b"class_cash")]), "does not state class_trade of 2023-01-03"),
        (damaged(GOOD, [(b",ASX,", b",ASX,ASX,ASX,")]), "is not a line of class_trade"),
        (damaged(GOOD, [(b"\nD,", b"\nX,")]), "line 2 with 22 fields is not a line"),
        (damaged(GOOD, [(b"MBH", b"M\xe9H")]), "it is not UTF-8"),
        (damaged(GOOD, [(b",MBH,", b',"MB"H,')]), "it is not CSV"),
        (damaged(GOOD, [(b"Z,\n", b"Z,maybe\n")]), "reversal is neither Y nor N"),
        (damaged(NAMED, [(b"brokerage", b"broker")]), "does not fit: check brokerage"),
        (damaged(NAMED, [(b"\n", b",more\n")]), "check an unexpected column"),
        (damaged(NAMED, [(b",ASX,", b",")]), "its heading another number"),
    ],
)
def test_damaged_old_file_is_refused(trades: Shadow, data: bytes, says: str) -> None:
    trades.new(DAYS[0], [])
    trades.old(DAYS[0], data)
    with pytest.raises(LegacyFileError, match=says) as refused:
        trades.compare(DAYS[0])
    assert "legacy/class_trade/2023-01-03/out.csv" in str(refused.value)


def test_unreadable_value_is_a_difference(trades: Shadow) -> None:
    day = DAYS[0]
    trades.new(day, [trade(1, day)])
    trades.old(day, damaged(legacy_trades(day, [trade(1, day)]), [(b"692.6", b"69,2.6")]))
    trades.old(day, damaged(legacy_trades(day, [trade(1, day)]), [(b"683.1", b"six")]))
    assert [(difference.kind, difference.explanation) for difference in trades.compare(day).differences] == [
        ("unparseable", None)
    ]


def test_file_longer_than_a_batch_is_read_whole(trades: Shadow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy_files, "_BATCH", 3)
    day = DAYS[0]
    rows = [trade(item, day) for item in range(1, 11)]
    trades.new(day, rows)
    trades.old(day, legacy_trades(day, rows, DIALECTS[2]))
    report = trades.compare(day)
    assert (report.clean, report.equal_lines) == (True, 10)
