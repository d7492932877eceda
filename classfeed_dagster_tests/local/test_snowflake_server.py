from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import snowflake.connector

from classfeed_dagster.local import snowflake_server as server
from classfeed_dagster.warehouse.database import execute, query


def test_it_starts_is_joined_keeps_its_data_and_stops(tmp_path: Path) -> None:
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
        state.write_text(json.dumps({"pid": os.getpid(), "port": listener.getsockname()[1]}))
        assert not server.stop(tmp_path)
    assert not state.exists()
    state.write_text("nonsense")
    assert not server.stop(tmp_path)


def test_a_server_that_can_not_start_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.sys, "executable", "/bin/false")
    with pytest.raises(server.LocalWarehouseError, match=r"server\.log"):
        server.start(tmp_path)
