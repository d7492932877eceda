"""Preflight: ask everything that a component needs of its environment, one line each, with what to do."""

from __future__ import annotations

import datetime as dt
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.errors import ClassfeedError, ConfigurationError, ExitCode
from classfeed_dagster.settings import REQUIRED, Component, Environment, Settings, get_settings
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.transmission.encryption import OpenPgpKey
    from classfeed_dagster.warehouse.database import Connection

out = output.console()
_CLOCK_SECONDS = 30.0
_TIMEOUT_SECONDS = 10.0
_SENDING = (None, Component.WORKER, Component.STEPS)
_PAGERDUTY_KEY = re.compile(r"[0-9A-Za-z]{20,40}")


class PreflightError(ConfigurationError):
    """A part that is needed does not answer as it must. The message states the remedy."""


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """One question to the environment.

    Attributes:
        name: what is asked.
        ask: returns the answer; raises if it is not good.
        advice: what to do if it is not.
    """

    name: str
    ask: Callable[[], str]
    advice: str


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(preflight)


def preflight(as_json: output.JsonOption = False) -> None:
    """Ask everything that this component needs of its environment; one line each, with what to do.

    Writes nothing and sends nothing. Exit code 3 if an answer is not good.
    """
    settings = get_settings()
    answers: list[dict[str, object]] = []
    for check in checks(settings):
        try:
            good, answer = True, check.ask()
        except Exception as error:  # a driver may raise anything; each is one line
            good, answer = False, f"{_reason(error)}. {check.advice}"
        answers.append({"name": check.name, "good": good, "answer": answer})
        if not as_json:
            mark = "[green]ok[/]  " if good else "[red]FAIL[/]"
            out.print(f"{mark}  {check.name}: {escape(answer)}")
    failures = sum(not answer["good"] for answer in answers)
    if as_json:
        output.print_json({"checks": answers})
    elif failures:
        out.print(f"not good: {counted(failures, 'answer')}")
    raise typer.Exit(ExitCode.STOPPED if failures else ExitCode.OK)


def checks(settings: Settings) -> Iterator[PreflightCheck]:
    """Yield the checks of everything that the settings and the instance name."""
    from classfeed_dagster.feeds import FEEDS

    required = REQUIRED[settings.component]
    yield PreflightCheck(
        "settings", lambda: f"{settings.env}, component {settings.component or 'none'}, {len(required)} required", ""
    )
    yield from _identity(settings)
    yield from _names(settings)
    if os.environ.get("DAGSTER_PG_USERNAME"):  # every task has the host; tasks that connect have the secret
        yield PreflightCheck(
            "Dagster's database", _dagster_database, "Check the secret dagster-database; run `classfeed migrate`"
        )
    if settings.bigsite_url is not None:
        yield PreflightCheck(
            "bigsite", lambda: _bigsite(settings), "Check the secret bigsite, the resolver rule and port 5432"
        )
        yield PreflightCheck("clock", lambda: _clock(settings), "Synchronise the clock; ECS does so by itself")
    if bucket := os.environ.get("CLASSFEED_COMPUTE_LOGS_BUCKET"):
        yield PreflightCheck("compute logs", partial(_bucket, bucket), "Check the bucket's name in the task definition")
    if settings.component is not Component.MIGRATE:
        yield PreflightCheck("object store", lambda: _store(settings), "Check the bucket's name and the task's role")
    if settings.flags_parameter:
        yield PreflightCheck("switches", lambda: _switches(settings), "See unreadable-switches in docs/runbook.md")
    for name, url in (
        ("consent queue", settings.consent_queue_url),
        ("dead letters", settings.consent_dead_letter_url),
    ):
        if url is not None:
            yield PreflightCheck(name, partial(_queue, settings, url), "Check the queue's URL and the task's role")
    if settings.snowflake_account is not None and settings.snowflake_user is not None:
        yield PreflightCheck(
            "Snowflake", lambda: _snowflake(settings), "Check user, key, network policy and the role's grants"
        )
        yield PreflightCheck(
            "Snowflake grants", lambda: _privileges(settings), "Grant them to the role (docs/deployment.md)"
        )
        yield PreflightCheck(
            "data team's table", lambda: _data_team(settings), "Grant SELECT on it to the role, or correct its name"
        )
    if settings.celery_broker is not None and settings.component in (Component.WORKER, Component.STEPS):
        yield PreflightCheck(
            "Celery broker", lambda: _broker(settings), "Check the secret broker, and port 6379 in the security group"
        )
    yield from _recipient_keys(FEEDS)
    yield from _sftp_servers(FEEDS, settings)
    if settings.slack_token is not None:
        yield PreflightCheck(
            "Slack", lambda: _slack(settings), "Check the token and its scopes; invite the bot into the channel"
        )
    if settings.pagerduty_key is not None:
        yield PreflightCheck("PagerDuty key", lambda: _pagerduty(settings), "Copy the integration's routing key")
    if settings.otlp_endpoint is not None:
        yield PreflightCheck(
            "collector", partial(_collector, settings.otlp_endpoint), "Check the URL, and the egress proxy's list"
        )


