"""First business dates: customers, deliveries, telemetry, reconciliation, alerts, re-runs and switches."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import urllib.parse
import urllib.request
from collections import defaultdict

import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.feeds import class_super
from classfeed_dagster.simulation.data_team import data_team_metrics, publish_metrics
from classfeed_dagster.trading_days import previous_business_day
from classfeed_dagster_tests.fixtures.templates import ROOT
from classfeed_dagster_tests.rehearsal.parts import World
from classfeed_dagster_tests.rehearsal.tasks import Task, require_success, wait_until

# Nothing is judged by these: a busy machine takes long, and only what never comes fails.
_WAIT_SECONDS, _DATE_SECONDS = 600.0, 1200.0


def check_fan_out(parts: World) -> str:
    engine = sa.create_engine(parts.database.url("dagster"))
    query = "SELECT step_key, event FROM event_logs WHERE event LIKE '%Celery worker%' AND step_key IS NOT NULL"
    by_worker: dict[str, set[str]] = defaultdict(set)
    with engine.connect() as connection:
        for row in connection.execute(sa.text(query)):
            by_worker[re.findall(r"steps@([\w.-]+)", row.event)[0]].add(row.step_key)
    engine.dispose()
    shares = {
        worker: sum(bool(re.fullmatch(r"class_super__document\.\w+\[\d+\]", step)) for step in steps)
        for worker, steps in by_worker.items()
    }
    assert len(shares) == 2, f"not fanned out over two workers: {dict(by_worker)}"
    assert all(shares.values()), f"one worker did every share of the document: {shares}"
    return ", ".join(f"{worker}: {len(by_worker[worker])} steps, {count} shares" for worker, count in shares.items())


def check_collector(parts: World) -> str:
    """Expect the first delivery's run in the collector: its trace, its metrics and its log lines; no person's data."""
    collector = parts.collector
    key = next(key for key in parts.keys("delivered/class_super/") if key.endswith("manifest.json"))
    body = parts.client("s3").get_object(Bucket=parts.bucket(), Key=key)["Body"].read()
    trace = json.loads(body)["correlation_id"]

    def arrived() -> bool:
        spans = [span for span in collector.spans if span["trace"] == trace]
        measured = [name for name, _ in collector.metrics if name == "classfeed.documents"]
        return bool(spans and measured and [line for line in collector.lines if line["trace"] == trace])

    assert wait_until(arrived, _WAIT_SECONDS, 2), (
        f"{len(collector.spans)} spans, {len(collector.metrics)} metrics, {len(collector.lines)} lines; none of {trace}"
    )
    (root,) = (span for span in collector.spans if span["trace"] == trace and span["name"] == "class_super_job")
    steps = [span for span in collector.spans if span["parent"] == root["span"]]
    assert "class_super__delivery" in {span["name"] for span in steps}, steps
    everything = json.dumps([collector.spans, collector.lines, [str(key) for key in collector.metrics]])
    engine = sa.create_engine(parts.bigsite.url("bigsite"))
    with engine.connect() as connection:
        private = {
            str(value)
            for table, names in (("portfolio", ("portfolio_name", "abn", "hin")), ("member", ("email", "family_name")))
            for column in names
            for value in connection.execute(sa.select(metadata.tables[f"{SCHEMA}.{table}"].c[column])).scalars()
            if value is not None
        }
    engine.dispose()
    assert private, "bigsite has nobody"
    leaked = sorted(value for value in private if value in everything)
    assert not leaked, f"{len(leaked)} values of bigsite's customers"
    return f"{len(steps)} steps, {len(collector.lines)} lines, {len(collector.metrics)} series{_stored(parts)}"


def _stored(parts: World) -> str:
    if parts.metrics_store is None:
        return "; no victoria-metrics on this machine"
    query = urllib.parse.quote('classfeed_documents_total{feed="class_super"}')
    values: list[str] = []

    def stored() -> bool:
        with urllib.request.urlopen(f"{parts.metrics_store}/api/v1/query?query={query}", timeout=10) as answer:
            values[:] = [series["value"][1] for series in json.load(answer)["data"]["result"]]
        return bool(values)

    assert wait_until(stored, _WAIT_SECONDS, 2), "VictoriaMetrics has no classfeed_documents_total"
    return f"; VictoriaMetrics has {values[0]} document(s)"


def request_rerun(parts: World) -> str:
    group = parts.cluster.environment(parts.cluster.family("door"))["CLASSFEED_SUPPORT_GROUP"]
    identity = parts.balancer.sign({"sub": "1", "preferred_username": "r.hearsal", "groups": [group]})
    form = f"feed=class_super&date={parts.first_business_date()}&reason=the+rehearsal+tries+it"
    status, page = parts.balancer.request("/rerun", identity, form)
    assert status == 202, page[-600:]
    (run_id,) = re.findall(r"<code>([0-9a-f-]{36})</code>", page)

    def ended() -> bool:
        return any(task.code == 0 for task in parts.cluster.tasks.values() if run_id in str(task.command))

    assert wait_until(ended, _DATE_SECONDS, 3), f"run {run_id} did not end well"
    (record,) = parts.keys("reruns/class_super/")
    return f"run {run_id[:8]} by a worker task, recorded as {record}"


def check_nothing_due(parts: World) -> str:
    # Production's first business date is ahead: nothing is due, so nothing may be reported as late.
    assert wait_until(lambda: len(parts.keys("heartbeats/")) > 1, _WAIT_SECONDS, 3), "no heartbeats"
    task = parts.cluster.run("watchdog")
    assert task.code == 0, f"exit code {task.code}: {task.output()[-800:]}"
    assert not [task for task in parts.cluster.tasks.values() if "execute_run" in task.command], "a run was started"
    assert not parts.people.messages, parts.people.messages[0].seen
    return f"first date {parts.first_business_date()}: no run, no alert"


def refuse_simulation(parts: World) -> str:
    task = parts.cluster.run("worker", "classfeed", "simulate")
    assert task.code not in (0, None), task.output()
    assert "prod" in task.output(), task.output()
    return "refused"


def simulate_customers(parts: World, days: int) -> str:
    # All at once: a date that was tried before its end of day waits for its next attempt.
    require_success(parts.cluster.run("worker", "classfeed", "simulate", "--days", str(days)))
    return str(parts.first_business_date())


def publish_figures(parts: World) -> str:
    # The data team fills its own table, from its own copy of bigsite.
    day = parts.first_business_date()
    engine = sa.create_engine(parts.bigsite.url("bigsite"))
    metrics = data_team_metrics(engine, class_super.FEED.recipient, day, previous_business_day(day))
    engine.dispose()
    with parts.warehouse() as connection:
        publish_metrics(connection, class_super.FEED.recipient, day, metrics, dt.datetime.now(dt.UTC))
    return f"{len(metrics)} figures of the data team"


def check_delivery(parts: World, prefix: str, count: int) -> str:
    def delivered() -> bool:
        return sum(key.endswith("manifest.json") for key in parts.keys(prefix)) >= count

    def workers() -> list[Task]:
        return [task for task in parts.cluster.tasks.values() if "execute_run" in task.command]

    hold = wait_until(delivered, _DATE_SECONDS, 3)
    assert hold, f"{len(workers())} worker(s); {[task.output()[-1500:] for task in workers()[-1:]]}"
    return f"{len(parts.keys(prefix))} objects by {len(workers())} worker task(s)"


def start_new_feed(parts: World) -> str:
    """Follow the runbook's section "Start a new feed" from the first date on, and undo its last step."""
    feed = "class_trade"
    check_delivery(parts, f"shadow/delivered/{feed}/", 1)
    assert not parts.keys(f"delivered/{feed}/"), "delivered live without a switch"
    for command, pattern in (
        (("verify", "--feed", feed), rf"sound +{feed}: [1-9]"),
        (("status", "--feed", feed), str(parts.first_business_date())),
        (("flags-set", "mode", feed, "live", "--reason", "the rehearsal starts it"), f"mode of {feed} is live"),
        (("flags",), rf"{feed} .*mode .*live"),
        (("flags-set", "mode", feed, "declared", "--reason", "the rehearsal is over"), f"mode of {feed} is declared"),
    ):
        task = parts.cluster.run("worker", "classfeed", *command)
        assert task.code == 0, f"classfeed {' '.join(command)}: exit code {task.code}: {task.output()[-800:]}"
        assert re.search(pattern, task.output()), task.output()[-800:]
    return f"{feed}: first date in shadow, sound; live by a switch, and back"


