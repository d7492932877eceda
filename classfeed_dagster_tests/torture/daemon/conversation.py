"""Kills in the middle of a conversation under the daemon: each file is sent once, each answer recorded once.

The recipient's bucket keeps every version of an object, so that a file that was sent again and replaced is seen.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from dagster import RunsFilter

from classfeed_dagster.acknowledgements.inbox import acknowledgements
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.local import snowflake_server as server
from classfeed_dagster.service_levels.toil import Launcher, launcher
from classfeed_dagster.settings import Settings
from classfeed_dagster.simulation.recipient_answers import put_answers
from classfeed_dagster.transmission.destination import file_name
from classfeed_dagster.transmission.send import receipts, unsent
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.database import query
from classfeed_dagster_tests.torture.daemon.answering import MAPPING, RECIPIENT_VARIABLE
from classfeed_dagster_tests.torture.daemon.proxy import Effect, Trouble
from classfeed_dagster_tests.torture.daemon.stack import Stack, StuckError, due_dates, running
from classfeed_dagster_tests.torture.outcome import Row

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_LOST_AFTER = 150  # seconds after which a run without a worker counts as lost
_RESTART = 5.0
_ANSWERING = "classfeed_dagster_tests.torture.daemon.answering"
_JOB = f"{FEED.name}_acknowledgement_job"


@dataclass(frozen=True)
class Kill:
    """SIGKILL for the worker at a request, with the daemon and the code server or alone."""

    name: str
    pattern: str  # {day} and {compact} are replaced by the business date, {bucket} by the recipient's
    effect: Effect
    daemon: bool


# For each date: while it is sent, and while its answer is read.
KILLS: tuple[tuple[Kill, Kill], ...] = (
    (
        Kill("daemon and run worker killed: file sent, no receipt", r"PUT .*/transmitted/[^/]+/{day}/", Effect.KILL, daemon=True),
        Kill("daemon and run worker killed: answer arrived, not recorded", r"PUT .*/acknowledged/[^/]+/{day}/", Effect.KILL, daemon=True),
    ),
    (
        Kill("run worker killed: file sent, not known to be", r"PUT /{bucket}/.*{compact}", Effect.KILL_AFTER, daemon=False),
        Kill("run worker killed: answer recorded, not in the warehouse", r"PUT .*/acknowledged/[^/]+/{day}/", Effect.KILL_AFTER, daemon=False),
    ),
    (
        Kill("run worker killed: receipt stored, not known to be", r"PUT .*/transmitted/[^/]+/{day}/", Effect.KILL_AFTER, daemon=False),
        Kill("daemon and run worker killed: answer recorded, not in the warehouse", r"PUT .*/acknowledged/[^/]+/{day}/", Effect.KILL_AFTER, daemon=True),
    ),
)  # fmt: skip


def conversation(folder: Path) -> Iterator[Row]:
    """Play every kill, two a date; a row for each."""
    dates = due_dates(len(KILLS))
    bucket = f"recipient-{uuid.uuid4().hex}"
    sensors = ("repair", f"{FEED.name}_acknowledgements")
    extra = {RECIPIENT_VARIABLE: bucket, "CLASSFEED_FLAGS": "{}"}
    with running(
        folder, dates, sensors=sensors, module=_ANSWERING, environment=extra, lost_after=_LOST_AFTER
    ) as stack, contextlib.ExitStack() as ending:  # fmt: skip
        create_recipient(stack, bucket)
        ending.callback(server.stop, Path(stack.environment["CLASSFEED_HOME"]))
        # From the beginning: a date is sent as soon as the one before it is.
        sending = [
            ending.enter_context(_trouble(stack, bucket, day, kill))
            for day, (kill, _) in zip(dates, KILLS, strict=True)
        ]
        for at, (day, kills) in enumerate(zip(dates, KILLS, strict=True)):
            for step, kill in enumerate(kills):
                began, broken = time.monotonic(), list[str]()
                try:
                    if step:
                        _answer(stack, bucket, day, kill)
                    else:
                        _send(stack, day, kill, sending[at])
                except StuckError as error:
                    broken.append(str(error))
                broken += _wrong(stack, bucket, dates[: at + 1], day if step else None)
                outcome = f"by itself {time.monotonic() - began:.0f} s after it began; sent once, recorded once"
                sys.stderr.write(f"  {day} {kill.name}: {outcome} {'; '.join(broken)}\n")
                yield Row("daemon", kill.name, 1, outcome, broken)
                if broken:
                    return


def create_recipient(stack: Stack, bucket: str) -> None:
    """Create the recipient's bucket, which keeps every version."""
    s3 = _s3(stack)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"})
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def _s3(stack: Stack) -> S3Client:
    return boto3.client("s3", endpoint_url=stack.proxy.url)


