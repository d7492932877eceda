"""Publishing while processes die at every call to the store, and while many publish at once."""

from __future__ import annotations

import gzip
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from classfeed_dagster.delivery.manifest import VoidManifest
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import ProblemKind, verify_feed
from classfeed_dagster.errors import ConsentChangedError
from classfeed_dagster.store import LocalStore, ObjectStore, open_store
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    CHANGED,
    DAY1,
    DAY2,
    FEED,
    FORMAT,
    Counting,
    Crash,
    Day,
    build,
    check,
    contents,
    deliver,
    go,
    simple,
)

PUBLISHERS = 8


def nap(_: float) -> None:
    time.sleep(0.01)


def delivered_once(store: ObjectStore, day: Day) -> None:
    """Assert that each portfolio of ``day`` was delivered exactly once, with no problem except self-repairing ones."""
    state = delivered_state(store, FEED, day.date)
    times = Counter(entry.number for manifest in state.deliveries for entry in manifest.portfolios)
    assert times == dict.fromkeys(day.content, 1)
    verification = verify_feed(store, FEED, FORMAT)
    assert verification.sound, verification.problems


def counted_calls(store: ObjectStore, work: Callable[[ObjectStore], object]) -> int:
    counting = Counting(store)
    work(counting)  # type: ignore[arg-type]
    return len(counting.calls)


def die_at(store: ObjectStore, call: int, work: Callable[[ObjectStore], object]) -> None:
    with pytest.raises(Crash):
        work(Counting(store, fail_at=call))  # type: ignore[arg-type]


def test_crash_at_every_call_then_the_same_run_delivers_once(tmp_path: Path) -> None:
    """The run that follows ends in the undisturbed run's bytes, manifest and chain included."""

    def work(store: ObjectStore) -> object:
        return deliver(store, simple())

    undisturbed = LocalStore(tmp_path / "undisturbed")
    calls = counted_calls(undisturbed, work)
    assert calls > 30
    expected = contents(undisturbed)
    for call in range(1, calls + 1):
        store = LocalStore(tmp_path / str(call))
        die_at(store, call, work)
        work(store)
        assert contents(store) == expected, f"died at call {call}"
        assert list(store.list("chain/")) == list(undisturbed.list("chain/"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "every"),
    [
        ("moto_store", 4),
        pytest.param("moto_store", 1, marks=pytest.mark.nightly),
        pytest.param("localbucket_store", 1, marks=pytest.mark.nightly),
    ],
)
def test_crash_at_calls_of_publishing_on_s3_delivers_once(
    server: str, every: int, request: pytest.FixtureRequest
) -> None:
    s3_store: ObjectStore = request.getfixturevalue(server)
    # One bucket: feeds are apart, but a date after the other gives every call a fresh start.
    base = simple()
    new_build = build(s3_store, base)
    check(s3_store, new_build, base)
    clean = list(s3_store.list(""))

    def work(store: ObjectStore) -> object:
        return go(store, new_build, base)

    calls = counted_calls(s3_store, work)
    expected = contents(s3_store)
    for call in range(1, calls + 1, every):  # every call in a folder: above
        for key in set(s3_store.list("")) - set(clean):
            s3_store.delete(key)
        die_at(s3_store, call, work)
        work(s3_store)
        assert contents(s3_store) == expected, f"died at call {call}"


def every_death(tmp_path: Path, base: LocalStore, work: Callable[[ObjectStore], object]) -> Iterator[LocalStore]:
    """Yield copies of ``base`` in which ``work`` died at its first call, its second, and so on to its last."""

    def copy(name: str) -> LocalStore:
        return LocalStore(Path(shutil.copytree(base.root, tmp_path / name)))

    for call in range(1, counted_calls(copy("undisturbed"), work) + 1):
        store = copy(str(call))
        die_at(store, call, work)
        yield store


def test_crash_at_every_call_then_another_snapshot_delivers_once(tmp_path: Path) -> None:
    """Crash at each call; the next run, of changed content, delivers each portfolio exactly once or re-issues."""
    base, day, later = LocalStore(tmp_path / "base"), simple(), simple(snapshot="s2", **CHANGED)
    new_build = build(base, day)
    check(base, new_build, day)
    outcomes = Counter[str]()
    for store in every_death(tmp_path, base, lambda store: go(store, new_build, day)):
        before = delivered_state(store, FEED, DAY1).deliveries
        deliver(store, later)
        state = delivered_state(store, FEED, DAY1)
        assert state.deliveries[: len(before)] == before
        if before:
            assert [entry.number for entry in state.deliveries[1].portfolios] == ["P2"]
        else:
            delivered_once(store, later)
        assert verify_feed(store, FEED, FORMAT).problems == []
        outcomes[" ".join("void" if isinstance(r.manifest, VoidManifest) else "sent" for r in state.revisions)] += 1
    assert set(outcomes) == {"sent", "void sent"}


