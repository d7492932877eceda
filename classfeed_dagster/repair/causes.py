"""Why a run failed, from the errors in its event log: one table, and what each kind of cause calls for.

The table is data. An error that isn't in it is UNKNOWN: retried, but few times, and counted as a gap in the table.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class CauseKind(enum.StrEnum):
    """What kind of cause it is; only the first four can pass by themselves."""

    TRANSIENT = "transient"
    NOT_READY = "source not ready"
    STALE = "overtaken"  # consent or an earlier date changed meanwhile: build again at once
    UNKNOWN = "unknown"
    DATA = "data"
    CONFIGURATION = "configuration"
    BUG = "fault in the code"

    @property
    def retried(self) -> bool:
        """True if a later attempt may succeed with nothing changed by people."""
        return self in (CauseKind.TRANSIENT, CauseKind.NOT_READY, CauseKind.STALE, CauseKind.UNKNOWN)


class Dependency(enum.StrEnum):
    """What a run relies on and can be down for everybody at once."""

    BIGSITE = "bigsite"
    STORE = "object store"
    SNOWFLAKE = "Snowflake"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run failed. ``error`` is the exception's class name; ``dependency`` is set if something was down."""

    kind: CauseKind
    error: str
    dependency: Dependency | None = None


# What each error is, by the name of its exception's class: the log keeps no more of it. Our own first; every exception
# of this package is here on purpose (a test walks them). Then the drivers', most of which stand inside one of ours.
_GROUPS: tuple[tuple[CauseKind, Dependency | None, str], ...] = (
    (CauseKind.NOT_READY, None, "SourceNotReadyError LegacyMissingError"),
    (
        CauseKind.STALE,
        None,
        "StaleBuildError ConsentChangedError ChainBusyError NotInOrderError MixedSnapshotsError AudienceNotReadError",
    ),
    (CauseKind.TRANSIENT, Dependency.BIGSITE, "SourceReadError ConsentReadError EmbeddedPostgresError"),
    (CauseKind.TRANSIENT, Dependency.STORE, "StoreError StoreUnavailableError"),
    (CauseKind.TRANSIENT, Dependency.SNOWFLAKE, "LocalWarehouseError"),
    (
        CauseKind.TRANSIENT,
        None,
        "ServiceError OperateError PagerDutyError TellingError LoadDiffersError StepAbandonedError",
    ),
    (
        CauseKind.DATA,
        None,
        "DeliveryError TooManyHeldBackError GateRefusedError ConsentJumpError DagsterAssetCheckFailedError "
        "SchemaDriftError SchemaUnreadableError NoSchemaKeptError DamagedFileError DamagedRecordError "
        "ObjectNotFoundError NothingToLoadError NothingDeliveredError NothingToCompareError UnreadableDeliveryError "
        "UnreadableDocumentError UnreadableFileError LegacyFileError MarketFileError NotAPageError RefusedError "
        "NotATransactionError NotAHoldingError",
    ),
    (
        CauseKind.CONFIGURATION,
        None,
        "InvalidKeyError UnsupportedSourceError NotBuiltError ClockRefusedError ContractError SchemaError "
        "NotLocalError WarehouseNotConfiguredError FeedDeclarationError FlagSettingsError SwitchValueError "
        "SelectionError RuleError NoOldAppError UnknownFeedError QueueMissingError NoDoorError BadRequestError "
        "NotIdentifiedError NotAdoptedError UnknownSchemaError RerunRefusedError SimulationRefusedError "
        "WorldError NumberOutOfRangeError NotABusinessDayError ExecutorError "
        "ValidationError",  # pydantic's: the settings
    ),
    (
        CauseKind.BUG,
        None,
        "BuildError FeedIdleError FrameShapeError AccountingError UnknownMetricError AssertionError AttributeError "
        # Names that Python and its libraries raise where code is wrong, to be recognized: nothing here is unfinished.
        "NameError UnboundLocalError TypeError NotImplementedError RecursionError PanicException ParamValidationError",
    ),
    # psycopg: class names follow SQLSTATE.
    (
        CauseKind.TRANSIENT,
        Dependency.BIGSITE,
        "OperationalError InterfaceError AdminShutdown CrashShutdown CannotConnectNow ConnectionTimeout "
        "TooManyConnections ConnectionException ConnectionDoesNotExist ConnectionFailure IdleSessionTimeout "
        "SqlclientUnableToEstablishSqlconnection SqlserverRejectedEstablishmentOfSqlconnection DiskFull OutOfMemory "
        "IoError",
    ),
    (
        CauseKind.TRANSIENT,
        None,
        "DeadlockDetected SerializationFailure QueryCanceled LockNotAvailable IdleInTransactionSessionTimeout "
        "TransactionTimeout",
    ),
    (CauseKind.DATA, None, "UndefinedColumn UndefinedTable UndefinedFunction InvalidSchemaName DatatypeMismatch"),
    (
        CauseKind.CONFIGURATION,
        None,
        "InvalidPassword InvalidAuthorizationSpecification InvalidCatalogName InsufficientPrivilege",
    ),
    # botocore, urllib3
    (
        CauseKind.TRANSIENT,
        Dependency.STORE,
        "EndpointConnectionError ConnectTimeoutError ReadTimeoutError ConnectionClosedError IncompleteReadError "
        "IncompleteRead ResponseStreamingError HTTPClientError ProxyConnectionError FlexibleChecksumError "
        "ChecksumError ProtocolError",
    ),
    (CauseKind.TRANSIENT, None, "CredentialRetrievalError MetadataRetrievalError"),  # the machine's own credentials
    (
        CauseKind.CONFIGURATION,
        None,
        "NoCredentialsError PartialCredentialsError NoRegionError ProfileNotFound UnauthorizedSSOTokenError "
        "TokenRetrievalError",
    ),
    # Snowflake
    (
        CauseKind.TRANSIENT,
        Dependency.SNOWFLAKE,
        "ServiceUnavailableError GatewayTimeoutError RequestTimeoutError BadGatewayError InternalServerError "
        "TooManyRequests OtherHTTPRetryableError RequestExceedMaxRetryError HttpError RevocationCheckError",
    ),
    (CauseKind.CONFIGURATION, None, "ForbiddenError RefreshTokenError"),
    # the machine, Dagster
    (
        CauseKind.TRANSIENT,
        None,
        "MemoryError ArrowMemoryError ConnectionError ConnectionResetError ConnectionRefusedError "
        "ConnectionAbortedError BrokenPipeError TimeoutError DagsterExecutionInterruptedError "
        "ChildProcessCrashException",
    ),
    (CauseKind.CONFIGURATION, None, "PermissionError ModuleNotFoundError ImportError DagsterInvalidConfigError"),
)
TABLE: Mapping[str, tuple[CauseKind, Dependency | None]] = {
    name: (kind, dependency) for kind, dependency, names in _GROUPS for name in names.split()
}

