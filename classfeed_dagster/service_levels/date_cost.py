"""Cost of a business date: processor time and object-store use of its runs, and credits of its Snowflake statements."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.service_levels.observations import Observation
from classfeed_dagster.warehouse.connection import APPLICATION
from classfeed_dagster.warehouse.database import Connection, query

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
