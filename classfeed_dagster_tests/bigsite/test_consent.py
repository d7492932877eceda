"""Consent: every case of granting, ending and granting again, at the cut-off and around it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.bigsite import consent
from classfeed_dagster.bigsite.consent import Consent, ConsentReadError, query_consented, sharing, standings
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import Window
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite
from classfeed_dagster_tests.fixtures.reading_back import CLASS, DAY, END, FIRST, MICRO, START, take

HOUR = dt.timedelta(hours=1)
BEFORE = START - dt.timedelta(days=30)
WINDOW = Window(START, END)
_FIELDS = tuple(Consent.__dataclass_fields__)

# A portfolio's consents, and its state at the cut-off of DAY.
CASES: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "none": ([], None),
    "granted long ago": ([{"granted_at": BEFORE}], "CURRENT"),
    "granted just before the previous cut-off": ([{"granted_at": START - MICRO}], "CURRENT"),
    "granted exactly at the previous cut-off": ([{"granted_at": START}], "NEW"),
    "granted just before the cut-off": ([{"granted_at": END - MICRO}], "NEW"),
    "granted exactly at the cut-off": ([{"granted_at": END}], None),
    "expired just before the previous cut-off": ([{"granted_at": BEFORE, "expires_at": START - MICRO}], None),
    "expired exactly at the previous cut-off": ([{"granted_at": BEFORE, "expires_at": START}], "REMOVED"),
    "expired just before the cut-off": ([{"granted_at": BEFORE, "expires_at": END - MICRO}], "REMOVED"),
    "expires exactly at the cut-off": ([{"granted_at": BEFORE, "expires_at": END}], "CURRENT"),
    "revoked just before the previous cut-off": ([{"granted_at": BEFORE, "revoked_at": START - MICRO}], None),
    "revoked exactly at the previous cut-off": ([{"granted_at": BEFORE, "revoked_at": START}], "REMOVED"),
    "revoked just before the cut-off": ([{"granted_at": BEFORE, "revoked_at": END - MICRO}], "REMOVED"),
    "revoked exactly at the cut-off": ([{"granted_at": BEFORE, "revoked_at": END}], "CURRENT"),
    "revoked before it would expire": (
        [{"granted_at": BEFORE, "expires_at": END + HOUR, "revoked_at": START + HOUR}],
        "REMOVED",
    ),
    "granted and revoked within the window": ([{"granted_at": START + HOUR, "revoked_at": START + 2 * HOUR}], None),
    "granted again within the window": (
        [{"granted_at": BEFORE, "revoked_at": START + HOUR}, {"granted_at": START + 2 * HOUR}],
        "CURRENT",
    ),
    "granted again after a gap": (
        [{"granted_at": BEFORE, "revoked_at": START - HOUR}, {"granted_at": START + HOUR}],
        "NEW",
    ),
    "one of several ended": ([{"granted_at": BEFORE, "expires_at": START + HOUR}, {"granted_at": BEFORE}], "CURRENT"),
    "to another recipient": ([{"granted_at": BEFORE, "recipient": "BGL"}], None),
    "no reference": ([{"granted_at": BEFORE, "reference": "  "}], None),
    "ended before it was granted": ([{"granted_at": BEFORE, "expires_at": BEFORE - MICRO}], None),
    "two references at one instant": (
        [{"granted_at": BEFORE, "reference": "A"}, {"granted_at": BEFORE, "reference": "B"}],
        None,
    ),
    "one reference twice at one instant": (
        [{"granted_at": BEFORE, "reference": "A"}, {"granted_at": BEFORE, "reference": "A"}],
        "CURRENT",
    ),
    "the latest names no fund": (
        [{"granted_at": BEFORE, "reference": "A"}, {"granted_at": BEFORE + HOUR, "reference": ""}],
        None,
    ),
    "an older one named no fund": (
        [{"granted_at": BEFORE, "reference": ""}, {"granted_at": BEFORE + HOUR, "reference": "A"}],
        "CURRENT",
    ),
    "became ambiguous within the window": (
        [
            {"granted_at": BEFORE, "reference": "A"},
            {"granted_at": START + HOUR, "reference": "B"},
            {"granted_at": START + HOUR, "reference": "C"},
        ],
        "REMOVED",
    ),
}


def _all_cases(bigsite: Bigsite) -> dict[str, str]:
    """Add a portfolio for each case; return the number by case."""
    numbers = {}
    for case, (consents, _) in CASES.items():
        portfolio = bigsite.portfolio()
        portfolio.cash_account()
        numbers[case] = portfolio.number
        for item in consents:
            portfolio.consent(**item)
    return numbers


@pytest.fixture
def numbers(bigsite_engine: sa.Engine) -> dict[str, str]:
    bigsite = Bigsite(bigsite_engine)
    numbers = _all_cases(bigsite)
    bigsite.end_of_day(DAY).save()
    return numbers


def test_snapshot_of_every_consent_case_follows_the_rule(
    bigsite_engine: sa.Engine, local_store: ObjectStore, numbers: dict[str, str]
) -> None:
    snapshot, landed = take(bigsite_engine, local_store)
    rows = [Consent(*row) for row in landed["data_sharing_consent"].select(_FIELDS).iter_rows()]
    shared = sharing(rows, "CLASS", WINDOW, first=False)
    matches = {item.standing.portfolio_number: str(item.change) for item in shared}
    assert matches == {numbers[case]: change for case, (_, change) in CASES.items() if change}
    listed = [item.standing.portfolio_number for item in shared]
    assert listed == sorted(listed)
    assert sum(part.portfolios for part in snapshot.slices) == len(listed)
    read = {numbers[case] for case, (_, change) in CASES.items() if change in ("NEW", "CURRENT")}
    assert landed["portfolio"].height == len(read)


def test_consents_on_the_first_date_are_all_new_and_none_removed() -> None:
    bigsite = Bigsite()
    numbers = _all_cases(bigsite)
    shared = sharing(_consents(bigsite), "CLASS", WINDOW, first=True)
    matches = {item.standing.portfolio_number: str(item.change) for item in shared}
    assert matches == {numbers[case]: "NEW" for case, (_, change) in CASES.items() if change in ("NEW", "CURRENT")}


@pytest.mark.parametrize("when", ["start", "end"])
def test_query_consented_at_publishing_equals_the_snapshot(
    bigsite_engine: sa.Engine, numbers: dict[str, str], when: str
) -> None:
    at, changes = (START, ("CURRENT", "REMOVED")) if when == "start" else (END, ("CURRENT", "NEW"))
    statements: list[str] = []
    sa.event.listen(bigsite_engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    asked_at, consents = query_consented(bigsite_engine, "CLASS", at=at)
    assert asked_at == at
    assert consents == {numbers[case] for case, (_, change) in CASES.items() if change in changes}
    assert len(statements) == 1


def test_query_consented_reads_rows_again_only_after_a_change(
    bigsite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bigsite = Bigsite(bigsite_engine)
    stays, goes = bigsite.portfolio("STAYS").consent(BEFORE), bigsite.portfolio("GOES").consent(BEFORE)
    bigsite.save()
    read: list[object] = []
    rule = consent.standings

    def counting(rows: Iterable[Consent], recipient: str, at: dt.datetime) -> dict[int, consent.Standing]:
        read.append(rows)
        return rule(rows, recipient, at)

    monkeypatch.setattr(consent, "standings", counting)

    def ask(at: dt.datetime = END) -> tuple[set[str], int]:
        read.clear()
        queried_at, consented = query_consented(bigsite_engine, "CLASS", at=at)
        assert queried_at == at
        return consented, len(read)

    assert ask() == ({"STAYS", "GOES"}, 2)
    assert ask() == ({"STAYS", "GOES"}, 0)
    assert ask(END + HOUR) == ({"STAYS", "GOES"}, 0)  # the same rows are active
    assert query_consented(bigsite_engine, "CLASS", ["GOES", "UNKNOWN"], END)[1] == {"GOES"}
    goes.consents[0]["revoked_at"] = END
    bigsite.save()
    assert ask() == ({"STAYS", "GOES"}, 2)  # a value changed, not the result
    assert ask(END + MICRO) == ({"STAYS"}, 1)
    assert ask(BEFORE) == (set(), 0)  # no row is active
    stays.consents[0]["recipient_reference"] = " "
    bigsite.save()
    assert ask() == ({"GOES"}, 2)
    assert query_consented(bigsite_engine, "BGL", at=END)[1] == set()


def test_consent_revoked_after_the_snapshot_is_known_when_publishing(
    bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    bigsite = Bigsite(bigsite_engine)
    stays, goes = bigsite.portfolio("STAYS").consent(), bigsite.portfolio("GOES").consent()
    for portfolio in (stays, goes):
        portfolio.cash_account()
    bigsite.end_of_day(DAY).save()
    snapshot, _ = take(bigsite_engine, local_store)
    assert [part.portfolios for part in snapshot.slices] == [2]
    goes.consents[0]["revoked_at"] = END + HOUR
    bigsite.save()
    before = dt.datetime.now(dt.UTC)
    asked_at, consents = query_consented(bigsite_engine, "CLASS", ["GOES", "STAYS", "UNKNOWN"])
    assert consents == {"STAYS"}
    assert abs(asked_at - before) < dt.timedelta(minutes=5)
    assert query_consented(bigsite_engine, "CLASS", ["GOES"], at=END)[1] == {"GOES"}


def test_consents_of_several_portfolios_may_have_any_ids(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    """Ids are given in order of the grants; a portfolio's consents need not follow one another."""
    bigsite = Bigsite(bigsite_engine)
    second, first = bigsite.portfolio("B"), bigsite.portfolio("A")
    first.consent(BEFORE, history_from=DAY)
    second.consent(BEFORE - HOUR, reference="")
    second.consent(BEFORE)
    first.consent(BEFORE)
    first.consent(BEFORE - HOUR, reference=" ")
    second.consent(BEFORE - HOUR, history_from=DAY, reference="")
    ended = bigsite.portfolio("C").consent(START + HOUR, revoked_at=START + 2 * HOUR)
    for portfolio in (first, second, ended):
        portfolio.cash_account()
    bigsite.end_of_day(DAY).save()
    snapshot, tables = take(bigsite_engine, local_store)
    ids = [row["consent_id"] for portfolio in (first, second) for row in portfolio.consents]
    landed = tables["data_sharing_consent"]
    assert landed["consent_id"].to_list() == ids
    assert landed["portfolio_number"].to_list() == ["A"] * 3 + ["B"] * 3
    assert snapshot.unreadable_consents == (2, 5, 6)
    assert landed["history_from"].to_list() == [DAY, None, None, None, None, DAY]


