"""Crash consistency and races: real processes, killed at every point or let loose at once, on a disk and on S3.

A killed process is followed by a fault-free one, and what the recipient then finds must be, byte for byte, what an
undisturbed run delivers.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

from classfeed_dagster.delivery.quarantine import held, update_quarantine
from classfeed_dagster.delivery.refreshes import Refresh, record_refresh, with_refreshes
from classfeed_dagster.delivery.state import CHECKPOINT_EVERY, delivered_state
from classfeed_dagster.delivery.verify import ProblemKind, verify_feed
from classfeed_dagster.errors import StaleBuildError
from classfeed_dagster.store import ObjectStore, S3Store, _s3_client, open_store
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    AMOUNTS,
    ASKED_AT,
    AUDIENCE,
    CHANGED,
    DAY1,
    DAY2,
    FEED,
    FORMAT,
    Day,
    build,
    check,
    contents,
    deliver,
    go,
    plan,
    simple,
)
from classfeed_dagster_tests.fixtures.s3_servers import S3_SERVERS, create_bucket
from classfeed_dagster_tests.torture import conversation
from classfeed_dagster_tests.torture.deaths import Disk, Reaper, wire
from classfeed_dagster_tests.torture.outcome import Budget, Row, scattered

PUBLISHERS = 16
LEAST = 2  # points of each case, whatever the budget
Where = tuple[str, str | None]  # store URL, S3 endpoint


def _name(where: Where) -> str:
    return where[0].rpartition("/")[2]


def opened(where: Where) -> ObjectStore:
    return open_store(where[0], s3_endpoint_url=where[1])


# --- What the victims do: before they can die, and while they can


def _first(store: ObjectStore) -> None:
    _deliver_and_hold(store, replace(simple(), broken=("P3",)))


def _reissue(store: ObjectStore) -> None:
    _deliver_and_hold(store, simple(snapshot="s2", **CHANGED))


def _next_date(store: ObjectStore) -> None:
    _deliver_and_hold(store, replace(simple(DAY2), broken=("P4",)))


def _consent_ends(store: ObjectStore) -> None:
    # P2's consent ends between the two questions of the first attempt; the attempt after it excludes P2.
    day = simple()
    new_build = build(store, day)
    check(store, new_build, day)
    answers = iter([day.consenting])
    try:
        go(store, new_build, day, consented=lambda: next(answers, day.without("P2").consenting))
    except StaleBuildError:  # its consent ended, or what an earlier attempt began is in the way
        deliver(store, day.without("P2"))


def _deliver_and_hold(store: ObjectStore, day: Day) -> None:
    for _ in range(2):  # before delivering and after it, as the feed does
        state = delivered_state(store, FEED, day.date)
        update_quarantine(store, plan(store, day).held_back, state, at=ASKED_AT, correlation_id="try-1")
        deliver(store, day)


def _many_revisions(store: ObjectStore) -> None:
    with mock.patch("os.fsync"):  # no process dies here
        for at in range(CHECKPOINT_EVERY):
            deliver(store, _revision(at))


def _fold(store: ObjectStore) -> None:
    _deliver_and_hold(store, _revision(CHECKPOINT_EVERY))


def _date_after_fold(store: ObjectStore) -> None:
    _deliver_and_hold(store, replace(simple(DAY2), broken=("P4",)))


def _folded(store: ObjectStore) -> None:
    _many_revisions(store)
    with mock.patch("os.fsync"):
        _fold(store)


def _revision(at: int) -> Day:
    return simple(snapshot=f"s{at}", **(AMOUNTS | {"P1": [f"{at}.00"]}))


def _refresh(store: ObjectStore) -> None:
    record_refresh(
        store,
        Refresh(
            feed=FEED,
            business_date=DAY2,
            portfolio_number="P1",
            early=False,
            consented_at=ASKED_AT,
            request=f"reruns/{FEED}/00000001.json",
            correlation_id="try-1",
        ),
    )
    in_full = with_refreshes(store, FEED, AUDIENCE, DAY2).refreshed.in_full
    history = {"P1": [*CHANGED["P1"], "3.00"]} if in_full else {}
    _deliver_and_hold(
        store, replace(simple(DAY2, snapshot="s3", **(AMOUNTS | history)), broken=("P4",), in_full=in_full)
    )


def _nothing(store: ObjectStore) -> None:
    return None


def _both(store: ObjectStore) -> None:
    _first(store)
    _reissue(store)


def _three(store: ObjectStore) -> None:
    _both(store)
    _next_date(store)


SCENARIOS: dict[str, tuple[Callable[[ObjectStore], None], Callable[[ObjectStore], None]]] = {
    "first delivery": (_nothing, _first),
    "re-issue": (_first, _reissue),
    "the date after a re-issue": (_both, _next_date),
    "consent ends meanwhile": (_nothing, _consent_ends),
    "sending": (_first, conversation.send),
    "consent ends before sending": (
        lambda store: _deliver_and_hold(store, simple()),
        conversation.send_after_consent_ended,
    ),
    "reading answers": (conversation.answered, conversation.read_answers),
    "from sending to the answers": (_first, conversation.converse),
    "refresh": (_three, _refresh),
    "fold into a checkpoint": (_many_revisions, _fold),
    "the date after a fold": (_folded, _date_after_fold),
}


def _prepare(where: Where, scenario: str) -> None:
    SCENARIOS[scenario][0](opened(where))


def _victim(where: Where, scenario: str, die_at: int, power_cut: bool, report: str, upload: str = "") -> None:
    # Runs in a forked process. Without ``report`` nothing is disturbed. ``upload``: the recipient's endpoint.
    _, work = SCENARIOS[scenario]
    store = opened(where)
    conversation.upload_url = f"{upload}{_name(where)}/"
    if report:
        reaper = Reaper(die_at)
        if isinstance(store, S3Store):
            wire(_s3_client(where[1]), reaper)
        else:
            Disk(Path(where[0]), reaper, power_cut=power_cut)
        conversation.wire_uploads(reaper)
        work(store)
        with open(report, "w") as file:  # noqa: PTH123
            json.dump(reaper.points, file)
    else:
        work(store)


def _racer(where: Where, at: int, gate: Any, results: Any) -> None:
    store, day = opened(where), simple(snapshot=f"s{at % 4}")
    gate.wait()
    results.put(deliver(store, day, f"racer-{at}", patience=60, sleep=lambda _: None, tries=40).kind)


@contextmanager
def s3_server(kind: str = "moto") -> Iterator[str]:
    """Run a local S3 server with a bucket called ``torture``, of a ``kind`` in S3_SERVERS."""
    with S3_SERVERS[kind]() as endpoint:
        create_bucket(endpoint, "torture")
        yield endpoint


class Nursery:
    """Processes forked from a clean one that has imported everything and run nothing."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["classfeed_dagster_tests.torture.nursery"])
        # Starting a process polls all others. Two threads that poll the same one take its exit code from each other,
        # and the second then reads 255.
        self._lock = threading.Lock()

    def run(self, work: Callable[..., None], *args: Any, **kwargs: Any) -> int | None:
        """Return the exit code of a victim; one that hangs for two minutes is an error of its own."""
        process = self.context.Process(target=work, args=args, kwargs=kwargs)
        with self._lock:
            process.start()
        ended = wait([process.sentinel], 120)
        with self._lock:
            if not ended:
                process.kill()
            process.join()
        if not ended:
            raise TimeoutError(f"a victim hung: {args[1:3]}")
        return process.exitcode


