"""One daemon, a backlog of business dates, a fault for each: every date must be delivered once, without an operator.

Judged by what is left: the documents are those of an undisturbed run on the same data, the chain verifies, every run
has ended, people were notified of expected incidents at most, and only machines have started anything.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus
from openfeature import api

from classfeed_dagster.delivery.ledger_rebuild import audit_positions
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.run_date import run_date
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.toil import Launcher, launcher
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.tags import CLOCK_TAG
from classfeed_dagster_tests.torture.daemon.faults import FAULTS, Fault, Harm, launched_by_a_person
from classfeed_dagster_tests.torture.daemon.stack import Stack, StuckError, due_dates, running
from classfeed_dagster_tests.torture.outcome import Budget, Row

ATTACK = "daemon"
SHORT = 3  # of the faults, whatever the budget: an undisturbed date, a killed worker, S3 away
SECONDS_EACH = 75.0  # about what a date with a fault takes


@dataclass
class Played:
    """One date, what was done to it, and how it came out."""

    fault: Fault
    day: dt.date
    harm: Harm
    seconds: float
    alerts: int
    runs: int
    broken: list[str] = field(default_factory=list)


def attack(budget: Budget, folder: Path, s3: str = "moto") -> Iterator[Row]:
    """Plant as many faults as the budget allows, each on a business date of its own. ``s3``: one of S3_SERVERS."""
    count = max(SHORT, min(len(FAULTS), int(budget.left / SECONDS_EACH)))
    yield from campaign(FAULTS[:count], folder, s3)
    if count == len(FAULTS) and s3 == "moto":
        from classfeed_dagster_tests.torture.daemon.warehouse import warehouse_away

        with tempfile.TemporaryDirectory(prefix="classfeed-torture-", ignore_cleanup_errors=True) as other:
            yield warehouse_away(Path(other))
        yield from talk()


def talk(_: Budget | None = None, folder: Path | None = None) -> Iterator[Row]:
    """Play every kill in the middle of a conversation with the recipient."""
    from classfeed_dagster_tests.torture.daemon.conversation import conversation

    with tempfile.TemporaryDirectory(prefix="classfeed-torture-", ignore_cleanup_errors=True) as other:
        yield from conversation(folder or Path(other))


def campaign(faults: Sequence[Fault], folder: Path, s3: str = "moto") -> Iterator[Row]:
    """Play ``faults``, a date each; a row for each and one for the whole."""
    dates = due_dates(len(faults))
    with running(folder, dates, s3=s3) as stack:
        skipped = {fault.name: why for fault in faults if (why := fault.needs(stack)) is not None}
        played: list[Played] = []
        for fault, day in zip(faults, dates, strict=True):
            played.append(_play(stack, none_instead(fault) if fault.name in skipped else fault, day))
            sys.stderr.write(f"  {day} {fault.name}: {_outcome(played[-1])} {'; '.join(played[-1].broken)}\n")
            if played[-1].broken and not stack.status(day).deliveries:
                break  # the dates after it wait for it
        whole = [*_lasting(stack, len(dates) if len(played) == len(faults) else None)]
        _compare(stack, played, folder)
        for item in played:
            why = skipped.get(item.fault.name)
            yield Row(
                ATTACK, item.fault.name, item.harm.times, f"not played: {why}" if why else _outcome(item), item.broken
            )
        count = len(stack.slack.messages)
        yield Row(
            ATTACK, f"{len(played)} business dates, one daemon", sum(outcome.harm.times for outcome in played),
            f"each delivered once; documents as undisturbed; {count} messages in the channel", whole,
        )  # fmt: skip


def none_instead(fault: Fault) -> Fault:
    """Deliver the same date without the fault, which cannot be played on this machine."""
    return Fault(fault.name, FAULTS[0].do, fault.alerts)


def _play(stack: Stack, fault: Fault, day: dt.date) -> Played:
    began, before = time.monotonic(), len(stack.slack.messages)
    broken: list[str] = []
    harm = Harm(0, began)
    try:
        harm = fault.do(stack, day)
        stack.until(lambda: stack.status(day).deliveries, f"the delivery of {day}")
    except (StuckError, OSError) as error:
        broken.append(str(error))
    seconds = time.monotonic() - harm.at
    if not broken:
        broken += _settled(stack, fault, day)
    count = len(stack.slack.messages) - before
    # The backlog is late from its beginning, which is said once, at the first date.
    allowed = fault.alerts + (1 if day == stack.dates[0] else 0)
    if count > allowed:
        broken.append(f"{count} alerts: {'; '.join(message.text for message in stack.slack.messages[before:])}")
    return Played(fault, day, harm, seconds, count, len(stack.runs(day)), broken)


def _settled(stack: Stack, fault: Fault, day: dt.date) -> Iterator[str]:
    # What must be true of the date alone, once its runs are over.
    try:
        # A worker may have died with its work done: the run that Dagster starts in its place finds nothing to do.
        stack.until(lambda: _over(stack, day), f"the end of the runs of {day}")
    except StuckError as error:
        yield str(error)
        return
    runs = [record.dagster_run for record in stack.runs(day)]
    people = sum(launcher(run.tags) is Launcher.PERSON for run in runs)
    if people and fault.do is not launched_by_a_person:
        yield f"{people} run(s) of {day} count as a person's"
    status = stack.status(day)
    if [manifest.revision for manifest in status.deliveries] != [0] or not status.complete:
        yield f"{day}: revisions {[manifest.revision for manifest in status.deliveries]}, {status.delivered} delivered"


def _over(stack: Stack, day: dt.date) -> bool:
    runs = [record.dagster_run for record in stack.runs(day)]
    return all(run.is_finished for run in runs) and any(run.status is DagsterRunStatus.SUCCESS for run in runs)


def _lasting(stack: Stack, dates: int | None) -> Iterator[str]:
    problems = verify_feed(stack.store, FEED.name, FEED.format)
    yield from (str(problem) for problem in problems.problems)
    for audit in audit_positions(stack.store, FEED.name, FEED.audience(stack.dates[0])):
        if audit.wrong:
            yield f"{audit.business_date}: {len(audit.wrong)} position(s) are not the sums of their records"
    manifests = [key for key in stack.store.list(f"delivered/{FEED.name}/") if key.endswith("/manifest.json")]
    if dates is not None and len(manifests) != dates:
        yield f"{len(manifests)} manifests for {dates} dates"
    unfinished = [run.run_id for run in stack.instance.get_runs() if not run.is_finished]
    if unfinished:
        yield f"runs without an end: {', '.join(unfinished)}"


def _compare(stack: Stack, played: Sequence[Played], folder: Path) -> None:
    # The same dates again, undisturbed, each stating the instant that its disturbed document states.
    delivered = {outcome.day: result[0] for outcome in played if (result := stack.status(outcome.day).deliveries)}
    again = _undisturbed(stack, delivered, folder / "undisturbed")
    for item in played:
        if item.day in delivered and _documents(delivered[item.day]) != _documents(again[item.day]):
            item.broken.append(f"{item.day}: the documents are not those of an undisturbed run")


def _undisturbed(stack: Stack, delivered: dict[dt.date, Manifest], folder: Path) -> dict[dt.date, Manifest]:
    runtime = Runtime(
        Settings(
            bigsite_url=stack.environment["CLASSFEED_BIGSITE_URL"], home=folder, first_business_date=stack.dates[0]
        )
    )
    definitions = build_definitions(runtime, [FEED])
    manifests: dict[dt.date, Manifest] = {}
    try:
        with DagsterInstance.ephemeral() as instance:
            for day, manifest in sorted(delivered.items()):
                clock = {CLOCK_TAG: manifest.snapshot.snapshot_at.isoformat()}
                report = run_date(definitions, instance, FEED.name, day, tags=clock)
                assert report.outcome.exit_code == 0, report.message
                manifests[day] = _first(runtime.store, day)
    finally:
        runtime.close()
        api.clear_providers()
    return manifests


def _first(store: ObjectStore, day: dt.date) -> Manifest:
    from classfeed_dagster.delivery.delivery_history import date_status

    return date_status(store, FEED.name, day).deliveries[0]


def _documents(manifest: Manifest) -> list[str]:
    return [page.document_sha256 for page in manifest.pages]


def _outcome(one: Played) -> str:
    seconds = f"delivered {one.seconds:.0f} s after it began" if one.harm.times else f"{one.seconds:.0f} s"
    runs = f"{one.runs} run{'' if one.runs == 1 else 's'}"
    alerts = f"{one.alerts or 'no'} alert{'' if one.alerts == 1 else 's'}"
    people = "none of them needed" if one.fault.do is launched_by_a_person else "human actions 0"
    return f"{seconds}; {runs}, {alerts}, {people}"
