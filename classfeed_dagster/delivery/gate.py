"""The gate before publishing: a build is delivered only with recorded verdicts for exactly its documents.

A verdict is never overwritten: another evaluation adds one, and **the latest counts**. That is safe, because checks
over fixed bytes always give the same result, and publishing queries consent again before the manifest. It is
needed, because a person may approve a failed check, and because a consent may end. All verdicts stay on record.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from classfeed_dagster.delivery.manifest import PassedCheck
from classfeed_dagster.errors import ChainBusyError, GateRefusedError, UncheckedBuildError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, read_record, to_json, verdict_key, verdict_prefix

if TYPE_CHECKING:
    from classfeed_dagster.delivery.build import Build

REQUIRED_VERDICTS: tuple[str, ...] = (
    "document_valid",
    "everyone_consented",
    "control_totals_agree",
    "held_back_share",
    "consent_roll",
    "live_gate",
    "one_live_feed",
)
_ATTEMPTS = 20


class Verdict(StoredRecord):
    """The result of one evaluation of one check over one build."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    build_id: str
    check: str = Field(description="the check's name")
    evaluation: PositiveInt = Field(description="1 for the first evaluation; the latest one counts")
    subject: dict[str, Sha256] = Field(description="the evaluated documents: SHA-256 by message id")
    files: dict[str, Sha256] = Field(
        default={}, description="the evaluated files: SHA-256 as stored, by message id; empty in older verdicts"
    )
    passed: bool
    summary: str = Field(description="the result in figures; no personal data")
    evaluated_by: str = Field(description="correlation id of the attempt that evaluated it")

    @property
    def key(self) -> str:
        """Return the verdict's key in the store."""
        return verdict_key(self.feed, self.business_date, self.build_id, self.check, self.evaluation)


def record_verdict(
    store: ObjectStore, build: Build, check: str, passed: bool, summary: str, evaluated_by: str
) -> Verdict:
    """Record the verdict of ``check`` over exactly ``build``'s documents; return the verdict that now counts.

    A verdict equal to the latest is not recorded again. Raise InvalidKeyError if ``check`` cannot be part of a key,
    ChainBusyError if other evaluations keep being recorded in between.
    """
    for _ in range(_ATTEMPTS):
        latest = latest_verdict(store, build, check)
        verdict = Verdict(
            feed=build.feed,
            business_date=build.business_date,
            build_id=build.build_id,
            check=check,
            evaluation=1 if latest is None else latest.evaluation + 1,
            subject=build.subject,
            files=build.files,
            passed=passed,
            summary=summary,
            evaluated_by=evaluated_by,
        )
        if latest is not None and _same_answer(latest, verdict):
            return latest
        if store.create(verdict.key, to_json(verdict), {"correlation-id": evaluated_by}):
            return verdict
    raise ChainBusyError(f"the verdict of {check} over build {build.build_id} kept changing: run the check again")


def _same_answer(verdict: Verdict, other: Verdict) -> bool:
    first, second = ((it.passed, it.summary, it.subject, it.files) for it in (verdict, other))
    return first == second


def latest_verdict(store: ObjectStore, build: Build, check: str) -> Verdict | None:
    """Return the latest verdict of ``check`` over ``build``; None if it was never evaluated."""
    keys = list(store.list(verdict_prefix(build.feed, build.business_date, build.build_id, check)))
    if not keys:
        return None
    return read_record(store, Verdict, keys[-1])


def files_checked(store: ObjectStore, build: Build) -> bool:
    """Return True if the document check read exactly the files of ``build``: then their SHA-256 alone proves them."""
    verdict = latest_verdict(store, build, "document_valid")
    return verdict is not None and verdict.passed and verdict.files == build.files


def require_verdicts(store: ObjectStore, build: Build) -> tuple[PassedCheck, ...]:
    """Return the passed verdicts that allow the delivery of ``build``, for the manifest.

    Raise GateRefusedError with every reason if a required check has no verdict, is about other documents, or failed;
    UncheckedBuildError if checks were not evaluated and none of the others objects.
    """
    passed: list[PassedCheck] = []
    reasons: list[str] = []
    unevaluated = 0
    for check in REQUIRED_VERDICTS:
        verdict = latest_verdict(store, build, check)
        if verdict is None:
            reasons.append(f"{check} was not evaluated")
            unevaluated += 1
        elif (verdict.build_id, verdict.check, verdict.subject) != (build.build_id, check, build.subject):
            reasons.append(f"the verdict of {check} is about other documents")
        elif not verdict.passed:
            reasons.append(f"{check} failed ({verdict.summary})")
        else:
            passed.append(PassedCheck(check=check, passed=True, key=verdict.key, evaluated_by=verdict.evaluated_by))
    if reasons:
        raise (UncheckedBuildError if len(reasons) == unevaluated else GateRefusedError)(build.build_id, reasons)
    return tuple(passed)
