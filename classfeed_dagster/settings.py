"""Settings, typed: name, default and meaning. Nothing else reads environment variables.

With none set, everything runs on embedded parts under ``.classfeed/``. Outside ``local`` a process refuses to start
without the settings that its component requires, and names all that are missing at once.
"""

from __future__ import annotations

import datetime as dt
import difflib
import enum
import json
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote, urlsplit

from pydantic import AwareDatetime, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from classfeed_dagster.errors import ConfigurationError


class Environment(enum.StrEnum):
    """Environment of a process. Simulation is refused in ``prod``, a fixed clock outside ``local`` and ``dev``."""

    LOCAL = "local"
    DEV = "dev"
    STG = "stg"
    PROD = "prod"


class FreeText(enum.StrEnum):
    """Treatment of a tax file number, card number or e-mail address in a name or narrative."""

    MASK = "mask"
    HOLD_BACK = "hold-back"


class SettingsError(ConfigurationError):
    """Settings are missing or invalid. The message names all of them and repeats no value."""


class Component(enum.StrEnum):
    """Part of a deployment that reads these settings; the names are those of the task definitions."""

    CODE = "code"
    WORKER = "worker"
    STEPS = "steps"
    DOOR = "door"
    WATCHDOG = "watchdog"
    MIGRATE = "migrate"


FIRST_DATE_FILE = "first-business-date"  # in the home of a local installation: a date, YYYY-MM-DD

# Settings that a process outside local cannot work without. A person's command line is no component: what it needs
# beyond these depends on the command.
_ALWAYS = ("store_url", "first_business_date")
_LINKS = ("ui_url", "runbook_url")
_WAREHOUSE = (
    "snowflake_account", "snowflake_user", "snowflake_private_key", "snowflake_role", "snowflake_warehouse",
    "snowflake_database", "data_team_table",
)  # fmt: skip
REQUIRED: Mapping[Component | None, tuple[str, ...]] = {
    None: _ALWAYS,
    Component.CODE: (*_ALWAYS, *_LINKS, "bigsite_url", "slack_token", "consent_queue_url", "consent_dead_letter_url"),
    Component.WORKER: (*_ALWAYS, *_LINKS, "bigsite_url", *_WAREHOUSE),
    Component.STEPS: (*_ALWAYS, *_LINKS, "bigsite_url", *_WAREHOUSE, "celery_broker_url"),
    Component.DOOR: (*_ALWAYS, "bigsite_url", "operate_url", "door_signer", "identity_url", "support_group"),
    Component.WATCHDOG: (*_ALWAYS, *_LINKS, "slack_token"),
    Component.MIGRATE: (),
}
# Components that notify: production's pages go to PagerDuty.
_PAGING = (Component.CODE, Component.WATCHDOG)
_LINKED = tuple(component for component, required in REQUIRED.items() if "runbook_url" in required)
_MAY_BE_EMPTY = ("expiry_notice_days",)
_LIKE_PREFIX = 0.8  # CLASFEED and CLASSFEDE, but not CLASS or FEED
_LIKENESS = 0.93  # one letter is missing or surplus; in a long name also more


