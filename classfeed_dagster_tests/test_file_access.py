"""Local files of customers' data are readable by their owner alone, whatever the umask."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from classfeed_dagster.file_access import keep_private
from classfeed_dagster.local import embedded_postgres
from classfeed_dagster.store import open_store
from classfeed_dagster_tests.fixtures.file_modes import mode, open_to_others


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_store_files_and_folders_are_the_owners_alone(umask: int, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert store.create("delivered/class_super/page.xml", b"1")
    store.put("quarantine/one.json", b"2")
    assert open_to_others(tmp_path / "store") == []


def test_keep_private_takes_others_access_from_new_files(umask: int, tmp_path: Path) -> None:
    keep_private()
    (tmp_path / "file").write_text("1")
    (tmp_path / "folder").mkdir()
    assert (mode(tmp_path / "file"), mode(tmp_path / "folder")) == (0o600, 0o700)


@pytest.mark.parametrize("name", ["short", "long" * 30])
def test_embedded_server_is_reached_by_its_owner_alone(umask: int, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="classfeed-", dir="/tmp") as folder:
        above = Path(folder) / name
        above.mkdir(0o700)
        above.chmod(0o700)
        home = above / "home"
        url = sa.make_url(embedded_postgres.start(home))
        try:
            assert mode(above) & 0o066 == 0
            address = Path(str(url.query["host"])) / ".s.PGSQL.5432"
            assert mode(address.parent) == 0o700
            engine = sa.create_engine(url)
            with engine.connect() as connection:
                assert connection.execute(sa.text("SELECT 1")).scalar() == 1
            engine.dispose()
            if os.getuid() == 0:
                with another_user(), socket.socket(socket.AF_UNIX) as stranger, pytest.raises(PermissionError):
                    stranger.connect(str(address))
        finally:
            embedded_postgres.stop(home)


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Run the block as a user without rights."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
