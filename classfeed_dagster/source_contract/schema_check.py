"""The check of bigsite's schema before anything is extracted: what differs from the contract, and may a run begin.

``check_schema`` asks the live database; ``blocking_drift`` says what forbids a run, ``require_no_blocking_drift``
stops it. The exports that a difference touches come from ``documents.lineage.column_exports``.
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
from classfeed_dagster.source_contract.drift import Difference, DriftKind, Exports, Severity, compare
from classfeed_dagster.source_contract.extracted_columns import columns_read
from classfeed_dagster.source_contract.live_schema import live_schema
from classfeed_dagster.source_contract.schema import Schema

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,29}\Z")  # what a code looks like; anything else could be somebody's words
_SHOWN = 20
_ADOPT = (
    "To adopt a change, edit bigsite/contract.yaml (raise its version), tables.py and what reads the column together, "
    "and have it reviewed. A run may begin as soon as the check passes."
)


class SchemaDriftError(DataError):
    """bigsite's schema differs from the contract in something the extraction relies on. Nothing was read."""

    def __init__(self, differences: tuple[Difference, ...]) -> None:
        listed = "\n".join(f"- {difference.message}" for difference in differences)
        super().__init__(f"bigsite's schema no longer keeps its contract, so nothing is extracted:\n{listed}\n{_ADOPT}")
        self.differences = differences


@dataclass(frozen=True, slots=True)
class SchemaVerdict:
    """Result of one schema check. ``schema`` is the observed schema, to be stored in the history."""

    contract_version: str
    schema: Schema
    differences: tuple[Difference, ...]

    @property
    def severity(self) -> Severity | None:
        """The worst severity; None if the schema is as agreed."""
        return max((found.severity for found in self.differences), default=None)

    @property
    def summary(self) -> str:
        """One sentence."""
        if not self.differences:
            return f"bigsite's schema is as contract {self.contract_version} says."
        counts = Counter(found.severity for found in self.differences)
        listed = ", ".join(f"{counts[severity]} {severity.name.lower()}" for severity in sorted(counts, reverse=True))
        return f"bigsite's schema differs from contract {self.contract_version}: {listed}."

    def to_markdown(self) -> str:
        """Return every difference as text, most severe first, with each affected export."""
        lines = [self.summary]
        for found in self.differences:
            lines += ["", f"**{found.severity.name}** {_plain(f'{found.headline} {found.advice}')}"]
            lines += [f"- {_plain(str(export))}" for export in found.affected]
        if self.differences:
            lines += ["", _ADOPT]
        return "\n".join(lines) + "\n"


def check_schema(
    engine: sa.Engine, exports: Exports, *, since: dt.datetime | None = None, contract: Contract | None = None
) -> SchemaVerdict:
    """bigsite as it is now against its contract (default: the project's), read only.

    Where the database itself no longer guarantees that a coded column holds known values alone, its rows are asked
    for others; of a ledger only those recorded at or after ``since``, by its index. SchemaUnreadableError if the
    schema isn't there.
    """
    agreed = load_contract() if contract is None else contract
    live = live_schema(engine)
    reads = columns_read()
    unknown = _unknown_values(engine, agreed, live, exports, reads=reads, since=since)
    found = (*compare(agreed, live, exports, reads), *unknown)
    return SchemaVerdict(agreed.version, live, tuple(sorted(found, key=lambda one: -one.severity)))


def blocking_drift(verdict: SchemaVerdict) -> tuple[Difference, ...]:
    """The differences that forbid an extraction; empty if a run may begin."""
    return tuple(found for found in verdict.differences if found.severity is Severity.BLOCKING)


def require_no_blocking_drift(verdict: SchemaVerdict) -> None:
    """SchemaDriftError, which says what to do, if anything forbids an extraction."""
    if blocking := blocking_drift(verdict):
        raise SchemaDriftError(blocking)


def require_schema(engine: sa.Engine, exports: Exports, contract: Contract | None = None) -> None:
    """Refuse to extract from a schema that no longer keeps the contract. Cheap: catalogues alone, no table is read.

    Raises SchemaDriftError, which says what differs; SchemaUnreadableError if the schema isn't there; SourceReadError
    if bigsite can't be asked.
    """
    try:
        live = live_schema(engine)
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise SourceReadError(
            f"bigsite's schema could not be read ({type(cause).__name__}): nothing was landed. Check that bigsite is "
            "up and that its user may see the catalogue, and run again."
        ) from error
    agreed = load_contract() if contract is None else contract
    found = compare(agreed, live, exports, columns_read())
    require_no_blocking_drift(SchemaVerdict(agreed.version, live, found))


def _unknown_values(
    engine: sa.Engine,
    contract: Contract,
    live: Schema,
    exports: Exports,
    *,
    reads: Collection[str],
    since: dt.datetime | None,
) -> Iterator[Difference]:
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        for name, known in sorted(contract.vocabularies.items()):
            table_name, _, column_name = name.partition(".")
            table = live.tables.get(table_name)
            column = table.column(column_name) if table else None
            if table is None or column is None or name not in reads:
                continue
            if column.values is not None and set(column.values) <= set(known):
                continue  # the database admits no others
            recorded = since if table.column("recorded_at") else None
            counts = _count_unknown(connection, table_name, column_name, known, recorded)
            if counts:
                yield Difference(
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
    # Rows by unknown value, the most frequent first. A value that doesn't look like a code isn't shown.
    rows = sa.table(table, sa.column("recorded_at"), schema=SCHEMA)
    value = sa.cast(sa.column(column), sa.String(200))
    unknown = sa.or_(value.is_(None), value.not_in(known))
    question = sa.select(value, sa.func.count()).select_from(rows).where(unknown).group_by(value)
    if since is not None:
        question = question.where(rows.c.recorded_at >= since)
    counts: Counter[str] = Counter()
    for found, count in connection.execute(question.order_by(sa.func.count().desc(), value).limit(_SHOWN)):
        counts["null" if found is None else found if _CODE.match(found) else "something that is no code"] += count
    return dict(counts)


def _plain(text: str) -> str:
    return text.replace("_", "\\_").replace("<", "&lt;").replace("*", "\\*")
