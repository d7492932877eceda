"""Switches from a parameter of AWS Systems Manager, changed without a release and with a history.

The parameter has the same JSON as ``CLASSFEED_FLAGS``. Parameter Store records the author of each version. A process
caches the value for some seconds. If the parameter is unreadable or invalid, the last known value applies and an alert
is raised. Without a known value every feed is off.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType
from openfeature.provider import AbstractProvider, Metadata

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feed_run.switch_values import SettingsProvider, SwitchValues
from classfeed_dagster.logs import get_logger
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, read_record, to_json

FROM_SSM = "ssm"
LAST_KNOWN = "switches/last-known.json"
_RETRY_SECONDS = 5.0

Check = Callable[[Mapping[str, Any]], SwitchValues]


class FlagsUnreadableError(ConfigurationError):
    """The parameter of the switches is unreadable or invalid."""


@dataclass(frozen=True, slots=True)
class FlagsVersion:
    """One version of the parameter.

    Attributes:
        text: the switches as JSON.
        version: Parameter Store's number of the version.
        changed_by: AWS identity that wrote it.
        changed_at: instant at which it was written.
        reason: description given with it.
    """

    text: str
    version: int
    changed_by: str = ""
    changed_at: dt.datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FlagsProblem:
    """Reason why the switches cannot be read, and since when. ``serving`` is false if no earlier value is known."""

    since: dt.datetime
    reason: str
    serving: bool


class LastKnownFlags(StoredRecord):
    """Switches as last read from the parameter, for processes that start while it cannot be read."""

    version: int
    text: str


class ParameterStore:
    """The parameter of the switches."""

    def __init__(self, name: str, endpoint_url: str | None = None) -> None:
        self.name, self._endpoint_url = name, endpoint_url

    @cached_property
    def _client(self) -> Any:
        # Made at the first call, since it asks for the credentials: a process starts without them.
        import boto3
        from botocore.config import Config

        # A sensor's tick must not wait long, since it can continue without the parameter.
        config = Config(connect_timeout=3, read_timeout=5, retries={"max_attempts": 2})
        make: Any = boto3.session.Session().client
        return make("ssm", endpoint_url=self._endpoint_url, config=config)

    def read(self) -> FlagsVersion:
        """Return the current version. FlagsUnreadableError if it cannot be read."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            parameter = self._client.get_parameter(Name=self.name)["Parameter"]
        except (BotoCoreError, ClientError) as error:
            raise FlagsUnreadableError(f"SSM parameter {self.name} cannot be read: {_reason(error)}") from None
        return FlagsVersion(parameter["Value"], parameter["Version"])

    def history(self) -> list[FlagsVersion]:
        """Return every kept version, oldest first."""
        pages = self._client.get_paginator("get_parameter_history").paginate(Name=self.name)
        return [
            FlagsVersion(
                item["Value"], item["Version"], item.get("LastModifiedUser", ""), item.get("LastModifiedDate"),
                item.get("Description", ""),
            )
            for page in pages
            for item in page["Parameters"]
        ]  # fmt: skip

    def write(self, text: str, reason: str, *, after: int) -> int:
        """Write a new version after version ``after``; return its number.

        Raises:
            FlagsUnreadableError: another version was written in between. Both are in the history.
        """
        answer = self._client.put_parameter(
            Name=self.name, Value=text, Type="String", Overwrite=True, Description=reason[:1024]
        )
        version = int(answer["Version"])
        if version != after + 1:
            raise FlagsUnreadableError(
                f"{self.name} was changed by another person between reading and writing (version {version}, expected "
                f"{after + 1}): read `classfeed flags` and repeat the change if needed"
            )
        return version


class SsmProvider(AbstractProvider):
    """OpenFeature provider over one SSM parameter: cached, and serving its last known value while it is unreadable."""

    def __init__(self, parameter: ParameterStore, check: Check, store: ObjectStore, *, seconds: float) -> None:
        super().__init__()
        self._parameter, self._check, self._store = parameter, check, store
        self._seconds = seconds
        self._values: SettingsProvider | None = None
        self._version = 0
        self._next_read = 0.0
        self.problem: FlagsProblem | None = None

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata(name=FROM_SSM)

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Read the switches for the first time. An unreadable parameter is no error here: see ``problem``."""
        self.refresh()

    def refresh(self) -> None:
        """Read the parameter again if the cached value is old enough."""
        if time.monotonic() < self._next_read:
            return
        try:
            version = self._parameter.read()
            self._take(version.text, version.version)
        except FlagsUnreadableError as error:
            self._keep_last_known(str(error))
            return
        self._next_read = time.monotonic() + self._seconds
        if self.problem is not None:
            self.problem = None
            self.emit_provider_ready(ProviderEventDetails())
            get_logger().info("switches can be read again", version=version.version)

    def _take(self, text: str, version: int) -> None:
        if self._values is not None and version == self._version:
            return
        self._values = SettingsProvider(self._parse(text))
        self._version = version
        try:
            self._store.put(LAST_KNOWN, to_json(LastKnownFlags(version=version, text=text)))
        except Exception as error:  # some components may not write it; the value in memory is sufficient
            get_logger().debug("last known switches not stored", error_type=type(error).__name__)

    def _parse(self, text: str) -> SwitchValues:
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
                raise ConfigurationError("it is not a JSON object of objects")
            return self._check(values)
        except (ValueError, ConfigurationError) as error:
            raise FlagsUnreadableError(f"SSM parameter {self._parameter.name} is not valid: {error}") from None

    def _keep_last_known(self, reason: str) -> None:
        self._next_read = time.monotonic() + min(self._seconds, _RETRY_SECONDS)
        if self._values is None:
            self._restore()
        since = self.problem.since if self.problem else dt.datetime.now(dt.UTC)
        first = self.problem is None
        self.problem = FlagsProblem(since, reason, serving=self._values is not None)
        if first:
            get_logger().warning("switches cannot be read", reason=reason, serving=self.problem.serving)
            if self._values is not None:
                self.emit_provider_stale(ProviderEventDetails(message=reason))

    def _restore(self) -> None:
        try:
            last_known = read_record(self._store, LastKnownFlags, LAST_KNOWN)
            self._values, self._version = SettingsProvider(self._parse(last_known.text)), last_known.version
        except Exception as error:  # without a last known value, feeds are off until the parameter is readable
            get_logger().debug("no last known switches", error_type=type(error).__name__)

    def _current(self) -> SettingsProvider:
        self.refresh()
        if self._values is None:
            raise FlagsUnreadableError(self.problem.reason if self.problem else "switches were not read yet")
        return self._values

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """See OpenFeature."""
        return self._current().resolve_boolean_details(flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """See OpenFeature."""
        return self._current().resolve_string_details(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """See OpenFeature."""
        return self._current().resolve_integer_details(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """See OpenFeature."""
        return self._current().resolve_float_details(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """See OpenFeature."""
        return self._current().resolve_object_details(flag_key, default_value, evaluation_context)


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response["Error"]["Code"]) if response else type(error).__name__
