"""Commands of the support group: rerun, refresh."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import Date, FeedName, require_due, require_feed, require_store
from classfeed_dagster.cli.deliveries import print_report
from classfeed_dagster.errors import ConfigurationError, ExitCode
from classfeed_dagster.tags import DEFAULT_FEED, RERUN_TAG

if TYPE_CHECKING:
    from classfeed_dagster.orchestration.run_date import RunReport
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.settings import Settings
    from classfeed_dagster.support.reruns import Requester

out = output.console()


class NoDoorError(ConfigurationError):
    """No writable webserver is configured to start a run, and runs may not be executed here."""


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(rerun)
    app.command()(refresh)


def rerun(
    date: Date,
    reason: Annotated[str, typer.Option(help="Why; recorded. No names, e-mail addresses or account numbers.")],
    feed: FeedName = DEFAULT_FEED,
) -> None:
    """Run a business date again, for the support group. Group, state and budget are checked.

    Delivered content is never delivered again.
    """
    from classfeed_dagster.runtime import Runtime, utc_now
    from classfeed_dagster.support import reruns
    from classfeed_dagster.support import webserver_client as operate
    from classfeed_dagster.tags import new_correlation_id

    runtime = Runtime()
    settings = runtime.settings
    declared, correlation_id = require_feed(feed), new_correlation_id()
    day = require_due(settings, feed, date.date())
    url = require_door(settings)
    try:
        key, _ = reruns.request_rerun(
            runtime.store,
            declared,
            settings.first_business_date,
            day,
            requester(settings),
            reason,
            rules=reruns.RerunPolicy.of(settings),
            under_way=lambda: operate.under_way(url, feed, day) if url else False,
            at=utc_now(settings.now),
            correlation_id=correlation_id,
        )
        report = _launch(runtime, url, feed, day, key, correlation_id)
        if report is None:
            return
        raise typer.Exit(report.outcome.exit_code)
    finally:
        runtime.close()


def refresh(
    number: Annotated[str, typer.Argument(help="Portfolio number.")],
    reason: Annotated[str, typer.Option(help="Why; recorded. No names, e-mail addresses or account numbers.")],
    feed: FeedName = DEFAULT_FEED,
) -> None:
    """Send one portfolio again in full, for the support group, with the latest delivered business date.

    Group, consent, state and budget are checked. Portfolios that bigsite corrected since are sent with it.
    """
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.tags import new_correlation_id

    runtime = Runtime()
    settings = runtime.settings
    declared, correlation_id = require_feed(feed), new_correlation_id()
    url = require_door(settings)
    require_store(runtime)
    from classfeed_dagster.feed_run.flags import flag_values, start_flags
    from classfeed_dagster.feeds import FEEDS
    from classfeed_dagster.support import refreshes
    from classfeed_dagster.support import webserver_client as operate

    start_flags(settings, FEEDS)
    try:
        key, day = refreshes.request_refresh(
            runtime,
            declared,
            number,
            requester(settings),
            reason,
            under_way=lambda day: operate.under_way(url, feed, day) if url else False,
            mode=flag_values(declared, settings.env).mode,
            correlation_id=correlation_id,
        )
        report = _launch(runtime, url, feed, day, key, correlation_id)
        if report is None:
            return
        if report.outcome.exit_code == ExitCode.OK:
            refreshes.require_refreshed(runtime, declared, number, day)
        raise typer.Exit(report.outcome.exit_code)
    finally:
        runtime.close()


def _launch(
    runtime: Runtime, url: str | None, feed: str, day: dt.date, key: str, correlation_id: str
) -> RunReport | None:
    """Start the run of the recorded request ``key`` at the webserver, or run it here and return its report."""
    from classfeed_dagster.support import reruns
    from classfeed_dagster.support import webserver_client as operate
    from classfeed_dagster.tags import CORRELATION_TAG, LAUNCHED_BY_TAG

    tags = {LAUNCHED_BY_TAG: reruns.LAUNCHED_BY, RERUN_TAG: key, CORRELATION_TAG: correlation_id}
    if url:
        run_id = operate.launch(url, feed, day, tags)
        out.print(f"started: run {run_id}, on record as {key}")
        return None
    report = run_here(runtime, feed, day, tags)
    print_report(out, report)
    return report


def require_door(settings: Settings) -> str | None:
    """Return the URL of the writable webserver; None: runs are executed here. NoDoorError if they may not be."""
    if settings.operate_url is None and settings.env.value in ("stg", "prod"):
        raise NoDoorError("CLASSFEED_OPERATE_URL is not set: use the support page, or an operator's shell")
    return settings.operate_url


def run_here(runtime: Runtime, feed: str, day: dt.date, tags: dict[str, str]) -> RunReport:
    """Run the feed's job for ``day`` in this process."""
    from classfeed_dagster.local.dagster_instance import open_instance
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.run_date import run_date

    with open_instance(runtime.settings.home) as instance, output.console(stderr=True).status(f"{feed} for {day} …"):
        return run_date(build_definitions(runtime), instance, feed, day, tags=tags)


def requester(settings: Settings) -> Requester:
    """Return the person. On a laptop: the login and its groups on this machine. In AWS: the session's name and role.

    Neither can be chosen on the command line.
    """
    from classfeed_dagster.support.reruns import Requester

    if settings.env.value == "local":
        import getpass
        import grp
        import os

        groups = {grp.getgrgid(number).gr_name for number in (os.getgid(), *os.getgroups()) if _known(number)}
        return Requester(getpass.getuser(), frozenset(groups))
    import boto3

    # arn:aws:sts::<account>:assumed-role/<role>/<session>; the identity centre names the session after the person.
    parts = boto3.client("sts").get_caller_identity()["Arn"].rpartition(":")[2].split("/")
    if len(parts) != 3 or parts[0] != "assumed-role":
        return Requester("")
    role = parts[1].replace(f"classfeed-{settings.env.value}-", "classfeed-")
    return Requester(parts[2], frozenset({role}))


def _known(number: int) -> bool:
    import grp

    try:
        grp.getgrgid(number)
    except KeyError:
        return False
    return True
