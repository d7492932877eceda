"""Steps of the rehearsal, in the order of ``deploy/release``."""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from dagster._core.storage.sql import run_alembic_downgrade
from dagster_postgres.run_storage.run_storage import PostgresRunStorage
from dagster_postgres.utils import pg_alembic_config

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.feeds import class_super
from classfeed_dagster.simulation.data_team import data_team_metrics, publish_metrics
from classfeed_dagster.trading_days import previous_business_day
from classfeed_dagster_tests.deploy.templates import ROOT
from classfeed_dagster_tests.rehearsal.parts import World, world
from classfeed_dagster_tests.rehearsal.tasks import Task, environment_of, wait_until

if TYPE_CHECKING:
    from classfeed_dagster_tests.rehearsal.report import Report

# Dagster's revision before the last one that changes a table in PostgreSQL.
_EARLIER_SCHEMA, _ADDED = "6b7fb194ff9c", ("concurrency_limits", "using_default_limit")
_START_SECONDS, _DATE_SECONDS = 180.0, 600.0


def rehearse(env: str, folder: Path, report: Report, *, short: bool, image: Path | None) -> None:
    """Run every step; each records its outcome in the report."""
    with world(env, folder, image) as parts:
        template = f"classfeed-{env}-application"
        running: dict[str, Task] = {}
        services = _services(parts)
        report.hold("migrate an empty database", template, lambda: _migrate(parts, "created"))
        if "steps" in services:
            _only_class_super(parts)
        report.hold("migrate an earlier schema", template, lambda: _migrate_earlier(parts))
        for name in services:
            running[name] = parts.cluster.start(parts.cluster.family(name))
        for name in services:
            report.hold(f"{name} is healthy", template, partial(_service_healthy, running, name))
        report.hold("environment is the template's alone", template, lambda: _environment(parts, running["code"]))
        report.hold("root is read-only, user has no rights", template, lambda: _confined(running["code"]))
        report.hold("smoke", template, lambda: _smoke(parts))
        if env == "prod":
            report.hold("simulation refuses production", template, lambda: _refused(parts))
            report.hold("nothing is due before the first date", template, lambda: _nothing_due(parts))
        else:
            report.hold("simulated customers", template, lambda: _simulate(parts))
            report.hold("first date delivered", template, lambda: _delivered(parts))
            if "steps" in running:
                report.hold(
                    "steps executed by the Celery worker", template, lambda: _fanned_out(parts, running["steps"])
                )
            if short:
                return
            report.hold("first date reconciled and loaded", template, lambda: _proven(parts))
            report.hold("alert with working links", template, lambda: _alert(parts))
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
    services = [
        resource["ServiceName"]
        for part in ("application", "workers")
        for resource in parts.stacks.resources(part, "AWS::ECS::Service").values()
    ]
    return sorted(services, key=lambda name: name != "code")  # the others ask the code server when they start


def _only_class_super(parts: World) -> None:
    # One date is enough for the workers of this machine.
    value = json.dumps({"mode": {"class_cash": "off", "class_trade": "off"}})
    name = f"/classfeed/{parts.env}/flags"
    parts.client("ssm").put_parameter(Name=name, Value=value, Type="String", Overwrite=True, Description="rehearsal")


def _fanned_out(parts: World, worker: Task) -> str:
    engine = sa.create_engine(parts.database.url("dagster"))
    query = "SELECT DISTINCT run_id, step_key FROM event_logs WHERE dagster_event_type = 'STEP_SUCCESS'"
    with engine.connect() as connection:
        steps = [row.step_key for row in connection.execute(sa.text(query)) if row.step_key]
    engine.dispose()
    shares = {step for step in steps if re.fullmatch(r"class_super__document\.\w+\[\d+\]", step)}
    assert len(shares) > 1, f"not fanned out: {sorted(steps)}"
    executed = worker.output().count("succeeded in")
    assert executed >= len(steps), f"{executed} steps by the worker, {len(steps)} in the event log"
    return f"{executed} steps by the worker, {len(shares)} of them shares of one document"


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
    # Production's first business date is ahead: nobody waits for anything, so nothing may be said to be late.
    assert wait_until(lambda: len(_keys(parts, "heartbeats/")) > 1, _START_SECONDS, 3), "no heartbeats"
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
        assert task.code is None, f"ended with {task.code}: {task.output()[-1500:]}"
        process = task.execute("health")
        last[0] = (process.stdout + process.stderr).strip()[-300:]
        return process.returncode == 0

    assert wait_until(healthy, _START_SECONDS), f"not healthy: {last[0]}; {task.output()[-1500:]}"
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
    return _ok(parts.cluster.run("migrate", "smoke", seconds=400), "the release works")


