"""What differs between dev, staging and production: one table. Stacks read it; none is copied.

Production has an account of its own; dev and staging share another, which also keeps the image registry.
"""

from __future__ import annotations

from dataclasses import dataclass

REGION = "ap-southeast-2"
ZONES = ("ap-southeast-2a", "ap-southeast-2b")
# Placeholders of the form AWS documents for examples; the pipeline's variables name the real ones.
REST_ACCOUNT = "111122223333"
PRODUCTION_ACCOUNT = "444455556666"
REPOSITORY = "classfeed"
GITHUB_REPOSITORY = "broker/classfeed"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One environment, and the names of what is in it. Names are made here, so that policies can be plain data."""

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
    region: str = REGION

    @property
    def production(self) -> bool:
        """True where real customers' data is."""
        return not self.simulated

    def name(self, what: str) -> str:
        """The name of something of this environment."""
        return f"classfeed-{self.env}-{what}"

    def role(self, what: str) -> str:
        """The ARN of a role of this environment."""
        return f"arn:aws:iam::{self.account}:role/{self.name(what)}"

    @property
    def data_bucket(self) -> str:
        """The object store."""
        return f"{self.name('data')}-{self.account}"

    @property
    def logs_bucket(self) -> str:
        """Dagster's compute logs, and the load balancer's."""
        return f"{self.name('logs')}-{self.account}"

    @property
    def key_alias(self) -> str:
        """The key that everything of this environment is encrypted with."""
        return f"alias/{self.name('data')}"

    @property
    def cluster_arn(self) -> str:
        """The ECS cluster."""
        return f"arn:aws:ecs:{self.region}:{self.account}:cluster/{self.name('cluster')}"

    def task(self, family: str) -> str:
        """Every revision of a task definition."""
        return f"arn:aws:ecs:{self.region}:{self.account}:task-definition/{self.name(family)}:*"

    def secret(self, what: str) -> str:
        """The ARN of a secret, with the six characters that Secrets Manager adds."""
        return f"arn:aws:secretsmanager:{self.region}:{self.account}:secret:classfeed/{self.env}/{what}-??????"

    @property
    def queue_arn(self) -> str:
        """bigsite's consent events."""
        return f"arn:aws:sqs:{self.region}:{self.account}:{self.name('consent-events')}"


DEPLOYMENTS = (
    Deployment("dev", REST_ACCOUNT, "10.40.0.0/16", "classfeed.dev.broker.example", "db.t4g.medium", False,
               1024, 4096, 300, 0, simulated=True),
    Deployment("stg", REST_ACCOUNT, "10.41.0.0/16", "classfeed.stg.broker.example", "db.t4g.medium", True,
               2048, 8192, 600, 0, simulated=True),
    Deployment("prod", PRODUCTION_ACCOUNT, "10.42.0.0/16", "classfeed.broker.example", "db.m7g.large", True,
               4096, 16384, 2500, 7, simulated=False),
)  # fmt: skip


def deployment(env: str) -> Deployment:
    """The environment called ``env``; KeyError if there is none."""
    return {one.env: one for one in DEPLOYMENTS}[env]