def _recipient_keys(feeds: Iterable[Feed]) -> Iterator[PreflightCheck]:
    advice = "Ask the recipient for its current public key, and for its fingerprint by another way"
    for feed in feeds:
        if feed.sends_to is not None and feed.sends_to.encrypts_to is not None:
            ask = partial(_recipient_key, feed.sends_to.encrypts_to)
            yield PreflightCheck(f"key of {feed.name}'s recipient", ask, advice)


def _recipient_key(key: OpenPgpKey) -> str:
    expiration = key.usable(dt.datetime.now(dt.UTC)).expiration
    return f"{key.pinned}, " + ("without expiry" if expiration is None else f"expires on {expiration.date()}")


def _sftp_servers(feeds: Iterable[Feed], settings: Settings) -> Iterator[PreflightCheck]:
    from classfeed_dagster.transmission.sftp import Sftp

    advice = "Compare host, host_key, username and folder in the feed's declaration with what the recipient stated"
    for feed in feeds:
        if isinstance(feed.sends_to, Sftp) and settings.component in _SENDING:
            server = replace(feed.sends_to, seconds=_TIMEOUT_SECONDS)
            ask = partial(server.check, settings.transmission_credentials)
            yield PreflightCheck(f"SFTP server of {feed.name}'s recipient", ask, advice)


def _identity(settings: Settings) -> Iterator[PreflightCheck]:
    if settings.env is Environment.LOCAL:
        return

    def ask() -> str:
        import boto3

        arn = str(boto3.client("sts").get_caller_identity()["Arn"])
        # Celery workers have the run worker's role.
        component = Component.WORKER if settings.component is Component.STEPS else settings.component
        expected = f"classfeed-{settings.env}-{component}"
        if settings.component and expected not in arn:
            raise PreflightError(f"the role is {arn}, expected {expected}")
        return arn

    yield PreflightCheck("AWS role", ask, "Check the task definition's role and the access stack")


def _names(settings: Settings) -> Iterator[PreflightCheck]:
    proxy = urlsplit(os.environ.get("HTTPS_PROXY", ""))
    urls = {
        "bigsite": settings.bigsite_url.get_secret_value() if settings.bigsite_url else None,
        "UI": settings.ui_url,
        "egress proxy": os.environ.get("HTTPS_PROXY"),
    }
    # The services' own names exist once they run, and preflight comes before: deploy/smoke asks them.
    hosts = {name: urlsplit(url).hostname for name, url in urls.items() if url}
    for name, host in hosts.items():
        if host:
            yield PreflightCheck(
                f"name of {name}",
                partial(_resolve, host),
                "Check the zone, or the resolver rule",
            )
    if proxy.hostname:
        address = (proxy.hostname, proxy.port or 3128)
        yield PreflightCheck(
            "egress proxy", lambda: _connect(*address), "Check routes, the transit gateway and the security group"
        )
    if settings.identity_url is not None:
        yield PreflightCheck(
            "identity provider", partial(_identity_provider, settings.identity_url),
            "Check identity_url and identity_cidr in deploy/environments.py, and its name in public DNS",
        )  # fmt: skip


def _resolve(host: str) -> str:
    return f"{host} is {socket.gethostbyname(host)}"


def _connect(host: str, port: int) -> str:
    with socket.create_connection((host, port), _TIMEOUT_SECONDS):
        return f"{host}:{port} answers"


def _broker(settings: Settings) -> str:
    from classfeed_dagster.extras import require_extra

    require_extra("The Celery broker", "celery", "celery", "redis")
    from celery import Celery

    client: Any = Celery(broker=settings.celery_broker)
    with client.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=_TIMEOUT_SECONDS)
        return f"{connection.transport.driver_type} answers"


def _dagster_database() -> str:
    import psycopg

    environment = os.environ
    with psycopg.connect(
        host=environment["DAGSTER_PG_HOST"], dbname=environment["DAGSTER_PG_DB"], sslmode="require",
        user=environment["DAGSTER_PG_USERNAME"], password=environment["DAGSTER_PG_PASSWORD"], connect_timeout=10,
    ) as connection:  # fmt: skip
        count = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE tablename IN ('runs', 'event_logs')"
        ).fetchone()
    if count is None or count[0] != 2:
        raise PreflightError("Dagster's tables are missing")
    return "tables are there"


def _bigsite(settings: Settings) -> str:
    import sqlalchemy as sa

    from classfeed_dagster.bigsite.tables import metadata
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime(settings)
    try:
        inspector = sa.inspect(runtime.engine)
        missing = sorted(
            table.fullname for table in metadata.sorted_tables if not inspector.has_table(table.name, table.schema)
        )
    finally:
        runtime.close()
    if missing:
        raise PreflightError(f"missing or not readable: {', '.join(missing)}")
    return f"{len(metadata.sorted_tables)} tables"


