"""The invented market and the one out of a file."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from stdnum import isin as isin_number
from stdnum.au import abn as abn_number

from classfeed_dagster.settings import Environment
from classfeed_dagster.simulation import identifiers
from classfeed_dagster.simulation.file_market import FileMarket, MarketFileError
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.market import CodeChange, Delisting, Merger, UnitsChange, to_tick
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.simulation.world import World
from classfeed_dagster.trading_days import business_days_between

FIRST = dt.date(2023, 1, 3)
YEAR = business_days_between(FIRST, dt.date(2023, 12, 29))


def write_market(path: Path, codes: int = 14, first: dt.date = FIRST) -> Path:
    """Write a small market file: ``codes`` securities over 25 business days; the last one is listed on the tenth."""
    rows = []
    for number in range(codes):
        for at, day in enumerate(YEAR[:25]):
            if (number == codes - 1 and at < 10) or (number == 2 and at == 5):
                continue
            close = Decimal(150 + number * 37 + (at * (number + 3)) % 11) / 100
            text = f"{close:f}".removeprefix("0")
            code = "VAS" if number == 0 else f"QQ{chr(ord('A') + number)}"
            rows.append((code, f"{day:%Y%m%d}", text, text, text, text, str(10_000 * (codes - number))))
    rows.append(("BAD CODE", f"{YEAR[0]:%Y%m%d}", "1", "1", "1", "1", "99999999"))
    rows.append(("ZERO", f"{YEAR[0]:%Y%m%d}", "0", "0", "0", "0", "5"))
    columns = ["code", "date", "open", "high", "low", "close", "volume"]
    pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row").write_parquet(path)
    return path


def test_invented_market_is_small_and_reproducible() -> None:
    item, two = InventedMarket(3, FIRST), InventedMarket(3, FIRST)
    assert 30 <= len(item.securities()) <= 45
    assert len({(s.exchange, s.code) for s in item.securities()}) == len(item.securities())
    for day in YEAR[:40]:
        assert list(item.closes(day)) == list(two.closes(day))
        assert list(item.events(day)) == list(two.events(day))
    assert list(item.closes(YEAR[5])) != list(InventedMarket(4, FIRST).closes(YEAR[5]))


def test_prices_are_multiples_of_the_exchanges_tick() -> None:
    market = InventedMarket(3, FIRST)
    on_asx = {s.security_id for s in market.securities() if s.exchange == "ASX"}
    for security_id, price in market.closes(YEAR[30]):
        assert price > 0
        assert price == (to_tick(price) if security_id in on_asx else price.quantize(Decimal("0.01")))
    assert [to_tick(Decimal(p)) for p in ("0.0001", "0.0444", "1.3331", "2.004")] == [
        Decimal("0.001"), Decimal("0.044"), Decimal("1.335"), Decimal("2.00"),
    ]  # fmt: skip


def test_year_has_every_kind_of_event() -> None:
    market = InventedMarket(3, FIRST)
    events = [event for day in YEAR for event in market.events(day)]
    assert {type(event).__name__ for event in events} == {
        "UnitsChange", "CodeChange", "CapitalReturn", "Delisting", "Merger",
    }  # fmt: skip
    split = next(e for e in events if isinstance(e, UnitsChange) and e.movement_type == "SPLIT")
    before = market.last_price(split.security_id, split.effective_on - dt.timedelta(days=1))
    after = market.last_price(split.security_id, split.effective_on)
    assert abs(after * split.new / split.old / before - 1) < Decimal("0.1")
    missing = next(e for e in events if isinstance(e, Delisting | Merger))
    assert market.price(missing.security_id, missing.effective_on) is None
    changes = [e for e in events if isinstance(e, CodeChange)]
    assert len({change.new_code for change in changes}) == len(changes)
    assert market.price(market.securities()[0].security_id, dt.date(2023, 1, 7)) is None


def test_exchange_rates_are_around_one_and_a_half() -> None:
    market = InventedMarket(3, FIRST)
    assert market.rate("AUD", FIRST) == 1
    assert all(Decimal(1) < market.rate("USD", day) < 2 for day in YEAR)


def test_market_file_gives_its_closes_only(tmp_path: Path) -> None:
    path = write_market(tmp_path / "tiny.parquet")
    (tmp_path / "asx_listed_companies_x.csv").write_text(
        'ASX listed\n\nCompany name,ASX code,GICS\n"QQB & SONS LIMITED","QQB","Food"\n', encoding="utf-8-sig"
    )
    market = FileMarket(path, seed=1, anchor=FIRST)
    assert market.name == "tiny"
    by_code = {s.code: s for s in market.securities() if s.exchange == "ASX"}
    assert len(by_code) == 14
    assert by_code["QQB"].name == "QQB & SONS LIMITED"
    assert by_code["VAS"].security_type == "ETF"
    late, missing = by_code["QQN"], by_code["QQC"]
    history = dt.date(2022, 12, 20)
    assert market.price(late.security_id, YEAR[9]) is None
    assert market.price(late.security_id, history) is None
    assert market.price(late.security_id, YEAR[10]) is not None
    assert market.price(missing.security_id, YEAR[5]) is None
    assert market.last_price(missing.security_id, YEAR[5]) == market.last_price(missing.security_id, YEAR[4])
    assert market.price(missing.security_id, history) == market.price(missing.security_id, FIRST)
    asx = {s.security_id for s in by_code.values()}
    assert not asx & {security_id for security_id, _ in market.closes(history)}
    closes = dict(market.closes(FIRST))
    assert closes[by_code["VAS"].security_id] == Decimal("1.5")
    american = next(s.security_id for s in market.securities() if s.currency == "USD")
    assert market.price(american, YEAR[3]) == InventedMarket(1, FIRST).price(american, YEAR[3])
    assert market.last_price(american, YEAR[3]) == InventedMarket(1, FIRST).last_price(american, YEAR[3])
    assert market.rate("USD", FIRST) > 1
    assert any(market.going_ex(day) for day in YEAR)
    events = [event for day in YEAR for event in market.events(day)]
    split = next(e for e in events if isinstance(e, UnitsChange) and e.movement_type == "SPLIT")
    raw = pl.read_parquet(path).filter(
        pl.col("code") == {s.security_id: s.code for s in by_code.values()}[split.security_id]
    )
    stated = {row["date"]: Decimal(row["close"]) for row in raw.iter_rows(named=True)}
    adjusted = market.price(split.security_id, split.effective_on)
    if adjusted is not None:
        assert abs(adjusted * split.new / split.old - stated[f"{split.effective_on:%Y%m%d}"]) < Decimal("0.01")
    absent = next(e for e in events if isinstance(e, Delisting | Merger))
    assert market.price(absent.security_id, absent.effective_on) is None


def test_market_file_is_limited_to_the_most_traded(tmp_path: Path) -> None:
    market = FileMarket(write_market(tmp_path / "tiny.parquet"), seed=1, anchor=FIRST, universe=3)
    assert len([s for s in market.securities() if s.exchange == "ASX"]) == 3


def test_file_that_is_not_a_market_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketFileError, match="Cannot read"):
        FileMarket(tmp_path / "absent.parquet", seed=1, anchor=FIRST)
    pl.DataFrame({"code": ["BHP"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(MarketFileError, match="Cannot read"):
        FileMarket(tmp_path / "other.parquet", seed=1, anchor=FIRST)
    columns = dict.fromkeys(["code", "date", "close", "volume"], pl.String)
    pl.DataFrame(schema=columns).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(MarketFileError, match="has no prices"):
        FileMarket(tmp_path / "empty.parquet", seed=1, anchor=FIRST)


def test_simulation_advances_on_a_market_file(tmp_path: Path, bigsite_engine: sa.Engine) -> None:
    market = FileMarket(write_market(tmp_path / "tiny.parquet"), seed=1, anchor=FIRST)
    world = World(
        1, market, consented=10, portfolios=12, first_day=FIRST, history_days=12, environment=Environment.LOCAL
    )
    world.seed(bigsite_engine)
    summary = world.advance(bigsite_engine, YEAR[4])
    assert summary.rows["holding_eod"] > 20
    with bigsite_engine.connect() as connection:
        unpriced = connection.execute(
            sa.text(
                """SELECT count(*) FROM bigsite.holding_eod h WHERE h.as_at_date >= :first AND NOT EXISTS (
                   SELECT 1 FROM bigsite.security_price p
                   WHERE p.security_id = h.security_id AND p.price_date <= h.as_at_date)"""
            ),
            {"first": FIRST},
        ).scalar_one()
    assert unpriced == 0


@given(st.integers(0, 10**6 - 1))
def test_identifiers_pass_an_independent_check(number: int) -> None:
    assert abn_number.is_valid(identifiers.abn(number))
    assert isin_number.is_valid(identifiers.isin("AU", number))
    assert isin_number.is_valid(identifiers.isin("US", number))
    assert len(identifiers.hin(number)) == 11
    assert len(identifiers.bsb(number)) == 7
    assert len(identifiers.account_number(number)) == 9
    assert identifiers.ledger_id(number, dt.date(2035, 12, 31), 699) < 2**53


def test_identifiers_never_leave_their_reserved_range() -> None:
    for make in (identifiers.portfolio_number, identifiers.hin, identifiers.account_number):
        with pytest.raises(identifiers.NumberOutOfRangeError, match="simulate fewer"):
            make(10**6)
    with pytest.raises(identifiers.NumberOutOfRangeError):
        identifiers.ledger_id(1, FIRST, 700)


@given(st.text(max_size=20), st.integers(1, 10_000))
def test_random_stream_is_determined_by_its_name(name: str, bound: int) -> None:
    item, two = HashRandom(name, 1), HashRandom(name, 1)
    drawn = [item.below(bound) for _ in range(40)]
    assert drawn == [two.below(bound) for _ in range(40)]
    assert all(0 <= value < bound for value in drawn)


def test_random_stream_is_uniform() -> None:
    stream = HashRandom("even")
    drawn = [stream.between(1, 6) for _ in range(6000)]
    assert all(850 < drawn.count(face) < 1150 for face in range(1, 7))
    assert sorted(stream.some(range(5), 9)) == [0, 1, 2, 3, 4]
