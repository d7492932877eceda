"""Identifiers of persons in free text: tax file numbers, payment card numbers and e-mail addresses.

One rule for the exporter, which masks them, and for reconciliation, which expects them masked. Numbers need valid
check digits, or the words that name them. A match is a kind and a position; a value never leaves this module.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import polars as pl
from stdnum import luhn
from stdnum.au import abn, tfn

MASK = "*"
_EMAIL_MASK = MASK * 3
_SEVERAL_DIGITS = 8  # the shortest identifier

_EMAIL = re.compile(r"[\w.%+'-]+@[\w-]+(?:\.[\w-]+)+")
# Nine digits (eight in old numbers), plain or in groups; part of no longer number or amount.
_TFN = re.compile(
    r"(?<![\d@*])(?<!\d[.,/-])"
    r"(?:(?:\d{9}|\d{8})(?![\d@*]|[.,/-]\d)"
    r"|(?<!\d{3}[ ])(?:\d{3}([ .-]|[ ]{2})\d{3}\1\d{3}|\d{2}([ .-])\d{3}\2\d{3})(?![\d@*]|[.,/-]\d|[ ]\d{3}(?!\d)))"
)
# Three or four groups of another size with one separator, and no number next to them.
_GROUPED_TFN = re.compile(r"(?<![\d@*])(?<!\d[ .,/-])\d{2,4}([ .-])\d{2,4}(?:\1\d{2,4}){1,2}(?![\d@*]|[ .,/-]\d)")
_DATE_AND_NUMBER = re.compile(
    r"(?:\d{3}\D)?(?:0[1-9]|[12]\d|3[01])\D(?:0[1-9]|1[0-2])\D\d{2}(?:\D\d{3})?"
    r"|(?:\d{3}\D)?\d{2}\D(?:0[1-9]|1[0-2])\D(?:0[1-9]|[12]\d|3[01])(?:\D\d{3})?"
)
_TWO_TFNS = re.compile(r"(?<![\d@*])(\d{9})[/,-](\d{9})(?![\d@*]|[.,/-]\d)")
# Directly after the word that names it, however it is divided.
_CALLED_TFN = re.compile(
    r"(?<![^\W_])(?:T\.?F\.?N|tax[ -]*file)(?:\W|no|number)*(\d(?:[ ./-]?\d){7,8})(?![\d@*]|[ ./-]?\d)", re.IGNORECASE
)
_NAMED_TFN = re.compile(r"\b(?:T\.?F\.?N|tax[ -]*file)\W*(?:no|nos|num|number|nr)?\W*$", re.IGNORECASE)
# Letters directly at nine plain digits that make a code of them: up to three (but not a bank's CR and DR), or letters
# beyond which there is another digit. Longer words, such as a name, do not.
_CODE_BEFORE = re.compile(r"(?:\d[^\W\d_]+|(?<!\w)(?!(?:cr|dr)$)[a-z]{1,3})$", re.IGNORECASE)
_CODE_AFTER = re.compile(r"(?!(?:cr|dr)\b)[a-z]{1,3}(?![^\W\d_])|[^\W\d_]+\d", re.IGNORECASE)
# Words before a number of another kind: an account, a registration, a company, an amount.
_OTHER_NUMBER = re.compile(
    r"(?:\babn\W*\d\d |\b(?:a/?c|acc|acct|account|acn|arbn|hin|srn|bsb|conf|confirmation|contract|cn|phone|ph|tel|mob"
    r"|mobile|aud|eur|gbp|nzd|usd)\b"
    r"\W*(?:no|num|number|nr)?\W*|\b\d{3}-\d{3}\W+|[$])$",
    re.IGNORECASE,
)
# Words before a number that a bank or a shop gave to a payment. The tax office's own numbers contain a tax file number.
_PAYMENT_NUMBER = re.compile(
    r"\b(?:receipt|rcpt|rct|rrn|invoice|inv|cheque|chq|transaction|txn|trace|order|ord)\b\W*"
    r"(?:no|num|number|nr|id)?\W*$",
    re.IGNORECASE,
)
# In one piece or in the scheme's own groups, also next to other numbers; or in any groups with no number next to it.
_CARDS = (
    re.compile(
        r"(?<![\d@*])(?<!\d[.,/-])(?:\d{13,19}|\d{4}([ .-])\d{4}\1\d{4}\1\d{4}|\d{4}([ .-])\d{6}\2\d{5})"
        r"(?![\d@*]|[.,-]\d|/\d{3})"
    ),
    re.compile(r"(?<![\d@*])(?<!\d[ .,/-])\d(?:[ -]?\d){11,18}(?![\d@*]|[ .,/-]\d)"),
)
# ISO/IEC 7812 ranges of the payment schemes, with the lengths that they issue.
_CARD_RANGES = re.compile(
    r"(?:4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|3(?:0|6|8)\d{12}"
    r"|35\d{14}|6\d{15,18})"
)
# The tax office's payment references contain the payer's tax file number. 75556 is its BPAY biller code.
_TAX_OFFICE = re.compile(
    r"\b(?:ATO|PAYG[IW]?)(?![^\W\d_])|\btax(?=\d)|\b75556\b|\btax(?:ation)?[ -]office\b", re.IGNORECASE
)
_PAYMENT_REFERENCE = re.compile(r"(?<![\d@*])(?!75556\b)\d(?:[ -]?\d){8,}(?![\d@*]|[.,]\d)")
_TFN_LENGTH, _ABN_LENGTH = 9, 11


class IdentifierKind(enum.StrEnum):
    """Kind of identifier in free text."""

    TAX_FILE_NUMBER = "a tax file number"
    CARD_NUMBER = "a payment card number"
    EMAIL = "an e-mail address"


@dataclass(frozen=True, slots=True)
class FreeTextMatch:
    """One identifier in a text: its kind and its characters (from 0, end excluded)."""

    kind: IdentifierKind
    start: int
    end: int


@lru_cache(maxsize=4096)
def identifiers_in(text: str) -> tuple[FreeTextMatch, ...]:
    """Return the identifiers in ``text`` by position; none overlaps another."""
    # Invisible characters (a soft hyphen, a blank without width) separate nothing.
    seen = [at for at, character in enumerate(text) if character.isascii() or unicodedata.category(character) != "Cf"]
    plain = _plain("".join(text[at] for at in seen))
    matches: list[FreeTextMatch] = []
    for candidate in _candidates(plain):
        match = FreeTextMatch(candidate.kind, seen[candidate.start], seen[candidate.end - 1] + 1)
        if not any(match.start < other.end and other.start < match.end for other in matches):
            matches.append(match)
    return tuple(sorted(matches, key=lambda match: match.start))


def masked(text: str) -> str:
    """Return ``text`` without identifiers: digits become asterisks, an e-mail address three of them.

    What is left is examined again, because a masked neighbour can uncover another identifier.
    """
    while matches := identifiers_in(text):
        for match in reversed(matches):
            value = text[match.start : match.end]
            mask = _EMAIL_MASK if match.kind is IdentifierKind.EMAIL else re.sub(r"\d", MASK, value)
            text = text[: match.start] + mask + text[match.end :]
    return text


def suspicious(column: str) -> pl.Expr:
    """Return an expression that is true where ``column`` may hold an identifier: the cheap first look."""
    text = pl.col(column)
    return text.str.contains("[@\uff20]") | (text.str.count_matches(r"\d") >= _SEVERAL_DIGITS)


def with_identifiers(texts: pl.Series) -> list[str]:
    """Return the distinct texts with an identifier, sorted."""
    frame = texts.drop_nulls().unique().sort().to_frame("text").filter(suspicious("text"))
    return [text for text in frame["text"].to_list() if identifiers_in(text)]


def mask_columns(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Return ``frame`` with the identifiers in ``columns`` masked. Each distinct text is examined once."""
    for column in columns:
        texts = with_identifiers(frame[column])
        if texts:
            replaced = pl.col(column).replace(texts, [masked(text) for text in texts])
            frame = frame.with_columns(replaced)
    return frame


