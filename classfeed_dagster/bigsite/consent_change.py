"""Changes of a portfolio's consent between two cut-offs."""

from __future__ import annotations

import enum


class Change(enum.StrEnum):
    """State of a portfolio's consent at a cut-off, compared with the schedule's previous cut-off."""

    NEW = "NEW"
    CURRENT = "CURRENT"
    REMOVED = "REMOVED"
