"""Consented portfolios of a date: new, current and removed, and the rollforward from the previous date."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.bigsite.consent import Consent
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS
from classfeed_dagster.domains.consented_portfolios import consent_roll, consented_portfolios, consents_of
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.landed import CLASS, CUTOFF, LONG_AGO, TODAY, D, instant, landed

BEFORE = "2023-01-30T00:00:00Z"


def _rows(*consents: dict[str, object]) -> list[tuple[object, ...]]:
    frame = consented_portfolios(landed(data_sharing_consent=consents), CLASS, D)
    assert frame.schema == pl.Schema(CONSENTED_PORTFOLIOS.schema)
    return frame.select("portfolio_number", "change", "extract").rows()


def test_portfolio_is_new_current_or_removed_by_its_consents() -> None:
    assert _rows(
        {"portfolio_id": 3, "portfolio_number": "SW3"},
        {"portfolio_id": 2, "portfolio_number": "SW2", "granted_at": TODAY},
        {"portfolio_id": 1, "portfolio_number": "SW1", "revoked_at": TODAY},
    ) == [("SW1", "REMOVED", "NONE"), ("SW2", "NEW", "FULL"), ("SW3", "CURRENT", "DELTA")]


def test_consent_event_at_the_cutoff_belongs_to_the_next_window() -> None:
    assert _rows({"expires_at": CUTOFF}) == [("SW000001", "CURRENT", "DELTA")]
    assert _rows({"revoked_at": CUTOFF}) == [("SW000001", "CURRENT", "DELTA")]
    assert _rows({"granted_at": CUTOFF}) == []


def test_consent_that_returns_after_a_gap_is_new_again() -> None:
    assert _rows({"revoked_at": BEFORE}, {"granted_at": TODAY}) == [("SW000001", "NEW", "FULL")]


def test_consent_renewed_without_a_gap_stays_current() -> None:
    assert _rows({"revoked_at": TODAY}, {"granted_at": TODAY}) == [("SW000001", "CURRENT", "DELTA")]


def test_new_recipient_reference_is_another_fund_with_full_history() -> None:
    renewed = consented_portfolios(
        landed(
            data_sharing_consent=[
                {"revoked_at": TODAY, "history_from": "2022-07-01"},
                {"granted_at": TODAY, "recipient_reference": "FUND2", "history_from": "2022-01-01"},
            ]
        ),
        CLASS,
        D,
    ).row(0, named=True)
    assert (renewed["change"], renewed["recipient_reference"], renewed["consent_ids"]) == ("NEW", "FUND2", [2])
    assert renewed["extract"] == "FULL"
    assert renewed["history_from"] == dt.date(2022, 1, 1)


def test_consents_in_parallel_take_earliest_history_latest_reference() -> None:
    shared = consented_portfolios(
        landed(
            data_sharing_consent=[
                {"granted_at": LONG_AGO, "history_from": "2021-07-01", "recipient_reference": "A"},
                {"granted_at": BEFORE, "history_from": "2022-07-01", "recipient_reference": "B"},
            ]
        ),
        CLASS,
        D,
    ).row(0, named=True)
    assert (shared["history_from"], shared["recipient_reference"]) == (dt.date(2021, 7, 1), "B")
    assert shared["consent_ids"] == [1, 2]


def test_consent_for_another_recipient_does_not_count() -> None:
    assert _rows({"recipient": "BGL"}) == []


def test_consents_on_the_first_date_are_all_new() -> None:
    first = RecipientSchedule("CLASS", D)
    missing = {"portfolio_id": 2, "portfolio_number": "SW2", "revoked_at": TODAY}
    frame = consented_portfolios(landed(data_sharing_consent=[{}, missing]), first, D)
    assert frame["change"].to_list() == ["NEW"]
    roll = consent_roll(consents_of(landed(data_sharing_consent=[{}, missing])), frame, first, D)
    assert (roll.previous, roll.new, roll.removed, roll.current, roll.balanced) == (0, 1, 0, 1, True)
    assert roll.removed_share == 0
    assert not roll.exceeds(Decimal(1))


def test_date_outside_the_audiences_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="not a date of CLASS's weekly feed"):
        consented_portfolios(landed(), RecipientSchedule("CLASS", dt.date(2023, 1, 3), Cadence.WEEKLY), D)


_instants = st.sampled_from(
    [
        None,
        *(instant(text) for text in (LONG_AGO, BEFORE, "2023-01-31T13:00:00Z", TODAY, CUTOFF, "2023-02-02T00:00:00Z")),
    ]
)


@st.composite
def _consents(draw: st.DrawFn) -> list[Consent]:
    return [
        Consent(
            consent_id,
            portfolio := draw(st.integers(1, 4)),
            f"SW{portfolio}",
            draw(st.sampled_from(["CLASS", "BGL"])),
            draw(st.sampled_from(["A", "B", "", None])),
            None,
            draw(_instants),
            draw(_instants),
            draw(_instants),
        )
        for consent_id in range(1, draw(st.integers(0, 8)) + 1)
    ]


@examples(60)
@given(_consents())
def test_current_is_previous_plus_new_less_removed(consents: list[Consent]) -> None:
    tables = landed()
    rows = [{name: getattr(row, name) for name in Consent.__dataclass_fields__} for row in consents]
    tables["data_sharing_consent"] = pl.DataFrame(rows, schema=tables["data_sharing_consent"].schema)
    frame = consented_portfolios(tables, CLASS, D)
    roll = consent_roll(consents, frame, CLASS, D)
    assert roll.balanced
    assert roll.previous + roll.new - roll.removed == roll.current
    assert frame["portfolio_number"].is_sorted()
    assert frame["portfolio_number"].n_unique() == frame.height


def test_frame_that_differs_from_the_consents_does_not_balance() -> None:
    tables = landed(data_sharing_consent=[{}, {"portfolio_id": 2, "portfolio_number": "SW2", "revoked_at": TODAY}])
    consents, frame = consents_of(tables), consented_portfolios(tables, CLASS, D)
    roll = consent_roll(consents, frame, CLASS, D)
    assert (roll.balanced, roll.removed_numbers, str(roll.removed_share)) == (True, ("SW2",), "0.5")
    for wrong in (
        frame.filter(pl.col("change") != "REMOVED"),
        frame.with_columns(pl.lit("NEW").alias("change")),
        frame.with_columns(pl.lit("REMOVED").alias("change")),
    ):
        assert not consent_roll(consents, wrong, CLASS, D).balanced


def test_date_without_remaining_consents_is_reported() -> None:
    tables = landed(data_sharing_consent=[{"revoked_at": TODAY}])
    roll = consent_roll(consents_of(tables), consented_portfolios(tables, CLASS, D), CLASS, D)
    assert roll.exceeds(Decimal(1))
    assert roll.removed_share == 1
    assert not replace(roll, previous=0).exceeds(Decimal(1))
