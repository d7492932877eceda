"""ISO 20022 semt.002.001.11 (SecuritiesBalanceCustodyReport, a statement of holdings): one message a portfolio.

The standard's published schema, ``semt_002_001_11.xsd``, judges every message that is written. A message states the
business date's holdings on a traded basis. The settled units are the proprietary sub-balance ``SETT``, because the
standard has no code for them. A message without holdings states that (``ActvtyInd``).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from lxml import etree

from classfeed_dagster.documents.document_format import (
    CurrencyTotals,
    DocumentColumn,
    PageHeader,
    Place,
    RecordKey,
    RenderedPortfolio,
    Totals,
)
from classfeed_dagster.documents.format_rules import FormatRule
from classfeed_dagster.documents.iso_20022 import (
    CORRECT,
    IsoMessageFormat,
    Records,
    child,
    children,
    escaped,
    finding,
    located,
    text_and_currency_rules,
    text_findings,
)
from classfeed_dagster.documents.locate import NotAPageError
from classfeed_dagster.domains.columns import FINDINGS, INVESTMENT_HOLDINGS

SECTION = "BalForAcct"
_REPORT = "SctiesBalCtdyRpt"
_DETAILS = f"{_REPORT}/StmtGnlDtls"
_HOLDINGS, _COUNT = INVESTMENT_HOLDINGS.name, "InvestmentHoldings"
_ISSUER, _SETTLED = "CLASSFEED", "SETT"
_UNIT = "Qty/Qty/Qty/Unit"
_ID = re.compile(r"(?P<Feed>.+)-\d{8}-r(?P<Revision>\d+)-p\d+")
_LENGTHS = {"portfolio_number": 35, "security_code": 35, "exchange": 35, "security_name": 140, "security_type": 35}
_TOO_MANY_UNITS = Decimal(10) ** 12  # of 18 digits, six are decimals
_RULES = (
    *text_and_currency_rules("semt_002", "semt.002"),
    FormatRule(
        "semt_002_units",
        "semt.002",
        "Units fit their element",
        "Units have at most 12 digits before the decimal point.",
        CORRECT,
    ),
    FormatRule(
        "semt_002_price",
        "semt.002",
        "A price has a date and is not negative",
        "Price, price date and market value are all present or all absent, and the price is not negative.",
        CORRECT,
    ),
)
_COLUMNS = (
    ("SfkpgAcct/Id", "portfolio_number"),
    ("BalForAcct/FinInstrmId/ISIN", "isin"),
    ("BalForAcct/FinInstrmId/OthrId[TIKR]", "security_code"),
    ("BalForAcct/FinInstrmId/Desc", "security_name"),
    ("BalForAcct/FinInstrmAttrbts/PlcOfListg", "exchange"),
    ("BalForAcct/FinInstrmAttrbts/ClssfctnTp", "security_type"),
    ("BalForAcct/AggtBal", "units"),
    ("BalForAcct/PricDtls/Val", "price"),
    ("BalForAcct/PricDtls/QtnDt", "price_date"),
    ("BalForAcct/InstrmCcyAmts/HldgVal/Amt", "market_value"),
    ("BalForAcct/FinInstrmAttrbts/DnmtnCcy", "currency"),
    ("BalForAcct/BalBrkdwn[SETT]", "settled_units"),
    ("StmtGnlDtls/StmtDtTm", "as_at_date"),
)
_OPTIONAL = frozenset({"isin", "price", "price_date", "market_value"})


@dataclass(frozen=True, slots=True)
class SemtFormat(IsoMessageFormat):
    """semt.002.001.11, one message a portfolio. A portfolio without holdings has no records."""

    message: str = "semt.002.001.11"
    name: str = "semt_002"
    domains: tuple[str, ...] = ("account_details", "investment_holdings")
    sections: tuple[str, ...] = (SECTION,)

    @property
    def ledgers(self) -> frozenset[str]:
        """See DocumentFormat. The message has no movements."""
        return frozenset()

    @property
    def rules(self) -> tuple[FormatRule, ...]:
        """See DocumentFormat."""
        return _RULES

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """See DocumentFormat."""
        return tuple(
            DocumentColumn(path, "TEXT", ((_HOLDINGS, column),), column in _OPTIONAL) for path, column in _COLUMNS
        )

    def check_representable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """See DocumentFormat."""
        holdings, subject = frames[_HOLDINGS], "security_code"
        priced = [pl.col(name).is_not_null() for name in ("price", "price_date", "market_value")]
        too_many = pl.any_horizontal(pl.col("units", "settled_units").abs() >= _TOO_MANY_UNITS)
        wrong_price = (pl.any_horizontal(priced) & ~pl.all_horizontal(priced)) | (pl.col("price") < 0).fill_null(
            value=False
        )
        findings = [
            finding(holdings.filter(too_many), "semt_002_units", subject, "has more units than the message can carry"),
            finding(holdings.filter(wrong_price), "semt_002_price", subject, "has a price that is incomplete"),
            *text_findings("semt_002", holdings, _LENGTHS, (), subject),
        ]
        return FINDINGS.conform(pl.concat(findings).unique())

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """See DocumentFormat."""
        holdings: dict[str, list[dict[str, Any]]] = {}
        for row in frames[_HOLDINGS].sort(INVESTMENT_HOLDINGS.key).iter_rows(named=True):
            holdings.setdefault(row["portfolio_number"], []).append(row)
        for number in frames["accounts"]["portfolio_number"].sort():
            rows = holdings.get(number, ())
            account = f"{_account(number)}\n" if rows else ""
            content = account + "".join(map(_holding, rows))
            yield RenderedPortfolio(number, {SECTION: content.encode()}, self.totals_of({_HOLDINGS: rows}))

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """See DocumentFormat."""
        yield (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{self.namespace}">\n<{_REPORT}>\n'
            "<Pgntn><PgNb>1</PgNb><LastPgInd>true</LastPgInd></Pgntn>\n"
            f"<StmtGnlDtls><RptNb><Lng>{header.sequence_number:05d}</Lng></RptNb><StmtId>{header.message_id}</StmtId>"
            f"<StmtDtTm><Dt>{header.business_date.isoformat()}</Dt></StmtDtTm><Frqcy><Cd>DAIL</Cd></Frqcy>"
            "<UpdTp><Cd>COMP</Cd></UpdTp><StmtBsis><Cd>TRAD</Cd></StmtBsis>"
            f"<ActvtyInd>{_flag(bool(totals.counts))}</ActvtyInd><SubAcctInd>false</SubAcctInd></StmtGnlDtls>\n"
        ).encode()
        yield from sections.get(SECTION, ())
        yield f"</{_REPORT}>\n</Document>\n".encode()

    def header_of(self, message: etree._Element) -> dict[str, str]:
        """See IsoMessageFormat. The statement's id is the message id, which names feed and revision."""
        identity = child(message, f"{_DETAILS}/StmtId") or ""
        named = _ID.fullmatch(identity)
        return {
            "MessageId": identity,
            "BusinessDate": child(message, f"{_DETAILS}/StmtDtTm/Dt") or "",
            "SequenceNumber": (child(message, f"{_DETAILS}/RptNb/Lng") or "").lstrip("0"),
        } | (named.groupdict() if named else {})

    def records_of(self, message: etree._Element) -> Records:
        """See IsoMessageFormat."""
        number = child(message, f"{_REPORT}/SfkpgAcct/Id")
        day = child(message, f"{_DETAILS}/StmtDtTm/Dt")
        holdings = children(message, f"{_REPORT}/BalForAcct")
        if holdings and (number is None or day is None):
            raise NotAPageError("the statement names no portfolio or no date")
        common = {"portfolio_number": number, "as_at_date": _date(day)}
        return {_HOLDINGS: [common | _holding_of(holding) for holding in holdings]}

    def totals_of(self, records: Records) -> Totals:
        """See IsoMessageFormat."""
        rows: Sequence[Mapping[str, Any]] = records.get(_HOLDINGS, ())
        total = Totals({_COUNT: len(rows)} if rows else {})
        for row in rows:
            value = row["market_value"]
            sums = {} if value is None else {row["currency"]: CurrencyTotals(market_value=value)}
            total = total + Totals({}, sums, row["units"])
        return total

    def locate(self, path: Path, key: RecordKey) -> list[Place]:
        """See DocumentFormat."""
        if isinstance(key, str):
            return []
        number, exchange, code = key
        return located(path, "BalForAcct", (_ticker(code), _listing(exchange)), within=_account(number))


