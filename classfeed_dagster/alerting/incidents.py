"""Incidents: what is wrong now, said once, in one thread, until it has recovered. The state is in the object store.

Level-triggered like repair: each look names everything that is wrong at the moment. What is new is announced, what
changed is edited in place, what is gone is declared recovered in its thread. Other rooms open the same door with
``raise_incident`` and ``settle_incident``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pydantic import AwareDatetime, BaseModel, Field

from classfeed_dagster.errors import TemporaryError
from classfeed_dagster.logs import get_logger
from classfeed_dagster.store import ObjectStore, check_key
from classfeed_dagster.stored_records import StoredRecord, canonical, from_json, to_json

OFFENDERS_SHOWN = 5
WATCHDOG = "watchdog"
WATCHED_ELSEWHERE = frozenset({WATCHDOG})  # incidents that the alert sensor neither finds nor ends
_STATES, _CLOSED, _RAISED = "incidents/", "closed-incidents/", "raised-incidents/"


class Incident(StoredRecord):
    """Something wrong, as people should hear of it. No personal data: portfolio numbers at most."""

    key: str = Field(description="what it is about: the same trouble, the same key, the same thread")
    what: str = Field(description="what is wrong, in one sentence")
    means: str = Field(description="what it means for customers, in one sentence")
    feeds: tuple[str, ...] = ()
    dates: tuple[dt.date, ...] = Field(default=(), description="the business dates it concerns")
    counts: dict[str, int] = Field(default={}, description="figures, by what they count")
    offenders: tuple[str, ...] = Field(default=(), description="portfolio numbers")
    doing: str = Field(default="", description="what the system is doing about it by itself")
    run_id: str | None = Field(default=None, description="the run to look at")
    runbook: str = Field(default="", description="section of the alerts' runbook")
    page: bool = Field(default=False, description="whether it must wake someone")

    @property
    def fingerprint(self) -> str:
        """Changes if and only if something that people read does."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()


class Thread(BaseModel, frozen=True):
    """Where an incident is being told."""

    channel: str
    ts: str


class State(StoredRecord):
    """What was said of an incident, so that nothing is said twice."""

    incident: Incident = Field(description="as last told")
    opened_at: AwareDatetime
    thread: Thread | None = Field(default=None, description="null until it could be told")
    told: str = Field(default="", description="fingerprint of what the thread says")
    paged: bool = False
    closed_at: AwareDatetime | None = None


class Messenger(Protocol):
    """Tells people: Slack, or the log. Whatever it raises is tried again at the next look."""

    def announce(self, incident: Incident) -> Thread:
        """A new message, and with it a thread."""
        ...

    def revise(self, thread: Thread, incident: Incident) -> None:
        """Edit the message in place."""
        ...

    def recovered(self, thread: Thread, incident: Incident, lasted: dt.timedelta) -> None:
        """Say in the thread that it is over, and mark the message."""
        ...


class Pager(Protocol):
    """Wakes people: PagerDuty, or the log."""

    def trigger(self, incident: Incident) -> None:
        """Wake someone; again for the same key changes nothing."""
        ...

    def resolve(self, incident: Incident) -> None:
        """It is over."""
        ...


class TellingError(TemporaryError):
    """Some incidents could not be told; the others were. They are tried again at the next look."""


def raise_incident(store: ObjectStore, incident: Incident) -> None:
    """Note an incident from within a run; the alert sensor tells it. Repeating replaces it."""
    store.put(_raised_key(incident.key), to_json(incident))


def settle_incident(store: ObjectStore, key: str) -> None:
    """An incident that was raised is over; nothing happens if there was none."""
    store.delete(_raised_key(key))


def raised(store: ObjectStore) -> tuple[Incident, ...]:
    """Every incident raised by other rooms and not settled, ordered by key."""
    return tuple(from_json(Incident, store.read(key), store.location(key)) for key in store.list(_RAISED))


