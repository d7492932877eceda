"""Sensor heartbeats in the object store: Dagster sends no notification when a sensor fails or its daemon dies."""

from __future__ import annotations

import datetime as dt

from pydantic import AwareDatetime

from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import MonitoringRecord, find_record, to_json

MAX_SILENCE = dt.timedelta(minutes=15)
SENSORS = ("repair", "alerts")  # sensors that record heartbeats


class SensorHeartbeat(MonitoringRecord):
    """Latest completed tick of a sensor."""

    at: AwareDatetime


def record(store: ObjectStore, sensor: str, now: dt.datetime) -> None:
    """Record that the sensor completed its work at ``now`` (UTC)."""
    store.put(_key(sensor), to_json(SensorHeartbeat(at=now)))


def stale(store: ObjectStore, now: dt.datetime) -> list[str]:
    """Return a message for each sensor whose heartbeat is missing or too old."""
    messages: list[str] = []
    for sensor in SENSORS:
        try:
            heartbeat = find_record(store, SensorHeartbeat, _key(sensor))
        except DamagedRecordError:
            messages.append(f"the {sensor} sensor's heartbeat cannot be read")
            continue
        if heartbeat is None:
            messages.append(f"the {sensor} sensor has recorded no heartbeat")
            continue
        at = heartbeat.at
        minutes = int(abs(now - at).total_seconds() // 60)
        if now - at > MAX_SILENCE:
            messages.append(f"the {sensor} sensor's last heartbeat is {minutes} minutes old")
        elif (
            at - now > MAX_SILENCE
        ):  # a sensor that stopped before its clock was set back, or one of two clocks is wrong
            messages.append(f"the {sensor} sensor's last heartbeat is {minutes} minutes ahead of the clock")
    return messages


def _key(sensor: str) -> str:
    return f"heartbeats/{sensor}.json"
