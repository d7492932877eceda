"""A backfill of many dates, launched as the UI launches it, through the real webserver, daemon and queue.

    python -m classfeed_dagster_tests.torture.backfill --dates 250

A handful of simulated customers live all dates first; then one backfill over them is sent to the webserver's GraphQL,
as the UI's button does. It ends when every run has ended, and says what was seen: runs, how many at once, seconds, and
whether each date was delivered exactly once, in an unbroken chain. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classfeed_dagster import trading_days
from classfeed_dagster.delivery.ledger_rebuild import audit_positions
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.local.dagster_instance import dagster_home, open_instance
from classfeed_dagster.local.dagster_services import dagster_services, free_port
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

FEED = "class_super"
REPOSITORY = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "classfeed",
}
_LAUNCH = """mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}"""
_ASSETS = """query Assets($selector: PipelineSelector!) {
  assetNodes(pipeline: $selector) { assetKey { path } isMaterializable }
}"""
_POLL_SECONDS = 1.0


@dataclass
class Seen:
    """Observations of a backfill."""

    dates: int
    seconds: float = 0.0
    at_once: int = 0  # the most runs that were running at one time
    queued: int = 0  # the most that waited
    runs: Counter[str] = field(default_factory=Counter)  # by status
    delivered_once: int = 0
    sound: bool = False
    audited: bool = False  # every position adds up from the records

    @property
    def holds(self) -> bool:
        """Return True if each date was delivered exactly once, in one run."""
        return (
            self.sound
            and self.audited
            and self.delivered_once == self.dates == self.runs.total() == self.runs["SUCCESS"]
        )

    def __str__(self) -> str:
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(self.runs.items()))
        return (
            f"{self.dates} dates: {statuses}; {self.seconds:.0f} s, {self.seconds / self.dates:.1f} s a date; at most "
            f"{self.at_once} runs at once, {self.queued} waiting; {self.delivered_once} dates delivered exactly once; "
            f"chain {'sound' if self.sound else 'BROKEN'}, positions {'add up' if self.audited else 'DIFFER'}"
        )


def ask(address: str, query: str, variables: dict[str, Any]) -> Any:
    """Return the answer of the webserver's GraphQL; RuntimeError with its message."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answered:
        answer = json.loads(answered.read())
    if answer.get("errors"):
        raise RuntimeError(f"the webserver refused: {answer['errors'][0]['message']}")
    return answer["data"]


def launch(address: str, dates: list[dt.date]) -> str:
    """Launch the backfill as the job's page does; its id."""
    job = f"{FEED}_job"
    nodes = ask(address, _ASSETS, {"selector": {"pipelineName": job, **REPOSITORY}})["assetNodes"]
    params = {
        "selector": {"partitionSetName": f"{job}_partition_set", "repositorySelector": REPOSITORY},
        "assetSelection": [node["assetKey"] for node in nodes if node["isMaterializable"]],
        "partitionNames": [day.isoformat() for day in dates],
        "fromFailure": False,
        "tags": [],
    }
    result = ask(address, _LAUNCH, {"params": params})["launchPartitionBackfill"]
    if result["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(f"the backfill was refused: {result}")
    return str(result["backfillId"])


def watch(instance: DagsterInstance, backfill_id: str, seen: Seen, limit: float) -> None:
    """Wait until every run has ended, or ``limit`` seconds have passed; ``seen`` is brought up to date."""
    from dagster import DagsterRunStatus, RunsFilter

    running = {DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING}
    over = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
    began = moment = time.monotonic()
    while seen.seconds < limit:
        seen.seconds = time.monotonic() - began
        statuses = Counter(run.status for run in instance.get_runs(RunsFilter(tags={"dagster/backfill": backfill_id})))
        seen.runs = Counter({status.value: count for status, count in statuses.items()})
        seen.at_once = max(seen.at_once, sum(statuses[status] for status in running))
        seen.queued = max(seen.queued, statuses[DagsterRunStatus.QUEUED])
        if time.monotonic() - moment > 60:
            moment = time.monotonic()
            sys.stderr.write(f"{seen.seconds:.0f} s: {dict(seen.runs)}\n")
        if sum(statuses[status] for status in over) == seen.dates:
            return
        time.sleep(_POLL_SECONDS)


def judge(runtime: Runtime, dates: list[dt.date], seen: Seen) -> None:
    """Assert that each date was delivered once, the chain of manifests is unbroken, and all positions add up?"""
    states = [delivered_state(runtime.store, FEED, day) for day in dates]
    seen.delivered_once = sum(len(state.deliveries) == 1 for state in states)
    seen.sound = verify_feed(runtime.store, FEED, EPI).sound
    audits = list(audit_positions(runtime.store, FEED, RecipientSchedule("CLASS", dates[0])))
    seen.audited = len(audits) == len(dates) and not any(audit.wrong for audit in audits)


def backfill(home: Path, count: int, portfolios: int, limit: float) -> Seen:
    """Let customers live ``count`` dates, and backfill them all."""
    from classfeed_dagster.simulation.environment import advance

    variables = {
        "CLASSFEED_HOME": str(home),
        "CLASSFEED_SIMULATION_PORTFOLIOS": str(portfolios),
        # Customers whose consent has ended are held back on every date on which they shared.
        "CLASSFEED_MAX_HELD_BACK_SHARE": "0.9",
    }
    os.environ.update(variables)
    os.environ.pop("DAGSTER_HOME", None)
    runtime = Runtime(Settings())
    try:
        first = runtime.settings.first_business_date
        dates = [day for day in trading_days.business_days() if day >= first][:count]
        advance(runtime.engine, runtime.settings, dates[-1])
        variables["CLASSFEED_BIGSITE_URL"] = runtime.engine.url.render_as_string(hide_password=False)
        outcome = Seen(len(dates))
        with (
            open_instance(home) as instance,
            dagster_services(dagster_home(home), free_port(3200), variables, start_seconds=300) as address,
        ):
            watch(instance, launch(address, dates), outcome, limit)
        judge(runtime, dates, outcome)
    finally:
        runtime.close()
    return outcome


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dates", type=int, default=250)
    parser.add_argument("--portfolios", type=int, default=6)
    parser.add_argument("--limit", type=float, default=5400.0, help="seconds after which it gives up")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the webserver and the daemon end too
    with tempfile.TemporaryDirectory(prefix="classfeed-backfill-", ignore_cleanup_errors=True) as folder:
        outcome = backfill(Path(folder), options.dates, options.portfolios, options.limit)
    print(outcome)
    sys.exit(0 if outcome.holds else 1)


if __name__ == "__main__":
    main()
