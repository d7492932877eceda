"""The judge, judged: against a naive implementation, on random data with planted differences, and at its edges."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.reconciliation.compare import RowClass, compare, nothing_to_compare
from classfeed_dagster.reconciliation.rules import Field, FieldType, Rule, RuleError, Tolerance
from classfeed_dagster_tests.fixtures.examples import examples

TODAY = dt.date(2025, 3, 13)
RULE = Rule(
    "movements",
    (Field("portfolio_number"), Field("id")),
    (
        Field("amount", FieldType.MONEY),
        Field("units", FieldType.UNITS),
        Field("day", FieldType.DATE),
        Field("at", FieldType.INSTANT),
        Field("n", FieldType.COUNT),
    ),
)
NAMES = ("portfolio_number", "id", "amount", "units", "day", "at", "n")
GOOD = {
    "portfolio_number": "P1",
    "id": "T1",
    "amount": "1.00",
    "units": "2.000000",
    "day": "2025-03-12",
    "at": "2025-03-12T01:02:03.000004Z",
    "n": "7",
}


def table(*rows: dict[str, Any], excluded: bool = False) -> pa.Table:
    names = (*NAMES, "excluded") if excluded else NAMES
    return pa.Table.from_pylist(list(rows), schema=pa.schema([(name, pa.string()) for name in names]))


def row(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def tolerant(**tolerance: Any) -> Rule:
    return Rule(
        "t",
        RULE.keys,
        (Field("amount", FieldType.MONEY, Tolerance("ann", "agreed", TODAY, **tolerance)), *RULE.fields[1:]),
    )


# -- found = planted -----------------------------------------------------------------------------------------------------

PLANTS = ("change", "drop_left", "drop_right", "double_left", "double_right", "unparseable", "exclude")


@examples(20)
@given(data=st.data(), rows=st.integers(0, 40), staged=st.booleans())
def test_compare_finds_the_planted_differences(data: st.DataObject, rows: int, staged: bool) -> None:
    amounts = st.decimals(-(10**12), 10**12, places=2, allow_nan=False).map(lambda value: f"{value:.2f}")
    left = [
        row(id=f"T{at}", portfolio_number=f"P{data.draw(st.integers(0, 4))}", amount=data.draw(amounts), excluded=None)
        for at in range(rows)
    ]
    right = [dict(record) for record in left]
    keys = data.draw(st.sets(st.integers(0, max(rows - 1, 0)), max_size=min(rows, 8))) if rows else set()
    planted: dict[str, str] = {}
    gone_left: set[Any] = set()
    gone_right: set[Any] = set()
    for at in sorted(keys):
        subject = planted[f"T{at}"] = data.draw(st.sampled_from(PLANTS))
        if subject == "change":
            left[at]["amount"] = (
                f"{Decimal(left[at]['amount']) + data.draw(st.sampled_from([Decimal('0.01'), Decimal(-7)])):.2f}"
            )
        elif subject == "unparseable":
            left[at]["units"] = "1.0000001"  # more decimals than declared: never rounded away
        elif subject == "exclude":
            left[at]["excluded"] = "agreed"
        elif subject == "double_left":
            left.append(dict(left[at]))
        elif subject == "double_right":
            right.append(dict(right[at]))
        else:
            (gone_left if subject == "drop_left" else gone_right).add(at)
    ours = [record for at, record in enumerate(left) if at not in gone_left]
    theirs = [record for at, record in enumerate(right) if at not in gone_right]
    comparison = compare(
        RULE, table(*data.draw(st.permutations(ours)), excluded=True), table(*theirs), today=TODAY, staged=staged
    )

    names = {"change": "differs", "drop_left": "missing_left", "drop_right": "missing_right", "double_left": "duplicate_left",
             "double_right": "duplicate_right", "unparseable": "unparseable"}  # fmt: skip
    assert {difference.key[1]: difference.row_class.value for difference in comparison.differences} == {
        key: names[label] for key, label in planted.items() if label != "exclude"
    }
    assert all(
        difference.field == "amount"
        for difference in comparison.differences
        if difference.row_class is RowClass.DIFFERS
    )
    assert comparison.clean == (set(planted.values()) <= {"exclude"})
    assert (comparison.left_rows, comparison.right_rows) == (len(ours), len(theirs))
    for side, total in ((0, len(ours)), (1, len(theirs))):
        assert sum(counts[side] for counts in comparison.counts.values()) == total
    assert sum(comparison.excluded.values()) == 2 * list(planted.values()).count("exclude")


def naive(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> Counter[str]:
    """Compute the classes with plain dictionaries."""
    sides: list[dict[Any, list[Any]]] = [defaultdict(list), defaultdict(list)]
    for side, rows in zip(sides, (left, right), strict=True):
        for record in rows:
            side[record["portfolio_number"], record["id"]].append((Decimal(record["amount"]), record["day"]))
    matches: Counter[str] = Counter()
    for key in sides[0].keys() | sides[1].keys():
        ours, theirs = sides[0].get(key, []), sides[1].get(key, [])
        if len(ours) > 1:
            name = "duplicate_left"
        elif len(theirs) > 1:
            name = "duplicate_right"
        elif not ours:
            name = "missing_left"
        elif not theirs:
            name = "missing_right"
        else:
            name = "match" if ours == theirs else "differs"
        matches[name] += 1
    return matches


@examples(10)
@given(data=st.data())
def test_compare_equals_a_naive_comparison_and_is_symmetric(data: st.DataObject) -> None:
    rows = st.lists(
        st.builds(
            row,
            portfolio_number=st.sampled_from(["P1", "P2"]),
            id=st.sampled_from(["T1", "T2", "T3"]),
            amount=st.sampled_from(["1.00", "2.00"]),
            day=st.sampled_from(["2025-03-12", "2025-03-13"]),
        ),
        max_size=8,
    )
    left, right = data.draw(rows), data.draw(rows)
    fast = compare(RULE, table(*left), table(*right), today=TODAY)
    slow = compare(RULE, table(*left), table(*right), today=TODAY, staged=False)
    assert fast.counts == slow.counts
    assert fast.differences == slow.differences
    assert fast.clean == (not set(naive(left, right)) - {"match"})
    back = compare(RULE, table(*right), table(*left), today=TODAY)
    assert back.of(RowClass.MISSING_LEFT) == fast.of(RowClass.MISSING_RIGHT)
    assert back.of(RowClass.DIFFERS) == fast.of(RowClass.DIFFERS)
    keys: defaultdict[str, set[Any]] = defaultdict(set)
    for difference in slow.differences:
        keys[difference.row_class.value].add(difference.key)
    assert {name: len(key) for name, key in keys.items()} == {
        name: n for name, n in naive(left, right).items() if name != "match"
    }


# -- edges ---------------------------------------------------------------------------------------------------------------


def test_money_is_compared_exactly() -> None:
    comparison = compare(
        RULE, table(row(amount="9999999999999999.01")), table(row(amount="9999999999999999.02")), today=TODAY
    )
    (item,) = comparison.differences
    assert (item.field, item.left, item.right) == ("amount", "9999999999999999.01", "9999999999999999.02")
    assert item.key == ("P1", "T1")


def test_equal_totals_with_unequal_rows_do_not_pass() -> None:
    left = table(row(amount="1.00"), row(id="T2", amount="2.00"))
    right = table(row(amount="2.00"), row(id="T2", amount="1.00"))
    assert compare(RULE, left, right, today=TODAY).of(RowClass.DIFFERS) == 2


def test_compare_of_two_empty_sides_is_clean_and_stated() -> None:
    comparison = compare(RULE, table(), table(), today=TODAY)
    assert comparison.clean
    assert comparison.empty
    assert comparison == nothing_to_compare(RULE)


def test_instant_in_another_notation_is_equal() -> None:
    assert compare(
        RULE, table(row(at="2025-03-12T01:02:03Z")), table(row(at="2025-03-12T01:02:03.000000Z")), today=TODAY
    ).clean


@pytest.mark.parametrize(
    "change",
    [
        {"amount": "1.001"},
        {"amount": "1e2"},
        {"day": "12/03/2025"},
        {"at": "2025-03-12T01:02:03"},
        {"n": "1.5"},
        {"day": "2025-02-30"},
    ],
)
def test_value_of_another_type_is_unparseable(change: dict[str, str]) -> None:
    comparison = compare(RULE, table(row(**change)), table(row()), today=TODAY)
    assert comparison.of(RowClass.UNPARSEABLE) == 1
    assert not comparison.clean


def test_key_without_a_value_is_unparseable() -> None:
    for side in ("portfolio_number", "id"):
        comparison = compare(RULE, table(row(**{side: None}), row()), table(row()), today=TODAY)
        assert (comparison.counts[RowClass.UNPARSEABLE], comparison.counts[RowClass.MATCH]) == ((1, 0), (1, 1))
    right = compare(RULE, table(), table(row(id=None)), today=TODAY)
    assert right.counts[RowClass.UNPARSEABLE] == (0, 1)


def test_duplicates_are_reported_per_side() -> None:
    comparison = compare(RULE, table(row(), row()), table(row(), row(), row()), today=TODAY)
    assert comparison.counts[RowClass.DUPLICATE_LEFT] == (2, 0)
    assert comparison.counts[RowClass.DUPLICATE_RIGHT] == (0, 3)
    # Equal multisets with a duplicate: the digests agree, and the duplicate is still found.
    same = compare(RULE, table(row(), row()), table(row(), row()), today=TODAY)
    assert not same.clean


def test_tolerances_are_inclusive_and_keep_the_difference() -> None:
    rule = tolerant(lower=Decimal("-0.01"), upper=Decimal("0.02"))
    for amount, expected in (
        ("1.02", RowClass.WITHIN_TOLERANCE),
        ("0.99", RowClass.WITHIN_TOLERANCE),
        ("1.03", RowClass.DIFFERS),
        ("0.98", RowClass.DIFFERS),
    ):
        comparison = compare(rule, table(row(amount=amount)), table(row()), today=TODAY)
        assert comparison.of(expected) == 1
        assert comparison.differences[0].left == amount
    assert compare(rule, table(row(amount="1.01")), table(row()), today=TODAY).clean
    assert not compare(rule, table(row(amount=None)), table(row()), today=TODAY).clean


def test_date_tolerance_is_in_days() -> None:
    tolerance = Tolerance("ann", "agreed", TODAY, days=1)
    rule = Rule(
        "t",
        RULE.keys,
        tuple(Field(field.name, field.kind, tolerance if field.name == "day" else None) for field in RULE.fields),
    )
    assert compare(rule, table(row(day="2025-03-13")), table(row()), today=TODAY).of(RowClass.WITHIN_TOLERANCE) == 1
    assert compare(rule, table(row(day="2025-03-14")), table(row()), today=TODAY).of(RowClass.DIFFERS) == 1


def test_details_are_limited_and_counts_are_not() -> None:
    many = [row(id=f"T{at}") for at in range(30)]
    comparison = compare(RULE, table(*many), table(), today=TODAY, detail_limit=10)
    assert (len(comparison.differences), comparison.truncated, comparison.of(RowClass.MISSING_RIGHT)) == (10, True, 30)


def test_compare_reads_typed_parquet(tmp_path: Path) -> None:
    typed = pa.table(
        {
            "portfolio_number": ["P1"], "id": ["T1"], "amount": pa.array([Decimal("1.00")], pa.decimal128(38, 6)),
            "units": pa.array([2], pa.int32()), "day": pa.array([dt.date(2025, 3, 12)]),
            "at": pa.array([dt.datetime(2025, 3, 12, 1, 2, 3, 4, tzinfo=dt.UTC)], pa.timestamp("us", "UTC")), "n": pa.array([7], pa.int64()),
        }
    )  # fmt: skip
    path = tmp_path / "left.parquet"
    pq.write_table(typed, path)
    assert compare(RULE, path, table(row()), today=TODAY).clean
    assert compare(RULE, [path], typed, today=TODAY).clean
    floats = typed.set_column(2, "amount", pa.array([1.0]))
    with pytest.raises(RuleError, match="exact decimals or text"):
        compare(RULE, floats, typed, today=TODAY)
    with pytest.raises(RuleError, match="have no column amount"):
        compare(RULE, typed.drop_columns(["amount"]), typed, today=TODAY)


# -- rules ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("x", (), ()), "needs a key"),
        (Rule("x", (Field("portfolio_number"),), (Field("a"), Field("a"))), "each column once"),
        (Rule("x", (Field("a"),), ()), "not one of its keys"),
        (Rule("x", (Field("portfolio_number", tolerance=Tolerance("a", "b", TODAY)),), ()), "cannot have a tolerance"),
        (tolerant(lower=0.5), "not a float"),
        (tolerant(lower=Decimal(1), upper=Decimal(2)), "must contain 0"),
        (tolerant(days=-1), "days be 0 or more"),
        (tolerant(days=1), "days are for dates"),
        (Rule("x", RULE.keys, (Field("a", tolerance=Tolerance("a", "b", TODAY, upper=Decimal(1))),)), "bounds for numbers"),
        (Rule("x", RULE.keys, (Field("a", FieldType.MONEY, Tolerance("ann", "b", TODAY - dt.timedelta(days=1))),)), "ask ann to review"),
    ],
)  # fmt: skip
def test_invalid_rule_is_refused_before_any_row_is_read(rule: Rule, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        compare(rule, table(), table(), today=TODAY)