def test_consent_granted_again_continues_whatever_ids_are_between(
    bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    bigsite = Bigsite(bigsite_engine)
    again, other = bigsite.portfolio("A"), bigsite.portfolio("B")
    again.consent(BEFORE, revoked_at=START + HOUR)
    other.consent(BEFORE)
    again.consent(START + 2 * HOUR)
    again.deposit("5.00", BEFORE.date(), recorded_at=BEFORE)
    other.cash_account()
    bigsite.end_of_day(DAY).save()
    _, tables = take(bigsite_engine, local_store)
    assert tables["data_sharing_consent"]["consent_id"].to_list() == [1, 3, 2]
    assert tables["cash_transaction"].is_empty()  # CURRENT: only the rows of the window are read


def test_consent_query_without_rows_is_empty(bigsite_engine: sa.Engine) -> None:
    assert query_consented(bigsite_engine, "CLASS", at=END) == (END, set())


def test_consent_query_that_fails_never_grants(bigsite_engine: sa.Engine) -> None:
    with bigsite_engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE bigsite.data_sharing_consent"))
    with pytest.raises(ConsentReadError, match="nothing is sent"):
        query_consented(bigsite_engine, "CLASS")


def test_consent_dates_beyond_python_are_clamped(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    bigsite = Bigsite(bigsite_engine)
    for number in ("ENDLESS", "ALWAYS"):
        bigsite.portfolio(number).consent().cash_account()
    bigsite.end_of_day(DAY).save()
    with bigsite_engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE bigsite.data_sharing_consent SET granted_at = '-infinity', expires_at = 'infinity', "
                "revoked_at = '20000-01-01', history_from = CASE portfolio_id WHEN 1 THEN DATE '-infinity' END"
            )
        )
    snapshot, _ = take(bigsite_engine, local_store)
    assert snapshot.slices[0].portfolios == 2
    assert query_consented(bigsite_engine, "CLASS")[1] == {"ENDLESS", "ALWAYS"}


