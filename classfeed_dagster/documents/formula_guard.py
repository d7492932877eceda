"""Formula guard: text that a spreadsheet would run as a formula is guarded in the file and restored when read.

Excel, LibreOffice and Google Sheets run a field that begins with ``=``, ``+``, ``-`` or ``@`` as a formula, quoted or
not, and descriptions are free text. Numbers are harmless and stay unchanged.

The guard is one apostrophe before the text, which spreadsheets read as "this is text". Text that looks guarded
(apostrophes, then a dangerous beginning) gets one more apostrophe, so that reading can always remove exactly one:

    =SUM(A1)  ->  '=SUM(A1)      '=SUM(A1)  ->  ''=SUM(A1)      -5.00  ->  -5.00      O'Brien  ->  O'Brien

A dangerous beginning may follow blanks, which some programs drop, be the full-width form of one of the four
characters, which some programs fold, or be a tab or a line break (OWASP, "CSV injection"). The file's own quoting is a
separate step, applied after the guard and undone before it.
"""

from __future__ import annotations

import re

import polars as pl

# The same patterns serve Python and Polars (Rust): no \s, \d or \Z, whose meanings differ between them.
_DANGER = "[ \u00a0\u000b\u000c]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[ \u00a0\u000b\u000c]*[\t\r\n]"
DANGEROUS = f"^'*(?:{_DANGER})"
GUARDED = f"^'+(?:{_DANGER})"
NUMBER = "^[+-]?[0-9]+(?:[.][0-9]+)?$"

_dangerous, _guarded = re.compile(DANGEROUS), re.compile(GUARDED)
_number = re.compile(NUMBER.removesuffix("$") + r"\Z")  # Python's $ would allow a trailing line break


def guard(text: str) -> str:
    """Return ``text`` as the file contains it."""
    return "'" + text if _dangerous.match(text) and not _number.match(text) else text


def unguard(text: str) -> str:
    """Undo ``guard``: ``unguard(guard(text)) == text`` for every text."""
    return text[1:] if _guarded.match(text) else text


def guard_column(text: pl.Expr) -> pl.Expr:
    """Apply ``guard`` to a column; nulls stay null."""
    dangerous = text.str.contains(DANGEROUS) & ~text.str.contains(NUMBER)
    return pl.when(dangerous).then(pl.lit("'") + text).otherwise(text)


def unguard_column(text: pl.Expr) -> pl.Expr:
    """Apply ``unguard`` to a column; nulls stay null."""
    return pl.when(text.str.contains(GUARDED)).then(text.str.slice(1)).otherwise(text)
