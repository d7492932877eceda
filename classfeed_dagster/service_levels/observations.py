"""Observations of the owner's numbers: one small object each, created once and kept as long as the project.

Among them is the cost of a business date: processor time and object-store use of its runs, and credits of its
Snowflake statements.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from classfeed_dagster.errors import ConfigurationError, DamagedRecordError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, read_record, to_json
from classfeed_dagster.trading_days import SYDNEY
from classfeed_dagster.warehouse.connection import APPLICATION
from classfeed_dagster.warehouse.database import Connection, query

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


# Snowflake adds a statement to the view within eight hours.
CREDITS_DELAY = dt.timedelta(hours=12)
# Credits by feed, date and correlation id of the attempts that began after one instant and ended before another. The
# instants have a zone: the view's columns are compared in the session's zone otherwise.
CREDITS_STATEMENT = """
SELECT TRY_PARSE_JSON(QUERY_TAG):feed::VARCHAR, TRY_PARSE_JSON(QUERY_TAG):date::VARCHAR,
       TRY_PARSE_JSON(QUERY_TAG):correlation_id::VARCHAR, SUM(CREDITS_ATTRIBUTED_COMPUTE)::NUMBER(38, 9)
FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_ATTRIBUTION_HISTORY
WHERE START_TIME >= %s::TIMESTAMP_TZ AND TRY_PARSE_JSON(QUERY_TAG):app::VARCHAR = %s
GROUP BY 1, 2, 3
HAVING MAX(END_TIME) < %s::TIMESTAMP_TZ
ORDER BY 1, 2, 3
"""
_NOT_FOUND = 2003  # Snowflake's number for "does not exist or not authorized"
_CORRELATION_ID = re.compile(r"[0-9a-f]{32}\Z")


class CreditsNotGrantedError(ConfigurationError):
    """The role may not read what statements cost."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time, and requests to the object store with the bytes that they moved."""

    milliseconds: int = 0
    requests: int = 0
    bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.milliseconds + other.milliseconds, self.requests + other.requests, self.bytes + other.bytes)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.milliseconds - other.milliseconds, self.requests - other.requests, self.bytes - other.bytes)


def usage_observation(feed: str, day: dt.date, correlation_id: str | None, used: Usage, at: dt.datetime) -> Observation:
    """Return the observation of one run's usage. ``at`` is UTC."""
    values = {
        "compute_seconds": Decimal(used.milliseconds) / 1000,
        "store_requests": Decimal(used.requests),
        "store_bytes": Decimal(used.bytes),
    }
    return Observation(source="cost", at=at, feed=feed, business_date=day, correlation_id=correlation_id, values=values)


def credit_observations(
    connection: Connection, feeds: Collection[str], since: dt.datetime, now: dt.datetime
) -> Iterator[Observation]:
    """Yield the credits of each attempt since ``since`` (UTC). Statements without a feed, date or id are no date's.

    CreditsNotGrantedError if the role may not read the view.
    """
    try:
        before = now - CREDITS_DELAY
        rows = query(connection, CREDITS_STATEMENT, (since.isoformat(" "), APPLICATION, before.isoformat(" ")))
    except Exception as error:
        if getattr(error, "errno", None) == _NOT_FOUND:  # the connector's classes take seconds to import
            raise CreditsNotGrantedError(
                "SNOWFLAKE.ACCOUNT_USAGE.QUERY_ATTRIBUTION_HISTORY cannot be read: grant the database role "
                "SNOWFLAKE.USAGE_VIEWER to the role of CLASSFEED_SNOWFLAKE_ROLE"
            ) from error
        raise
    for feed, day, correlation_id, used in rows:
        if feed in feeds and day and _CORRELATION_ID.match(correlation_id or ""):
            yield Observation(
                source="credits", at=now, feed=feed, business_date=dt.date.fromisoformat(day),
                correlation_id=correlation_id, values={"snowflake_credits": Decimal(used)},
            )  # fmt: skip
