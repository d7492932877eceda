"""Which cause an error chain has: the innermost error that is known decides, and says what was down."""

from __future__ import annotations

import pytest

from classfeed_dagster.operations.causes import TABLE, Cause, Dependency, Kind, classify

WRAPPER = ("DagsterExecutionStepExecutionError", "Error occurred while executing op")


@pytest.mark.parametrize(
    ("chain", "kind", "dependency"),
    [
        ([], Kind.TRANSIENT, None),
        ([WRAPPER], Kind.UNKNOWN, None),
        ([WRAPPER, ("KeyError", "'x'")], Kind.UNKNOWN, None),
        ([WRAPPER, ("SourceReadError", "bigsite could not be read")], Kind.TRANSIENT, Dependency.BIGSITE),
        ([("SourceReadError", ""), ("OperationalError", "connection refused")], Kind.TRANSIENT, Dependency.BIGSITE),
        ([("SourceReadError", ""), ("DeadlockDetected", "")], Kind.TRANSIENT, None),
        ([("SourceReadError", ""), ("UndefinedColumn", "")], Kind.DATA, None),
        ([("SourceReadError", ""), ("InsufficientPrivilege", "")], Kind.CONFIGURATION, None),
        (
            [("OperationalError", 'FATAL: password authentication failed for user "feed"')],
            Kind.CONFIGURATION,
            None,
        ),
        ([("OperationalError", 'FATAL: database "bigsite" does not exist')], Kind.CONFIGURATION, None),
        ([("OperationalError", "250001 (08001): could not connect")], Kind.TRANSIENT, Dependency.SNOWFLAKE),
        ([("OperationalError", "390100 (08001): Incorrect username or password")], Kind.CONFIGURATION, None),
        (
            [("StoreError", ""), ("ClientError", "An error occurred (SlowDown) when calling PutObject")],
            Kind.TRANSIENT,
            Dependency.STORE,
        ),
        ([("ClientError", "An error occurred (AccessDenied) when calling PutObject")], Kind.CONFIGURATION, None),
        ([("StoreError", ""), ("ClientError", "an error of a new kind")], Kind.TRANSIENT, Dependency.STORE),
        ([("OSError", "[Errno 28] No space left on device")], Kind.TRANSIENT, None),
        ([("OSError", "[Errno 5] Input/output error")], Kind.UNKNOWN, None),
        ([("EndpointConnectionError", ""), ("ConnectionRefusedError", "")], Kind.TRANSIENT, Dependency.STORE),
        ([("ConnectionResetError", "")], Kind.TRANSIENT, None),
        ([("MemoryError", "")], Kind.TRANSIENT, None),
        ([("StaleBuildError", "")], Kind.STALE, None),
        ([("SourceNotReadyError", "")], Kind.NOT_READY, None),
        ([("DagsterAssetCheckFailedError", "")], Kind.DATA, None),
        ([("SchemaDriftError", "")], Kind.DATA, None),
        ([("ObjectNotFoundError", "")], Kind.DATA, None),
    ],
)
def test_causes(chain: list[tuple[str, str]], kind: Kind, dependency: Dependency | None) -> None:
    cause = classify(chain)
    assert (cause.kind, cause.dependency) == (kind, dependency)


def test_an_unknown_error_is_named_so_that_it_can_be_added() -> None:
    assert classify([WRAPPER, ("NewError", "")]) == Cause(Kind.UNKNOWN, "NewError")


def test_only_what_can_pass_by_itself_is_retried() -> None:
    assert {kind for kind in Kind if not kind.retried} == {Kind.DATA, Kind.CONFIGURATION}


def test_only_what_passes_has_something_that_is_down() -> None:
    assert all(kind is Kind.TRANSIENT for kind, dependency in TABLE.values() if dependency is not None)


def test_our_own_errors_that_stop_a_delivery_are_all_known() -> None:
    from classfeed_dagster.delivery import errors

    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DeliveryError) and value is not errors.DeliveryError
    }
    assert ours <= TABLE.keys()
    for name in ours:
        assert TABLE[name][0].retried is vars(errors)[name].transient, name
