"""Identifiers in free text: what is masked, and which other numbers stay as they are."""

from __future__ import annotations

from itertools import accumulate

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.au import tfn

from classfeed_dagster.free_text import IdentifierKind, identifiers_in, mask_columns, masked, with_identifiers

TFN, EMAIL, CARD = IdentifierKind.TAX_FILE_NUMBER, IdentifierKind.EMAIL, IdentifierKind.CARD_NUMBER

# 123456782 is the made-up number of the ATO's examples; the card numbers are the schemes' published test numbers.
MASKED = [
    ("BPAY ATO ref 123456782, jane@example.com", "BPAY ATO ref *********, ***", [TFN, EMAIL]),
    ("CITIZEN SF TFN 123 456 782", "CITIZEN SF TFN *** *** ***", [TFN]),
    ("tax file number: 123-456-782.", "tax file number: ***-***-***.", [TFN]),
    ("123.456.782", "***.***.***", [TFN]),
    ("TFN 123456789", "TFN *********", [TFN]),  # mistyped, and named
    ("T.F.N. no 12345678", "T.F.N. no ********", [TFN]),  # the old form, named
    ("ref\u00a0123\u2009456\u2009782", "ref\u00a0***\u2009***\u2009***", [TFN]),
    ("\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff12", "*********", [TFN]),
    ("123\u2013456\u2013782", "***\u2013***\u2013***", [TFN]),
    ("ATO payment 551234567826021", "ATO payment ***************", [TFN]),
    ("BPAY 75556 4123 4567 8260", "BPAY 75556 **** **** ****", [TFN]),
    ("ATO receipt 123456782", "ATO receipt *********", [TFN]),  # the tax office's own numbers contain it
    ("receipt, TFN 123456782", "receipt, TFN *********", [TFN]),
    ("receipt for Jane 123456782", "receipt for Jane *********", [TFN]),
    ("ref 123456782", "ref *********", [TFN]),  # a reference to what is unknown
    ("order 4111 1111 1111 1111", "order **** **** **** ****", [CARD]),
    ("paid 20 123456782 01/02/2023", "paid 20 ********* 01/02/2023", [TFN]),
    ("Ref.123456782/ATO", "Ref.*********/ATO", [TFN]),
    ("on 20 123 456 782 01/02/2023", "on 20 *** *** *** 01/02/2023", [TFN]),
    ("o'brien+x@mail.example.com.au", "***", [EMAIL]),
    ("jane\uff20example.com", "***", [EMAIL]),
    ("card 4111 1111 1111 1111 refund", "card **** **** **** **** refund", [CARD]),
    ("5555-5555-5555-4444", "****-****-****-****", [CARD]),
    ("378282246310005", "***************", [CARD]),
    ("6011111111111117", "****************", [CARD]),
    ("TFN123456782", "TFN*********", [TFN]),  # as people type it
    ("JONES SF TFN_123456782", "JONES SF TFN_*********", [TFN]),
    ("TFN 123/456/782", "TFN ***/***/***", [TFN]),
    ("tfn 1234 56782", "tfn **** *****", [TFN]),
    ("TFN 123 456 78", "TFN *** *** **", [TFN]),
    ("TFNs 123456782/876543210", "TFNs *********/*********", [TFN, TFN]),
    ("123456782,876543210", "*********,*********", [TFN, TFN]),
    ("123  456  782", "***  ***  ***", [TFN]),
    ("12\u200b3456\u00ad782", "**\u200b****\u00ad***", [TFN]),  # copied from a page: invisible characters
    ("jane\u200b@example.com", "***", [EMAIL]),
    ("VISA4111111111111111", "VISA****************", [CARD]),
    ("4111.1111.1111.1111", "****.****.****.****", [CARD]),
    ("CC4111111111111111", "CC****************", [CARD]),
    ("4111 1111 1111 1111 12/29", "**** **** **** **** 12/29", [CARD]),
    ("on 20 378282246310005 paid", "on 20 *************** paid", [CARD]),
    ("4111111111111111EXP1229", "****************EXP1229", [CARD]),
    ("paid MC_5555 5555 5555 4444", "paid MC_**** **** **** ****", [CARD]),
    ("ATO12345678200", "ATO***********", [TFN]),  # letters directly before and after
    ("ATO123456782", "ATO*********", [TFN]),
    ("PAYGI12345678200", "PAYGI***********", [TFN]),
    ("ATO 551234567826021CR", "ATO ***************CR", [TFN]),
    ("BPAY ATO REF123456782", "BPAY ATO REF*********", [TFN]),
    ("123456782CR", "*********CR", [TFN]),
    ("DR123456782", "DR*********", [TFN]),
    ("SMITH123456782", "SMITH*********", [TFN]),
    ("123 456 782SMITH", "*** *** ***SMITH", [TFN]),
    ("R123 456 782", "R*** *** ***", [TFN]),  # no code is written in threes
    ("JONES_123456782", "JONES_*********", [TFN]),
    ("jane_123456782@example.com", "***", [EMAIL]),
    ("12 345 6782", "** *** ****", [TFN]),
    ("1234-56-782", "****-**-***", [TFN]),
    ("123.45.6782", "***.**.****", [TFN]),
    ("12 34 56 782", "** ** ** ***", [TFN]),
    ("ATO 12345 6782", "ATO ***** ****", [TFN]),  # two groups: of the tax office alone
]
KEPT = [
    "",
    "HIN X0123456782",
    "HIN 0123456782",
    "CN 123456782",
    "Transfer to 062-000 123456782",
    "account no. 123456782",
    "A/C 123456782",
    "ACN 123 456 782",
    "ABN 51 824 753 556",
    "51 824 753 556",
    "ABN 51 123 456 782",  # nine digits within eleven
    "ref 123456789",  # nine digits with other check digits
    "12345678",  # eight digits: a date, a reference
    "DIV 20230201",
    "NAB/123456782-01",
    "AU000000BHP4 123456782A",
    "0.123456782",
    "123 456 782 901",
    "123456782.50",
    "ATO integrated client account",
    "4111 1111 1111 1112",
    "9111111111111111",  # of no scheme
    "5555555555554444001",
    "Payment @ 4.5% p.a.",
    "Jane @ home",
    "Osko receipt 123456782",
    "RCPT NO: 123 456 782",
    "invoice number 123456782",
    "chq 123456782",
    "transaction id 123456782",
    "REF123456782",
    "TFN 1234567821",  # ten digits
    "TFN quoted, 20230102 paid",
    "123456782/2023",
    "1111.2222.3333.4444",
    "T1042",
    "T123456782",  # up to three letters belong to a code
    "NPP123456782",
    "123456782AU",
    "CN123456782",
    "ORD123456782",
    "A/C123456782",
    "ACC_123456782",
    "123456782_01",
    "1A123456782",
    "123456782CR5",
    "AUD123456782",
    "T202107011234561",
    "T20210701123456-1",
    "ABN51824753556",
    "ATO ABN 51 824 753 556",
    "12 345 6781",  # other check digits
    "12 345-6782",  # two numbers
    "12345 6782",
    "7 12 345 6782",  # a longer number
    "10 02 23 100",  # a date before another number
    "062-000 12345678",
    "0412 345 678",
    "phone 12 345 6782",
    "invoice 12 345 6782",
    "BUY 1500 25000 at 12.345",
]