# The schema stands in the way, of which bigsite's catalogue can be asked: once it agrees, the date runs again.
SCHEMA_ERRORS = frozenset(
    {"SchemaDriftError", "SchemaUnreadableError", "UndefinedColumn", "UndefinedTable", "DatatypeMismatch"}
)

# Errors that many services raise under one class name say which they are in a code or a phrase of ours and theirs.
_PHRASES: tuple[tuple[re.Pattern[str], CauseKind, Dependency | None], ...] = (
    (
        re.compile(r"\((SlowDown|Throttling\w*|RequestLimitExceeded|503|500|InternalError|ServiceUnavailable)\)"),
        CauseKind.TRANSIENT,
        Dependency.STORE,
    ),
    (re.compile(r"\((RequestTimeout|RequestTimeTooSkewed)\)"), CauseKind.TRANSIENT, Dependency.STORE),
    (
        re.compile(r"\((AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|NoSuchBucket)\)"),
        CauseKind.CONFIGURATION,
        None,
    ),
    (re.compile(r"password authentication failed|does not exist|permission denied for"), CauseKind.CONFIGURATION, None),
    (
        re.compile(r"Incorrect username or password|JWT token is invalid|390\d{3} \(08001\)"),
        CauseKind.CONFIGURATION,
        None,
    ),
    (re.compile(r"\b(002003|001003|000606|090073)\b"), CauseKind.CONFIGURATION, None),  # no such object, no warehouse
    (re.compile(r"\b(000604|000630)\b"), CauseKind.TRANSIENT, None),  # a statement canceled, or its time over
    (re.compile(r"25000[0-9]|29\d{4}|snowflakecomputing"), CauseKind.TRANSIENT, Dependency.SNOWFLAKE),
    (re.compile(r"No space left on device"), CauseKind.TRANSIENT, None),
)
# A bare class name from the log that says nothing by itself: the phrase within decides.
_VAGUE = frozenset({"ClientError", "OSError", "OperationalError", "ProgrammingError", "DatabaseError"})
# What was down is said by the error around these: a refused connection is bigsite's within bigsite's error.
_PLUMBING = frozenset(
    {"ConnectionError", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError", "TimeoutError"}
)


def classify(chain: Iterable[tuple[str, str]]) -> Cause:
    """The cause of a failed step: ``chain`` is (class name, message) from the outermost error to the innermost.

    The innermost error that the table knows decides, since it is the most exact: bigsite could not be read
    (transient) because a column is gone (data). No error at all, as when a worker was killed, is transient.
    """
    errors = list(chain)
    if not errors:
        return Cause(CauseKind.TRANSIENT, "worker died")
    dependency: Dependency | None = None
    found: Cause | None = None
    for name, message in errors:
        entry = TABLE.get(name)
        if name in _VAGUE:
            for pattern, kind, of in _PHRASES:
                if pattern.search(message):
                    entry = (kind, of)
                    break
        if entry is not None:
            # A deadlock within an error of bigsite's does not mean that bigsite is down.
            dependency = dependency if name in _PLUMBING else entry[1]
            found = Cause(entry[0], name, dependency if entry[0] is CauseKind.TRANSIENT else None)
    return found or Cause(CauseKind.UNKNOWN, errors[-1][0])
