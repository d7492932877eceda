"""A whole delivery in a plain loop: who consents and what they have, planned, built, checked and published."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import polars as pl

from classfeed_dagster.delivery.build import Build, Terms, build_delivery
from classfeed_dagster.delivery.errors import StaleBuildError
from classfeed_dagster.delivery.evaluate import (
    control_totals_agree,
    document_valid,
    everyone_consented,
    examine_build,
    held_back_share,
    record_evaluation,
)
from classfeed_dagster.delivery.gate import record_verdict
from classfeed_dagster.delivery.manifest import SnapshotRef
from classfeed_dagster.delivery.plan import DeliveryPlan, plan_delivery
from classfeed_dagster.delivery.publish import Outcome, publish
from classfeed_dagster.delivery.state import delivered_state, earlier_date, ever_delivered
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.delivery.fake_format import LinesFormat

FEED = "lines_feed"
DAY1, DAY2, DAY3, DAY4 = (dt.date(2023, 1, day) for day in (3, 4, 5, 6))
AUDIENCE = Audience("CLASS", DAY1)
ASKED_AT = dt.datetime(2023, 1, 9, 20, tzinfo=dt.UTC)
FORMAT = LinesFormat()
AMOUNTS = {"P1": ["10.00", "-2.50"], "P2": ["1.00"], "P3": [], "P4": ["7.77"], "P5": ["0.01"]}
NOT_OF_BYTES = ("consent_roll", "live_gate", "one_live_feed")  # what the feed judges beside the documents


@dataclass(frozen=True)
class Day:
    """One business date's input. ``content``: portfolio number to (change, amounts)."""

    date: dt.date
    content: Mapping[str, tuple[str, Sequence[str]]]
    broken: Sequence[str] = ()
    consented_now: frozenset[str] | None = None  # None: everyone
    snapshot: str = "s1"
    held_back_limit: Decimal = Decimal("0.5")

    def without(self, *numbers: str) -> Day:
        return replace(self, consented_now=frozenset(self.active - set(numbers)))

    @property
    def active(self) -> set[str]:
        return {number for number, (change, _) in self.content.items() if change != "REMOVED"}

    @property
    def consenting(self) -> frozenset[str]:
        return frozenset(self.active) if self.consented_now is None else self.consented_now

    @property
    def consented(self) -> pl.DataFrame:
        extract = {"NEW": "FULL", "CURRENT": "DELTA", "REMOVED": "NONE"}
        rows = [(n, change, extract[change], [at]) for at, (n, (change, _)) in enumerate(self.content.items(), 1)]
        schema = {
            "portfolio_number": pl.String,
            "change": pl.String,
            "extract": pl.String,
            "consent_ids": pl.List(pl.Int64),
        }
        return pl.DataFrame(rows, schema=schema, orient="row")

    @property
    def findings(self) -> pl.DataFrame:
        rows = [
            (number, "units_ledger", "QUARANTINE", f"BHP{at}", "ledger 10, holding 9")
            for number in self.broken
            for at in range(2)
        ]
        return pl.DataFrame(rows, schema=FINDINGS.schema, orient="row")

    def slices(self, size: int = 3) -> Iterator[dict[str, pl.DataFrame]]:
        numbers = sorted(self.content)
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            accounts = [(number, self.content[number][0]) for number in chosen]
            cash = [(number, Decimal(amount)) for number in chosen for amount in self.content[number][1]]
            yield {
                "accounts": pl.DataFrame(accounts, schema=["portfolio_number", "change"], orient="row"),
                "cash": pl.DataFrame(
                    cash, schema={"portfolio_number": pl.String, "amount": pl.Decimal(18, 2)}, orient="row"
                ),
                "securities": pl.DataFrame({"code": ["BHP"]}),
            }

    @property
    def snapshot_ref(self) -> SnapshotRef:
        # Another reading of bigsite is a later one.
        at = dt.datetime(2023, 1, 9, 19, tzinfo=dt.UTC) + dt.timedelta(seconds=int(self.snapshot[1:]))
        key = f"landing/{self.date}/snapshot/{self.snapshot}.json"
        return SnapshotRef(id=self.snapshot, snapshot_at=at, descriptor_key=key, descriptor_sha256="0" * 64)


