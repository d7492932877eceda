"""Exact comparison of two sets of rows in bounded memory, with every row in exactly one class.

Digests come first: a count and 128 bits a group (portfolio). Rows are paired only in groups that differ. Numbers stay
decimals throughout; nothing is rounded, and a float column is refused.
"""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
import enum
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from classfeed_dagster.errors import CodeFaultError
from classfeed_dagster.reconciliation.rules import Field, FieldType, Rule, RuleError

if TYPE_CHECKING:
    import duckdb

Side: TypeAlias = pa.Table | Path | Sequence[Path]
"""Rows to compare: an Arrow table, or Parquet files. An optional text column ``excluded`` gives a reason to exclude a row."""

MEMORY_LIMIT = "1GB"
DETAIL_LIMIT = 100_000


class RowClass(enum.StrEnum):
    """Result for a row. A key's class applies to its rows on both sides, so that no row has two."""

    MATCH = "match"
    WITHIN_TOLERANCE = "within_tolerance"
    DIFFERS = "differs"
    MISSING_LEFT = "missing_left"
    MISSING_RIGHT = "missing_right"
    DUPLICATE_LEFT = "duplicate_left"
    DUPLICATE_RIGHT = "duplicate_right"
    EXCLUDED = "excluded"
    UNPARSEABLE = "unparseable"


CLEAN = frozenset({RowClass.MATCH, RowClass.WITHIN_TOLERANCE, RowClass.EXCLUDED})


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: a whole row (``field`` is None) or one field of a pair. Values are text; None is null."""

    row_class: RowClass
    key: tuple[str | None, ...]
    field: str | None
    left: str | None
    right: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of a comparison. ``counts`` has (rows of the left, rows of the right) for every class."""

    rule: Rule
    left_rows: int
    right_rows: int
    counts: Mapping[RowClass, tuple[int, int]]
    excluded: Mapping[str, int]  # rows by reason, both sides together
    groups: int
    differing_groups: int
    differences: tuple[Difference, ...]
    truncated: bool  # more differences exist than are listed; the counts are complete

    @property
    def clean(self) -> bool:
        """Return True if every row matches, is within tolerance, or is excluded with a reason."""
        return all(row_class in CLEAN or counts == (0, 0) for row_class, counts in self.counts.items())

    @property
    def empty(self) -> bool:
        """Return True if there was nothing to compare, so that the result proves nothing."""
        return self.left_rows == self.right_rows == 0

    def of(self, row_class: RowClass) -> int:
        """Return the larger of the two sides' numbers of rows in ``row_class``."""
        return max(self.counts[row_class])


def nothing_to_compare(rule: Rule) -> Comparison:
    """Return the comparison of no rows with none, without running it."""
    return Comparison(rule, 0, 0, dict.fromkeys(RowClass, (0, 0)), {}, 0, 0, (), False)


class AccountingError(CodeFaultError):
    """The classes do not add up to the inputs: the comparison itself is faulty and its result is void."""


def compare(
    rule: Rule,
    left: Side,
    right: Side,
    *,
    today: dt.date,
    memory_limit: str = MEMORY_LIMIT,
    detail_limit: int = DETAIL_LIMIT,
    staged: bool = True,
) -> Comparison:
    """Compare two sets of rows under ``rule``. RuleError (before any row is read) if rule and columns do not match.

    Tolerances that expired before ``today`` are refused. ``staged=False`` pairs every row without digests: slower, with
    the same result.
    """
    import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

    rule.check(today)
    with tempfile.TemporaryDirectory(prefix="classfeed-compare-") as spill, duckdb.connect() as db:
        db.execute(f"SET memory_limit='{memory_limit}'; SET temp_directory='{spill}'; SET TimeZone='UTC'")
        db.execute("SET preserve_insertion_order=false")
        for name, rows_of in (("left", left), ("right", right)):
            _open(db, rule, name, rows_of)
        groups, differing, settled = _differing_groups(db, rule, staged)
        counts = dict.fromkeys(RowClass, (0, 0))
        _pair(db, rule, staged)
        for row_class, in_left, in_right in db.execute(_COUNT).fetchall():
            counts[RowClass(row_class)] = (int(in_left), int(in_right))
        matched = counts[RowClass.MATCH]
        counts[RowClass.MATCH] = (matched[0] + settled, matched[1] + settled)
        totals = [int(_scalar(db, f"SELECT count(*) FROM {side}_side")) for side in ("left", "right")]
        for at, side in enumerate(("left", "right")):
            if sum(count[at] for count in counts.values()) != totals[at]:
                raise AccountingError(f"rule {rule.name}: the classes of the {side} rows do not add up to {totals[at]}")
        reasons = db.execute(_REASONS).fetchall()
        rows = db.execute(_details(rule), [detail_limit + 1]).fetchall()
        return Comparison(
            rule,
            totals[0],
            totals[1],
            counts,
            {str(reason): int(count) for reason, count in reasons},
            groups,
            differing,
            tuple(Difference(RowClass(row[0]), tuple(row[4:]), *row[1:4]) for row in rows[:detail_limit]),
            len(rows) > detail_limit,
        )


