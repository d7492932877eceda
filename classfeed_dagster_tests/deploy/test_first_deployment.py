"""First deployment: the shipped instance file against an empty PostgreSQL over TLS, with the shipped scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from classfeed_dagster_tests.fixtures.certificates import Authority
from classfeed_dagster_tests.fixtures.templates import ROOT
from classfeed_dagster_tests.fixtures.tls_postgres import TlsPostgres

ADDRESS = f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 250}.{os.getpid() // 16000 % 250 + 1}"


@pytest.fixture(scope="module")
def server() -> Iterator[TlsPostgres]:
    # Not under pytest's own folder, which is closed to other users, and PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="classfeed-tls-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        certificate = Authority(folder / "authority").issue("database", [ADDRESS])
        server = TlsPostgres(folder / "postgres", certificate, address=ADDRESS, user="dagster", password="first")
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def environment(server: TlsPostgres, tmp_path: Path) -> dict[str, str]:
    """Prepare a task's environment, the instance folder as in the image, and an empty database."""
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", home)
    database = f"dagster_{time.monotonic_ns()}"
    server.create_database(database)
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name in ("service", "health"):
        shutil.copy(ROOT / "deploy" / name, scripts)
    return {
        "PATH": f"{scripts}:{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path),
        "DAGSTER_HOME": str(home), "DAGSTER_PG_HOST": server.address, "DAGSTER_PG_DB": database,
        "DAGSTER_PG_USERNAME": "dagster", "DAGSTER_PG_PASSWORD": server.password, "AWS_REGION": "ap-southeast-2",
        "CLASSFEED_COMPUTE_LOGS_BUCKET": "logs", "CLASSFEED_WORKER_TASK_DEFINITION": "classfeed-stg-worker",
    }  # fmt: skip


def service(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["service", *arguments], env=environment, capture_output=True, text=True, check=False)


def tables(server: TlsPostgres, environment: dict[str, str]) -> set[str]:
    engine = sa.create_engine(server.url(environment["DAGSTER_PG_DB"]), poolclass=sa.pool.NullPool)
    return set(sa.inspect(engine).get_table_names())


def test_migrate_creates_keeps_and_completes_the_tables(server: TlsPostgres, environment: dict[str, str]) -> None:
    process = service(environment, "migrate")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.startswith("created: ")
    complete = tables(server, environment)
    assert {"runs", "event_logs", "job_ticks", "alembic_version", "daemon_heartbeats"} <= complete

    again = service(environment, "migrate")
    assert (again.returncode, again.stdout.split(":")[0]) == (0, "migrated"), again.stderr

    liveness = service(environment, "dagster-daemon", "liveness-check")
    printed = liveness.stderr + liveness.stdout
    assert "relation" not in liveness.stderr
    assert "No heartbeats" in printed or "Daemon(s) not running" in printed

    server.execute("DROP TABLE event_logs CASCADE", environment["DAGSTER_PG_DB"])  # half created
    completed = service(environment, "migrate")
    assert completed.returncode == 0, completed.stderr
    assert tables(server, environment) == complete


def test_migrate_of_a_rollback_keeps_a_newer_schema(server: TlsPostgres, environment: dict[str, str]) -> None:
    assert service(environment, "migrate").returncode == 0
    before = tables(server, environment)
    server.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'", environment["DAGSTER_PG_DB"])
    process = service(environment, "migrate")
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"kept as a newer version made it: {len(before)} tables\n"
    assert tables(server, environment) == before
    runs = service(environment, "dagster", "run", "list")
    assert runs.returncode == 0, runs.stderr


def test_migrate_wrong_password_names_secret_and_no_value(environment: dict[str, str]) -> None:
    process = service(environment | {"DAGSTER_PG_PASSWORD": "hunter2"}, "migrate")
    assert process.returncode == 1
    assert "dagster-database" in process.stderr
    assert "hunter2" not in process.stdout + process.stderr


def test_migrate_missing_variable_names_it(environment: dict[str, str]) -> None:
    environment.pop("DAGSTER_PG_HOST")
    process = service(environment, "migrate")
    assert process.returncode == 1
    assert "DAGSTER_PG_HOST" in process.stderr


@pytest.mark.parametrize("role", ["code-server", "viewer", "operator"])
def test_health_after_a_rotation_asks_for_a_new_task(environment: dict[str, str], tmp_path: Path, role: str) -> None:
    # The component itself still answers: it is stood in for by commands that succeed.
    scripts = tmp_path / "answering"
    scripts.mkdir()
    (scripts / "dagster").write_text("#!/bin/sh\n")
    (scripts / "python").write_text(
        f'#!/bin/sh\ncase "$*" in *urlopen*) exit 0 ;; *) exec {sys.executable} "$@" ;; esac\n'
    )
    for script in scripts.iterdir():
        script.chmod(0o755)
    (tmp_path / "classfeed-role").write_text(role)
    answering = environment | {"PATH": f"{scripts}:{environment['PATH']}", "TMPDIR": str(tmp_path)}
    healthy = subprocess.run(["health"], env=answering, capture_output=True, text=True, check=False)
    assert healthy.returncode == 0, healthy.stderr
    rotated = answering | {"DAGSTER_PG_PASSWORD": "of-last-month"}
    stale = subprocess.run(["health"], env=rotated, capture_output=True, text=True, check=False)
    assert stale.returncode != 0
    assert "of-last-month" not in stale.stdout + stale.stderr
