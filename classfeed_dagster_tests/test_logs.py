"""Logs: JSON with the correlation id, and nothing that wasn't declared."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from classfeed_dagster import logs


def test_json_lines_carry_the_correlation_id(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    with structlog.contextvars.bound_contextvars(correlation_id="abc", feed="class_super"):
        logs.get_logger().info("landed", rows=10)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["rows"], line["correlation_id"], line["level"]) == ("landed", 10, "abc", "info")


def test_undeclared_field_is_dropped_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logs.get_logger().warning("odd", portfolio_name="Nguyen & Sons", portfolios=1)
    line = capsys.readouterr().err
    assert "Nguyen" not in line
    assert "portfolio_name" in line
    assert "portfolios" in line


def test_debug_lines_show_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logs.get_logger().debug("quiet")
    assert capsys.readouterr().err == ""
    logs.configure("text", level=logging.DEBUG)
    logs.get_logger().debug("loud")
    assert "loud" in capsys.readouterr().err
