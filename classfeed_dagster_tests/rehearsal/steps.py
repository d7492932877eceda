"""Steps of the rehearsal, in the order of ``deploy/release``."""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import json
import re
import urllib.parse
import urllib.request
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from dagster._core.storage.sql import run_alembic_downgrade
from dagster_postgres.run_storage.run_storage import PostgresRunStorage
from dagster_postgres.utils import pg_alembic_config

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.feeds import class_super
from classfeed_dagster.simulation.data_team import data_team_metrics, publish_metrics
from classfeed_dagster.trading_days import previous_business_day
from classfeed_dagster.warehouse.privileges import CREATED
from classfeed_dagster_tests.deploy.templates import ROOT
from classfeed_dagster_tests.rehearsal.image import Image
from classfeed_dagster_tests.rehearsal.parts import World, answers, world
from classfeed_dagster_tests.rehearsal.pipelines import Round, replay, start_up
from classfeed_dagster_tests.rehearsal.resolver import UnresolvableError
from classfeed_dagster_tests.rehearsal.tasks import Task, environment_of, wait_until

if TYPE_CHECKING:
    from classfeed_dagster_tests.rehearsal.report import Report

# Dagster's revision before the last one that changes a table in PostgreSQL.
_EARLIER_SCHEMA, _ADDED = "6b7fb194ff9c", ("concurrency_limits", "using_default_limit")
# Nothing is judged by these: a busy machine takes long, and only what never comes fails.
_WAIT_SECONDS, _DATE_SECONDS = 600.0, 1200.0


def rehearse_date(env: str, folder: Path, report: Report, image: Image) -> None:
    """Run the short form: start, health, smoke and one date of class_super."""
    template = f"classfeed-{env}-application"
    with world(env, folder, image) as parts:
        _create_bigsite(parts)
        _grant(parts)
        _only_class_super(parts)
        report.hold("migrate an empty database", template, lambda: _migrate(parts, "created"))
        # The daemon last: a date that is simulated before its first tick is not waited for.
        services = sorted(_services(parts), key=lambda name: name == "daemon")
        running = {name: _start(parts, name) for name in services[:-1]}
        report.hold("simulated customers", template, lambda: _simulate(parts, 1))
        running["daemon"] = _start(parts, "daemon")
        _services_hold(parts, running, report, template)
        report.hold("first date delivered", template, lambda: _delivered(parts, "delivered/class_super/", 1))


def rehearse_pipelines(env: str, folder: Path, report: Report, image: Image, *, rounds: int) -> list[Round]:
    """Deploy again and again with every service running, by the old pipeline's nodes and by this one's."""
    template = f"classfeed-{env}-application"
    replayed: list[Round] = []
    with world(env, folder, image) as parts:
        _create_bigsite(parts)
        report.hold("migrate an empty database", template, lambda: _migrate(parts, "created"))
        running = {name: _start(parts, name) for name in _services(parts)}
        for name in running:
            report.hold(f"{name} is healthy", template, partial(_service_healthy, running, name))
        role = f"arn:aws:iam::{parts.stacks.parameters['AWS::AccountId']}:role/classfeed-{env}-deployer"
        steps = start_up(parts.client("sts"), role) | {
            "migration": lambda: _migrate(parts, "migrated"),
            "deployment": lambda: _restart(parts, running),
            "smoke test": lambda: _smoke(parts),
        }
        pairs = replay(env, rounds, steps)
        for number in range(1, rounds + 1):
            report.hold(f"round {number}", "deploy/baseline.json", lambda: _round(replayed, next(pairs)))
    return replayed


def _round(replayed: list[Round], one: Round) -> str:
    replayed.append(one)
    return f"three nodes {one.old:.1f} s, one node {one.new:.1f} s"


def _services_hold(parts: World, running: dict[str, Task], report: Report, template: str) -> None:
    for name in running:
        report.hold(f"{name} is healthy", template, partial(_service_healthy, running, name))
    report.hold("environment is the template's alone", template, lambda: _environment(parts, running["code"]))
    report.hold("root is read-only, user has no rights", template, lambda: _confined(running["code"]))
    report.hold("smoke", template, lambda: _smoke(parts))
    report.hold("load balancer's targets are healthy", template, lambda: _targets(parts))


