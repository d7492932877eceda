"""The gate's verdicts: bound to exact documents, never overwritten, the latest counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.gate import REQUIRED_VERDICTS, latest_verdict, record_verdict, require_verdicts
from classfeed_dagster.errors import ChainBusyError, DamagedRecordError, GateRefusedError
from classfeed_dagster.store import InvalidKeyError, ObjectStore
from classfeed_dagster_tests.fixtures.delivery_pipeline import build, check, on_s3_too, simple


@pytest.fixture
def staged_build(local_store: ObjectStore) -> Build:
    return build(local_store, simple())


@on_s3_too
def test_verdicts_that_all_pass_allow_delivery(store: ObjectStore) -> None:
    new_build = build(store, simple())
    check(store, new_build, simple(), "try-7")
    passed = require_verdicts(store, new_build)
    assert tuple(item.check for item in passed) == REQUIRED_VERDICTS
    assert {item.evaluated_by for item in passed} == {"try-7"}
    assert all(store.exists(item.key) for item in passed)


def test_latest_answer_counts_and_every_answer_stays(local_store: ObjectStore, staged_build: Build) -> None:
    answers = [(True, "fine"), (True, "fine"), (False, "P2 does not consent"), (True, "fine")]
    verdicts = [
        record_verdict(local_store, staged_build, "everyone_consented", passed, text, "a") for passed, text in answers
    ]
    assert [verdict.evaluation for verdict in verdicts] == [1, 1, 2, 3]
    assert latest_verdict(local_store, staged_build, "everyone_consented") == verdicts[-1]
    assert len(list(local_store.list("verdicts/"))) == 3


def test_ten_evaluations_keep_their_order(local_store: ObjectStore, staged_build: Build) -> None:
    for at in range(12):
        record_verdict(local_store, staged_build, "consent_roll", at % 2 == 0, f"answer {at}", "a")
    latest = latest_verdict(local_store, staged_build, "consent_roll")
    assert latest is not None
    assert (latest.evaluation, latest.passed) == (12, False)


@on_s3_too
def test_concurrent_evaluations_are_all_kept(store: ObjectStore) -> None:
    new_build = build(store, simple())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: record_verdict(store, new_build, "consent_roll", True, f"answer {at}", "a"), range(4)))
    assert len(list(store.list("verdicts/"))) == 4


def test_verdict_over_other_documents_is_no_verdict(local_store: ObjectStore, staged_build: Build) -> None:
    check(local_store, staged_build, simple())
    page = staged_build.pages[0].model_copy(update={"document_sha256": "f" * 64})
    other = staged_build.model_copy(update={"pages": (page, *staged_build.pages[1:])})
    with pytest.raises(GateRefusedError, match="is about other documents"):
        require_verdicts(local_store, other)
    # The same answer over other documents is another answer.
    assert record_verdict(local_store, other, "consent_roll", True, "1 + 1 - 0 = 2", "try-1").evaluation == 2


def test_damaged_verdict_is_no_verdict(local_store: ObjectStore, staged_build: Build) -> None:
    verdict = record_verdict(local_store, staged_build, "consent_roll", True, "fine", "a")
    local_store.put(verdict.key, b'{"passed": "secret name"}')
    with pytest.raises(DamagedRecordError, match="not a readable record") as caught:
        latest_verdict(local_store, staged_build, "consent_roll")
    assert "secret name" not in str(caught.value)


def test_check_name_that_is_no_key_is_refused(local_store: ObjectStore, staged_build: Build) -> None:
    with pytest.raises(InvalidKeyError):
        record_verdict(local_store, staged_build, "../../manifest", True, "fine", "a")


def test_verdict_that_keeps_changing_gives_up(local_store: ObjectStore, staged_build: Build) -> None:
    class AlwaysLate:
        def __getattr__(self, name: str) -> object:
            return getattr(local_store, name)

        def create(self, *_: object) -> bool:
            return False

    with pytest.raises(ChainBusyError, match="kept changing"):
        record_verdict(AlwaysLate(), staged_build, "consent_roll", True, "fine", "a")  # type: ignore[arg-type]
