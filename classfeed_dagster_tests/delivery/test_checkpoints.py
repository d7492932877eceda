"""Many revisions of one date: a delivery reads a checkpoint and the revisions since, and no earlier ones."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from classfeed_dagster.delivery import sent, state
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.chain import claim_next, close_place, last_place
from classfeed_dagster.delivery.chain_integrity import require_chain
from classfeed_dagster.delivery.manifest import ChainEntry, Manifest
from classfeed_dagster.delivery.sent import positions_at, sent_date
from classfeed_dagster.delivery.state import DeliveredState, WithheldFile, delivered_state, read_revision, withheld_key
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster.stored_records import manifest_key, sha256, to_json
from classfeed_dagster_tests.delivery.test_ledger_publication import FIRST, SECOND, LedgerDay
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    ASKED_AT,
    AUDIENCE,
    DAY1,
    DAY2,
    FEED,
    FORMAT,
    Counting,
    Crash,
    build,
    check,
    deliver,
    edit,
)

EVERY = 4
REVISIONS = 5 * EVERY + 2
NUMBERS = sorted(FIRST.content)


@pytest.fixture(scope="module", autouse=True)
def _checkpoints_after_a_few_revisions() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (state, sent):
            patch.setattr(module, "CHECKPOINT_EVERY", EVERY)
        yield


def _changed(at: int, *numbers: str) -> LedgerDay:
    content = {number: ("NEW", (f"{at}.00",)) if number in numbers else FIRST.content[number] for number in NUMBERS}
    return LedgerDay(DAY1, content, snapshot=f"s{at}")


def _deliver_many(store: ObjectStore, count: int = REVISIONS, numbers: tuple[str, ...] = ("P1", "P3")) -> None:
    deliver(store, FIRST)
    for at in range(1, count):
        deliver(store, _changed(at, *numbers))


def _unfolded(store: ObjectStore, until: int | None = None) -> DeliveredState:
    end = delivered_state(store, FEED, DAY1).next_revision if until is None else until
    return DeliveredState(FEED, DAY1, tuple(read_revision(store, FEED, DAY1, at) for at in range(end)), store)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Deliver a date with several checkpoints, random portfolios changed, and void revisions among them."""
    store, chance = LocalStore(tmp_path_factory.mktemp("many") / "store"), random.Random(1)
    deliver(store, FIRST)
    at = 0
    while delivered_state(store, FEED, DAY1).next_revision < REVISIONS:
        at += 1
        day = _changed(at, *chance.sample(NUMBERS[:-1], 2))  # the last one stays as first delivered
        if at % 5 == 0:
            staged = build(store, day)
            check(store, staged, day)
            _void(store, staged)
        deliver(store, day)
    return store


def _void(store: ObjectStore, staged: Build) -> None:
    entry = ChainEntry(feed=FEED, business_date=DAY1, revision=staged.revision)
    place = claim_next(store, last_place(store, FEED), entry)
    assert place is not None
    assert close_place(store, place, "abandoned", "try-2")


def test_folded_state_equals_that_of_all_manifests(many: LocalStore) -> None:
    for until in range(1, REVISIONS + 1):
        folded, whole = delivered_state(many, FEED, DAY1, until=until), _unfolded(many, until)
        assert len(folded.recent) <= EVERY + 1
        for name in ("portfolios", "held_back", "next_revision", "numbers", "fingerprint", "latest", "first"):
            assert getattr(folded, name) == getattr(whole, name), (until, name)
        assert folded.revisions == whole.revisions
        assert folded.delivered_after(until - 3) == whole.delivered_after(until - 3)
        assert folded.delivered_after(0) == whole.deliveries
    assert delivered_state(many, FEED, DAY1).checkpoint is not None


def test_folded_state_before_any_position_equals_the_whole_one(many: LocalStore) -> None:
    for position in range(1, REVISIONS + 2):
        folded, whole = delivered_state(many, FEED, DAY1).before(position), _unfolded(many, position - 1)
        assert (folded.portfolios, folded.latest) == (whole.portfolios, whole.latest)


