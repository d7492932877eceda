"""A sign of life from each sensor, in the object store: Dagster tells nobody when a sensor fails or its daemon dies."""

from __future__ import annotations

import datetime as dt

from pydantic import AwareDatetime

from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import StoredRecord, from_json, to_json

MAX_SILENCE = dt.timedelta(minutes=15)
SENSORS = ("repair", "alerts")  # those that write one


class Heartbeat(StoredRecord):
    """When a sensor last finished its work."""

    at: AwareDatetime


def record(store: ObjectStore, sensor: str, now: dt.datetime) -> None:
    """The sensor has done its work at ``now`` (UTC)."""
    store.put(_key(sensor), to_json(Heartbeat(at=now)))


def stale(store: ObjectStore, now: dt.datetime) -> list[str]:
    """Which sensors gave no sign of life for too long, in words."""
    found: list[str] = []
    for sensor in SENSORS:
        try:
            at = from_json(Heartbeat, store.read(_key(sensor)), store.location(_key(sensor))).at
        except ObjectNotFoundError:
            found.append(f"the {sensor} sensor never gave a sign of life")
            continue
        if now - at > MAX_SILENCE:
            minutes = int((now - at).total_seconds() // 60)
            found.append(f"the {sensor} sensor gave its last sign of life {minutes} minutes ago")
    return found


def _key(sensor: str) -> str:
    return f"heartbeats/{sensor}.json"
