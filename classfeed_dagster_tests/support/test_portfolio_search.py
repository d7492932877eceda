"""One portfolio is found in every date at any place, and never where it is not."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import polars as pl
import pytest

from classfeed_dagster.ledger.files import PORTFOLIOS
from classfeed_dagster.store import LocalStore
from classfeed_dagster.stored_records import manifest_key
from classfeed_dagster.support.portfolio_search import PortfolioSearch, switches_of
from classfeed_dagster_tests.fixtures.desk import FEED, Desk


def revision(store: LocalStore, name: str, *parts: list[int]) -> list[str]:
    """Store a revision's parts of portfolios, a key a part."""
    keys = []
    for at, numbers in enumerate(parts):
        rows = [
            {
                "portfolio_id": number,
                "portfolio_number": f"SW{number:08d}",
                "recipient_reference": name,
                "change": "CURRENT",
                "extract": "DELTA",
                "history_from": None,
                "digest": "0" * 64,
                "consent_ids": [number],
            }
            for number in numbers
        ]
        path = store.root / f"{name}-{at}.parquet"
        pl.DataFrame(rows, schema=PORTFOLIOS.schema).write_parquet(path)
        keys.append(path.name)
    return keys


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.mark.parametrize("number", [0, 4_000, 4_999, 5_000, 9_998])
def test_search_finds_the_portfolio_that_has_moved(store: LocalStore, number: int) -> None:
    revisions = {
        "even": [[*range(0, 5_000, 2), *[4_999]], [*range(5_000, 10_000, 2)]],
        "one": [[*range(10_000)]],
        "alone": [[number]],
        "others": [[number], [*range(20_000, 21_000)]],
        "far": [[], [*range(number + 1)]],
    }
    keys = {name: revision(store, name, *parts) for name, parts in revisions.items()}
    search = PortfolioSearch(store, f"SW{number:08d}")
    for _ in range(2):
        for name in revisions:
            rows = search.rows(keys[name])
            assert rows is not None, name
            assert rows.select("recipient_reference", "consent_ids").row(0) == (name, [number])


@pytest.mark.parametrize("number", [1, 4_001, 5_001, 9_999, 30_000])
def test_search_finds_no_portfolio_that_a_revision_lacks(store: LocalStore, number: int) -> None:
    parts = [[*range(0, 5_000, 2)], [*range(5_000, 10_000, 2)]]
    without, empty = revision(store, "without", *parts), revision(store, "empty", [])
    having = revision(store, "having", [number])
    search = PortfolioSearch(store, f"SW{number:08d}")
    for _ in range(2):
        assert search.rows(without) is None
        assert search.rows(empty) is None
        assert search.rows([]) is None
        assert search.rows(having) is not None


def test_search_reads_the_page_and_the_switches_of_a_manifest(store: LocalStore) -> None:
    number = 'SW"ö'
    entries = [{"digest": "0", "number": name, "page": f"p-{at}"} for at, name in enumerate(["SW1", number, "SW9"])]
    manifest = {
        "flags": {"include-drp": False},
        "held_back": [{"number": number, "reason": "x"}],
        "portfolios": entries,
    }
    for key, content in (("small", manifest), ("large", {"a": "x" * 1_000_000, **manifest})):
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        (store.root / key).write_text(text)
    search = PortfolioSearch(store, number)
    assert [search.page(key) for key in ("small", "large", "small")] == ["p-1"] * 3
    assert PortfolioSearch(store, "SW2").page("large") == ""
    assert switches_of(store, "large") == {"include-drp": False}


@pytest.mark.parametrize(
    ("text", "switches"),
    [
        ('{"feed":"a","portfolios":[]}', {}),  # before there were switches
        ('{"flags":{"a":{"b":"}"}},"format":"a field of a later version","portfolios":[]}', {"a": {"b": "}"}}),
    ],
)
def test_switches_of_another_version_are_read(store: LocalStore, text: str, switches: dict[str, object]) -> None:
    (store.root / "manifest").write_text(text)
    assert switches_of(store, "manifest") == switches


def test_ledger_and_manifest_have_the_portfolios_in_order_of_number(desk: Desk) -> None:
    numbers = ["SW00000007", "SW00000001", "SW00000003", "SW00000002"]
    for number in numbers:
        portfolio = desk.bigsite.portfolio(number).consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("77.00", "2026-02-23")
    desk.end_of_day("2026-03-02")
    with desk.at("2026-03-03T06:00:00+11:00"):
        desk.run("2026-03-02", at=desk.runtime.settings.now)
    (path,) = Path(desk.runtime.settings.store_location).glob("ledger/class_super/*/r0/portfolios-*.parquet")
    assert pl.read_parquet(path)["portfolio_number"].to_list() == sorted(numbers)
    manifest, key = desk.manifest("2026-03-02"), manifest_key(FEED, dt.date(2026, 3, 2), 0)
    for record in manifest.portfolios:
        assert PortfolioSearch(desk.runtime.store, record.number).page(key) == record.page
    assert switches_of(desk.runtime.store, key) == manifest.flags != {}
