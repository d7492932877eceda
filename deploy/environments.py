"""Differences between dev, staging and production, in one table that the stacks read.

Production has an account of its own; dev and staging share another, which also keeps the image registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.objectives import WATCHED_FEEDS

REGION = "ap-southeast-2"
ZONES = ("ap-southeast-2a", "ap-southeast-2b")
# Placeholders of the form AWS documents for examples; the pipeline's variables name the real ones.
REST_ACCOUNT = "111122223333"
PRODUCTION_ACCOUNT = "444455556666"
REPOSITORY = "classfeed"
GITHUB_REPOSITORY = "broker/classfeed"


@dataclass(frozen=True, slots=True)
class Network:
    """Connections of an environment to the broker's own network. Everything here exists before the first deployment.

    Attributes:
        transit_gateway: gateway that connects the VPC with the broker's network.
        resolver_rule: Route 53 resolver rule, shared with the account, that resolves the broker's internal names.
        broker_cidr: addresses of the broker's network: users, bigsite and the egress proxy.
        identity_cidr: addresses of the identity provider as the load balancer reaches them. A load balancer uses no
            proxy, and resolves the provider's name in public DNS only.
        identity_url: issuer of the identity provider.
        egress_host, egress_port: proxy for Slack, PagerDuty, Snowflake and the collector.
        collector_url: OpenTelemetry collector that the egress proxy reaches, in addition to CloudWatch; none if empty.
        zone: Route 53 hosted zone of the environment's host name.
    """

    transit_gateway: str
    resolver_rule: str
    zone: str
    broker_cidr: str = "10.0.0.0/8"
    identity_cidr: str = "10.8.0.0/24"
    identity_url: str = "https://login.broker.example"
    egress_host: str = "egress.broker.internal"
    egress_port: int = 3128
    collector_url: str = ""

    @property
    def egress_url(self) -> str:
        """URL of the egress proxy."""
        return f"http://{self.egress_host}:{self.egress_port}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One environment, with the names of its resources, so that policies can be plain data."""

    env: str
    account: str
    cidr: str
    host: str
    database_class: str
    database_multi_az: bool
    worker_cpu: int
    worker_memory: int  # MiB
    monthly_budget: int  # USD
    delivered_years: int  # object lock; 0: none, for environments with invented customers
    simulated: bool  # whether the customers are invented
    settings: Mapping[str, str]  # CLASSFEED_ variables that differ between environments, without the prefix
    network: Network
    watched_feeds: tuple[str, ...] = WATCHED_FEEDS  # feeds with alarms
    alarms_to: str = "classfeed-oncall@broker.example"  # e-mail address; a pager's integration has one
    workers: int = 0  # Celery workers that execute the steps of runs; 0: each run executes its own
    region: str = REGION

    @property
    def production(self) -> bool:
        """Return True for the environment with real customers' data."""
        return not self.simulated

    def name(self, resource: str) -> str:
        """Return the name of a resource of this environment."""
        return f"classfeed-{self.env}-{resource}"

    def role(self, name: str) -> str:
        """Return the ARN of a role of this environment."""
        return f"arn:aws:iam::{self.account}:role/{self.name(name)}"

    @property
    def data_bucket(self) -> str:
        """Return the bucket of the object store."""
        return f"{self.name('data')}-{self.account}"

    @property
    def logs_bucket(self) -> str:
        """Dagster's compute logs, and the load balancer's."""
        return f"{self.name('logs')}-{self.account}"

    @property
    def key_alias(self) -> str:
        """Return the encryption key of this environment."""
        return f"alias/{self.name('data')}"

    @property
    def cluster_arn(self) -> str:
        """Return the ECS cluster."""
        return f"arn:aws:ecs:{self.region}:{self.account}:cluster/{self.name('cluster')}"

    def task(self, family: str) -> str:
        """Return the ARN pattern of all revisions of a task definition."""
        return f"arn:aws:ecs:{self.region}:{self.account}:task-definition/{self.name(family)}:*"

    def secret(self, name: str) -> str:
        """Return the ARN pattern of a secret, with the six characters that Secrets Manager adds."""
        return f"arn:aws:secretsmanager:{self.region}:{self.account}:secret:classfeed/{self.env}/{name}-??????"

    @property
    def flags_parameter(self) -> str:
        """SSM parameter of the switches."""
        return f"/classfeed/{self.env}/flags"

    def parameter(self, name: str) -> str:
        """Return the ARN of an SSM parameter."""
        return f"arn:aws:ssm:{self.region}:{self.account}:parameter{name}"

    @property
    def queue_arn(self) -> str:
        """bigsite's consent events."""
        return f"arn:aws:sqs:{self.region}:{self.account}:{self.name('consent-events')}"


