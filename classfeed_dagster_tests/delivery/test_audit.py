"""Cost of an audit: a sample reads positions of the newest dates, each date's records and the chain once."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from classfeed_dagster.delivery.ledger_rebuild import AUDITED_DATES, audit_positions
from classfeed_dagster.store import LocalStore
from classfeed_dagster_tests.delivery.test_ledger_publication import FIRST, NUMBERS, LedgerDay
from classfeed_dagster_tests.fixtures.delivery_pipeline import AUDIENCE, FEED, Counting, deliver

DATES = AUDIENCE.dates()[:12]


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Deliver twelve dates."""
    store, sent = LocalStore(tmp_path_factory.mktemp("audit") / "store"), Decimal("3.50")
    deliver(store, FIRST)
    for day in DATES[1:]:
        deliver(store, _day(day, "0.25", sent))
        sent += Decimal("0.25")
    return store


def _day(day: dt.date, amount: str, before: Decimal) -> LedgerDay:
    content = dict.fromkeys(NUMBERS, ("CURRENT", (amount,)))
    return LedgerDay(day, content, before=tuple((number, str(before)) for number in NUMBERS), snapshot=f"s{amount[2:]}")


@pytest.mark.parametrize("sample", [None, 2])
def test_audit_of_any_sample_agrees_with_the_records(delivered: LocalStore, sample: int | None) -> None:
    audits = list(audit_positions(delivered, FEED, AUDIENCE, sample=sample))
    assert [audit.business_date for audit in audits] == list(DATES if sample is None else DATES[-AUDITED_DATES:])
    assert not any(audit.wrong for audit in audits)
    assert {audit.positions for audit in audits} == {sample or len(NUMBERS)}


def test_audit_of_a_sample_reads_older_dates_once(delivered: LocalStore) -> None:
    counting = Counting(delivered)
    assert list(audit_positions(counting, FEED, AUDIENCE, sample=2))  # type: ignore[arg-type]
    calls = Counter(counting.calls)
    kinds = {
        kind: sum(count for call, count in calls.items() if f"/{kind}-" in call) for kind in ("records", "positions")
    }
    assert kinds == {"records": len(DATES), "positions": AUDITED_DATES}
    older = [f"read delivered/{FEED}/{day}/r0/manifest.json" for day in DATES[:-AUDITED_DATES]]
    assert {calls[call] for call in older} == {1}
    entries = [count for call, count in calls.items() if call.startswith("read chain/")]
    assert len(entries) <= AUDITED_DATES
    assert max(entries) <= AUDITED_DATES + 1


def test_sample_skips_dates_that_a_reissue_left_behind(delivered: LocalStore, tmp_path: Path) -> None:
    shutil.copytree(delivered.root, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    deliver(store, _day(DATES[1], "0.75", Decimal("3.50")))
    assert list(audit_positions(store, FEED, AUDIENCE, sample=2)) == []
    assert not any(audit.wrong for audit in audit_positions(store, FEED, AUDIENCE))
    after = Decimal("3.50") + Decimal("0.75") + 10 * Decimal("0.25")
    deliver(store, _day(AUDIENCE.dates()[12], "0.25", after))
    (audit,) = audit_positions(store, FEED, AUDIENCE, sample=2)
    assert (audit.business_date, audit.wrong) == (AUDIENCE.dates()[12], ())
