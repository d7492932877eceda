"""The frames' declarations: what may leave, keys, and that nothing malformed passes for a declared frame."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from classfeed_dagster.domains.build import FRAMES
from classfeed_dagster.domains.columns import ACCOUNTS, CASH_ACCOUNTS, FINDINGS
from classfeed_dagster.domains.lineage import bigsite_columns

_EVERY_FRAME = [frame for frames in FRAMES.values() for frame in frames]
_ROW = {
    "portfolio_number": "SW1",
    "account_number": "1",
    "account_name": "Cash",
    "currency": "AUD",
    "status": "ACTIVE",
    "opened_on": dt.date(2020, 1, 1),
    "bsb": None,
    "closed_on": None,
}


def test_column_source_is_landed_or_consent_and_not_restricted() -> None:
    for frame in _EVERY_FRAME:
        for column in frame.columns:
            assert column.source, (frame.name, column.name)
            assert set(column.only) <= set(column.source), (frame.name, column.name)
            assert not any(source.startswith("member.") for source in bigsite_columns(column)), (
                frame.name,
                column.name,
            )


def test_frame_keys_are_required_columns() -> None:
    for frame in _EVERY_FRAME:
        assert all(not frame.column(name).nullable for name in frame.key), frame.name


def test_unknown_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="accounts has no column tfn"):
        ACCOUNTS.column("tfn")


def test_conform_puts_columns_types_and_rows_in_order() -> None:
    rows = pl.DataFrame([{**_ROW, "account_number": "2"}, {**_ROW, "extra": "x"}])
    item = CASH_ACCOUNTS.conform(rows)
    assert item.schema == pl.Schema(CASH_ACCOUNTS.schema)
    assert item["account_number"].to_list() == ["1", "2"]


def test_conform_with_a_missing_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"findings lacks the columns \['rule', 'severity', 'subject', 'detail'\]"):
        FINDINGS.conform(pl.DataFrame({"portfolio_number": ["SW1"]}))
    with pytest.raises(ValueError, match=r"cash_accounts\.status must not be null"):
        CASH_ACCOUNTS.conform(pl.DataFrame([{**_ROW, "status": None}]))
