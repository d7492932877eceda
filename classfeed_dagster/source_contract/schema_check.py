"""Check of bigsite's schema before an extraction.

``check_schema`` compares the live database with the contract, ``require_schema`` raises the differences that forbid an
extraction. ``feeds.column_exports`` gives affected exports.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import SCHEMA
from classfeed_dagster.errors import DataError, SourceReadError
from classfeed_dagster.source_contract.contract import Contract, load_contract
from classfeed_dagster.source_contract.drift import (
    DriftKind,
    Exports,
    SchemaDifference,
    Severity,
    columns_read,
    compare,
)
from classfeed_dagster.source_contract.live_schema import live_schema
from classfeed_dagster.source_contract.schema import Schema

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,29}\Z")  # form of a code; any other text may be personal
_SHOWN = 20
_ADOPT = (
    "To adopt a change, edit source_contract/contract.yaml (raise its version), tables.py and the column's readers "
    "together, and have it reviewed. A run can start as soon as the check passes."
)


class SchemaDriftError(DataError):
    """bigsite's schema breaks the contract in something that the extraction relies on. Nothing was read."""

    def __init__(self, differences: tuple[SchemaDifference, ...]) -> None:
        listed = "\n".join(f"- {difference.message}" for difference in differences)
        super().__init__(f"bigsite's schema breaks its contract, so nothing is extracted:\n{listed}\n{_ADOPT}")
        self.differences = differences


@dataclass(frozen=True, slots=True)
class SchemaVerdict:
    """Result of one schema check. ``schema`` is the observed schema, for the history."""

    contract_version: str
    schema: Schema
    differences: tuple[SchemaDifference, ...]

    @property
    def severity(self) -> Severity | None:
        """Return the highest severity; None if there is no difference."""
        return max((difference.severity for difference in self.differences), default=None)

    @property
    def blocking(self) -> tuple[SchemaDifference, ...]:
        """Return the differences that forbid an extraction; empty if a run may start."""
        return tuple(difference for difference in self.differences if difference.severity is Severity.BLOCKING)

    @property
    def summary(self) -> str:
        """Return the result in one sentence."""
        if not self.differences:
            return f"bigsite's schema matches contract {self.contract_version}."
        counts = Counter(difference.severity for difference in self.differences)
        listed = ", ".join(f"{counts[severity]} {severity.name.lower()}" for severity in sorted(counts, reverse=True))
        return f"bigsite's schema differs from contract {self.contract_version}: {listed}."

    def to_markdown(self) -> str:
        """Return every difference as text, most severe first, with each affected export."""
        lines = [self.summary]
        for difference in self.differences:
            lines += [
                "",
                f"**{difference.severity.name}** {plain_markdown(f'{difference.headline} {difference.advice}')}",
            ]
            lines += [f"- {plain_markdown(str(export))}" for export in difference.affected]
        if self.differences:
            lines += ["", _ADOPT]
        return "\n".join(lines) + "\n"


def check_schema(
    engine: sa.Engine, exports: Exports, *, since: dt.datetime | None = None, contract: Contract | None = None
) -> SchemaVerdict:
    """Compare bigsite's live schema with its contract (default: the project's), read only.

    If the database does not enforce a coded column's vocabulary, its rows are searched for other values. Of a ledger
    only rows recorded at or after ``since`` are read, by its index. SchemaUnreadableError if the schema is missing.
    """
    agreed = load_contract() if contract is None else contract
    live = live_schema(engine)
    reads = columns_read()
    unknown = _unknown_values(engine, agreed, live, exports, reads=reads, since=since)
    differences = (*compare(agreed, live, exports, reads), *unknown)
    return SchemaVerdict(agreed.version, live, tuple(sorted(differences, key=lambda each: -each.severity)))


def require_schema(engine: sa.Engine, exports: Exports) -> None:
    """Refuse to extract from a schema that breaks the contract. Reads catalogues only, no table.

    Raises SchemaDriftError with the differences, SchemaUnreadableError if the schema is missing, SourceReadError if
    bigsite cannot be queried.
    """
    try:
        live = live_schema(engine)
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise SourceReadError(
            f"bigsite's schema could not be read ({type(cause).__name__}): nothing was landed. Check that bigsite is "
            "up and that its user may see the catalogue, and run again."
        ) from error
    agreed = load_contract()
    differences = compare(agreed, live, exports, columns_read())
    if blocking := SchemaVerdict(agreed.version, live, differences).blocking:
        raise SchemaDriftError(blocking)


def _unknown_values(
    engine: sa.Engine,
    contract: Contract,
    live: Schema,
    exports: Exports,
    *,
    reads: Collection[str],
    since: dt.datetime | None,
) -> Iterator[SchemaDifference]:
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        for name, known in sorted(contract.vocabularies.items()):
            table_name, _, column_name = name.partition(".")
            table = live.tables.get(table_name)
            column = table.column(column_name) if table else None
            if table is None or column is None or name not in reads:
                continue
            if column.values is not None and set(column.values) <= set(known):
                continue  # enforced by the database
            recorded = since if table.column("recorded_at") else None
            counts = _count_unknown(connection, table_name, column_name, known, recorded)
            if counts:
                yield SchemaDifference(
                    DriftKind.VALUE_IN_DATA,
                    DriftKind.VALUE_IN_DATA.severity,
                    name,
                    "",
                    ", ".join(f"{value} in {rows} row{'s' if rows > 1 else ''}" for value, rows in counts.items()),
                    exports.get(name, ()),
                    DriftKind.VALUE_IN_DATA.advice.format(owner=f"the team {contract.owner}"),
                )


def _count_unknown(
    connection: sa.Connection, table: str, column: str, known: tuple[str, ...], since: dt.datetime | None
) -> dict[str, int]:
    # Number of rows by unknown value, most frequent first. A value that does not have the form of a code is not shown.
    rows = sa.table(table, sa.column("recorded_at"), schema=SCHEMA)
    value = sa.cast(sa.column(column), sa.String(200))
    unknown = sa.or_(value.is_(None), value.not_in(known))
    query = sa.select(value, sa.func.count()).select_from(rows).where(unknown).group_by(value)
    if since is not None:
        query = query.where(rows.c.recorded_at >= since)
    counts: Counter[str] = Counter()
    for text, count in connection.execute(query.order_by(sa.func.count().desc(), value).limit(_SHOWN)):
        counts["null" if text is None else text if _CODE.match(text) else "something that is no code"] += count
    return dict(counts)


def plain_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return text.replace("_", "\\_").replace("<", "&lt;").replace("*", "\\*")