def rehearse(env: str, folder: Path, report: Report, *, days: int, image: Image) -> None:
    """Run every step; each records its outcome in the report. ``days``: business dates with simulated customers."""
    with world(env, folder, image) as parts:
        template = f"classfeed-{env}-application"
        running: dict[str, Task] = {}
        services = _services(parts)
        _create_bigsite(parts)
        _grant(parts)
        _create_metrics(parts)
        report.hold("migrate an empty database", template, lambda: _migrate(parts, "created"))
        for name in ("migrate", "code", "worker", "door", "watchdog", *(("steps",) if "steps" in services else ())):
            report.hold(f"preflight of {name}", template, partial(_preflight, parts, name))
        report.hold("preflight names a revoked grant", template, lambda: _refuse_revoked(parts))
        report.hold("missing secret, setting and bigsite refused", template, lambda: _refuse_bad_input(parts))
        if "steps" in services:
            _only_class_super(parts)
        report.hold("migrate an earlier schema", template, lambda: _migrate_earlier(parts))
        for name in services:
            running[name] = _start(parts, name)
        _services_hold(parts, running, report, template)
        report.hold("support page asks for a signed identity", template, lambda: _identity(parts, running["door"]))
        if env == "prod":
            report.hold("simulation refuses production", template, lambda: _refused(parts))
            report.hold("nothing is due before the first date", template, lambda: _nothing_due(parts))
        else:
            report.hold("simulated customers", template, lambda: f"{_simulate(parts, days)}, {_data_team(parts)}")
            report.hold("first date delivered", template, lambda: _delivered(parts, "delivered/class_super/", 1))
            if "steps" in running:
                report.hold("steps executed by two Celery workers", template, lambda: _fanned_out(parts))
            report.hold("traces, metrics and logs at the collector", template, lambda: _collected(parts))
            if env == "stg":  # dev's other feeds are off
                report.hold("a new feed's first day, in shadow", "docs/runbook.md", lambda: _new_feed(parts))
            report.hold("first date reconciled and loaded", template, lambda: _proven(parts))
            report.hold("alert with working links", template, lambda: _alert(parts))
            report.hold("re-run through the support page", template, lambda: _rerun(parts))
            for day in range(2, days + 1):
                report.hold(
                    f"date {day} delivered", template, partial(_delivered, parts, "delivered/class_super/", day)
                )
        report.hold("switch turned without a release", template, lambda: _switch(parts))
        report.hold("second release migrates, then renews", template, lambda: _release(parts, running, "release-2"))
        report.hold("rollback to the first release", template, lambda: _release(parts, running, "release-1"))
        report.hold("database password rotated", template, lambda: _rotate(parts, running))
        report.hold("daemon killed and replaced", template, lambda: _kill_daemon(parts, running))
        report.hold("smoke at the end", template, lambda: _smoke(parts))
        report.hold("egress: only what is declared", template, lambda: _egress(parts))


def _ok(task: Task, pattern: str = "") -> str:
    text = task.output()
    assert task.code == 0, f"exit code {task.code}: {text[-1500:]}"
    assert re.search(pattern, text), text[-1500:]
    return text.strip().splitlines()[-1] if text.strip() else "held"


def _migrate(parts: World, expected: str) -> str:
    return _ok(parts.cluster.run("migrate"), rf"^{expected}: \d+ tables")


def _services(parts: World) -> list[str]:
    # One of each is enough of a webserver; workers are as many as the template has.
    services = []
    for part in ("application", "workers"):
        for resource in parts.stacks.resources(part, "AWS::ECS::Service").values():
            count = resource["DesiredCount"]["Fn::If"][1] if part == "workers" else 1
            services += [resource["ServiceName"], *(f"{resource['ServiceName']} {at}" for at in range(2, count + 1))]
    return sorted(services, key=lambda name: name != "code")  # the others ask the code server when they start


def _component(service: str) -> str:
    return service.partition(" ")[0]


