"""First deployment: grants, preflight, migrations, services and their health, and bad input."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import re
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from dagster._core.storage.sql import run_alembic_downgrade
from dagster_postgres.run_storage.run_storage import PostgresRunStorage
from dagster_postgres.utils import pg_alembic_config

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.feeds import class_super
from classfeed_dagster.simulation.data_team import publish_metrics
from classfeed_dagster.warehouse.privileges import CREATED
from classfeed_dagster_tests.rehearsal.parts import World, answers
from classfeed_dagster_tests.rehearsal.resolver import UnresolvableError
from classfeed_dagster_tests.rehearsal.tasks import Task, environment_of, require_success, wait_until

if TYPE_CHECKING:
    pass

# Dagster's revision before the last one that changes a table in PostgreSQL.
_EARLIER_SCHEMA, _ADDED = "6b7fb194ff9c", ("concurrency_limits", "using_default_limit")
# Nothing is judged by these: a busy machine takes long, and only what never comes fails.
_WAIT_SECONDS, _DATE_SECONDS = 600.0, 1200.0


def migrate(parts: World, expected: str) -> str:
    return require_success(parts.cluster.run("migrate"), rf"^{expected}: \d+ tables")


def services_of(parts: World) -> list[str]:
    # One of each is enough of a webserver; workers are as many as the template has.
    services = []
    for part in ("application", "workers"):
        for resource in parts.stacks.resources(part, "AWS::ECS::Service").values():
            count = resource["DesiredCount"]["Fn::If"][1] if part == "workers" else 1
            services += [resource["ServiceName"], *(f"{resource['ServiceName']} {at}" for at in range(2, count + 1))]
    return sorted(services, key=lambda name: name != "code")  # the others ask the code server when they start


def _component(service: str) -> str:
    return service.partition(" ")[0]


def start_service(parts: World, service: str) -> Task:
    return parts.cluster.start(parts.cluster.family(_component(service)))


def create_bigsite(parts: World) -> None:
    """Create another team's tables."""
    engine = sa.create_engine(parts.bigsite.url("bigsite"))
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        metadata.create_all(connection)
    engine.dispose()


def create_metrics(parts: World) -> None:
    """Create the data team's table."""
    with parts.warehouse() as connection:
        publish_metrics(
            connection, class_super.FEED.recipient, parts.first_business_date(), [], dt.datetime.now(dt.UTC)
        )


def grant_privileges(parts: World) -> None:
    """Grant what docs/deployment.md demands of Snowflake."""
    with parts.warehouse() as connection:
        for statement in _grants(parts):
            connection.cursor().execute(statement)


def _grants(parts: World) -> list[str]:
    """Return the grants of the schema: to a role of its own, which the deployment's role has."""
    settings = parts.cluster.environment(parts.cluster.family("worker"))
    schema = f"{settings['CLASSFEED_SNOWFLAKE_DATABASE']}.{settings['CLASSFEED_SNOWFLAKE_SCHEMA']}"
    privileges = [f"GRANT CREATE {kind} ON SCHEMA {schema} TO ROLE FEED_WRITER" for kind in CREATED]
    privileges.append("GRANT DATABASE ROLE SNOWFLAKE.USAGE_VIEWER TO ROLE FEED_WRITER")
    return [*privileges, f"GRANT ROLE FEED_WRITER TO ROLE {settings['CLASSFEED_SNOWFLAKE_ROLE']}"]


def refuse_revoked(parts: World) -> str:
    """Expect the preflight to name a revoked privilege, and each one that the role had by a role of its own."""
    *_, view, _, role = _grants(parts)
    with parts.warehouse() as connection:
        for grant, lacking in ((view, ["CREATE VIEW"]), (role, [*(f"CREATE {kind}" for kind in CREATED), "USAGE"])):
            connection.cursor().execute(grant.replace("GRANT ", "REVOKE ").replace(" TO ROLE", " FROM ROLE"))
            task = parts.cluster.run("worker", "classfeed", "preflight")
            failures = re.findall(r"^FAIL .*", task.output(), re.MULTILINE)
            connection.cursor().execute(grant)
            assert task.code == 3, f"{grant}: exit code {task.code}"
            assert len(failures) == 1, failures
            assert re.findall(r"(CREATE \w+|USAGE) ON", failures[0]) == lacking, failures[0]
    return f"two revoked; {run_preflight(parts, 'worker')} with both"


def run_preflight(parts: World, name: str) -> str:
    task = parts.cluster.run(name, "classfeed", "preflight")
    answers = re.findall(r"^(ok|FAIL) .*", task.output(), re.MULTILINE)
    assert task.code == 0, (
        "; ".join(re.findall(r"^FAIL .*|^[A-Z]\w+Error.*", task.output(), re.MULTILINE)) or task.output()[-800:]
    )
    assert f"assumed-role/classfeed-{parts.env}-" in task.output() or name == "migrate", task.output()
    return f"{len(answers)} answers"


