"""Deliver small CSV files through the real build, gate and publishing, to the shadow or live."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl

from classfeed_dagster.delivery.build import Terms, build_delivery
from classfeed_dagster.delivery.gate import REQUIRED_VERDICTS, record_verdict
from classfeed_dagster.delivery.manifest import HeldBack, Manifest, SnapshotRef
from classfeed_dagster.delivery.plan import DeliveryPlan, Going
from classfeed_dagster.delivery.publish import publish
from classfeed_dagster.delivery.shadow import FeedMode, switched
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.store import ObjectStore

SNAPSHOT_AT = dt.datetime(2023, 1, 3, 20, 0, tzinfo=dt.UTC)


def deliver(
    store: ObjectStore,
    document: Any,
    audience: Audience,
    day: dt.date,
    frames: Mapping[str, pl.DataFrame],
    *,
    mode: FeedMode = FeedMode.SHADOW,
    feed: str | None = None,
    held_back: Iterable[str] = (),
    flags: Mapping[str, str | int | bool] | None = None,
) -> Manifest:
    """Deliver every portfolio of ``frames`` for ``day`` except those held back."""
    name = feed or document.name
    view = switched(store, name, mode)
    held = sorted(held_back)
    numbers = [number for number in sorted(frames["accounts"]["portfolio_number"]) if number not in held]
    plan = DeliveryPlan(
        day,
        tuple(Going(number, "CURRENT", "DELTA", (1,)) for number in numbers),
        tuple(HeldBack(number=number, kind="RULE", reason="breaks a rule") for number in held),
        (),
        len(held),
        len(numbers) + len(held),
    )
    terms = Terms(
        feed=name,
        audience=audience,
        document_format=document,
        delivered=delivered_state(view, name, day),
        snapshot=SnapshotRef(id="s1", snapshot_at=SNAPSHOT_AT, descriptor_key="landing/x", descriptor_sha256="0" * 64),
        code_version="test",
        correlation_id="c1",
        flags=flags or {},
        max_page_bytes=64 * 1024,
        compress=False,
    )
    build = build_delivery(view, terms, plan, [frames])
    for check in REQUIRED_VERDICTS:
        record_verdict(view, build, check, True, "fine", "c1")
    outcome = publish(
        view,
        build,
        consented_now=lambda: (SNAPSHOT_AT, numbers),
        audience=audience,
        correlation_id="c1",
    )
    assert outcome.manifest is not None
    return outcome.manifest


def as_legacy_number(value: Decimal) -> str:
    """``1,234.5`` for 1234.50: with thousands marks, without trailing zeros."""
    text = f"{value:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_legacy_date(value: dt.date) -> str:
    """DD/MM/YYYY."""
    return f"{value:%d/%m/%Y}"


def csv_text(lines: Sequence[Sequence[str]], end: str = "\n") -> bytes:
    """Lines as CSV."""
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows(lines)
    return text.getvalue().encode()