def _start(parts: World, service: str) -> Task:
    return parts.cluster.start(parts.cluster.family(_component(service)))


def _create_bigsite(parts: World) -> None:
    """Create another team's tables."""
    engine = sa.create_engine(parts.bigsite.url("bigsite"))
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        metadata.create_all(connection)
    engine.dispose()


def _create_metrics(parts: World) -> None:
    """Create the data team's table."""
    with parts.warehouse() as connection:
        publish_metrics(connection, class_super.FEED.recipient, _first(parts), [], dt.datetime.now(dt.UTC))


def _grant(parts: World) -> None:
    """Grant what docs/deployment.md demands of Snowflake."""
    with parts.warehouse() as connection:
        for statement in _grants(parts):
            connection.cursor().execute(statement)


def _grants(parts: World) -> list[str]:
    """Return the grants of the schema: to a role of its own, which the deployment's role has."""
    settings = parts.cluster.environment(parts.cluster.family("worker"))
    schema = f"{settings['CLASSFEED_SNOWFLAKE_DATABASE']}.{settings['CLASSFEED_SNOWFLAKE_SCHEMA']}"
    privileges = [f"GRANT CREATE {kind} ON SCHEMA {schema} TO ROLE FEED_WRITER" for kind in CREATED]
    privileges.append("GRANT DATABASE ROLE SNOWFLAKE.USAGE_VIEWER TO ROLE FEED_WRITER")
    return [*privileges, f"GRANT ROLE FEED_WRITER TO ROLE {settings['CLASSFEED_SNOWFLAKE_ROLE']}"]


def _refuse_revoked(parts: World) -> str:
    """Expect the preflight to name a revoked privilege, and each one that the role had by a role of its own."""
    *_, view, _, role = _grants(parts)
    with parts.warehouse() as connection:
        for grant, lacking in ((view, ["CREATE VIEW"]), (role, [*(f"CREATE {kind}" for kind in CREATED), "USAGE"])):
            connection.cursor().execute(grant.replace("GRANT ", "REVOKE ").replace(" TO ROLE", " FROM ROLE"))
            task = parts.cluster.run("worker", "classfeed", "preflight")
            failures = re.findall(r"^FAIL .*", task.output(), re.MULTILINE)
            connection.cursor().execute(grant)
            assert task.code == 3, f"{grant}: exit code {task.code}"
            assert len(failures) == 1, failures
            assert re.findall(r"(CREATE \w+|USAGE) ON", failures[0]) == lacking, failures[0]
    return f"two revoked; {_preflight(parts, 'worker')} with both"


def _preflight(parts: World, name: str) -> str:
    task = parts.cluster.run(name, "classfeed", "preflight")
    answers = re.findall(r"^(ok|FAIL) .*", task.output(), re.MULTILINE)
    assert task.code == 0, (
        "; ".join(re.findall(r"^FAIL .*|^[A-Z]\w+Error.*", task.output(), re.MULTILINE)) or task.output()[-800:]
    )
    assert f"assumed-role/classfeed-{parts.env}-" in task.output() or name == "migrate", task.output()
    return f"{len(answers)} answers"


def _refuse_bad_input(parts: World) -> str:
    """Expect a sentence and an exit code, and no object written."""
    before = _keys(parts, "")
    unfilled = {"secret": parts.secret("slack"), "value": {"set": "by hand"}}
    family = parts.cluster.family("code")
    with parts.cluster.changed(family, secret=unfilled), pytest.raises(UnresolvableError, match="fill it by hand"):
        parts.cluster.environment(family)
    bigsite = "postgresql+psycopg://feed:hunter2@bigsite.broker.internal:9/bigsite"
    for change, command, code, sentence in (
        ({"CLASSFEED_SNOWFLAKE_ROLE": None, "CLASSFEED_UI_URL": None}, ("run", "--date", str(_first(parts))), 2,
         "CLASSFEED_UI_URL, CLASSFEED_SNOWFLAKE_ROLE"),
        ({"CLASSFEED_BIGSITE_URL": bigsite}, ("preflight",), 3, "FAIL  bigsite: OperationalError. Check"),
    ):  # fmt: skip
        with parts.cluster.changed(parts.cluster.family("worker"), variables=change):
            task = parts.cluster.run("worker", "classfeed", *command)
        text = task.output()
        assert task.code == code, f"exit code {task.code}: {text[-800:]}"
        assert sentence in text, text[-800:]
        assert "Traceback" not in text, text[-800:]
        assert "hunter2" not in text, "a password is repeated"
    assert _keys(parts, "") == before, "something was written"
    return "exit codes 2 and 3, nothing written"


