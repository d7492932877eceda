"""Steps in a run's log: their workers, the running ones, and secrets that it must not contain."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import sqlalchemy as sa
from dagster import DagsterEventType, DagsterInstance, EventLogEntry

_TAKEN = "Celery worker"
_ENDS = {DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SKIPPED}


@dataclass
class Steps:
    """One run's steps, as its log has them so far."""

    taken: list[tuple[str, str]] = field(default_factory=list)  # step, worker, in the order of taking
    begun: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)
    spans: list[tuple[str, float, float]] = field(default_factory=list)  # step, from its last beginning to its end

    @property
    def by_worker(self) -> Counter[str]:
        """Return the number of steps of each worker; a step taken twice counts twice."""
        return Counter(worker for _, worker in self.taken)

    @property
    def again(self) -> int:
        """Return the number of repeated steps."""
        return len(self.taken) - len({step for step, _ in self.taken})

    def under_way(self, part: str) -> Iterator[tuple[str, str]]:
        """Yield steps whose key has ``part`` in it that were begun and have not ended, with who has them."""
        for step, worker in self.taken:
            if part in step and self.begun[step] and step not in self.ended:
                yield step, worker


class Log:
    """A run's log, read on from where it was read to: watching must be quicker than the steps."""

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self._instance, self._run_id = instance, run_id
        self._cursor: str | None = None
        self._since: dict[str, float] = {}
        self._found = Steps()

    def read(self) -> Steps:
        """Return the steps so far."""
        more = True
        while more:
            page = self._instance.get_records_for_run(self._run_id, self._cursor)
            for record in page.records:
                self._add(record.event_log_entry)
            self._cursor, more = page.cursor, page.has_more
        return self._found

    def _add(self, entry: EventLogEntry) -> None:
        event, result = entry.dagster_event, self._found
        if event is None or event.step_key is None:
            return
        step = event.step_key
        if event.event_type is DagsterEventType.ENGINE_EVENT and _TAKEN in event.engine_event_data.metadata:
            worker = str(event.engine_event_data.metadata[_TAKEN].value).partition("@")[0]
            result.taken.append((step, worker))
        elif event.event_type is DagsterEventType.STEP_START:
            result.begun[step] += 1
            self._since[step] = entry.timestamp
        elif event.event_type in _ENDS:
            result.ended.add(step)
            result.spans.append((step, self._since.get(step, entry.timestamp), entry.timestamp))


def steps_of(instance: DagsterInstance, run_id: str) -> Steps:
    """Return the current steps of a run's log."""
    return Log(instance, run_id).read()


def process_of(instance: DagsterInstance, run_id: str) -> int | None:
    """Return the number of the process that dispatches a run's steps."""
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
        result = re.search(r"Started process for run \(pid: (\d+)\)", entry.message)
        if result:
            return int(result[1])
    return None


def at_once(spans: Iterable[tuple[float, float]]) -> int:
    """Return the greatest number of spans at one instant."""
    changes = sorted(change for begin, end in spans for change in ((begin, 1), (end, -1)))
    return max(accumulate(change for _, change in changes), default=0)


def leaks(dagster_url: str, secrets: Sequence[str]) -> list[str]:
    """Return the places of a secret in Dagster's database: every column of every table, and compressed values."""
    engine = sa.create_engine(dagster_url)
    tables = sa.MetaData()
    tables.reflect(engine)
    matches = set()
    with engine.connect() as connection:
        for table in tables.sorted_tables:
            for row in connection.execute(sa.select(table)):
                for column, value in row._mapping.items():
                    text = _text(value)
                    if any(secret in text for secret in secrets):
                        matches.add(f"{table.name}.{column}")
    engine.dispose()
    return sorted(matches)


def _text(value: object) -> str:
    if isinstance(value, (bytes, memoryview)):
        data = bytes(value)
        with contextlib.suppress(zlib.error):
            data = zlib.decompress(data)
        return data.decode(errors="replace")
    return str(value)
