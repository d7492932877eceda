"""Exports of bigsite's columns by the declared feeds: the documents' fields that each column fills."""

from __future__ import annotations

from functools import cache

from classfeed_dagster.documents.lineage import exports_of
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.source_contract.drift import Exports


@cache
def column_exports() -> Exports:
    """Return the exports of every column of bigsite that a domain uses, over the formats of all declared feeds."""
    return exports_of(tuple(document for feed in FEEDS for document in (feed.format, *feed.renderings.values())))
