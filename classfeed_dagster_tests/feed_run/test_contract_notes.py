"""Real contract notes, stored outside the project: from bigsite through both feeds, to the cent."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.domains.build import open_domains
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.feeds.class_super import FEED as CLASS_SUPER
from classfeed_dagster.feeds.class_trade import FEED as CLASS_TRADE
from classfeed_dagster_tests.fixtures.bigsite_builder import Row
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.morning import attempt, deliver, prepare
from classfeed_dagster_tests.fixtures.published import contract_notes, needs_contract_notes

DAY = dt.date(2026, 3, 2)
SAME = {
    "consideration": "consideration",
    "brokerage": "brokerage",
    "gst": "gst",
    "net_amount": "net_value",
    "price": "price",
}
FLAGGED = {
    ("Buy01", "price_times_units"),  # printed for anonymity: 25 at 12.40 is not 312.50
    ("Buy02", "price_times_units"),
    ("Buy03", "price_times_units"),
    ("Buy04", "settlement_date"),  # a Sunday
    ("Sell02", "net_amount"),  # the fees were added to what a sale brings
}
GO = {"Buy01", "Buy02", "Buy03", "Buy04", "Sell01"}


def booked(desk: Desk, note: dict[str, Any], securities: dict[str, Row], at: int) -> Row:
    """Create one customer for each note, with the holdings and cash that it needs."""
    code = note["security_code"]
    if code not in securities:
        securities[code] = desk.bigsite.security(code, price={DAY.isoformat(): "1.00"})
    customer = desk.bigsite.portfolio(f"SW0000000{at}").consent("2026-02-20T00:00:00Z")
    customer.deposit("10000.00", "2021-01-04")
    if note["side"] == "SELL":
        customer.security_movement(securities[code], "TRANSFER_IN", note["units"], "2021-01-04")
    fees = sum((Decimal(note[name] or "0") for name in ("adviser_fee", "misc_fees")), Decimal("0.00"))
    printed = {ours: note[theirs] for ours, theirs in SAME.items() if ours not in ("price", "brokerage")}
    return customer.trade(
        note["side"], securities[code], note["units"], note["price"], note["trade_date"],
        brokerage=note["brokerage"], other_fees=fees, settlement_date=note["settlement_date"],
        confirmation_number=note["reference"], **printed,
    )  # fmt: skip


@needs_contract_notes
def test_contract_notes_are_exact_and_wrong_ones_are_held_back(desk: Desk) -> None:
    securities: dict[str, Row] = {}
    notes = {f"T{booked(desk, note, securities, at).id}": note for at, note in enumerate(contract_notes(), 1)}
    desk.end_of_day(DAY.isoformat())
    store = desk.runtime.store
    for feed in (CLASS_SUPER, CLASS_TRADE):
        work = attempt(desk.runtime, feed, DAY)
        prepare(work)
        outcome = deliver(work)
        assert outcome.kind == "DELIVERED"
        assert outcome.manifest is not None
        (hold,) = outcome.manifest.held_back
        assert (hold.number, hold.reason) == ("SW00000006", "breaks net_amount (once)")  # Sell02; the others go
        (page,) = outcome.manifest.pages
        with live_and_shadow(store, feed.name).local_file(page.key) as path:
            sent = feed.format.read(path)["movement_transactions"].filter(pl.col("transaction_id").is_in(list(notes)))
        assert {notes[name]["case"] for name in sent["transaction_id"]} == GO
        for row in sent.iter_rows(named=True):
            note = notes[row["transaction_id"]]
            fees = sum(Decimal(note[name] or "0") for name in ("adviser_fee", "misc_fees"))
            assert {ours: row[ours] for ours in SAME} == {ours: Decimal(note[name]) for ours, name in SAME.items()}
            assert (abs(row["units"]), row["other_fees"]) == (Decimal(note["units"]), fees)
            assert row["transaction_type"] == note["side"]
            assert row["confirmation_number"] == note["reference"]
            assert row["settlement_date"] == dt.date.fromisoformat(note["settlement_date"])
        with open_domains(store, work.domains()) as slices:
            result = pl.concat([frames[FINDINGS.name] for frames in slices])
        flagged = {
            (notes[subject]["case"], rule)
            for subject, rule in result.select("subject", "rule").iter_rows()
            if subject in notes
        }
        assert flagged >= FLAGGED, feed.name
        assert {rule for _, rule in flagged - FLAGGED} <= {"repeated_confirmation"}  # one reference on four of them
