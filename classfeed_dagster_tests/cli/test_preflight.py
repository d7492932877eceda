"""Preflight against real parts: its questions, the messages about missing parts, and no secret in any."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import snowflake.connector as snowflake_connector
import sqlalchemy as sa
from snowflake.connector.errors import ProgrammingError
from typer.testing import CliRunner, Result

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.cli.app import app
from classfeed_dagster.cli.preflight import checks
from classfeed_dagster.local import snowflake_server
from classfeed_dagster.settings import Settings, get_settings
from classfeed_dagster.support.identity_provider import OIDC_PATHS, IdentityProviderError, check_issuer
from classfeed_dagster.warehouse import connection
from classfeed_dagster.warehouse.database import execute
from classfeed_dagster.warehouse.privileges import missing_privileges
from classfeed_dagster.warehouse.schema import apply_schema
from classfeed_dagster_tests.fixtures.collector import running_collector
from classfeed_dagster_tests.fixtures.switchboard import Switchboard
from classfeed_dagster_tests.rehearsal.parts import answers
from classfeed_dagster_tests.rehearsal.tasks import wait_until

Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> Iterator[Command]:
    """Run preflight with some settings changed."""

    def run(**changed: str) -> Result:
        for name, value in {"BIGSITE_URL": database_url, "STORE_URL": str(tmp_path / "store"), **changed}.items():
            monkeypatch.setenv(name if name.startswith(("DAGSTER", "HTTPS", "OTEL")) else f"CLASSFEED_{name}", value)
        get_settings.cache_clear()
        return CliRunner().invoke(app, ["preflight"])

    yield run
    get_settings.cache_clear()


def line(result: Result, name: str) -> str:
    (text,) = [row for row in result.output.splitlines() if re.match(rf"(ok|FAIL)\s+{name}:", row)]
    return text


def test_preflight_complete_environment_is_ok(command: Command, database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        metadata.create_all(connection)
    engine.dispose()
    result = command()
    assert result.exit_code == 0, result.output
    assert "tables" in line(result, "bigsite")
    assert line(result, "clock").startswith("ok")
    assert line(result, "object store").startswith("ok")


def test_preflight_empty_bigsite_names_tables_and_continues(command: Command) -> None:
    result = command(UI_URL="https://nowhere.invalid/view", PAGERDUTY_KEY="short")
    assert result.exit_code == 3
    assert "bigsite.portfolio" in line(result, "bigsite")
    assert line(result, "name of UI").startswith("FAIL")
    assert line(result, "PagerDuty key").startswith("FAIL")
    assert line(result, "object store").startswith("ok")
    assert "not good: " in result.output


def test_preflight_wrong_password_repeats_no_secret(command: Command) -> None:
    secret = "hunter2"
    result = command(
        BIGSITE_URL=f"postgresql+psycopg://feed:{secret}@127.0.0.1:9/bigsite",
        DAGSTER_PG_HOST="127.0.0.1", DAGSTER_PG_DB="dagster", DAGSTER_PG_USERNAME="dagster", DAGSTER_PG_PASSWORD=secret,
        HTTPS_PROXY="http://127.0.0.1:9",
    )  # fmt: skip
    assert result.exit_code == 3
    assert secret not in result.output
    for name in ("bigsite", "Dagster's database", "egress proxy"):
        assert line(result, name).startswith("FAIL"), result.output


def test_preflight_asks_aws_for_what_the_settings_name(
    command: Command, s3_endpoint: str, switchboard: Switchboard
) -> None:
    result = command(
        FLAG_PROVIDER="ssm", FLAGS_PARAMETER="/classfeed/none/flags", SSM_ENDPOINT_URL=s3_endpoint,
        SQS_ENDPOINT_URL=s3_endpoint, CONSENT_QUEUE_URL=f"{s3_endpoint}/1/none",
        CONSENT_DEAD_LETTER_URL=f"{s3_endpoint}/1/none-dead", SLACK_TOKEN="xoxb-local", SLACK_URL="http://127.0.0.1:9/",
    )  # fmt: skip
    assert "ParameterNotFound" in line(result, "switches")
    assert line(result, "consent queue").startswith("FAIL")
    assert line(result, "dead letters").startswith("FAIL")
    assert line(result, "Slack").startswith("FAIL")


def test_preflight_outside_local_asks_every_required_part() -> None:
    settings = Settings(
        env="prod", component="worker", store_url="s3://bucket", first_business_date="2026-03-02",
        ui_url="https://feed/view", runbook_url="https://feed/alerts.md", bigsite_url="postgresql://db/bigsite",
        snowflake_account="a", snowflake_user="u", snowflake_private_key="k", snowflake_role="r",
        snowflake_warehouse="w", snowflake_database="d", data_team_table="t",
    )  # fmt: skip
    names = [check.name for check in checks(settings)]
    assert names[0] == "settings"
    assert {"AWS role", "bigsite", "clock", "object store", "Snowflake", "data team's table"} <= set(names)


def test_preflight_slack_asks_for_the_channel(command: Command, switchboard: Switchboard) -> None:
    slack = {"SLACK_TOKEN": "xoxb-local", "SLACK_URL": f"{switchboard.url}/api/"}
    assert line(command(**slack), "Slack").endswith("classfeed is in #classfeed-nonprod")
    for channel in ("#elsewhere", "#nowhere"):
        refused = line(command(**slack, SLACK_CHANNEL_NONPROD=channel), "Slack")
        assert refused.startswith(f"FAIL  Slack: classfeed is not in a channel {channel}. Check the token")


def test_preflight_slack_refusing_names_the_reason(command: Command, switchboard: Switchboard) -> None:
    switchboard.fails = True
    result = command(SLACK_TOKEN="xoxb-local", SLACK_URL=f"{switchboard.url}/api/")
    assert line(result, "Slack").startswith("FAIL  Slack: service_unavailable.")


def test_preflight_logs_bucket_missing_is_a_failure(
    command: Command, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    assert line(command(COMPUTE_LOGS_BUCKET="no-such-logs"), "compute logs").startswith("FAIL  compute logs: 404.")
    boto3.client("s3").create_bucket(
        Bucket="classfeed-logs", CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"}
    )
    assert line(command(COMPUTE_LOGS_BUCKET="classfeed-logs"), "compute logs").endswith("classfeed-logs exists")


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder with the discovery document of an identity provider; yield its URL and the document."""
    document = tmp_path / "issuer" / ".well-known" / "openid-configuration"
    document.parent.mkdir(parents=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "issuer"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", document
    server.shutdown()
    server.server_close()


def test_preflight_identity_provider_has_the_load_balancers_endpoints(
    command: Command, issuer: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, document = issuer
    stated = {"issuer": url, "authorization_endpoint": f"{url}/authorize", "token_endpoint": f"{url}/token",
              "userinfo_endpoint": f"{url}/userinfo"}  # fmt: skip
    document.write_text(json.dumps(stated))
    # The load balancer uses no proxy, so neither does the question.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    answer = line(command(IDENTITY_URL=url), "identity provider")
    assert answer.endswith("127.0.0.1 has the endpoints of the load balancer's rules")
    answer = line(command(IDENTITY_URL=f"{url}/realms/other"), "identity provider")
    assert answer.startswith("FAIL  identity provider: HTTPError. Check identity_url")


@pytest.mark.parametrize("wrong", ["issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint"])
def test_identity_provider_with_another_endpoint_is_refused(issuer: tuple[str, Path], wrong: str) -> None:
    url, document = issuer
    stated = {"issuer": url, **{field: url + path for field, path in OIDC_PATHS.items()}}
    document.write_text(json.dumps({**stated, wrong: "https://other.example/token"}))
    with pytest.raises(
        IdentityProviderError, match=f"its {wrong} is 'https://other.example/token', the load balancer's"
    ):
        check_issuer(url)


@pytest.mark.parametrize("text", ["", "<html>", "[1]"])
def test_identity_provider_without_discovery_document_is_refused(issuer: tuple[str, Path], text: str) -> None:
    url, document = issuer
    document.write_text(text)
    with pytest.raises(IdentityProviderError, match="not a JSON object"):
        check_issuer(url)


def test_preflight_collector_gets_an_empty_request(command: Command) -> None:
    with running_collector() as collector:
        answer = line(command(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url), "collector")
        assert answer.endswith("127.0.0.1 accepts OTLP")
        collector.refuse = True
        assert line(command(), "collector").startswith("FAIL")
    assert not collector.spans


def test_preflight_asks_no_name_of_a_service_that_is_off(command: Command) -> None:
    result = command(
        CODE_SERVER_HOST="code.stg.classfeed.internal", OPERATE_URL="http://operator.stg.classfeed.internal"
    )
    assert "classfeed.internal" not in result.output


def test_preflight_without_the_databases_secret_asks_no_database(command: Command) -> None:
    assert "Dagster's database" not in command(DAGSTER_PG_HOST="127.0.0.1").output


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """Address of a Redis with the password of ``rediss://`` URLs in these tests; skipped where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--requirepass", "hunter2", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        yield f"127.0.0.1:{port}"
        process.terminate()


def test_preflight_broker_with_the_right_password_answers(command: Command, broker: str) -> None:
    result = command(COMPONENT="steps", CELERY_BROKER_URL=f"redis://{broker}/0", CELERY_BROKER_PASSWORD="hunter2")
    assert line(result, "Celery broker").endswith("redis answers")


@pytest.mark.parametrize("password", ["hunter3", "hunter/4"])
def test_preflight_broker_refusing_repeats_no_password(command: Command, broker: str, password: str) -> None:
    result = command(COMPONENT="steps", CELERY_BROKER_URL=f"redis://{broker}/0", CELERY_BROKER_PASSWORD=password)
    assert line(result, "Celery broker").startswith("FAIL")
    assert password not in result.output


def test_preflight_code_server_asks_no_broker(command: Command) -> None:
    result = command(COMPONENT="code", CELERY_BROKER_URL="redis://127.0.0.1:9/0")
    assert "Celery broker" not in result.output


@pytest.fixture(scope="module")
def snowflake_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Yield the port of a Snowflake that keeps grants."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder, module = tmp_path_factory.mktemp("snowflake"), "classfeed_dagster_tests.rehearsal.snowflake"
    with subprocess.Popen([sys.executable, "-m", module, str(folder), "127.0.0.1", str(port), "LOADER"]) as process:
        assert wait_until(lambda: answers("127.0.0.1", port), 120)
        yield port
        process.terminate()


@pytest.fixture
def snowflake(snowflake_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Connect to the Snowflake, in a schema without grants; preflight reaches it too."""
    arguments = snowflake_server.arguments(snowflake_port) | {"schema": f"FEED_{next(_numbers)}"}
    # Snowflake's own address, which the account's name resolves to, is the one thing that this machine lacks.
    address = {name: arguments.pop(name) for name in connection._EXTRA if name in arguments}
    monkeypatch.setattr(
        connection, "connection_arguments", lambda _: {**arguments, "additional_snowflake_connection_args": address}
    )
    with snowflake_connector.connect(**arguments, **address) as opened:
        execute(opened, CREDITS)
        yield opened


ACCOUNT = {"SNOWFLAKE_ACCOUNT": "broker-x1", "SNOWFLAKE_USER": "CLASSFEED"}
_numbers = itertools.count()
GRANTS = (
    "GRANT CREATE STAGE ON SCHEMA {schema} TO ROLE LOADER",
    "GRANT CREATE TABLE ON SCHEMA {schema} TO ROLE CREATOR",
    "GRANT CREATE VIEW ON SCHEMA {schema} TO DATABASE ROLE CLASSFEED.VIEWS",
    "GRANT DATABASE ROLE CLASSFEED.VIEWS TO ROLE CREATOR",
    "GRANT ROLE CREATOR TO ROLE LOADER",
)
CREDITS = "GRANT DATABASE ROLE SNOWFLAKE.USAGE_VIEWER TO ROLE PUBLIC"  # which every role has


def grant(snowflake: Any, *statements: str) -> None:
    execute(snowflake, *(statement.format(schema=f"CLASSFEED.{snowflake.schema}") for statement in statements))


def revoke(snowflake: Any, *statements: str) -> None:
    grant(snowflake, *(text.replace("GRANT ", "REVOKE ", 1).replace(" TO ", " FROM ") for text in statements))


def lacking(snowflake: Any, *kinds: str) -> list[str]:
    return [f"CREATE {kind} ON SCHEMA CLASSFEED.{snowflake.schema}" for kind in kinds]


def test_preflight_snowflake_names_the_missing_privileges(command: Command, snowflake: Any) -> None:
    grant(snowflake, *GRANTS)
    assert line(command(**ACCOUNT), "Snowflake grants").startswith("ok")
    revoke(snowflake, GRANTS[0], GRANTS[-1])
    missing = ", ".join(lacking(snowflake, "STAGE", "TABLE", "VIEW"))
    sentence = f"FAIL  Snowflake grants: the role lacks {missing}. Grant them to the role"
    assert line(command(), "Snowflake grants").startswith(sentence)


def test_missing_privileges_revoked_are_those_that_a_load_lacks(snowflake: Any) -> None:
    grant(snowflake, *GRANTS)
    assert missing_privileges(snowflake) == []
    for text, kinds in zip(GRANTS, (["STAGE"], ["TABLE"], ["VIEW"], ["VIEW"], ["TABLE", "VIEW"]), strict=True):
        revoke(snowflake, text)
        assert missing_privileges(snowflake) == lacking(snowflake, *kinds), text
        if "STAGE" not in kinds:
            with pytest.raises(ProgrammingError, match="Insufficient privileges to operate on schema"):
                apply_schema(snowflake)
        grant(snowflake, text)
    revoke(snowflake, CREDITS)
    assert missing_privileges(snowflake) == ["USAGE ON DATABASE_ROLE SNOWFLAKE.USAGE_VIEWER"]
    grant(
        snowflake, "GRANT USAGE ON DATABASE SNOWFLAKE TO ROLE CREATOR"
    )  # "imported privileges", as Snowflake shows them
    assert missing_privileges(snowflake) == []
    revoke(snowflake, "GRANT USAGE ON DATABASE SNOWFLAKE TO ROLE CREATOR")


def test_missing_privileges_of_a_schemas_owner_are_others_tables(snowflake: Any) -> None:
    grant(snowflake, "GRANT OWNERSHIP ON SCHEMA {schema} TO ROLE LOADER")
    apply_schema(snowflake)
    execute(snowflake, "CREATE TABLE DATA_TEAM (METRIC VARCHAR)")
    for table in ("DELIVERED_MOVEMENT", "DATA_TEAM"):
        assert missing_privileges(snowflake) == []
        grant(snowflake, f"GRANT OWNERSHIP ON TABLE {{schema}}.{table} TO ROLE OTHERS")
        name = f"CLASSFEED.{snowflake.schema}.{table}"
        assert missing_privileges(snowflake) == ([] if table == "DATA_TEAM" else [f"OWNERSHIP ON TABLE {name}"])
        grant(snowflake, f"GRANT OWNERSHIP ON TABLE {{schema}}.{table} TO ROLE LOADER")