def _only_class_super(parts: World) -> None:
    # One date is enough for the workers of this machine.
    value = json.dumps({"mode": {"class_cash": "off", "class_trade": "off"}})
    name = f"/classfeed/{parts.env}/flags"
    parts.client("ssm").put_parameter(Name=name, Value=value, Type="String", Overwrite=True, Description="rehearsal")


def _fanned_out(parts: World) -> str:
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


def _collected(parts: World) -> str:
    """Expect the first delivery's run in the collector: its trace, its metrics and its log lines; no person's data."""
    collector = parts.collector
    key = next(key for key in _keys(parts, "delivered/class_super/") if key.endswith("manifest.json"))
    body = parts.client("s3").get_object(Bucket=_bucket(parts), Key=key)["Body"].read()
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


def _targets(parts: World) -> str:
    paths = [target["HealthCheckPath"] for target in parts.balancer.targets.values()]
    for name, target in parts.balancer.targets.items():
        status, _ = parts.balancer.check(name)
        assert str(status) == target["Matcher"]["HttpCode"], f"{target['HealthCheckPath']}: {status}"
    return ", ".join(paths)


def _identity(parts: World, door: Task) -> str:
    balancer = parts.balancer
    group = parts.cluster.environment(parts.cluster.family("door"))["CLASSFEED_SUPPORT_GROUP"]
    claims = {"sub": "1", "preferred_username": "r.hearsal", "groups": [group]}
    other = balancer.arn.replace("/classfeed-", "/other-")
    stranger = ec.generate_private_key(ec.SECP256R1())
    for kind, identity, expected in (
        ("none", None, 401),
        ("another load balancer's", balancer.sign(claims, signer=other), 401),
        ("another key's", balancer.sign(claims, key=stranger), 401),
        ("expired", balancer.sign(claims, seconds=-60), 401),
        ("this load balancer's", balancer.sign(claims), 200),
    ):
        status, _ = balancer.request("/rerun", identity)
        assert status == expected, f"identity {kind}: {status}, expected {expected}"
    form = f"feed=class_super&date={_first(parts)}&reason=the+rehearsal+tries+it"
    status, page = balancer.request("/rerun", balancer.sign({**claims, "groups": ["others"]}), form)
    assert status == 403, page[-600:]
    (line,) = [line for line in door.output().splitlines() if "re-run refused" in line]
    assert json.loads(line)["level"] == "warning", line
    return "five identities; outside the support group refused"


def _rerun(parts: World) -> str:
    group = parts.cluster.environment(parts.cluster.family("door"))["CLASSFEED_SUPPORT_GROUP"]
    identity = parts.balancer.sign({"sub": "1", "preferred_username": "r.hearsal", "groups": [group]})
    form = f"feed=class_super&date={_first(parts)}&reason=the+rehearsal+tries+it"
    status, page = parts.balancer.request("/rerun", identity, form)
    assert status == 202, page[-600:]
    (run_id,) = re.findall(r"<code>([0-9a-f-]{36})</code>", page)

    def ended() -> bool:
        return any(task.code == 0 for task in parts.cluster.tasks.values() if run_id in str(task.command))

    assert wait_until(ended, _DATE_SECONDS, 3), f"run {run_id} did not end well"
    (record,) = _keys(parts, "reruns/class_super/")
    return f"run {run_id[:8]} by a worker task, recorded as {record}"


