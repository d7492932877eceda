"""Exceptions of this package: the base types, and the errors that several packages raise.

ClassfeedError                  kind           exit code
├── UsageError                  configuration  2   an argument names something that does not exist
├── ConfigurationError          configuration  2   a setting or a declaration is wrong
├── SafeguardError              configuration  1   a safeguard forbids the operation
├── DataError                   data           3   stored or source data is not what it must be
│   └── DamagedRecordError
├── NotReadyError               not ready      4   an input does not exist yet
├── UnavailableError            transient      4   a service cannot be reached
│   ├── SourceReadError                            (dependency: bigsite)
│   ├── StoreError                                 (dependency: object store)
│   └── WarehouseUnavailableError                  (dependency: Snowflake)
├── TemporaryError              transient      1   the operation failed and can be repeated
├── OvertakenError              overtaken      1   the inputs changed during the run
├── CodeFaultError              code           1   a contradiction that only wrong code can cause
└── DeliveryError               data           3   a document may not be delivered
    ├── TooManyHeldBackError
    ├── GateRefusedError
    │   └── UncheckedBuildError  overtaken
    ├── BuildError              code           1
    ├── NotInOrderError         overtaken      1
    ├── ChainBusyError          overtaken      1
    └── StaleBuildError         overtaken      1
        └── ConsentChangedError

An exception's class states its cause: ``kind`` and ``dependency`` decide about retries, ``exit_code`` ends the
command line. Every other exception of the package derives from one of these, in a module of ``DECLARED_IN``. Messages
hold portfolio numbers at most, never personal data.
"""

from __future__ import annotations

import datetime as dt
import enum
import importlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

from classfeed_dagster.wording import counted

# Modules that declare exceptions. An event log keeps only the name of a failed step's exception, and the process that
# reads the log may never have imported the module that declares it.
DECLARED_IN = (
    "acknowledgements.mapping",
    "alerting.incidents",
    "alerting.pagerduty",
    "alerting.slack",
    "bigsite.consent",
    "bigsite.create_schema",
    "bigsite.landing",
    "bigsite.portfolio_number",
    "bigsite.readiness",
    "bigsite.source_connection",
    "cli.arguments",
    "cli.preflight",
    "cli.support",
    "delivery.chain_integrity",
    "delivery.ledger_rebuild",
    "delivery.refreshes",
    "documents.csv_reader",
    "documents.epi_reader",
    "documents.epi_validator",
    "documents.epi_writer",
    "documents.format_rules",
    "documents.locate",
    "documents.xsd_regex",
    "domains.build",
    "errors",
    "extras",
    "feed_run.feed_date",
    "feed_run.ssm_flags",
    "feed_run.switch_values",
    "feed_run.switches",
    "feeds.feed",
    "feeds.outgoing_contract",
    "feeds.portfolios",
    "local.dagster_services",
    "local.embedded_postgres",
    "local.snowflake_server",
    "orchestration.celery_executor",
    "orchestration.dagster_storage",
    "orchestration.run_launcher",
    "orchestration.run_recovery",
    "parity.comparison",
    "parity.legacy_files",
    "parity.run",
    "read",
    "reconciliation.compare",
    "reconciliation.delivered",
    "reconciliation.document_layouts",
    "reconciliation.epi_document",
    "reconciliation.rules",
    "repair.consent_events",
    "runtime",
    "service_levels.observations",
    "service_levels.metrics",
    "settings",
    "simulation.file_market",
    "simulation.guard",
    "simulation.identifiers",
    "simulation.world",
    "source_contract.contract",
    "source_contract.schema",
    "source_contract.schema_check",
    "source_contract.schema_history",
    "store",
    "support.alb_identity",
    "support.customer",
    "support.identity_provider",
    "support.refreshes",
    "support.rerun_page",
    "support.reruns",
    "support.webserver_client",
    "telemetry",
    "tracing.source_rows",
    "tracing.transaction_id",
    "trading_days",
    "transmission.destination",
    "transmission.encryption",
    "transmission.send",
    "warehouse.connection",
    "warehouse.database",
    "warehouse.load",
    "warehouse.schema",
)
_PACKAGE = "classfeed_dagster."
_OPTIONAL = ("celery", "dagster_celery", "dagster_postgres")  # packages of an extra that a module of the list may need


