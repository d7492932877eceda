"""Fixtures: a desk with the live feed only, and a local server in place of Slack and PagerDuty."""

from __future__ import annotations

from classfeed_dagster_tests.fixtures.live_desk import Message, Switchboard, desk, switchboard

__all__ = ["Message", "Switchboard", "desk", "switchboard"]