@dataclass(frozen=True)
class Site:
    """Place of the attacked stores, a folder or an S3 server, and of the recipient's endpoint."""

    kind: str  # disk, or one of S3_SERVERS
    folder: Path
    endpoint: str | None
    upload: str
    nursery: Nursery
    at_once: int

    def fresh(self) -> Where:
        """Return the place of an empty store."""
        name = uuid.uuid4().hex
        return (f"s3://torture/{name}", self.endpoint) if self.endpoint else (str(self.folder / name), None)

    def copy(self, of: Where) -> Where:
        """Copy a store, so that what it took to fill it is done once a case."""
        where = self.fresh()
        if not self.endpoint:
            if Path(of[0]).exists():
                shutil.copytree(of[0], where[0])
            return where
        for key in self._keys(of):
            target = _name(where) + key.removeprefix(_name(of))
            _s3_client(self.endpoint).copy_object(Bucket="torture", Key=target, CopySource=f"torture/{key}")
        return where

    def remove(self, where: Where) -> None:
        """Remove a store. A full bucket takes moto long to list; localbucket cannot remove many objects at once."""
        if not self.endpoint:
            shutil.rmtree(where[0], ignore_errors=True)
        elif self.kind == "moto":
            _s3_client(self.endpoint).delete_objects(
                Bucket="torture", Delete={"Objects": [{"Key": key} for key in self._keys(where)]}
            )

    def _keys(self, where: Where) -> list[str]:
        return [f"{_name(where)}/{key}" for key in opened(where).list("")]


