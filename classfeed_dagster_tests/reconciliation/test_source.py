"""A clean date has no breaks, what is rightly absent is none, and a date that cannot be judged says so."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.delivery.manifest import HeldBack, RuleCount
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.reconciliation.delivered import NothingDeliveredError, UnreadableDeliveryError
from classfeed_dagster.reconciliation.result import NEVER_DELIVERED
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import manifest_key
from classfeed_dagster.warehouse.records import BreakCause, BreakKind, BreakSeverity
from classfeed_dagster_tests.fixtures import reconciliation_world as w
from classfeed_dagster_tests.fixtures.reconciliation_scene import Scene


def test_clean_date_has_no_breaks_and_accounts_for_every_row_and_sum(scene: Scene) -> None:
    result = scene.reconcile()
    assert result.clean
    assert result.breaks == (), result.markdown(50)
    assert result.metrics()["breaks"] == 0
    rows = sum(frame.height for frame in scene.frames.values())
    assert result.rows == 2 * rows
    assert {name for tally in result.tallies for name, (ours, theirs) in tally.counts.items() if ours or theirs} == {
        "match"
    }
    assert "agree" in result.summary()
    assert result.finding is None
    # The sums of each record and currency are those of both sides.
    balances = scene.frames["account_balances"].group_by("currency").agg(pl.col("ledger_balance").sum())
    values = scene.frames["investment_holdings"].group_by("currency").agg(pl.col("market_value").sum())
    expected = {
        *(("account_balances.ledger_balance", *row) for row in balances.iter_rows()),
        *(("investment_holdings.market_value", *row) for row in values.iter_rows()),
    }
    assert expected <= {(amount.metric, amount.currency, amount.ours) for amount in result.amounts}
    assert all(amount.theirs == amount.ours for amount in result.amounts)
    assert not any(amount.known or amount.difference for amount in result.amounts)


def test_reconciliation_reads_s3(bigsite_engine: sa.Engine, s3_store: ObjectStore) -> None:
    scene = Scene(bigsite_engine, s3_store, 3)
    scene.deliver(compress=False)
    assert scene.reconcile().breaks == ()


# -- identifiers of persons in free text ----------------------------------------------------------------------------


def _with_identifiers(engine: sa.Engine, store: ObjectStore, *, masked: bool) -> Scene:
    scene = Scene.__new__(Scene)
    scene.engine, scene.store, scene.world = engine, store, w.make_world(4)
    narrative = scene.world.one("cash_transaction", cash_transaction_id=102)
    name = scene.world.one("portfolio", portfolio_id=1)
    narrative["description"], name["portfolio_name"] = "ATO 123456782", "TFN 123 456 782"
    scene.world.load(engine)
    scene.snapshot = w.land(engine, store)
    if masked:
        narrative["description"], name["portfolio_name"] = "ATO *********", "TFN *** *** ***"
    scene.frames = scene.world.frames()
    scene.deliver()
    return scene


def test_identifier_masked_in_the_file_is_no_break(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    result = _with_identifiers(bigsite_engine, local_store, masked=True).reconcile()
    assert result.breaks == (), result.markdown(50)


def test_identifier_left_in_the_file_is_an_error(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    result = _with_identifiers(bigsite_engine, local_store, masked=False).reconcile()
    assert {(break_.record, break_.field, break_.severity) for break_ in result.breaks} == {
        ("accounts", "portfolio_name", BreakSeverity.ERROR),
        ("movement_transactions", "narrative", BreakSeverity.ERROR),
    }, result.markdown(50)
    assert "123" not in result.markdown(50)


def test_finding_names_the_same_errors_alike(scene: Scene) -> None:
    w.rewrite_page(scene.store, scene.page_of("SW000001"), "<NetAmount>", "<NetAmount>1")
    first, second = scene.reconcile().finding, scene.reconcile().finding
    assert first == second is not None


# -- what is rightly absent -------------------------------------------------------------------------------------------


def test_portfolio_in_quarantine_is_one_event(undelivered: Scene) -> None:
    hold = HeldBack(
        number="SW000006",
        kind="RULE",
        reason="its units don't add up",
        rules=(RuleCount(rule="units_add_up", findings=1, subjects=()),),
    )
    undelivered.deliver(held_back=(hold,))
    result = undelivered.reconcile()
    (break_,) = result.breaks
    assert (break_.portfolio_number, break_.likeliest.cause, break_.severity) == (
        "SW000006",
        BreakCause.QUARANTINE,
        BreakSeverity.EVENT,
    )
    assert "units_add_up" in break_.likeliest.evidence
    assert result.held_back == {"SW000006": "its units don't add up"}
    assert any(tally.excluded for tally in result.tallies)
    assert result.clean
    assert result.summary().endswith("1 portfolio held back")
    undelivered.deliver(revision=1, only=frozenset({"SW000006"}))
    assert undelivered.reconcile().breaks == ()


def test_difference_of_a_portfolio_held_back_since_names_the_hold(scene: Scene) -> None:
    """Bigsite moved on, and the re-issue that would have followed it held the portfolio back."""
    scene.sql("UPDATE bigsite.cash_balance_eod SET ledger_balance = ledger_balance + 1 WHERE cash_account_id = 1")
    hold = HeldBack(number="SW000001", kind="RULE", reason="breaks delivered_balance (once)")
    scene.deliver(revision=1, only=frozenset({"SW000002"}), held_back=(hold,))
    (difference,) = [broken for broken in scene.reconcile().breaks if broken.field == "ledger_balance"]
    assert (difference.portfolio_number, difference.severity) == ("SW000001", BreakSeverity.ERROR)
    assert difference.likeliest.evidence == (
        "no evidence in the data; revision 1 would have sent it again, but held the portfolio back: "
        "breaks delivered_balance (once)"
    )


def test_hold_before_the_delivery_explains_no_difference(undelivered: Scene) -> None:
    hold = HeldBack(number="SW000001", kind="RULE", reason="breaks units_ledger (once)")
    undelivered.deliver(held_back=(hold,))
    undelivered.deliver(revision=1, only=frozenset({"SW000001"}))
    undelivered.sql("UPDATE bigsite.cash_balance_eod SET ledger_balance = ledger_balance + 1 WHERE cash_account_id = 1")
    (difference,) = [broken for broken in undelivered.reconcile().breaks if broken.field == "ledger_balance"]
    assert difference.likeliest.evidence == "no evidence in the data"


def test_removal_of_what_was_never_delivered_is_silent(undelivered: Scene) -> None:
    frames = {
        name: frame.filter(pl.col("portfolio_number") != "SW000003") for name, frame in undelivered.frames.items()
    }
    undelivered.deliver(frames=frames)
    result = undelivered.reconcile()
    assert result.breaks == ()
    assert result.held_back == {"SW000003": NEVER_DELIVERED}
    assert result.summary().endswith("rows agree with source")
    assert result.metrics()["portfolios_held_back"] == 0


def test_removal_of_what_was_delivered_must_be_announced(undelivered: Scene) -> None:
    undelivered.deliver()
    manifest = undelivered.store.read(f"delivered/{w.FEED}/{w.DAY}/r0/manifest.json")
    undelivered.store.put(f"delivered/{w.FEED}/{w.BEFORE}/r0/manifest.json", manifest)
    undelivered.store.put(f"delivered/{w.FEED}/2025-03-10/r0/manifest.json", b'{"kind":"void"}')
    frames = {
        name: frame.filter(pl.col("portfolio_number") != "SW000003") for name, frame in undelivered.frames.items()
    }
    undelivered.store.delete(f"delivered/{w.FEED}/{w.DAY}/r0/manifest.json")
    for page in undelivered.manifest.pages:
        undelivered.store.delete(page.key)
    undelivered.deliver(frames=frames)
    break_ = undelivered.only_break()
    assert (break_.kind, break_.portfolio_number) == (BreakKind.MISSING_IN_EXPORT, "SW000003")


def test_reconciliation_without_a_delivery_is_refused(undelivered: Scene) -> None:
    with pytest.raises(NothingDeliveredError, match="deliver it first"):
        undelivered.reconcile()


def test_invalid_manifest_is_an_error(scene: Scene) -> None:
    scene.store.put(f"delivered/{w.FEED}/{w.DAY}/r0/manifest.json", b'{"kind":"delivery"}')
    with pytest.raises(UnreadableDeliveryError, match=r"manifest\.json is not a manifest"):
        scene.reconcile()


def test_unreachable_bigsite_stops_reconciliation(scene: Scene) -> None:
    scene.sql("ALTER TABLE bigsite.income RENAME TO gone")
    with pytest.raises(SourceReadError, match="nothing was reconciled"):
        scene.reconcile()


def test_manifest_of_another_document_is_an_error(scene: Scene) -> None:
    key = f"delivered/{w.FEED}/{w.DAY}/r0/manifest.json"
    text = scene.store.read(key).decode()
    scene.store.put(key, text.replace(scene.manifest.pages[0].document_sha256, "0" * 64).encode())
    break_ = scene.only_break()
    assert (break_.kind, break_.subject) == (BreakKind.ALTERED_FILE, scene.manifest.pages[0].key)
    assert "the document's SHA-256" in break_.likeliest.evidence


def test_changed_descriptor_is_an_error(scene: Scene) -> None:
    scene.store.put(scene.snapshot.key(), scene.store.read(scene.snapshot.key()) + b" ")
    break_ = scene.only_break()
    assert (break_.kind, break_.subject) == (BreakKind.ALTERED_FILE, scene.snapshot.key())


@pytest.mark.parametrize("damage", [[], {}, {"cash_transaction": None}, {"security": {}}, {"trade": {"files": [{}]}}])
def test_descriptor_without_a_tables_files_is_an_error(scene: Scene, damage: Any) -> None:
    descriptor = json.loads(scene.store.read(scene.snapshot.key()))
    tables = {**descriptor["tables"], **damage} if damage else damage
    scene.store.put(scene.snapshot.key(), json.dumps({**descriptor, "tables": tables}).encode())
    break_ = scene.only_break()
    assert (break_.kind, break_.subject) == (BreakKind.ALTERED_FILE, scene.snapshot.key())
    assert "cannot be read" in break_.likeliest.evidence


def test_units_and_settled_units_that_differ_apart_are_two_breaks(undelivered: Scene) -> None:
    item = (pl.col("portfolio_number") == "SW000001") & (pl.col("security_code") == "MSFT")
    frame = undelivered.frames["investment_holdings"]
    changed = frame.with_columns(
        units=pl.when(item).then(pl.col("units") + 1).otherwise(pl.col("units")).cast(pl.Decimal(20, 6)),
        settled_units=pl.when(item)
        .then(pl.col("settled_units") + 2)
        .otherwise(pl.col("settled_units"))
        .cast(pl.Decimal(20, 6)),
    )
    undelivered.deliver(frames={**undelivered.frames, "investment_holdings": changed})
    assert {break_.field for break_ in undelivered.reconcile().breaks} == {"units", "settled_units"}


def test_security_without_a_price_has_no_break(undelivered: Scene) -> None:
    undelivered.sql("UPDATE bigsite.holding_eod SET units = units + 1 WHERE portfolio_id = 1 AND security_id = 3")
    undelivered.sql("DELETE FROM bigsite.security_price WHERE security_id = 3")
    undelivered.deliver()
    deviation = {(break_.portfolio_number, break_.field) for break_ in undelivered.reconcile().breaks}
    assert ("SW000001", "units") in deviation
    assert ("SW000004", "market_value") in deviation


@pytest.mark.parametrize(
    "ledger", ["x", [1], {"files": [1]}, {"files": "x"}, {"files": [{}]}, {"files": [{"kind": "records"}]}]
)
def test_manifest_with_a_malformed_ledger_is_not_a_manifest(scene: Scene, ledger: object) -> None:
    key = manifest_key(w.FEED, w.DAY, 0)
    scene.store.put(key, json.dumps(json.loads(scene.store.read(key)) | {"ledger": ledger}).encode())
    with pytest.raises(UnreadableDeliveryError, match=r"manifest\.json is not a manifest"):
        scene.reconcile()
