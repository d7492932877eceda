"""Shared base of ISO 20022 messages: the published schema, one message a portfolio, text, reading and locating."""

from __future__ import annotations

import gzip
import hashlib
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from lxml import etree

from classfeed_dagster.documents import xsd
from classfeed_dagster.documents.document_format import (
    DocumentFormat,
    KnownRecords,
    PageInspection,
    PageRule,
    Place,
    Totals,
)
from classfeed_dagster.documents.epi_value_checks import NOT_XML
from classfeed_dagster.documents.format_rules import FormatRule
from classfeed_dagster.documents.locate import NotAPageError
from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, INVESTMENT_HOLDINGS, MOVEMENT_TRANSACTIONS

CORRECT = "correct the value in bigsite and take a fresh snapshot of the date."
_FRAMES = {frame.name: frame for frame in (ACCOUNT_BALANCES, INVESTMENT_HOLDINGS, MOVEMENT_TRANSACTIONS)}

Records = Mapping[str, Sequence[Mapping[str, Any]]]  # a message's rows by the name of their frame


def schema_of(message: str) -> etree.XMLSchema:
    """Return the standard's published schema of a message, for example ``camt.053.001.08``."""
    return xsd.compiled(f"{message.replace('.', '_')}.xsd")


@dataclass(frozen=True, slots=True)
class IsoMessageFormat(DocumentFormat):
    """ISO 20022 messages, one a portfolio, without control totals. A portfolio without records has no bytes.

    ``message`` names the message with its version, and so its namespace and schema. Each record is one line.
    """

    message: str
    extension: str = ".xml"

    @property
    def namespace(self) -> str:
        """Return the namespace of the message's elements."""
        return f"urn:iso:std:iso:20022:tech:xsd:{self.message}"

    @property
    def page_rule(self) -> PageRule:
        """See DocumentFormat."""
        return PageRule.BY_PORTFOLIO

    @property
    def states_totals(self) -> bool:
        """See DocumentFormat. The amounts are the source's; the message has no totals."""
        return False

    @property
    def longest_id(self) -> int:
        """See DocumentFormat. The standard's identifications are Max35Text."""
        return 35

    @abstractmethod
    def header_of(self, message: etree._Element) -> dict[str, str]:
        """Return the header's values as the manifest names them."""

    @abstractmethod
    def records_of(self, message: etree._Element) -> Records:
        """Return the rows of a valid message; NotAPageError if it lacks what this project always writes."""

    @abstractmethod
    def totals_of(self, records: Records) -> Totals:
        """Return the totals of rows, as ``render`` states them."""

    def inspect_page(self, chunks: Iterable[bytes], known: KnownRecords | None = None) -> PageInspection:
        """See DocumentFormat. The message is one portfolio's, so that it is validated whole."""
        content = b"".join(chunks)
        errors: tuple[str, ...] = ()
        header: dict[str, str] = {}
        records: Records = {}
        try:
            message = _parse(content, self.message)
            header = self.header_of(message)
            records = self.records_of(message)
        except NotAPageError as error:
            errors = (str(error),)
        numbers = frozenset(row["portfolio_number"] for rows in records.values() for row in rows)
        return PageInspection(
            errors=errors,
            header=header,
            portfolios=dict.fromkeys(self.sections, numbers),
            removed=frozenset(),
            totals=self.totals_of(records),
            stated=None,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            states_totals=False,
        )

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """See DocumentFormat."""
        records = self.records_of(_parse(_content(path), self.message))
        return {name: _frame(name, rows) for name, rows in records.items()}


def text_and_currency_rules(name: str, document: str) -> tuple[FormatRule, FormatRule]:
    """Return the rules of texts and currencies that every message has, ``<name>_text`` and ``<name>_currency``."""
    return (
        FormatRule(
            f"{name}_text",
            document,
            "Text fits its element",
            "Text has only characters of XML 1.0, is not longer than its element and is not empty where it is "
            "required.",
            CORRECT,
        ),
        FormatRule(
            f"{name}_currency",
            document,
            "The currency is an ISO code",
            "The currency of each record is three capital letters.",
            CORRECT,
        ),
    )


