"""The identity in a delivery's ledger is that of its document, and a later change in bigsite is no fault."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.examples import EXAMPLES, holdings
from classfeed_dagster.reconciliation.delivered import read_delivered
from classfeed_dagster.reconciliation.sent_identity import SentIdentities
from classfeed_dagster_tests.feed_run.test_bad_values import DAY, assert_reconciled, deliver
from classfeed_dagster_tests.fixtures.desk import Desk

pytestmark = pytest.mark.slow

IDENTITY = {
    "accounts": ("recipient_reference", "consent", "extract"),
    "cash_accounts": ("bsb",),
    "account_balances": ("bsb",),
    "movement_transactions": ("bsb", "account_number", "exchange", "security_code"),
}


@pytest.mark.parametrize("feed", [feed.name for feed in (*FEEDS, *EXAMPLES)])
def test_sent_identities_of_a_delivery_are_those_of_its_document(desk: Desk, feed: str, tmp_path: Path) -> None:
    desk.add(*EXAMPLES)
    for portfolio in desk.two_customers():
        portfolio.consent(granted_at="2026-02-20T00:00:00Z", recipient=desk.feed(feed).recipient)
    desk.end_of_day(DAY)
    deliver(desk, feed=feed)
    store = live_and_shadow(desk.runtime.store, feed)
    declared = desk.feed(feed)
    layout = declared.layout_of(declared.format)
    delivered = read_delivered(store, feed, dt.date.fromisoformat(DAY), tmp_path, layout)
    sent = SentIdentities()
    sent.read(duckdb.connect(), store, delivered, delivered.latest)
    known = 0
    for kind in layout.kinds:
        for row in pq.read_table(delivered.files[kind.name]).to_pylist():
            key = {name: row[name] for name in kind.key}
            for field in set(kind.names) & set(IDENTITY.get(kind.name, ())):
                assert not sent.denies(kind.name, key, field, row[field]), (kind.name, field)
                known += sent.denies(kind.name, key, field, "another")
    assert known > 0 or feed == holdings.FEED.name  # which states none of them


def test_reconciled_delivery_agrees_although_a_bsb_changes_later(desk: Desk) -> None:
    desk.two_customers(DAY)
    deliver(desk)
    assert desk.bigsite.engine is not None
    with desk.bigsite.engine.begin() as connection:
        connection.execute(sa.text("UPDATE bigsite.cash_account SET bsb = '999-222', updated_at = now()"))
    assert_reconciled(desk)
