"""An independent reader of ISO 20022 camt.053 statements, from the standard's element names alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from classfeed_dagster.reconciliation.epi_document import Row, message_of
from classfeed_dagster.reconciliation.iso_message import read_message
from classfeed_dagster.reconciliation.page_contents import PageContents
from classfeed_dagster.reconciliation.records import BALANCES, MOVEMENTS, RecordKind

_NS = "{urn:iso:std:iso:20022:tech:xsd:camt.053.001.08}"
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
    tree = read_message(path, key)
    about = tree.findtext(f".//{_NS}GrpHdr/{_NS}AddtlInf") or ""
    contents.header = {"MessageId": tree.findtext(f".//{_NS}GrpHdr/{_NS}MsgId") or ""}
    contents.header |= dict(part.split("=", 1) for part in about.split(";") if "=" in part)
    for statement in tree.iterfind(f".//{_NS}Stmt"):
        for kind, row in _of_statement(statement):
            row["page"] = message
            if row.get("portfolio_number") is not None:
                contents.add(kind, row)
                yield kind, row


def _of_statement(statement: Any) -> Iterator[tuple[RecordKind, Row]]:
    account: Row = {
        "portfolio_number": statement.findtext(f"{_NS}Acct/{_NS}Ownr/{_NS}Id/{_NS}PrvtId/{_NS}Othr/{_NS}Id"),
        "bsb": statement.findtext(f"{_NS}Acct/{_NS}Svcr//{_NS}MmbId"),
        "account_number": statement.findtext(f"{_NS}Acct/{_NS}Id/{_NS}Othr/{_NS}Id"),
        "currency": statement.findtext(f"{_NS}Acct/{_NS}Ccy"),
    }
    balances = {one.findtext(f".//{_NS}Cd"): one for one in statement.iterfind(f"{_NS}Bal")}
    yield (
        BALANCES,
        account
        | {
            "as_at_date": statement.findtext(f"{_NS}Bal/{_NS}Dt/{_NS}Dt"),
            "ledger_balance": _signed(balances.get("CLBD")),
            "available_balance": _signed(balances.get("CLAV")),
            "line": str(statement.sourceline),
        },
    )
    for entry in statement.iterfind(f"{_NS}Ntry"):
        references = {one.findtext(f"{_NS}Tp"): one.findtext(f"{_NS}Ref") for one in entry.iterfind(f".//{_NS}Refs//*")}
        row = account | {
            "transaction_id": entry.findtext(f"{_NS}NtryRef"),
            "transaction_type": entry.findtext(f"{_NS}BkTxCd/{_NS}Prtry/{_NS}Cd"),
            "transaction_date": entry.findtext(f"{_NS}BookgDt/{_NS}Dt"),
            "recorded_at": entry.findtext(f".//{_NS}RltdDts/{_NS}Prtry/{_NS}Dt/{_NS}DtTm"),
            "amount": _signed(entry),
            "currency": entry.find(f"{_NS}Amt").get("Ccy"),
            "narrative": entry.findtext(f"{_NS}AddtlNtryInf"),
            "reverses": references.get("REVERSES"),
            "line": str(entry.sourceline),
        }
        yield ENTRIES, {name: row.get(name) for name in (*ENTRIES.names, "page", "line")}


def _signed(element: Any) -> str | None:
    if element is None:
        return None
    amount = element.findtext(f"{_NS}Amt")
    debit = element.findtext(f"{_NS}CdtDbtInd") == "DBIT"
    return f"-{amount}" if debit and amount else amount
