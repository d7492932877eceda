"""Cause of a failed run, from the errors in its event log.

Exceptions of this package state their cause themselves; drivers' exceptions are listed in a table. Any other is
UNKNOWN: it is retried a few times and counted as a gap in the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from classfeed_dagster.errors import CauseKind, Dependency, ExitCode, exception_class

__all__ = ["SCHEMA_ERRORS", "Cause", "CauseKind", "Dependency", "classify", "exit_code"]


@dataclass(frozen=True, slots=True)
class Cause:
    """Cause of a failed run. ``error`` is the exception's class name; ``dependency`` the service that was down."""

    kind: CauseKind
    error: str
    dependency: Dependency | None = None


# Exceptions of drivers, Python and Dagster by class name: the event log stores only the name. This package's own
# exceptions state their cause themselves (``errors``).
_GROUPS: tuple[tuple[CauseKind, Dependency | None, str], ...] = (
    (CauseKind.DATA, None, "DagsterAssetCheckFailedError"),
    (CauseKind.CONFIGURATION, None, "ValidationError"),  # pydantic's: the settings
    (
        CauseKind.BUG,
        None,
        # Raised by Python and its libraries where code is wrong. They are names to recognize in an event log: no code
        # of the project raises NotImplementedError.
        "AssertionError AttributeError NameError UnboundLocalError TypeError NotImplementedError RecursionError "
        "PanicException ParamValidationError",
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
DRIVER_ERRORS: Mapping[str, tuple[CauseKind, Dependency | None]] = {
    name: (kind, dependency) for kind, dependency, names in _GROUPS for name in names.split()
}

# Schema errors: the date runs again once bigsite's catalogue agrees with the contract.
SCHEMA_ERRORS = frozenset(
    {"SchemaDriftError", "SchemaUnreadableError", "UndefinedColumn", "UndefinedTable", "DatatypeMismatch"}
)

# Many services share these class names: a code or phrase in the message identifies the error.
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
    (re.compile(r"\b(002003|001003|000606|090073)\b"), CauseKind.CONFIGURATION, None),  # unknown object, no warehouse
    (
        re.compile(r"\b(000604|000625|000630)\b"),
        CauseKind.TRANSIENT,
        None,
    ),  # statement canceled, kept waiting, timed out
    (re.compile(r"25000[0-9]|29\d{4}|snowflakecomputing"), CauseKind.TRANSIENT, Dependency.SNOWFLAKE),
    (re.compile(r"No space left on device"), CauseKind.TRANSIENT, None),
)
# Ambiguous class names: the phrase in the message decides.
_VAGUE = frozenset({"ClientError", "OSError", "OperationalError", "ProgrammingError", "DatabaseError"})
# Connection errors whose dependency comes from the error around them, such as bigsite's.
_PLUMBING = frozenset(
    {"ConnectionError", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError", "TimeoutError"}
)


# Dagster's wrapper around every step's error: without information, and its lookup would import every module.
_WRAPPERS = frozenset({"DagsterExecutionStepExecutionError"})


def _entry(name: str) -> tuple[CauseKind, Dependency | None] | None:
    if name in DRIVER_ERRORS or name in _WRAPPERS:
        return DRIVER_ERRORS.get(name)
    declared = exception_class(name)
    return None if declared is None else (declared.kind, declared.dependency)


def classify(chain: Iterable[tuple[str, str]]) -> Cause:
    """Return the cause of a failed step. ``chain``: (class name, message) from the outermost to the innermost error.

    The innermost known error decides, since it is the most exact: bigsite could not be read (transient) because a
    column is missing (data). No error at all, as after a killed worker, is transient.
    """
    errors = list(chain)
    if not errors:
        return Cause(CauseKind.TRANSIENT, "worker died")
    dependency: Dependency | None = None
    cause: Cause | None = None
    for name, message in errors:
        entry = _entry(name)
        if name in _VAGUE:
            for pattern, kind, of in _PHRASES:
                if pattern.search(message):
                    entry = (kind, of)
                    break
        if entry is not None:
            # A deadlock inside an error of bigsite does not mean that bigsite is down.
            dependency = dependency if name in _PLUMBING else entry[1]
            cause = Cause(entry[0], name, dependency if entry[0] is CauseKind.TRANSIENT else None)
    return cause or Cause(CauseKind.UNKNOWN, errors[-1][0])


# Exit code of a failure whose innermost known error is a driver's.
_EXIT_CODES: Mapping[CauseKind, ExitCode] = {
    CauseKind.NOT_READY: ExitCode.NOT_READY,
    CauseKind.DATA: ExitCode.STOPPED,
    CauseKind.CONFIGURATION: ExitCode.USAGE,
}


def exit_code(cause: Cause) -> ExitCode:
    """Return the command line's exit code for ``cause``: the exception class's own, else by kind."""
    if cause.error not in DRIVER_ERRORS and (declared := exception_class(cause.error)) is not None:
        return declared.exit_code
    if cause.dependency is not None:
        return ExitCode.NOT_READY
    return _EXIT_CODES.get(cause.kind, ExitCode.FAILED)
