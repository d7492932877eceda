"""Longest stretch of a document without an element: every kind is refused at the same length, early."""

from __future__ import annotations

import pytest

from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_validator import LONGEST_TEXT, PIECE, READ_ON
from classfeed_dagster_tests.fixtures.epi_data import page_of, sample, sections_of

TOO_LONG = "a text or comment is longer than any valid one"


def with_stretch(begin: bytes, filling: bytes, end: bytes, length: int) -> bytes:
    # Before the first account's number, where a comment, an instruction or white space is allowed.
    stretch = begin + (filling * length)[:length] + end
    return page_of(sample()).replace(b"<PortfolioNumber>", stretch + b"<PortfolioNumber>", 1)


KINDS = [
    pytest.param(b"", b" ", b"", id="text"),
    pytest.param(b"", b"\n", b"", id="lines of text"),
    pytest.param(b"<!--", b" x", b"-->", id="comment"),
    pytest.param(b"<!--", b"<a>", b"-->", id="comment with tags"),
    pytest.param(b"<?x ", b"y", b"?>", id="instruction"),
    pytest.param(b"<![CDATA[", b" ", b"]]>", id="CDATA"),
]


@pytest.mark.parametrize(("begin", "filling", "end"), KINDS)
def test_text_without_an_element_above_the_limit_is_refused(begin: bytes, filling: bytes, end: bytes) -> None:
    facts = EPI.inspect_page([with_stretch(begin, filling, end, 4 * LONGEST_TEXT)])
    assert [error for error in facts.errors if TOO_LONG in error], facts.errors


@pytest.mark.parametrize(("begin", "filling", "end"), KINDS)
def test_text_without_an_element_below_the_limit_is_accepted(begin: bytes, filling: bytes, end: bytes) -> None:
    facts = EPI.inspect_page([with_stretch(begin, filling, end, LONGEST_TEXT // 4)])
    assert not [error for error in facts.errors if TOO_LONG in error]


@pytest.mark.parametrize("torn_at", range(1, 4))
def test_comment_split_between_pieces_of_a_line_is_followed(torn_at: int) -> None:
    page = page_of(sample()).replace(b"\n", b"")
    at = page.index(b"<PortfolioNumber>")

    def with_comment(begin: int, size: int) -> bytes:
        # One line of the document, whose comment begins ``begin`` bytes before a piece's end.
        padding = b" " * (PIECE - begin - at)
        return page[:at] + padding + b"<!--" + (b"<a>" * size)[:size] + b"-->" + b"<No/>" * LONGEST_TEXT + page[at:]

    assert PIECE - at < LONGEST_TEXT, "the padding alone is no reason to refuse"
    endless = EPI.inspect_page([with_comment(torn_at, 4 * LONGEST_TEXT)])
    assert [error for error in endless.errors if TOO_LONG in error]
    ending = with_comment(PIECE // 2, PIECE // 2 - 4 - torn_at)  # its end is torn instead
    assert not [error for error in EPI.inspect_page([ending]).errors if TOO_LONG in error]


def test_comment_that_ends_where_a_line_begins_is_closed() -> None:
    holdings = b"".join(sections_of(sample())["InvestmentHoldings"])
    many = holdings * (4 * LONGEST_TEXT // len(holdings))  # more than a comment may be long
    page = page_of(sample()).replace(holdings, many).replace(b"<AccountDetails>", b"<!--\n--><AccountDetails>", 1)
    assert len(page) > 4 * LONGEST_TEXT
    assert not [error for error in EPI.inspect_page([page]).errors if TOO_LONG in error]


def test_single_error_of_a_document_in_one_piece_is_reported() -> None:
    page = page_of(sample()).replace(b"\n", b"")
    assert len(page) < PIECE
    assert not EPI.inspect_page([page]).errors
    (error,) = EPI.inspect_page([page.replace(b"<Status>ACTIVE", b"<Status>ASLEEP", 1)]).errors
    assert "Status" in error


def test_error_before_a_truncated_end_is_reported() -> None:
    page = page_of(sample()).replace(b"\n", b"").replace(b"<Status>ACTIVE", b"<Status>ASLEEP", 1)
    message = EPI.inspect_page([page[: page.index(b"</AccountDetails>")] + b"</No>"]).errors
    assert ["Status" in message[0], "not well-formed" in message[-1], len(message)] == [True, True, 2]


@pytest.mark.parametrize(("more", "given_up"), [(READ_ON // 2, False), (2 * READ_ON, True)])
def test_reading_stops_a_mebibyte_after_the_last_error(more: int, given_up: bool) -> None:
    comment = b"<!-- so that no error follows -->\n"
    wrong = page_of(sample()).replace(b"<Status>ACTIVE", b"<Status>ASLEEP", 1)
    at = wrong.index(b"</AccountDetails>")
    facts = EPI.inspect_page([wrong[:at] + comment * (more // len(comment)) + wrong[at:]])
    assert facts.errors
    assert facts.errors[-1].endswith("the rest was not read") == given_up
