"""The queries for the person on call ask for what is logged and measured, and for nothing else."""

from __future__ import annotations

import re

import pytest

from classfeed_dagster.logs import FIELDS
from classfeed_dagster.service_levels.metrics import DIMENSIONS, METRICS, STAGE
from classfeed_dagster_tests.fixtures.templates import ROOT

TEXT = (ROOT / "docs" / "queries.md").read_text()
QUERIES = re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
SOURCE = "".join(path.read_text() for path in sorted((ROOT / "classfeed_dagster").rglob("*.py")))
KNOWN = FIELDS | set(METRICS) | set(DIMENSIONS) | {STAGE}
WORDS = {"fields", "filter", "sort", "stats", "limit", "asc", "desc", "and", "by", "as", "ispresent", "count", "max",
         "latest", "bin"}  # fmt: skip


def fields(query: str) -> set[str]:
    """Return the fields that a query names, without keywords, texts, aliases and CloudWatch's own fields."""
    bare = re.sub(r'"[^"]*"|@\w+|bin\(\w+\)|\.0\b', "", query)
    values = set(re.findall(r"\bas (\w+)", bare))
    return set(re.findall(r"[a-z_]{2,}", bare)) - WORDS - values


@pytest.mark.parametrize("query", QUERIES)
def test_queries_name_existing_fields(query: str) -> None:
    assert fields(query) <= KNOWN
    for event in re.findall(r'event = "([^"]+)"', query):
        assert f'"{event}"' in SOURCE, event


def test_query_with_an_unknown_field_is_detected() -> None:
    assert len(QUERIES) >= 10
    assert fields('filter event = "x" and nonsense > 1 | stats max(rows) as most by feed') == {
        "event",
        "nonsense",
        "rows",
        "feed",
    }
