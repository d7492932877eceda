"""The checks over written files: each finds its fault in the bytes."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.checks import (
    control_totals_agree,
    document_valid,
    everyone_consented,
    examine_build,
    held_back_share,
)
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.wording import counted
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    DAY1,
    DAY2,
    FORMAT,
    Day,
    build,
    deliver,
    on_s3_too,
    plan,
    simple,
)

Edit = Callable[[bytes], bytes]


def edited(store: ObjectStore, staged_build: Build, edit: Edit, page: int = 0) -> Build:
    """Return the build with one page's file changed and its record adapted, so that only the content differs."""
    key = staged_build.pages[page].key
    store.put(key, gzip.compress(edit(gzip.decompress(store.read(key)))))
    return staged_build


@pytest.fixture
def day() -> Day:
    return simple()


@pytest.fixture
def staged_build(local_store: ObjectStore, day: Day) -> Build:
    return build(local_store, day)


@on_s3_too
def test_checks_pass_a_good_build(store: ObjectStore, day: Day) -> None:
    new_build = build(store, day)
    examined = examine_build(store, new_build, FORMAT)
    results = [
        document_valid(new_build, examined),
        everyone_consented(new_build, examined, day.active),
        control_totals_agree(new_build, examined),
    ]
    assert [(r.passed, r.offenders, r.total_offenders) for r in results] == [(True, (), 0)] * 3
    assert [r.summary for r in results] == [
        f"{counted(len(new_build.pages), 'page')} read back",
        f"5 portfolios in the bytes of {new_build.build_id}",
        f"control totals of {counted(len(new_build.pages), 'page')}, 10 records",
    ]


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda data: data + b"X|?\n", "a line of an unknown kind 'X'"),
        (
            lambda data: data.replace(b"|2023-01-03|", b"|2023-01-04|"),
            "its header states BusinessDate '2023-01-04', the record '2023-01-03'",
        ),
        (lambda data: data.replace(b"-r0-p1", b"-r0-p9"), "its header states MessageId"),
        (lambda data: data + b"A|P9|NEW\n", "is in the file and not in the record"),
        (
            lambda data: data.replace(b"A|P1|NEW\n", b"").replace(b"C|P1|", b"C|P2|"),
            "is in the record and not in the file",
        ),
        (lambda data: data, "is not the file that was built"),
    ],
)
def test_document_valid_names_the_fault(local_store: ObjectStore, staged_build: Build, edit: Edit, fault: str) -> None:
    edited(local_store, staged_build, edit)
    result = document_valid(staged_build, examine_build(local_store, staged_build, FORMAT))
    assert not result.passed
    assert any(fault in label for _, label in result.offenders)
    assert result.offenders[0][1] in result.summary


def test_missing_or_unreadable_page_is_invalid(local_store: ObjectStore, staged_build: Build, day: Day) -> None:
    local_store.delete(staged_build.pages[0].key)
    local_store.put(staged_build.pages[1].key, b"\x1f\x8b broken")
    examined = examine_build(local_store, staged_build, FORMAT)
    faults = document_valid(staged_build, examined).offenders
    missing = [label for where, label in faults if where == staged_build.pages[0].message_id]
    assert missing[:2] == ["is not the file that was built", "the file does not exist"]
    assert any("cannot be read to its end as lines" in label for _, label in faults)
    consent = everyone_consented(staged_build, examined, day.active)
    assert not consent.passed
    assert [where for where, _ in consent.offenders] == [page.message_id for page in staged_build.pages]
    assert not control_totals_agree(staged_build, examined).passed


def test_portfolio_in_the_bytes_must_consent(local_store: ObjectStore, staged_build: Build, day: Day) -> None:
    examined = examine_build(local_store, staged_build, FORMAT)
    result = everyone_consented(staged_build, examined, day.active - {"P2", "P5"})
    assert not result.passed
    assert result.offenders == (("P2", "does not consent now"), ("P5", "does not consent now"))


def test_file_other_than_the_built_one_is_inspected_for_consent(
    local_store: ObjectStore, staged_build: Build, day: Day
) -> None:
    edited(local_store, staged_build, lambda data: data.replace(b"C|P1|10.00", b"C|P1|99.00"))
    result = everyone_consented(staged_build, examine_build(local_store, staged_build, FORMAT), day.active)
    assert result.offenders == (
        (staged_build.pages[0].message_id, "is unreadable or changed: its portfolios are unknown"),
    )


