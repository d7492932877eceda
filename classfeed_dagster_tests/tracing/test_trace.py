"""Tracing a transaction and a holding, from what was delivered back to bigsite's rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import io
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from classfeed_dagster.cli import trace as trace_command
from classfeed_dagster.cli.trace import _print_numbers, _print_path, _sighting
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.errors import DataError
from classfeed_dagster.feeds.class_super import FEED as CLASS_SUPER
from classfeed_dagster.retention import Retention
from classfeed_dagster.store import ObjectNotFoundError, address
from classfeed_dagster.tracing.numbers import NumberRow, links_of
from classfeed_dagster.tracing.source_rows import NotACashAccountError, NotAHoldingError
from classfeed_dagster.tracing.trace import CashTrace, HoldingTrace, trace, trace_cash, trace_holding
from classfeed_dagster.tracing.trace_page import cash_page, holding_page, transaction_page
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter

MONDAY = "2026-03-02"
DAY = dt.date(2026, 3, 2)


def breaks(*of: tuple[str, str]) -> bytes:
    """Return breaks of these portfolios and subjects, as a reconciliation stores them."""
    content = io.BytesIO()
    columns = {"kind": "value differs", "field": "units", "ours": "75", "theirs": None, "cause": "not explained"}
    pl.DataFrame([{"portfolio_number": number, "subject": subject, **columns} for number, subject in of]).write_parquet(
        content
    )
    return content.getvalue()


def deliver(desk: Desk) -> None:
    """Deliver two portfolios, one held back; a security that is renamed the day after."""
    renamed = desk.bigsite.security("WPL", price={"2026-02-27": "33.00"})
    desk.bigsite.code_change(renamed, "2026-03-03", "WDS")
    for number in ("SW00000001", "SW00000002"):
        portfolio = desk.bigsite.portfolio(number).consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("10000.00", "2026-02-23")
        portfolio.buy(renamed, "100", "33.00", "2026-02-24")
        portfolio.sell(renamed, "30", "33.00", "2026-02-25")
        portfolio.security_movement(renamed, "TRANSFER_IN", "5", on="2026-02-26")
    desk.bigsite.end_of_day(MONDAY)
    desk.break_units(desk.bigsite.portfolios[1], MONDAY)
    desk.bigsite.save()
    desk.run(MONDAY)
    prefix = "reconciliation/class_super/2026-03-02/abc"
    desk.runtime.store.create(f"{prefix}/report.html", b"<html></html>")
    desk.runtime.store.create(f"{prefix}/breaks.parquet", breaks(("SW00000001", "T1"), ("SW00000001", "ASX WPL")))
    desk.runtime.store.create("reconciliation/class_super/2026-03-02/def/report.html", b"<html></html>")  # cut short


@pytest.fixture
def delivered(live_desk_after: DeskAfter) -> Desk:
    """Return the desk after the delivery."""
    return live_desk_after(deliver)


def holding(desk: Desk, number: str, code: str = "WPL") -> HoldingTrace:
    return trace_holding(
        desk.runtime.engine, desk.runtime.store, "class_super", number, ("ASX", code), DAY, document_format=EPI
    )


def test_holding_is_traced_to_every_row_behind_its_units(delivered: Desk) -> None:
    record = holding(delivered, "SW00000001")
    assert (record.stated, record.ledger) == (Decimal("75.000000"), Decimal("75.000000"))
    assert [(row.transaction_id, row.units) for row in record.rows] == [
        ("T1", Decimal("100.000000")),
        ("T2", Decimal("-30.000000")),
        ("S1", Decimal("5.000000")),
    ]
    (sighting,) = record.sightings
    assert sighting.in_landed_file
    assert "/landing/2026-03-02/holding_eod/" in sighting.landed_location
    (place,) = sighting.places
    assert place.element == "InvestmentHolding"
    assert record.price == (dt.date(2026, 2, 27), Decimal("33.000000"))
    assert [reconciliation.verdict for reconciliation in record.reconciliations] == [
        "value differs in units: ours 75, theirs (none) (not explained)",
        "no break",
    ]
    assert [result.report.rpartition("/")[2] for result in record.reconciliations] == ["report.html", "report.html"]
    page = holding_page(record, "class_super")
    for text in (
        "T2",
        "-30.000000",
        "33.000000 on 2026-02-27",
        "sends no acknowledgement",
        "InvestmentHolding",
        "no break",
    ):
        assert text in page


def expire(desk: Desk) -> None:
    for key in list(desk.runtime.store.list("landing/")):
        desk.runtime.store.delete(key)


def test_trace_after_the_landing_expired_states_when(delivered: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    number, security = "SW00000001", ("ASX", "WPL")
    expire(delivered)
    runtime, rules = delivered.runtime, Retention({"landing": 0})
    record = trace_holding(
        runtime.engine, runtime.store, "class_super", number, security, DAY, document_format=EPI, retention=rules
    )
    (sighting,) = record.sightings
    day = sighting.delivery.manifest.snapshot.snapshot_at.date()
    assert (sighting.landed_expired_on, sighting.in_landed_file) == (day, False)
    assert sighting.places
    assert f"expired by rule on {day}" in holding_page(record, "class_super")
    _print_path(record.sightings, record.held_back, [])
    assert f"expired by rule on {day}" in capsys.readouterr().out
    assert _sighting(sighting)["landed_expired_on"] == day


def test_trace_of_a_landing_missing_before_its_rule_fails(delivered: Desk) -> None:
    expire(delivered)
    with pytest.raises(ObjectNotFoundError):
        holding(delivered, "SW00000001")


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("delivered/class_super/2026-03-02/r0/class_super-", "it is not the page that the manifest names"),
        ("landing/2026-03-02/snapshot/", "it isn't the descriptor that the manifest names"),
        ("landing/2026-03-02/holding_eod/", "its SHA-256 differs"),
    ],
)
def test_trace_through_a_damaged_file_names_it(delivered: Desk, prefix: str, says: str) -> None:
    (key,) = delivered.runtime.store.list(prefix)
    path = Path(delivered.runtime.store.location(key))
    path.chmod(0o600)
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=says) as refused:
        holding(delivered, "SW00000001")
    assert str(path) in str(refused.value)


def test_trace_of_a_missing_page_asks_to_restore_it(delivered: Desk) -> None:
    (key,) = delivered.runtime.store.list("delivered/class_super/2026-03-02/r0/class_super-")
    delivered.runtime.store.delete(key)
    with pytest.raises(DataError, match="is missing.*restore the object's earlier version"):
        holding(delivered, "SW00000001")


def test_held_back_holding_shows_its_reasons(delivered: Desk) -> None:
    row = holding(delivered, "SW00000002")
    assert (row.stated, row.ledger) == (Decimal("76.000000"), Decimal("75.000000"))
    assert row.sightings == []
    for entries in (row.held_back.at_delivery, row.held_back.now):
        ((day, reason),) = entries
        assert day == DAY
        assert "units_ledger" in reason
    page = holding_page(row, "class_super")
    assert page.count("units_ledger") == 2
    assert "whose delivery held the portfolio back" in page
    assert "Not in any document yet" in page


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [("SW9", "WPL", "no portfolio SW9"), ("SW00000001", "WDS", "no security ASX:WDS on 2026-03-02")],
)
def test_unknown_holding_names_the_missing_part(delivered: Desk, number: str, code: str, says: str) -> None:
    with pytest.raises(NotAHoldingError, match=says):
        holding(delivered, number, code)


def test_holding_without_a_row_shows_none(delivered: Desk) -> None:
    delivered.bigsite.security("ZZZ")
    delivered.bigsite.save()
    row = holding(delivered, "SW00000001", "ZZZ")
    assert (row.stated, row.updated_at, row.rows, row.sightings) == (None, None, [], [])
    assert row.price is None
    assert "no row" in holding_page(row, "class_super")


def test_transaction_names_its_dates_reconciliation(delivered: Desk) -> None:
    audience = CLASS_SUPER.audience(DAY)
    record = trace(
        delivered.runtime.engine, delivered.runtime.store, "class_super", audience, "T1", document_format=EPI
    )
    assert [sighting.delivery.manifest.business_date for sighting in record.sightings] == [DAY]
    assert [reconciliation.breaks == [] for reconciliation in record.reconciliations] == [False, True]
    assert len(record.reconciliations) == 2
    page = transaction_page(record, "class_super")
    for text in (
        "bigsite.trade, trade_id = 1",
        "SW00000001",
        "revision 0",
        "the latest revision",
        "value differs in units",
    ):
        assert text in page
    assert page.count("<main>") == 1
    missing = trace(
        delivered.runtime.engine, delivered.runtime.store, "class_super", audience, "T999", document_format=EPI
    )
    assert missing.source is None
    with pytest.raises(ValueError, match="T999"):
        transaction_page(missing, "class_super")


def test_unreconciled_record_is_shown_as_such(delivered: Desk) -> None:
    row = dataclasses.replace(holding(delivered, "SW00000001"), reconciliations=())
    assert "No reconciliation" in holding_page(row, "class_super")


def cash(desk: Desk, number: str, account: str = "AUD") -> CashTrace:
    runtime = desk.runtime
    return trace_cash(runtime.engine, runtime.store, "class_super", number, account, DAY, document_format=EPI)


def test_cash_balance_is_traced_to_every_row_behind_it(delivered: Desk) -> None:
    accounts = pl.read_database(
        "SELECT cash_account_id, account_number FROM bigsite.cash_account ORDER BY 1",
        delivered.runtime.engine.connect(),
    ).rows()
    account_id, account_number = accounts[0]
    subject = f"~{hashlib.sha256(f'SW00000001|{account_number}'.encode()).hexdigest()[:8]} AUD"
    prefix = "reconciliation/class_super/2026-03-02/ghi"
    delivered.runtime.store.create(f"{prefix}/report.html", b"<html></html>")
    delivered.runtime.store.create(f"{prefix}/breaks.parquet", breaks(("SW00000001", subject)))
    record = cash(delivered, "SW00000001")
    assert (record.cash_account_id, record.stated, record.ledger) == (account_id, record.ledger, record.stated)
    assert record.rows[0].transaction_id == "C1"
    assert record.rows[0].amount == Decimal("10000.00")
    assert len(record.rows) == 3  # the deposit and what the two trades settle
    (sighting,) = record.sightings
    assert sighting.in_landed_file
    assert "/landing/2026-03-02/cash_balance_eod/" in sighting.landed_location
    assert [place.element for place in sighting.places] == ["AccountBalance"]
    assert [bool(reconciliation.breaks) for reconciliation in record.reconciliations] == [False, False, True]
    assert cash(delivered, "SW00000001", str(account_id)) == record
    page = cash_page(record, "class_super")
    for text in ("C1", "+10000.00", f"cash_account_id = {account_id}", "AccountBalance", "no break"):
        assert text in page
    assert account_number not in page + repr(record)


def test_held_back_cash_balance_shows_its_reasons(delivered: Desk) -> None:
    record = cash(delivered, "SW00000002")
    assert record.sightings == []
    assert "units_ledger" in cash_page(record, "class_super")


@pytest.mark.parametrize(
    ("number", "account", "says"),
    [
        ("SW9", "AUD", "no cash account of portfolio SW9"),
        ("SW00000001", "EUR", r"no cash account EUR: give one of CASH:\d+ \(AUD\)"),
    ],
)
def test_unknown_cash_account_names_the_choices(delivered: Desk, number: str, account: str, says: str) -> None:
    with pytest.raises(NotACashAccountError, match=says):
        cash(delivered, number, account)


def test_currency_of_two_accounts_asks_which(delivered: Desk) -> None:
    delivered.bigsite.portfolios[0].cash_account("AUD")
    delivered.bigsite.save()
    with pytest.raises(NotACashAccountError, match=r"several cash accounts AUD: give one of CASH:\d+ \(AUD\), CASH:"):
        cash(delivered, "SW00000001")


def test_numbers_link_to_file_document_and_asset(delivered: Desk) -> None:
    record = holding(delivered, "SW00000001")
    (sighting,) = record.sightings
    numbers = [NumberRow("Units", "1", "2", "3", "4")]
    page = holding_page(record, "class_super", numbers, "https://ui.example/")
    for location, number in ((sighting.landed_location, "2"), (sighting.page_location, "3")):
        assert location.startswith("/")
        assert f'<a href="file://{location}">{number}</a>' in page
    assert '<a href="https://ui.example/assets/warehouse/class_super/fact_holding_daily">4</a>' in page
    assert '<a href="https://ui.example/assets/class_super/delivery?partition=2026-03-02">' in page
    assert f'<a href="file://{sighting.snapshot_location}">' in page
    assert all(f'<a href="file://{result.report}">' in page for result in record.reconciliations)
    assert "https://" not in holding_page(record, "class_super", numbers)  # no UI is known


def test_number_that_a_place_lacks_is_no_link(delivered: Desk) -> None:
    numbers = [NumberRow("Units", "1", "2", "3", None)]
    page = holding_page(holding(delivered, "SW00000001"), "class_super", numbers, "https://ui.example/")
    assert "></a>" not in page


@pytest.mark.parametrize(("terminal", "marks"), [(True, True), (False, False)])
def test_terminal_shows_numbers_as_hyperlinks(
    delivered: Desk, monkeypatch: pytest.MonkeyPatch, terminal: bool, marks: bool
) -> None:
    record = holding(delivered, "SW00000001")
    screen = io.StringIO()
    console = Console(
        file=screen, force_terminal=terminal, color_system="standard" if terminal else None, width=400, highlight=False
    )
    monkeypatch.setattr(trace_command, "out", console)
    _print_path(record.sightings, record.held_back, record.reconciliations)
    _print_numbers([NumberRow("Units", "1", "2", "3", "4")], links_of(record, "class_super", None))
    assert (screen.getvalue().count(f";file://{record.sightings[0].page_location}\x1b") == 2) == marks
    assert ("\x1b" in screen.getvalue()) == marks


def test_address_of_an_object_in_s3_is_its_console_page() -> None:
    assert address("s3://bucket/a b/c.xml") == "https://console.aws.amazon.com/s3/object/bucket?prefix=a%20b/c.xml"
