"""Verifying what was delivered: every change, gap and stray file is found, in a store and among plain files."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.delivery.manifest import ChainEntry, HeldBack, Manifest, json_schema, read_manifest
from classfeed_dagster.delivery.portfolio_list import PortfolioRecord, publish_portfolios
from classfeed_dagster.delivery.verify import ProblemKind, Verification, verify_feed, verify_paths
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster.stored_records import chain_key, manifest_key, to_json
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    CHANGED,
    DAY1,
    DAY2,
    DAY3,
    FEED,
    FORMAT,
    build,
    check,
    deliver,
    go,
    simple,
)
from classfeed_dagster_tests.fixtures.examples import examples

FORMATS = {FEED: FORMAT}


@pytest.fixture
def delivered(local_store: LocalStore) -> LocalStore:
    """Return two dates, and a re-issue of the first: three places in the chain."""
    for day in (simple(DAY1), simple(DAY2), simple(DAY1, "s2", **CHANGED)):
        deliver(local_store, day)
    return local_store


def kinds(found: Verification) -> set[ProblemKind]:
    return {problem.kind for problem in found.problems}


def test_sound_feed_has_no_problems(store: ObjectStore) -> None:
    for day in (simple(DAY1), simple(DAY2)):
        deliver(store, day)
    heard: list[str] = []
    problems = verify_feed(store, FEED, FORMAT, on_page=heard.append)
    assert (problems.problems, problems.sound, problems.manifests, problems.portfolios) == ([], True, 2, 10)
    assert problems.pages == len(heard) == 4
    nothing = verify_feed(store, "another_feed", FORMAT)
    assert (nothing.problems, nothing.manifests) == ([], 0)


@pytest.mark.parametrize("side", ["source", "data_team"])
def test_removed_end_of_the_chain_is_found_by_its_reconciliation(delivered: LocalStore, side: str) -> None:
    key = f"references/{DAY1}/{FEED}/{side}_reconciliation.json"
    delivered.put(key, b'{"revision": 1}')
    assert verify_feed(delivered, FEED, FORMAT).problems == []
    for prefix in (f"delivered/{FEED}/{DAY1}/r1/", f"chain/{FEED}/00000003"):
        for removed in list(delivered.list(prefix)):
            delivered.delete(removed)
    (problem,) = verify_feed(delivered, FEED, FORMAT).problems
    assert problem.kind is ProblemKind.CHAIN_GAP
    assert f"{DAY1}/r1" in problem.location
    assert key in problem.detail


def swap_manifests(store: ObjectStore) -> None:
    second, last = store.read(SECOND), store.read(LAST)
    store.put(SECOND, last)
    store.put(LAST, second)


def rewritten(store: ObjectStore, key: str, **changes: object) -> None:
    record = json.loads(store.read(key)) | changes
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    store.put(key, text.encode() + b"\n")


def page_of(store: ObjectStore, revision: str = "2023-01-03/r0") -> str:
    return next(key for key in store.list(f"delivered/{FEED}/{revision}/") if key.endswith("p1.txt.gz"))


FIRST = manifest_key(FEED, DAY1, 0)
SECOND = manifest_key(FEED, DAY2, 0)
LAST = manifest_key(FEED, DAY1, 1)
LISTED = f"delivered/{FEED}/2023-01-03/r1/portfolios.parquet"


def listed(store: ObjectStore) -> tuple[PortfolioRecord, ...]:
    manifest = read_manifest(store.read(LAST), LAST, store)
    assert isinstance(manifest, Manifest)
    return tuple(manifest.portfolios)


def relisted(store: ObjectStore, portfolios: Sequence[PortfolioRecord]) -> None:
    store.delete(LISTED)
    file = publish_portfolios(store, FEED, DAY1, 1, portfolios)
    assert file is not None
    rewritten(store, LAST, portfolio_list=file.model_dump(mode="json"))


TAMPERING: dict[str, tuple[Callable[[LocalStore], object], set[ProblemKind]]] = {
    "manifest changed": (lambda s: rewritten(s, FIRST, correlation_id="x"), {ProblemKind.CHAIN_CHANGED}),
    "last manifest changed": (
        lambda s: rewritten(s, LAST, held_back=[], code_version="9"),
        {ProblemKind.CHAIN_CHANGED},
    ),
    "last manifest's pages changed": (
        lambda s: rewritten(s, LAST, pages=[{**json.loads(s.read(LAST))["pages"][0], "bytes": 1}]),
        {ProblemKind.CHAIN_CHANGED, ProblemKind.PAGE_CHANGED},
    ),
    "manifest spelled otherwise": (
        lambda s: s.put(LAST, s.read(LAST).replace(b",", b", ", 1)),
        {ProblemKind.RECORD_DAMAGED},
    ),
    "totals changed": (lambda s: rewritten(s, LAST, counts={"accounts": 9}), {ProblemKind.RECORD_DAMAGED}),
    "failed check": (
        lambda s: rewritten(s, LAST, verdicts=[{"check": "a", "passed": False, "key": "k", "evaluated_by": "x"}]),
        {ProblemKind.RECORD_DAMAGED},
    ),
    "portfolio twice": (
        lambda s: relisted(s, [portfolio for portfolio in listed(s) for _ in range(2)]),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.CHAIN_CHANGED},
    ),
    "portfolio on no page": (
        lambda s: relisted(s, [replace(portfolio, page="p99") for portfolio in listed(s)]),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.CHAIN_CHANGED, ProblemKind.CONTENT_DISAGREES},
    ),
    "list of portfolios gone": (lambda s: s.delete(LISTED), {ProblemKind.LEDGER_CHANGED}),
    "list of portfolios changed": (lambda s: s.put(LISTED, b"PAR1"), {ProblemKind.LEDGER_CHANGED}),
    "list of portfolios of another count": (
        lambda s: rewritten(s, LAST, portfolio_list={**json.loads(s.read(LAST))["portfolio_list"], "rows": 7}),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.CHAIN_CHANGED},
    ),
    "page outside its revision": (
        lambda s: rewritten(s, LAST, pages=[{**json.loads(s.read(LAST))["pages"][0], "key": "../../etc/passwd"}]),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.ORPHAN},
    ),
    "manifest unreadable": (
        lambda s: s.put(SECOND, b"{}"),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.CHAIN_CHANGED, ProblemKind.ORPHAN},
    ),
    "manifest gone": (lambda s: s.delete(FIRST), {ProblemKind.CHAIN_GAP, ProblemKind.ORPHAN, ProblemKind.OUT_OF_ORDER}),
    "last manifest gone": (lambda s: s.delete(LAST), {ProblemKind.UNFINISHED}),
    "entry gone": (
        lambda s: s.delete(chain_key(FEED, 2)),
        {ProblemKind.CHAIN_GAP, ProblemKind.NOT_IN_CHAIN, ProblemKind.ORPHAN},
    ),
    "entry unreadable": (
        lambda s: s.put(chain_key(FEED, 2), b"[]"),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.NOT_IN_CHAIN, ProblemKind.ORPHAN},
    ),
    "entry of another feed": (
        lambda s: s.put(chain_key(FEED, 3), to_json(ChainEntry(feed="other_feed", business_date=DAY1, revision=1))),
        {ProblemKind.CHAIN_CHANGED, ProblemKind.NOT_IN_CHAIN, ProblemKind.ORPHAN},
    ),
    "entry that leads out of the store": (
        lambda s: s.put(chain_key(FEED, 3), to_json(ChainEntry(feed="../x", business_date=DAY1, revision=1))),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.NOT_IN_CHAIN, ProblemKind.ORPHAN},
    ),
    "entry of no possible key": (
        lambda s: s.put(chain_key(FEED, 3), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=10**1200))),
        {ProblemKind.RECORD_DAMAGED, ProblemKind.NOT_IN_CHAIN, ProblemKind.ORPHAN},
    ),
    "stray entry": (lambda s: s.put(f"chain/{FEED}/notes.json", b""), {ProblemKind.ORPHAN}),
    "manifests swapped": (
        swap_manifests,
        {ProblemKind.CHAIN_CHANGED},
    ),
    "manifest added": (lambda s: s.put(manifest_key(FEED, DAY3, 0), s.read(FIRST)), {ProblemKind.NOT_IN_CHAIN}),
    "sequence number": (
        lambda s: rewritten(s, SECOND, sequence_number=9),
        {ProblemKind.CHAIN_CHANGED, ProblemKind.OUT_OF_ORDER, ProblemKind.CONTENT_DISAGREES},
    ),
    "replaces": (lambda s: rewritten(s, LAST, replaces=None), {ProblemKind.CHAIN_CHANGED, ProblemKind.OUT_OF_ORDER}),
    "page gone": (lambda s: s.delete(page_of(s)), {ProblemKind.PAGE_MISSING}),
    "page changed": (
        lambda s: s.put(page_of(s), gzip.compress(b"H|x\n")),
        {ProblemKind.PAGE_CHANGED, ProblemKind.CONTENT_DISAGREES},
    ),
    "page unreadable": (
        lambda s: s.put(page_of(s), b"?" * 10_000),
        {ProblemKind.PAGE_CHANGED, ProblemKind.DOCUMENT_INVALID},
    ),
    "page cut short": (
        lambda s: s.put(page_of(s), s.read(page_of(s))[:-9]),
        {ProblemKind.PAGE_CHANGED},
    ),
    "page packed again": (
        lambda s: s.put(page_of(s), gzip.compress(gzip.decompress(s.read(page_of(s))))),
        {ProblemKind.PAGE_CHANGED},
    ),
    "stray file": (lambda s: s.put(f"delivered/{FEED}/2023-01-03/r0/more.txt.gz", b""), {ProblemKind.ORPHAN}),
    "build's record unreadable": (
        lambda s: s.put(next(k for k in s.list("staged/") if k.endswith("build.json")), b"1"),
        {ProblemKind.RECORD_DAMAGED},
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_detected(delivered: LocalStore, name: str) -> None:
    tamper, expected = TAMPERING[name]
    tamper(delivered)
    problems = verify_feed(delivered, FEED, FORMAT)
    assert kinds(problems) == expected, [str(problem) for problem in problems.problems]
    assert problems.sound is (expected <= {ProblemKind.UNFINISHED, ProblemKind.LEFTOVER})
    if name == "page cut short":
        (line,) = problems.problems
        assert "cannot be read to its end: cut off or replaced" in line.detail


@pytest.mark.parametrize("entry", [None, b"[]"])
def test_manifests_after_a_gap_are_read(delivered: LocalStore, entry: bytes | None) -> None:
    delivered.delete(chain_key(FEED, 2))
    if entry is not None:
        delivered.put(chain_key(FEED, 2), entry)
    delivered.put(page_of(delivered, "2023-01-03/r1"), b"?")
    problems = verify_feed(delivered, FEED, FORMAT)
    assert {ProblemKind.CHAIN_GAP if entry is None else ProblemKind.RECORD_DAMAGED, ProblemKind.PAGE_CHANGED} <= kinds(
        problems
    )
    assert problems.manifests == 2


def test_pages_after_a_misplaced_page_are_read(delivered: LocalStore) -> None:
    first, second = json.loads(delivered.read(FIRST))["pages"]
    rewritten(delivered, FIRST, pages=[{**first, "key": "../../etc/passwd"}, second])
    delivered.delete(second["key"])
    assert {ProblemKind.RECORD_DAMAGED, ProblemKind.PAGE_MISSING} <= kinds(verify_feed(delivered, FEED, FORMAT))


def test_verify_chain_alone_finds_missing_manifests(delivered: LocalStore) -> None:
    delivered.put(page_of(delivered), b"?")
    heard: list[str] = []
    assert verify_feed(delivered, FEED, FORMAT, read_pages=False).problems == []
    delivered.delete(page_of(delivered))
    problems = verify_feed(delivered, FEED, FORMAT, read_pages=False, on_page=heard.append)
    assert kinds(problems) == {ProblemKind.PAGE_MISSING}
    assert page_of(delivered, "2023-01-03/r1") in heard


def test_expired_staging_area_is_no_problem(delivered: LocalStore) -> None:
    for key in list(delivered.list("staged/")):
        delivered.delete(key)
    assert verify_feed(delivered, FEED, FORMAT).problems == []


def test_later_date_delivered_first_is_detected(local_store: LocalStore) -> None:
    # Publishing never does this: the manifest of the second date is moved before the first's by hand.
    deliver(local_store, simple(DAY1))
    deliver(local_store, simple(DAY2))
    item, two = (local_store.read(chain_key(FEED, at)) for at in (1, 2))
    local_store.put(chain_key(FEED, 1), two)
    local_store.put(chain_key(FEED, 2), item)
    problems = verify_feed(local_store, FEED, FORMAT)
    assert kinds(problems) == {ProblemKind.CHAIN_CHANGED, ProblemKind.OUT_OF_ORDER}
    assert any("a later business date" in problem.detail for problem in problems.problems)


def test_unfinished_delivery_is_harmless(local_store: LocalStore) -> None:
    day = simple()
    new_build = build(local_store, day)
    check(local_store, new_build, day)
    requests: list[int] = []

    def dies() -> frozenset[str]:
        requests.append(1)
        if len(requests) == 2:
            raise ConnectionError
        return day.consenting

    with pytest.raises(ConnectionError):
        go(local_store, new_build, day, consented=dies)
    problems = verify_feed(local_store, FEED, FORMAT)
    assert kinds(problems) == {ProblemKind.UNFINISHED}
    assert problems.sound
    assert "it delivered nothing" in str(problems.problems[0])


# --- Files on their own -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(delivered: LocalStore) -> Path:
    """Copy the delivered folder, as the recipient has it."""
    return Path(shutil.copytree(delivered.root / "delivered" / FEED, delivered.root.parent / "copy"))


def test_copied_folder_is_sound(folder: Path) -> None:
    (folder / "notes.pdf").write_bytes(b"passed over")
    problems = verify_paths([folder], FORMATS)
    assert (problems.problems, problems.manifests, problems.pages, problems.portfolios) == ([], 3, 5, 11)


def test_folder_without_deliveries_is_not_sound(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.pdf").write_bytes(b"passed over")
    (problem,) = verify_paths([folder, folder, tmp_path / "empty"], FORMATS).problems
    assert problem.kind is ProblemKind.UNKNOWN_FILE
    assert "no manifest.json and no document" in str(problem)


def test_page_is_compared_with_its_manifest(folder: Path) -> None:
    page = next((folder / "2023-01-03" / "r0").glob("*-p1.txt.gz"))
    assert verify_paths([page], FORMATS).problems == []
    page.write_bytes(gzip.compress(gzip.decompress(page.read_bytes())))
    assert kinds(verify_paths([page], FORMATS)) == {ProblemKind.PAGE_CHANGED}


def test_document_without_manifest_is_compared_with_itself(folder: Path, tmp_path: Path) -> None:
    page = Path(shutil.copy(next((folder / "2023-01-03" / "r0").glob("*-p1.txt.gz")), tmp_path))
    assert verify_paths([page], FORMATS).problems == []
    text = gzip.decompress(page.read_bytes()).replace(b"10.00", b"11.00")
    plain = tmp_path / f"{FEED}-20230103-r0-p1.txt"
    plain.write_bytes(text)
    problems = verify_paths([plain], FORMATS)
    assert [p.detail for p in problems.problems] == ["stated cash_amount in AUD is 8.50, expected 9.50"]
    page.write_bytes(page.read_bytes()[:-9])
    (problem,) = verify_paths([page], FORMATS).problems
    assert problem.kind is ProblemKind.DOCUMENT_INVALID
    assert "cut off" in problem.detail


def test_gap_or_change_among_files_is_detected(folder: Path) -> None:
    manifest = folder / "2023-01-03" / "r0" / "manifest.json"
    record = json.loads(manifest.read_bytes()) | {"correlation_id": "other"}
    manifest.write_text(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n")
    assert kinds(verify_paths([folder], FORMATS)) == {ProblemKind.CHAIN_CHANGED}
    manifest.unlink()
    assert verify_paths([folder], FORMATS).problems == []  # its pages are sound by themselves
    next((folder / "2023-01-04" / "r0").glob("*-p2.txt.gz")).unlink()
    assert kinds(verify_paths([folder], FORMATS)) == {ProblemKind.PAGE_MISSING}


def test_unverifiable_file_is_reported(folder: Path, tmp_path: Path) -> None:
    stray = folder / "2023-01-03" / "r1" / "other_feed-20230103-r0-p1.txt"
    stray.write_bytes(b"")
    other = tmp_path / "other_feed-20230103-r0-p1.txt"
    other.write_bytes(b"")
    picture = tmp_path / "page.png"
    damaged = tmp_path / "m" / "manifest.json"
    damaged.parent.mkdir()
    damaged.write_bytes(b"\xff")
    unreadable = tmp_path / "n" / f"{FEED}-20230103-r0-p1.txt"
    (unreadable.parent / "manifest.json").mkdir(parents=True)  # not a file, so it can't be read
    unreadable.write_bytes(b"T|0|0|0\n")
    for path, kind in [
        (stray, {ProblemKind.ORPHAN}),
        (other, {ProblemKind.UNKNOWN_FILE}),
        (picture, {ProblemKind.UNKNOWN_FILE}),
        (damaged, {ProblemKind.RECORD_DAMAGED}),
        (unreadable, {ProblemKind.RECORD_DAMAGED}),
        (
            tmp_path / f"{FEED}-20230103-r0-p7.txt",
            {ProblemKind.DOCUMENT_INVALID, ProblemKind.CONTENT_DISAGREES, ProblemKind.PAGE_MISSING},
        ),
    ]:
        problems = kinds(verify_paths([path], FORMATS))
        assert problems
        assert problems <= kind, path


def test_void_manifest_has_no_pages(local_store: LocalStore) -> None:
    deliver(local_store, simple(DAY1))
    deliver(local_store, simple(DAY2))
    local_store.create(chain_key(FEED, 3), to_json(ChainEntry(feed=FEED, business_date=DAY1, revision=1)))
    deliver(local_store, simple(DAY3))
    folder = local_store.root / "delivered" / FEED
    problems = verify_paths([folder], FORMATS)
    assert (problems.problems, problems.manifests) == ([], 4)
    (folder / "2023-01-03" / "r1" / "late.txt").write_bytes(b"")
    assert kinds(verify_paths([folder], FORMATS)) == {ProblemKind.ORPHAN}


@examples(60)
@given(data=st.data())
def test_mutated_stored_record_never_raises(delivered: LocalStore, data: st.DataObject) -> None:
    keys = [key for top in ("chain/", "delivered/", "staged/") for key in delivered.list(top)]
    key = data.draw(st.sampled_from(keys))
    before = delivered.read(key)
    at = data.draw(st.integers(0, len(before) - 1))
    with_ = data.draw(
        st.one_of(st.binary(max_size=3), st.sampled_from([b"9" * 40, b"-1", b"1e999999", b"null", b'"', b"{}"]))
    )
    delivered.put(key, before[:at] + with_ + before[at + data.draw(st.integers(0, 4)) :])
    try:
        verify_feed(delivered, FEED, FORMAT)
        verify_paths([delivered.root / "delivered"], FORMATS)
    finally:
        delivered.put(key, before)


def test_manifest_has_a_published_schema() -> None:
    schema = json_schema()
    described = schema["$defs"]["Manifest"]["properties"]
    assert "consent_checked_at" in described
    assert set(schema["discriminator"]["mapping"]) == {"delivery", "void"}


def test_held_back_entry_from_before_the_detail_keeps_its_bytes() -> None:
    stored = (
        b'{"kind":"RULE","number":"SW1","reason":"breaks units_ledger (once)","rules":'
        b'[{"findings":1,"rule":"units_ledger","subjects":["ASX:WRH"]}],"waiting_for":null}\n'
    )
    assert to_json(HeldBack.model_validate_json(stored)) == stored
