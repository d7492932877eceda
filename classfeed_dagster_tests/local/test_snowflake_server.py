from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import snowflake.connector

from classfeed_dagster.local import snowflake_server as server
from classfeed_dagster.local.processes import start_of
from classfeed_dagster.settings import Settings
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.database import execute, query, transaction
from classfeed_dagster.warehouse.schema import ensure_dates

# A process that joins the server and works until its input ends.
USER = """
import sys
from pathlib import Path
from classfeed_dagster.local import snowflake_server as server
print(server.start(Path(sys.argv[1]))["port"], flush=True)
sys.stdin.read()
print(server.release(Path(sys.argv[1])), flush=True)
"""


@contextmanager
def user(home: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_concurrent_starts_share_one_server(tmp_path: Path) -> None:
    with user(tmp_path) as item, user(tmp_path) as other:  # neither waits for the other's start
        assert port_of(item) == port_of(other)
        first = item.communicate("")[0]
        assert first == "False\n"  # the other still works with it
        arguments = server.start(tmp_path)
        with snowflake.connector.connect(**arguments) as connection:
            assert query(connection, "SELECT 1")[0][0] == 1
        assert other.communicate("")[0] == "False\n"
    assert server.release(tmp_path)  # the last one stops it
    assert not server.stop(tmp_path)


def test_transactions_of_two_users_take_turns(tmp_path: Path) -> None:
    settings, begun, failures = Settings(home=tmp_path), threading.Barrier(2), []

    def work(number: int) -> None:
        begun.wait()
        try:
            with open_warehouse(settings) as connection, transaction(connection) as cursor:
                cursor.execute("DELETE FROM ACKNOWLEDGEMENT")
                time.sleep(1)  # the other one's transaction would begin here
                cursor.execute(f"UPDATE DIM_DATE SET IS_BUSINESS_DAY = {number % 2 == 0}")
        except Exception as error:
            failures.append(repr(error))

    try:
        with open_warehouse(settings) as connection:
            ensure_dates(connection, dt.date(2023, 1, 3))
        users = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in users:
            thread.start()
        for thread in users:
            thread.join()
    finally:
        server.stop(tmp_path)
    assert not failures


TURN = """
import sys
from pathlib import Path
from classfeed_dagster.local import snowflake_server as server
with server.turn(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_turn_of_a_killed_user_ends_and_waiting_is_bounded(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TURN, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(server.LocalWarehouseError, match=f"process {holder.pid}"), server.turn(tmp_path, 0.5):
            pass
        holder.kill()
        holder.wait()
    with server.turn(tmp_path, 0.5):
        pass


def test_killed_users_lease_does_not_keep_the_server(tmp_path: Path) -> None:
    server.start(tmp_path)
    with user(tmp_path) as other:
        port_of(other)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert server.release(tmp_path)


def test_server_without_living_users_stops(tmp_path: Path) -> None:
    with user(tmp_path) as only:
        port_of(only)
        os.kill(only.pid, signal.SIGKILL)
        only.wait()
    state = json.loads((tmp_path / "snowflake" / "server.json").read_text())
    deadline = time.monotonic() + 60
    while start_of(state["pid"]) == state["started"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert start_of(state["pid"]) != state["started"]
    assert not server.stop(tmp_path)


def test_server_whose_folder_was_removed_ends(tmp_path: Path) -> None:
    server.start(tmp_path)
    (process,) = [process for process in server._started.values() if str(tmp_path) in str(process.args)]
    shutil.rmtree(tmp_path / "snowflake")
    process.wait(120)
    assert server._started.pop(process.pid) is process
    assert not (tmp_path / "snowflake").exists()


def test_killed_server_is_started_again_with_its_data(tmp_path: Path) -> None:
    first = server.start(tmp_path)
    with snowflake.connector.connect(**first) as connection:
        execute(connection, "CREATE TABLE T (X NUMBER(38,6))", "INSERT INTO T VALUES (1.5)")
    pid = json.loads((tmp_path / "snowflake" / "server.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # until then the kernel may still accept connections for it
    try:
        with snowflake.connector.connect(**server.start(tmp_path)) as connection:
            assert str(query(connection, "SELECT X FROM T")[0][0]) == "1.500000"
    finally:
        server.stop(tmp_path)


def test_server_starts_is_joined_keeps_data_and_stops(tmp_path: Path) -> None:
    first = server.start(tmp_path)
    try:
        assert server.start(tmp_path) == first
        with snowflake.connector.connect(**first) as connection:
            execute(connection, "CREATE TABLE T (X NUMBER(38,6))", "INSERT INTO T VALUES (1.5)")
    finally:
        assert server.stop(tmp_path)
    assert not server.stop(tmp_path)
    again = server.start(tmp_path)
    try:
        with snowflake.connector.connect(**again) as connection:
            assert str(query(connection, "SELECT X FROM T")[0][0]) == "1.500000"
    finally:
        server.stop(tmp_path)


def test_another_process_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    import socket

    (tmp_path / "snowflake").mkdir()
    state = tmp_path / "snowflake" / "server.json"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        state.write_text(json.dumps({"pid": os.getpid(), "port": listener.getsockname()[1], "started": "another"}))
        assert not server.stop(tmp_path)
    assert not state.exists()
    state.write_text("nonsense")
    assert not server.stop(tmp_path)


def test_server_that_does_not_start_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(server.LocalWarehouseError, match=r"server\.log"):
        server.start(tmp_path)


def test_folder_with_a_quote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(server.LocalWarehouseError, match="Choose another with CLASSFEED_HOME"):
        server.start(tmp_path / "owner's home")