SEMT_002 = SemtFormat()


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _account(number: str) -> str:
    return f"<SfkpgAcct><Id>{escaped(number)}</Id></SfkpgAcct>"


def _ticker(code: str) -> str:
    return f"<OthrId><Id>{escaped(code)}</Id><Tp><Cd>TIKR</Cd></Tp></OthrId>"


def _listing(exchange: str) -> str:
    return f"<PlcOfListg><Desc>{escaped(exchange)}</Desc></PlcOfListg>"


def _units(value: Decimal) -> str:
    side = "SHOR" if value < 0 else "LONG"
    return f"<ShrtLngInd>{side}</ShrtLngInd><Qty><Qty><Qty><Unit>{abs(value):.6f}</Unit></Qty></Qty></Qty>"


def _holding(row: Mapping[str, Any]) -> str:
    currency = row["currency"]
    isin = f"<ISIN>{row['isin']}</ISIN>" if row["isin"] else ""
    price = value = ""
    if row["price"] is not None:
        amount, worth = row["price"], row["market_value"]
        price = (
            f'<PricDtls><Tp><Cd>MRKT</Cd></Tp><Val><Amt Ccy="{currency}">{amount:.6f}</Amt></Val>'
            f"<ValTp><Yldd>false</Yldd></ValTp><QtnDt><Dt>{row['price_date'].isoformat()}</Dt></QtnDt></PricDtls>"
        )
        value = (
            f'<InstrmCcyAmts><HldgVal><Amt Ccy="{currency}">{abs(worth):.2f}</Amt><Sgn>{_flag(worth >= 0)}</Sgn>'
            "</HldgVal></InstrmCcyAmts>"
        )
    return (
        f"<BalForAcct><FinInstrmId>{isin}{_ticker(row['security_code'])}<Desc>{escaped(row['security_name'])}</Desc>"
        f"</FinInstrmId><FinInstrmAttrbts>{_listing(row['exchange'])}<ClssfctnTp><AltrnClssfctn>"
        f"<Id>{escaped(row['security_type'])}</Id><Issr>{_ISSUER}</Issr></AltrnClssfctn></ClssfctnTp>"
        f"<DnmtnCcy>{currency}</DnmtnCcy></FinInstrmAttrbts><AggtBal>{_units(row['units'])}</AggtBal>{price}{value}"
        f"<BalBrkdwn><SubBalTp><Prtry><Id>{_SETTLED}</Id><Issr>{_ISSUER}</Issr></Prtry></SubBalTp>"
        f"<Qty>{_sub_balance(row['settled_units'])}</Qty></BalBrkdwn></BalForAcct>\n"
    )