class Settings(BaseSettings):
    """Settings of classfeed; the environment variable is the name in capitals after ``CLASSFEED_``."""

    model_config = SettingsConfigDict(env_prefix="CLASSFEED_", extra="ignore", frozen=True, hide_input_in_errors=True)

    env: Environment = Field(Environment.LOCAL, description="environment: local, dev, stg or prod")
    component: Component | None = Field(None, description="part of a deployment that this process is")
    home: Path = Field(Path(".classfeed"), description="folder of embedded services and local data")
    bigsite_url: SecretStr | None = Field(None, description="SQLAlchemy URL of bigsite. Unset: embedded PostgreSQL")
    store_url: str | None = Field(None, description="object store: a folder or s3://bucket/prefix. Unset: <home>/store")
    s3_endpoint_url: str | None = Field(None, description="S3 endpoint other than AWS's own, for tests")
    first_business_date: dt.date = Field(
        dt.date(2023, 1, 3),
        description="first business date of feeds that declare none: all portfolios NEW. No default outside local",
    )
    now: AwareDatetime | None = Field(
        None, description="fixed clock for replays and tests; refused outside local and dev"
    )
    max_held_back_share: Decimal = Field(
        Decimal("0.01"), ge=0, le=1, description="share of portfolios breaking a rule above which the feed stops"
    )
    max_removed_share: Decimal = Field(
        Decimal("0.05"),
        ge=0,
        le=1,
        description="share of portfolios removed since the previous date above which a person must approve",
    )
    late_row_days: int = Field(
        35,
        ge=0,
        le=366,
        description="days before the window that a snapshot searches for rows that no earlier one saw; 0: none",
    )
    free_text: FreeText = Field(
        FreeText.MASK,
        description="effect of an identifier of a person in a name or narrative: mask, or hold-back (the portfolio)",
    )
    max_page_bytes: int = Field(
        32 * 1024 * 1024, ge=64 * 1024, description="bytes of a document page before compression"
    )
    compress: bool = Field(True, description="gzip the delivered documents")
    slice_portfolios: int = Field(
        300,
        ge=1,
        description="portfolios per slice (four times as many for DELTA). Bounds memory; does not change the output",
    )
    shard_portfolios: int = Field(
        12_000,
        ge=1,
        description="portfolios per shard of a large date (four times as many for DELTA). Does not change the output",
    )
    bigsite_sessions: int = Field(
        4, ge=1, le=8, description="parallel sessions reading a large date from bigsite; an ordinary date uses one"
    )
    flags: Annotated[dict[str, dict[str, bool | str]], NoDecode] = Field(
        default_factory=dict,
        description="switches as JSON: switch, then feed or recipient, then value",
    )
    flag_provider: str = Field(
        "settings",
        description="source of the switches: settings, ssm, or an OpenFeature provider as module:callable",
    )
    flags_parameter: str | None = Field(None, description="SSM parameter with the switches, for the flag provider ssm")
    flags_seconds: int = Field(60, ge=1, description="seconds for which switches from SSM are cached")
    ssm_endpoint_url: str | None = Field(None, description="SSM endpoint other than AWS's own, for tests")
    parity_clean_dates: int = Field(
        10, ge=1, description="clean dates of parity in a row before a feed that replaces an old app may go live"
    )
    repair_dates: int = Field(
        10, ge=1, description="last due dates of a feed that are watched and repaired on every tick"
    )
    repair_attempts: int = Field(5, ge=1, description="attempts at a date between two mornings' starts")
    repair_pace: float = Field(
        1.0,
        gt=0,
        le=10,
        description="factor on repair's waiting times; below 1 in rehearsals",
    )
    sensor_seconds: int = Field(
        60, ge=1, le=600, description="seconds between evaluations of the repair and alert sensors"
    )
    source_probe_seconds: int = Field(
        300, ge=0, description="seconds between probes of bigsite for changed rows of delivered dates"
    )
    audit_portfolios: int = Field(
        200, ge=0, description="portfolios that the nightly audit adds up from all records; 0: none"
    )
    transmission_credentials: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default_factory=dict, description="credentials of destinations as JSON, by the name in the declaration"
    )
    slack_token: SecretStr | None = Field(None, description="Slack bot token for alerts. Unset: alerts go to the log")
    slack_channel: str = Field("#classfeed", description="Slack channel of production's alerts")
    slack_channel_nonprod: str = Field("#classfeed-nonprod", description="Slack channel of all other alerts")
    slack_url: str = Field("https://slack.com/api/", description="base URL of Slack's API")
    pagerduty_key: SecretStr | None = Field(
        None, description="PagerDuty routing key for alerts that page in production. Unset: the log"
    )
    pagerduty_url: str = Field("https://events.pagerduty.com", description="base URL of PagerDuty's Events API")
    ui_url: str | None = Field(None, description="base URL of the Dagster UI, for links in alerts")
    runbook_url: str = Field(
        "docs/runbook.md", description="URL of the runbook, for links in alerts; absolute outside local"
    )
    support_group: str = Field("classfeed-support", description="group that may use the support door")
    rerun_budget: int = Field(6, ge=0, description="re-runs of one feed that support may request in 24 hours")
    expiry_notice_days: str = Field(
        "30,7",
        pattern=r"^([1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*)?$",
        description="days before a consent's end at which the broker is notified; empty: never",
    )
    lookup_budget: int = Field(200, ge=0, description="customers that one support user may look up in a day")
    rerun_feeds: str = Field("class_super,class_cash", description="feeds that support may re-run")
    operate_url: str | None = Field(
        None, description="base URL of the writable webserver that starts re-runs. Unset: in this process"
    )
    door_signer: str | None = Field(
        None, description="beginning of the ARN of the load balancer that signs for the support door"
    )
    identity_url: str | None = Field(None, description="issuer of the load balancer's identity provider, for preflight")
    held_back_alert: int = Field(10, ge=0, description="portfolios held back on a date above which an alert is raised")
    consent_queue_url: str | None = Field(
        None, description="SQS queue of bigsite's consent events. Unset: bigsite is polled only"
    )
    consent_dead_letter_url: str | None = Field(None, description="SQS queue of unreadable consent events")
    sqs_endpoint_url: str | None = Field(None, description="SQS endpoint other than AWS's own, for tests")
    keep_runs_days: int = Field(
        400, ge=90, le=36500, description="days before Dagster's runs and their event logs are deleted"
    )
    openlineage_url: str | None = Field(
        None, description="collector of OpenLineage run events (extra `openlineage`). Unset: none are sent"
    )
    otlp_endpoint: str | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OTLP/HTTP collector of traces, metrics, logs (extra `opentelemetry`). Unset: CloudWatch only",
    )
    snowflake_account: str | None = Field(
        None, description="Snowflake account. Unset: a local stand-in (extra `embedded`)"
    )
    snowflake_user: str | None = Field(None, description="Snowflake user that loads and reconciles")
    snowflake_private_key: SecretStr | None = Field(
        None, description="PEM text of the user's private key; there is no password"
    )
    snowflake_role: str | None = Field(None, description="Snowflake role")
    snowflake_warehouse: str | None = Field(None, description="Snowflake virtual warehouse")
    snowflake_database: str = Field("CLASSFEED", description="Snowflake database")
    snowflake_schema: str = Field("FEED", description="Snowflake schema of the star schema and the breaks")
    data_team_table: str = Field("CLASS_FEED_METRICS", description="data team's table, qualified if in another schema")
    simulation_seed: int = Field(1, description="seed of the simulated customers, outside production")
    simulation_portfolios: int = Field(300, ge=1, le=50_000, description="simulated portfolios that consent to Class")
    simulation_market: Path | None = Field(None, description="Parquet file of real prices. Unset: an invented market")
    simulation_keep_days: int = Field(
        400, ge=90, le=36500, description="days before simulated end-of-day rows and closed portfolios are deleted"
    )
    executor: str = Field(
        "in_process",
        pattern="^(in_process|multiprocess|celery|k8s)$",
        description="executor of a run's steps: in_process, multiprocess, celery (workers) or k8s (a pod a step)",
    )
    celery_broker_url: SecretStr | None = Field(
        None, description="Celery broker URL such as rediss://…, for the executor celery"
    )
    celery_broker_password: SecretStr | None = Field(
        None, description="password of the Celery broker, if its URL has none"
    )
    celery_results_url: SecretStr | None = Field(
        None, description="Celery result backend URL. Unset: the broker, if it is Redis"
    )
    celery_lost_seconds: int = Field(
        120, ge=4, description="seconds without a heartbeat before a worker's step is reassigned"
    )
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="log format: text for people, json for machines"
    )
    code_version: str = Field("0.1.0", description="version of the deployed code; recorded in every manifest")

    @model_validator(mode="before")
    @classmethod
    def _no_empty_value(cls, values: dict[str, Any]) -> dict[str, Any]:
        # An emptied variable would pass as set, and production's store would be a folder of the container.
        empty = {
            name
            for name, value in values.items()
            if isinstance(value, str) and not value.strip() and name not in _MAY_BE_EMPTY
        }
        own = sorted(name for name in map(variable, empty) if name.startswith("CLASSFEED_"))
        if own:
            raise ValueError(f"settings without a value: {', '.join(own)}. Set them, or unset the variables")
        # What is left is OpenTelemetry's, whose specification takes an empty variable for an unset one.
        return {name: value for name, value in values.items() if name not in empty}

    @model_validator(mode="before")
    @classmethod
    def _first_date_of_the_home(cls, values: dict[str, Any]) -> dict[str, Any]:
        # The demo begins on a recent date, and its home keeps it.
        if "first_business_date" not in values and values.get("env", Environment.LOCAL) == Environment.LOCAL:
            record = Path(values.get("home", cls.model_fields["home"].default)) / FIRST_DATE_FILE
            if record.is_file():
                return {**values, "first_business_date": record.read_text().strip()}
        return values

    @field_validator("flags", "transmission_credentials", mode="before")
    @classmethod
    def _parsed(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('must be a JSON object, such as {"name": …}') from None

    @field_validator(
        "s3_endpoint_url", "ssm_endpoint_url", "sqs_endpoint_url", "slack_url", "pagerduty_url", "ui_url",
        "operate_url", "identity_url", "consent_queue_url", "consent_dead_letter_url", "openlineage_url",
        "otlp_endpoint",
    )  # fmt: skip
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not (urlsplit(value).scheme in ("http", "https") and urlsplit(value).hostname):
            raise ValueError("must be a URL with a host, such as https://host/path")
        return value

    @field_validator("runbook_url")
    @classmethod
    def _one_runbook(cls, value: str) -> str:
        # The alerts had a page of their own once; an environment may still name it.
        return value.replace("docs/runbook/alerts.md", "docs/runbook.md")

    @model_validator(mode="after")
    def _clock_is_for_rehearsals(self) -> Self:
        if self.now is not None and self.env not in (Environment.LOCAL, Environment.DEV):
            raise ValueError(f"CLASSFEED_NOW is for local and dev, never for {self.env}: unset it")
        return self

    @model_validator(mode="after")
    def _complete_outside_local(self) -> Self:
        if self.env is Environment.LOCAL:
            return self
        missing = self._missing()
        if missing:
            part = f" of the component {self.component}" if self.component else ""
            names = ", ".join(map(variable, missing))
            raise ValueError(f"settings{part} missing in {self.env}: {names}. Set them, or unset CLASSFEED_ENV")
        if self.component in _LINKED and urlsplit(self.runbook_url).scheme not in ("http", "https"):
            raise ValueError(
                f"CLASSFEED_RUNBOOK_URL is not a URL: {self.runbook_url}. Alerts of {self.env} need an absolute one"
            )
        return self

    def _missing(self) -> list[str]:
        required = REQUIRED[self.component]
        if self.env is Environment.PROD and self.component in _PAGING:
            required = (*required, "pagerduty_key")
        if self.executor == "celery" and self.component is Component.WORKER:
            required = (*required, "celery_broker_url")
        if self.flag_provider == "ssm":
            required = (*required, "flags_parameter")
        return [name for name in required if name not in self.model_fields_set or getattr(self, name) is None]

    @property
    def expiry_notice_leads(self) -> tuple[int, ...]:
        """Return the lead times of expiry notices in days, ascending."""
        return tuple(sorted({int(lead) for lead in self.expiry_notice_days.split(",") if lead}))

    @property
    def celery_broker(self) -> str | None:
        """URL of the Celery broker with its password, or None if no broker is set."""
        if self.celery_broker_url is None:
            return None
        url = self.celery_broker_url.get_secret_value()
        if self.celery_broker_password is None:
            return url
        scheme, _, rest = url.partition("://")
        return f"{scheme}://:{quote(self.celery_broker_password.get_secret_value(), safe='')}@{rest}"

    @property
    def store_location(self) -> str:
        """URL or folder of the object store, with the default filled in."""
        return self.store_url or str(self.home / "store")


def variable(name: str) -> str:
    """Return the environment variable of a setting, named as the field or as the variable."""
    if name not in Settings.model_fields:
        return name.upper()
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"CLASSFEED_{name.upper()}"


def _misspelt() -> Iterator[str]:
    known = [variable(name) for name in Settings.model_fields]
    own = [name for name in known if name.startswith("CLASSFEED_")]
    for name in sorted(os.environ):
        prefix = name.upper().partition("_")[0]
        if name.upper() in known or not difflib.get_close_matches(prefix, ["CLASSFEED"], 1, _LIKE_PREFIX):
            continue
        near = [meant for meant in own if _one_letter_apart(name.upper(), meant)]
        near = near or difflib.get_close_matches(name.upper(), own, 1, _LIKENESS)
        if near:
            yield f"{name} is not a setting: did you mean {near[0]}? Correct or unset it"


def _one_letter_apart(name: str, other: str) -> bool:
    """Return whether one letter is exchanged, or two neighbours are swapped: in a short name too little for a ratio."""
    if len(name) != len(other):
        return False
    wrong = [at for at, (left, right) in enumerate(zip(name, other, strict=True)) if left != right]
    swapped = len(wrong) == 2 and [name[at] for at in wrong] == [other[at] for at in reversed(wrong)]
    return len(wrong) == 1 or (swapped and wrong[1] - wrong[0] == 1)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once. SettingsError if they are incomplete, invalid or misspelt."""
    if misspelt := "; ".join(_misspelt()):
        raise SettingsError(misspelt)
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(fault) for fault in error.errors())) from None


def _sentence(error: ErrorDetails) -> str:
    name = variable(str(error["loc"][0])) if error["loc"] else ""
    text = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{name}: {text}" if name else text
