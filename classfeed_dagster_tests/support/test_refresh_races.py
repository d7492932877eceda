"""Two refreshes requested at the same instant, each by a process of its own: each portfolio in full once, in order."""

from __future__ import annotations

import datetime as dt
import grp
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster import DagsterInstance
from openfeature import api

from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import ObjectStore, S3Store
from classfeed_dagster.support.reruns import requests
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite
from classfeed_dagster_tests.fixtures.desk import Desk

FIRST, LATEST, NEXT = "2026-03-02", "2026-03-03", "2026-03-04"
NOW = morning_after(dt.date.fromisoformat(LATEST))


@contextmanager
def desk_on(store: ObjectStore, engine: sa.Engine, home: Path, endpoint: str) -> Iterator[tuple[Desk, dict[str, str]]]:
    """Yield a desk whose store is ``store``, and the same settings as environment variables."""
    place = store.location("x").removesuffix("/x")
    remote = endpoint if isinstance(store, S3Store) else None
    url = engine.url.render_as_string(hide_password=False)
    runtime = Runtime(
        Settings(
            bigsite_url=url,
            home=home,
            first_business_date=dt.date.fromisoformat(FIRST),
            store_url=place,
            s3_endpoint_url=remote,
        )
    )
    environment = {
        "CLASSFEED_BIGSITE_URL": url,
        "CLASSFEED_FIRST_BUSINESS_DATE": FIRST,
        "CLASSFEED_NOW": NOW.isoformat(),
        "CLASSFEED_SUPPORT_GROUP": grp.getgrgid(os.getgid()).gr_name,
        "CLASSFEED_STORE_URL": place,
    } | ({"CLASSFEED_S3_ENDPOINT_URL": remote} if remote else {})
    with DagsterInstance.ephemeral() as instance:
        yield Desk(Bigsite(engine), runtime, instance, build_definitions(runtime, FEEDS), FEEDS), environment
    runtime.close()
    api.clear_providers()


def refresh_at_once(engine: sa.Engine, environment: dict[str, str], folder: Path, numbers: list[str]) -> list[int]:
    """Request refreshes in processes of their own, which all wait for one lock; return their exit codes."""
    with engine.connect() as connection, connection.begin() as locked:
        connection.execute(sa.text("LOCK TABLE bigsite.data_sharing_consent IN ACCESS EXCLUSIVE MODE"))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "classfeed_dagster.cli.app", "refresh", number, "--reason", "history was lost"],
                env=os.environ | environment | {"CLASSFEED_HOME": str(folder / f"machine-{at}")},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for at, number in enumerate(numbers)
        ]
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND database = "
                          "(SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip
        with engine.connect() as observer:
            deadline = time.monotonic() + 60
            while observer.execute(waiting).scalar_one() < len(numbers) and time.monotonic() < deadline:
                assert [process.poll() for process in processes] == [None] * len(numbers)
                time.sleep(0.1)
        locked.rollback()
    return [process.wait(300) for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "same"),
    [
        pytest.param("local_store", False, id="two portfolios, disk"),
        pytest.param("local_store", True, id="one portfolio, disk", marks=pytest.mark.nightly),
        pytest.param("moto_store", True, id="one portfolio, S3", marks=pytest.mark.nightly),
        pytest.param("moto_store", False, id="two portfolios, S3", marks=pytest.mark.nightly),
    ],
)
def test_refreshes_at_the_same_instant_deliver_in_full_once(
    bigsite_engine: sa.Engine,
    tmp_path: Path,
    s3_endpoint: str,
    request: pytest.FixtureRequest,
    place: str,
    same: bool,
) -> None:
    store: ObjectStore = request.getfixturevalue(place)
    with desk_on(store, bigsite_engine, tmp_path / "desk", s3_endpoint) as (desk, environment):
        first, second = desk.two_customers()
        for day in (FIRST, LATEST):
            first.deposit("1.00", day)
            desk.end_of_day(day)
            assert desk.deliver(day).kind == "DELIVERED"
        numbers = [first.number, first.number if same else second.number]
        codes = refresh_at_once(bigsite_engine, environment, tmp_path, numbers)
        # The loser of a race gets an error, or finds its work done. The next run delivers what is missing.
        assert set(codes) <= {ExitCode.OK, ExitCode.FAILED, ExitCode.NOT_READY}, codes
        for _ in range(2):
            last = desk.run(LATEST)
        assert last.outcome is Outcome.NOTHING_TO_DO
        assert len(requests(store, "class_super")) == 2
        in_full = Counter(
            portfolio.number
            for manifest in desk.status(LATEST).deliveries
            for portfolio in manifest.portfolios
            if portfolio.extract == "FULL"
        )
        assert in_full == dict.fromkeys(numbers, 1)
        assert verify_feed(store, "class_super", EPI).problems == []
        first.deposit("2.00", NEXT)
        desk.end_of_day(NEXT)
        assert desk.run(NEXT).outcome is Outcome.DELIVERED
        assert {portfolio.extract for portfolio in desk.manifest(NEXT).portfolios} == {"DELTA"}
