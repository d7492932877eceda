"""Real parts of the rehearsal: PostgreSQL twice, S3, SQS, SSM and Secrets Manager, Snowflake, Slack and PagerDuty."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from classfeed_dagster_tests.fixtures.certificates import Authority, Certificate
from classfeed_dagster_tests.fixtures.collector import Collector, running_collector
from classfeed_dagster_tests.fixtures.s3_servers import localbucket_server
from classfeed_dagster_tests.fixtures.switchboard import Switchboard, running_switchboard
from classfeed_dagster_tests.fixtures.templates import ROOT
from classfeed_dagster_tests.fixtures.tls_postgres import TlsPostgres
from classfeed_dagster_tests.rehearsal.balancer import KEY_HOST, Balancer
from classfeed_dagster_tests.rehearsal.image import Image
from classfeed_dagster_tests.rehearsal.network import ADDRESSES, REGION, Forwarders, Network, run
from classfeed_dagster_tests.rehearsal.resolver import Stacks
from classfeed_dagster_tests.rehearsal.second_s3 import serve_bucket_names
from classfeed_dagster_tests.rehearsal.tasks import Cluster, wait_until
from deploy.environments import deployment

DATABASE, BROKER = "dagster.rds.internal", "broker.cache.internal"

_BROKER_PASSWORD = "rehearsal-broker"
# Every environment's store is an S3 server of moto's, but dev's: an implementation that shares no code with it.
_ON_SECOND_S3 = ("dev",)


@dataclass
class World:
    """Services around the tasks."""

    env: str
    stacks: Stacks
    network: Network
    cluster: Cluster
    database: TlsPostgres
    bigsite: TlsPostgres
    people: Switchboard
    forwarders: Forwarders
    balancer: Balancer
    collector: Collector
    metrics_store: str | None
    endpoint: str
    store_endpoint: str

    def client(self, service: str) -> Any:
        """Return a client of the local AWS."""
        return _client(service, self.store_endpoint if service == "s3" else self.endpoint)

    def warehouse(self) -> Any:
        """Return a connection to Snowflake as the data team has it."""
        import snowflake.connector

        assert wait_until(partial(answers, ADDRESSES["snowflake"], 443), 120), "Snowflake does not start"
        settings = self.cluster.environment(self.cluster.family("worker"))
        return snowflake.connector.connect(
            account=settings["CLASSFEED_SNOWFLAKE_ACCOUNT"], user="data_team", password="rehearsal",
            database=settings["CLASSFEED_SNOWFLAKE_DATABASE"], schema=settings["CLASSFEED_SNOWFLAKE_SCHEMA"],
            network_timeout=60,
        )  # fmt: skip

    def bucket(self) -> str:
        """Return the bucket of the deliveries."""
        return next(
            str(resource["BucketName"])
            for resource in self.stacks.resources("foundation", "AWS::S3::Bucket").values()
            if "-data-" in resource["BucketName"]
        )

    def keys(self, prefix: str) -> list[str]:
        """Return the bucket's keys under a prefix."""
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket(), Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def first_business_date(self) -> dt.date:
        """Return the date from which the worker's template delivers."""
        settings = self.cluster.environment(self.cluster.family("worker"))
        return dt.date.fromisoformat(settings["CLASSFEED_FIRST_BUSINESS_DATE"])

    def secret(self, name: str) -> str:
        """Return the name of a secret."""
        return f"classfeed/{self.env}/{name}"


@contextmanager
def world(env: str, folder: Path, image: Image) -> Iterator[World]:
    """Start the parts, create what the foundation's template creates, and stop everything at the end."""
    account = deployment(env).account
    os.environ["MOTO_ACCOUNT_ID"] = account  # read when moto is imported
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "local"
    os.environ.pop("AWS_ENDPOINT_URL", None)
    stacks = Stacks(env, {"CertificateArn": "arn:aws:acm:certificate", "AWS::Region": REGION,
                          "AWS::AccountId": account, "AWS::Partition": "aws"})  # fmt: skip
    names = _names(env, stacks)
    network = Network(folder, names)
    authority = Authority(folder / "authority")
    if image.whole:
        network.trust(authority, image.environment, Path(sys.prefix), root=image.path)
    else:
        _lay_out_image(image.environment)
        network.trust(authority, Path("/opt/classfeed"), Path(sys.prefix))
    certificate = authority.issue("aws", ["*.snowflakecomputing.com", *names])
    with ExitStack() as stack:
        _snowflake(stack, folder, certificate, *_values(stacks, "CLASSFEED_SNOWFLAKE_ROLE"))
        forwarders = Forwarders(certificate, network.names)
        database = _postgres(stack, folder, authority, "database", "dagster")
        database.create_database("dagster")
        bigsite = _postgres(stack, folder, authority, "bigsite", "classfeed")
        bigsite.create_database("bigsite")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            server.start()
        stack.callback(server.stop)
        _, port = server.get_host_and_port()
        people = stack.enter_context(running_switchboard())
        forwarders.tls(ADDRESSES["aws"], port)
        endpoint = f"http://127.0.0.1:{port}"
        store = endpoint
        if env in _ON_SECOND_S3:
            store = stack.enter_context(localbucket_server())
            forwarders.tls(ADDRESSES["store"], serve_bucket_names(store))
        else:
            forwarders.tls(ADDRESSES["store"], port)
        forwarders.tls(ADDRESSES["people"], int(people.url.rpartition(":")[2]))
        balancer = Balancer(stacks, network.names)
        forwarders.tls(ADDRESSES["keys"], balancer.serve_keys())
        forwarders.tls(ADDRESSES["identity"], balancer.serve_issuer())
        collector = stack.enter_context(running_collector())
        forwarders.tls(ADDRESSES["collector"], collector.port)
        metrics_store = _metrics_store(stack, folder)
        if metrics_store is not None:
            collector.forward_metrics = f"{metrics_store}/opentelemetry/v1/metrics"
        forwarders.proxy(ADDRESSES["egress"], 3128)
        if stacks.resources("broker", "AWS::ElastiCache::ReplicationGroup"):
            _redis(stack, folder, certificate)
        _create_foundation(stacks, endpoint, store, database, bigsite)
        secrets, tokens = _client("secretsmanager", endpoint), _client("sts", endpoint)
        cluster = Cluster(stacks, network, folder, secrets, tokens, _interface(endpoint), image)
        forwarders.tls(ADDRESSES["ecs"], cluster.serve())
        stack.callback(cluster.stop)
        yield World(env, stacks, network, cluster, database, bigsite, people, forwarders,
                    balancer, collector, metrics_store, endpoint, store)  # fmt: skip