def test_folded_ledger_equals_that_of_all_manifests(many: LocalStore) -> None:
    folded, whole = sent_date(many, FEED, DAY1), sent.SentDate(many, _unfolded(many))
    assert len(folded.ledgers) < len(whole.ledgers)
    for kind in ("records", "positions", "portfolios"):
        assert folded.frame(kind).equals(whole.frame(kind))
    assert folded.has_positions
    assert verify_feed(many, FEED, FORMAT).sound


def _reads(store: ObjectStore, day: LedgerDay) -> int:
    counting = Counting(store)
    require_chain(counting, FEED, [DAY1], AUDIENCE)  # type: ignore[arg-type]
    deliver(counting, day)  # type: ignore[arg-type]
    return sum(call.startswith(("read", "local_file")) for call in counting.calls)


def test_reads_of_a_revision_do_not_grow_with_their_number(tmp_path: Path) -> None:
    reads = []
    store = LocalStore(tmp_path / "store")
    deliver(store, FIRST)
    for at in range(1, 6 * EVERY):
        reads.append(_reads(store, _changed(at, "P1")))
    early, late = reads[EVERY : 3 * EVERY], reads[-2 * EVERY :]
    assert max(late) <= max(early)


def test_next_date_reads_what_counts_of_a_date_with_many_revisions(local_store: LocalStore) -> None:
    _deliver_many(local_store)
    counting = Counting(local_store)
    deliver(counting, _second())  # type: ignore[arg-type]
    manifests = [call for call in counting.calls if call.startswith("read delivered/") and "2023-01-03" in call]
    entries = [call for call in counting.calls if call.startswith("read chain/")]
    assert len({*manifests}) <= EVERY + 3
    assert len({*entries}) <= EVERY + 3
    positions = positions_at(local_store, FEED, AUDIENCE, DAY2)
    assert positions is not None
    stated = [Decimal("3.50"), Decimal(f"{REVISIONS - 1}.00")]
    expected = [stated[number in ("P1", "P3")] + Decimal("0.25") for number in NUMBERS]
    assert positions.sort("portfolio_id")["sent"].to_list() == expected


def _second() -> LedgerDay:
    before = tuple((n, f"{REVISIONS - 1}.00" if n in ("P1", "P3") else "3.50") for n in NUMBERS)
    return LedgerDay(DAY2, SECOND.content, before=before)


def test_reissue_of_an_earlier_date_is_seen_behind_many_revisions(local_store: LocalStore) -> None:
    # The second date has many revisions before and after a re-issue of the first one.
    deliver(local_store, FIRST)
    deliver(local_store, SECOND)

    def revise(first: int) -> None:
        for at in range(first, first + EVERY + 3):
            content = {**SECOND.content, "P1": ("CURRENT", (f"{at}.00",))}
            deliver(local_store, LedgerDay(DAY2, content, before=SECOND.before, snapshot=f"s{at}"))

    revise(1)
    deliver(local_store, _changed(900, "P2"))
    revise(100)
    positions = positions_at(local_store, FEED, AUDIENCE, DAY2)
    assert positions is not None
    sums = dict(positions.select("portfolio_number", "sent").iter_rows())
    assert sums["P2"] == Decimal("900.25")
    assert sums["P1"] == Decimal("3.50") + 100 + EVERY + 2


def _checkpoint_key(store: LocalStore) -> str:
    manifest = delivered_state(store, FEED, DAY1).recent[0].manifest
    assert isinstance(manifest, Manifest)
    assert manifest.checkpoint is not None
    return manifest.checkpoint.key


def test_edited_old_manifest_that_counts_is_refused(local_store: LocalStore) -> None:
    _deliver_many(local_store)
    key = manifest_key(FEED, DAY1, 0)  # P0, P2 and P4 are as first delivered
    digest = json.loads(local_store.read(key))["portfolio_list"]["sha256"]
    edit(local_store, key, digest.encode(), b"0" * 64)
    with pytest.raises(DamagedRecordError, match="a later delivery of the date names other bytes"):
        require_chain(local_store, FEED, [DAY1], AUDIENCE)


