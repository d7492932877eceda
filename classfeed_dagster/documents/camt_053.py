"""ISO 20022 camt.053.001.08 (BankToCustomerStatement): one message a portfolio, one statement a cash account.

The standard's published schema, ``camt_053_001_08.xsd``, judges every message that is written. A statement holds the
closing booked and available balances and the entries of the date's window. The standard demands a statement in every
message: a message that has nothing to state has one for the account ``NOTPROVIDED``, whose balance is zero.
"""

from __future__ import annotations

import datetime as dt
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
from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, FINDINGS, MOVEMENT_TRANSACTIONS
from classfeed_dagster.trading_days import instant_text

SECTION = "Stmt"
_NOTHING = "NOTPROVIDED"  # the standard's word for an identification that there is none of
_BALANCES, _MOVEMENTS = "AccountBalances", "MovementTransactions"
_HEADER = ("Feed", "BusinessDate", "SequenceNumber", "Revision")
_CASH = pl.col("transaction_id").str.contains("^(?:C|OC-)")
_ACCOUNT = ("portfolio_number", "account_number", "currency")
_LENGTHS = {"account_number": 34, "bsb": 35, "transaction_id": 35, "transaction_type": 35, "narrative": 500}
_RULES = (
    *text_and_currency_rules("camt_053", "camt.053"),
    FormatRule(
        "camt_053_no_statement",
        "camt.053",
        "Entries belong to an account with a balance",
        "Each entry is on a cash account whose balance is stated.",
        "ask bigsite's team to run its end of day for the account, and take a fresh snapshot of the date.",
    ),
)
_COLUMNS = (
    ("Acct/Id", "account_balances", "account_number"),
    ("Acct/Ccy", "account_balances", "currency"),
    ("Acct/Ownr", "account_balances", "portfolio_number"),
    ("Acct/Svcr", "account_balances", "bsb"),
    ("Bal[CLBD]", "account_balances", "ledger_balance"),
    ("Bal[CLAV]", "account_balances", "available_balance"),
    ("Bal/Dt", "account_balances", "as_at_date"),
    ("Ntry/NtryRef", "movement_transactions", "transaction_id"),
    ("Ntry/Amt", "movement_transactions", "amount"),
    ("Ntry/Amt/@Ccy", "movement_transactions", "currency"),
    ("Ntry/BookgDt", "movement_transactions", "transaction_date"),
    ("Ntry/BkTxCd", "movement_transactions", "transaction_type"),
    ("Ntry/NtryDtls/Refs[REVERSES]", "movement_transactions", "reverses"),
    ("Ntry/NtryDtls/RltdDts[RECORDED_AT]", "movement_transactions", "recorded_at"),
    ("Ntry/AddtlNtryInf", "movement_transactions", "narrative"),
)
_RECORDED = "RECORDED_AT"
_OPTIONAL = frozenset({"bsb", "reverses", "narrative"})