def _trouble(stack: Stack, bucket: str, day: dt.date, kill: Kill) -> AbstractContextManager[Trouble]:
    pattern = kill.pattern.format(day=day, compact=f"{day:%Y%m%d}", bucket=bucket)
    return stack.proxy.trouble(pattern, kill.effect, times=1)


def _send(stack: Stack, day: dt.date, kill: Kill, trouble: Trouble) -> None:
    _die(stack, trouble, kill, day)
    stack.until(
        lambda: stack.status(day).deliveries and not unsent(stack.store, FEED.name, day), f"the receipts of {day}"
    )
    stack.until(
        lambda: all(record.dagster_run.is_finished for record in stack.runs(day)), f"the end of the runs of {day}"
    )


def _answer(stack: Stack, bucket: str, day: dt.date, kill: Kill) -> None:
    with _trouble(stack, bucket, day, kill) as trouble:
        for manifest in stack.status(day).deliveries:
            for page in manifest.pages:
                put_answers(stack.store, manifest, page, MAPPING)
        _die(stack, trouble, kill, day)
    stack.until(lambda: _loaded(stack, day), f"the answers of {day} in the warehouse")


def _die(stack: Stack, trouble: Trouble, kill: Kill, day: dt.date) -> None:
    stack.until(lambda: trouble.victims, f"{kill.name} ({day})")
    if kill.daemon:
        stack.kill(stack.daemons[0], children=True)
        time.sleep(_RESTART)
        stack.start_daemon()


def _loaded(stack: Stack, day: dt.date) -> dict[str, int]:
    time.sleep(5)  # each question may start the local warehouse
    runs = stack.instance.get_runs(RunsFilter(job_name=_JOB))
    return {} if any(not run.is_finished for run in runs) else _rows(stack, day)


def _rows(stack: Stack, day: dt.date) -> dict[str, int]:
    with open_warehouse(Settings(home=Path(stack.environment["CLASSFEED_HOME"]))) as connection:
        rows = query(
            connection,
            f"SELECT MESSAGE_ID, COUNT(*) FROM ACKNOWLEDGEMENT WHERE BUSINESS_DATE = '{day}' GROUP BY MESSAGE_ID",
        )
    return dict(rows)


def _wrong(stack: Stack, bucket: str, days: list[dt.date], answered: dt.date | None) -> Iterator[str]:
    sent = Counter(version["Key"] for version in _s3(stack).list_object_versions(Bucket=bucket).get("Versions", ()))
    expected = Counter[str]()
    for day in days:
        deliveries = stack.status(day).deliveries
        if [manifest.revision for manifest in deliveries] != [0]:
            yield f"{day}: revisions {[manifest.revision for manifest in deliveries]}"
        pages = [page for manifest in deliveries for page in manifest.pages]
        expected.update(file_name(page.key) for page in pages)
        if sorted(receipt.message_id for receipt in receipts(stack.store, FEED.name, day)) != sorted(
            page.message_id for page in pages
        ):
            yield f"{day}: not one receipt a file"
        if day == answered:
            kept = Counter(answer.message_id for answer in acknowledgements(stack.store, FEED.name, day))
            if not kept == Counter(_rows(stack, day)) == Counter(page.message_id for page in pages):
                yield f"{day}: answers kept {dict(kept)}, in the warehouse {_rows(stack, day)}"
    if any(sent[name] != times for name, times in expected.items()):
        yield f"the recipient has {dict(sent)} for {dict(expected)}"
    yield from (str(problem) for problem in verify_feed(stack.store, FEED.name, FEED.format).problems)
    people = [run.run_id for run in stack.instance.get_runs() if launcher(run.tags) is Launcher.PERSON]
    if people:
        yield f"runs of a person: {', '.join(people)}"
