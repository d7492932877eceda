"""Fixtures of a feed's run: a desk with every feed."""

from __future__ import annotations

from classfeed_dagster_tests.fixtures.desk import FEED, Desk, desk

__all__ = ["FEED", "Desk", "desk"]