def _migrate_earlier(parts: World) -> str:
    engine = sa.create_engine(parts.database.url("dagster"))
    with engine.begin() as connection:
        run_alembic_downgrade(pg_alembic_config(inspect.getfile(PostgresRunStorage)), connection, _EARLIER_SCHEMA)
    assert not _has_column(engine), "the downgrade did nothing"
    outcome = _migrate(parts, "migrated")
    assert _has_column(engine), "the column is still missing"
    engine.dispose()
    return f"{outcome} from {_EARLIER_SCHEMA}"


def _has_column(engine: sa.Engine) -> bool:
    table, column = _ADDED
    return column in {item["name"] for item in sa.inspect(engine).get_columns(table)}


def _nothing_due(parts: World) -> str:
    # Production's first business date is ahead: nothing is due, so nothing may be reported as late.
    assert wait_until(lambda: len(_keys(parts, "heartbeats/")) > 1, _WAIT_SECONDS, 3), "no heartbeats"
    task = parts.cluster.run("watchdog")
    assert task.code == 0, f"exit code {task.code}: {task.output()[-800:]}"
    assert not [task for task in parts.cluster.tasks.values() if "execute_run" in task.command], "a run was started"
    assert not parts.people.messages, parts.people.messages[0].seen
    return f"first date {_first(parts)}: no run, no alert"


def _service_healthy(running: dict[str, Task], name: str) -> str:
    return _healthy(running[name])


def _healthy(task: Task) -> str:
    last: list[str] = [""]

    def healthy() -> bool:
        assert task.code is None, f"ended with {task.code}: {task.output()[-6000:]}"
        if not all(answers(task.address, port) for port in task.ports):
            return False  # asked first, since each health check starts Python
        process = task.execute("health")
        last[0] = (process.stdout + process.stderr).strip()[-300:]
        return process.returncode == 0

    assert wait_until(healthy, _WAIT_SECONDS), f"not healthy: {last[0]}; {task.output()[-1500:]}"
    return "healthy"


def _environment(parts: World, task: Task) -> str:
    result = environment_of(task.process.pid)
    result.pop("PWD", None)  # the shell of deploy/service exports it
    assert result == task.environment, sorted(set(result) ^ set(task.environment))
    return f"{len(result)} variables"


def _confined(task: Task) -> str:
    process = task.execute(
        "sh", "-c", "touch /opt/dagster/x || touch /etc/x || touch /x; id -u; touch /tmp/x && echo tmp"
    )
    assert process.stdout.split() == ["10001", "tmp"], process.stdout + process.stderr
    return "user 10001"


def _smoke(parts: World) -> str:
    return _ok(parts.cluster.run("migrate", "smoke"), "the release works")


def _refused(parts: World) -> str:
    task = parts.cluster.run("worker", "classfeed", "simulate")
    assert task.code not in (0, None), task.output()
    assert "prod" in task.output(), task.output()
    return "refused"


def _simulate(parts: World, days: int) -> str:
    # All at once: a date that was tried before its end of day waits for its next attempt.
    _ok(parts.cluster.run("worker", "classfeed", "simulate", "--days", str(days)))
    return str(_first(parts))


def _first(parts: World) -> dt.date:
    settings = parts.cluster.environment(parts.cluster.family("worker"))
    return dt.date.fromisoformat(settings["CLASSFEED_FIRST_BUSINESS_DATE"])


def _data_team(parts: World) -> str:
    # The data team fills its own table, from its own copy of bigsite.
    day = _first(parts)
    engine = sa.create_engine(parts.bigsite.url("bigsite"))
    metrics = data_team_metrics(engine, class_super.FEED.recipient, day, previous_business_day(day))
    engine.dispose()
    with parts.warehouse() as connection:
        publish_metrics(connection, class_super.FEED.recipient, day, metrics, dt.datetime.now(dt.UTC))
    return f"{len(metrics)} figures of the data team"


def _bucket(parts: World) -> str:
    return next(
        str(resource["BucketName"])
        for resource in parts.stacks.resources("foundation", "AWS::S3::Bucket").values()
        if "-data-" in resource["BucketName"]
    )


