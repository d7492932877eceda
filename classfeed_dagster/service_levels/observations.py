"""Observations of the owner's numbers: one small object each, created once and kept as long as the project."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, read_record, to_json
from classfeed_dagster.trading_days import SYDNEY

_Amount = Annotated[Decimal, Field(ge=0, le=10**18)]


class Observation(StoredRecord):
    """Values that one source observed once. The pipelines write the same JSON (``deploy/owner_numbers.py``).

    Attributes:
        at: instant of the observation, UTC.
        values: value by name.
        parts: details for the asset, such as the seconds of each job.
    """

    schema_version: Literal[1] = 1
    source: str
    at: AwareDatetime
    feed: str | None = None
    business_date: dt.date | None = None
    correlation_id: str | None = None
    values: dict[str, _Amount]
    parts: dict[str, dict[str, _Amount]] = Field(default={})

    @property
    def month(self) -> str:
        """Month to which the observation counts, in Sydney: that of the business date if there is one."""
        return f"{self.business_date or self.at.astimezone(SYDNEY):%Y-%m}"


def observation_key(month: str, source: str, name: str) -> str:
    """Return the key of an observation. ``name`` distinguishes those of a source within a month."""
    return f"owner-numbers/{month}/{source}/{name}.json"


def record(store: ObjectStore, name: str, observation: Observation) -> bool:
    """Store an observation; return False if one with this name exists, which then stays as it is."""
    return store.create(observation_key(observation.month, observation.source, name), to_json(observation))


def observations(store: ObjectStore, month: str, damaged: list[str], source: str = "") -> Iterator[Observation]:
    """Yield the observations of a month (``YYYY-MM``), of all sources or of one, ordered by source and name.

    The keys of unreadable ones are added to ``damaged``: no role can remove them, and the others do not depend on them.
    """
    for key in store.list(f"owner-numbers/{month}/{source}"):
        try:
            yield read_record(store, Observation, key)
        except DamagedRecordError:
            damaged.append(key)
