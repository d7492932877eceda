"""Text that a spreadsheet would run as a formula: guarded when written, and given back unchanged when read.

A field that begins with ``=``, ``+``, ``-`` or ``@`` is a formula to Excel, LibreOffice and Google Sheets, however
it is quoted, and what people type into a description reaches the file. A number is no danger and stays as it is.

Guarding puts one apostrophe before the text, which spreadsheets take for "this is text". Text that already looks
guarded (apostrophes, then a dangerous beginning) gets one apostrophe more, so that reading can always take exactly
one away:

    =SUM(A1)  ->  '=SUM(A1)      '=SUM(A1)  ->  ''=SUM(A1)      -5.00  ->  -5.00      O'Brien  ->  O'Brien

A dangerous beginning may stand behind blanks, which some programs drop, be the full-width form of one of the four
characters, which some programs fold, or be a tab or a line break (OWASP, "CSV injection"). The file's own quoting
is a separate step, done after this one and undone before it.
"""

from __future__ import annotations

import re

import polars as pl

# The same two patterns for Python and for Polars (Rust): so no \s, \d or \Z, whose meanings differ between them.
_DANGER = "[ \u00a0\u000b\u000c]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[ \u00a0\u000b\u000c]*[\t\r\n]"
DANGEROUS = f"^'*(?:{_DANGER})"
GUARDED = f"^'+(?:{_DANGER})"
NUMBER = "^[+-]?[0-9]+(?:[.][0-9]+)?$"

_dangerous, _guarded = re.compile(DANGEROUS), re.compile(GUARDED)
_number = re.compile(NUMBER.removesuffix("$") + r"\Z")  # Python's $ would let a line break follow


def guard(text: str) -> str:
    """``text`` as it goes into the file."""
    return "'" + text if _dangerous.match(text) and not _number.match(text) else text


def unguard(text: str) -> str:
    """Undo ``guard``: ``unguard(guard(text)) == text`` for every text."""
    return text[1:] if _guarded.match(text) else text


def is_formula(text: str) -> bool:
    """True if a spreadsheet could run ``text``, as it stands in a file, as a formula."""
    return not text.startswith("'") and guard(text) != text


def guard_column(text: pl.Expr) -> pl.Expr:
    """``guard`` over a column; nulls stay null."""
    dangerous = text.str.contains(DANGEROUS) & ~text.str.contains(NUMBER)
    return pl.when(dangerous).then(pl.lit("'") + text).otherwise(text)


def unguard_column(text: pl.Expr) -> pl.Expr:
    """``unguard`` over a column; nulls stay null."""
    return pl.when(text.str.contains(GUARDED)).then(text.str.slice(1)).otherwise(text)
