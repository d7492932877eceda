"""Faults planted in a delivered or a landed file are errors."""

from __future__ import annotations

import datetime as dt
import gzip
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from classfeed_dagster.reconciliation.delivered import UnreadableDeliveryError
from classfeed_dagster.retention import Retention
from classfeed_dagster.warehouse.records import BreakCause, BreakKind, BreakSeverity
from classfeed_dagster_tests.fixtures import reconciliation_world as w
from classfeed_dagster_tests.fixtures.reconciliation_scene import Scene

# -- faults in the file ---------------------------------------------------------------------------------------------


def test_amount_changed_in_a_delivered_file_is_an_error(scene: Scene) -> None:
    key = scene.page_of("SW000001")
    original = scene.store.read(key)
    document = gzip.decompress(original).decode()
    start = document.index("<TransactionId>T102</TransactionId>")
    at = document.index("<NetAmount>", start) + len("<NetAmount>")
    value = document[at : document.index("<", at)]
    changed = document[:at] + "1" + value + document[at + len(value) :]
    scene.store.put(key, gzip.compress(changed.encode(), mtime=0))

    result = scene.reconcile()
    (break_,) = result.breaks
    assert (break_.kind, break_.portfolio_number, break_.subject, break_.field) == (
        BreakKind.VALUE_DIFFERS, "SW000001", "T102", "net_amount",
    )  # fmt: skip
    assert (break_.export_value, break_.other_value) == ("1" + value, value)
    assert break_.difference == Decimal("1" + value) - Decimal(value)
    assert {amount.metric: amount.difference for amount in result.amounts if amount.difference} == {
        "movement_transactions.net_amount": break_.difference
    }
    assert break_.likeliest.cause is BreakCause.FILE_ALTERED
    assert key in break_.likeliest.evidence
    assert break_.severity is BreakSeverity.ERROR
    assert break_.trace.source_row == "trade 102"
    assert break_.trace.landed_file == f"landing/{w.DAY}/trade/{scene.snapshot.snapshot_id}.parquet"
    assert scene.store.exists(break_.trace.landed_file)
    assert break_.trace.page
    assert break_.trace.page in key
    line = document.splitlines()[int(break_.trace.line or 0) - 1]
    assert "<MovementTransaction>" in line

    scene.store.put(key, original)
    assert scene.reconcile().breaks == ()


def test_faults_of_an_export_are_an_error_each(undelivered: Scene) -> None:
    of = pl.col("portfolio_number")
    frames = {
        name: frame.filter(of != "SW000005")  # left out without a reason
        if name == "account_balances"
        else pl.concat(  # and a portfolio without consent
            [
                frame.filter(of != "SW000005"),
                frame.filter(of == "SW000001").with_columns(of.replace("SW000001", "SW999999")),
            ]
        )
        for name, frame in undelivered.frames.items()
    }
    moved, identity = frames["movement_transactions"], pl.col("transaction_id")
    dropped = (identity == "C102") & (of == "SW000001")
    frames["movement_transactions"] = pl.concat([moved.filter(~dropped), moved.filter(identity == "I402")])
    undelivered.deliver(frames=frames)
    breaks = {(break_.portfolio_number, break_.subject): break_ for break_ in undelivered.reconcile().breaks}
    assert {key: (break_.kind, break_.record, break_.field) for key, break_ in breaks.items()} == {
        ("SW000001", "C102"): (BreakKind.MISSING_IN_EXPORT, "movement_transactions", None),
        ("SW000004", "I402"): (BreakKind.DUPLICATE, "movement_transactions", None),
        ("SW000005", "SW000005"): (BreakKind.MISSING_IN_EXPORT, "portfolio", None),
        # Reported once, and not as lacking consent: the portfolio is not bigsite's.
        ("SW999999", "SW999999"): (BreakKind.EXTRA_IN_EXPORT, "portfolio", None),
    }
    assert {break_.severity for break_ in breaks.values()} == {BreakSeverity.ERROR}
    dropped_break, extra = breaks["SW000001", "C102"], breaks["SW999999", "SW999999"]
    assert dropped_break.likeliest.cause is BreakCause.EXPORT_FAULT
    assert dropped_break.trace.source_row == "cash_transaction 102"
    assert extra.likeliest.cause is BreakCause.EXPORT_FAULT
    assert "differences in the portfolio" in extra.likeliest.evidence


def test_export_fault_is_corrected_by_a_reissue_of_the_portfolio(undelivered: Scene) -> None:
    frames = dict(undelivered.frames)
    frames["movement_transactions"] = frames["movement_transactions"].filter(pl.col("transaction_id") != "C102")
    undelivered.deliver(frames=frames)
    undelivered.deliver(revision=1, only=frozenset({"SW000001"}))
    assert undelivered.reconcile().breaks == ()


def test_movement_cut_out_of_a_delivered_file_is_an_error(scene: Scene) -> None:
    key = scene.page_of("SW000004")
    document = gzip.decompress(scene.store.read(key)).decode()
    start = document.rindex("<MovementTransaction>", 0, document.index("<TransactionId>S402</TransactionId>"))
    end = document.index("</MovementTransaction>", start) + len("</MovementTransaction>")
    scene.store.put(key, gzip.compress((document[:start] + document[end:]).encode(), mtime=0))
    break_ = scene.only_break()
    assert (break_.kind, break_.subject) == (BreakKind.MISSING_IN_EXPORT, "S402")
    assert break_.likeliest.cause is BreakCause.FILE_ALTERED