def _clock(settings: Settings) -> str:
    import sqlalchemy as sa

    from classfeed_dagster.runtime import Runtime

    runtime = Runtime(settings)
    try:
        with runtime.engine.connect() as connection:
            theirs = connection.execute(sa.text("SELECT now()")).scalar_one()
    finally:
        runtime.close()
    difference = abs((dt.datetime.now(dt.UTC) - theirs).total_seconds())
    if difference > _CLOCK_SECONDS:
        raise PreflightError(f"this clock and bigsite's differ by {difference:.0f} s")
    return f"within {difference:.1f} s of bigsite's"


def _store(settings: Settings) -> str:
    from classfeed_dagster.store import open_store

    store = open_store(settings.store_location, s3_endpoint_url=settings.s3_endpoint_url)
    prefix = "reruns/" if settings.component is Component.DOOR else "chain/"
    return f"{settings.store_location}: {counted(sum(1 for _ in store.list(prefix)), 'object')} under {prefix}"


def _switches(settings: Settings) -> str:
    from classfeed_dagster.feed_run.flags import parameter_of

    return f"version {parameter_of(settings).read().version} of {settings.flags_parameter}"


def _queue(settings: Settings, url: str) -> str:
    import boto3

    client = boto3.client("sqs", endpoint_url=settings.sqs_endpoint_url)
    answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    return counted(int(answer["Attributes"]["ApproximateNumberOfMessages"]), "message")


def _snowflake(settings: Settings) -> str:
    statement = "SELECT CURRENT_ROLE(), CURRENT_WAREHOUSE(), CURRENT_DATABASE(), CURRENT_SCHEMA()"
    role, *rest = _query(settings, statement)
    if role is None or None in rest:
        raise PreflightError("role, warehouse, database or schema does not exist or is not granted")
    return f"role {role}"


def _privileges(settings: Settings) -> str:
    from classfeed_dagster.warehouse.privileges import missing_privileges

    with _warehouse(settings) as connection:
        missing = missing_privileges(connection)
    if missing:
        raise PreflightError(f"the role lacks {', '.join(missing)}")
    return "the role may create and replace what a load needs"


def _data_team(settings: Settings) -> str:
    (rows,) = _query(settings, f"SELECT COUNT(*) FROM {settings.data_team_table}")  # noqa: S608 - a setting
    return counted(int(rows), "row")


def _query(settings: Settings, statement: str) -> tuple[Any, ...]:
    from classfeed_dagster.warehouse.database import query

    with _warehouse(settings) as connection:
        (row,) = query(connection, statement)
    return row


def _warehouse(settings: Settings) -> AbstractContextManager[Connection]:
    """Open a connection. The tables are not migrated."""
    from dagster_snowflake import SnowflakeResource

    from classfeed_dagster.warehouse.connection import connection_arguments

    return SnowflakeResource(**connection_arguments(settings)).get_connection()


def _identity_provider(issuer: str) -> str:
    from classfeed_dagster.support.identity_provider import check_issuer

    return check_issuer(issuer)


def _slack(settings: Settings) -> str:
    from slack_sdk.web.client import WebClient

    if settings.slack_token is None:
        raise PreflightError("no token")
    client = WebClient(settings.slack_token.get_secret_value(), base_url=settings.slack_url, timeout=10)
    user = client.auth_test().get("user", "?")
    production = settings.env is Environment.PROD
    name = (settings.slack_channel if production else settings.slack_channel_nonprod).removeprefix("#")
    for page in client.conversations_list(types="public_channel,private_channel", exclude_archived=True, limit=1000):
        for channel in page["channels"]:
            if channel["name"] == name and channel["is_member"]:
                return f"{user} is in #{name}"
    raise PreflightError(f"{user} is not in a channel #{name}")


def _bucket(name: str) -> str:
    import boto3
    from botocore.exceptions import ClientError

    try:
        boto3.client("s3").head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "403":  # a task may only write there: S3 does not show it the bucket
            raise
    return f"{name} exists"


def _collector(endpoint: str) -> str:
    import urllib.request  # imported here: the other commands do without HTTP

    # An empty request is valid OTLP: it asks everything and sends nothing.
    headers = {"Content-Type": "application/x-protobuf"}
    request = urllib.request.Request(f"{endpoint.rstrip('/')}/v1/traces", b"", headers)  # noqa: S310 - a setting
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
        return f"{urlsplit(endpoint).hostname} accepts OTLP"


def _pagerduty(settings: Settings) -> str:
    key = settings.pagerduty_key.get_secret_value() if settings.pagerduty_key else ""
    if not _PAGERDUTY_KEY.fullmatch(key):
        raise PreflightError("it does not look like a routing key")
    return "has the form of a routing key; only an alert proves it"


def _reason(error: Exception) -> str:
    if isinstance(error, ClassfeedError):
        return str(error)
    response = getattr(error, "response", None)
    answer = getattr(response, "data", response)  # AWS's clients have a mapping, Slack's an object with one
    if isinstance(answer, dict) and "Error" in answer:
        return str(answer["Error"].get("Code", type(error).__name__))
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        return str(answer["error"])
    # A driver's text may repeat an address with a password.
    return type(error).__name__
