"""Identifiers in free text: what is masked, and which other numbers stay as they are."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
]


@pytest.mark.parametrize(("text", "without", "kinds"), MASKED)
def test_masked_identifier_in_text_is_removed(text: str, without: str, kinds: list[IdentifierKind]) -> None:
    assert masked(text) == without
    assert [match.kind for match in identifiers_in(text)] == kinds


@pytest.mark.parametrize("text", KEPT)
def test_masked_other_number_stays(text: str) -> None:
    assert masked(text) == text


@settings(max_examples=50)
@given(st.text())
def test_masked_any_text_is_masked_once_and_never_longer(text: str) -> None:
    once = masked(text)
    assert masked(once) == once
    assert len(once) <= len(text)


@settings(max_examples=50)
@given(st.integers(10**7, 10**8 - 1), st.sampled_from(["", " ", "-", "."]))
def test_masked_tax_file_numbers_are_all_detected(beginning: int, separator: str) -> None:
    number = next((f"{beginning}{last}" for last in range(10) if tfn.is_valid(f"{beginning}{last}")), "123456782")
    written = separator.join((number[:3], number[3:6], number[6:]))
    assert not any(character.isdigit() for character in masked(f"paid {written} today"))


def test_mask_columns_changes_the_named_columns_alone() -> None:
    frame = pl.DataFrame({"name": ["TFN 123456782", "A", None], "id": ["123456782", "1", "2"]})
    result = mask_columns(frame, "name")
    assert result["name"].to_list() == ["TFN *********", "A", None]
    assert result["id"].to_list() == frame["id"].to_list()
    assert with_identifiers(frame["name"]) == ["TFN 123456782"]
