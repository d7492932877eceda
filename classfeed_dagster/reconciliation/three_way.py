"""Three-way comparison of a delivery: the delivered file, its landing, and bigsite read again.

Digests per portfolio are computed where the data is (PostgreSQL, and DuckDB over the files). Rows are fetched and
compared only for portfolios whose digests differ.
"""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from classfeed_dagster.free_text import identifiers_in, masked
from classfeed_dagster.reconciliation.compare import (
    MEMORY_LIMIT,
    AccountingError,
    Comparison,
    Difference,
    RowClass,
    compare,
    nothing_to_compare,
)
from classfeed_dagster.reconciliation.delivered import Delivered
from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords, digest_sql
from classfeed_dagster.reconciliation.landing import Landing
from classfeed_dagster.reconciliation.record_scope import EVIDENCE
from classfeed_dagster.reconciliation.records import RecordKind
from classfeed_dagster.reconciliation.result import Amount
from classfeed_dagster.reconciliation.source_queries import Bigsite
from classfeed_dagster.retention import Retention
from classfeed_dagster.store import ObjectStore

# Texts that may hold an identifier have an at sign, or as many digits as the shortest identifier.
_SUSPICIOUS = "[@\uff20]|(\\p{Nd}\\P{Nd}*){8}"
# Money whose sums the report shows, of each kind of record that has it.
SUMMED = ("ledger_balance", "market_value", "net_amount", "amount", "net_income")
Key = tuple[str | None, ...]
Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Sides:
    """Comparisons of one kind of record. ``settled`` rows a side needed no pairing: their digests are equal."""

    kind: RecordKind
    bigsite: Comparison
    landing: Comparison
    portfolios: int
    differing: int
    settled: int
    file_rows: Mapping[Key, Row]
    bigsite_rows: Mapping[Key, Row]
    landing_rows: Mapping[Key, Row]
    amounts: tuple[Amount, ...] = ()

    @property
    def portfolio_numbers(self) -> set[str]:
        """Return the portfolios with a record that differs."""
        at = [column.name for column in self.kind.rule.keys].index("portfolio_number")
        differences = (*self.bigsite.differences, *self.landing.differences)
        return {number for each in differences if (number := each.key[at])}

    def counts(self, comparison: Comparison) -> dict[RowClass, tuple[int, int]]:
        """Return rows (of the file, of the other side) by class, with the settled ones."""
        counts = dict(comparison.counts)
        left, right = counts[RowClass.MATCH]
        counts[RowClass.MATCH] = (left + self.settled, right + self.settled)
        return counts


@dataclass(frozen=True, slots=True)
class LandingFaults:
    """Faults of the landed files of each snapshot, by snapshot id.

    Attributes:
        faults: faults by object key.
        unreadable: snapshots with which nothing could be compared.
        expired: date on which a rule removed a snapshot's files, by its descriptor's key.
    """

    faults: Mapping[str, Mapping[str, str]]
    unreadable: frozenset[str]
    expired: Mapping[str, dt.date] = field(default_factory=dict)


