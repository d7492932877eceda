"""The faults. Each waits for its moment in a business date's run, does its harm, and takes it back.

Corrections outside the project (a database that is up again, a disk that is empty again, a column that has
its type again) is taken back; no person uses Dagster or the feed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from dagster import DagsterRunStatus

from classfeed_dagster_tests.torture.daemon.proxy import Effect, Trouble
from classfeed_dagster_tests.torture.daemon.stack import Stack, StuckError

_CUT_UPLOADS = 12  # the client tries each upload five times
_MESSAGES = 20
_PAGE = 4096
_LOCK = sa.text("LOCK TABLE bigsite.cash_transaction IN ACCESS EXCLUSIVE MODE")
_RUBBISH = ("not json", '{"event_id": "x"}', '{"event_id": 7, "portfolio_id": "many"}')


@dataclass(frozen=True)
class Harm:
    """Record of a fault: number of times, and the instant of the first (time.monotonic)."""

    times: int
    at: float


@dataclass(frozen=True)
class Fault:
    """``do`` returns once the harm is done and taken back. ``alerts``: how many messages it may cost at most."""

    name: str
    do: Callable[[Stack, dt.date], Harm]
    alerts: int = 1
    needs: Callable[[Stack], str | None] = lambda _: None  # a reason why it can't be played here


def none(stack: Stack, day: dt.date) -> Harm:
    """Play an undisturbed date, for comparison."""
    return Harm(0, time.monotonic())


def kill_at(pattern: str, effect: Effect = Effect.KILL) -> Callable[[Stack, dt.date], Harm]:
    """Kill the run worker at the request that ``pattern`` names; ``{day}`` is replaced by the business date."""

    def do(stack: Stack, day: dt.date) -> Harm:
        with stack.proxy.trouble(pattern.format(day=day), effect, times=1) as trouble:
            stack.until(lambda: trouble.victims, f"a request {pattern} of {day}")
        return _harm(trouble)

    return do


def daemon_killed(stack: Stack, day: dt.date) -> Harm:
    """Kill the daemon only, while a run is at work; restart it five seconds later."""
    return _daemon_gone(stack, day, children=False)


def machine_lost(stack: Stack, day: dt.date) -> Harm:
    """Kill daemon, code server and run worker at once."""
    return _daemon_gone(stack, day, children=True)


def _daemon_gone(stack: Stack, day: dt.date, *, children: bool) -> Harm:
    with _in_the_middle(stack, day):
        at = time.monotonic()
        stack.kill(stack.daemons[0], children=children)
    time.sleep(5)
    stack.start_daemon()
    return Harm(1, at)


def two_daemons(stack: Stack, day: dt.date) -> Harm:
    """Run a second daemon on the same instance until the date is delivered."""
    at = time.monotonic()
    second = stack.start_daemon()
    stack.until(lambda: stack.status(day).deliveries, f"the delivery of {day} by two daemons")
    _runs_end(stack, day)
    stack.kill(second, children=True)
    return Harm(1, at)


def source_down(seconds: float) -> Callable[[Stack, dt.date], Harm]:
    """Kill PostgreSQL in the middle of the snapshot, for so long."""

    def do(stack: Stack, day: dt.date) -> Harm:
        waiting = sa.text(
            "SELECT query ILIKE '%COPY%' FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND query NOT ILIKE 'LOCK%'"
        )
        at = time.monotonic()
        # Some tables are read, one is not: the snapshot waits for its lock.
        with contextlib.suppress(sa.exc.SQLAlchemyError), stack.bigsite.connect() as holder:
            holder.execute(_LOCK)

            def in_the_middle() -> bool:
                with stack.bigsite.connect() as asking:
                    result = asking.execute(waiting).scalars().all()
                if any(result):
                    return True
                if result:  # the question about the schema, or a sensor's: let it pass, and be next in line
                    holder.rollback()
                    holder.execute(_LOCK)
                return False

            stack.until(in_the_middle, f"the snapshot of {day}")
            at = time.monotonic()
            stack.postgres.stop()
        time.sleep(seconds)
        stack.postgres.start()
        return Harm(1, at)

    return do


def store_unavailable(seconds: float) -> Callable[[Stack, dt.date], Harm]:
    """Let S3 answer all requests with 503 for a time, from the date's first staged page on."""

    def do(stack: Stack, day: dt.date) -> Harm:
        with stack.proxy.trouble(rf"PUT .*/staged/[^/]+/{day}/", Effect.UNAVAILABLE, times=1) as first:
            stack.until(lambda: first.hits, f"the document of {day}")
            with stack.proxy.trouble(r"/feed", Effect.UNAVAILABLE) as trouble:
                time.sleep(seconds)
        return Harm(first.hits + trouble.hits, first.first_at or 0.0)

    return do