def plan(store: ObjectStore, day: Day, audience: Audience = AUDIENCE) -> DeliveryPlan:
    return plan_delivery(
        day.date,
        consented=day.consented,
        findings=day.findings,
        consented_now=day.consenting,
        earlier=earlier_date(store, FEED, audience, day.date),
        ever_delivered=lambda numbers: ever_delivered(store, FEED, audience, numbers, day.date),
        max_held_back_share=day.held_back_limit,
    )


def build(
    store: ObjectStore,
    day: Day,
    *,
    correlation_id: str = "try-1",
    max_page_bytes: int = 8192 + 60,
    compress: bool = True,
    code_version: str = "1.0",
    document_format: LinesFormat = FORMAT,
    slice_size: int = 3,
) -> Build:
    made_under = terms(
        store,
        day,
        correlation_id=correlation_id,
        max_page_bytes=max_page_bytes,
        compress=compress,
        code_version=code_version,
        document_format=document_format,
    )
    return build_delivery(store, made_under, plan(store, day), day.slices(slice_size))


def terms(store: ObjectStore, day: Day, feed: str = FEED, **others: Any) -> Terms:
    """What a delivery of ``day`` is made under."""
    given: dict[str, Any] = {
        "document_format": FORMAT,
        "code_version": "1.0",
        "correlation_id": "try-1",
        "max_page_bytes": 8192 + 60,
        **others,
    }
    return Terms(feed, AUDIENCE, delivered=delivered_state(store, feed, day.date), snapshot=day.snapshot_ref, **given)


def check(store: ObjectStore, made: Build, day: Day, correlation_id: str = "try-1") -> None:
    examined = examine_build(store, made, FORMAT)
    for evaluation in (
        document_valid(made, examined),
        everyone_consented(made, examined, day.consenting),
        control_totals_agree(made, examined),
        held_back_share(plan(store, day), day.held_back_limit),
    ):
        record_evaluation(store, made, evaluation, correlation_id)
    for name in NOT_OF_BYTES:
        record_verdict(store, made, name, True, "1 + 1 - 0 = 2", correlation_id)


def no_sleep(_: float) -> None:
    return None


def go(
    store: ObjectStore,
    made: Build,
    day: Day,
    *,
    correlation_id: str = "try-1",
    patience_seconds: float = 0.0,
    sleep: Callable[[float], None] = no_sleep,
    consented: Callable[[], frozenset[str]] | None = None,
) -> Outcome:
    ask = consented or (lambda: day.consenting)
    return publish(
        store,
        made,
        consented_now=lambda: (ASKED_AT, ask()),
        audience=AUDIENCE,
        correlation_id=correlation_id,
        patience_seconds=patience_seconds,
        sleep=sleep,
    )


def deliver(
    store: ObjectStore,
    day: Day,
    correlation_id: str = "try-1",
    *,
    tries: int = 8,
    patience: float = 0.0,
    sleep: Callable[[float], None] = no_sleep,
) -> Outcome:
    """What a run does: build, check, publish, and again if something changed meanwhile."""
    for attempt in range(tries):
        made = build(store, day, correlation_id=correlation_id)
        check(store, made, day, correlation_id)
        try:
            return go(store, made, day, correlation_id=correlation_id, patience_seconds=patience, sleep=sleep)
        except StaleBuildError:
            if attempt == tries - 1:
                raise
    raise AssertionError


@dataclass
class Counting:
    """A store that counts calls, and where the process can die before one of them and for ever after."""

    store: ObjectStore
    fail_at: int = 0
    calls: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getattr__(self, name: str) -> object:
        method = getattr(self.store, name)
        if name not in ("read", "exists", "list", "create", "put", "delete", "local_file"):
            return method

        def call(*args: object, **kwargs: object) -> object:
            with self.lock:
                self.calls.append(f"{name} {args[0]}")
                if 0 < self.fail_at <= len(self.calls):
                    raise Crash(self.calls[-1])
            return method(*args, **kwargs)

        return call


class Crash(BaseException):
    """The process died here."""


def simple(date: dt.date = DAY1, snapshot: str = "s1", **amounts: Sequence[str]) -> Day:
    content = amounts or AMOUNTS
    change = "NEW" if date == DAY1 else "CURRENT"
    return Day(date, {number: (change, tuple(values)) for number, values in content.items()}, snapshot=snapshot)


def contents(store: ObjectStore) -> dict[str, bytes]:
    """Everything delivered, void manifests and what they left out of it aside: key to bytes."""
    return {key: store.read(key) for key in store.list(f"delivered/{FEED}/")}
