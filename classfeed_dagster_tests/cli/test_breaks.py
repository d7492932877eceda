"""State of a break, as `classfeed breaks` prints it."""

from __future__ import annotations

import dataclasses
import datetime as dt

from classfeed_dagster.cli.reconciliation import resolution_of
from classfeed_dagster_tests.reconciliation.test_report import KEPT


def test_break_known_when_found_needs_no_action() -> None:
    found_at = dt.datetime(2026, 3, 3, 21, 5, tzinfo=dt.UTC)
    kept = dataclasses.replace(KEPT, first_seen=found_at)
    states = [dataclasses.replace(kept, resolved_at=at) for at in (None, found_at, found_at + dt.timedelta(hours=2))]
    assert [resolution_of(state) for state in states] == ["open", "no action needed", "2026-03-03 23:05"]
