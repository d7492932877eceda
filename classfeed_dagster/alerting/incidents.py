"""Incidents and their notifications: one thread an incident, with its state in the object store.

Level-triggered like repair: each evaluation lists all current incidents. A new one is announced, a changed one is
edited in place, and the thread of a resolved one is marked as recovered. Other packages use ``raise_incident`` and
``settle_incident``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from pydantic import AwareDatetime, BaseModel, Field, model_validator

from classfeed_dagster.errors import TemporaryError, UnavailableError
from classfeed_dagster.logs import get_logger
from classfeed_dagster.store import ObjectStore, check_key
from classfeed_dagster.stored_records import MonitoringRecord, canonical, readable, to_json
from classfeed_dagster.wording import counted

OFFENDERS_SHOWN = 5
WATCHDOG = "watchdog"
WATCHED_ELSEWHERE = frozenset({WATCHDOG})  # incidents that the alert sensor neither opens nor resolves
# Dagster abandons a tick after 60 s, but the tick goes on: two evaluations at once would send messages twice.
SECONDS_PER_SERVICE = 15
_STATES, _CLOSED, _RAISED = "incidents/", "closed-incidents/", "raised-incidents/"


class Incident(MonitoringRecord):
    """One problem, as it is reported to people. Without personal data: portfolio numbers at most."""

    key: str = Field(description="identity of the problem: equal keys share a thread")
    what: str = Field(description="the problem, in one sentence")
    means: str = Field(description="its effect on customers, in one sentence")
    feeds: tuple[str, ...] = ()
    dates: tuple[dt.date, ...] = Field(default=(), description="affected business dates")
    counts: dict[str, int] = Field(default={}, description="figures by label")
    offenders: tuple[str, ...] = Field(default=(), description="portfolio numbers: the first of those given")
    more_offenders: int = Field(default=0, description="number of further portfolios")
    doing: str = Field(default="", description="automatic action in progress")
    run_id: str | None = Field(default=None, description="the run to open")
    runbook: str = Field(default="", description="section of the alerts' runbook")
    page: bool = Field(default=False, description="true if it pages a person")

    @model_validator(mode="before")
    @classmethod
    def _keep_the_first_offenders(cls, values: Any) -> Any:
        numbers = values.get("offenders") if isinstance(values, dict) else None
        if not isinstance(numbers, tuple) or len(numbers) <= OFFENDERS_SHOWN:
            return values
        return {**values, "offenders": numbers[:OFFENDERS_SHOWN], "more_offenders": len(numbers) - OFFENDERS_SHOWN}

    @property
    def fingerprint(self) -> str:
        """Hash of the text that people read."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()

    @property
    def headline(self) -> str:
        """Problem and effect, as a notification shows them."""
        return f"{sentence(self.what)} {self.means}"


class Thread(BaseModel, frozen=True):
    """Location of an incident's thread."""

    channel: str
    ts: str


class State(MonitoringRecord):
    """Notifications already sent for an incident, so that none is sent twice."""

    incident: Incident = Field(description="as last notified")
    opened_at: AwareDatetime
    thread: Thread | None = Field(default=None, description="null until the first message is sent")
    notified: str = Field(default="", alias="told", description="fingerprint of the thread's message")
    paged: bool = False
    closed_at: AwareDatetime | None = None


class Messenger:
    """Messages in the log, and the base class of other messengers. The next evaluation retries after any error."""

    def announce(self, incident: Incident) -> Thread:
        """Send a new message and return its thread."""
        get_logger().warning(f"incident: {incident.headline}", key=incident.key, outcome=incident.doing)
        return Thread(channel="log", ts="log")

    def revise(self, thread: Thread, incident: Incident) -> Thread:
        """Edit the message in place, or send it anew if that is impossible; return its thread."""
        get_logger().warning(f"incident, still open: {incident.headline}", key=incident.key, outcome=incident.doing)
        return thread

    def recovered(self, thread: Thread, incident: Incident, lasted: dt.timedelta) -> None:
        """Report the recovery in the thread, and mark the message."""
        get_logger().warning(f"recovered after {duration(lasted)}: {incident.what}", key=incident.key)


class Pager:
    """Pages in the log, and the base class of other pagers."""

    def trigger(self, incident: Incident) -> None:
        """Page a person. Repeating it for the same key has no effect."""
        get_logger().error(f"would page: {incident.headline}", key=incident.key)

    def resolve(self, incident: Incident) -> None:
        """Resolve the page."""
        get_logger().warning(f"resolved: {incident.what}", key=incident.key)


class NotAcceptedError(UnavailableError):
    """A service did not accept a notification. ``reason``: its own word or status, such as ``invalid_auth``."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotificationError(TemporaryError):
    """Some notifications could not be sent. The next evaluation retries them."""


def duration(span: dt.timedelta) -> str:
    """Format a span for people: 45 s, 12 min, 3 h 05 min, 2 days."""
    seconds = int(span.total_seconds())
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{seconds // 60} min"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} days"


def sentence(text: str) -> str:
    """End ``text`` with a full stop, unless it has an end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def raise_incident(store: ObjectStore, incident: Incident) -> None:
    """Record an incident from within a run, for the alert sensor to announce. Repeating it replaces the record."""
    store.put(_raised_key(incident.key), to_json(incident))