def refuse_bad_input(parts: World) -> str:
    """Expect a sentence and an exit code, and no object written."""
    before = parts.keys("")
    unfilled = {"secret": parts.secret("slack"), "value": {"set": "by hand"}}
    family = parts.cluster.family("code")
    with parts.cluster.changed(family, secret=unfilled), pytest.raises(UnresolvableError, match="fill it by hand"):
        parts.cluster.environment(family)
    bigsite = "postgresql+psycopg://feed:hunter2@bigsite.broker.internal:9/bigsite"
    for change, command, code, sentence in (
        ({"CLASSFEED_SNOWFLAKE_ROLE": None, "CLASSFEED_UI_URL": None}, ("run", "--date", str(parts.first_business_date())), 2,
         "CLASSFEED_UI_URL, CLASSFEED_SNOWFLAKE_ROLE"),
        ({"CLASSFEED_BIGSITE_URL": bigsite}, ("preflight",), 3, "FAIL  bigsite: OperationalError. Check"),
        ({"CLASSFEED_IDENTITY_URL": f"{parts.balancer.issuer}/realms/other"}, ("preflight",), 3,
         "FAIL  identity provider: HTTPError. Check"),
    ):  # fmt: skip
        with parts.cluster.changed(parts.cluster.family("worker"), variables=change):
            task = parts.cluster.run("worker", "classfeed", *command)
        text = task.output()
        assert task.code == code, f"exit code {task.code}: {text[-800:]}"
        assert sentence in text, text[-800:]
        assert "Traceback" not in text, text[-800:]
        assert "hunter2" not in text, "a password is repeated"
    assert parts.keys("") == before, "something was written"
    return "exit codes 2 and 3, nothing written"


def only_class_super(parts: World) -> None:
    # One date is enough for the workers of this machine.
    value = json.dumps({"mode": {"class_cash": "off", "class_trade": "off"}})
    name = f"/classfeed/{parts.env}/flags"
    parts.client("ssm").put_parameter(Name=name, Value=value, Type="String", Overwrite=True, Description="rehearsal")


def migrate_earlier(parts: World) -> str:
    engine = sa.create_engine(parts.database.url("dagster"))
    with engine.begin() as connection:
        run_alembic_downgrade(pg_alembic_config(inspect.getfile(PostgresRunStorage)), connection, _EARLIER_SCHEMA)
    assert not _has_column(engine), "the downgrade did nothing"
    outcome = migrate(parts, "migrated")
    assert _has_column(engine), "the column is still missing"
    engine.dispose()
    return f"{outcome} from {_EARLIER_SCHEMA}"


def _has_column(engine: sa.Engine) -> bool:
    table, column = _ADDED
    return column in {item["name"] for item in sa.inspect(engine).get_columns(table)}


def check_service(running: dict[str, Task], name: str) -> str:
    return check_health(running[name])


def check_health(task: Task) -> str:
    last: list[str] = [""]

    def healthy() -> bool:
        assert task.code is None, f"ended with {task.code}: {task.output()[-6000:]}"
        if not all(answers(task.address, port) for port in task.ports):
            return False  # asked first, since each health check starts Python
        process = task.execute("health")
        last[0] = (process.stdout + process.stderr).strip()[-300:]
        return process.returncode == 0

    assert wait_until(healthy, _WAIT_SECONDS), f"not healthy: {last[0]}; {task.output()[-1500:]}"
    return "healthy"


def check_environment(parts: World, task: Task) -> str:
    result = environment_of(task.process.pid)
    result.pop("PWD", None)  # the shell of deploy/service exports it
    assert result == task.environment, sorted(set(result) ^ set(task.environment))
    return f"{len(result)} variables"


def check_confinement(task: Task) -> str:
    process = task.execute(
        "sh", "-c", "touch /opt/dagster/x || touch /etc/x || touch /x; id -u; touch /tmp/x && echo tmp"
    )
    assert process.stdout.split() == ["10001", "tmp"], process.stdout + process.stderr
    return "user 10001"


def run_smoke(parts: World) -> str:
    return require_success(parts.cluster.run("migrate", "smoke"), "the release works")


def check_targets(parts: World) -> str:
    paths = [target["HealthCheckPath"] for target in parts.balancer.targets.values()]
    for name, target in parts.balancer.targets.items():
        status, _ = parts.balancer.check(name)
        assert str(status) == target["Matcher"]["HttpCode"], f"{target['HealthCheckPath']}: {status}"
    return ", ".join(paths)


def check_identity(parts: World, door: Task) -> str:
    balancer = parts.balancer
    group = parts.cluster.environment(parts.cluster.family("door"))["CLASSFEED_SUPPORT_GROUP"]
    claims = {"sub": "1", "preferred_username": "r.hearsal", "groups": [group]}
    other = balancer.arn.replace("/classfeed-", "/other-")
    stranger = ec.generate_private_key(ec.SECP256R1())
    for kind, identity, expected in (
        ("none", None, 401),
        ("another load balancer's", balancer.sign(claims, signer=other), 401),
        ("another key's", balancer.sign(claims, key=stranger), 401),
        ("expired", balancer.sign(claims, seconds=-60), 401),
        ("this load balancer's", balancer.sign(claims), 200),
    ):
        status, _ = balancer.request("/rerun", identity)
        assert status == expected, f"identity {kind}: {status}, expected {expected}"
    form = f"feed=class_super&date={parts.first_business_date()}&reason=the+rehearsal+tries+it"
    status, page = balancer.request("/rerun", balancer.sign({**claims, "groups": ["others"]}), form)
    assert status == 403, page[-600:]
    (line,) = [line for line in door.output().splitlines() if "re-run refused" in line]
    assert json.loads(line)["level"] == "warning", line
    return "five identities; outside the support group refused"