def attack(budget: Budget, folder: Path, kind: str, cases: Collection[str] = (), at_once: int = 1) -> Iterator[Row]:
    """Kill at every point, or at as many as the budget allows, evenly spread; then race.

    ``kind``: disk, or one of S3_SERVERS. ``cases``: scenarios, by default all. ``at_once``: victims side by side.
    """
    # First: victims inherit them from the process that they are forked from, which outlives one attack.
    os.environ.update(AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local", AWS_DEFAULT_REGION="ap-southeast-2")
    nursery = Nursery()
    with s3_server(kind) if kind in S3_SERVERS else nullcontext() as endpoint, conversation.endpoint() as upload:
        site = Site(kind, folder, endpoint, upload, nursery, at_once)
        nursery.run(_victim, (str(folder / "warm"), None), "first delivery", 0, False, "")
        cuts = [False, True] if kind == "disk" else [False]
        attacks = [(scenario, cut) for scenario in cases or SCENARIOS for cut in cuts]
        for at, (scenario, cut) in enumerate(attacks):
            yield _killed(site, scenario, cut, budget.part(0.9 / (len(attacks) - at)))
        if not cases:
            yield _raced(nursery, site.fresh(), kind)


def _killed(site: Site, scenario: str, cut: bool, budget: Budget) -> Row:
    before, report = site.fresh(), site.folder / f"{uuid.uuid4().hex}.json"
    assert site.nursery.run(_prepare, before, scenario) == 0
    undisturbed = site.copy(before)
    assert site.nursery.run(_victim, undisturbed, scenario, 0, cut, str(report), upload=site.upload) == 0
    points = json.loads(report.read_text())
    expected = _facts(undisturbed, scenario)

    def attempt(die_at: int) -> list[str] | None:
        if budget.left <= 0 and die_at not in least:
            return None
        return _killed_at(site, scenario, cut, before, f"{points[die_at - 1]} (point {die_at})", die_at, expected)

    order = scattered(len(points))
    least = order[:LEAST]
    with ThreadPoolExecutor(site.at_once) as pool:
        tries = [broken for broken in pool.map(attempt, order) if broken is not None]
    label = "power cut" if cut else "SIGKILL"
    every = "every one of" if len(tries) == len(points) else f"{len(tries)} of"
    kinds = ", ".join(f"{name} {count}" for name, count in Counter(points).most_common())
    return Row(
        f"crash: {scenario}, {site.kind}", f"{label} at {every} {len(points)} points ({kinds})", len(tries),
        "the next run ends where an undisturbed one does", list(itertools.chain(*tries)),
    )  # fmt: skip


def _killed_at(
    site: Site, scenario: str, cut: bool, before: Where, at: str, die_at: int, expected: object
) -> list[str]:
    where, broken = site.copy(before), list[str]()
    victim = partial(site.nursery.run, _victim, where, scenario, upload=site.upload)
    code = victim(die_at, cut, str(site.folder / f"{_name(where)}.json"))
    if code not in (-signal.SIGKILL, 0):  # 0: threads took another turn, and there were fewer points
        broken.append(f"{at}: the victim ended by itself with {code}")
    if victim(0, cut, "") != 0:
        broken.append(f"{at}: the run after it failed")
    elif _facts(where, scenario) != expected:
        broken.append(f"{at}: what was delivered differs from an undisturbed run's")
    site.remove(where)
    return broken


def _facts(where: Where, scenario: str) -> object:
    """Return everything that must be equal: the deliveries, the chain, the portfolios held back."""
    store = opened(where)
    problems = verify_feed(store, FEED, FORMAT)
    wrong = [problem for problem in problems.problems if problem.kind is not ProblemKind.LEFTOVER]
    state: dict[str, object] = {key: data for key, data in contents(store).items() if not key.endswith(".part")}
    if scenario == "consent ends before sending":  # r0 is withheld, or was never begun
        lines = conversation.uploaded(_name(where))
        assert not any(b"P2" in line for line in lines), "P2 was sent after its consent ended"
        return {line: count for line, count in lines.items() if line[:1] in (b"A", b"C")}, wrong
    state["conversation"] = conversation.conversation(store, _name(where))
    if scenario == "consent ends meanwhile":  # a void more or less is as good
        sent = delivered_state(store, FEED, DAY1)
        assert all(b"P2" not in data for key, data in _documents(store).items()), "P2 left after its consent ended"
        times = Counter(portfolio.number for manifest in sent.deliveries for portfolio in manifest.portfolios)
        return sorted(times.items()), wrong
    return state, list(store.list(f"chain/{FEED}/")), [item.held_back for item in held(store, FEED)], wrong


def _documents(store: ObjectStore) -> dict[str, bytes]:
    import gzip

    keys = [key for key in store.list(f"delivered/{FEED}/") if key.endswith(".gz")]
    return {key: gzip.decompress(store.read(key)) for key in keys}


def _raced(nursery: Nursery, where: Where, kind: str) -> Row:
    gate, results = nursery.context.Barrier(PUBLISHERS), nursery.context.Queue()
    processes = [nursery.context.Process(target=_racer, args=(where, at, gate, results)) for at in range(PUBLISHERS)]
    for process in processes:
        process.start()
    broken = []
    for process in processes:
        process.join(180)
        if process.exitcode != 0:
            process.kill()
            broken.append(f"a publisher ended with {process.exitcode}")
    kinds = Counter(results.get(timeout=10) for _ in range(PUBLISHERS - len(broken)))
    store = opened(where)
    times = Counter(
        portfolio.number for m in delivered_state(store, FEED, DAY1).deliveries for portfolio in m.portfolios
    )
    if kinds["DELIVERED"] != 1 or set(times.values()) != {1}:
        broken.append(f"{kinds['DELIVERED']} deliveries")
    if not verify_feed(store, FEED, FORMAT).sound:
        broken.append("what was delivered is not sound")
    result = kinds["ALREADY_DELIVERED"] + kinds["NOTHING_TO_DO"]
    outcome = f"{kinds['DELIVERED']} delivered, {result} found it done"
    return Row(f"race, {kind}", f"{PUBLISHERS} publishers of one date at once", 1, outcome, broken)