def _names(env: str, stacks: Stacks) -> dict[str, str]:
    aws, store = ADDRESSES["aws"], ADDRESSES["store"]
    buckets = [resource["BucketName"] for resource in stacks.resources("foundation", "AWS::S3::Bucket").values()]
    names = {f"{name}.{REGION}.amazonaws.com": aws for name in ("sqs", "ssm", "ec2", "secretsmanager", "sts")}
    names |= {
        resource["Name"]: ADDRESSES["balancer"]
        for resource in stacks.resources("application", "AWS::Route53::RecordSet").values()
    }
    names |= {f"s3.{REGION}.amazonaws.com": store, KEY_HOST: ADDRESSES["keys"]}
    names |= {f"{bucket}.s3.{REGION}.amazonaws.com": store for bucket in buckets if isinstance(bucket, str)}
    (snowflake,) = _values(stacks, "CLASSFEED_SNOWFLAKE_ACCOUNT")
    for variable, part in (("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"), ("CLASSFEED_IDENTITY_URL", "identity")):
        names |= {str(urlsplit(url).hostname): ADDRESSES[part] for url in _values(stacks, variable)}
    return names | {
        f"ecs.{REGION}.amazonaws.com": ADDRESSES["ecs"], DATABASE: ADDRESSES["database"],
        BROKER: ADDRESSES["broker"], "bigsite.broker.internal": ADDRESSES["bigsite"], "egress.broker.internal": ADDRESSES["egress"],
        "slack.com": ADDRESSES["people"], "events.pagerduty.com": ADDRESSES["people"],
        f"{snowflake}.snowflakecomputing.com": ADDRESSES["snowflake"],
    }  # fmt: skip


def _values(stacks: Stacks, variable: str) -> set[str]:
    """Return the values that the tasks' definitions give to a variable."""
    return {
        resource["Value"]
        for properties in stacks.resources("application", "AWS::ECS::TaskDefinition").values()
        for resource in properties["ContainerDefinitions"][0]["Environment"]
        if resource["Name"] == variable
    }


def _metrics_store(stack: ExitStack, folder: Path) -> str | None:
    """Start VictoriaMetrics, if this machine has resource that accepts OTLP (Debian's package); return its URL.

    It answers Prometheus's queries. Debian builds Prometheus itself without OTLP.
    """
    program, naming = shutil.which("victoria-metrics"), "-opentelemetry.usePrometheusNaming"
    if (
        program is None
        or naming not in subprocess.run([program, "-help"], capture_output=True, text=True, check=False).stdout
    ):
        return None
    port = _free_port()
    command = [
        program,
        naming,
        "-search.latencyOffset=1s",
        f"-storageDataPath={folder}/metrics",
        f"-httpListenAddr=127.0.0.1:{port}",
    ]
    with (folder / "metrics.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.kill)
    assert wait_until(partial(answers, "127.0.0.1", port), 60), (folder / "metrics.log").read_text()[-2000:]
    return f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lay_out_image(environment: Path) -> None:
    # The paths of the Dockerfile's final stage. The interpreter may be in a folder that only root can enter.
    keep = Path("/run/keep")
    keep.mkdir()
    base = Path(os.path.realpath(environment / "bin" / "python")).parent.parent
    closed = next((parent for parent in reversed(base.parents) if parent.stat().st_mode & 0o001 == 0), None)
    run("mount", "--bind", str(base), str(keep))
    if closed is not None:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed))
        base.mkdir(parents=True)
        run("mount", "--bind", str(keep), str(base))
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/opt")
    for name in ("/opt/dagster", "/opt/classfeed", "/opt/scripts"):
        Path(name).mkdir()
    run("mount", "--bind", str(environment), "/opt/classfeed")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / "deploy" / name, "/opt/dagster")
    # An image has these next to its interpreter.
    for name in ("service", "health", "smoke"):
        shutil.copy(ROOT / "deploy" / name, "/opt/scripts")
        (Path("/opt/scripts") / name).chmod(0o755)


