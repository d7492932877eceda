"""Fixtures of reconciliation: a delivered date, and one that is not delivered yet."""

from __future__ import annotations

from classfeed_dagster_tests.fixtures.reconciliation_scene import scene, undelivered

__all__ = ["scene", "undelivered"]
