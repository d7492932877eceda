"""One run of one feed for one business date, through the same Dagster job as in the UI, and its report."""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classfeed_dagster.errors import CauseKind, ExitCode, exception_class
from classfeed_dagster.local.processes import ProcessIdentity
from classfeed_dagster.repair.causes import classify, exit_code
from classfeed_dagster.tags import CORRELATION_TAG, OWNER_TAG, feed_job_name, new_correlation_id
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions
    from dagster._core.execution.execution_result import ExecutionResult


_INTERRUPTED = "DagsterExecutionInterruptedError"


class Outcome(enum.StrEnum):
    """Outcome of a run, for people and exit codes."""

    DELIVERED = "delivered"
    NOTHING_TO_DO = "nothing to do"
    STOPPED_BY_CHECKS = "stopped by checks"
    STOPPED = "stopped"  # data is missing or damaged
    SOURCE_NOT_READY = "source not ready"
    UNAVAILABLE = "service unreachable"
    FAILED = "failed"

    @property
    def exit_code(self) -> ExitCode:
        """Return the command line's exit code for this outcome."""
        return _EXIT_CODES[self]

    @property
    def guide(self) -> str:
        """Return the outcome's meaning and the next action, for the runbook."""
        return _GUIDES[self]


_EXIT_CODES: Mapping[Outcome, ExitCode] = {
    Outcome.DELIVERED: ExitCode.OK,
    Outcome.NOTHING_TO_DO: ExitCode.OK,
    Outcome.STOPPED_BY_CHECKS: ExitCode.STOPPED,
    Outcome.STOPPED: ExitCode.STOPPED,
    Outcome.SOURCE_NOT_READY: ExitCode.NOT_READY,
    Outcome.UNAVAILABLE: ExitCode.NOT_READY,
    Outcome.FAILED: ExitCode.FAILED,
}
_GUIDES: Mapping[Outcome, str] = {
    Outcome.DELIVERED: ("All due portfolios are delivered, except those [held back](#held-back-portfolios)."),
    Outcome.NOTHING_TO_DO: ("The content was delivered before, or the feed is off. No action."),
    Outcome.STOPPED_BY_CHECKS: (
        "A blocking check failed, or its verdict is missing. Nothing was delivered. See the section of the check that "
        "the run's page names. The date is retried once the source or the code changes."
    ),
    Outcome.STOPPED: (
        "Stored data is missing, damaged or contradicts the chain of manifests. Nothing was delivered. Restore the "
        "object's earlier version (the bucket keeps versions), then run `classfeed verify`. With `StoreBehindError`, "
        "`ReceiptsLostError` or `RefreshRecordsLostError` the store is older than its deliveries. Restore what the "
        "message names before any run, or the recipient gets data twice."
    ),
    Outcome.SOURCE_NOT_READY: (
        "bigsite's end of day for the date is missing or incomplete. Repair checks every ten minutes. Ask bigsite's "
        "team when it will finish. If the deadline is at risk, notify the recipient."
    ),
    Outcome.UNAVAILABLE: ("Repair retries with growing pauses. Check the service that the message names."),
    Outcome.FAILED: (
        "Any other error. The message states what is wrong and how to fix it. After `run the consented portfolios "
        "first` or a similar error, run the whole job. If an earlier date is undelivered, deliver it first."
    ),
}
# Errors by which a check or a rule stops a run.
_CHECKS = frozenset({"DagsterAssetCheckFailedError", "GateRefusedError", "TooManyHeldBackError", "SchemaDriftError"})


@dataclass(frozen=True, slots=True)
class RunReport:
    """Result of one run, with a sentence for people, the number of check evaluations and the failed checks."""

    outcome: Outcome
    feed: str
    business_date: dt.date
    run_id: str
    correlation_id: str
    message: str
    checks: int = 0
    failed_checks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_date(
    definitions: Definitions,
    instance: DagsterInstance,
    feed: str,
    day: dt.date,
    *,
    fresh_snapshot: bool = False,
    tags: Mapping[str, str] | None = None,
    verbose: bool = False,
    wait_seconds: float = 600,
    announce: Callable[[str], None] = lambda _: None,
) -> RunReport:
    """Run the feed's job for ``day`` in this process. Errors of the run do not raise: see ``outcome``.

    ``verbose`` prints Dagster's log, which the instance stores in any case. If another run reads bigsite, wait at most
    ``wait_seconds`` (then PoolBusyError) and announce it; a run whose process is dead is marked failed.
    """
    from classfeed_dagster.orchestration.code_location import runs_with_origin
    from classfeed_dagster.orchestration.run_recovery import background_recovery, wait_for_pool

    correlation_id = new_correlation_id()
    wait_for_pool(instance, wait_seconds, announce)
    job = feed_job_name(feed)
    with background_recovery(instance), runs_with_origin(instance, job):
        result = definitions.resolve_job_def(job).execute_in_process(
            partition_key=day.isoformat(),
            instance=instance,
            raise_on_error=False,
            run_config={
                "ops": {"landing": {"config": {"fresh_snapshot": fresh_snapshot}}},
                "loggers": {"console": {"config": {"log_level": "DEBUG" if verbose else "CRITICAL"}}},
            },
            tags={CORRELATION_TAG: correlation_id, OWNER_TAG: str(ProcessIdentity.current()), **(tags or {})},
        )
    return report(result, feed, day, correlation_id)