@dataclass(frozen=True, slots=True)
class CamtFormat(IsoMessageFormat):
    """camt.053.001.08, one message a portfolio. A portfolio without cash accounts has no records."""

    message: str = "camt.053.001.08"
    name: str = "camt_053"
    domains: tuple[str, ...] = ("account_details", "account_balances", "movement_transactions")
    sections: tuple[str, ...] = (SECTION,)

    @property
    def ledgers(self) -> frozenset[str]:
        """See DocumentFormat."""
        return frozenset("C")

    @property
    def rules(self) -> tuple[FormatRule, ...]:
        """See DocumentFormat."""
        return _RULES

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """See DocumentFormat."""
        rows = ("cash_transaction", "opening_cash")
        return tuple(
            DocumentColumn(f"Stmt/{path}", "TEXT", ((frame, column),), column in _OPTIONAL, rows)
            for path, frame, column in _COLUMNS
        )

    def check_representable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """See DocumentFormat."""
        entries, balances = frames["movement_transactions"].filter(_CASH), frames["account_balances"]
        stray = entries.join(balances, on=list(_ACCOUNT), how="anti")
        findings = [
            finding(stray, "camt_053_no_statement", "transaction_id", "has no account balance"),
            *text_findings("camt_053", entries, _LENGTHS, _OPTIONAL, "transaction_id"),
            *text_findings("camt_053", balances, _LENGTHS, _OPTIONAL, ""),
        ]
        return FINDINGS.conform(pl.concat(findings).unique())

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """See DocumentFormat."""
        entries = _by_account(
            frames["movement_transactions"].filter(_CASH).sort("transaction_date", "recorded_at", "transaction_id")
        )
        statements: dict[str, list[dict[str, Any]]] = {}
        for balance in frames["account_balances"].sort(_ACCOUNT).iter_rows(named=True):
            statements.setdefault(balance["portfolio_number"], []).append(balance)
        for number in frames["accounts"]["portfolio_number"].sort():
            content, totals = b"", Totals()
            for at, balance in enumerate(statements.get(number, ()), 1):
                rows = entries.get(_account_of(balance), ())
                content += "".join(_statement(balance, rows, at)).encode()
                totals = totals + _totals_of([balance], rows)
            yield RenderedPortfolio(number, {SECTION: content}, totals)

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """See DocumentFormat."""
        values = (header.feed, header.business_date.isoformat(), header.sequence_number, header.revision)
        about = ";".join(f"{name}={value}" for name, value in zip(_HEADER, values, strict=True))
        yield (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{self.namespace}">\n<BkToCstmrStmt>\n'
            f"<GrpHdr><MsgId>{header.message_id}</MsgId><CreDtTm>{instant_text(header.snapshot_at)}</CreDtTm>"
            f"<MsgPgntn><PgNb>1</PgNb><LastPgInd>true</LastPgInd></MsgPgntn><AddtlInf>{about}</AddtlInf></GrpHdr>\n"
        ).encode()
        if totals.counts:
            yield from sections.get(SECTION, ())
        else:
            yield "".join(_nothing(header.business_date)).encode()
        yield b"</BkToCstmrStmt>\n</Document>\n"

    def header_of(self, message: etree._Element) -> dict[str, str]:
        """See IsoMessageFormat."""
        about = child(message, "BkToCstmrStmt/GrpHdr/AddtlInf") or ""
        parts = [part.partition("=") for part in about.split(";")]
        return {"MessageId": child(message, "BkToCstmrStmt/GrpHdr/MsgId") or ""} | {
            name: value for name, _, value in parts if name in _HEADER
        }

    def records_of(self, message: etree._Element) -> Records:
        """See IsoMessageFormat."""
        balances, entries = _records_of(message)
        return {ACCOUNT_BALANCES.name: balances, MOVEMENT_TRANSACTIONS.name: entries}

    def totals_of(self, records: Records) -> Totals:
        """See IsoMessageFormat."""
        return _totals_of(records.get(ACCOUNT_BALANCES.name, ()), records.get(MOVEMENT_TRANSACTIONS.name, ()))

    def locate(self, path: Path, key: RecordKey) -> list[Place]:
        """See DocumentFormat."""
        return located(path, "Ntry", [f"<NtryRef>{escaped(key)}</NtryRef>"]) if isinstance(key, str) else []


CAMT_053 = CamtFormat()


def _account_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in _ACCOUNT)


def _by_account(entries: pl.DataFrame) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in entries.iter_rows(named=True):
        grouped.setdefault(_account_of(row), []).append(row)
    return grouped


def _totals_of(balances: Sequence[Mapping[str, Any]], entries: Iterable[Mapping[str, Any]]) -> Totals:
    total = Totals({_BALANCES: len(balances)} if balances else {})
    for balance in balances:
        total = total + Totals({}, {balance["currency"]: CurrencyTotals(ledger_balance=balance["ledger_balance"])})
    for entry in entries:
        amount = entry["amount"]
        sums = CurrencyTotals(cash_credits=amount) if amount > 0 else CurrencyTotals(cash_debits=amount)
        total = total + Totals({_MOVEMENTS: 1}, {entry["currency"]: sums})
    return total


def _amount(value: Decimal, currency: str) -> str:
    side = "DBIT" if value < 0 else "CRDT"
    return f'<Amt Ccy="{currency}">{abs(value):.2f}</Amt><CdtDbtInd>{side}</CdtDbtInd>'


def _balance(code: str, value: Decimal, currency: str, day: dt.date) -> str:
    return (
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{_amount(value, currency)}"
        f"<Dt><Dt>{day.isoformat()}</Dt></Dt></Bal>\n"
    )


def _statement(balance: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], at: int) -> Iterator[str]:
    number, currency, day = balance["portfolio_number"], balance["currency"], balance["as_at_date"]
    bank = ""
    if balance["bsb"]:
        member = f"<ClrSysId><Cd>AUBSB</Cd></ClrSysId><MmbId>{escaped(balance['bsb'])}</MmbId>"
        bank = f"<Svcr><FinInstnId><ClrSysMmbId>{member}</ClrSysMmbId></FinInstnId></Svcr>"
    yield (
        f"<Stmt><Id>{escaped(number)}-{day:%Y%m%d}-{at}</Id>"
        f"<Acct><Id><Othr><Id>{escaped(balance['account_number'])}</Id></Othr></Id><Ccy>{currency}</Ccy>"
        f"<Ownr><Id><PrvtId><Othr><Id>{escaped(number)}</Id></Othr></PrvtId></Id></Ownr>{bank}</Acct>\n"
    )
    yield _balance("CLBD", balance["ledger_balance"], currency, day)
    yield _balance("CLAV", balance["available_balance"], currency, day)
    yield from map(_entry, entries)
    yield "</Stmt>\n"


