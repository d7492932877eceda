"""Cause of an error chain: the innermost known error decides and names the dependency."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg
import pytest

from classfeed_dagster.errors import ExitCode, exception_classes
from classfeed_dagster.repair.causes import _GROUPS, DRIVER_ERRORS, Cause, CauseKind, Dependency, classify, exit_code

WRAPPER = ("DagsterExecutionStepExecutionError", "Error occurred while executing op")


@pytest.mark.parametrize(
    ("chain", "kind", "dependency"),
    [
        ([], CauseKind.TRANSIENT, None),
        ([WRAPPER], CauseKind.UNKNOWN, None),
        ([WRAPPER, ("KeyError", "'x'")], CauseKind.UNKNOWN, None),
        ([WRAPPER, ("SourceReadError", "bigsite could not be read")], CauseKind.TRANSIENT, Dependency.BIGSITE),
        (
            [("SourceReadError", ""), ("OperationalError", "connection refused")],
            CauseKind.TRANSIENT,
            Dependency.BIGSITE,
        ),
        ([("SourceReadError", ""), ("DeadlockDetected", "")], CauseKind.TRANSIENT, None),
        ([("SourceReadError", ""), ("UndefinedColumn", "")], CauseKind.DATA, None),
        ([("SourceReadError", ""), ("InsufficientPrivilege", "")], CauseKind.CONFIGURATION, None),
        (
            [("OperationalError", 'FATAL: password authentication failed for user "feed"')],
            CauseKind.CONFIGURATION,
            None,
        ),
        ([("OperationalError", 'FATAL: database "bigsite" does not exist')], CauseKind.CONFIGURATION, None),
        ([("OperationalError", "250001 (08001): could not connect")], CauseKind.TRANSIENT, Dependency.SNOWFLAKE),
        ([("OperationalError", "390100 (08001): Incorrect username or password")], CauseKind.CONFIGURATION, None),
        (
            [("StoreError", ""), ("ClientError", "An error occurred (SlowDown) when calling PutObject")],
            CauseKind.TRANSIENT,
            Dependency.STORE,
        ),
        ([("ClientError", "An error occurred (AccessDenied) when calling PutObject")], CauseKind.CONFIGURATION, None),
        ([("StoreError", ""), ("ClientError", "an error of a new kind")], CauseKind.TRANSIENT, Dependency.STORE),
        ([("OSError", "[Errno 28] No space left on device")], CauseKind.TRANSIENT, None),
        ([("OSError", "[Errno 5] Input/output error")], CauseKind.UNKNOWN, None),
        ([("EndpointConnectionError", ""), ("ConnectionRefusedError", "")], CauseKind.TRANSIENT, Dependency.STORE),
        ([("ConnectionResetError", "")], CauseKind.TRANSIENT, None),
        ([("MemoryError", "")], CauseKind.TRANSIENT, None),
        ([("StaleBuildError", "")], CauseKind.STALE, None),
        ([("SourceNotReadyError", "")], CauseKind.NOT_READY, None),
        ([("DagsterAssetCheckFailedError", "")], CauseKind.DATA, None),
        ([("SchemaDriftError", "")], CauseKind.DATA, None),
        ([("ObjectNotFoundError", "")], CauseKind.DATA, None),
        ([("SchemaUnreadableError", "")], CauseKind.DATA, None),
        ([("SourceReadError", ""), ("QueryCanceled", "due to statement timeout")], CauseKind.TRANSIENT, None),
        ([("SourceReadError", ""), ("DiskFull", "")], CauseKind.TRANSIENT, Dependency.BIGSITE),
        (
            [("ProgrammingError", "002003 (42S02): Object 'FACT' does not exist or not authorized")],
            CauseKind.CONFIGURATION,
            None,
        ),
        ([("ProgrammingError", "000604 (57014): SQL execution canceled")], CauseKind.TRANSIENT, None),
        ([("ProgrammingError", "something new")], CauseKind.UNKNOWN, None),
        ([WRAPPER, ("TypeError", "")], CauseKind.BUG, None),
        ([("StoreError", ""), ("ReadTimeoutError", "")], CauseKind.TRANSIENT, Dependency.STORE),
    ],
)
def test_cause_follows_the_exception(
    chain: list[tuple[str, str]], kind: CauseKind, dependency: Dependency | None
) -> None:
    cause = classify(chain)
    assert (cause.kind, cause.dependency) == (kind, dependency)


def test_unknown_error_is_named_so_that_it_can_be_added() -> None:
    assert classify([WRAPPER, ("NewError", "")]) == Cause(CauseKind.UNKNOWN, "NewError")


def test_retried_kinds_are_those_that_can_pass() -> None:
    assert {kind for kind in CauseKind if not kind.retried} == {CauseKind.DATA, CauseKind.CONFIGURATION, CauseKind.BUG}


def test_dependency_is_set_only_for_transient_causes() -> None:
    stated = [*DRIVER_ERRORS.values(), *((own.kind, own.dependency) for own in exception_classes().values())]
    assert all(kind is CauseKind.TRANSIENT for kind, dependency in stated if dependency is not None)


def test_driver_errors_never_share_a_name_with_own_exceptions() -> None:
    assert DRIVER_ERRORS.keys() & exception_classes().keys() == set()


@pytest.mark.parametrize(
    ("chain", "code"),
    [
        ([WRAPPER, ("SourceReadError", ""), ("OperationalError", "connection refused")], ExitCode.NOT_READY),
        ([WRAPPER, ("SourceReadError", ""), ("UndefinedColumn", "")], ExitCode.STOPPED),
        ([WRAPPER, ("SourceNotReadyError", "")], ExitCode.NOT_READY),
        ([WRAPPER, ("EndpointConnectionError", "")], ExitCode.NOT_READY),
        ([WRAPPER, ("NoCredentialsError", "")], ExitCode.USAGE),
        ([WRAPPER, ("UnreadableDocumentError", "")], ExitCode.STOPPED),
        ([WRAPPER, ("NotInOrderError", "")], ExitCode.FAILED),
        ([WRAPPER, ("TypeError", "")], ExitCode.FAILED),
        ([WRAPPER, ("KeyError", "")], ExitCode.FAILED),
    ],
)
def test_failed_run_has_the_exit_code_of_its_cause(chain: list[tuple[str, str]], code: ExitCode) -> None:
    assert exit_code(classify(chain)) is code


def test_names_are_classified_in_a_process_that_imported_nothing() -> None:
    # The daemon reads event logs of runs in other processes: it knows no module that a run imported.
    names = sorted(exception_classes())
    script = (
        "import sys, json\n"
        "from classfeed_dagster.repair.causes import classify\n"
        f"kinds = {{name: classify([(name, '')]).kind.name for name in {names!r}}}\n"
        "print(json.dumps(kinds))"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert json.loads(output) == {name: own.kind.name for name, own in exception_classes().items()}


def test_cause_table_lists_each_error_once() -> None:
    names = [name for _, _, group in _GROUPS for name in group.split()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("57014", CauseKind.TRANSIENT),  # statement timeout
        ("40P01", CauseKind.TRANSIENT),
        ("40001", CauseKind.TRANSIENT),
        ("53300", CauseKind.TRANSIENT),
        ("57P01", CauseKind.TRANSIENT),
        ("25P03", CauseKind.TRANSIENT),
        ("42703", CauseKind.DATA),
        ("42501", CauseKind.CONFIGURATION),
        ("28P01", CauseKind.CONFIGURATION),
    ],
)
def test_postgresql_state_decides_the_cause(state: str, kind: CauseKind) -> None:
    error = psycopg.errors.lookup(state)
    assert classify([("SourceReadError", ""), (error.__name__, "")]).kind is kind
