"""Declaration of a recipient's acknowledgements: the meanings of its message's fields.

A message is about one delivered file. It is a JSON object with the file's state and a list of records, or a CSV file
with a heading line and one line a record. Each line repeats the file's fields.
"""

from __future__ import annotations

import csv
import datetime as dt
import enum
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from classfeed_dagster.errors import ConfigurationError, DataError

_MAX_IDENTIFIER = 200  # characters of a code or TransactionId, which people and the warehouse get to see


class FileState(enum.StrEnum):
    """State of a file at the recipient. Of several answers, the last in this order counts."""

    LOADED = "loaded"
    PARTIALLY_PROCESSED = "partially processed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class RecordState(enum.StrEnum):
    """State of a record at the recipient."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class UnknownAnswerError(DataError):
    """Error: a message in the inbox is not of the declared form, or is about no file of the feed."""


@dataclass(frozen=True, slots=True)
class RecordAnswer:
    """Answer about one record, or about a portfolio as a whole if ``transaction_id`` is None."""

    portfolio_number: str
    transaction_id: str | None
    state: RecordState
    code: str | None
    words: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of the recipient."""

    message_id: str
    state: FileState
    reason: str | None
    records: tuple[RecordAnswer, ...]


@dataclass(frozen=True, slots=True)
class AnswerMapping:
    """Fields of a recipient's messages.

    Attributes:
        message_id: field with the id of the file, as delivered
        state: field with the file's state
        states: the recipient's words for the states of a file
        record_states: the recipient's words for the states of a record
        portfolio: field of a record with the portfolio number
        transaction: field of a record with the TransactionId; empty for the portfolio as a whole
        record_state: field of a record with its state
        code: field of a record with the recipient's code
        words: field of a record with the explanation
        reason: field with the explanation of the file's state
        records: JSON: field with the list of records
        form: form of a message
        checks: our check that should have found what a code means, by code
        due: Sydney local time on the next business day by which a sent file is answered
    """

    message_id: str = "message_id"
    state: str = "state"
    states: Mapping[str, FileState] = field(default_factory=lambda: {state.value: state for state in FileState})
    record_states: Mapping[str, RecordState] = field(
        default_factory=lambda: {state.value: state for state in RecordState}
    )
    portfolio: str = "portfolio_number"
    transaction: str = "transaction_id"
    record_state: str = "state"
    code: str = "code"
    words: str = "words"
    reason: str = "reason"
    records: str = "records"
    form: Literal["json", "csv"] = "json"
    checks: Mapping[str, str] = field(default_factory=dict)
    due: dt.time = dt.time(12, 0)

    def __post_init__(self) -> None:
        if self.form == "csv" and self.record_state == self.state:
            raise ConfigurationError("Invalid answer mapping: a CSV needs two columns, record_state and state")

    def read(self, content: bytes) -> Answer:
        """Return the answer of a message; UnknownAnswerError if it does not have the declared form."""
        try:
            head, rows = self._json(content) if self.form == "json" else self._csv(content)
            return Answer(
                _text(head[self.message_id]),
                self.states[str(head[self.state])],
                _text(head[self.reason]) if head.get(self.reason) else None,
                tuple(self._record(row) for row in rows),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
            # The error's text may contain a customer's value.
            raise UnknownAnswerError(f"not of the declared {self.form} form ({type(error).__name__})") from None

    def _json(self, content: bytes) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
        message = json.loads(content.decode("utf-8-sig"))
        rows = message.get(self.records) or []
        if not isinstance(rows, list):
            raise TypeError(self.records)
        return message, rows

    def _csv(self, content: bytes) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
        lines: list[Mapping[str, Any]] = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig")), strict=True))
        heads = {(line[self.message_id], line[self.state]) for line in lines}
        if len(heads) != 1:
            raise ValueError(self.message_id)
        return lines[0], [line for line in lines if line[self.portfolio]]

    def _record(self, row: Mapping[str, Any]) -> RecordAnswer:
        return RecordAnswer(
            _text(row[self.portfolio]),
            _identifier(row[self.transaction]) if row.get(self.transaction) else None,
            self.record_states[str(row[self.record_state])],
            _identifier(row[self.code]) if row.get(self.code) else None,
            _text(row[self.words]) if row.get(self.words) else None,
        )

    def message(self, answer: Answer) -> bytes:
        """Return the message that ``read`` reads as ``answer``: for simulated recipients and tests."""
        file_word = {state: word for word, state in self.states.items()}[answer.state]
        word_of = {state: word for word, state in self.record_states.items()}
        head = {self.message_id: answer.message_id, self.state: file_word, self.reason: answer.reason or ""}
        rows = [
            {
                self.portfolio: record.portfolio_number,
                self.transaction: record.transaction_id or "",
                self.record_state: word_of[record.state],
                self.code: record.code or "",
                self.words: record.words or "",
            }
            for record in answer.records
        ]
        if self.form == "json":
            return json.dumps({**head, self.records: rows}).encode()
        return "".join(self._lines(head, rows)).encode()

    def _lines(self, head: Mapping[str, str], rows: list[dict[str, str]]) -> Iterator[str]:
        empty = {self.portfolio: "", self.transaction: "", self.record_state: "", self.code: "", self.words: ""}
        text = io.StringIO()
        writer = csv.DictWriter(text, [*head, *empty])
        writer.writeheader()
        writer.writerows({**row, **head} for row in rows or [empty])
        yield text.getvalue()


def _text(value: object) -> str:
    # ValueError for a nested value and for one that UTF-8 cannot hold: half of a character in JSON.
    if isinstance(value, dict | list):
        raise ValueError("nested")
    text = str(value)
    text.encode()
    return text


def _identifier(value: object) -> str:
    text = _text(value)
    if len(text) > _MAX_IDENTIFIER or not text.isprintable():
        raise ValueError("no identifier")
    return text
