"""Entry point of the Dagster code location, named in ``workspace.yaml`` and ``pyproject.toml``."""

from __future__ import annotations

import gc

import dagster as dg
import structlog

from classfeed_dagster import logs, telemetry
from classfeed_dagster.file_access import keep_private
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.settings import get_settings


def _load() -> dg.Definitions:
    keep_private()
    if not structlog.is_configured():  # the command line configures its own log format
        logs.configure(get_settings().log_format)
    telemetry.start(get_settings())
    definitions = build_definitions()
    # They live as long as the process: its garbage collector need not search them, at its end neither (a fifth of the
    # time of a process that only loads them).
    gc.freeze()
    return definitions


defs = _load()