class Workbench:
    """DuckDB over the sides' files in a temporary folder. ``excluded``: reasons by portfolio number."""

    def __init__(self, folder: Path, stack: ExitStack, delivered: Delivered, excluded: Mapping[str, str]) -> None:
        import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

        self._folder = folder
        self._delivered = delivered
        self._stack = stack
        self.db = stack.enter_context(duckdb.connect())
        self.db.execute(f"SET memory_limit='{MEMORY_LIMIT}'; SET TimeZone='UTC'; SET preserve_insertion_order=false")
        self.db.execute(f"SET temp_directory='{folder / 'spill'}'")
        self._table("left_out", ("portfolio_number", "excluded"), excluded.items())
        latest = ((number, revision.snapshot_id) for number, revision in delivered.latest.items())
        self._table("latest", ("portfolio_number", "snapshot_id"), latest)

    def _table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
        schema = pa.schema([(column, pa.string()) for column in columns])
        table = pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema=schema)
        self.db.register(f"given_{name}", table)
        self.db.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM given_{name}")
        self.db.unregister(f"given_{name}")

    def read_landing(
        self, store: ObjectStore, expected: ExpectedRecords, retention: Retention | None = None
    ) -> LandingFaults:
        """Read the records of each landed snapshot, for the portfolios that were last delivered from it."""
        last = self._delivered.revisions[-1].snapshot_id
        snapshots = {revision.snapshot_id: revision for revision in self._delivered.revisions}
        used = {revision.snapshot_id for revision in self._delivered.latest.values()} | {last}
        faults: dict[str, Mapping[str, str]] = {}
        unreadable: set[str] = set()
        for kind in self._delivered.layout.kinds:
            columns = ", ".join(f"{name} VARCHAR" for name in (*kind.names, *EVIDENCE))
            self.db.execute(f"CREATE TABLE landing_{kind.name} ({columns})")
        self.db.execute(
            """CREATE TABLE landing_consents (portfolio_number VARCHAR, granted_at TIMESTAMPTZ, expires_at TIMESTAMPTZ,
            revoked_at TIMESTAMPTZ, updated_at TIMESTAMPTZ, consent_id BIGINT, recipient_reference VARCHAR, history_from VARCHAR);
            CREATE TABLE landing_decisions (portfolio_number VARCHAR, consent VARCHAR, extract VARCHAR, reference VARCHAR,
            history_from VARCHAR)"""
        )
        landing = Landing(self.db, self._stack, store, retention)
        expired: dict[str, dt.date] = {}
        for snapshot_id in sorted(used):
            revision = snapshots[snapshot_id]
            landing.open(revision, expected)
            faults[snapshot_id] = dict(landing.faults)
            if landing.expired is not None:
                expired.update([landing.expired])
            if not landing.readable:
                unreadable.add(snapshot_id)
                continue
            # Portfolios in no revision are in the last one's landing.
            other = "<>" if snapshot_id == last else "="
            only = f"{'NOT ' * (snapshot_id == last)}IN (SELECT portfolio_number FROM latest WHERE snapshot_id {other} '{snapshot_id}')"
            landed = replace(expected, audience=landing.audience)
            for name, query in landed.scope_relations(only).items():
                self.db.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {query}")
            for kind in self._delivered.layout.kinds:
                self.db.execute(f"INSERT INTO landing_{kind.name} {landed.rows_of_scope(kind)}")
                as_sent = self._masked(kind, f"landing_{kind.name}")
                if as_sent is not None:
                    self.db.execute(f"CREATE OR REPLACE TABLE landing_{kind.name} AS SELECT * FROM {as_sent}")
            self.db.execute(f"INSERT INTO landing_consents {expected.consents(only)}")
            self.db.execute(f"INSERT INTO landing_decisions {landed.decisions_of_scope()}")
        in_order = ", ".join(f"'{snapshot_id}'" for snapshot_id in sorted(unreadable)) or "''"
        self.db.execute(
            f"CREATE TABLE unlanded AS SELECT portfolio_number FROM latest WHERE snapshot_id IN ({in_order})"
        )
        return LandingFaults(faults, frozenset(unreadable), expired)

    def compare(self, kind: RecordKind, expected: ExpectedRecords, bigsite: Bigsite) -> Sides:
        """Compare one kind of record. AccountingError if its classes do not add up to the delivered rows."""
        name = kind.name
        file_path = self._delivered.files[name]
        source_digests = self._folder / f"digest-{name}.parquet"
        bigsite.digests(expected, kind, source_digests)
        columns = {column: f'"{column}"' for column in kind.names}
        self.db.execute(
            f"""CREATE OR REPLACE TEMP TABLE digests AS
            {digest_sql(columns, f"read_parquet('{file_path}')", postgresql=False)} UNION ALL
            {digest_sql(columns, f"landing_{name}", postgresql=False)} UNION ALL
            SELECT portfolio_number, n::BIGINT, one, two FROM read_parquet('{source_digests}')"""
        )
        # Equal means: three sides (two if the landing cannot be read) with the same digest.
        self.db.execute(
            """CREATE OR REPLACE TEMP TABLE todo AS SELECT d.portfolio_number FROM digests d
            LEFT JOIN unlanded u ON u.portfolio_number = d.portfolio_number GROUP BY d.portfolio_number
            HAVING count(DISTINCT (n, one, two)) > 1 OR count(*) <> max(CASE WHEN u.portfolio_number IS NULL THEN 3 ELSE 2 END)"""
        )
        numbers = [row[0] for row in self.db.execute("SELECT portfolio_number FROM todo").fetchall()]
        portfolios = self._count("SELECT count(*) FROM (SELECT DISTINCT portfolio_number FROM digests)")
        settled = self._count(
            f"SELECT count(*) FROM read_parquet('{file_path}') WHERE portfolio_number NOT IN "
            "(SELECT portfolio_number FROM todo WHERE portfolio_number IS NOT NULL) AND portfolio_number IS NOT NULL"
        )
        if settled == self._delivered.rows[name] and not numbers:
            nothing = nothing_to_compare(kind.rule)
            amounts = self._amounts(kind, file_path)
            return Sides(kind, nothing, nothing, portfolios, 0, settled, {}, {}, {}, amounts)
        rows_path = self._folder / f"bigsite-{name}.parquet"
        bigsite.rows(expected, kind, [number for number in numbers if number], rows_path)
        bigsite_rows = f"read_parquet('{rows_path}')"
        file_side = self._side("file", kind, f"read_parquet('{file_path}')", extra=("page", "line"))
        bigsite_side = self._side("source", kind, self._masked(kind, bigsite_rows) or bigsite_rows, extra=EVIDENCE)
        landing_side = self._side("landing", kind, f"landing_{name}", extra=EVIDENCE)
        landed_file_side = self._side("file-of-landed", kind, f"read_parquet('{file_path}')", extra=(), unlanded=True)
        today = bigsite.asked_at.date()
        # Every portfolio here is known to differ, so digests would be useless.
        against_bigsite = compare(kind.rule, file_side, bigsite_side, today=today, staged=False)
        against_landing = compare(kind.rule, landed_file_side, landing_side, today=today, staged=False)
        for comparison in (against_bigsite, against_landing):
            if comparison.left_rows + settled != self._delivered.rows[name]:
                raise AccountingError(
                    f"{name}: {self._delivered.rows[name]} rows were delivered, but not all were compared"
                )
        keys = {each.key for each in (*against_bigsite.differences, *against_landing.differences)}
        return Sides(
            kind,
            against_bigsite,
            against_landing,
            portfolios,
            len(numbers),
            settled,
            self._rows(kind, keys, file_side),
            self._rows(kind, keys, bigsite_side),
            self._rows(kind, keys, landing_side),
            self._amounts(kind, file_path, (file_side, bigsite_side)),
        )

    def _amounts(self, kind: RecordKind, file: Path, differing: tuple[Path, Path] | None = None) -> tuple[Amount, ...]:
        # Sums of the file and of bigsite by currency. Portfolios with equal digests have equal sums on both sides.
        result = []
        for column in (name for name in SUMMED if name in kind.names):
            value, currency = f"try_cast({column} AS DECIMAL(38, 6))", "currency" if "currency" in kind.names else "''"
            parts = [
                f"SELECT {currency} AS currency, {value} AS ours, {value} AS theirs, 0 AS known FROM read_parquet('{file}') "
                "WHERE portfolio_number NOT IN (SELECT portfolio_number FROM todo WHERE portfolio_number IS NOT NULL)"
            ]
            if differing is not None:
                known = f"CASE WHEN excluded IS NULL THEN 0 ELSE {value} END"
                parts += [
                    f"SELECT {currency}, {value}, 0, -({known}) FROM read_parquet('{differing[0]}')",
                    f"SELECT {currency}, 0, {value}, {known} FROM read_parquet('{differing[1]}')",
                ]
            rows = self.db.execute(
                f"SELECT coalesce(currency, ''), sum(ours), sum(theirs), sum(known) FROM ({' UNION ALL '.join(parts)}) "
                "GROUP BY 1 HAVING count(ours) > 0 OR count(theirs) > 0 ORDER BY 1"
            ).fetchall()
            result += [
                Amount(f"{kind.name}.{column}", row[0], *(Decimal(sum_ or 0) for sum_ in row[1:])) for row in rows
            ]
        return tuple(result)

    def _masked(self, kind: RecordKind, source: str) -> str | None:
        """Return SQL of ``source`` with identifiers in free text masked, as documents have them; None without any."""
        listed = " UNION ".join(
            f"SELECT {name} AS text FROM {source} WHERE regexp_matches({name}, '{_SUSPICIOUS}')"
            for name in kind.free_text
        )
        texts = [row[0] for row in self.db.execute(listed).fetchall() if identifiers_in(row[0])] if listed else []
        if not texts:
            return None
        self._table("masked_texts", ("text", "masked"), [(text, masked(text)) for text in texts])
        columns, joins = zip(
            *(
                (
                    f"coalesce(m{at}.masked, r.{name}) AS {name}",
                    f"LEFT JOIN masked_texts m{at} ON m{at}.text = r.{name}",
                )
                for at, name in enumerate(kind.free_text)
            ),
            strict=True,
        )
        return f"(SELECT r.* REPLACE ({', '.join(columns)}) FROM {source} r {' '.join(joins)})"

    def _count(self, query: str) -> int:
        row = self.db.execute(query).fetchone()
        assert row is not None  # noqa: S101  # count always has a row
        return int(row[0])

    def _side(self, label: str, kind: RecordKind, source: str, *, extra: Sequence[str], unlanded: bool = False) -> Path:
        # The rows of the differing portfolios, each with its reason for exclusion, if any, as Parquet.
        columns = ", ".join(f'r."{name}"' for name in (*kind.names, *extra))
        reason = "o.excluded"
        if unlanded:
            reason = "coalesce(o.excluded, CASE WHEN u.portfolio_number IS NOT NULL THEN 'landing unreadable' END)"
        path = self._folder / f"{label}-{kind.name}.parquet"
        self.db.execute(
            f"""COPY (SELECT {columns}, {reason} AS excluded FROM {source} r
            LEFT JOIN left_out o ON o.portfolio_number = r.portfolio_number
            LEFT JOIN unlanded u ON u.portfolio_number = r.portfolio_number
            WHERE r.portfolio_number IS NULL OR r.portfolio_number IN (SELECT portfolio_number FROM todo))
            TO '{path}' (FORMAT parquet)"""
        )
        return path

    def _rows(self, kind: RecordKind, keys: Iterable[Key], path: Path) -> dict[Key, Row]:
        # Whole rows of the differing keys, for explanations and traces.
        names = [field.name for field in kind.rule.keys]
        self._table("wanted", names, keys)
        cursor = self.db.execute(f"SELECT r.* FROM read_parquet('{path}') r JOIN wanted w USING ({', '.join(names)})")
        columns = [str(column[0]) for column in cursor.description]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return {tuple(row[name] for name in names): row for row in rows}


def merged(sides: Sides) -> dict[tuple[Key, str | None], tuple[Difference | None, Difference | None]]:
    """Return the differences of both comparisons by key and field: (against bigsite, against the landing)."""
    pairs: dict[tuple[Key, str | None], list[Difference | None]] = {}
    for at, comparison in enumerate((sides.bigsite, sides.landing)):
        for each in comparison.differences:
            pairs.setdefault((each.key, each.field), [None, None])[at] = each
    return {where: (pair[0], pair[1]) for where, pair in pairs.items()}
