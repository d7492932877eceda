"""Commands of a deployment: create and migrate Dagster's database, show and turn switches."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import require_impersonal
from classfeed_dagster.wording import counted

out = output.console()
_REASON_LENGTH = 10


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(migrate)
    app.command()(flags)
    app.command("flags-set")(flags_set)


def migrate() -> None:
    """Create or migrate Dagster's tables in the PostgreSQL of `$DAGSTER_HOME/dagster.yaml`. Safe to repeat.

    A release runs it before its services start. Exit code 1 if the database cannot be reached.
    """
    from classfeed_dagster.extras import require_extra

    require_extra("Dagster's storage in PostgreSQL", "production", "dagster_postgres")
    from classfeed_dagster.orchestration.dagster_storage import migrate as migrate_storage

    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise typer.BadParameter("DAGSTER_HOME is not set: set it to the folder of dagster.yaml")
    result = migrate_storage(Path(home))
    outcome = "created" if result.created else "kept as a newer version made it" if result.newer else "migrated"
    out.print(f"{outcome}: {counted(result.tables, 'table')}")


def flags(as_json: output.JsonOption = False) -> None:
    """Show the switches of every feed as they are now, their source, and who changed them last."""
    from classfeed_dagster.feed_run.flags import flag_values, parameter_of, start_flags
    from classfeed_dagster.feed_run.ssm_flags import FROM_SSM
    from classfeed_dagster.feeds import FEEDS
    from classfeed_dagster.settings import get_settings

    settings = get_settings()
    start_flags(settings, FEEDS)
    switches = {feed.name: flag_values(feed, settings.env).recorded for feed in FEEDS}
    versions = parameter_of(settings).history()[-5:] if settings.flag_provider == FROM_SSM else []
    if as_json:
        changes = [asdict(version) for version in versions]
        output.print_json({"source": settings.flag_provider, "feeds": switches, "versions": changes})
        return
    columns = ["feed", "switch", "value"]
    rows = [[feed, name, str(value)] for feed, values in switches.items() for name, value in values.items()]
    output.print_table(out, "switches", columns, rows, keys=columns)
    out.print(f"source: {settings.flag_provider}")
    for version in versions:
        at = f"{version.changed_at:%Y-%m-%d %H:%M}" if version.changed_at else "?"
        line = f"version {version.version}  {at}  {version.changed_by}  {version.reason}"
        out.print(line, markup=False)


def flags_set(
    switch: Annotated[str, typer.Argument(help="Switch, for example mode.")],
    feed: Annotated[str, typer.Argument(help="Feed or recipient.")],
    value: Annotated[str, typer.Argument(help="Value; `declared` removes the entry.")],
    reason: Annotated[str, typer.Option(help="Why, for the record. No names or account numbers.")],
) -> None:
    """Turn a switch of a feed in SSM, without a release. Parameter Store records who did it, when and why.

    Takes effect with the next attempt, within a minute. Refused unless the AWS role may write the parameter.
    """
    from classfeed_dagster.feed_run.flags import parameter_of
    from classfeed_dagster.feed_run.switch_values import DECLARED, check_values, parse_value
    from classfeed_dagster.feed_run.switches import Switch
    from classfeed_dagster.feeds import FEEDS
    from classfeed_dagster.settings import get_settings

    if len(reason.strip()) < _REASON_LENGTH:
        raise typer.BadParameter(f"--reason needs at least {_REASON_LENGTH} characters")
    require_impersonal(reason)
    parameter = parameter_of(get_settings())
    current = parameter.read()
    values = {name: dict(entries) for name, entries in json.loads(current.text).items()}
    if switch not in set(Switch):
        raise typer.BadParameter(f"there is no switch {switch}; there are {', '.join(Switch)}")
    entries = values.setdefault(switch, {})
    if value == DECLARED:
        entries.pop(feed, None)
    else:
        entries[feed] = parse_value(Switch(switch), value)
    values = {name: entries for name, entries in values.items() if entries}
    check_values(values, FEEDS, "flags-set")
    version = parameter.write(json.dumps(values, sort_keys=True), reason.strip(), after=current.version)
    out.print(f"{switch} of {feed} is {value} from version {version} of {parameter.name} on")
