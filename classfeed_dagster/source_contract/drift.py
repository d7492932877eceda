"""Schema drift: differences of a live schema from the contract, their severity and the exports that they affect.

Two schemas in, differences out, without input or output. The lineage that domains and documents declare gives the
affected exports. A difference's kind, and whether the extraction reads the column, give its severity: a change to a
column that no query reads is a note, one to a column that is read may stop a delivery. The columns read are derived
from the SQL itself, so that the two cannot diverge.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from classfeed_dagster.bigsite import consent, queries
from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.source_contract.contract import Contract
from classfeed_dagster.source_contract.schema import Index, Schema, SchemaColumn, SchemaTable
from classfeed_dagster.source_contract.schema_changes import Names, TypeChange, match, type_change

_SCOPE = re.compile(r"(?=\bSELECT\b)")
_RELATION = re.compile(
    rf"\b(?:FROM|JOIN)\s+(?:({SCHEMA})\.)?(\w+)(?:\s+(?!(?:WHERE|JOIN|LEFT|FULL|ORDER|GROUP|ON)\b)(?:AS\s+)?(\w+))?"
)
_THREE_PARTS = re.compile(rf"\b{SCHEMA}\.(\w+)\.(?=\w)")
_QUALIFIED = re.compile(r"\b(\w+)\.(\w+)\b")
_BARE = re.compile(r"(?<![.\w])([a-z_]+)\b(?!\s*[.(])")


@cache
def columns_read() -> frozenset[str]:
    """Return every ``table.column`` that the snapshot and the consent query read, keys and conditions included."""
    any_time = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    consents = consent.consent_query([""], any_time, any_time)
    statements = [query.sql for query in (*queries.SLICED, *queries.REFERENCES)]
    return frozenset(
        column
        for statement in (*statements, queries.READINESS, str(consents.compile()))
        for column in _columns(statement)
    )


def _columns(sql: str) -> set[str]:
    # Not a parser. A name that its own SELECT does not explain counts for every table with that alias in the statement,
    # and a column without a table for each table without an alias. A column may therefore count as read although it is
    # not, but never the reverse; the tests prove the latter with database privileges.
    scopes = _SCOPE.split(_THREE_PARTS.sub(r"\1.", sql))
    anywhere = _tables_by_alias(" ".join(scopes))
    names: set[tuple[str, str]] = set()
    for scope in scopes:
        here = _tables_by_alias(scope)
        for alias, column in _QUALIFIED.findall(scope):
            names |= {(table, column) for table in here.get(alias, anywhere.get(alias, ()))}
        unnamed = [alias for alias, tables in here.items() if alias in tables]
        names |= {(table, column) for table in unnamed for column in _BARE.findall(scope)}
    return {f"{table}.{column}" for table, column in names if column in metadata.tables[f"{SCHEMA}.{table}"].columns}


def _tables_by_alias(sql: str) -> dict[str, set[str]]:
    # bigsite's tables by their FROM or JOIN alias; the statement's own relations have none.
    named: dict[str, set[str]] = {}
    for schema, table, alias in _RELATION.findall(sql):
        named.setdefault(alias or table, set()).update([table] if schema else [])
    return named


_SHOWN = 5  # affected exports in a sentence; the rest is counted


class Severity(enum.IntEnum):
    """NOTE: for information. WARNING: examine it soon. BLOCKING: nothing is extracted until it is settled."""

    NOTE = 1
    WARNING = 2
    BLOCKING = 3


class DriftKind(enum.Enum):
    """Kind of schema difference: title, severity if the extraction reads the column, and advice."""

    ADDED_TABLE = ("added table", Severity.NOTE, "No feed reads it. Describe it in the contract before a feed does.")
    ADDED_COLUMN = ("added column", Severity.NOTE, "No feed reads it. Classify it in the contract before a feed does.")
    ADDED_RULE = ("added rule", Severity.NOTE, "Nothing to do; add it to the contract to rely on it.")
    NO_LONGER_NULLABLE = ("no longer nullable", Severity.NOTE, "Nothing to do; the contract may state it.")
    WIDENED = (
        "widened type",
        Severity.WARNING,
        "A portfolio with a value that the document's element cannot hold is held back. Ask {owner} which values will "
        "come, then widen the contract, the domain's column and the element.",
    )
    NEW_VALUE = (
        "new value",
        Severity.WARNING,
        "The mapping has no such value: a portfolio with such a row is held back. Ask {owner} what it means, map it, "
        "and add it to the contract.",
    )
    VALUE_IN_DATA = (
        "unknown value in the data",
        Severity.WARNING,
        "Each portfolio with such a row is held back. Ask {owner} what it means, map it, and add it to the contract; "
        "the held back portfolios are then delivered automatically.",
    )
    VALUE_GONE = (
        "value no longer allowed",
        Severity.WARNING,
        "Ask {owner} how its rows are written from now on; older rows may still have it.",
    )
    VALUES_OPEN = (
        "values no longer enforced",
        Severity.WARNING,
        "Any value is possible, and an unmapped value holds its portfolio back. Ask {owner} why.",
    )
    LOST_RULE = ("lost rule", Severity.WARNING, "bigsite no longer refuses bad values here. Ask {owner} why.")
    REMOVED_TABLE = (
        "removed table",
        Severity.BLOCKING,
        "Ask {owner} where its rows are now and let the extraction's SQL read them there, or have it restored.",
    )
    REMOVED_COLUMN = (
        "removed column",
        Severity.BLOCKING,
        "Ask {owner} where the value is now and let the extraction's SQL read it there, or have it restored.",
    )
    RENAMED_TABLE = (
        "renamed table",
        Severity.BLOCKING,
        "Have {owner} confirm that it is the same, then rename it in the contract, tables.py and the SQL together.",
    )
    RENAMED_COLUMN = (
        "renamed column",
        Severity.BLOCKING,
        "Have {owner} confirm that it is the same, then rename it in the contract, tables.py and the SQL together.",
    )
    REPLACED_BY_VIEW = (
        "table replaced by a view",
        Severity.BLOCKING,
        "A view has no keys or indexes. Ask {owner} for the table behind it and its guarantees.",
    )
    NARROWED = (
        "narrowed type",
        Severity.BLOCKING,
        "Values may have been cut or rounded. Have {owner} restore the type, or confirm that nothing was lost and "
        "narrow the contract.",
    )
    RETYPED = (
        "changed type",
        Severity.BLOCKING,
        "The values are of another type now. Have {owner} restore the type, or change the contract and its readers.",
    )
    NEWLY_NULLABLE = (
        "newly nullable",
        Severity.BLOCKING,
        "Ask {owner} what a null means; state it in the contract and handle it in the domain, or have it restored.",
    )
    LOST_PRIMARY_KEY = (
        "lost or changed primary key",
        Severity.BLOCKING,
        "Rows may be duplicated, and would be sent twice. Have {owner} restore it.",
    )
    LOST_UNIQUENESS = (
        "lost uniqueness",
        Severity.BLOCKING,
        "Two rows may share a value that must be unique. Have {owner} restore it.",
    )
    LOST_FOREIGN_KEY = (
        "lost foreign key",
        Severity.BLOCKING,
        "Rows may reference missing rows, and a join would drop them silently. Have {owner} restore it.",
    )
    LOST_INDEX = (
        "lost index",
        Severity.BLOCKING,
        "The extraction would scan the whole table on the broker's database. Have {owner} restore it.",
    )

    def __init__(self, title: str, severity: Severity, advice: str) -> None:
        self.title = title
        self.severity = severity
        self.advice = advice


@dataclass(frozen=True, slots=True, order=True)
class Export:
    """Export of a bigsite column: a domain's column and, if any, a document's element."""

    column: str  # movement_transactions.gst
    element: str = ""  # EPIDataResponse/MovementTransactions/MovementTransaction/Gst

    def __str__(self) -> str:
        return f"{self.column} ({self.element})" if self.element else self.column


Exports: TypeAlias = Mapping[str, tuple[Export, ...]]  # by bigsite's column, ``table.column``


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One difference. ``subject`` is named as in the contract: ``trade``, ``trade.gst``, ``trade (portfolio_id)``."""

    kind: DriftKind
    severity: Severity
    subject: str
    was: str
    now: str
    affected: tuple[Export, ...]
    advice: str

    @property
    def message(self) -> str:
        """Return the difference, its effect and the remedy as text for a check, an alert or a log. No personal data."""
        return f"{self.headline} {self._touched()}{self.advice}"

    @property
    def headline(self) -> str:
        """Return the difference in one sentence."""
        return f"{self.subject}: {self.kind.title}{self._change()}."

    def _change(self) -> str:
        match self.was, self.now:
            case "", "":
                return ""
            case was, "":
                return f" ({was})"
            case "", now:
                return f" ({now})"
            case was, now:
                return f" (contract: {was}; bigsite: {now})"

    def _touched(self) -> str:
        if not self.affected:
            return ""
        more = len(self.affected) - _SHOWN
        listed = ", ".join(map(str, self.affected[:_SHOWN]))
        return f"Affects {listed}{f' and {more} more' if more > 0 else ''}. "


