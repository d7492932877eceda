"""Formulas: nothing that people typed becomes one in a spreadsheet, and everything comes back as it was typed."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from classfeed_dagster.documents import formula_guard as spreadsheet

nasty = st.text(alphabet=st.sampled_from("'=+-@＝＋－＠ \t\r\n\u00a0\u000b\u000c1.a,\"é"), max_size=8)
texts = st.one_of(st.text(max_size=20), nasty)


@pytest.mark.parametrize(
    ("typed", "in_file"),
    [
        ("=SUM(A1)", "'=SUM(A1)"),
        ("'=SUM(A1)", "''=SUM(A1)"),
        ("+61 400 000 000", "'+61 400 000 000"),
        ("-5.00", "-5.00"),
        ("+5", "+5"),
        ("-5.00x", "'-5.00x"),
        ("-5\n", "'-5\n"),
        ("@import", "'@import"),
        ("-", "'-"),
        ("\t=1+1", "'\t=1+1"),
        ("  =1+1", "'  =1+1"),
        ("＝1+1", "'＝1+1"),
        ("O'Brien", "O'Brien"),
        ("'quoted'", "'quoted'"),
        ("1-2", "1-2"),
        ("", ""),
    ],
)
def test_formula_table_of_the_docs_is_the_codes(typed: str, in_file: str) -> None:
    assert spreadsheet.guard(typed) == in_file
    assert spreadsheet.unguard(in_file) == typed


def is_formula(text: str) -> bool:
    """Return True if a spreadsheet could run ``text``, as a file contains it, as a formula."""
    return not text.startswith("'") and spreadsheet.guard(text) != text


@given(texts)
@example("''-5")
@example("'-5")
def test_guarded_text_is_read_back_and_no_formula_is_in_the_file(text: str) -> None:
    guarded = spreadsheet.guard(text)
    assert spreadsheet.unguard(guarded) == text
    assert not is_formula(guarded)


@given(st.lists(texts, min_size=1, max_size=10))
def test_column_is_guarded_like_single_texts(values: list[str]) -> None:
    frame = pl.DataFrame({"text": [*values, None]}, schema={"text": pl.String})
    guarded = frame.select(spreadsheet.guard_column(pl.col("text")).alias("text"))["text"]
    assert guarded.to_list() == [*map(spreadsheet.guard, values), None]
    back = guarded.to_frame().select(spreadsheet.unguard_column(pl.col("text")).alias("text"))["text"]
    assert back.to_list() == [*values, None]


def test_formula_is_recognized_by_its_first_character() -> None:
    assert is_formula("=1")
    assert not is_formula("-1")
    assert not is_formula("'=1")