def test_snapshot_of_several_consents_takes_earliest_history() -> None:
    bigsite = Bigsite()
    portfolio = bigsite.portfolio()
    portfolio.consent(BEFORE, history_from="2022-07-01", reference="OLD")
    portfolio.consent(BEFORE + HOUR, history_from="2022-10-01", reference="NEW")
    portfolio.consent(BEFORE - HOUR, history_from="2021-07-01", reference="ENDED", revoked_at=START)
    standing = standings(_consents(bigsite), "CLASS", END)[portfolio.id]
    assert (standing.recipient_reference, standing.history_from) == ("NEW", dt.date(2022, 7, 1))
    assert standing.consent_ids == (1, 2)
    portfolio.consent(BEFORE, history_from=None, reference="ALL")
    standing = standings(_consents(bigsite), "CLASS", END)[portfolio.id]
    assert (standing.recipient_reference, standing.history_from) == ("NEW", None)


def test_unreadable_consents_are_named_for_correction(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    bigsite = Bigsite(bigsite_engine)
    portfolio = bigsite.portfolio().consent(BEFORE).consent(BEFORE - HOUR, reference=" ")
    portfolio.cash_account()
    bigsite.end_of_day(DAY).save()
    snapshot, landed = take(bigsite_engine, local_store)
    assert snapshot.unreadable_consents == (2,)
    assert landed["portfolio"].height == 1
    assert consent.unreadable(_consents(bigsite)) == [2]
    nameless = Consent(9, 1, "X", "CLASS", None, None, None, None, None)
    assert not nameless.readable()
    assert not nameless.active(END)
    withdrawn = Consent(9, 1, "X", "CLASS", "FUND", None, granted_at=START, expires_at=None, revoked_at=START)
    assert withdrawn.readable(), "withdrawn at once is no mistake, and gives nothing away"
    assert not any(withdrawn.active(at) for at in (START - MICRO, START, START + MICRO))
    assert not replace(withdrawn, revoked_at=START - MICRO).readable()


_instants = st.sampled_from([START - HOUR, START - MICRO, START, START + MICRO, END - MICRO, END, END + MICRO])
_consent = st.builds(
    Consent,
    consent_id=st.integers(1, 99),
    portfolio_id=st.integers(1, 3),
    portfolio_number=st.just("P"),
    recipient=st.sampled_from(["CLASS", "BGL"]),
    recipient_reference=st.sampled_from(["A", "B", "", None]),
    history_from=st.none() | st.dates(dt.date(2020, 1, 1), FIRST),
    granted_at=st.none() | _instants,
    expires_at=st.none() | _instants,
    revoked_at=st.none() | _instants,
)


@given(st.lists(_consent, max_size=8))
def test_current_consents_are_previous_plus_new_less_removed(consents: list[Consent]) -> None:
    standing_before, standing_now = standings(consents, "CLASS", START), standings(consents, "CLASS", END)
    before, now = set(standing_before), set(standing_now)
    by = {"NEW": set[int](), "CURRENT": set[int](), "REMOVED": set[int]()}
    for shared in sharing(consents, "CLASS", WINDOW, first=False):
        by[shared.change].add(shared.standing.portfolio_id)
    assert (before | by["NEW"]) - by["REMOVED"] == now == by["NEW"] | by["CURRENT"]
    for portfolio_id in before & now:
        same = standing_before[portfolio_id].recipient_reference == standing_now[portfolio_id].recipient_reference
        assert (portfolio_id in by["CURRENT"]) is same


def _consents(bigsite: Bigsite) -> list[Consent]:
    return [
        Consent(*({**row.values, "portfolio_number": portfolio.number}[name] for name in _FIELDS))
        for portfolio in bigsite.portfolios
        for row in portfolio.consents
    ]


def test_test_audience_has_the_stated_window() -> None:
    assert CLASS.window(DAY) == WINDOW
