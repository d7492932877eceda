"""The read paths of the UI and its GraphQL API under load, as a morning's people use them. Reads only.

Against a webserver on this machine, for a bounded time:
``locust -f deploy/load/locustfile.py --headless --host http://127.0.0.1:3000 --users 10 --spawn-rate 5 --run-time 60s``
"""

from __future__ import annotations

from urllib.parse import urlsplit

from locust import HttpUser, between, events, task

RUNS = """query Runs {
  runsOrError(limit: 25) { __typename ... on Runs { results { runId status tags { key value } } } }
}"""
ASSETS = """query Assets { assetNodes { assetKey { path } groupName opNames isPartitioned } }"""
HEALTH = """query Health {
  assetNodes { assetKey { path } assetChecksOrError { __typename ... on AssetChecks { checks { name } } } }
}"""
DELIVERIES = """query Deliveries {
  assetOrError(assetKey: {path: ["class_super", "delivery"]}) {
    __typename ... on Asset { assetMaterializations(limit: 20) { partition timestamp } }
  }
}"""
DAEMONS = """query Daemons { instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"""


@events.test_start.add_listener
def only_this_machine(environment: object, **_: object) -> None:
    """Refuse to load a webserver that people use."""
    host = urlsplit(str(getattr(environment, "host", ""))).hostname
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise SystemExit(f"refused: {host} is not this machine")


class Reader(HttpUser):
    """Somebody who looks at the feed."""

    wait_time = between(0.5, 2)

    def _ask(self, name: str, query: str) -> None:
        with self.client.post("/graphql", json={"query": query}, name=name, catch_response=True) as answer:
            if answer.status_code != 200 or "errors" in answer.json():
                answer.failure(f"HTTP {answer.status_code}")

    @task(2)
    def page(self) -> None:
        """Load the page."""
        self.client.get("/", name="page")

    @task(5)
    def runs(self) -> None:
        """Load the list of runs."""
        self._ask("runs", RUNS)

    @task(3)
    def assets(self) -> None:
        """Load the graph of assets."""
        self._ask("assets", ASSETS)

    @task(2)
    def checks(self) -> None:
        """Load the checks of all assets."""
        self._ask("checks", HEALTH)

    @task(3)
    def deliveries(self) -> None:
        """Load the latest deliveries."""
        self._ask("deliveries", DELIVERIES)

    @task(1)
    def daemons(self) -> None:
        """Load the daemon's status."""
        self._ask("daemons", DAEMONS)
