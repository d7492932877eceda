"""An independent reader of ISO 20022 semt.002 statements of holdings, from the standard's element names alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from classfeed_dagster.reconciliation.epi_document import Row, message_of
from classfeed_dagster.reconciliation.iso_message import read_message
from classfeed_dagster.reconciliation.page_contents import PageContents
from classfeed_dagster.reconciliation.records import HOLDINGS, RecordKind

_NS = "{urn:iso:std:iso:20022:tech:xsd:semt.002.001.11}"
STATED = replace(
    HOLDINGS,
    columns=tuple(column for column in HOLDINGS.columns if column[1].name not in ("hin", "cost_base")),
    state=HOLDINGS.state - {"hin"},
    origins={},
)


def read_semt_message(path: Path, key: str, contents: PageContents) -> Iterator[tuple[RecordKind, Row]]:
    """Yield each holding; the message's header is in ``contents`` afterwards."""
    tree = read_message(path, key)
    identity = tree.findtext(f".//{_NS}StmtId") or ""
    feed, _, revision, _ = ("", "", "", "", *identity.rsplit("-", 3))[-4:]
    day = tree.findtext(f".//{_NS}StmtDtTm/{_NS}Dt")
    contents.header = {
        "MessageId": identity,
        "Feed": feed,
        "BusinessDate": day or "",
        "SequenceNumber": (tree.findtext(f".//{_NS}RptNb/{_NS}Lng") or "").lstrip("0"),
        "Revision": revision.removeprefix("r"),
    }
    number = tree.findtext(f".//{_NS}SfkpgAcct/{_NS}Id")
    for holding in tree.iterfind(f".//{_NS}BalForAcct"):
        row = {"portfolio_number": number, "as_at_date": day, "page": message_of(key), "line": str(holding.sourceline)}
        row |= _stated(holding)
        contents.add(STATED, row)
        yield STATED, row


def _stated(holding: Any) -> Row:
    attributes, price = f"{_NS}FinInstrmAttrbts", f"{_NS}PricDtls"
    value = holding.find(f"{_NS}InstrmCcyAmts/{_NS}HldgVal")
    return {
        "exchange": holding.findtext(f"{attributes}/{_NS}PlcOfListg/{_NS}Desc"),
        "security_code": holding.findtext(f"{_NS}FinInstrmId/{_NS}OthrId/{_NS}Id"),
        "isin": holding.findtext(f"{_NS}FinInstrmId/{_NS}ISIN"),
        "security_name": holding.findtext(f"{_NS}FinInstrmId/{_NS}Desc"),
        "security_type": holding.findtext(f"{attributes}/{_NS}ClssfctnTp//{_NS}Id"),
        "units": _units(holding.find(f"{_NS}AggtBal")),
        "settled_units": _units(holding.find(f"{_NS}BalBrkdwn/{_NS}Qty")),
        "currency": holding.findtext(f"{attributes}/{_NS}DnmtnCcy"),
        "price": holding.findtext(f"{price}/{_NS}Val/{_NS}Amt"),
        "price_date": holding.findtext(f"{price}/{_NS}QtnDt/{_NS}Dt"),
        "market_value": None
        if value is None
        else _signed(value.findtext(f"{_NS}Amt"), value.findtext(f"{_NS}Sgn") == "false"),
    }


def _units(balance: Any) -> str | None:
    if balance is None:
        return None
    return _signed(balance.findtext(f".//{_NS}Unit"), balance.findtext(f"{_NS}ShrtLngInd") == "SHOR")


def _signed(text: str | None, negative: bool) -> str | None:
    return f"-{text}" if negative and text else text