def settle_incident(store: ObjectStore, key: str) -> None:
    """Remove the record of a raised incident, if there is one."""
    store.delete(_raised_key(key))


def raised(store: ObjectStore) -> tuple[Incident, ...]:
    """Return the incidents that were raised and not settled, ordered by key."""
    return tuple(readable(Incident, store, _RAISED))


def open_incidents(store: ObjectStore) -> Mapping[str, State]:
    """Return the open incidents by key. One whose state cannot be read is announced again."""
    return {state.incident.key: state for state in readable(State, store, _STATES)}


def sync_incidents(
    store: ObjectStore,
    current: Iterable[Incident],
    services: tuple[Messenger, Pager],
    now: dt.datetime,
    *,
    only: str | None = None,
) -> tuple[int, int, int]:
    """Send the notifications that ``current`` requires; return how many incidents were opened, revised and recovered.

    ``only``: the one incident that the caller watches; by default all except those watched elsewhere. A failed
    notification does not stop the others, and a slow service leaves the rest to the next evaluation: NotificationError
    lists them at the end. ``now`` is UTC.
    """
    messenger, pager = services
    before = {
        key: state
        for key, state in open_incidents(store).items()
        if (key == only if only is not None else key not in WATCHED_ELSEWHERE)
    }
    wrong = {incident.key: incident for incident in current}
    notifiers = [
        IncidentNotifier(store, messenger, pager, before.get(key) or State(incident=wrong[key], opened_at=now))
        for key in sorted({*before, *wrong})
    ]
    # Pages first: a slow Slack does not delay them.
    paged, until = set[str](), monotonic() + SECONDS_PER_SERVICE
    for notifier in notifiers:
        if notifier.sync_page(wrong.get(notifier.key), until):
            paged.add(notifier.key)
    counts, until = [0, 0, 0], monotonic() + SECONDS_PER_SERVICE
    for notifier in notifiers:
        key, incident = notifier.key, wrong.get(notifier.key)
        if incident is None:
            counts[2] += notifier.resolve(now, until)
        elif notifier.sync_message(incident, until) or key in paged:
            counts[1 if key in before else 0] += 1
    failures = [failure for notifier in notifiers for failure in notifier.failures]
    if failures:
        failed = counted(len(failures), "notification")
        raise NotificationError(f"{failed} failed and will be retried: {'; '.join(failures)}")
    return counts[0], counts[1], counts[2]


class IncidentNotifier:
    """Notifier of one incident. It stores the state after each message, so that none is sent twice."""

    def __init__(self, store: ObjectStore, messenger: Messenger, pager: Pager, state: State) -> None:
        self.store, self.messenger, self.pager, self.state = store, messenger, pager, state
        self.failures: list[str] = []

    @property
    def key(self) -> str:
        """Key of the incident."""
        return self.state.incident.key

    def sync_page(self, incident: Incident | None, until: float) -> bool:
        """Page if needed, or resolve the page of an incident that is over; return True if a person was paged."""
        if incident is None:
            before = self.state.incident
            if self.state.paged and self._try("PagerDuty", lambda: self.pager.resolve(before), until):
                self._keep(paged=False)
            return False
        if (
            not incident.page
            or self.state.paged
            or not self._try("PagerDuty", lambda: self.pager.trigger(incident), until)
        ):
            return False
        self._keep(paged=True, incident=incident)
        return True

    def sync_message(self, incident: Incident, until: float) -> bool:
        """Announce or revise the incident; return True if a message was sent."""
        thread, threads = self.state.thread, list[Thread]()
        if thread is not None and self.state.notified == incident.fingerprint:
            return False
        if not self._try(
            "Slack",
            lambda: threads.append(
                self.messenger.announce(incident) if thread is None else self.messenger.revise(thread, incident)
            ),
            until,
        ):
            return False
        self._keep(thread=threads[0], notified=incident.fingerprint, incident=incident)
        return True

    def resolve(self, now: dt.datetime, until: float) -> bool:
        """Report the recovery and close the incident, after its page; return True once all were notified."""
        state, thread = self.state, self.state.thread
        if state.paged:
            return False
        lasted = now - state.opened_at
        if thread is not None and not self._try(
            "Slack", lambda: self.messenger.recovered(thread, state.incident, lasted), until
        ):
            return False
        closed = self.state.model_copy(update={"closed_at": now})
        self.store.put(check_key(f"{_CLOSED}{self.key}/{state.opened_at:%Y%m%dT%H%M%SZ}.json"), to_json(closed))
        self.store.delete(_state_key(self.key))
        return True

    def _keep(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        self.store.put(_state_key(self.state.incident.key), to_json(self.state))

    def _try(self, service: str, send: Callable[[], object], until: float) -> bool:
        if monotonic() > until:
            self.failures.append(f"{self.key} to {service} (slow)")
            return False
        try:
            send()
        except Exception as error:
            # A failing service must not stop the next incident's notifications.
            get_logger().error("notification failed", error_type=type(error).__name__, key=self.key)
            reason = error.reason if isinstance(error, NotAcceptedError) else type(error).__name__
            self.failures.append(f"{self.key} to {service} ({reason})")
            return False
        return True


def _state_key(key: str) -> str:
    return check_key(f"{_STATES}{key}.json")


def _raised_key(key: str) -> str:
    return check_key(f"{_RAISED}{key}.json")
