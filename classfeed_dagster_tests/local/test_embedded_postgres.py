"""The embedded PostgreSQL: shared by processes, stopped by the last, and started again after any kind of death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from classfeed_dagster.local import embedded_postgres as embedded

_HOLDER = """
import sys
from pathlib import Path
from classfeed_dagster.local import embedded_postgres as embedded
print(embedded.start(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""

Holder = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def _folder() -> Iterator[Path]:
    # One for all tests, because making a database cluster takes a second or ten. Not in pytest's own folder: every pytest that starts shuts that to other users, and started by root the server
    # is another user.
    with tempfile.TemporaryDirectory(prefix="classfeed-home-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def home(_folder: Path) -> Iterator[Path]:
    """Return a home folder in which no server runs."""
    yield _folder
    embedded.stop(_folder)


@pytest.fixture
def holder(home: Path) -> Iterator[Holder]:
    """Yield a starter of processes that hold the server until their input ends."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _ask(url: str, question: str = "SELECT 1") -> object:
    engine = embedded.engine_from(url)
    try:
        with engine.connect() as connection:
            return connection.execute(sa.text(question)).scalar_one()
    finally:
        engine.dispose()


def _server(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_server_starts_again_with_its_data(home: Path) -> None:
    url = embedded.start(home)
    assert sa.make_url(url).host is None  # a unix socket: no port to collide
    engine = embedded.engine_from(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS stopped (n int)"))
    engine.dispose()
    assert embedded.start(home) == url
    assert embedded.start(home, "another") != url
    assert embedded.stop(home)
    assert not embedded.stop(home)
    assert _ask(embedded.start(home), "SELECT count(*) FROM stopped") == 0


def test_server_started_by_two_processes_stops_with_the_last(home: Path, holder: Holder) -> None:
    first, second = holder(), holder()
    assert first.stdout is not None
    assert second.stdout is not None
    urls = {first.stdout.readline().strip(), second.stdout.readline().strip()}
    assert len(urls) == 1
    server = _server(home)
    first.communicate("")
    assert _ask(urls.pop()) == 1
    second.communicate("")
    assert _gone(server)


def test_server_in_use_continues(home: Path, holder: Holder) -> None:
    other = holder()
    assert other.stdout is not None
    url = other.stdout.readline().strip()
    assert embedded.start(home) == url
    assert not embedded.stop(home)
    assert _ask(url) == 1
    assert embedded.start(home) == url  # holds it anew
    other.communicate("")
    assert _ask(url) == 1
    assert embedded.stop(home)


def test_killed_owner_does_not_keep_the_server_alive(home: Path, holder: Holder) -> None:
    owner = holder()
    assert owner.stdout is not None
    url = owner.stdout.readline().strip()
    owner.kill()
    owner.communicate()
    assert _ask(url) == 1  # its server outlives it
    assert embedded.start(home) == url
    assert embedded.stop(home)


def test_killed_server_is_started_again_with_what_was_committed(home: Path) -> None:
    url = embedded.start(home)
    engine = embedded.engine_from(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE killed AS SELECT 7 AS n"))
    engine.dispose()
    os.kill(_server(home), signal.SIGKILL)
    assert _ask(embedded.start(home), "SELECT n FROM killed") == 7


def test_dying_server_is_started_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.start(home)
    create = embedded._create_database

    def killed_first(admin: sa.URL, database: str, folder: Path) -> None:
        monkeypatch.setattr(embedded, "_create_database", create)
        os.kill(_server(home), signal.SIGKILL)
        raise embedded.EmbeddedPostgresError("refused")

    monkeypatch.setattr(embedded, "_create_database", killed_first)
    assert _ask(embedded.start(home)) == 1


def test_other_process_with_the_servers_pid_is_not_the_server(home: Path) -> None:
    embedded.start(home)
    path = home / "postgres" / "postmaster.pid"
    left = path.read_text().splitlines()
    embedded.stop(home)
    path.write_text("\n".join([str(os.getpid()), *left[1:]]) + "\n")
    path.with_name(f".s.PGSQL.{left[3].strip()}.lock").write_text(f"{os.getpid()}\n")
    assert not embedded.stop(home)
    assert _ask(embedded.start(home)) == 1
    assert _server(home) != os.getpid()


@pytest.mark.parametrize("left", ["", "12\n/somewhere\n"])
def test_files_of_a_killed_start_are_removed(home: Path, left: str) -> None:
    embedded.start(home)
    embedded.stop(home)
    folder = home / "postgres"
    (folder / "postmaster.pid").write_text(left)
    (folder / ".handle_pids.json").write_text("[1, ")
    assert _ask(embedded.start(home)) == 1
    assert json.loads((folder / ".handle_pids.json").read_text()) == [os.getpid()]


def test_server_that_is_still_recovering_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = embedded.start(home)
    statuses = iter(["starting", "starting"])
    real = embedded._status
    monkeypatch.setattr(embedded, "_status", lambda folder: next(statuses, None) or real(folder))
    assert embedded.start(home) == url
    assert next(statuses, None) is None


def test_slow_start_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = embedded._library()
    real, attempts = library.get_server, []

    def slow(folder: Path) -> object:
        attempts.append(folder)
        server = real(folder)
        if len(attempts) == 1:
            raise subprocess.TimeoutExpired("pg_ctl", 10)
        return server

    monkeypatch.setattr(library, "get_server", slow)
    assert _ask(embedded.start(home)) == 1
    assert len(attempts) == 2


def test_server_that_never_answers_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(folder: Path) -> object:
        raise subprocess.TimeoutExpired("pg_ctl", 10)

    monkeypatch.setattr(embedded._library(), "get_server", never)
    monkeypatch.setattr(embedded, "_PATIENCE", 0.2)
    with pytest.raises(embedded.EmbeddedPostgresError, match="TimeoutExpired"):
        embedded.start(home)


def test_unidentifiable_process_is_not_declared_dead(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = embedded.start(home)

    def denied(pid: int) -> psutil.Process:
        raise psutil.AccessDenied(pid)

    with monkeypatch.context() as patched:
        patched.setattr(psutil, "Process", denied)
        assert embedded._runs(home / "postgres")
    assert _ask(url) == 1


def test_folder_of_another_version_is_refused_with_advice(home: Path) -> None:
    embedded.start(home)
    embedded.stop(home)
    version = home / "postgres" / "PG_VERSION"
    right = version.read_text()
    version.write_text("9\n")
    with pytest.raises(embedded.EmbeddedPostgresError, match=r"did not start .*move it away and seed again"):
        embedded.start(home)
    version.write_text(right)
    assert _ask(embedded.start(home)) == 1  # the failed attempt leaves nothing behind


@pytest.mark.parametrize("name", ['bad"name', "", "x" * 64])
def test_names_that_are_no_database_names_are_refused(home: Path, name: str) -> None:
    with pytest.raises(embedded.EmbeddedPostgresError, match="Invalid database name"):
        embedded._create_database(sa.make_url("postgresql+psycopg://nobody@/x"), name, home)


def test_server_that_does_not_answer_is_reported_without_its_password(home: Path) -> None:
    nowhere = sa.make_url(f"postgresql+psycopg://someone:secret@/x?host={home}")
    with pytest.raises(embedded.EmbeddedPostgresError, match="refuses the database bigsite") as caught:
        embedded._create_database(nowhere, "bigsite", home)
    assert "secret" not in str(caught.value)


def test_another_process_may_create_the_database_first(postgres_url: str, home: Path) -> None:
    admin = sa.make_url(postgres_url)
    engine = sa.create_engine(admin)
    created: list[str] = []

    def another_process(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("CREATE DATABASE") and not created:
            created.append(statement)
            other = sa.create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
            with other.connect() as connection:
                connection.execute(sa.text(statement))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", another_process)
    try:
        embedded._create_database(admin, f"raced_{os.getpid()}_test", home)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", another_process)
        engine.dispose()
    assert created


def test_role_without_createdb_is_reported(postgres_url: str, home: Path) -> None:
    role = f"poor_{os.getpid()}"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE ROLE "{role}" LOGIN'))
        try:
            with pytest.raises(embedded.EmbeddedPostgresError, match="ProgrammingError"):
                embedded._create_database(sa.make_url(postgres_url).set(username=role), "wanted_test", home)
        finally:
            connection.execute(sa.text(f'DROP ROLE "{role}"'))
    admin.dispose()


def test_url_uses_the_installed_driver_and_stays_out_of_errors() -> None:
    for text in ("postgres://u@h/d", "postgresql://u@h/d", "postgresql+psycopg://u@h/d"):
        assert embedded.engine_from(text).url.drivername == "postgresql+psycopg"
    with pytest.raises(ValueError, match="not a SQLAlchemy URL") as caught:
        embedded.engine_from("secret words")
    assert "secret" not in str(caught.value)


def test_server_starts_in_a_folder_that_a_shell_would_split() -> None:
    with tempfile.TemporaryDirectory(prefix="classfeed's [home] * ", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            with sa.create_engine(embedded.start(folder)).connect() as connection:
                assert connection.execute(sa.text("SHOW data_directory")).scalar() == str(folder / "postgres")
        finally:
            embedded.stop(folder)


@pytest.mark.parametrize("character", ['"', "$", "`", "\\"])
def test_folder_that_pg_ctl_cannot_quote_is_refused(tmp_path: Path, character: str) -> None:
    with pytest.raises(embedded.EmbeddedPostgresError, match="Choose another one with CLASSFEED_HOME"):
        embedded.start(tmp_path / f"a{character}b")