def test_crash_at_each_call_of_a_reissue_delivers_once(tmp_path: Path) -> None:
    """A dead re-issue is closed by the date that follows, and delivered by the next run of its date."""
    base, again = LocalStore(tmp_path / "base"), simple(snapshot="s2", **CHANGED)
    deliver(base, simple(DAY1))
    new_build = build(base, again)
    check(base, new_build, again)
    for store in every_death(tmp_path, base, lambda store: go(store, new_build, again)):
        deliver(store, simple(DAY2))
        deliver(store, again)
        (first, second) = delivered_state(store, FEED, DAY1).deliveries
        assert [entry.number for entry in second.portfolios] == ["P2"]
        assert first.revision == 0
        assert second.replaces == f"{FEED}-20230103-r0-p1"
        delivered_once(store, simple(DAY2))
        assert verify_feed(store, FEED, FORMAT).problems == []


def test_crash_at_every_call_of_closing_an_attempt_recovers(tmp_path: Path) -> None:
    """Closing (a consent ended at the last moment) may die anywhere too."""
    base, day = LocalStore(tmp_path / "base"), simple()
    new_build = build(base, day)
    check(base, new_build, day)

    def work(store: ObjectStore) -> None:
        answers = iter([day.consenting, day.without("P2").consenting])
        with pytest.raises(ConsentChangedError):
            go(store, new_build, day, consented=lambda: next(answers))

    for store in every_death(tmp_path, base, work):
        deliver(store, day.without("P2"))
        assert sorted(delivered_state(store, FEED, DAY1).portfolios) == ["P1", "P3", "P4", "P5"]
        for key in contents(store):
            if key.endswith(".gz"):
                assert b"P2" not in gzip.decompress(store.read(key))
        assert verify_feed(store, FEED, FORMAT).problems == []


@pytest.mark.parametrize(
    ("store", "same_build"),
    [
        ("local_store", True),
        ("local_store", False),
        ("moto_store", False),
        pytest.param("moto_store", True, marks=pytest.mark.nightly),
        pytest.param("localbucket_store", True, marks=pytest.mark.nightly),
        pytest.param("localbucket_store", False, marks=pytest.mark.nightly),
    ],
    indirect=["store"],
)
def test_threads_deliver_once(store: ObjectStore, same_build: bool) -> None:
    day = simple()

    def one(at: int) -> str:
        mine = day if same_build else simple(snapshot=f"s{at}")
        return deliver(store, mine, f"racer-{at}", patience=400, sleep=nap).kind

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        kinds = Counter(pool.map(one, range(PUBLISHERS)))
    assert kinds["DELIVERED"] == 1
    delivered_once(store, day)
    assert len(delivered_state(store, FEED, DAY1).revisions) == 1
    assert [p for p in verify_feed(store, FEED, FORMAT).problems if p.kind is not ProblemKind.LEFTOVER] == []


def test_threads_of_different_dates_keep_one_chain(local_store: ObjectStore) -> None:
    """Re-issues of a date and the next date at once, some of them impatient: no fork, nothing twice."""
    deliver(local_store, simple(DAY1))
    work = [simple(DAY1, "s2", **CHANGED), simple(DAY2), simple(DAY1, "s2", **CHANGED), simple(DAY2)] * 2

    def one(at: int) -> str:
        return deliver(local_store, work[at], f"racer-{at}", patience=at % 3 * 20, sleep=nap, tries=30).kind

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        kinds = Counter(pool.map(one, range(len(work))))
    assert kinds["DELIVERED"] == 2
    delivered_once(local_store, simple(DAY2))
    again = delivered_state(local_store, FEED, DAY1).deliveries
    assert [len(manifest.portfolios) for manifest in again] == [5, 1]


def _in_process(url: str, at: int) -> str:
    return deliver(open_store(url), simple(snapshot=f"s{at}"), f"racer-{at}", patience=400, sleep=nap).kind


@pytest.mark.slow
def test_processes_deliver_once(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not once a process
    with ProcessPoolExecutor(PUBLISHERS, mp_context=context) as pool:
        kinds = Counter(pool.map(_in_process, [url] * PUBLISHERS, range(PUBLISHERS)))
    assert kinds["DELIVERED"] == 1
    delivered_once(open_store(url), simple())


def test_delivered_files_are_never_written_again(local_store: LocalStore) -> None:
    def facts() -> dict[str, tuple[int, int, int]]:
        stats = {key: (local_store.root / key).stat() for key in local_store.list(f"delivered/{FEED}/")}
        return {key: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for key, stat in stats.items()}

    deliver(local_store, simple())
    before = facts()
    for number, day in enumerate(
        (simple(), simple(snapshot="s2", **CHANGED), simple(DAY2), simple(snapshot="s3", **CHANGED))
    ):
        deliver(local_store, day, f"try-{number}")
    after = facts()
    assert {key: after[key] for key in before} == before


def test_delivered_objects_keep_one_version(moto_store: ObjectStore, s3_endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    bucket = moto_store.bucket  # type: ignore[attr-defined]
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    deliver(moto_store, simple())
    new_build = build(moto_store, simple(snapshot="s4"))
    assert new_build.pages == ()
    deliver(moto_store, simple(snapshot="s2", **CHANGED))
    answer = client.list_object_versions(Bucket=bucket, Prefix=f"feed/delivered/{FEED}/")
    assert "DeleteMarkers" not in answer
    assert max(Counter(version["Key"] for version in answer["Versions"]).values()) == 1
