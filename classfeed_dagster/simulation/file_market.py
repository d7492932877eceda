"""Market from a Parquet file of real prices: code, date, open, high, low, close and volume as text.

The file has prices only. Names are read from a listing next to it, if it exists. Dividends, splits, renames and
takeovers are planned as in the invented market, and American securities are the invented ones.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import polars as pl

from classfeed_dagster.errors import DataError
from classfeed_dagster.simulation.corporate import CorporateCalendar
from classfeed_dagster.simulation.identifiers import ID_BASE, isin
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.market import MICRO, CorporateEvent, Dividend, Security

FILE_FIRST = 10_000
_COLUMNS = ("code", "date", "close", "volume")
_CODE = re.compile(r"[A-Z0-9]{3,6}\Z")
_TYPES = {
    "ETF": "VAS A200 IVV NDQ STW VGS VTS VHY VAP VEU IOZ IVW ETHI FAIR VDHG DHHF MVW GOLD QUAL IOO",
    "LIC": "AFI ARG MLT WAM WHF BKI AUI DUI PMC MFF HM1 MXT",
    "REIT": "GMG SCG DXS MGR SGP VCX GPT CHC CLW BWP NSR CQR HDN ARF ABP CIP",
}
_TYPE_BY_CODE = {code: kind for kind, codes in _TYPES.items() for code in codes.split()}


class MarketFileError(DataError):
    """The market file cannot be used; the message states the reason."""


class FileMarket:
    """The ``universe`` most traded securities of the file, at its closing prices. ``anchor``: see InventedMarket."""

    def __init__(self, path: Path, *, seed: int, anchor: dt.date, universe: int = 500) -> None:
        self._invented = InventedMarket(seed, anchor)
        american = [s for s in self._invented.securities() if s.currency != "AUD"]
        prices = _read(path, universe)
        names = _names_beside(path)
        self._name = path.stem
        self._first_date = min(rows[0][0] for rows in prices.values())
        self._dates: dict[int, list[dt.date]] = {}
        self._closes: dict[int, list[Decimal]] = {}
        listed: list[Security] = []
        for number, (code, rows) in enumerate(sorted(prices.items()), start=FILE_FIRST):
            security_id = ID_BASE + number
            listed.append(
                Security(
                    security_id, "ASX", code, isin("AU", number), names.get(code, f"{code} SECURITIES")[:200],
                    _type_of(code), "AUD", min(rows[0][0], anchor),
                )
            )  # fmt: skip
            self._dates[security_id] = [day for day, _ in rows]
            self._closes[security_id] = [close for _, close in rows]
        self._securities = tuple(sorted(american + listed, key=lambda s: s.security_id))
        self._calendar = CorporateCalendar(seed, listed, anchor)

    @property
    def name(self) -> str:
        """Return the file's name without its extension."""
        return self._name

    def securities(self) -> Sequence[Security]:
        """Return every security, in order of its id."""
        return self._securities

    def price(self, security_id: int, day: dt.date) -> Decimal | None:
        """Return the file's close of ``day``, after splits; None if it has none.

        Before the file begins, a security that traded on its first day has that day's close. A security that was listed
        later cannot be bought before its listing.
        """
        dates = self._dates.get(security_id)
        if dates is None:
            return self._invented.price(security_id, day)
        if not self._calendar.is_listed(security_id, day):
            return None
        at = bisect_right(dates, day) - 1
        traded = dates[at] == day if at >= 0 else day < self._first_date == dates[0]
        return self._adjusted(security_id, max(at, 0), day) if traded else None

    def last_price(self, security_id: int, day: dt.date) -> Decimal:
        """Return the last close on or before ``day``; before the file begins, its first close."""
        dates = self._dates.get(security_id)
        if dates is None:
            return self._invented.last_price(security_id, day)
        return self._adjusted(security_id, max(bisect_right(dates, day) - 1, 0), day)

    def closes(self, day: dt.date) -> Iterable[tuple[int, Decimal]]:
        """Yield (security, close) of every security that traded on ``day``; none for days that the file lacks."""
        for security in self._securities:
            security_id = security.security_id
            dates = self._dates.get(security_id)
            if dates is not None and day < dates[0]:
                continue
            price = self.price(security_id, day)
            if price is not None:
                yield security_id, price

    def events(self, day: dt.date) -> Sequence[CorporateEvent]:
        """Return the corporate events of ``day``."""
        return self._calendar.events(day)

    def going_ex(self, day: dt.date) -> Sequence[Dividend]:
        """Return the dividends with the ex-date ``day``, of the file's and the American securities."""
        american = [d for d in self._invented.going_ex(day) if d.withholding_percent]
        return [*self._calendar.going_ex(day), *american]

    def rate(self, currency: str, day: dt.date) -> Decimal:
        """Return the AUD value of one unit of ``currency``."""
        return self._invented.rate(currency, day)

    def _adjusted(self, security_id: int, at: int, day: dt.date) -> Decimal:
        close = self._closes[security_id][at]
        new, old = self._calendar.units_of_today(security_id, day).as_integer_ratio()
        if (new, old) == (1, 1):
            return close
        return max((close * old / new).quantize(Decimal("0.001"), rounding=ROUND_HALF_UP), Decimal("0.001"))


def _read(path: Path, universe: int) -> dict[str, list[tuple[dt.date, Decimal]]]:
    # Closes by code, of the ``universe`` codes with the highest turnover over the whole file.
    try:
        frame = pl.read_parquet(path, columns=list(_COLUMNS), glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MarketFileError(f"Cannot read the market file {path}: {error}") from error
    frame = frame.filter(pl.col("code").str.contains(r"^[A-Z0-9]{3,6}$"), pl.col("close").is_not_null())
    # Turnover in tenths of a cent as integers, because the order must not depend on rounding.
    tenths = (pl.col("close").cast(pl.Decimal(18, 6)) * 1000).cast(pl.Int64)
    ranked = (
        frame.group_by("code")
        .agg((tenths * pl.col("volume").cast(pl.Decimal(18, 0)).cast(pl.Int64)).sum().alias("turnover"))
        .sort("turnover", "code", descending=[True, False])
        .head(universe)
    )
    if ranked.is_empty():
        raise MarketFileError(
            f"The market file {path} has no prices: it needs the columns code, date, close and volume"
        )
    rows = frame.join(ranked.select("code"), on="code").select("code", "date", "close").sort("code", "date").rows()
    prices: dict[str, list[tuple[dt.date, Decimal]]] = {}
    for code, date, close in rows:
        price = Decimal(close).quantize(MICRO, rounding=ROUND_HALF_UP)
        if price > 0:
            prices.setdefault(code, []).append((dt.date.fromisoformat(date), price))
    return prices


def _names_beside(path: Path) -> dict[str, str]:
    # Names by code from an ``asx_listed_companies*.csv`` next to the market file; empty if there is none.
    names: dict[str, str] = {}
    for listing in sorted(path.parent.glob("asx_listed_companies*.csv")):
        with listing.open(encoding="utf-8-sig", newline="") as lines:
            for row in csv.reader(lines):
                if len(row) == 3 and _CODE.match(row[1]):
                    names[row[1]] = row[0]
    return names


def _type_of(code: str) -> str:
    return _TYPE_BY_CODE.get(code) or ("HYBRID" if len(code) == 5 and code[3] == "P" else "ORDINARY")
