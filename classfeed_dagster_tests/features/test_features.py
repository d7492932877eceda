"""All scenarios of this folder; their steps are in conftest.py."""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios(".")
