"""Recipients' messages: read as declared, refused in any other form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from classfeed_dagster.acknowledgements.mapping import (
    Answer,
    AnswerMapping,
    FileState,
    RecordAnswer,
    RecordState,
    UnknownAnswerError,
)
from classfeed_dagster.errors import ConfigurationError

ANSWER = Answer(
    "x-20260302-r0-p1",
    FileState.PARTIALLY_PROCESSED,
    "see records",
    (
        RecordAnswer("SW1", "T1", RecordState.REJECTED, "E42", "unknown, security"),
        RecordAnswer("SW2", None, RecordState.ACCEPTED, None, None),
    ),
)
NAMED: dict[str, Any] = {
    "message_id": "File", "state": "Outcome", "states": {"OK": FileState.LOADED, "PART": FileState.PARTIALLY_PROCESSED},
    "record_states": {"Y": RecordState.ACCEPTED, "N": RecordState.REJECTED}, "portfolio": "Account", "transaction": "Id",
    "record_state": "Loaded", "code": "Code", "words": "Text", "reason": "Why", "records": "Lines",
}  # fmt: skip


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("names", [{"record_state": "record_state"}, NAMED])
def test_message_is_read_as_declared(form: Any, names: dict[str, Any]) -> None:
    mapping = AnswerMapping(form=form, **names)
    assert mapping.read(mapping.message(ANSWER)) == ANSWER
    plain = Answer(ANSWER.message_id, FileState.LOADED, None, ())
    assert mapping.read(b"\xef\xbb\xbf" + mapping.message(plain)) == plain


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"<html>", b"[]", b'"text"', b"{}", b'{"message_id": "x", "state": "fine"}',
        b'{"message_id": "x", "state": "loaded", "records": {"a": 1}}',
        b'{"message_id": "x", "state": "loaded", "records": [{"state": "accepted"}]}',
        json.dumps({"message_id": "x", "state": "loaded", "records": [{"portfolio_number": "SW1", "state": "maybe"}]}).encode(),
    ],
)  # fmt: skip
def test_unknown_shape_is_refused_without_its_values(content: bytes) -> None:
    with pytest.raises(UnknownAnswerError, match="not of the declared json form") as raised:
        AnswerMapping().read(content)
    assert "SW1" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\r\n1,2\r\n", b'message_id,state,portfolio_number\r\nx,loaded,\r\ny,loaded,\r\n', b'message_id,state\r\n"x,loaded\r\n'],
)  # fmt: skip
def test_unknown_csv_is_refused(content: bytes) -> None:
    with pytest.raises(UnknownAnswerError, match="csv form"):
        AnswerMapping(form="csv", record_state="record_state").read(content)


def test_csv_mapping_without_two_state_columns_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="two columns"):
        AnswerMapping(form="csv")
