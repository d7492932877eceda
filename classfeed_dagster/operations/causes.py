"""Why a run failed, from the errors in its event log: one table, and what each kind of cause calls for.

The table is data. An error that isn't in it is UNKNOWN: retried, but few times, and counted as a gap in the table.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """What kind of cause it is; only the first four can pass by themselves."""

    TRANSIENT = "transient"
    NOT_READY = "source not ready"
    STALE = "overtaken"  # consent or an earlier date changed meanwhile: build again at once
    UNKNOWN = "unknown"
    DATA = "data"
    CONFIGURATION = "configuration"

    @property
    def retried(self) -> bool:
        """True if a later attempt may succeed with nothing changed by people."""
        return self in (Kind.TRANSIENT, Kind.NOT_READY, Kind.STALE, Kind.UNKNOWN)


class Dependency(enum.StrEnum):
    """What a run relies on and can be down for everybody at once."""

    BIGSITE = "bigsite"
    STORE = "object store"
    SNOWFLAKE = "Snowflake"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run failed. ``error`` is the exception's class name; ``dependency`` is set if something was down."""

    kind: Kind
    error: str
    dependency: Dependency | None = None


_T, _D, _C = Kind.TRANSIENT, Kind.DATA, Kind.CONFIGURATION
_BIGSITE, _STORE, _SNOWFLAKE = Dependency.BIGSITE, Dependency.STORE, Dependency.SNOWFLAKE

# By exception class name. Our own errors first, then the drivers', most of which stand inside one of ours.
TABLE: Mapping[str, tuple[Kind, Dependency | None]] = {
    "SourceNotReadyError": (Kind.NOT_READY, None),
    "StaleBuildError": (Kind.STALE, None),
    "ConsentChangedError": (Kind.STALE, None),
    "ChainBusyError": (Kind.STALE, None),
    "NotInOrderError": (Kind.STALE, None),
    "MixedSnapshotsError": (Kind.STALE, None),
    "SourceReadError": (_T, _BIGSITE),
    "ConsentReadError": (_T, _BIGSITE),
    "StoreError": (_T, _STORE),
    "StoreUnavailableError": (_T, _STORE),
    "TooManyHeldBackError": (_D, None),
    "GateRefusedError": (_D, None),
    "ConsentJumpError": (_D, None),
    "DagsterAssetCheckFailedError": (_D, None),
    "SchemaDriftError": (_D, None),
    "DamagedFileError": (_D, None),
    "ObjectNotFoundError": (_D, None),
    "DamagedRecordError": (_D, None),
    "BuildError": (_C, None),
    "InvalidKeyError": (_C, None),
    "UnsupportedSourceError": (_C, None),
    "NotBuiltError": (_C, None),
    "ClockRefusedError": (_C, None),
    "ValidationError": (_C, None),  # settings
    # psycopg: class names follow SQLSTATE.
    "OperationalError": (_T, _BIGSITE),
    "InterfaceError": (_T, _BIGSITE),
    "AdminShutdown": (_T, _BIGSITE),
    "CrashShutdown": (_T, _BIGSITE),
    "CannotConnectNow": (_T, _BIGSITE),
    "ConnectionTimeout": (_T, _BIGSITE),
    "TooManyConnections": (_T, _BIGSITE),
    "DeadlockDetected": (_T, None),
    "SerializationFailure": (_T, None),
    "QueryCanceled": (_T, None),
    "LockNotAvailable": (_T, None),
    "UndefinedColumn": (_D, None),
    "UndefinedTable": (_D, None),
    "DatatypeMismatch": (_D, None),
    "InvalidPassword": (_C, None),
    "InvalidAuthorizationSpecification": (_C, None),
    "InvalidCatalogName": (_C, None),
    "InsufficientPrivilege": (_C, None),
    # botocore
    "EndpointConnectionError": (_T, _STORE),
    "ConnectTimeoutError": (_T, _STORE),
    "ReadTimeoutError": (_T, _STORE),
    "ConnectionClosedError": (_T, _STORE),
    "IncompleteReadError": (_T, _STORE),
    "NoCredentialsError": (_C, None),
    "PartialCredentialsError": (_C, None),
    # Snowflake
    "ServiceUnavailableError": (_T, _SNOWFLAKE),
    "GatewayTimeoutError": (_T, _SNOWFLAKE),
    "RequestTimeoutError": (_T, _SNOWFLAKE),
    # the machine
    "MemoryError": (_T, None),
    "ConnectionError": (_T, None),
    "ConnectionResetError": (_T, None),
    "ConnectionRefusedError": (_T, None),
    "BrokenPipeError": (_T, None),
    "TimeoutError": (_T, None),
    "PermissionError": (_C, None),
    "ModuleNotFoundError": (_C, None),
    "DagsterExecutionInterruptedError": (_T, None),
    "DagsterInvalidConfigError": (_C, None),
}

# Errors that many services raise under one class name say which they are in a code or a phrase of ours and theirs.
_PHRASES: tuple[tuple[re.Pattern[str], Kind, Dependency | None], ...] = (
    (
        re.compile(r"\((SlowDown|Throttling\w*|RequestLimitExceeded|503|500|InternalError|ServiceUnavailable)\)"),
        _T,
        _STORE,
    ),
    (re.compile(r"\((RequestTimeout|RequestTimeTooSkewed)\)"), _T, _STORE),
    (re.compile(r"\((AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|NoSuchBucket)\)"), _C, None),
    (re.compile(r"password authentication failed|does not exist|permission denied for"), _C, None),
    (re.compile(r"Incorrect username or password|JWT token is invalid|390\d{3} \(08001\)"), _C, None),
    (re.compile(r"25000[0-9]|29\d{4}|snowflakecomputing"), _T, _SNOWFLAKE),
    (re.compile(r"No space left on device"), _T, None),
)
# A bare class name from the log that says nothing by itself: the phrase within decides.
_VAGUE = frozenset({"ClientError", "OSError", "OperationalError"})
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
        return Cause(Kind.TRANSIENT, "worker died")
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
            found = Cause(entry[0], name, dependency if entry[0] is Kind.TRANSIENT else None)
    return found or Cause(Kind.UNKNOWN, errors[-1][0])
