"""Imported once by the process that victims are forked from: what costs seconds is done here, not in each victim."""

from __future__ import annotations

from classfeed_dagster.trading_days import business_days
from classfeed_dagster_tests.torture import hostile, kills

__all__ = ["hostile", "kills"]

business_days()