def text_findings(
    name: str, rows: pl.DataFrame, lengths: Mapping[str, int], optional: Collection[str], subject: str
) -> list[pl.DataFrame]:
    """Return the findings of ``text_and_currency_rules`` in ``rows``. Columns in ``optional`` may be empty."""
    currency = pl.col("currency").str.contains("^[A-Z]{3}$").fill_null(value=False)
    findings = [finding(rows.filter(~currency), f"{name}_currency", subject, "has no ISO currency")]
    for column, longest in lengths.items():
        if column in rows.columns:
            detail = f"has a {column} that the message cannot carry"
            broken = rows.filter(_broken(column, longest, optional=column in optional))
            findings.append(finding(broken, f"{name}_text", subject, detail))
    return findings


def finding(rows: pl.DataFrame, rule: str, subject: str, detail: str) -> pl.DataFrame:
    """Return a FINDINGS row for each of ``rows``. ``subject`` is the column that names the record, or empty."""
    named = pl.col(subject) if subject else pl.lit("")
    return rows.select(
        "portfolio_number",
        pl.lit(rule).alias("rule"),
        pl.lit("QUARANTINE").alias("severity"),
        named.alias("subject"),
        (pl.concat_str(pl.lit("the record "), named) + pl.lit(f" {detail}")).alias("detail"),
    )


def escaped(text: str) -> str:
    """Return ``text`` as an element's content on one line."""
    for character, reference in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\r", "&#13;"), ("\n", "&#10;")):
        text = text.replace(character, reference)
    return text


def child(element: etree._Element, path: str) -> str | None:
    """Return the text at a path of names in the element's namespace; None without one."""
    return element.findtext(_qualified(element, path)) or None


def children(element: etree._Element, path: str) -> list[etree._Element]:
    """Return the elements at a path of names in the element's namespace."""
    return element.findall(_qualified(element, path))


def located(path: Path, element: str, needles: Sequence[str], within: str = "") -> list[Place]:
    """Return each record's line that has every needle; none if the message lacks ``within``.

    Markup can be searched as bytes: in texts ``<`` is a reference.
    """
    content = _content(path)
    places, offset = [], 0
    for at, line in enumerate(content.splitlines(keepends=True) if within.encode() in content else (), 1):
        if line.startswith(f"<{element}>".encode()) and all(needle.encode() in line for needle in needles):
            places.append(Place(element, at, offset, len(line) - 1))
        offset += len(line)
    return places


def _broken(column: str, longest: int, *, optional: bool) -> pl.Expr:
    text = pl.col(column)
    broken = text.str.contains(NOT_XML) | (text.str.len_chars() > longest)
    return broken.fill_null(value=False) if optional else (broken | (text == "")).fill_null(value=True)


def _frame(name: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    frame = _FRAMES[name]
    return frame.conform(pl.DataFrame([{key: row.get(key) for key in frame.schema} for row in rows], frame.schema))


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _parse(content: bytes, message: str) -> etree._Element:
    if b"<!DOCTYPE" in content:
        raise NotAPageError("a DOCTYPE has no place in a message")
    try:
        root = etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False))
    except etree.XMLSyntaxError as error:
        raise NotAPageError(f"line {error.lineno} is not well-formed XML") from None
    schema = schema_of(message)
    if not schema.validate(root):
        # libxml2's message contains the value, which may be personal. Line and kind are enough.
        lines = sorted({f"line {one.line} ({one.type_name})" for one in schema.error_log})  # type: ignore[attr-defined, unused-ignore]
        raise NotAPageError(f"not valid by {message}: {', '.join(lines[:3]) or 'see its schema'}")
    return root


def _qualified(element: etree._Element, path: str) -> str:
    namespace = etree.QName(element).namespace
    return "/".join(f"{{{namespace}}}{name}" for name in path.split("/"))
