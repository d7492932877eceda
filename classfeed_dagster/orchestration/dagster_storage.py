"""Dagster's own database: create its tables on a first deployment, migrate them on every later one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import sqlalchemy as sa
import yaml
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dagster import DagsterInstance
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import DAGSTER_CONFIG_YAML_FILENAME
from dagster._core.storage.config import PostgresStorageConfig
from dagster_postgres import PostgresRunStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import pg_alembic_config

from classfeed_dagster.errors import TemporaryError

_AUTOCREATE = "should_autocreate_tables"


class DagsterStorageError(TemporaryError):
    """Dagster's database could not be created or migrated. The message contains no credentials."""


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """Outcome of a migration step.

    Attributes:
        created: True if the database was empty before.
        tables: number of tables afterwards.
        newer: True if a newer version migrated the database. A rollback leaves it as it is.
    """

    created: bool
    tables: int
    newer: bool = False


def migrate(home: Path) -> MigrationResult:
    """Create or migrate the tables of the instance configured in ``home/dagster.yaml``.

    The shipped file sets ``should_autocreate_tables: false``, so that no service changes the schema when it starts.
    Dagster then also refuses to migrate an empty database. This step is therefore the only one that overrides the
    setting. It is safe to repeat.

    Raises:
        DagsterStorageError: the file is missing or has no PostgreSQL storage, or the database cannot be reached.
    """
    file = home / DAGSTER_CONFIG_YAML_FILENAME
    try:
        config = yaml.safe_load(file.read_text())
        postgres = config["storage"]["postgres"]
    except FileNotFoundError:
        raise DagsterStorageError(f"{file} does not exist: set DAGSTER_HOME to the folder of dagster.yaml") from None
    except (KeyError, TypeError):
        raise DagsterStorageError(
            f"{file} has no storage.postgres: only a PostgreSQL storage needs the migration step"
        ) from None
    try:
        storage = _storage(postgres | {_AUTOCREATE: False})
        engine = sa.create_engine(storage.postgres_url, poolclass=sa.pool.NullPool)
        inspector = sa.inspect(engine)
        if _migrated_by_newer(engine):
            return MigrationResult(created=False, tables=len(inspector.get_table_names()), newer=True)
        created = not inspector.has_table("runs")
        # Constructing the storage with the setting on creates the tables, in Dagster's own way.
        _storage(postgres | {_AUTOCREATE: True})
        with DagsterInstance.from_config(str(home)) as instance:
            instance.upgrade()
        return MigrationResult(created, len(sa.inspect(engine).get_table_names()))
    except sa.exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
        raise DagsterStorageError(
            f"Dagster's database cannot be reached: {reason}. Check DAGSTER_PG_HOST, the secret dagster-database and "
            "the security groups"
        ) from None


def _migrated_by_newer(engine: sa.Engine) -> bool:
    # Dagster's migrations only add: an older version works on a newer schema, and cannot migrate it.
    scripts = ScriptDirectory.from_config(pg_alembic_config(inspect.getfile(PostgresRunStorage)))
    known = {script.revision for script in scripts.walk_revisions()}
    with engine.connect() as connection:
        return not known.issuperset(MigrationContext.configure(connection).get_current_heads())


def _storage(config: dict[str, object]) -> DagsterPostgresStorage:
    processed = process_config(resolve_to_config_type(DagsterPostgresStorage.config_type()), config)
    if not processed.success or processed.value is None:
        reasons = "; ".join(error.message for error in processed.errors or [])
        raise DagsterStorageError(f"storage.postgres is not valid: {reasons}")
    return DagsterPostgresStorage.from_config_value(None, cast(PostgresStorageConfig, processed.value))