def _scalar(db: duckdb.DuckDBPyConnection, query: str) -> int:
    row = db.execute(query).fetchone()
    return int(row[0]) if row else 0


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _open(db: duckdb.DuckDBPyConnection, rule: Rule, name: str, side: Side) -> None:
    # A view ``<name>_side`` with canonical columns k0.., f0.., why (exclusion) and bad (unparseable).
    if isinstance(side, pa.Table):
        db.register(f"{name}_raw", side)
    else:
        paths = [side] if isinstance(side, Path) else list(side)
        db.from_parquet([str(path) for path in paths]).create_view(f"{name}_raw")
    types = {row[0]: str(row[1]) for row in db.execute(f"DESCRIBE {name}_raw").fetchall()}
    missing = [column.name for column in rule.columns if column.name not in types]
    if missing:
        raise RuleError(f"rule {rule.name}: the {name} rows have no column {', '.join(missing)}; they have {[*types]}")
    parsed = [_parsed(rule, name, column, types[column.name]) for column in rule.columns]
    selected = [f"{expression} AS {alias}" for (expression, _), alias in zip(parsed, _aliases(rule), strict=True)]
    bad = [test for _, test in parsed if test] + [f"{_quoted(key.name)} IS NULL" for key in rule.keys]
    why = '"excluded"' if "excluded" in types else "NULL::VARCHAR"
    db.execute(
        f"CREATE VIEW {name}_side AS SELECT {', '.join(selected)}, {why} AS why, ({' OR '.join(bad)}) AS bad FROM {name}_raw"
    )


def _aliases(rule: Rule) -> list[str]:
    return [f"k{at}" for at in range(len(rule.keys))] + [f"f{at}" for at in range(len(rule.fields))]


_TEXT_PATTERN = {
    FieldType.DATE: r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    FieldType.INSTANT: r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z",
    FieldType.COUNT: r"-?[0-9]{1,18}",
}


def _parsed(rule: Rule, side: str, field: Field, actual: str) -> tuple[str, str]:
    # The column as its declared type, and a test that is true where it cannot be parsed ('' if it always can).
    column, target = _quoted(field.name), field.kind.value
    if actual == target:
        return column, ""
    if actual == "VARCHAR":
        # A cast would round excess decimals, so the form is tested first.
        pattern = _TEXT_PATTERN.get(field.kind) or rf"-?[0-9]+(\.[0-9]{{1,{field.kind.scale}}})?"
        value = f"CASE WHEN regexp_full_match({column}, '{pattern}') THEN TRY_CAST({column} AS {target}) END"
        return value, f"({column} IS NOT NULL AND {value} IS NULL)"
    integers = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
    if field.kind.scale is not None and (actual in integers or re.match(r"DECIMAL\(", actual)):
        value = f"TRY_CAST({column} AS {target})"
        return value, f"({column} IS NOT NULL AND ({value} IS NULL OR {value} <> {column}))"
    raise RuleError(
        f"rule {rule.name}: {field.name} of the {side} rows is {actual}, declared {field.kind.name}. "
        "Provide numbers as exact decimals or text, and instants with a time zone."
    )