def _refused(parts: World) -> str:
    task = parts.cluster.run("worker", "classfeed", "simulate")
    assert task.code not in (0, None), task.output()
    assert "prod" in task.output(), task.output()
    return "refused"


def _simulate(parts: World) -> str:
    # bigsite's own team makes its tables; the contract says which.
    engine = sa.create_engine(parts.bigsite.url("bigsite"))
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        metadata.create_all(connection)
    engine.dispose()
    _ok(parts.cluster.run("worker", "classfeed", "simulate", "--days", "1", seconds=600))
    return f"{_first(parts)}, {_data_team(parts)} figures of the data team"


def _first(parts: World) -> dt.date:
    settings = parts.cluster.environment(parts.cluster.family("worker"))
    return dt.date.fromisoformat(settings["CLASSFEED_FIRST_BUSINESS_DATE"])


def _data_team(parts: World) -> int:
    # The data team fills its own table, from its own copy of bigsite.
    day = _first(parts)
    engine = sa.create_engine(parts.bigsite.url("bigsite"))
    metrics = data_team_metrics(engine, class_super.FEED.recipient, day, previous_business_day(day))
    engine.dispose()
    with parts.warehouse() as connection:
        publish_metrics(connection, class_super.FEED.recipient, day, metrics, dt.datetime.now(dt.UTC))
    return len(metrics)


def _keys(parts: World, prefix: str) -> list[str]:
    bucket = next(
        resource["BucketName"]
        for resource in parts.stacks.resources("foundation", "AWS::S3::Bucket").values()
        if "-data-" in resource["BucketName"]
    )
    pages = parts.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def _delivered(parts: World) -> str:
    prefix = "delivered/class_super/"

    def delivered() -> bool:
        return any(key.endswith("manifest.json") for key in _keys(parts, prefix))

    def workers() -> list[Task]:
        return [task for task in parts.cluster.tasks.values() if "execute_run" in task.command]

    hold = wait_until(delivered, _DATE_SECONDS, 3)
    assert hold, f"{len(workers())} worker(s); {[task.output()[-1500:] for task in workers()[-1:]]}"
    return f"{len(_keys(parts, prefix))} objects by {len(workers())} worker task(s)"


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
    assert wait_until(lambda: bool(parts.people.messages), 120), "no message"
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
    name = f"/classfeed/{parts.env}/flags"
    value = json.dumps({"mode": {"class_super": "off"}})
    parts.client("ssm").put_parameter(Name=name, Value=value, Type="String", Overwrite=True, Description="rehearsal")
    result = _ok(parts.cluster.run("worker", "classfeed", "flags"), "source: ssm")
    text = list(parts.cluster.tasks.values())[-1].output()
    assert re.search(r"class_super .*mode .*off", text), text
    parts.client("ssm").put_parameter(Name=name, Value="{}", Type="String", Overwrite=True, Description="rehearsal")
    return result


def _restart(parts: World, running: dict[str, Task]) -> str:
    for name in running:
        running[name].stop()
        running[name] = parts.cluster.start(parts.cluster.family(name))
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
    running["daemon"] = parts.cluster.start(parts.cluster.family("daemon"))
    return _healthy(running["daemon"])


def _egress(parts: World) -> str:
    assert not parts.forwarders.refused, sorted(set(parts.forwarders.refused))
    return ", ".join(sorted(parts.forwarders.connected))
