"""What dashboards and alarms are fed: a delivery is measured once, a feed's standing at every look."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.operations.measuring import measuring_sensor
from classfeed_dagster.operations.runs import Outcome
from classfeed_dagster_tests.desk import Desk

MONDAY = "2026-03-02"


def test_a_delivery_is_measured_once_and_the_feed_at_every_look(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    fund = desk.bigsite.portfolio("SW00000001")
    fund.consent(granted_at="2026-02-20T00:00:00Z")
    fund.deposit("10.00", "2026-02-23")
    desk.end_of_day(MONDAY)
    assert desk.run(MONDAY).outcome is Outcome.DELIVERED
    sensor = measuring_sensor([FEED], running=False)
    capsys.readouterr()

    def look(cursor: str | None) -> tuple[list[dict[str, object]], str | None]:
        context = dg.build_sensor_context(instance=desk.instance, cursor=cursor, resources={"runtime": desk.runtime})
        sensor.evaluate_tick(context)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
        return lines, context.cursor

    (delivery, standing), cursor = look(None)
    assert {name: delivery[name] for name in ("documents", "portfolios", "repair_attempts", "feed")} == {
        "documents": 1,
        "portfolios": 1,
        "repair_attempts": 0,
        "feed": "class_super",
    }
    assert delivery["correlation_id"] == desk.manifest(MONDAY).correlation_id
    assert standing["held_back"] == standing["breaks"] == 0
    assert "newest_delivery_age_seconds" in standing
    (again,), _ = look(cursor)
    assert "documents" not in again