def test_edited_checkpoint_is_refused_and_found(local_store: LocalStore) -> None:
    _deliver_many(local_store)
    key = _checkpoint_key(local_store)
    digest = next(iter(json.loads(local_store.read(key))["portfolios"].values()))[0]
    edit(local_store, key, digest.encode(), b"0" * 64)
    with pytest.raises(DamagedRecordError, match="not the checkpoint that the manifest names"):
        require_chain(local_store, FEED, [DAY1], AUDIENCE)
    assert key in "".join(problem.location for problem in verify_feed(local_store, FEED, FORMAT).problems)


def test_forged_checkpoint_of_the_last_manifest_is_refused(local_store: LocalStore) -> None:
    _deliver_many(local_store, EVERY + 1)
    (last,) = delivered_state(local_store, FEED, DAY1).recent
    key, before = _checkpoint_key(local_store), local_store.read(_checkpoint_key(local_store))
    digest = next(iter(json.loads(before)["portfolios"].values()))[0]
    edit(local_store, key, digest.encode(), b"0" * 64)
    edit(local_store, last.key, sha256(before).encode(), sha256(local_store.read(key)).encode())
    with pytest.raises(DamagedRecordError, match="its checkpoint is wrong"):
        require_chain(local_store, FEED, [DAY1], AUDIENCE)


def test_attempt_that_died_around_the_checkpoint_is_completed(tmp_path: Path) -> None:
    first, day = LocalStore(tmp_path / "first"), _changed(500, "P2")
    _deliver_many(first, EVERY)
    shutil.copytree(first.root, tmp_path / "whole")
    calls = Counting(LocalStore(tmp_path / "whole"))
    deliver(calls, day)  # type: ignore[arg-type]
    created = next(
        at for at, call in enumerate(calls.calls, 1) if call.endswith("checkpoint.json") and "create" in call
    )
    for at in range(created, len(calls.calls) + 1):
        shutil.copytree(first.root, tmp_path / str(at))
        store = LocalStore(tmp_path / str(at))
        with pytest.raises(Crash):
            deliver(Counting(store, fail_at=at), day)  # type: ignore[arg-type]
        deliver(store, day, "try-2")
        folded = delivered_state(store, FEED, DAY1)
        assert folded.checkpoint == delivered_state(LocalStore(tmp_path / "whole"), FEED, DAY1).checkpoint is not None
        assert verify_feed(store, FEED, FORMAT).sound


def test_withheld_file_of_a_folded_revision_counts_for_nothing(many: LocalStore, tmp_path: Path) -> None:
    store = LocalStore(Path(shutil.copytree(many.root, tmp_path / "copy")))
    before = delivered_state(store, FEED, DAY1)
    assert before.checkpoint is not None
    number, old = min(before.checkpoint.portfolios.items(), key=lambda entry: entry[1].revision)
    manifest = read_revision(store, FEED, DAY1, old.revision).manifest
    assert isinstance(manifest, Manifest)
    page = next(portfolio.page for portfolio in manifest.portfolios if portfolio.number == number)
    record = WithheldFile(
        feed=FEED, business_date=DAY1, revision=old.revision, message_id=page, ended=(number,), may_have_arrived=False,
        withheld_at=ASKED_AT, correlation_id="try-1",
    )  # fmt: skip
    store.create(withheld_key(FEED, DAY1, old.revision, page), to_json(record))
    after = delivered_state(store, FEED, DAY1)
    assert (number in before.numbers, number in after.numbers, number in after.held_back) == (True, False, True)
    assert number in after.withheld_numbers
    assert verify_feed(store, FEED, FORMAT).sound
    require_chain(store, FEED, [DAY1], AUDIENCE)