def _settings(env: str, first_business_date: str, suffix: str, channel: str) -> dict[str, str]:
    # Placeholders, like the accounts: the Snowflake objects and the channel are the owner's to name.
    return {
        "FIRST_BUSINESS_DATE": first_business_date,
        "UI_URL": f"https://classfeed{suffix}.broker.example/view",
        "RUNBOOK_URL": "https://github.com/broker/classfeed/blob/main/docs/runbook.md",
        "SLACK_CHANNEL" if env == "prod" else "SLACK_CHANNEL_NONPROD": channel,
        "SUPPORT_GROUP": "classfeed-support" if env == "prod" else f"classfeed-{env}-support",
        "SNOWFLAKE_ACCOUNT": "broker-au1" if env == "prod" else "broker-au1-nonprod",
        "SNOWFLAKE_ROLE": f"CLASSFEED_{env.upper()}",
        "SNOWFLAKE_WAREHOUSE": f"CLASSFEED_{env.upper()}",
        "SNOWFLAKE_DATABASE": "CLASSFEED" if env == "prod" else f"CLASSFEED_{env.upper()}",
        "SNOWFLAKE_SCHEMA": "FEED",
        "DATA_TEAM_TABLE": "FEED.CLASS_FEED_METRICS",
    }


# Dev and staging also send to a collector; production may, once the broker has one for it.
_COLLECTOR = "https://collector.broker.example"
# 2026-11-23 is a Monday before the first deployment: staging and dev have dates to deliver at once. Production's is
# agreed with Class.
DEPLOYMENTS = (
    Deployment("dev", REST_ACCOUNT, "10.40.0.0/16", "classfeed.dev.broker.example", "db.t4g.medium", False,
               1024, 4096, 300, 0, simulated=True,
               # Dev keeps the shape with workers in use: even a small date is fanned out to them.
               settings=_settings("dev", "2026-11-23", ".dev", "#classfeed-nonprod")
               | {"SLICE_PORTFOLIOS": "50", "SHARD_PORTFOLIOS": "150"},
               workers=2,
               network=Network("tgw-0aaaaaaaaaaaaaaaa", "rslvr-rr-0aaaaaaaaaaaaaaa", "Z0AAAAAAAAAAAA",
                               collector_url=_COLLECTOR)),
    Deployment("stg", REST_ACCOUNT, "10.41.0.0/16", "classfeed.stg.broker.example", "db.t4g.medium", True,
               2048, 8192, 600, 0, simulated=True,
               settings=_settings("stg", "2026-11-23", ".stg", "#classfeed-nonprod"),
               network=Network("tgw-0aaaaaaaaaaaaaaaa", "rslvr-rr-0aaaaaaaaaaaaaaa", "Z0AAAAAAAAAAAA",
                               collector_url=_COLLECTOR)),
    Deployment("prod", PRODUCTION_ACCOUNT, "10.42.0.0/16", "classfeed.broker.example", "db.m7g.large", True,
               4096, 16384, 2500, 7, simulated=False,
               settings=_settings("prod", "2027-02-01", "", "#classfeed"),
               network=Network("tgw-0bbbbbbbbbbbbbbbb", "rslvr-rr-0bbbbbbbbbbbbbbb", "Z0BBBBBBBBBBBB")),
)  # fmt: skip


def deployment(env: str) -> Deployment:
    """Return the environment ``env``; KeyError if there is none."""
    return {entry.env: entry for entry in DEPLOYMENTS}[env]