def open_incidents(store: ObjectStore) -> Mapping[str, State]:
    """Every incident that was opened and is not over, by its key."""
    states = (from_json(State, store.read(key), store.location(key)) for key in store.list(_STATES))
    return {state.incident.key: state for state in states}


def sync_incidents(
    store: ObjectStore,
    current: Iterable[Incident],
    speaks: tuple[Messenger, Pager],
    now: dt.datetime,
    *,
    only: str | None = None,
) -> tuple[int, int, int]:
    """Bring what people were told up to ``current``, all that is wrong now: how many opened, revised, recovered.

    ``only``: the one incident that the caller watches; without it, all but those watched elsewhere. One that can't be
    told does not keep the others from being told: TellingError names them at the end. ``now`` is UTC.
    """
    messenger, pager = speaks
    before = {
        key: state
        for key, state in open_incidents(store).items()
        if (key == only if only is not None else key not in WATCHED_ELSEWHERE)
    }
    wrong = {incident.key: incident for incident in current}
    counts, failures = [0, 0, 0], []
    for key in sorted({*before, *wrong}):
        state, incident = before.get(key), wrong.get(key)
        telling = IncidentNotifier(store, messenger, pager, state or State(incident=wrong[key], opened_at=now))
        if incident is not None:
            counts[0 if state is None else 1] += telling.still(incident)
        else:
            counts[2] += telling.over(now)
        failures += telling.failures
    if failures:
        raise TellingError(f"{len(failures)} message(s) could not be sent and will be again: {'; '.join(failures)}")
    return counts[0], counts[1], counts[2]


class IncidentNotifier:
    """Brings one incident up to date. The state is stored after each message, so that none is sent twice."""

    def __init__(self, store: ObjectStore, messenger: Messenger, pager: Pager, state: State) -> None:
        self.store, self.messenger, self.pager, self.state = store, messenger, pager, state
        self.failures: list[str] = []

    def still(self, incident: Incident) -> bool:
        """Announce, revise, wake; True if anything was said."""
        said = False
        if incident.page and not self.state.paged and self._try("PagerDuty", lambda: self.pager.trigger(incident)):
            self._keep(paged=True, incident=incident)
            said = True
        thread = self.state.thread
        if thread is None:
            threads: list[Thread] = []
            if self._try("Slack", lambda: threads.append(self.messenger.announce(incident))):
                self._keep(thread=threads[0], told=incident.fingerprint, incident=incident)
                said = True
        elif self.state.told != incident.fingerprint and self._try(
            "Slack", lambda: self.messenger.revise(thread, incident)
        ):
            self._keep(told=incident.fingerprint, incident=incident)
            said = True
        return said

    def over(self, now: dt.datetime) -> bool:
        """Say that it is over, and let people sleep; True once everybody knows."""
        state, thread = self.state, self.state.thread
        if state.paged:
            if not self._try("PagerDuty", lambda: self.pager.resolve(state.incident)):
                return False
            self._keep(paged=False)
        lasted = now - state.opened_at
        if thread is not None and not self._try(
            "Slack", lambda: self.messenger.recovered(thread, state.incident, lasted)
        ):
            return False
        key = state.incident.key
        closed = self.state.model_copy(update={"closed_at": now})
        self.store.put(check_key(f"{_CLOSED}{key}/{state.opened_at:%Y%m%dT%H%M%SZ}.json"), to_json(closed))
        self.store.delete(_state_key(key))
        return True

    def _keep(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        self.store.put(_state_key(self.state.incident.key), to_json(self.state))

    def _try(self, service: str, say: Callable[[], object]) -> bool:
        try:
            say()
        except Exception as error:
            # Whatever a service did, it must not keep the next incident from being told.
            get_logger().error("alert not sent", error_type=type(error).__name__, key=self.state.incident.key)
            self.failures.append(f"{self.state.incident.key} to {service} ({type(error).__name__})")
            return False
        return True


def _state_key(key: str) -> str:
    return check_key(f"{_STATES}{key}.json")


def _raised_key(key: str) -> str:
    return check_key(f"{_RAISED}{key}.json")
