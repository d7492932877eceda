"""Independent readers of ISO 20022 messages, from the standard's element names alone: camt.053 and semt.002."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lxml import etree

from classfeed_dagster.reconciliation.epi_document import Row, UnreadableDeliveryError, message_of, open_document
from classfeed_dagster.reconciliation.page_contents import PageContents
from classfeed_dagster.reconciliation.records import BALANCES, HOLDINGS, MOVEMENTS, RecordKind


def _read_message(path: Path, key: str) -> Any:
    """Return the tree of a delivered message; UnreadableDeliveryError if it cannot be read to its end."""
    try:
        with open_document(path) as document:
            tree = etree.parse(document, etree.XMLParser(resolve_entities=False, no_network=True))
    except (etree.XMLSyntaxError, OSError, EOFError) as error:
        raise UnreadableDeliveryError(f"{key} can't be read to its end ({type(error).__name__})") from None
    if tree.docinfo.doctype:
        raise UnreadableDeliveryError(f"{key}: a DOCTYPE has no place in a delivered document")
    return tree


_CAMT = "{urn:iso:std:iso:20022:tech:xsd:camt.053.001.08}"
_ENTRY = (
    "transaction_id", "portfolio_number", "bsb", "account_number", "transaction_type", "transaction_date", "amount",
    "currency", "narrative", "reverses", "recorded_at",
)  # fmt: skip
ENTRIES = replace(
    MOVEMENTS,
    columns=tuple(column for column in MOVEMENTS.columns if column[1].name in _ENTRY),
    ledgers="C",
    state=frozenset({"bsb", "account_number"}),
)


def read_camt_message(path: Path, key: str, contents: PageContents) -> Iterator[tuple[RecordKind, Row]]:
    """Yield the balance and the entries of each statement; the message's header is in ``contents`` afterwards."""
    message = message_of(key)
    tree = _read_message(path, key)
    about = tree.findtext(f".//{_CAMT}GrpHdr/{_CAMT}AddtlInf") or ""
    contents.header = {"MessageId": tree.findtext(f".//{_CAMT}GrpHdr/{_CAMT}MsgId") or ""}
    contents.header |= dict(part.split("=", 1) for part in about.split(";") if "=" in part)
    for statement in tree.iterfind(f".//{_CAMT}Stmt"):
        for kind, row in _of_statement(statement):
            row["page"] = message
            if row.get("portfolio_number") is not None:
                contents.add(kind, row)
                yield kind, row


def _of_statement(statement: Any) -> Iterator[tuple[RecordKind, Row]]:
    account: Row = {
        "portfolio_number": statement.findtext(
            f"{_CAMT}Acct/{_CAMT}Ownr/{_CAMT}Id/{_CAMT}PrvtId/{_CAMT}Othr/{_CAMT}Id"
        ),
        "bsb": statement.findtext(f"{_CAMT}Acct/{_CAMT}Svcr//{_CAMT}MmbId"),
        "account_number": statement.findtext(f"{_CAMT}Acct/{_CAMT}Id/{_CAMT}Othr/{_CAMT}Id"),
        "currency": statement.findtext(f"{_CAMT}Acct/{_CAMT}Ccy"),
    }
    balances = {one.findtext(f".//{_CAMT}Cd"): one for one in statement.iterfind(f"{_CAMT}Bal")}
    yield (
        BALANCES,
        account
        | {
            "as_at_date": statement.findtext(f"{_CAMT}Bal/{_CAMT}Dt/{_CAMT}Dt"),
            "ledger_balance": _signed_amount(balances.get("CLBD")),
            "available_balance": _signed_amount(balances.get("CLAV")),
            "line": str(statement.sourceline),
        },
    )
    for entry in statement.iterfind(f"{_CAMT}Ntry"):
        references = {
            one.findtext(f"{_CAMT}Tp"): one.findtext(f"{_CAMT}Ref") for one in entry.iterfind(f".//{_CAMT}Refs//*")
        }
        row = account | {
            "transaction_id": entry.findtext(f"{_CAMT}NtryRef"),
            "transaction_type": entry.findtext(f"{_CAMT}BkTxCd/{_CAMT}Prtry/{_CAMT}Cd"),
            "transaction_date": entry.findtext(f"{_CAMT}BookgDt/{_CAMT}Dt"),
            "recorded_at": entry.findtext(f".//{_CAMT}RltdDts/{_CAMT}Prtry/{_CAMT}Dt/{_CAMT}DtTm"),
            "amount": _signed_amount(entry),
            "currency": entry.find(f"{_CAMT}Amt").get("Ccy"),
            "narrative": entry.findtext(f"{_CAMT}AddtlNtryInf"),
            "reverses": references.get("REVERSES"),
            "line": str(entry.sourceline),
        }
        yield ENTRIES, {name: row.get(name) for name in (*ENTRIES.names, "page", "line")}


