"""Any Unicode in any text column: what leaves parses with lxml and with expat (and Xerces and xmllint, where they are
installed: ``apt-get install libxerces-c-samples libxml2-utils``), and reads back as it was; what can't be written is
held back with a reason, and never anybody else.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import xml.parsers.expat
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from lxml import etree

from classfeed_dagster.documents.epi import EPI
from classfeed_dagster_tests.fixtures.epi_data import (
    TEXT200,
    Frames,
    account,
    balance,
    cash,
    cash_account,
    frames_of,
    holding,
    page_of,
    trade,
)
from classfeed_dagster_tests.torture.outcome import Budget, Row

TEXT = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(min_codepoint=0, max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from(["]]>", "<!--", "&#0;", "\x00", "\x0b", "\ufffe", "\ud7ff", "\u2028", "\x85", "\r", "\n",
                              "\u202e", "e\u0301", "\U0001f998", "\U0010ffff", " ", "\t", "<", "&", '"', "'", "%s", "{}",
                              "=1+1", "x" * 201]), max_size=12).map("".join),
)  # fmt: skip
COLUMNS = {
    "accounts": ["portfolio_name", "recipient_reference", "entity_type", "status", "abn", "hin"],
    "cash_accounts": ["account_name", "account_number", "bsb", "currency"],
    "investment_holdings": ["security_name", "security_code", "exchange", "isin"],
    "movement_transactions": ["narrative", "confirmation_number", "relates_to", "reverses", "transaction_id"],
}
PLACES = [(frame, column) for frame, columns in COLUMNS.items() for column in columns]

# Parsers of their own, by the name of the program: (what it is called, its arguments before the file).
PROGRAMS = {"SAXCount": ("Xerces", ["-v=never"]), "xmllint": ("xmllint", ["--noout", "--nonet"])}

FREE = [place for place in PLACES if place[1] in ("portfolio_name", "account_name", "security_name", "narrative")]
# Mostly what people type into free text, and now and then anything anywhere.
TEXTS = st.one_of(
    st.lists(st.tuples(st.sampled_from(FREE), TEXT200), min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from(FREE), TEXT200), min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from(PLACES), TEXT), min_size=1, max_size=4),
)


def _frames(texts: list[tuple[tuple[str, str], str]]) -> Frames:
    rows = {
        "accounts": [account("P1"), account("P2")],
        "cash_accounts": [cash_account("P1"), cash_account("P2")],
        "account_balances": [balance("P1"), balance("P2")],
        "investment_holdings": [holding("P1"), holding("P2")],
        "movement_transactions": [trade("P1"), cash("P1"), trade("P2", "T2"), cash("P2", "C2")],
    }
    for (frame, column), text in texts:
        rows[frame][-1 if frame == "movement_transactions" else 0][column] = text
        if frame == "movement_transactions":
            rows[frame][-1]["portfolio_number"] = "P1"
    return frames_of(rows)


def parse_with_expat(document: bytes) -> list[tuple[str, str]]:
    """Return (element, text) of every element without children, in order, by expat alone."""
    matches: list[tuple[str, str]] = []
    open_elements: list[tuple[list[str], list[str]]] = []  # texts and children of each
    parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")

    def start(name: str, attributes: dict[str, str]) -> None:
        if open_elements:
            open_elements[-1][1].append(name)
        open_elements.append(([], []))

    def end(name: str) -> None:
        texts, children = open_elements.pop()
        if not children:
            matches.append((name.rpartition(" ")[2], "".join(texts)))

    def data(text: str) -> None:
        open_elements[-1][0].append(text)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = data
    parser.Parse(document, True)
    return matches


def attack(budget: Budget, folder: Path, first_seed: int = 1) -> Iterator[Row]:
    """Try random texts in random columns until the budget is spent."""
    counts = {"written": 0, "held": 0}
    programs = {name: parser for name, parser in PROGRAMS.items() if shutil.which(name)}
    broken: list[str] = []

    def whatever(texts: list[tuple[tuple[str, str], str]]) -> None:
        frames = _frames(texts)
        findings = EPI.check_representable(frames)
        bad = set(findings["portfolio_number"])
        assert bad <= {"P1"}, "somebody else is held back"
        for text in findings["detail"]:
            assert not [t for _, t in texts if len(t) > 3 and t in text and not t.isalnum()], "a value in a finding"
        counts["held"] += bool(bad)
        counts["written"] += 1
        kept = {name: frame.filter(~pl.col("portfolio_number").is_in(list(bad))) for name, frame in frames.items()}
        page = page_of(kept)
        root = etree.fromstring(page)
        leaves = [(etree.QName(e).localname, e.text or "") for e in root.iter() if not len(e)]
        assert leaves == parse_with_expat(page), "lxml and expat disagree"
        facts = EPI.inspect_page([page])
        assert not facts.errors, facts.errors
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".xml") as file:
            file.write(page)
            file.flush()
            for program, (_, options) in programs.items():
                subprocess.run([program, *options, file.name], check=True, capture_output=True)
            back = EPI.read(Path(file.name))
        for name, frame in kept.items():
            # An empty text is absent: that is the document's own rule.
            plain = frame.with_columns(pl.when(pl.col(pl.String) != "").then(pl.col(pl.String)))
            assert sorted(map(repr, back[name].rows())) == sorted(map(repr, plain.rows())), name

    at = first_seed
    while True:
        options = settings(
            max_examples=40, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        try:
            options(seed(at)(given(TEXTS)(lambda texts: whatever(texts))))()  # noqa: PLW0108 - decorated anew each time
        except Exception as error:
            broken.append(f"seed {at}: {type(error).__name__}: {str(error)[:300]}")
            break
        at += 1
        if budget.left <= 0:
            break
    parsers = " and ".join(["lxml", "expat", *(parser for parser, _ in programs.values())])
    outcome = (
        f"every document parses with {parsers} and reads back; {counts['held']} times the one portfolio was held back"
    )
    yield Row("bytes", "any Unicode in any text column", counts["written"], outcome, broken)
