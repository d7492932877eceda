"""The desk, for the tests of feeds."""

from __future__ import annotations

from classfeed_dagster_tests.desk import FEED, Desk, desk

__all__ = ["FEED", "Desk", "desk"]
