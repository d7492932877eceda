"""Fixtures of the transmission tests."""

from classfeed_dagster_tests.fixtures.live_desk import desk
from classfeed_dagster_tests.fixtures.upload_server import endpoint

__all__ = ["desk", "endpoint"]