def store_slow(stack: Stack, day: dt.date) -> Harm:
    """Delay every request about the date by a second."""
    with stack.proxy.trouble(rf"{day}", Effect.SLOW, seconds=1.0) as trouble:
        stack.until(lambda: stack.status(day).deliveries, f"the delivery of {day} to a slow store", 900)
    return _harm(trouble)


def uploads_cut(stack: Stack, day: dt.date) -> Harm:
    """Break the connection in the middle of the date's uploads, more often than the client retries."""
    pattern = rf"PUT .*/(landing|staged|delivered)/.*{day}"
    with stack.proxy.trouble(pattern, Effect.CUT, times=_CUT_UPLOADS) as trouble:
        stack.until(lambda: trouble.hits >= _CUT_UPLOADS, f"{_CUT_UPLOADS} cut uploads of {day}")
    return _harm(trouble)


def disk_full(stack: Stack, day: dt.date) -> Harm:
    """Fill the disk for temporary files until a run of the date has failed."""
    ballast = stack.scratch / "ballast"
    at = time.monotonic()
    with ballast.open("wb", buffering=0) as target, contextlib.suppress(OSError):
        while True:
            target.write(bytes(_PAGE))
    # A little is left: Python takes a disk on which it can't write a word for none, and uses another.
    os.truncate(ballast, ballast.stat().st_size - 2 * _PAGE)
    try:
        _a_run_fails(stack, day)
    finally:
        ballast.unlink()
    return Harm(1, at)


def column_retyped(stack: Stack, day: dt.date) -> Harm:
    """Change a read column's type; no retry may happen before it is restored."""
    with stack.bigsite.begin() as connection:
        connection.execute(sa.text("ALTER TABLE bigsite.trade ALTER COLUMN units TYPE text"))
    at = time.monotonic()
    try:
        _a_run_fails(stack, day)
        runs = len(stack.runs(day))
        time.sleep(30)  # some looks of the sensors
        if len(stack.runs(day)) != runs:
            raise StuckError(f"{day} was tried again although bigsite's schema had not changed back")
    finally:
        with stack.bigsite.begin() as connection:
            connection.execute(
                sa.text("ALTER TABLE bigsite.trade ALTER COLUMN units TYPE numeric(20,6) USING units::numeric")
            )
    return Harm(1, at)


def launched_by_a_person(stack: Stack, day: dt.date) -> Harm:
    """Launch the date from Dagster and from the command line while its run is at work."""
    with _in_the_middle(stack, day):
        at = time.monotonic()
        tags = json.dumps({"dagster/partition": day.isoformat()})
        launch = (
            "job",
            "launch",
            "-w",
            str(stack.workspace),
            "-l",
            "classfeed",
            "-j",
            "class_super_job",
            "--tags",
            tags,
        )
        people = [stack.command("dagster", *launch), stack.command("classfeed", "run", "--date", day.isoformat())]
        time.sleep(8)  # the second one is at work too by now
    launched, _ = [person.wait(600) for person in people]
    if launched:
        raise StuckError(f"a person could not launch {day}; see {stack.folder / 'commands.log'}")
    _runs_end(stack, day)
    return Harm(2, at)


def queue_shuffled(stack: Stack, day: dt.date) -> Harm:
    """Send consent events three times each, in any order, and some that are unreadable."""
    bodies = [_event(at, day) for at in range(_MESSAGES)] * 3 + list(_RUBBISH)
    random.Random(1).shuffle(bodies)
    at = time.monotonic()
    for body in bodies:
        stack.sqs.send_message(QueueUrl=stack.queue, MessageBody=body)
    stack.until(lambda: _waiting(stack, stack.queue) == 0, "the end of the queue")
    stack.until(lambda: _waiting(stack, stack.dead_letters) == len(_RUBBISH), "the dead letters")
    stack.until(lambda: _told(stack, "could not be read"), "the alert about dead letters")
    stack.sqs.purge_queue(QueueUrl=stack.dead_letters)
    return Harm(len(bodies), at)


