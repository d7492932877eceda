"""Runtime of a process: settings, the object store, bigsite, the clock, each opened on first use.

Definitions load with nothing reachable and no secret set, so nothing here connects at construction.
"""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from classfeed_dagster.errors import CauseKind, ConfigurationError, NotReadyError, SourceReadError
from classfeed_dagster.settings import Environment, Settings, get_settings
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore, open_store
from classfeed_dagster.stored_records import read_record
from classfeed_dagster.tags import CLOCK_TAG

if TYPE_CHECKING:
    import sqlalchemy as sa

Model = TypeVar("Model", bound=BaseModel)
_POSTGRESQL_PORT = 5432
_PATIENCE = 15  # seconds for a host that drops packets


def utc_now(rehearsal_clock: dt.datetime | None = None) -> dt.datetime:
    """Return the rehearsal's clock if there is one, else the real time; UTC."""
    return rehearsal_clock or dt.datetime.now(dt.UTC)


class NotBuiltError(NotReadyError):
    """An asset's input for a business date has not been materialized yet."""

    kind = CauseKind.STALE  # a person ran a part of the job: all of it builds the input

    def __init__(self, asset: str, day: dt.date) -> None:
        super().__init__(
            f"{asset} has not been materialized for {day.isoformat()}: materialize it first, or run the whole job"
        )


class ClockRefusedError(ConfigurationError):
    """A run sets the clock in an environment that only has the real one."""


class Runtime:
    """Settings of this process and the connections that they open."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    @cached_property
    def settings(self) -> Settings:
        """Return the settings of this process."""
        return self._settings or get_settings()

    @cached_property
    def store(self) -> ObjectStore:
        """Return the object store of the settings."""
        return open_store(self.settings.store_location, s3_endpoint_url=self.settings.s3_endpoint_url)

    @cached_property
    def engine(self) -> sa.Engine:
        """Return bigsite's engine: the URL of the settings, or an embedded PostgreSQL started on first use."""
        from classfeed_dagster.local import embedded_postgres as embedded

        if self.settings.bigsite_url is not None:
            return embedded.engine_from(self.settings.bigsite_url.get_secret_value())
        return embedded.engine_from(embedded.start(self.settings.home))

    def require_bigsite(self) -> None:
        """Raise SourceReadError, naming the setting, if bigsite does not answer or, embedded, was never seeded.

        A command asks before other work.
        """
        self._require_listener()
        import sqlalchemy as sa  # a command that is refused, or reads the store alone, does without it

        try:
            with self.engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            url = self.engine.url
            raise SourceReadError(
                f"bigsite cannot be reached at {url.host or 'its socket'}:{url.port or 5432}/{url.database} "
                f"({type(cause).__name__}): check that it is up, and CLASSFEED_BIGSITE_URL"
            ) from error

    def _require_listener(self) -> None:
        # A host that does not listen is detected before the drivers are imported.
        if self.settings.bigsite_url is None:
            from classfeed_dagster.local import embedded_postgres as embedded

            if not embedded.exists(self.settings.home):
                raise SourceReadError(
                    f"There is no bigsite under {self.settings.home}: set CLASSFEED_BIGSITE_URL, or run "
                    "`classfeed demo` or `classfeed seed` for an invented one"
                )
            return
        url = urlsplit(self.settings.bigsite_url.get_secret_value())
        try:
            host, port = url.hostname, url.port or _POSTGRESQL_PORT
        except ValueError:
            return  # not a URL: its reader raises the error
        try:
            if host:
                socket.create_connection((host, port), timeout=_PATIENCE).close()
        except OSError as error:
            raise SourceReadError(
                f"bigsite cannot be reached at {host}:{port}{url.path} ({type(error).__name__}): check that it is up, "
                "and CLASSFEED_BIGSITE_URL"
            ) from error

    def close(self) -> None:
        """Close the connections to bigsite, if any were opened, and release the embedded server."""
        if "engine" in self.__dict__:
            self.engine.dispose()
            del self.__dict__["engine"]
            if self.settings.bigsite_url is None:
                from classfeed_dagster.local import embedded_postgres as embedded

                embedded.stop(self.settings.home)

    def clock(self, tags: Mapping[str, str]) -> dt.datetime | None:
        """Return the instant that a rehearsal set (run tag, else setting), UTC; None means the real clock.

        Only local and dev may set a clock: elsewhere it could make an ended consent look active.
        """
        text = tags.get(CLOCK_TAG)
        if text is None:
            return self.settings.now
        if self.settings.env not in (Environment.LOCAL, Environment.DEV):
            raise ClockRefusedError(f"the tag {CLOCK_TAG} is for local and dev, never for {self.settings.env}")
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)

    def save_reference(self, asset: str, day: dt.date, reference: BaseModel) -> None:
        """Point ``asset`` of ``day`` at its latest result. The pointer moves; the result never changes."""
        self.store.put(_reference_key(asset, day), reference.model_dump_json(indent=1).encode() + b"\n")

    def load_reference(self, asset: str, day: dt.date, model: type[Model]) -> Model:
        """Return the latest result of ``asset`` for ``day``; NotBuiltError if there is none."""
        try:
            return read_record(self.store, model, _reference_key(asset, day))
        except ObjectNotFoundError:
            raise NotBuiltError(asset, day) from None

    def find_reference(self, asset: str, day: dt.date, model: type[Model]) -> Model | None:
        """Return the latest result of ``asset`` for ``day``, or None."""
        try:
            return self.load_reference(asset, day, model)
        except NotBuiltError:
            return None


def _reference_key(asset: str, day: dt.date) -> str:
    return f"references/{day.isoformat()}/{asset}.json"