def _postgres(stack: ExitStack, folder: Path, authority: Authority, name: str, user: str) -> TlsPostgres:
    certificate = authority.issue(name, [ADDRESSES[name]])
    server = TlsPostgres(folder / name, certificate, address=ADDRESSES[name], user=user, password="first")
    stack.callback(server.stop)
    return server


def _snowflake(stack: ExitStack, folder: Path, certificate: Certificate, role: str) -> None:
    """Start Snowflake at its own address, with its own TLS, because it returns URLs of itself. Its start is not awaited."""
    home = folder / "snowflake"
    home.mkdir()
    address = ADDRESSES["snowflake"]
    command = [sys.executable, "-m", "classfeed_dagster_tests.rehearsal.snowflake", str(home), address, "443", role,
               str(certificate.chain), str(certificate.key)]  # fmt: skip
    with (folder / "snowflake.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.kill)


def _redis(stack: ExitStack, folder: Path, certificate: Certificate) -> None:
    """Start the Celery broker as the template has it: TLS only, a password, nothing evicted."""
    address, settings = ADDRESSES["broker"], folder / "redis.conf"
    settings.write_text(
        f"bind {address}\nport 0\ntls-port 6379\ntls-cert-file {certificate.chain}\ntls-key-file {certificate.key}\n"
        f'tls-auth-clients no\nrequirepass {_BROKER_PASSWORD}\nmaxmemory-policy noeviction\nsave ""\ndir {folder}\n'
    )
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(["redis-server", str(settings)], stdout=log, stderr=log)
    stack.callback(process.kill)
    assert wait_until(partial(answers, address, 6379), 30), (folder / "redis.log").read_text()[-2000:]


def answers(address: str, port: int) -> bool:
    """Return whether something listens."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 2):
        return True
    return False


def _client(service: str, endpoint: str) -> Any:
    make: Any = boto3.client
    return make(service, endpoint_url=endpoint, region_name=REGION)


def _interface(endpoint: str) -> str:
    ec2 = _client("ec2", endpoint)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    return str(ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"])


def _create_foundation(stacks: Stacks, endpoint: str, store: str, database: TlsPostgres, bigsite: TlsPostgres) -> None:
    """Create buckets, queues, secrets and parameters as the template names them; fill the secrets as a person does."""
    part = "foundation"
    s3, sqs, ssm = _client("s3", store), _client("sqs", endpoint), _client("ssm", endpoint)
    for logical, properties in stacks.resources(part, "AWS::S3::Bucket").items():
        name = properties["BucketName"]
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        stacks.provide(part, logical, "Ref", name)
        stacks.provide(part, logical, "Arn", f"arn:aws:s3:::{name}")
    for logical, properties in stacks.resources(part, "AWS::SQS::Queue").items():
        url = sqs.create_queue(QueueName=properties["QueueName"])["QueueUrl"]
        stacks.provide(part, logical, "Ref", url)
    for properties in stacks.resources(part, "AWS::SSM::Parameter").values():
        ssm.put_parameter(Name=properties["Name"], Value=properties["Value"], Type=properties["Type"])
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    values = {
        "dagster-database": {"username": "dagster", "password": database.password},
        "bigsite": {"url": bigsite.url("bigsite").replace(ADDRESSES["bigsite"], "bigsite.broker.internal")},
        "snowflake": {"user": "CLASSFEED", "private_key": key.decode()},
        "broker": {"password": _BROKER_PASSWORD}, "slack": {"token": "xoxb-rehearsal"}, "pagerduty": {"key": "rehearsal" * 4},
    }  # fmt: skip
    secrets = _client("secretsmanager", endpoint)
    for owner in (part, "broker"):
        for logical, properties in stacks.resources(owner, "AWS::SecretsManager::Secret").items():
            value = values.get(properties["Name"].rpartition("/")[2], {"set": "by hand"})
            arn = secrets.create_secret(Name=properties["Name"], SecretString=json.dumps(value))["ARN"]
            stacks.provide(owner, logical, "Ref", arn)
    for logical in stacks.resources("broker", "AWS::ElastiCache::ReplicationGroup"):
        stacks.provide("broker", logical, "PrimaryEndPoint.Address", BROKER)
    for logical in stacks.resources(part, "AWS::RDS::DBInstance"):
        stacks.provide(part, logical, "Endpoint.Address", DATABASE)
    for owner in ("application", "workers"):
        for logical, properties in stacks.resources(owner, "AWS::Logs::LogGroup").items():
            stacks.provide(owner, logical, "Ref", properties["LogGroupName"])