@pytest.mark.parametrize(("text", "without", "kinds"), MASKED)
def test_masked_identifier_in_text_is_removed(text: str, without: str, kinds: list[IdentifierKind]) -> None:
    assert masked(text) == without
    assert [match.kind for match in identifiers_in(text)] == kinds


@pytest.mark.parametrize("text", KEPT)
def test_masked_other_number_stays(text: str) -> None:
    assert masked(text) == text


_PIECES = st.lists(
    st.sampled_from(
        [
            "123456782",
            "123 456 782",
            "12 345 6782",
            "4111111111111111",
            "4111 1111 1111 1111",
            "51 824 753 556",
            "2023",
            "ATO",
            "TFN",
            "ABN",
            "ref",
            "CR",
            "A",
            "9",
            "12",
            "062-000",
            "jane@example.com",
            *"@ -_./*",
        ]
    ),
    max_size=9,
).map("".join)
_ANY_TEXT = st.one_of(st.text(), st.text("0123456789 -./_ATOCR@", max_size=40), _PIECES)


@st.composite
def _tfn(draw: st.DrawFn) -> str:
    beginning = draw(st.integers(10**7, 10**8 - 1))
    return next((f"{beginning}{last}" for last in range(10) if tfn.is_valid(f"{beginning}{last}")), "123456782")