def test_removed_portfolio_may_be_named_but_not_have_data(local_store: ObjectStore) -> None:
    deliver(local_store, simple(P1=["1.00"], P2=["2.00"]))
    day = Day(DAY2, {"P1": ("CURRENT", ("1.00",)), "P2": ("REMOVED", ())})
    new_build = build(local_store, day)
    assert everyone_consented(new_build, examine_build(local_store, new_build, FORMAT), {"P1"}).passed

    edited(local_store, new_build, lambda data: data.replace(b"C|P1|1.00", b"C|P2|1.00"))
    examined = examine_build(local_store, new_build, FORMAT)
    assert ("P2", "does not consent now") in everyone_consented(new_build, examined, {"P1"}).offenders
    assert ("P2", "is announced as removed, but the file has its data") in document_valid(new_build, examined).offenders


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (
            lambda data: data.replace(b"C|P1|10.00", b"C|P1|10.01"),
            "recomputed cash_credits in AUD is 10.01, expected 10.00",
        ),
        (
            lambda data: data.replace(b"C|P1|-2.50\n", b"C|P1|-3.50\n"),
            "recomputed cash_debits in AUD is -3.50, expected -2.50",
        ),
        (lambda data: data.replace(b"|7.50\n", b"|7.51\n"), "stated cash_amount in AUD is 7.51, expected 7.50"),
        (lambda data: data[: data.index(b"T|")], "the page states no control totals"),
        (lambda data: data.replace(b"T|2|2|", b"T|2|3|"), "stated count of cash is 3, expected 2"),
    ],
)
def test_control_totals_name_the_difference(local_store: ObjectStore, edit: Edit, fault: str) -> None:
    new_build = build(local_store, simple(P1=["10.00", "-2.50"], P2=[]))
    edited(local_store, new_build, edit)
    result = control_totals_agree(new_build, examine_build(local_store, new_build, FORMAT))
    assert not result.passed
    assert fault in {label for _, label in result.offenders}


def test_net_zero_error_is_detected(local_store: ObjectStore) -> None:
    """A debit and a credit too much cancel in the sum, and not in the sums apart."""
    new_build = build(local_store, simple(P1=["10.00", "-2.50"]))
    edited(local_store, new_build, lambda d: d.replace(b"10.00", b"11.00").replace(b"-2.50", b"-3.50"))
    assert not control_totals_agree(new_build, examine_build(local_store, new_build, FORMAT)).passed


def test_units_and_other_currencies_are_compared(local_store: ObjectStore, staged_build: Build) -> None:
    (item, *_) = examine_build(local_store, staged_build, FORMAT)
    wrong = replace(item, facts=replace(item.facts, totals=replace(item.facts.totals, units_held=Decimal("1.000000"))))
    assert "recomputed units_held is 1.000000, expected 0.000000" in {
        w for _, w in control_totals_agree(staged_build, [wrong]).offenders
    }


@pytest.mark.parametrize(
    ("counts", "fault"),
    [
        ({"accounts": 1}, "recomputed count of cash is 0, expected 1"),
        ({"accounts": 1, "cash": 1, "trades": 1}, "recomputed count of trades is 1, expected 0"),
    ],
)
def test_section_counted_by_one_side_is_a_fault(local_store: ObjectStore, counts: dict[str, int], fault: str) -> None:
    new_build = build(local_store, simple(P1=["10.00"]))
    (item,) = examine_build(local_store, new_build, FORMAT)
    wrong = replace(item, facts=replace(item.facts, totals=replace(item.facts.totals, counts=counts)))
    assert control_totals_agree(new_build, [wrong]).offenders == ((new_build.pages[0].message_id, fault),)


def test_held_back_share_above_the_limit_fails(local_store: ObjectStore) -> None:
    some = plan(local_store, replace(simple(), broken=["P1", "P2"]))
    assert held_back_share(some, Decimal("0.4")).passed
    result = held_back_share(some, Decimal("0.39"))
    assert not result.passed
    assert result.summary == "rules are broken by 2 of 5 portfolios, the limit is 0.39"
    assert [number for number, _ in result.offenders] == ["P1", "P2"]
    assert held_back_share(plan(local_store, Day(simple().date, {})), Decimal(0)).passed


def test_offenders_are_cut_at_twenty(local_store: ObjectStore) -> None:
    day = Day(DAY1, {f"P{at:02}": ("NEW", ["1.00"]) for at in range(30)})
    new_build = build(local_store, day)
    result = everyone_consented(new_build, examine_build(local_store, new_build, FORMAT), set())
    assert (len(result.offenders), result.total_offenders) == (20, 30)
