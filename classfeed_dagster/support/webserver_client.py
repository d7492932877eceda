"""Client of the writable webserver, to start a feed's job without access to Dagster's database."""

from __future__ import annotations

import datetime as dt
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from classfeed_dagster.errors import UnavailableError
from classfeed_dagster.tags import CODE_LOCATION, PARTITION_TAG, REPOSITORY, feed_job_name

UNDER_WAY = """
query UnderWay($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 1) {
    __typename
    ... on Runs { results { runId } }
    ... on PythonError { message }
  }
}
"""
LAUNCH = """
mutation Rerun($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
_STATES = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
_SECONDS = 20


class OperateError(UnavailableError):
    """The webserver is unreachable or refused a request."""


def under_way(url: str, feed: str, day: dt.date) -> bool:
    """Return True if a run of the feed's job for ``day`` is queued or running. ``url``: the webserver, with path."""
    filter_ = {
        "pipelineName": feed_job_name(feed),
        "tags": [{"key": PARTITION_TAG, "value": day.isoformat()}],
        "statuses": _STATES,
    }
    return bool(_ask(url, UNDER_WAY, {"filter": filter_}, "runsOrError", "Runs")["results"])


def launch(url: str, feed: str, day: dt.date, tags: Mapping[str, str]) -> str:
    """Start the feed's job for ``day`` with ``tags``; return the run's id. OperateError if it did not start."""
    params = {
        "selector": {
            "repositoryLocationName": CODE_LOCATION,
            "repositoryName": REPOSITORY,
            "pipelineName": feed_job_name(feed),
        },
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {
            "tags": [{"key": key, "value": value} for key, value in {**tags, PARTITION_TAG: day.isoformat()}.items()]
        },
    }
    return str(_ask(url, LAUNCH, {"params": params}, "launchRun", "LaunchRunSuccess")["run"]["runId"])


def _ask(url: str, query: str, variables: Mapping[str, Any], field: str, expected: str) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(  # noqa: S310 - a setting, never a person's input
        f"{url.rstrip('/')}/graphql", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
            answer = json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise OperateError(f"The webserver at {url} did not answer ({type(error).__name__}): try again") from None
    result = (answer.get("data") or {}).get(field) or {}
    if result.get("__typename") != expected:
        kind = result.get("__typename") or "an error"
        raise OperateError(f"The webserver at {url} answered {kind} instead of {expected}: see its log")
    return dict(result)
