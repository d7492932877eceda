"""A bigsite that is read through a hot standby."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from classfeed_dagster.bigsite import tables
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.warehouse.records import BreakCause
from classfeed_dagster_tests.feed_run.test_delivered_ledger import explanations
from classfeed_dagster_tests.fixtures.postgres_replica import PostgresReplica
from classfeed_dagster_tests.fixtures.prepared_mornings import FRIDAY, MONDAY, Morning

pytestmark = pytest.mark.slow


@pytest.fixture
def replica(morning: Morning) -> Iterator[PostgresReplica]:
    """Return a replica of the morning's bigsite, through which the feed reads."""
    assert morning.bigsite.engine is not None
    # Not under pytest's own folder, which is closed to PostgreSQL's user.
    with tempfile.TemporaryDirectory(prefix="classfeed-replica-", ignore_cleanup_errors=True) as folder:
        created = PostgresReplica(morning.bigsite.engine.url, Path(folder))
        primary = morning.runtime
        reading = {"bigsite_url": SecretStr(created.url)}
        morning.runtime = Runtime(primary.settings.model_copy(update=reading))
        yield created
        morning.runtime.close()
        morning.runtime = primary
        created.stop()


def test_feed_through_a_replica_sends_and_explains_an_open_row(morning: Morning, replica: PostgresReplica) -> None:
    engine = morning.bigsite.engine
    assert engine is not None
    with engine.connect() as open_connection:
        late = morning.funds[0].deposit("123.45", FRIDAY, recorded_at="2020-04-03T12:59:58Z")
        rows = morning.bigsite.rows[tables.cash_transaction]
        open_connection.execute(sa.insert(tables.cash_transaction).values(late.values))
        rows.remove(late)  # so that nothing but this transaction writes it
        with engine.begin() as other:  # a later transaction, which the snapshot sees
            other.execute(sa.update(tables.member).values(family_name="Other"))
        replica.catch_up()
        assert morning.run(FRIDAY).kind == "DELIVERED"
        open_connection.commit()
    replica.catch_up()
    assert f"C{late.id}" not in morning.ids(FRIDAY)
    ((subject, (cause, evidence)),) = explanations(morning, FRIDAY).items()
    assert (subject, cause) == (f"C{late.id}", BreakCause.LATE_ROW)
    assert evidence.endswith("to be sent with 2020-04-06")
    morning.end_of_day(MONDAY)
    replica.catch_up()
    assert morning.run(MONDAY).kind == "DELIVERED"
    assert morning.ids(MONDAY) == [f"C{late.id}"]
    assert explanations(morning, MONDAY) == {}