def check_proof(parts: World) -> str:
    def proven() -> bool:
        reports = [key for key in parts.keys("reconciliation/class_super/") if key.endswith("/report.html")]
        return any("-source/" in key for key in reports) and any("-data-team/" in key for key in reports)

    def workers() -> list[Task]:
        return [task for task in parts.cluster.tasks.values() if "reconciliation_job" in str(task.command)]

    assert wait_until(proven, _DATE_SECONDS, 3), f"no report; {[task.output()[-1500:] for task in workers()[-1:]]}"
    assert any(host.endswith("snowflakecomputing.com") for host in parts.forwarders.connected), "Snowflake not asked"
    return f"{_loaded(parts)} over the egress proxy"


def _loaded(parts: World) -> str:
    rows = [0]

    def loaded() -> bool:
        with parts.warehouse() as connection, contextlib.suppress(Exception):
            rows[:] = connection.cursor().execute("SELECT count(*) FROM FACT_DELIVERY").fetchone()
        return rows[0] > 0

    assert wait_until(loaded, _DATE_SECONDS, 5), "nothing in FACT_DELIVERY"
    return f"both reports, {rows[0]} row(s) in FACT_DELIVERY"


def check_alert(parts: World) -> str:
    task = parts.cluster.run("watchdog")
    assert task.code == 3, f"exit code {task.code}: {task.output()[-800:]}"
    assert wait_until(lambda: bool(parts.people.messages), _WAIT_SECONDS), "no message"
    text = "\n".join(message.seen for message in parts.people.messages)
    links = re.findall(r"<(https?://[^|>]+)\|", text)
    runbook = [link for link in links if "/docs/runbook.md#" in link]
    assert runbook, links
    headings = set(re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    assert {link.rpartition("#")[2] for link in runbook} <= headings, runbook
    assert not [link for link in links if not link.startswith("https://")]
    channels = {message.channel for message in parts.people.messages}
    return f"{len(parts.people.messages)} message(s) in {', '.join(sorted(channels))}"


def turn_switch(parts: World) -> str:
    turn = ("classfeed", "flags-set", "mode", "class_super")
    require_success(
        parts.cluster.run("worker", *turn, "off", "--reason", "the rehearsal turns it"), "mode of class_super is off"
    )
    task = parts.cluster.run("worker", "classfeed", "flags")
    require_success(task, "source: ssm")
    assert re.search(r"class_super .*mode .*off", task.output()), task.output()
    require_success(
        parts.cluster.run("worker", *turn, "declared", "--reason", "the rehearsal turns it"), "mode of class_super is"
    )
    return "off and back, from SSM"