def _differing_groups(db: duckdb.DuckDBPyConnection, rule: Rule, staged: bool) -> tuple[int, int, int]:
    """Fill ``todo`` with the groups to pair; return groups, groups to pair, rows a side settled by digest.

    The digest is a sum, so that a repeated row counts twice (with XOR a pair would vanish). Two hashes of 64 bits make
    an accidental match of different rows practically impossible. A group is settled only if it also has no duplicate
    key, no excluded and no unparseable row.
    """
    group = _aliases(rule)[[key.name for key in rule.keys].index(rule.group)]
    if not staged:
        groups = _scalar(
            db, f"SELECT count(*) FROM (SELECT {group} FROM left_side UNION SELECT {group} FROM right_side)"
        )
        return groups, groups, 0
    columns, keys = ", ".join(_aliases(rule)), ", ".join(_aliases(rule)[: len(rule.keys)])
    for side in ("left", "right"):
        db.execute(
            f"CREATE TEMP TABLE {side}_digest AS SELECT {group} AS g, count(*) AS n, "
            f"sum(hash({columns})::HUGEINT) AS one, sum(hash('second', {columns})::HUGEINT) AS two, "
            f"bool_or(bad OR why IS NOT NULL) AS look FROM {side}_side GROUP BY 1"
        )
    db.execute(
        "CREATE TEMP TABLE todo AS SELECT coalesce(l.g, r.g) AS g FROM left_digest l FULL JOIN right_digest r ON l.g = r.g "
        "WHERE l.n IS DISTINCT FROM r.n OR l.one IS DISTINCT FROM r.one OR l.two IS DISTINCT FROM r.two OR l.look OR r.look"
    )
    # Equal multisets have equal duplicates, so one side is enough. The key's hash replaces the key: a collision only
    # makes one group be paired without need.
    db.execute(
        f"INSERT INTO todo SELECT DISTINCT g FROM (SELECT {group} AS g, count(*) AS n, "
        f"count(DISTINCT hash({keys})) AS d FROM left_side GROUP BY 1) WHERE n <> d AND g IS NOT NULL "
        "AND g NOT IN (SELECT g FROM todo WHERE g IS NOT NULL)"
    )
    groups = _scalar(db, "SELECT count(*) FROM left_digest l FULL JOIN right_digest r ON l.g = r.g")
    # Rows without a group are never settled.
    settled = _scalar(
        db,
        "SELECT coalesce(sum(n), 0) FROM left_digest "
        "WHERE g IS NOT NULL AND g NOT IN (SELECT g FROM todo WHERE g IS NOT NULL)",
    )
    return groups, _scalar(db, "SELECT count(*) FROM todo"), settled


