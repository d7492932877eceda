"""Declarations of the rules that a document format imposes: the condition and the remedy.

A portfolio that violates one is held back before its document is written. A format reports a violation under a name
declared here, so that the runbook has a section for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from classfeed_dagster.errors import CodeFaultError

EPI = "EPIDataResponse"


@dataclass(frozen=True, slots=True)
class FormatRule:
    """One rule of one document format: a title, a condition that adds to it (or none) and the remedy."""

    name: str
    document_format: str
    title: str
    condition: str
    remedy: str


class UndeclaredRuleError(CodeFaultError):
    """A violation under a name that no format rule declares."""


_CORRECT = "have the value corrected."
_AGREE = "agree the value's meaning with the recipient, then extend mapping and contract."


EPI_RULES: tuple[FormatRule, ...] = (
    FormatRule(
        "missing_value",
        EPI,
        "Required elements have a value",
        "The finding names the element.",
        _CORRECT,
    ),
    FormatRule(
        "incomplete_group",
        EPI,
        "Groups of elements are complete or absent",
        "For example price and price date.",
        "have the missing value added, or the others removed.",
    ),
    FormatRule(
        "date_out_of_range",
        EPI,
        "Dates lie in the years 0001 to 9999",
        "",
        _CORRECT,
    ),
    FormatRule(
        "too_many_digits",
        EPI,
        "Numbers fit their element",
        "",
        "very likely wrong: have the figure corrected.",
    ),
    FormatRule(
        "unwritable_character",
        EPI,
        "Text has only characters of XML 1.0",
        "The finding gives code point and place.",
        "have the character removed.",
    ),
    FormatRule(
        "wrong_form",
        EPI,
        "Text matches its element's pattern",
        "For example BSB, HIN, ABN and ISIN.",
        _CORRECT,
    ),
    FormatRule(
        "unknown_value",
        EPI,
        "Coded values are in the schema's vocabulary",
        "",
        _AGREE,
    ),
    FormatRule(
        "too_long",
        EPI,
        "Text is not longer than its element",
        "",
        "have the value shortened.",
    ),
    FormatRule(
        "too_short",
        EPI,
        "Required text is not empty",
        "",
        _CORRECT,
    ),
    FormatRule(
        "two_accounts",
        EPI,
        "A portfolio has one account record",
        "",
        "have the number of one of the two portfolios corrected.",
    ),
    FormatRule(
        "no_account",
        EPI,
        "Records belong to a portfolio whose account is sent and not REMOVED",
        "",
        "compare the portfolio's rows in bigsite. If they are right, report a fault of the exporter.",
    ),
    FormatRule(
        "sum_too_long",
        EPI,
        "The portfolio's sums of units and by currency fit a control total",
        "",
        "very likely wrong: have the figure corrected.",
    ),
)
_BY_NAME = {rule.name: rule for rule in EPI_RULES}
_CSV = {
    "currency": (
        "The currency is an ISO code of three capital letters",
        "",
        _CORRECT,
    ),
    "incomplete": (
        "Required fields have a value",
        "The finding names the field.",
        _CORRECT,
    ),
    "no_balance": (
        "Cash rows have an account with a balance",
        "The balance is in the same file.",
        "ask bigsite's team to run its end of day for the account, or, if the account is to open after the date, to "
        "correct its opening date.",
    ),
}


def csv_rules(layout: str, *, balances: bool) -> tuple[FormatRule, ...]:
    """Return the rules of a CSV layout, named after it."""
    conditions = [name for name in _CSV if balances or name != "no_balance"]
    return tuple(FormatRule(csv_rule(layout, name), layout, *_CSV[name]) for name in conditions)


def csv_rule(layout: str, condition: str) -> str:
    """Return the name of a layout's rule for one of the conditions of CSV files."""
    return f"{layout}_{condition}"


def rules_of(rules: Iterable[tuple[FormatRule, ...]]) -> tuple[FormatRule, ...]:
    """Return the rules of several formats, each once, in the order of the formats."""
    return tuple(dict.fromkeys(rule for of_format in rules for rule in of_format))


def format_rule(name: str) -> FormatRule:
    """Return the rule of the XML formats called ``name``; raise UndeclaredRuleError if none is."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UndeclaredRuleError(
            f"No format rule is called {name!r}: declare it in documents/format_rules.py and run make docs"
        ) from None