def compare(
    contract: Contract, live: Schema, exports: Exports, reads: Collection[str] | None = None
) -> tuple[SchemaDifference, ...]:
    """Return every difference of ``live`` from the contract, most severe first.

    ``exports``: the exports of each column. ``reads``: the columns that the extraction reads (default: derived from
    its SQL). A difference in columns that are not read of any kind is a note. A rename or removal is reported
    once, without the keys and indexes that it takes with it.
    """
    comparison = _Comparison(contract, live, exports, columns_read() if reads is None else reads)
    return tuple(sorted(comparison.differences(), key=lambda each: (-each.severity, each.subject, each.kind.title)))


class _Comparison:
    # State shared by the steps of one comparison.

    def __init__(self, contract: Contract, live: Schema, exports: Exports, reads: Collection[str]) -> None:
        self.contract = contract
        self.agreed = contract.schema
        self.live = live
        self.exports = exports
        self.reads = reads
        self.names: Names = match(contract.schema, live)

    def differences(self) -> Iterator[SchemaDifference]:
        for name in sorted(self.live.tables.keys() - set(self.names.tables.values())):
            columns = ", ".join(column.name for column in self.live.tables[name].columns)
            yield SchemaDifference(
                DriftKind.ADDED_TABLE, Severity.NOTE, name, "", columns, (), DriftKind.ADDED_TABLE.advice
            )
        for name, agreed in sorted(self.agreed.tables.items()):
            now = self.names.tables.get(name)
            if now is None:
                yield self.difference(DriftKind.REMOVED_TABLE, agreed)
                continue
            if now != name:
                yield self.difference(DriftKind.RENAMED_TABLE, agreed, was=name, now=now)
            live = self.names.in_earlier_names(name, self.live)
            if live.kind != agreed.kind:
                yield self.difference(DriftKind.REPLACED_BY_VIEW, agreed, was=agreed.kind, now=live.kind)
            yield from self.columns(agreed, live)
            if live.kind == agreed.kind:
                yield from self.keys(agreed, live)
                yield from self.indexes(agreed, live)

    def columns(self, agreed: SchemaTable, live: SchemaTable) -> Iterator[SchemaDifference]:
        current_name = self.names.columns[agreed.name]
        for column in agreed.columns:
            now = live.column(column.name)
            if now is None:
                yield self.difference(DriftKind.REMOVED_COLUMN, agreed, [column.name], was=column.type)
                continue
            if current_name[column.name] != column.name:
                yield self.difference(
                    DriftKind.RENAMED_COLUMN, agreed, [column.name], was=column.name, now=current_name[column.name]
                )
            yield from self.column(agreed, column, now, of_view=live.kind != agreed.kind)
        for column in live.columns:
            if agreed.column(column.name) is None:
                subject = f"{agreed.name}.{column.name}"
                advice = DriftKind.ADDED_COLUMN.advice
                yield SchemaDifference(DriftKind.ADDED_COLUMN, Severity.NOTE, subject, "", column.type, (), advice)

    def column(
        self, table: SchemaTable, was: SchemaColumn, now: SchemaColumn, *, of_view: bool
    ) -> Iterator[SchemaDifference]:
        change = type_change(was.type, now.type)
        if change is not TypeChange.SAME:
            kind = DriftKind[change.name]
            yield self.difference(kind, table, [was.name], was=was.type, now=now.type)
        if of_view:
            return  # the database states neither nullability nor vocabularies for a view's columns
        if was.nullable != now.nullable:
            yield self.difference(
                DriftKind.NEWLY_NULLABLE if now.nullable else DriftKind.NO_LONGER_NULLABLE, table, [was.name]
            )
        yield from self.values(table, was, now)

    def values(self, table: SchemaTable, was: SchemaColumn, now: SchemaColumn) -> Iterator[SchemaDifference]:
        if was.values == now.values:
            return
        if now.values is None:
            yield self.difference(DriftKind.VALUES_OPEN, table, [was.name], was=_listed(was.values or ()), now="any")
        elif was.values is None:
            yield self.difference(DriftKind.ADDED_RULE, table, [was.name], now=f"one of {_listed(now.values)}")
        else:
            new, removed = set(now.values) - set(was.values), set(was.values) - set(now.values)
            if new:
                yield self.difference(DriftKind.NEW_VALUE, table, [was.name], now=_listed(new))
            if removed:
                yield self.difference(DriftKind.VALUE_GONE, table, [was.name], was=_listed(removed))

    def keys(self, agreed: SchemaTable, live: SchemaTable) -> Iterator[SchemaDifference]:
        def still_there(columns: Iterable[str]) -> bool:
            return all(live.column(name) for name in columns)  # otherwise the removal is reported already

        if agreed.primary_key != live.primary_key and still_there(agreed.primary_key):
            was, now = (", ".join(key) or "none" for key in (agreed.primary_key, live.primary_key))
            yield self.difference(DriftKind.LOST_PRIMARY_KEY, agreed, was=was, now=now)
        for unique in agreed.unique:
            if unique not in live.unique and unique != live.primary_key and still_there(unique):
                yield self.difference(DriftKind.LOST_UNIQUENESS, agreed, unique)
        for unique in live.unique:
            if unique not in agreed.unique:
                yield self.difference(DriftKind.ADDED_RULE, agreed, unique, now="unique")
        for key in agreed.foreign_keys:
            target_there = set(key.target_columns) <= self.names.columns.get(key.target, {}).keys()
            if key not in live.foreign_keys and still_there(key.columns) and target_there:
                target = f"{key.target} ({', '.join(key.target_columns)})"
                yield self.difference(DriftKind.LOST_FOREIGN_KEY, agreed, key.columns, was=f"to {target}")
        for key in sorted({*live.foreign_keys} - {*agreed.foreign_keys}):
            yield self.difference(DriftKind.ADDED_RULE, agreed, key.columns, now=f"points at {key.target}")
        removed = [column.name for column in agreed.columns if live.column(column.name) is None]
        for check in agreed.checks:
            if check not in live.checks and not any(name in check.split() for name in removed):
                yield self.difference(DriftKind.LOST_RULE, agreed, was=check)
        for check in live.checks:
            if check not in agreed.checks:
                yield self.difference(DriftKind.ADDED_RULE, agreed, now=check)

    def indexes(self, agreed: SchemaTable, live: SchemaTable) -> Iterator[SchemaDifference]:
        ordered = [live.primary_key, *live.unique, *(index.columns for index in live.indexes if not index.limits)]
        for index in agreed.indexes:
            serves = any(columns[: len(index.columns)] == index.columns for columns in ordered)
            if serves or not all(live.column(name) for name in index.columns):
                continue
            relied = f"{agreed.name}.{index.name}" in self.contract.relied_indexes
            yield self.difference(
                DriftKind.LOST_INDEX,
                agreed,
                index.columns,
                was=index.name,
                now=_unusable_index(index, live),
                ceiling=Severity.BLOCKING if relied else Severity.NOTE,
            )

    def difference(
        self,
        kind: DriftKind,
        table: SchemaTable,
        columns: Iterable[str] = (),
        *,
        was: str = "",
        now: str = "",
        ceiling: Severity = Severity.BLOCKING,
    ) -> SchemaDifference:
        named = tuple(columns)
        one_column = len(named) == 1 and kind is not DriftKind.LOST_INDEX
        subject = f"{table.name}.{named[0]}" if one_column else table.name
        if named and not one_column:
            subject += f" ({', '.join(named)})"
        touched = [f"{table.name}.{name}" for name in named or (column.name for column in table.columns)]
        read = any(column in self.reads for column in touched)
        severity = min(kind.severity if read else Severity.NOTE, ceiling)
        advice = kind.advice.format(owner=f"the team {self.contract.owner}") if read else "No feed reads it."
        return SchemaDifference(
            kind, severity, subject, was, now, self.affected(table, touched) if read else (), advice
        )

    def affected(self, table: SchemaTable, touched: Iterable[str]) -> tuple[Export, ...]:
        # A key finds the rows, so everything exported from the table depends on it. So does a column that is read for a
        # condition and has no export of its own.
        keys = {*table.primary_key, *(name for key in table.foreign_keys for name in key.columns)}
        whole = [f"{table.name}.{column.name}" for column in table.columns]
        dependent: set[Export] = set()
        for column in touched:
            decides = column.partition(".")[2] in keys or column not in self.exports
            for source in whole if decides and column in self.reads else [column]:
                dependent.update(self.exports.get(source, ()))
        return tuple(sorted(dependent))


def _unusable_index(index: Index, live: SchemaTable) -> str:
    # An index that exists but cannot serve because it is partial, invalid or uses another method.
    return next((f"{left.name} {left.limits}" for left in live.indexes if left.columns == index.columns), "")


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))