def report(result: ExecutionResult, feed: str, day: dt.date, correlation_id: str) -> RunReport:
    """Return the report of a finished run from its events."""
    from dagster import AssetCheckSeverity

    evaluations = result.get_asset_check_evaluations()
    failed = tuple(
        sorted(e.asset_check_key.name for e in evaluations if not e.passed and e.severity is AssetCheckSeverity.ERROR)
    )
    warnings = tuple(
        sorted(e.asset_check_key.name for e in evaluations if not e.passed and e.severity is AssetCheckSeverity.WARN)
    )
    facts = _facts(result, feed, "delivery")
    if result.success:
        delivered = facts.get("outcome") == "DELIVERED"
        outcome = Outcome.DELIVERED if delivered else Outcome.NOTHING_TO_DO
        message = "delivered" if delivered else _idle(result) or _unchanged(_facts(result, feed, "quarantine"))
        if facts.get("mode") == "shadow":
            message += " (shadow: not sent to the recipient)"
    else:
        outcome, message = _failure(result)
    return RunReport(
        outcome, feed, day, result.run_id, correlation_id, message, len(evaluations), failed, warnings, facts
    )


def _idle(result: ExecutionResult) -> str | None:
    # The reason for no work, from the first step that detected it.
    for event in result.get_asset_observation_events():
        if why := event.asset_observation_data.asset_observation.metadata.get("why"):
            return str(why.value)
    return None


def _unchanged(quarantine: Mapping[str, Any]) -> str:
    # The plan of this attempt, not the manifest of an earlier one.
    if held_back := quarantine.get("held_back"):
        breaking = quarantine.get("breaking_a_rule", 0)
        return (
            f"nothing new to deliver; this attempt would hold back {counted(held_back, 'portfolio')}, {breaking} of "
            "them for a broken rule"
        )
    return "nothing has changed since the last delivery"


def _facts(result: ExecutionResult, feed: str, asset: str) -> dict[str, Any]:
    for event in result.get_asset_materialization_events():
        if event.asset_key is not None and event.asset_key.path == [feed, asset]:
            metadata = event.step_materialization_data.materialization.metadata
            return {name: value.value for name, value in metadata.items()}
    return {}


def _failure(result: ExecutionResult) -> tuple[Outcome, str]:
    for event in result.get_step_failure_events():
        chain = list(error_chain(event.step_failure_data.error))
        if chain:
            return failure_of(event.step_key or "", chain)
    return Outcome.FAILED, f"the run {result.run_id} failed before its first step; see its log in the UI"


def failure_of(step: str, chain: Sequence[tuple[str, str]]) -> tuple[Outcome, str]:
    """Return outcome and sentence for a failed step. ``chain``: (class name, message), the outermost error first.

    The sentence is that of the outermost error of this package, which states the remedy, unlike a driver's.
    """
    cause = classify(chain)
    for name, message in chain:
        if name in _CHECKS:
            return Outcome.STOPPED_BY_CHECKS, message
        if name == _INTERRUPTED:
            return Outcome.FAILED, f"{step} was interrupted by Ctrl-C or a signal: run the date again"
    sentence = next((message for name, message in chain if message and exception_class(name)), None)
    match exit_code(cause):
        case ExitCode.STOPPED:
            outcome = Outcome.STOPPED
        case ExitCode.NOT_READY:
            outcome = Outcome.UNAVAILABLE if cause.kind is CauseKind.TRANSIENT else Outcome.SOURCE_NOT_READY
        case _:
            outcome = Outcome.FAILED
    name, message = chain[-1]
    return outcome, sentence or f"{step}: {message or name}"


def error_chain(error: Any) -> Iterator[tuple[str, str]]:
    """Yield class name and message of a serialized error and its causes, from the outermost to the innermost."""
    while error is not None:
        name = (error.cls_name or "").rpartition(".")[2]
        # Dagster writes the class's whole path before the message; people need the sentence alone.
        yield name, re.sub(rf"\A(?:\w+\.)*{re.escape(name)}: ", "", error.message.strip())
        error = error.cause or error.context
