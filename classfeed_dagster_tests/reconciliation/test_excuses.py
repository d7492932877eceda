"""Faults that an excuse once covered: each is an error, whatever innocent edit there is."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa

from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.records import BreakCause
from classfeed_dagster_tests.fixtures import planted_faults as planted

FAULTS = {f"{fault.name}, in {fault.places}": fault for fault in planted.FAULTS}
INNOCENT = {edit.name: edit for edit in planted.INNOCENT}


@pytest.mark.parametrize(
    ("fault", "innocent"),
    [
        ("cash_transaction row missing, in landing, page", "bulk load with old instants"),
        ("trade and its cash missing, in landing, page", "data_sharing_consent touched"),
        ("LedgerBalance + 100.00, in landing, page", "cash_account touched"),
        ("LedgerBalance + 100.00, in landing, page", "late deposit, end of day rewritten"),
        ("Units + 1, in landing, page", "security touched"),
        ("holding missing, in landing, page", "data_sharing_consent touched"),
        ("BusinessDate of another day, in page, hashes fixed", "portfolio touched"),
        ("control totals: balance, in page, hashes fixed", "price revised later"),
        ("manifest's units, in manifest", "holding_eod touched"),
        ("held back without a quarantine record, in page, manifest", "portfolio touched"),
        ("BSB, in landing, page; its row touched", "cash_account touched"),
        ("recipient reference, in landing, page; its row touched", "data_sharing_consent touched"),
    ],
)
def test_planted_fault_beside_innocent_edit_is_an_error(
    bigsite_engine: sa.Engine, local_store: ObjectStore, fault: str, innocent: str
) -> None:
    case = planted.Case(bigsite_engine, local_store)
    verdict = planted.play(case, (FAULTS[fault],), (INNOCENT[innocent],))
    assert verdict.right, verdict.report


def test_innocent_edits_together_are_not_an_error(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    case = planted.Case(bigsite_engine, local_store)
    verdict = planted.play(case, (), planted.INNOCENT)
    assert verdict.right, verdict.report


@pytest.mark.parametrize(
    "at", [0, 1, pytest.param(2, marks=pytest.mark.nightly), pytest.param(3, marks=pytest.mark.nightly)]
)
def test_random_case_is_judged_correctly(bigsite_engine: sa.Engine, local_store: ObjectStore, at: int) -> None:
    first = len(planted.FAULTS) + len(planted.INNOCENT)
    faults, innocent = next(itertools.islice(planted.combinations(seed=22), first + at, None))
    verdict = planted.play(planted.Case(bigsite_engine, local_store), faults, innocent)
    names = [edit.name for edit in (*faults, *innocent)]
    assert verdict.right, f"{names}: {verdict.report}"


def test_late_row_names_the_delivery_that_carries_it(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    case = planted.Case(bigsite_engine, local_store)
    case.deliver()
    INNOCENT["bulk load with old instants"].after(case)
    (late,) = case.reconcile().breaks
    assert (late.subject, late.likeliest.cause) == ("I9003", BreakCause.LATE_ROW)
    assert late.likeliest.evidence.endswith("to be sent with 2025-03-13")


def test_forged_reference_is_an_error_although_the_consent_ended_since(
    bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    statement = "UPDATE bigsite.data_sharing_consent SET revoked_at = :at, updated_at = :at WHERE portfolio_id = 1"
    revoked = planted.Edit("revoked", "source", after=lambda case: case.sql(statement, at=planted.LATER))
    fault = FAULTS["recipient reference, in landing, page; its row touched"]
    verdict = planted.play(planted.Case(bigsite_engine, local_store), (fault,), (revoked,))
    assert verdict.right, verdict.report


def test_changed_ledger_file_proves_nothing(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    case = planted.Case(bigsite_engine, local_store)
    case.deliver()
    case.sql("UPDATE bigsite.cash_account SET bsb = '999-222', updated_at = :at", at=planted.LATER)
    for key in list(local_store.list("ledger/")):
        local_store.put(key, b"changed")
    result = case.reconcile()
    assert result.moved_on > 0
    assert result.breaks == ()
    for key in list(local_store.list("ledger/")):
        local_store.delete(key)
    assert case.reconcile().breaks == ()
