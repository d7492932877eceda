"""The environment, typed: every setting, its default and its meaning. Nothing else reads environment variables.

With none set, everything runs on embedded parts under ``.classfeed/``.
"""

from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Environment(enum.StrEnum):
    """Where this runs. Simulation, seeding and a set clock are for ``local`` and ``dev`` only."""

    LOCAL = "local"
    DEV = "dev"
    STG = "stg"
    PROD = "prod"


class Settings(BaseSettings):
    """Every setting of classfeed; the environment variable is the name in capitals after ``CLASSFEED_``."""

    model_config = SettingsConfigDict(env_prefix="CLASSFEED_", extra="ignore", frozen=True)

    env: Environment = Field(Environment.LOCAL, description="local, dev, stg or prod")
    home: Path = Field(Path(".classfeed"), description="where embedded services and local data live")
    bigsite_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of bigsite; unset: an embedded PostgreSQL under the home folder"
    )
    store_url: str | None = Field(None, description="object store, a folder or s3://bucket/prefix; unset: <home>/store")
    s3_endpoint_url: str | None = Field(None, description="another S3 endpoint than AWS's own, for tests")
    first_business_date: dt.date = Field(
        dt.date(2023, 1, 3), description="the feeds' first business date: sequence number 1, everyone NEW"
    )
    now: AwareDatetime | None = Field(
        None, description="a set clock for replays and tests; refused outside local and dev"
    )
    max_held_back_share: Decimal = Field(
        Decimal("0.01"), ge=0, le=1, description="above this share of portfolios breaking a rule, nothing goes"
    )
    max_removed_share: Decimal = Field(
        Decimal("0.05"), ge=0, le=1, description="above this share removed since the date before, a person must release"
    )
    max_page_bytes: int = Field(
        32 * 1024 * 1024, ge=64 * 1024, description="size of a document page before compression"
    )
    compress: bool = Field(True, description="gzip the delivered documents")
    slice_portfolios: int = Field(
        300,
        ge=1,
        description="portfolios worked on at a time, of those without their whole history four times as many: bounds "
        "memory, changes no byte of the output",
    )
    shard_portfolios: int = Field(
        12_000,
        ge=1,
        description="portfolios of a great date that one worker takes at a time, four times as many of those without "
        "their whole history: changes no byte of the output",
    )
    bigsite_sessions: int = Field(
        4, ge=1, le=8, description="sessions that read a great date from bigsite at once; an ordinary one takes one"
    )
    delivery_wait_seconds: int = Field(
        600, ge=0, description="how long a delivery waits for the business date before it, if that one is running"
    )
    flags: dict[str, dict[str, bool | str]] = Field(
        default_factory=dict,
        description="switches of feeds and recipients, as JSON: switch, then feed or recipient, then value",
    )
    flag_provider: str = Field(
        "settings", description="who answers for switches: settings, or an OpenFeature provider as module:callable"
    )
    parity_clean_dates: int = Field(
        10, ge=1, description="clean business dates in a row before a feed that replaces an old app may go live"
    )
    repair_dates: int = Field(10, ge=1, description="how many of a feed's last due dates are watched and repaired")
    repair_attempts: int = Field(
        5, ge=1, description="attempts at a date in one service window, from its start to the next one's"
    )
    repair_pace: float = Field(
        1.0,
        gt=0,
        le=10,
        description="factor on repair's waiting times; below 1 in rehearsals, where nobody waits hours",
    )
    sensor_seconds: int = Field(60, ge=1, le=600, description="how often the repair and alert sensors look")
    source_probe_seconds: int = Field(
        300, ge=0, description="how often bigsite is asked whether rows of delivered dates changed"
    )
    slack_token: SecretStr | None = Field(None, description="Slack bot token for alerts; unset: alerts go to the log")
    slack_channel: str = Field("#classfeed", description="Slack channel for production's alerts")
    slack_channel_nonprod: str = Field("#classfeed-nonprod", description="Slack channel for all other alerts")
    slack_url: str = Field("https://slack.com/api/", description="Slack's API, or a stand-in for tests")
    pagerduty_key: SecretStr | None = Field(
        None, description="PagerDuty routing key, for what must wake someone in production; unset: the log"
    )
    pagerduty_url: str = Field(
        "https://events.pagerduty.com", description="PagerDuty's Events API, or a stand-in for tests"
    )
    ui_url: str | None = Field(None, description="address of the Dagster UI, for the links in alerts")
    runbook_url: str = Field("docs/runbook/alerts.md", description="address of the alerts' runbook, for links")
    support_group: str = Field("classfeed-support", description="who may use the support door: see docs/security.md")
    rerun_budget: int = Field(6, ge=0, description="re-runs of one feed that support may ask for in 24 hours")
    operate_url: str | None = Field(
        None, description="address of the writable webserver, through which re-runs start; unset: in this process"
    )
    door_signer: str | None = Field(
        None, description="beginning of the ARN of the load balancer whose signature the support door accepts"
    )
    held_back_alert: int = Field(10, ge=0, description="above this many portfolios held back on a date, an alert")
    consent_queue_url: str | None = Field(
        None, description="SQS queue of bigsite's consent events; unset: bigsite is only asked now and then"
    )
    consent_dead_letter_url: str | None = Field(None, description="SQS queue for consent events that can't be read")
    sqs_endpoint_url: str | None = Field(None, description="another SQS endpoint than AWS's own, for tests")
    keep_runs_days: int = Field(
        400, ge=90, description="Dagster's runs and their event logs are deleted after this many days"
    )
    snowflake_account: str | None = Field(
        None, description="Snowflake account; unset: a local stand-in under the home folder (extra `embedded`)"
    )
    snowflake_user: str | None = Field(None, description="Snowflake user that loads and reconciles")
    snowflake_private_key: SecretStr | None = Field(
        None, description="the user's private key, PEM text, from the secrets store; no password is ever used"
    )
    snowflake_role: str | None = Field(None, description="Snowflake role")
    snowflake_warehouse: str | None = Field(None, description="Snowflake virtual warehouse")
    snowflake_database: str = Field("CLASSFEED", description="Snowflake database")
    snowflake_schema: str = Field("FEED", description="Snowflake schema of the star schema and the breaks")
    data_team_table: str = Field(
        "CLASS_FEED_METRICS", description="the data team's table, qualified if it is in another schema"
    )
    simulation_seed: int = Field(1, description="seed of the simulated customers, outside production")
    simulation_portfolios: int = Field(
        300, ge=1, le=50_000, description="how many simulated portfolios share with Class; a tenth more never do"
    )
    simulation_market: Path | None = Field(
        None, description="Parquet of real prices that simulated customers deal at; unset: an invented market"
    )
    simulation_keep_days: int = Field(
        400, ge=90, description="simulated end-of-day rows and closed portfolios are deleted after this many days"
    )
    executor: str = Field(
        "in_process",
        pattern="^(in_process|multiprocess|celery|k8s)$",
        description="a run's steps: in one process, a process each, by Celery's workers, or a pod each",
    )
    celery_broker_url: SecretStr | None = Field(
        None, description="Celery's broker, such as rediss://…; needed where the executor is celery, and by workers"
    )
    celery_results_url: SecretStr | None = Field(
        None, description="where Celery's workers leave what became of a step; unset: the broker, if it is Redis"
    )
    celery_lost_seconds: int = Field(
        120, ge=4, description="a Celery worker not heard of for so long is lost: its step goes to another"
    )
    log_format: str = Field("text", pattern="^(text|json)$", description="text for people, json for machines")
    code_version: str = Field("0.1.0", description="what is deployed; goes into every manifest")

    @model_validator(mode="after")
    def _clock_is_for_rehearsals(self) -> Self:
        if self.now is not None and self.env not in (Environment.LOCAL, Environment.DEV):
            raise ValueError(f"CLASSFEED_NOW is for local and dev, never for {self.env}: unset it")
        return self

    @property
    def store_location(self) -> str:
        """The object store's URL or folder, with the default filled in."""
        return self.store_url or str(self.home / "store")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
