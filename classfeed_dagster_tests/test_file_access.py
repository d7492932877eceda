"""Local files of customers' data are readable by their owner alone, whatever the umask."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from classfeed_dagster.file_access import keep_private
from classfeed_dagster.local import embedded_postgres, snowflake_server
from classfeed_dagster.store import open_store

DEMO = """
import os
os.umask(0)
from classfeed_dagster.cli.app import app
for command in (["simulate"], ["run", "--date", "2023-01-03"], ["reconcile", "--date", "2023-01-03"]):
    app(command, standalone_mode=False)
"""


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(home: Path) -> list[str]:
    """Return the files and folders under ``home`` that other users may read, write or list."""
    passed_through = {home} if os.getuid() == 0 else set()  # the embedded server is then another user
    paths = [home, *home.rglob("*")]
    return [
        f"{path.relative_to(home)} {mode(path):o}"
        for path in paths
        if not path.is_symlink() and not path.is_socket() and mode(path) & (0o066 if path in passed_through else 0o077)
    ]


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


@pytest.mark.slow
def test_demo_home_under_umask_zero_is_the_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLASSFEED_", "DAGSTER_"))}
    environment = {**kept, "CLASSFEED_HOME": str(home), "CLASSFEED_SIMULATION_PORTFOLIOS": "4"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", DEMO], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert result.returncode == 0, result.stderr[-3000:]
        assert {"store", "postgres", "snowflake", "dagster"} <= {path.name for path in home.iterdir()}
        assert open_to_others(home) == []
    finally:
        snowflake_server.stop(home)
        embedded_postgres.stop(home)