def _signed_amount(element: Any) -> str | None:
    if element is None:
        return None
    amount = element.findtext(f"{_CAMT}Amt")
    debit = element.findtext(f"{_CAMT}CdtDbtInd") == "DBIT"
    return f"-{amount}" if debit and amount else amount


_SEMT = "{urn:iso:std:iso:20022:tech:xsd:semt.002.001.11}"
STATED = replace(
    HOLDINGS,
    columns=tuple(column for column in HOLDINGS.columns if column[1].name not in ("hin", "cost_base")),
    state=HOLDINGS.state - {"hin"},
    origins={},
)


def read_semt_message(path: Path, key: str, contents: PageContents) -> Iterator[tuple[RecordKind, Row]]:
    """Yield each holding; the message's header is in ``contents`` afterwards."""
    tree = _read_message(path, key)
    identity = tree.findtext(f".//{_SEMT}StmtId") or ""
    feed, _, revision, _ = ("", "", "", "", *identity.rsplit("-", 3))[-4:]
    day = tree.findtext(f".//{_SEMT}StmtDtTm/{_SEMT}Dt")
    contents.header = {
        "MessageId": identity,
        "Feed": feed,
        "BusinessDate": day or "",
        "SequenceNumber": (tree.findtext(f".//{_SEMT}RptNb/{_SEMT}Lng") or "").lstrip("0"),
        "Revision": revision.removeprefix("r"),
    }
    number = tree.findtext(f".//{_SEMT}SfkpgAcct/{_SEMT}Id")
    for holding in tree.iterfind(f".//{_SEMT}BalForAcct"):
        row = {"portfolio_number": number, "as_at_date": day, "page": message_of(key), "line": str(holding.sourceline)}
        row |= _stated(holding)
        contents.add(STATED, row)
        yield STATED, row


def _stated(holding: Any) -> Row:
    attributes, price = f"{_SEMT}FinInstrmAttrbts", f"{_SEMT}PricDtls"
    value = holding.find(f"{_SEMT}InstrmCcyAmts/{_SEMT}HldgVal")
    return {
        "exchange": holding.findtext(f"{attributes}/{_SEMT}PlcOfListg/{_SEMT}Desc"),
        "security_code": holding.findtext(f"{_SEMT}FinInstrmId/{_SEMT}OthrId/{_SEMT}Id"),
        "isin": holding.findtext(f"{_SEMT}FinInstrmId/{_SEMT}ISIN"),
        "security_name": holding.findtext(f"{_SEMT}FinInstrmId/{_SEMT}Desc"),
        "security_type": holding.findtext(f"{attributes}/{_SEMT}ClssfctnTp//{_SEMT}Id"),
        "units": _units(holding.find(f"{_SEMT}AggtBal")),
        "settled_units": _units(holding.find(f"{_SEMT}BalBrkdwn/{_SEMT}Qty")),
        "currency": holding.findtext(f"{attributes}/{_SEMT}DnmtnCcy"),
        "price": holding.findtext(f"{price}/{_SEMT}Val/{_SEMT}Amt"),
        "price_date": holding.findtext(f"{price}/{_SEMT}QtnDt/{_SEMT}Dt"),
        "market_value": None
        if value is None
        else _signed(value.findtext(f"{_SEMT}Amt"), value.findtext(f"{_SEMT}Sgn") == "false"),
    }


def _units(balance: Any) -> str | None:
    if balance is None:
        return None
    return _signed(balance.findtext(f".//{_SEMT}Unit"), balance.findtext(f"{_SEMT}ShrtLngInd") == "SHOR")


def _signed(text: str | None, negative: bool) -> str | None:
    return f"-{text}" if negative and text else text