class CauseKind(enum.StrEnum):
    """Kind of a failure's cause. Only the first four can pass without a change by people."""

    TRANSIENT = "transient"
    NOT_READY = "source not ready"
    STALE = "overtaken"  # inputs changed meanwhile, or a part of the job ran: run all of it
    UNKNOWN = "unknown"
    DATA = "data"
    CONFIGURATION = "configuration"
    BUG = "fault in the code"

    @property
    def retried(self) -> bool:
        """Return True if a later attempt may succeed without a change by people."""
        return self in (CauseKind.TRANSIENT, CauseKind.NOT_READY, CauseKind.STALE, CauseKind.UNKNOWN)


class Dependency(enum.StrEnum):
    """Service that a run relies on and that can be down for every run at once."""

    BIGSITE = "bigsite"
    STORE = "object store"
    SNOWFLAKE = "Snowflake"


class ExitCode(enum.IntEnum):
    """Exit codes of the command line."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    NOT_READY = 4

    @property
    def meaning(self) -> str:
        """Return the code's meaning, for ``--help`` and the docs."""
        return {
            ExitCode.OK: "delivered, or nothing to do",
            ExitCode.FAILED: "anything else",
            ExitCode.USAGE: "usage: an argument or a setting is wrong",
            ExitCode.STOPPED: "stopped by checks, or data is missing, damaged or disagrees",
            ExitCode.NOT_READY: "an input is not ready, or a service such as bigsite is unreachable: try again later",
        }[self]


class ClassfeedError(Exception):
    """Base of every exception of this package.

    Attributes:
        kind: kind of cause; decides whether the run is retried.
        dependency: the service that was down, if one was.
        exit_code: exit code of a command that ends with this exception.
    """

    kind: ClassVar[CauseKind] = CauseKind.UNKNOWN
    dependency: ClassVar[Dependency | None] = None
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init_subclass__(cls) -> None:
        """Register the class by its name. TypeError if another has it, or if its module is not in ``DECLARED_IN``."""
        super().__init_subclass__()
        if not cls.__module__.startswith(_PACKAGE):
            return
        if cls.__module__.removeprefix(_PACKAGE) not in DECLARED_IN:
            raise TypeError(f"{cls.__module__} declares {cls.__name__}: add the module to errors.DECLARED_IN")
        other = _CLASSES.setdefault(cls.__name__, cls)
        if other.__module__ != cls.__module__:
            raise TypeError(f"{cls.__module__} and {other.__module__} both declare {cls.__name__}: rename one")


_CLASSES: dict[str, type[ClassfeedError]] = {}


def exception_classes() -> Mapping[str, type[ClassfeedError]]:
    """Return the package's exception classes by name. Imports the modules that declare them.

    Modules without their optional dependencies are omitted: their exceptions cannot be raised in this environment.
    """
    for module in DECLARED_IN:
        try:
            importlib.import_module(_PACKAGE + module)
        except (ModuleNotFoundError, ConfigurationError) as error:
            # A module may state what to install; the missing package is then the cause.
            missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
            name = missing.name if isinstance(missing, ModuleNotFoundError) else None
            if (name or "").partition(".")[0] not in _OPTIONAL:
                raise
    return _CLASSES


def exception_class(name: str) -> type[ClassfeedError] | None:
    """Return the package's exception class ``name``, or None."""
    return _CLASSES.get(name) or exception_classes().get(name)


class UsageError(ClassfeedError, ValueError):
    """An argument names something that does not exist or cannot be."""

    kind = CauseKind.CONFIGURATION
    exit_code = ExitCode.USAGE


class ConfigurationError(ClassfeedError, ValueError):
    """A setting or a declaration is wrong."""

    kind = CauseKind.CONFIGURATION
    exit_code = ExitCode.USAGE


class SafeguardError(ClassfeedError):
    """A safeguard forbids the operation."""

    kind = CauseKind.CONFIGURATION


class DataError(ClassfeedError, ValueError):
    """Stored or source data is not what it must be."""

    kind = CauseKind.DATA
    exit_code = ExitCode.STOPPED