def _pair(db: duckdb.DuckDBPyConnection, rule: Rule, staged: bool) -> None:
    # ``paired``: one row a key of the groups to pair, with its class. DuckDB spills it to disk if it is large.
    keys = _aliases(rule)[: len(rule.keys)]
    fields = _aliases(rule)[len(rule.keys) :]
    group = keys[[key.name for key in rule.keys].index(rule.group)]
    for side in ("left", "right"):
        within = f" AND {group} IN (SELECT g FROM todo)" if staged else ""
        # any_value is exact where the key is unique; elsewhere the values are not compared.
        values = "".join(f", any_value({name}) AS {name}" for name in fields)
        db.execute(
            f"CREATE VIEW {side}_keys AS SELECT {', '.join(keys)}{values}, count(*) AS n, bool_or(bad) AS bad, min(why) AS why "
            f"FROM {side}_side WHERE {' AND '.join(f'{key} IS NOT NULL' for key in keys)}{within} GROUP BY {', '.join(keys)}"
        )
        db.execute(
            f"CREATE VIEW {side}_keyless AS SELECT * FROM {side}_side WHERE {' OR '.join(f'{key} IS NULL' for key in keys)}"
        )
    same = " AND ".join(f"l.{name} IS NOT DISTINCT FROM r.{name}" for name in fields) or "TRUE"
    close = " AND ".join(_close(field, name) for field, name in zip(rule.fields, fields, strict=True)) or "TRUE"
    both = "".join(f", l.{name} AS l{name}, r.{name} AS r{name}" for name in fields)
    empty = "".join(f", NULL AS l{name}, NULL AS r{name}" for name in fields)
    db.execute(
        f"""CREATE TEMP TABLE paired AS
        SELECT {", ".join(f"coalesce(l.{key}, r.{key})::VARCHAR AS {key}" for key in keys)},
          CASE WHEN l.bad THEN 'unparseable'
               WHEN l.why IS NOT NULL OR r.why IS NOT NULL THEN 'excluded'
               WHEN r.bad THEN 'unparseable'
               WHEN l.n > 1 THEN 'duplicate_left'
               WHEN r.n > 1 THEN 'duplicate_right'
               WHEN l.n IS NULL THEN 'missing_left'
               WHEN r.n IS NULL THEN 'missing_right'
               WHEN {same} THEN 'match'
               WHEN {close} THEN 'within_tolerance'
               ELSE 'differs' END AS class,
          coalesce(l.n, 0) AS ln, coalesce(r.n, 0) AS rn, coalesce(l.why, r.why) AS why{both}
        FROM left_keys l FULL JOIN right_keys r ON {" AND ".join(f"l.{key} = r.{key}" for key in keys)}
        UNION ALL SELECT {", ".join(f"{key}::VARCHAR" for key in keys)}, 'unparseable', 1, 0, NULL{empty} FROM left_keyless
        UNION ALL SELECT {", ".join(f"{key}::VARCHAR" for key in keys)}, 'unparseable', 0, 1, NULL{empty} FROM right_keyless"""
    )


def _close(field: Field, name: str) -> str:
    same = f"l.{name} IS NOT DISTINCT FROM r.{name}"
    tolerance = field.tolerance
    if tolerance is None:
        return f"({same})"
    if field.kind is FieldType.DATE:
        return f"({same} OR coalesce(abs(date_diff('day', l.{name}, r.{name})) <= {tolerance.days}, FALSE))"
    apart = f"l.{name}::DECIMAL(38,6) - r.{name}::DECIMAL(38,6)"
    bounds = f"'{tolerance.lower:f}'::DECIMAL(38,6) AND '{tolerance.upper:f}'::DECIMAL(38,6)"
    return f"({same} OR coalesce({apart} BETWEEN {bounds}, FALSE))"


# If both sides have the key twice, each side's rows are its duplicates.
_COUNT = """SELECT class, sum(l), sum(r) FROM (
  SELECT class, ln AS l, CASE WHEN class = 'duplicate_left' AND rn > 1 THEN 0 ELSE rn END AS r FROM paired
  UNION ALL SELECT 'duplicate_right', 0, rn FROM paired WHERE class = 'duplicate_left' AND rn > 1) GROUP BY class"""
_REASONS = "SELECT why, sum(ln + rn) FROM paired WHERE class = 'excluded' GROUP BY why ORDER BY why"


def _rows(count: str) -> str:
    return f"CASE WHEN {count} > 0 THEN {count} || CASE WHEN {count} = 1 THEN ' row' ELSE ' rows' END END"


def _details(rule: Rule) -> str:
    keys = ", ".join(_aliases(rule)[: len(rule.keys)])
    selects = [
        f"""SELECT class, '' AS field, {_rows("ln")} AS l, {_rows("rn")} AS r, {keys}
        FROM paired WHERE class NOT IN ('match', 'within_tolerance', 'differs', 'excluded')"""
    ]
    for at, field in enumerate(rule.fields):
        name = field.name.replace("'", "''")
        selects.append(
            f"SELECT class, '{name}', {_text(field, f'lf{at}')}, {_text(field, f'rf{at}')}, {keys} FROM paired "
            f"WHERE class IN ('within_tolerance', 'differs') AND lf{at} IS DISTINCT FROM rf{at}"
        )
    return (
        f"SELECT class, nullif(field, ''), l, r, {keys} FROM ({' UNION ALL '.join(selects)}) "
        f"ORDER BY {keys}, class, field LIMIT ?"
    )


def _text(field: Field, column: str) -> str:
    if field.kind is FieldType.INSTANT:
        return f"strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    return f"{column}::VARCHAR"
