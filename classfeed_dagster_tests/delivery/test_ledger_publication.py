"""Publication of a delivery's ledger: written once, by any attempt and after any crash."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from classfeed_dagster.delivery.build import Build, build_delivery
from classfeed_dagster.delivery.chain import close_place, last_place
from classfeed_dagster.delivery.ledger_publication import StagedRows, positions_of
from classfeed_dagster.delivery.manifest import Manifest, VoidManifest
from classfeed_dagster.delivery.sent import positions_at, sent_date
from classfeed_dagster.delivery.shards import fan_out, fan_out_pages, merge, render_shard, write_pages
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS
from classfeed_dagster.domains.ledger_rows import LEDGER_BALANCES, LEDGER_RECORDS, complete
from classfeed_dagster.errors import StaleBuildError
from classfeed_dagster.ledger.files import POSITIONS, ledger_prefix
from classfeed_dagster.ledger.positions import roll_forward
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    AUDIENCE,
    DAY1,
    DAY2,
    FEED,
    FORMAT,
    Counting,
    Crash,
    Day,
    build,
    check,
    deliver,
    go,
    plan,
    terms,
)
from classfeed_dagster_tests.ledger.test_positions import balance, record, records, stated

NUMBERS = [f"P{at}" for at in range(5)]


@dataclass(frozen=True)
class LedgerDay(Day):
    """A day whose frames have ledger rows: a movement for each amount, and the balance of everything so far."""

    before: tuple[tuple[str, str], ...] = ()  # what was sent of each portfolio earlier

    def slices(self, size: int = 3) -> Iterator[dict[str, pl.DataFrame]]:
        for frames in super().slices(size):
            numbers = frames["accounts"]["portfolio_number"].to_list()
            rows = [
                {
                    "portfolio_id": int(number[1:]),
                    "portfolio_number": number,
                    "transaction_id": f"C{self.date:%d}{number[1:]}{at}",
                    "ledger": "C",
                    "row_id": at,
                    "transaction_type": "CASH_DEPOSIT",
                    "transaction_date": self.date,
                    "recorded_at": dt.datetime.combine(self.date, dt.time(1), tzinfo=dt.UTC),
                    "cash_account_id": int(number[1:]),
                    "account_number": "1",
                    "amount": Decimal(amount),
                    "currency": "AUD",
                }
                for number in numbers
                for at, amount in enumerate(self.content[number][1])
            ]
            schema = {name: LEDGER_RECORDS.schema[name] for name in rows[0]} if rows else LEDGER_RECORDS.schema
            records = complete(LEDGER_RECORDS, pl.DataFrame(rows, schema=schema))
            earlier = dict(self.before)
            balances = [
                {
                    "portfolio_id": int(number[1:]),
                    "portfolio_number": number,
                    "cash_account_id": int(number[1:]),
                    "bsb": None,
                    "account_number": "1",
                    "currency": "AUD",
                    "stated": sum(map(Decimal, self.content[number][1]), Decimal(earlier.get(number, "0.00"))),
                    "unsent": Decimal("0.00"),
                }
                for number in numbers
            ]
            extract = {"NEW": "FULL", "CURRENT": "DELTA", "REMOVED": "NONE"}
            consented = [
                (int(number[1:]), number, "FUND", change, extract[change], None, [1])
                for number, (change, _) in self.content.items()
                if number in numbers
            ]
            yield {
                **frames,
                CONSENTED_PORTFOLIOS.name: pl.DataFrame(consented, schema=CONSENTED_PORTFOLIOS.schema, orient="row"),
                LEDGER_RECORDS.name: records,
                "movement_transactions": records.select("portfolio_number", "transaction_id", "reverses", "relates_to"),
                LEDGER_BALANCES.name: LEDGER_BALANCES.conform(pl.DataFrame(balances, schema=LEDGER_BALANCES.schema)),
            }


FIRST = LedgerDay(DAY1, dict.fromkeys(NUMBERS, ("NEW", ("1.00", "2.50"))))
SECOND = LedgerDay(DAY2, dict.fromkeys(NUMBERS, ("CURRENT", ("0.25",))), before=tuple((n, "3.50") for n in NUMBERS))


def ledger(store: ObjectStore) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.list("ledger/")}


def sound(store: ObjectStore) -> bool:
    return verify_feed(store, FEED, FORMAT).sound


def sums(store: ObjectStore, day: dt.date) -> list[Decimal]:
    positions = positions_at(store, FEED, AUDIENCE, day)
    assert positions is not None
    return positions.sort("portfolio_id")["sent"].to_list()


def test_second_date_adds_its_records_to_the_first(local_store: ObjectStore) -> None:
    deliver(local_store, FIRST)
    deliver(local_store, SECOND)
    assert sums(local_store, DAY1) == [Decimal("3.50")] * 5
    assert sums(local_store, DAY2) == [Decimal("3.75")] * 5
    assert sound(local_store)


@pytest.mark.parametrize("staged", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_ledger_after_death_at_any_step_is_completed_unchanged(tmp_path: Path, staged: bool) -> None:
    """``staged``: die while publishing a staged build; else at any call from the first of the build."""
    whole, base = LocalStore(tmp_path / "whole"), LocalStore(tmp_path / "base")
    deliver(whole, FIRST)
    new_build = build(base, FIRST)
    check(base, new_build, FIRST)

    def work(store: Counting) -> object:
        return go(store, new_build, FIRST) if staged else deliver(store, FIRST)  # type: ignore[arg-type]

    def begun(name: str) -> LocalStore:
        return LocalStore(Path(shutil.copytree(base.root, tmp_path / name)) if staged else tmp_path / name)

    calls = Counting(begun("counted"))
    work(calls)
    for at in range(1, len(calls.calls) + 1):
        store = begun(f"dies-{at}")
        with pytest.raises(Crash):
            work(Counting(store, fail_at=at))
        deliver(store, FIRST, "try-2")
        assert sent_date(store, FEED, DAY1).has_positions
        named = {ledger_prefix(FEED, DAY1, 0) + file.name for file in _files(store)}
        assert named <= ledger(store).keys()
        assert {key: ledger(store)[key] for key in named} == ledger(whole), at
        assert sound(store), calls.calls[at - 1]


def _files(store: ObjectStore):  # type: ignore[no-untyped-def]
    manifest = sent_date(store, FEED, DAY1).ledgers[-1][0]
    assert manifest.ledger is not None
    return manifest.ledger.files


def test_abandoned_attempt_leaves_no_ledger_that_counts(local_store: LocalStore) -> None:
    new_build = build(local_store, FIRST)
    check(local_store, new_build, FIRST)
    store = Counting(local_store)
    go(store, new_build, FIRST)  # type: ignore[arg-type]
    manifest = next(at for at, call in enumerate(store.calls, 1) if call.startswith("create") and "manifest" in call)
    other = LocalStore(local_store.root.parent / "abandoned")
    new_build = build(other, FIRST)
    check(other, new_build, FIRST)
    with pytest.raises(Crash):
        go(Counting(other, fail_at=manifest), new_build, FIRST)  # type: ignore[arg-type]
    assert ledger(other)
    place = last_place(other, FEED)
    assert place is not None
    assert close_place(other, place, "abandoned", "try-2")
    assert not ledger(other)
    deliver(other, FIRST, "try-3")
    revisions = [revision.manifest for revision in sent_date(other, FEED, DAY1).state.revisions]
    assert [type(revision) for revision in revisions] == [VoidManifest, Manifest]
    assert sums(other, DAY1) == [Decimal("3.50")] * 5


def test_reissued_date_changes_the_positions_of_the_dates_after_it(local_store: ObjectStore) -> None:
    deliver(local_store, FIRST)
    deliver(local_store, SECOND)
    changed = LedgerDay(DAY1, {**FIRST.content, "P2": ("NEW", ("1.00", "9.00"))}, snapshot="s2")
    deliver(local_store, changed)
    assert sums(local_store, DAY1) == [Decimal(x) for x in ("3.50", "3.50", "10.00", "3.50", "3.50")]
    assert sums(local_store, DAY2) == [Decimal(x) for x in ("3.75", "3.75", "10.25", "3.75", "3.75")]


def test_shards_write_the_ledger_that_one_worker_writes(tmp_path: Path) -> None:
    last = ("P1", "P3", "P4")
    item, several = LocalStore(tmp_path / "one"), LocalStore(tmp_path / "several")
    context = terms(item, FIRST, last_of_shards=last)
    _deliver(item, build_delivery(item, context, plan(item, FIRST), FIRST.slices(2)))
    context = terms(several, FIRST, last_of_shards=last)
    shared = fan_out(several, context, plan(several, FIRST), list(last), ["0" * 64])
    for shard, frames in reversed(list(enumerate(FIRST.slices(2)))):
        render_shard(several, context, shared, shard, [frames])
    for lot in range(fan_out_pages(several, context, shared)):
        write_pages(several, context, shared, lot)
    _deliver(several, merge(several, context, shared))
    assert ledger(several) == ledger(item)
    assert sum("records" in key for key in ledger(item)) == 3
    assert sums(several, DAY1) == [Decimal("3.50")] * 5


def _deliver(store: ObjectStore, staged_build: Build) -> None:
    check(store, staged_build, FIRST)
    assert go(store, staged_build, FIRST).kind == "DELIVERED"


def test_build_made_under_another_view_of_the_ledger_is_stale(local_store: ObjectStore) -> None:
    from classfeed_dagster.delivery.publish import publish
    from classfeed_dagster_tests.fixtures.delivery_pipeline import ASKED_AT, no_sleep

    new_build = build(local_store, FIRST)
    check(local_store, new_build, FIRST)
    with pytest.raises(StaleBuildError, match="before other records of the feed were sent"):
        publish(
            local_store,
            new_build,
            consented_now=lambda: (ASKED_AT, FIRST.consenting),
            audience=AUDIENCE,
            correlation_id="try-1",
            sleep=no_sleep,
            ledger_view=lambda: "another",
        )
    assert not ledger(local_store)


@pytest.mark.parametrize("kind", ["records", "positions", "identities"])
def test_verify_names_a_ledger_file_that_was_changed_or_removed(local_store: LocalStore, kind: str) -> None:
    deliver(local_store, FIRST)
    key = next(key for key in local_store.list("ledger/") if kind in key)
    local_store.put(key, b"PAR1 no more")
    assert [problem.detail for problem in verify_feed(local_store, FEED, FORMAT).problems] == [
        "its size or SHA-256 isn't the manifest's"
    ]
    local_store.delete(key)
    assert [problem.detail for problem in verify_feed(local_store, FEED, FORMAT).problems] == ["the manifest lists it"]


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 5, 6])
def test_positions_of_a_part_are_the_same_whatever_is_in_memory(at_a_time: int) -> None:
    ids = [1, 2, 3, 5, 8]
    portfolios = pl.DataFrame(
        {
            "portfolio_id": ids,
            "portfolio_number": [f"SW{each}" for each in ids],
            "change": ["CURRENT", "NEW", "CURRENT", "REMOVED", "CURRENT"],
            "extract": ["DELTA", "FULL", "DELTA", "NONE", "DELTA"],
        }
    )
    sent = records(*(record(at, number, DAY2, amount=Decimal(at)) for at, number in enumerate([8, 1, 2, 2])))
    balances = stated(*(balance(number, "5.00") for number in (8, 1, 2, 3)))
    rows = StagedRows(
        portfolios, balances, partial(_among, sent, "portfolio_number"), partial(_among, balances, "portfolio_number")
    )
    nothing = replace(rows, records=partial(_among, sent.clear(), "portfolio_number"))
    previous = next(positions_of(partial(_among, POSITIONS.empty(), "portfolio_id"), nothing, DAY1))
    whole = roll_forward(previous.filter(pl.col("portfolio_id") != 5), sent, balances, pl.Series([2, 5]), DAY2)
    parts = list(positions_of(partial(_among, previous, "portfolio_id"), rows, DAY2, at_a_time))
    assert len(parts) == -(-len(ids) // at_a_time)
    assert POSITIONS.conform(pl.concat(parts)).equals(whole)


def _among(frame: pl.DataFrame, column: str, values: pl.Series) -> pl.DataFrame:
    return frame.filter(pl.col(column).is_in(values.implode()))
