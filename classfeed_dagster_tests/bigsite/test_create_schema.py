"""Only local and test databases may be written to."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.create_schema import NotLocalError, create_schema, require_local
from classfeed_dagster.bigsite.tables import metadata


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(f"postgresql+psycopg://{url}")


@pytest.mark.parametrize(
    "url",
    [
        "u@localhost/feed_test",
        "u@127.0.0.1:5433/feed_test",
        "u@[::1]/feed_test",
        "u@/feed_test?host=/tmp/socket",
        "u@/bigsite?host=/tmp/socket",
        "u@localhost/feed_test?host=127.0.0.1",
    ],
)
def test_local_database_may_be_written(url: str) -> None:
    require_local(_engine(url))


@pytest.mark.parametrize(
    "url",
    [
        "u@bigsite.example/bigsite_test",
        "u@localhost/bigsite",  # could be a tunnel to the real one
        "u@localhost/production",
        "u@/bigsite",  # the environment could name any server
        "u@/feed_test",
        "u@localhost/feed_test?host=bigsite.example",
        "u@/feed_test?host=localhost&host=bigsite.example",
        "u@/feed_test?host=localhost,bigsite.example",
        "u@localhost",
    ],
)
def test_other_database_is_refused(url: str) -> None:
    with pytest.raises(NotLocalError, match="nothing is written"):
        require_local(_engine(url))


def test_database_name_is_allowed_on_this_machine_only() -> None:
    require_local(_engine("u@localhost/demo"), allowed=["demo"])
    with pytest.raises(NotLocalError):
        require_local(_engine("u@elsewhere/demo"), allowed=["demo"])


def test_tables_that_exist_are_left_unchanged(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    create_schema(engine)
    create_schema(engine)
    assert set(sa.inspect(engine).get_table_names("bigsite")) == {table.name for table in metadata.sorted_tables}
    engine.dispose()