@st.composite
def _card(draw: st.DrawFn) -> str:
    beginning = draw(st.sampled_from(["4", "51", "2221", "37", "36", "6011"])) + draw(
        st.text("0123456789", min_size=11, max_size=11)
    )
    beginning = beginning.ljust(15, "0")[: {"37": 14, "36": 13}.get(beginning[:2], 15)]
    return beginning + luhn.calc_check_digit(beginning)


def _grouped(number: str, sizes: tuple[int, ...], separator: str) -> str:
    ends = list(accumulate(sizes))
    return separator.join(number[end - size : end] for size, end in zip(sizes, ends, strict=True))


@settings(max_examples=200)
@given(_ANY_TEXT)
def test_masked_any_text_holds_no_identifier_and_is_never_longer(text: str) -> None:
    once = masked(text)
    assert not identifiers_in(once)
    assert masked(once) == once
    assert len(once) <= len(text)


@settings(max_examples=100)
@given(
    _tfn(),
    st.sampled_from([(9,), (3, 3, 3), (2, 3, 4), (4, 3, 2), (3, 2, 4), (2, 4, 3), (3, 4, 2), (4, 2, 3)]),
    st.sampled_from(" -."),
)
def test_masked_tax_file_numbers_are_all_detected(number: str, sizes: tuple[int, ...], separator: str) -> None:
    written = _grouped(number, sizes, separator)
    assert not any(character.isdigit() for character in masked(f"paid {written} today"))


@settings(max_examples=100)
@given(
    _tfn(),
    st.sampled_from(["", "SMITH", "CR", "DR", "ATO", "TFN", "PAYG", "Jos\u00e9", "for_"]),
    st.sampled_from(["", "CR", "DR", "SMITH", "_jones", "pa\u00e7o"]),
)
def test_masked_letters_at_a_tax_file_number_change_nothing(number: str, before: str, after: str) -> None:
    assert not any(character.isdigit() for character in masked(f"paid {before}{number}{after} today"))


@settings(max_examples=100)
@given(_tfn(), st.sampled_from(["", "4", "55"]), st.sampled_from(["", "00", "60", "3421"]))
def test_masked_reference_of_the_tax_office_is_detected(number: str, before: str, after: str) -> None:
    assert not any(character.isdigit() for character in masked(f"ATO{before}{number}{after}"))


@settings(max_examples=100)
@given(_card(), st.text("ABCXYZabc", max_size=4), st.text("ABCXYZabc", max_size=4))
def test_masked_letters_at_a_card_number_change_nothing(number: str, before: str, after: str) -> None:
    assert number not in masked(f"on 20 {before}{number}{after} 12/29")


@settings(max_examples=200)
@given(
    st.one_of(
        st.from_regex(r"[A-Z]{1,3}[0-9]{4,9}", fullmatch=True),  # a trade, an order
        st.from_regex(r"T20[0-9]{12}(-?[0-9])?", fullmatch=True),
        st.from_regex(r"(ORD|INV|A/C ?|Order |Invoice )[0-9]{4,9}", fullmatch=True),
        st.from_regex(r"[0-9]{3}-[0-9]{3} [0-9]{6,9}", fullmatch=True),  # a BSB and an account
        st.dates().map(lambda day: f"{day:%d/%m/%Y} {day} {day:%d.%m.%y} {day:%Y%m%d}"),
        st.decimals(0, 10**12, places=2).map(lambda amount: f"AUD {amount:,} ${amount}"),
        st.from_regex(r"BUY [0-9]{1,6} [A-Z]{3} @ [0-9]{1,3}\.[0-9]{2,6}", fullmatch=True),
    ).filter(lambda text: not text.upper().startswith(("ATO", "CR", "DR", "TAX", "TFN")))
)
def test_masked_references_amounts_and_dates_stay(text: str) -> None:
    assert masked(text) == text


def test_mask_columns_changes_the_named_columns_alone() -> None:
    frame = pl.DataFrame({"name": ["TFN 123456782", "A", None], "id": ["123456782", "1", "2"]})
    result = mask_columns(frame, "name")
    assert result["name"].to_list() == ["TFN *********", "A", None]
    assert result["id"].to_list() == frame["id"].to_list()
    assert with_identifiers(frame["name"]) == ["TFN 123456782"]