class NotReadyError(ClassfeedError):
    """An input does not exist yet. A later attempt finds it."""

    kind = CauseKind.NOT_READY
    exit_code = ExitCode.NOT_READY


class UnavailableError(ClassfeedError):
    """A service cannot be reached."""

    kind = CauseKind.TRANSIENT
    exit_code = ExitCode.NOT_READY


class SourceReadError(UnavailableError):
    """bigsite could not be read."""

    dependency = Dependency.BIGSITE


class StoreError(UnavailableError):
    """The object store failed."""

    dependency: ClassVar[Dependency | None] = Dependency.STORE


class WarehouseUnavailableError(UnavailableError):
    """The warehouse could not be started or reached."""

    dependency = Dependency.SNOWFLAKE


class TemporaryError(ClassfeedError):
    """The operation failed and can be repeated."""

    kind = CauseKind.TRANSIENT


class OvertakenError(ClassfeedError):
    """The inputs changed during the run: repeat it with the current ones."""

    kind = CauseKind.STALE


class CodeFaultError(ClassfeedError):
    """A contradiction that only wrong code can cause."""

    kind = CauseKind.BUG


class DamagedRecordError(DataError):
    """A stored record cannot be read, or a stored file is not what its record states."""

    def __init__(self, location: str, fault: str) -> None:
        super().__init__(
            f"{location}: {fault}. Something other than classfeed changed or damaged it: restore the object's earlier "
            "version; run `classfeed verify` to see what else is affected."
        )
        self.location = location
        self.fault = fault


class DeliveryError(ClassfeedError):
    """A document may not be delivered."""

    kind = CauseKind.DATA
    exit_code = ExitCode.STOPPED


class TooManyHeldBackError(DeliveryError):
    """More portfolios break a rule than the limit allows: the fault is likely in bigsite or in the code."""

    def __init__(self, day: dt.date, breaking: int, total: int, limit: object, rules: Sequence[str]) -> None:
        super().__init__(
            f"{breaking} of {total} portfolios break a rule on {day.isoformat()}, above the limit of {limit}: nothing "
            f"is delivered. Rules broken, most often first: {', '.join(rules)}. "
            "See the checks' offenders and have the source corrected. The date is then retried automatically."
        )
        self.breaking = breaking
        self.total = total


class BuildError(DeliveryError):
    """The rendered portfolios are not those of the plan: a fault in the code, not in the data."""

    kind = CauseKind.BUG
    exit_code = ExitCode.FAILED


class GateRefusedError(DeliveryError):
    """A required check has failed, or was not evaluated for exactly these bytes."""

    def __init__(self, build_id: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"build {build_id} may not be delivered: {'; '.join(reasons)}. Correct what failed and run the checks of "
            "this build again."
        )
        self.reasons = tuple(reasons)


class UncheckedBuildError(GateRefusedError):
    """No required check has failed, but some were not evaluated: a person ran a part of the job."""

    kind = CauseKind.STALE


class NotInOrderError(DeliveryError):
    """The previous business date has not been delivered yet."""

    kind = CauseKind.STALE
    exit_code = ExitCode.FAILED

    def __init__(self, feed: str, day: dt.date, previous: dt.date) -> None:
        super().__init__(
            f"{feed} of {day.isoformat()} waits for {previous.isoformat()}, which has not been delivered: deliver that "
            "date first."
        )
        self.previous = previous


class StaleBuildError(DeliveryError):
    """Deliveries changed after the build was made: build again from the same snapshot."""

    kind = CauseKind.STALE
    exit_code = ExitCode.FAILED


class ConsentChangedError(StaleBuildError):
    """A consent ended between build and delivery: build again, without those portfolios."""

    def __init__(self, numbers: Sequence[str]) -> None:
        examples = ", ".join(sorted(numbers)[:20])
        super().__init__(
            f"consent ended for {counted(len(numbers), 'portfolio')} of this build ({examples}): nothing of it is "
            "delivered. "
            "Build again; they will be excluded."
        )
        self.numbers = tuple(sorted(numbers))


class ChainBusyError(DeliveryError):
    """Other deliveries of the feed repeatedly took the next place in the chain."""

    kind = CauseKind.STALE
    exit_code = ExitCode.FAILED
