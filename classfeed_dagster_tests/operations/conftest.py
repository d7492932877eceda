"""The desk with the live feed alone, and a local server that stands for Slack and PagerDuty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from classfeed_dagster.feeds import class_super
from classfeed_dagster_tests.desk import Desk, at_a_desk
from classfeed_dagster_tests.operations.switchboard import Message, Switchboard, running_switchboard

__all__ = ["Message", "Switchboard"]


@pytest.fixture
def desk(bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[Desk]:
    """The desk with one feed, the live one: what its sensors say is of this feed alone."""
    with at_a_desk(bigsite_engine, tmp_path, [class_super.FEED]) as made:
        yield made


@pytest.fixture
def switchboard() -> Iterator[Switchboard]:
    """A running server."""
    with running_switchboard() as board:
        yield board
