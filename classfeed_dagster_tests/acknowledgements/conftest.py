"""Fixtures of the acknowledgement tests."""

from classfeed_dagster_tests.fixtures.desk import desk

__all__ = ["desk"]
