"""Retention: objects expired by rule are distinguished from missing ones."""

from __future__ import annotations

import datetime as dt

import pytest

from classfeed_dagster.retention import KEPT, NOTHING_EXPIRES, Retention, retention_of

WRITTEN = dt.datetime(2026, 3, 3, 20, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("env", "key", "days", "expired"),
    [
        ("prod", "landing/2026-03-02/trade/a.parquet", 89, None),
        ("prod", "landing/2026-03-02/trade/a.parquet", 90, dt.date(2026, 6, 1)),
        ("stg", "landing/2026-03-02/trade/a.parquet", 7, dt.date(2026, 3, 10)),
        ("prod", "reconciliation/class_super/2026-03-02/a/report.html", 549, None),
        ("prod", "reconciliation/class_super/2026-03-02/a/report.html", 550, dt.date(2027, 9, 4)),
        ("local", "landing/2026-03-02/trade/a.parquet", 10_000, None),
        ("prod", "unknown/a", 10_000, None),
        *(("stg", f"{prefix}/a", 10_000, None) for prefix in KEPT),
    ],
)
def test_expired_on_follows_the_rule_of_the_prefix(env: str, key: str, days: int, expired: dt.date | None) -> None:
    assert retention_of(env).expired_on(key, WRITTEN, WRITTEN + dt.timedelta(days=days)) == expired


def test_expired_on_uses_the_real_clock() -> None:
    assert Retention({"landing": 1}).expired_on("landing/a", WRITTEN) == dt.date(2026, 3, 4)
    assert Retention({"landing": 365_000}).expired_on("landing/a", WRITTEN) is None
    assert NOTHING_EXPIRES.expired_on("landing/a", WRITTEN) is None
