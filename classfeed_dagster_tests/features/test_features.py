"""All scenarios of this folder; their steps are in conftest.py."""

from __future__ import annotations

import pytest
from pytest_bdd import scenarios

pytestmark = pytest.mark.slow

scenarios(".")
