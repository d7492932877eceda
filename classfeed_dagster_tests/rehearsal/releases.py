"""Later releases: renewed services, a rollback, a new password, a killed daemon, and what left the network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from classfeed_dagster_tests.rehearsal.first_deployment import check_health, migrate, run_smoke, start_service
from classfeed_dagster_tests.rehearsal.parts import World
from classfeed_dagster_tests.rehearsal.tasks import Task, environment_of

if TYPE_CHECKING:
    pass


def restart_services(parts: World, running: dict[str, Task]) -> str:
    for name in running:
        running[name].stop()
        running[name] = start_service(parts, name)
    for task in running.values():
        check_health(task)
    return f"{len(running)} service(s)"


def release_version(parts: World, running: dict[str, Task], version: str) -> str:
    before = running["code"].environment["CLASSFEED_CODE_VERSION"]
    assert before != version, before
    parts.cluster.release(version)
    migrated = migrate(parts, "migrated")  # while every service still runs the release before
    renewed = restart_services(parts, running)
    versions = {environment_of(task.process.pid)["CLASSFEED_CODE_VERSION"] for task in running.values()}
    assert versions == {version}, versions
    return f"{before} to {version}: {migrated}, {renewed}; {run_smoke(parts)}"


def rotate_password(parts: World, running: dict[str, Task]) -> str:
    password = "second"
    parts.database.set_password(password)
    value: dict[str, Any] = {"username": "dagster", "password": password}
    parts.client("secretsmanager").put_secret_value(
        SecretId=parts.secret("dagster-database"), SecretString=json.dumps(value)
    )
    return restart_services(parts, running)


def kill_daemon(parts: World, running: dict[str, Task]) -> str:
    running["daemon"].process.kill()
    running["daemon"].process.wait()
    running["daemon"] = start_service(parts, "daemon")
    return check_health(running["daemon"])


def check_egress(parts: World) -> str:
    assert not parts.forwarders.refused, sorted(set(parts.forwarders.refused))
    return ", ".join(sorted(parts.forwarders.connected))