def _keys(parts: World, prefix: str) -> list[str]:
    pages = parts.client("s3").get_paginator("list_objects_v2").paginate(Bucket=_bucket(parts), Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def _delivered(parts: World, prefix: str, count: int) -> str:
    def delivered() -> bool:
        return sum(key.endswith("manifest.json") for key in _keys(parts, prefix)) >= count

    def workers() -> list[Task]:
        return [task for task in parts.cluster.tasks.values() if "execute_run" in task.command]

    hold = wait_until(delivered, _DATE_SECONDS, 3)
    assert hold, f"{len(workers())} worker(s); {[task.output()[-1500:] for task in workers()[-1:]]}"
    return f"{len(_keys(parts, prefix))} objects by {len(workers())} worker task(s)"


def _new_feed(parts: World) -> str:
    """Follow the runbook's section "Start a new feed" from the first date on, and undo its last step."""
    feed = "class_trade"
    _delivered(parts, f"shadow/delivered/{feed}/", 1)
    assert not _keys(parts, f"delivered/{feed}/"), "delivered live without a switch"
    for command, pattern in (
        (("verify", "--feed", feed), rf"sound +{feed}: [1-9]"),
        (("status", "--feed", feed), str(_first(parts))),
        (("flags-set", "mode", feed, "live", "--reason", "the rehearsal starts it"), f"mode of {feed} is live"),
        (("flags",), rf"{feed} .*mode .*live"),
        (("flags-set", "mode", feed, "declared", "--reason", "the rehearsal is over"), f"mode of {feed} is declared"),
    ):
        task = parts.cluster.run("worker", "classfeed", *command)
        assert task.code == 0, f"classfeed {' '.join(command)}: exit code {task.code}: {task.output()[-800:]}"
        assert re.search(pattern, task.output()), task.output()[-800:]
    return f"{feed}: first date in shadow, sound; live by a switch, and back"


def _proven(parts: World) -> str:
    def proven() -> bool:
        reports = [key for key in _keys(parts, "reconciliation/class_super/") if key.endswith("/report.html")]
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


def _alert(parts: World) -> str:
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


def _switch(parts: World) -> str:
    turn = ("classfeed", "flags-set", "mode", "class_super")
    _ok(parts.cluster.run("worker", *turn, "off", "--reason", "the rehearsal turns it"), "mode of class_super is off")
    task = parts.cluster.run("worker", "classfeed", "flags")
    _ok(task, "source: ssm")
    assert re.search(r"class_super .*mode .*off", task.output()), task.output()
    _ok(parts.cluster.run("worker", *turn, "declared", "--reason", "the rehearsal turns it"), "mode of class_super is")
    return "off and back, from SSM"


def _restart(parts: World, running: dict[str, Task]) -> str:
    for name in running:
        running[name].stop()
        running[name] = _start(parts, name)
    for task in running.values():
        _healthy(task)
    return f"{len(running)} service(s)"


def _release(parts: World, running: dict[str, Task], version: str) -> str:
    before = running["code"].environment["CLASSFEED_CODE_VERSION"]
    assert before != version, before
    parts.cluster.release(version)
    migrated = _migrate(parts, "migrated")  # while every service still runs the release before
    renewed = _restart(parts, running)
    versions = {environment_of(task.process.pid)["CLASSFEED_CODE_VERSION"] for task in running.values()}
    assert versions == {version}, versions
    return f"{before} to {version}: {migrated}, {renewed}; {_smoke(parts)}"


def _rotate(parts: World, running: dict[str, Task]) -> str:
    password = "second"
    parts.database.set_password(password)
    value: dict[str, Any] = {"username": "dagster", "password": password}
    parts.client("secretsmanager").put_secret_value(
        SecretId=parts.secret("dagster-database"), SecretString=json.dumps(value)
    )
    return _restart(parts, running)


def _kill_daemon(parts: World, running: dict[str, Task]) -> str:
    running["daemon"].process.kill()
    running["daemon"].process.wait()
    running["daemon"] = _start(parts, "daemon")
    return _healthy(running["daemon"])


def _egress(parts: World) -> str:
    assert not parts.forwarders.refused, sorted(set(parts.forwarders.refused))
    return ", ".join(sorted(parts.forwarders.connected))