def test_page_with_changed_bytes_and_equal_records_is_an_error(scene: Scene) -> None:
    key = scene.page_of("SW000001")
    w.rewrite_page(scene.store, key, "</EPIDataResponse>", "</EPIDataResponse>\n<!-- -->")
    break_ = scene.only_break()
    assert (break_.kind, break_.subject, break_.likeliest.cause) == (
        BreakKind.ALTERED_FILE,
        key,
        BreakCause.FILE_ALTERED,
    )


def test_missing_page_is_an_error(scene: Scene) -> None:
    key = scene.manifest.pages[0].key
    scene.store.delete(key)
    result = scene.reconcile()
    on_page = {
        portfolio.number
        for portfolio in scene.manifest.portfolios
        if portfolio.page == scene.manifest.pages[0].message_id
    }
    assert {break_.portfolio_number for break_ in result.breaks} == on_page
    assert {break_.kind for break_ in result.breaks} == {BreakKind.MISSING_IN_EXPORT}
    assert {break_.likeliest.cause for break_ in result.breaks} == {BreakCause.FILE_ALTERED}


def test_truncated_page_cannot_be_judged(scene: Scene) -> None:
    key = scene.manifest.pages[0].key
    scene.store.put(key, gzip.compress(gzip.decompress(scene.store.read(key))[:-200], mtime=0))
    with pytest.raises(UnreadableDeliveryError, match=r"cannot be read to its end"):
        scene.reconcile()


def test_doctype_is_refused(scene: Scene) -> None:
    key = scene.manifest.pages[0].key
    w.rewrite_page(scene.store, key, "<EPIDataResponse", '<!DOCTYPE x [<!ENTITY e "boo">]><EPIDataResponse')
    with pytest.raises(UnreadableDeliveryError, match="DOCTYPE"):
        scene.reconcile()


def test_value_that_is_not_a_number_is_an_error(scene: Scene) -> None:
    key = scene.page_of("SW000001")
    w.rewrite_page(scene.store, key, "<LedgerBalance>", "<LedgerBalance>x")
    result = scene.reconcile()
    assert {break_.kind for break_ in result.breaks} == {BreakKind.UNREADABLE}


# -- faults in the landing --------------------------------------------------------------------------------------------


def rewrite_landed(scene: Scene, table: str, change: pl.Expr | None) -> None:
    key = scene.snapshot.tables[table].key
    path = Path(scene.store.location(key))
    path.chmod(0o644)
    if change is None:
        path.write_bytes(b"nonsense")
    else:
        pl.read_parquet(path).with_columns(change).write_parquet(path)


def test_tampered_landed_file_is_an_error(scene: Scene) -> None:
    change = (
        pl.when(pl.col("trade_id") == 102)
        .then(pl.col("units") + 1)
        .otherwise(pl.col("units"))
        .cast(pl.Decimal(20, 6))
        .alias("units")
    )
    rewrite_landed(scene, "trade", change)
    break_ = scene.only_break()
    assert (break_.kind, break_.subject, break_.field) == (BreakKind.VALUE_DIFFERS, "T102", "units")
    assert break_.difference == -1
    assert break_.likeliest.cause is BreakCause.LANDING_ALTERED
    assert "changed after landing" in break_.likeliest.evidence


def test_landed_file_changed_outside_its_records_is_an_error(scene: Scene) -> None:
    rewrite_landed(scene, "repeated_confirmation", pl.lit("x").alias("side"))
    break_ = scene.only_break()
    assert (break_.kind, break_.record) == (BreakKind.ALTERED_FILE, "landed file")
    assert break_.likeliest.cause is BreakCause.LANDING_ALTERED


def test_unreadable_landed_file_is_an_error(scene: Scene) -> None:
    rewrite_landed(scene, "trade", None)
    break_ = scene.only_break()  # file against bigsite is still judged, and agrees
    assert (break_.kind, break_.record) == (BreakKind.ALTERED_FILE, "landed file")
    assert "nothing could be compared" in break_.likeliest.evidence


@pytest.mark.parametrize("whole", [True, False])
def test_landing_that_expired_by_rule_is_an_event(scene: Scene, whole: bool) -> None:
    key = scene.snapshot.key() if whole else scene.snapshot.tables["trade"].key
    scene.store.delete(key)
    (break_,) = scene.reconcile_by(Retention({"landing": 1})).breaks
    assert (break_.kind, break_.severity) == (BreakKind.EXPIRED_FILE, BreakSeverity.EVENT)
    assert break_.subject == scene.snapshot.key()
    assert break_.likeliest.cause is BreakCause.LANDING_EXPIRED
    assert f"expired on {scene.snapshot.snapshot_at.date() + dt.timedelta(days=1)}" in break_.likeliest.evidence


def test_landing_missing_before_its_rule_is_an_error(scene: Scene) -> None:
    scene.store.delete(scene.snapshot.key())
    (break_,) = scene.reconcile_by(Retention({"landing": 36_500})).breaks
    assert (break_.kind, break_.severity) == (BreakKind.ALTERED_FILE, BreakSeverity.ERROR)
    assert break_.likeliest.cause is BreakCause.LANDING_ALTERED


def test_file_fault_is_found_without_a_landing(undelivered: Scene) -> None:
    frames = dict(undelivered.frames)
    frames["movement_transactions"] = frames["movement_transactions"].filter(pl.col("transaction_id") != "C102")
    undelivered.deliver(frames=frames)
    undelivered.store.delete(undelivered.snapshot.key())
    breaks = {break_.subject: break_ for break_ in undelivered.reconcile().breaks}
    assert breaks.keys() == {"C102", undelivered.snapshot.key()}
