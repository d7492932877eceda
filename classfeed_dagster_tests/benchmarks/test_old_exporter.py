"""The baseline's documents equal this project's, without which a ratio of their times is worthless."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import pytest
import sqlalchemy as sa
from lxml import etree

from benchmarks.old_exporter import export
from benchmarks.site import AUDIENCE, FIRST, PUBLISHED, SECOND, Site, morning_after
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.local.embedded_postgres import engine_from


def _canonical(document: bytes) -> bytes:
    return etree.tostring(etree.fromstring(document), method="c14n")


@pytest.mark.parametrize("day", [FIRST, SECOND])
def test_old_exporters_document_is_canonically_equal(small: Site, tmp_path: Path, day: dt.date) -> None:
    engine = engine_from(small.url)
    requests: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *seen: requests.append(seen[2]))
    path = tmp_path / "old.xml.gz"
    records = export(
        engine,
        path,
        feed=FEED.name,
        recipient=FEED.recipient,
        day=day,
        number=AUDIENCE.sequence_number(day),
        window=AUDIENCE.window(day),
        snapshot_at=morning_after(day),
    )
    engine.dispose()
    movements = small.portfolios * 100 if day == FIRST else 2
    assert records == small.portfolios * 32 + movements
    assert sum(statement.startswith("SELECT bigsite.portfolio.") for statement in requests) == 5
    delivered = small.after(day, PUBLISHED) / "store" / "delivered"
    (page,) = delivered.rglob(f"*{day:%Y%m%d}*.xml.gz")
    assert _canonical(gzip.decompress(path.read_bytes())) == _canonical(gzip.decompress(page.read_bytes()))