def _candidates(text: str) -> Iterator[FreeTextMatch]:
    for match in _EMAIL.finditer(text):
        yield FreeTextMatch(IdentifierKind.EMAIL, *match.span())
    text = text.replace("_", "-")
    for shape in _CARDS:
        for match in shape.finditer(text):
            digits = _digits(match.group())
            if _CARD_RANGES.fullmatch(digits) and luhn.is_valid(digits):
                yield FreeTextMatch(IdentifierKind.CARD_NUMBER, *match.span())
    for start, end in _tfns(text):
        yield FreeTextMatch(IdentifierKind.TAX_FILE_NUMBER, start, end)


def _tfns(text: str) -> Iterator[tuple[int, int]]:
    for match in _CALLED_TFN.finditer(text):
        yield match.span(1)
    for match in _TWO_TFNS.finditer(text):
        for number in (1, 2):
            if _is_tfn(match[number]):
                yield match.span(number)
    of_tax_office = bool(_TAX_OFFICE.search(text))
    for match in _TFN.finditer(text):
        before = text[: match.start()]
        if _NAMED_TFN.search(before) or (_is_tfn(_digits(match.group())) and not _is_other(match, of_tax_office)):
            yield match.span()
    for match in _GROUPED_TFN.finditer(text):
        if (
            _is_tfn(_digits(match.group()))
            and not _DATE_AND_NUMBER.fullmatch(match.group())
            and not _is_other(match, of_tax_office)
        ):
            yield match.span()
    if of_tax_office:
        for match in _PAYMENT_REFERENCE.finditer(text):
            if _contains_tfn(_digits(match.group())):
                yield match.span()


def _is_other(match: re.Match[str], of_tax_office: bool) -> bool:
    # The words or letters at a number, or the two digits before it, make it a number of another kind.
    before, after = match.string[: match.start()], match.string[match.end() :]
    if _OTHER_NUMBER.search(before) or _is_abn(before[-3:] + match.group()):
        return True
    is_code = match.group().isdigit() and (_CODE_BEFORE.search(before) or _CODE_AFTER.match(after))
    return not of_tax_office and bool(is_code or _PAYMENT_NUMBER.search(before))


def _is_tfn(digits: str) -> bool:
    # An old number has eight digits, as many as a date or a reference: only a naming word distinguishes it.
    return len(digits) == _TFN_LENGTH and bool(tfn.is_valid(digits))


def _is_abn(text: str) -> bool:
    return len(_digits(text)) == _ABN_LENGTH and bool(abn.is_valid(_digits(text)))


def _contains_tfn(digits: str) -> bool:
    return any(_is_tfn(digits[at : at + _TFN_LENGTH]) for at in range(len(digits) - _TFN_LENGTH + 1))


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _plain(text: str) -> str:
    # Character by character, so that positions are those of the text: other digits, dashes and blanks evade nothing.
    return "".join(map(_plain_character, text))


@lru_cache(maxsize=512)
def _plain_character(character: str) -> str:
    if character.isascii():
        return " " if character.isspace() else character
    decimal = unicodedata.decimal(character, None)
    if decimal is not None:
        return str(decimal)
    category = unicodedata.category(character)
    if category == "Pd":
        return "-"
    if category in ("Zs", "Zl", "Zp"):
        return " "
    return "@" if character == "\uff20" else character