def _entry(row: Mapping[str, Any]) -> str:
    # A trade or an income that caused the row is never sent in these messages, so that nothing names it.
    undone = row["reverses"]
    references = f"<Refs><Prtry><Tp>REVERSES</Tp><Ref>{escaped(undone)}</Ref></Prtry></Refs>" if undone else ""
    return (
        f"<Ntry><NtryRef>{escaped(row['transaction_id'])}</NtryRef>{_amount(row['amount'], row['currency'])}"
        + ("<RvslInd>true</RvslInd>" if undone else "")
        + f"<Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>{row['transaction_date'].isoformat()}</Dt></BookgDt>"
        f"<BkTxCd><Prtry><Cd>{escaped(row['transaction_type'])}</Cd></Prtry></BkTxCd>"
        f"<NtryDtls><TxDtls>{references}<RltdDts><Prtry><Tp>{_RECORDED}</Tp><Dt><DtTm>{instant_text(row['recorded_at'])}</DtTm></Dt></Prtry>"
        "</RltdDts></TxDtls></NtryDtls>"
        + (f"<AddtlNtryInf>{escaped(row['narrative'])}</AddtlNtryInf>" if row["narrative"] else "")
        + "</Ntry>\n"
    )


def _nothing(day: dt.date) -> Iterator[str]:
    yield f"<Stmt><Id>{_NOTHING}</Id><Acct><Id><Othr><Id>{_NOTHING}</Id></Othr></Id></Acct>\n"
    yield _balance("CLBD", Decimal(0), "AUD", day)
    yield "</Stmt>\n"


def _signed(element: etree._Element) -> Decimal:
    amount = Decimal(child(element, "Amt") or "NaN")
    return -amount if child(element, "CdtDbtInd") == "DBIT" else amount


def _records_of(message: etree._Element) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the balances and the entries of a valid message."""
    balances: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for statement in children(message, "BkToCstmrStmt/Stmt"):
        number = child(statement, "Acct/Ownr/Id/PrvtId/Othr/Id")
        if number is None:
            if child(statement, "Acct/Id/Othr/Id") != _NOTHING:
                raise NotAPageError(f"line {statement.sourceline}: the statement names no portfolio")
            continue
        account: dict[str, Any] = {
            "portfolio_number": number,
            "bsb": child(statement, "Acct/Svcr/FinInstnId/ClrSysMmbId/MmbId"),
            "account_number": child(statement, "Acct/Id/Othr/Id"),
            "currency": child(statement, "Acct/Ccy"),
        }
        stated = {child(balance, "Tp/CdOrPrtry/Cd"): balance for balance in children(statement, "Bal")}
        if stated.keys() != {"CLBD", "CLAV"}:
            raise NotAPageError(f"line {statement.sourceline}: the statement lacks a balance")
        balances.append(
            account
            | {
                "as_at_date": dt.date.fromisoformat(child(stated["CLBD"], "Dt/Dt") or ""),
                "ledger_balance": _signed(stated["CLBD"]),
                "available_balance": _signed(stated["CLAV"]),
            }
        )
        entries += [account | _entry_of(entry) for entry in children(statement, "Ntry")]
    return balances, entries


def _entry_of(entry: etree._Element) -> dict[str, Any]:
    references = {child(one, "Tp"): child(one, "Ref") for one in children(entry, "NtryDtls/TxDtls/Refs/Prtry")}
    (amount,) = children(entry, "Amt")
    recorded = child(entry, "NtryDtls/TxDtls/RltdDts/Prtry/Dt/DtTm")
    if recorded is None:
        raise NotAPageError(f"line {entry.sourceline}: the entry has no {_RECORDED}")
    return {
        "transaction_id": child(entry, "NtryRef"),
        "transaction_type": child(entry, "BkTxCd/Prtry/Cd"),
        "transaction_date": dt.date.fromisoformat(child(entry, "BookgDt/Dt") or ""),
        "recorded_at": dt.datetime.fromisoformat(recorded),
        "amount": _signed(entry),
        "currency": amount.get("Ccy"),
        "reverses": references.get("REVERSES"),
        "narrative": child(entry, "AddtlNtryInf"),
    }