def _sub_balance(value: Decimal) -> str:
    # A sub-balance has one level of Qty less than the aggregate balance.
    return _units(value).replace("<Qty><Qty><Qty>", "<Qty><Qty>").replace("</Qty></Qty></Qty>", "</Qty></Qty>")


def _date(text: str | None) -> dt.date | None:
    return dt.date.fromisoformat(text) if text else None


def _holding_of(holding: etree._Element) -> dict[str, Any]:
    settled = [
        breakdown for breakdown in children(holding, "BalBrkdwn") if child(breakdown, "SubBalTp/Prtry/Id") == _SETTLED
    ]
    units = _signed(children(holding, "AggtBal"), _UNIT)
    settled_units = _signed([quantity for one in settled for quantity in children(one, "Qty")], "Qty/Qty/Unit")
    if units is None or settled_units is None:
        raise NotAPageError(f"line {holding.sourceline}: the holding lacks its units or settled units")
    worth = child(holding, "InstrmCcyAmts/HldgVal/Amt")
    plus = child(holding, "InstrmCcyAmts/HldgVal/Sgn") in ("true", "1")
    price = child(holding, "PricDtls/Val/Amt")
    return {
        "isin": child(holding, "FinInstrmId/ISIN"),
        "security_code": child(holding, "FinInstrmId/OthrId/Id"),
        "security_name": child(holding, "FinInstrmId/Desc"),
        "exchange": child(holding, "FinInstrmAttrbts/PlcOfListg/Desc"),
        "security_type": child(holding, "FinInstrmAttrbts/ClssfctnTp/AltrnClssfctn/Id"),
        "currency": child(holding, "FinInstrmAttrbts/DnmtnCcy"),
        "units": units,
        "settled_units": settled_units,
        "price": Decimal(price) if price else None,
        "price_date": _date(child(holding, "PricDtls/QtnDt/Dt")),
        "market_value": (Decimal(worth) if plus else -Decimal(worth)) if worth else None,
    }


def _signed(balances: Sequence[etree._Element], path: str) -> Decimal | None:
    text = child(balances[0], path) if balances else None
    if text is None:
        return None
    return -Decimal(text) if child(balances[0], "ShrtLngInd") == "SHOR" else Decimal(text)