def _event(at: int, day: dt.date) -> str:
    return json.dumps(
        {
            "event_id": f"event-{day}-{at}", "consent_id": at + 1, "portfolio_id": at + 1, "kind": "CHANGED",
            "instant": f"{day}T01:00:{at:02d}+00:00", "correlation_id": f"from-bigsite-{at}",
        }
    )  # fmt: skip


def _waiting(stack: Stack, queue: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer: Mapping[str, str] = stack.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(int(answer[name]) for name in names)


def _told(stack: Stack, words: str) -> bool:
    return any(words in message.text for message in stack.slack.messages)


def _harm(trouble: Trouble) -> Harm:
    return Harm(trouble.hits, trouble.first_at or time.monotonic())


@contextmanager
def _in_the_middle(stack: Stack, day: dt.date) -> Iterator[Trouble]:
    # The run of the date has landed its snapshot and is held for some seconds at the first domain.
    with stack.proxy.trouble(rf"PUT .*/domains/{day}/", Effect.SLOW, times=1, seconds=10.0) as trouble:
        stack.until(lambda: trouble.hits, f"a run of {day} at work")
        yield trouble


def _a_run_fails(stack: Stack, day: dt.date) -> None:
    def failed() -> bool:
        return any(record.dagster_run.status is DagsterRunStatus.FAILURE for record in stack.runs(day))

    stack.until(failed, f"a failed run of {day}")


def _runs_end(stack: Stack, day: dt.date) -> None:
    stack.until(
        lambda: bool(runs := stack.runs(day)) and all(record.dagster_run.is_finished for record in runs),
        f"the end of the runs of {day}",
    )


_CLASS = "CLASS-[^/]*"
FAULTS: tuple[Fault, ...] = (
    Fault("none: undisturbed, for comparison", none),  # the backlog itself is late, and is reported once
    Fault("run worker killed: delivery, its manifest stored but not known to be", kill_at(r"PUT .*/delivered/[^/]+/{day}/r0/manifest", Effect.KILL_AFTER)),
    Fault("S3 answers 503 for 40 s, from the document on", store_unavailable(40), alerts=1),
    Fault("run worker killed: snapshot, half of its tables landed", kill_at(r"PUT .*/landing/{day}/income/")),
    Fault("run worker killed: snapshot landed but not recorded", kill_at(r"PUT .*/references/{day}/landing")),
    Fault("run worker killed: a domain", kill_at(rf"PUT .*/domains/{{day}}/{_CLASS}/investment_holdings/")),
    Fault("run worker killed: quarantine", kill_at(r"PUT .*/references/{day}/class_super/quarantine")),
    Fault("run worker killed: document, pages staged but not recorded", kill_at(r"PUT .*/staged/[^/]+/{day}/[^/]+/build")),
    Fault("run worker killed: a check's verdict", kill_at(r"PUT .*/verdicts/[^/]+/{day}/")),
    Fault("run worker killed: delivery, pages stored, no manifest", kill_at(r"PUT .*/delivered/[^/]+/{day}/r0/manifest")),
    Fault("daemon killed, started again after 5 s", daemon_killed),
    Fault("daemon, code server and run worker killed, started again after 5 s", machine_lost),
    Fault("PostgreSQL gone for 60 s in the middle of the snapshot", source_down(60)),
    Fault("S3 slow: a second more for each request", store_slow),
    Fault("S3 cuts the connection in the middle of uploads", uploads_cut),
    Fault("disk for temporary files full", disk_full, needs=lambda stack: None if stack.bounded else "no small disk can be mounted here"),
    Fault("a column's type changed, and back after 30 s and more", column_retyped),
    Fault("two daemons at once", two_daemons),
    Fault("a person launches the date meanwhile, another runs it by command", launched_by_a_person),
    Fault("consent queue: each message thrice, shuffled, with three unreadable", queue_shuffled),
)  # fmt: skip
