"""A simulated recipient's answers about delivered files, with the faults of real ones."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping

from classfeed_dagster.acknowledgements.inbox import inbox_prefix
from classfeed_dagster.acknowledgements.mapping import Answer, AnswerMapping, FileState, RecordAnswer, RecordState
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.store import ObjectStore


class AnswerFault(enum.StrEnum):
    """Faults of a recipient's answer."""

    LATE = "late"  # not answered now
    DUPLICATE = "duplicate"
    CONTRADICTORY = "contradictory"
    OTHER_FILE = "other file"
    UNREADABLE = "unreadable"


def answer_delivery(
    store: ObjectStore,
    manifest: Manifest,
    mapping: AnswerMapping,
    *,
    rejected: Mapping[str, RecordAnswer] | None = None,
    faults: Collection[AnswerFault] = (),
) -> tuple[str, ...]:
    """Put the recipient's answers about a delivery into the inbox; return their keys.

    ``rejected`` are the rejected records by portfolio number. Repeating it changes nothing.
    """
    if AnswerFault.LATE in faults:
        return ()
    keys: list[str] = []
    for page in manifest.pages:
        inside = {portfolio.number for portfolio in manifest.portfolios if portfolio.page == page.message_id}
        records = tuple(record for number, record in sorted((rejected or {}).items()) if number in inside)
        state = FileState.PARTIALLY_PROCESSED if records else FileState.LOADED
        answer = Answer(page.message_id, state, None, records)
        for name, content in _messages(answer, mapping, faults):
            key = f"{inbox_prefix(manifest.feed)}{page.message_id}-{name}.{mapping.form}"
            store.create(key, content)
            keys.append(key)
    return tuple(keys)


def _messages(answer: Answer, mapping: AnswerMapping, faults: Collection[AnswerFault]) -> Iterator[tuple[str, bytes]]:
    yield "1", mapping.message(answer)
    if AnswerFault.DUPLICATE in faults:
        yield "2", mapping.message(answer)
    if AnswerFault.CONTRADICTORY in faults:
        yield "3", mapping.message(Answer(answer.message_id, FileState.FAILED, "file is damaged", ()))
    if AnswerFault.OTHER_FILE in faults:
        yield "4", mapping.message(Answer(f"{answer.message_id}9", FileState.LOADED, None, ()))
    if AnswerFault.UNREADABLE in faults:
        yield "5", b"<html>gateway timeout</html>"


def rejection(number: str, transaction_id: str, code: str) -> RecordAnswer:
    """Return the rejection of one record."""
    return RecordAnswer(number, transaction_id, RecordState.REJECTED, code, "not accepted")
