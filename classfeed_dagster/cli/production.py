"""Commands of a deployment: create and migrate Dagster's database."""

from __future__ import annotations

import os
from pathlib import Path

import typer
from rich.console import Console

out = Console()


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(migrate)


def migrate() -> None:
    """Create or migrate Dagster's tables in the PostgreSQL of `$DAGSTER_HOME/dagster.yaml`. Safe to repeat.

    A release runs it before its services start. Exit code 1 if the database cannot be reached.
    """
    from classfeed_dagster.orchestration.dagster_storage import migrate as migrate_storage

    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise typer.BadParameter("DAGSTER_HOME is not set: set it to the folder of dagster.yaml")
    result = migrate_storage(Path(home))
    out.print(f"{'created' if result.created else 'migrated'}: {result.tables} tables", highlight=False)
