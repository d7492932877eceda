"""Independent reader of the class trade and class cash files, from their published layout.

Nothing comes from the exporter's mapping. A line is ``H``, ``D``, ``B`` or ``T`` with its fields. An apostrophe
precedes text that a spreadsheet would run as a formula.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from classfeed_dagster.reconciliation.epi_document import Row, UnreadableDeliveryError, open_document
from classfeed_dagster.reconciliation.page_contents import CSV_DETAILS, PageContents
from classfeed_dagster.reconciliation.records import BALANCES, MOVEMENTS, RecordKind
from classfeed_dagster.reconciliation.rules import Field

_HEADER = ("Feed", "BusinessDate", "SequenceNumber", "Revision", "SnapshotAt")
_GUARDED = re.compile("^'+(?:[ \u00a0\u000b\u000c]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[ \u00a0\u000b\u000c]*[\t\r\n])")
_TRADE_LINE = (
    "trade_id", "portfolio_number", "hin", "confirmation_number", "transaction_type", "exchange", "security_code",
    "isin", "transaction_date", "settlement_date", "units", "price", "consideration", "brokerage", "gst", "other_fees",
    "net_amount", "currency", "reverses", "recorded_at",
)  # fmt: skip
_CASH_LINE = (
    "cash_transaction_id", "portfolio_number", "bsb", "account_number", "transaction_type", "transaction_date",
    "amount", "currency", "narrative", "trade_id", "income_id", "reverses", "recorded_at",
)  # fmt: skip
_BALANCE_LINE = (
    "portfolio_number", "bsb", "account_number", "currency", "as_at_date", "ledger_balance", "available_balance",
)  # fmt: skip


def _subset(names: Sequence[str], *extra: Field) -> RecordKind:
    columns = tuple(column for column in MOVEMENTS.columns if column[1].name in names)
    return replace(MOVEMENTS, columns=(*columns, *(("", field) for field in extra)))


TRADES = replace(
    _subset((*_TRADE_LINE, "transaction_id"), Field("hin", personal=True)),
    ledgers="T",
    state=frozenset({"exchange", "security_code", "isin", "hin"}),
    origins={"hin": "portfolio_updated_at"},
)
CASH = replace(
    _subset((*_CASH_LINE, "transaction_id", "relates_to")),
    ledgers="C",
    state=frozenset({"bsb", "account_number"}),
)


def read_trade_file(path: Path, key: str, contents: PageContents) -> Iterator[tuple[RecordKind, Row]]:
    """Yield every contract note of a class trade file."""
    for line, letter, fields in _lines(path, key, contents):
        row = _named(_TRADE_LINE, fields, key, line, letter == "D")
        row["transaction_id"] = f"T{row.pop('trade_id')}"
        row["reverses"] = f"T{row['reverses']}" if row["reverses"] else None
        if row["transaction_type"] == "SELL" and row["units"]:
            row["units"] = _negative(row["units"])
        contents.add(TRADES, row)
        yield TRADES, {name: row.get(name) for name in (*TRADES.names, "page", "line")}


def read_cash_file(path: Path, key: str, contents: PageContents) -> Iterator[tuple[RecordKind, Row]]:
    """Yield every movement and every balance of a class cash file."""
    for line, letter, fields in _lines(path, key, contents):
        if letter == "B":
            balance = _named(_BALANCE_LINE, fields, key, line, known=True)
            contents.add(BALANCES, balance)
            yield BALANCES, balance
            continue
        row = _named(_CASH_LINE, fields, key, line, letter == "D")
        name = row.pop("cash_transaction_id") or ""
        opening = name.startswith("OC-")
        row["transaction_id"] = name if opening else f"C{name}"
        row["transaction_type"] = row["transaction_type"] if opening else f"CASH_{row['transaction_type']}"
        trade, income = row.pop("trade_id"), row.pop("income_id")
        row["relates_to"] = f"T{trade}" if trade else f"I{income}" if income else None
        row["reverses"] = f"C{row['reverses']}" if row["reverses"] else None
        contents.add(CASH, row)
        yield CASH, {name: row.get(name) for name in (*CASH.names, "page", "line")}


def headed_kind(names: Sequence[str], ledgers: str) -> RecordKind:
    """Return the kind of record in a file of movements with these fields."""
    kind = _subset(names)
    return replace(kind, ledgers=ledgers, state=MOVEMENTS.state.intersection(names))


def read_headed_file(
    kind: RecordKind, columns: Mapping[str, str], path: Path, key: str, contents: PageContents
) -> Iterator[tuple[RecordKind, Row]]:
    """Yield every movement of a CSV file whose first line has the headings of ``columns``."""
    names = tuple(columns.values())
    try:
        with open_document(path) as document, io.TextIOWrapper(document, encoding="utf-8", newline="") as text:
            lines = csv.reader(text, strict=True)
            if next(lines, []) != list(columns):
                raise UnreadableDeliveryError(f"{key}: its first line is not the heading line")
            for fields in lines:
                row = _named(names, fields, key, lines.line_num, known=True)
                contents.add(kind, row)
                yield kind, {name: row.get(name) for name in (*kind.names, "page", "line")}
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableDeliveryError(f"{key} can't be read to its end ({type(error).__name__})") from None


def _negative(text: str) -> str:
    return text[1:] if text.startswith("-") else f"-{text}"


def _named(names: Sequence[str], fields: Sequence[str], key: str, line: int, known: bool) -> Row:
    if not known or len(fields) != len(names):
        raise UnreadableDeliveryError(f"{key}, line {line}: {len(fields)} fields, expected {len(names)}")
    row: Row = {
        name: (value[1:] if _GUARDED.match(value) else value) or None for name, value in zip(names, fields, strict=True)
    }
    return row | {"page": Path(key).name, "line": str(line)}


def _lines(path: Path, key: str, contents: PageContents) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line, letter and fields of the lines between the first and the last."""
    trailer = False
    try:
        with open_document(path) as document, io.TextIOWrapper(document, encoding="utf-8", newline="") as text:
            lines = csv.reader(text, strict=True)
            first = next(lines, [])
            if len(first) != len(_HEADER) + 1 or first[0] != "H":
                raise UnreadableDeliveryError(f"{key}: its first line is not a header")
            contents.header = dict(zip(_HEADER, first[1:], strict=True))
            for fields in lines:
                if trailer or not fields:
                    raise UnreadableDeliveryError(f"{key}, line {lines.line_num}: empty, or after the trailer")
                if fields[0] == "T":
                    trailer = True
                    contents.stated = _stated(fields, key, contents)
                else:
                    yield lines.line_num, fields[0], fields[1:]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableDeliveryError(f"{key} cannot be read to its end ({type(error).__name__})") from None
    if not trailer:
        raise UnreadableDeliveryError(f"{key} cannot be read to its end: the trailer is missing")


def _stated(fields: Sequence[str], key: str, contents: PageContents) -> dict[str, Decimal]:
    name = "cash_amount" if "amount" in contents.sums else "net_amount"
    try:
        _, count, control = fields
        parts = [part.split(":") for part in control.split("|")] if control else []
        return {CSV_DETAILS: Decimal(count)} | {f"{currency} {name}": Decimal(total) for currency, total in parts}
    except (ValueError, ArithmeticError):
        raise UnreadableDeliveryError(f"{key}: its last line is not a trailer") from None
