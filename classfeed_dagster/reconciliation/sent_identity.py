"""Identity under which a delivery sent its records, from the delivery's own ledger: evidence next to page and landing.

A number or reference that page and landing have alike was really sent only if the ledger has it too. It shares no
code with the exporter: the manifest is read as plain JSON, the ledger's files by DuckDB.
"""

# ruff: noqa: S608  # SQL of this package's own text, kept on whole lines

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from classfeed_dagster.reconciliation.delivered import Delivered, Revision

_SENT_ACCOUNT = ", ".join(
    f"split_part(known_as, '/', {at}) AS {name}" for at, name in enumerate(("bsb", "account_number", "currency"), 1)
)
# By kind of ledger file: the kinds of record that it proves, the columns of their key, and the query.
_QUERIES = {
    "portfolios": (
        ("accounts",),
        ("portfolio_number",),
        "SELECT portfolio_number, recipient_reference, change AS consent, extract FROM read_parquet($path)",
    ),
    "positions": (
        ("cash_accounts", "account_balances"),
        ("portfolio_number", "account_number", "currency"),
        f"SELECT portfolio_number, {_SENT_ACCOUNT} FROM read_parquet($path) WHERE kind = 'CASH' AND stated IS NOT NULL",
    ),
    "records": (
        ("movement_transactions",),
        ("portfolio_number", "transaction_id"),
        "SELECT portfolio_number, transaction_id, bsb, account_number, exchange, security_code "
        "FROM read_parquet($path)",
    ),
}
Identity = Mapping[str, str | None]
_Key = tuple[str, frozenset[tuple[str, str | None]]]


class SentIdentities:
    """Identities that a delivery's ledger has of some portfolios. A ledger that is damaged or absent proves nothing."""

    def __init__(self) -> None:
        self._rows: dict[_Key, Identity] = {}

    def denies(self, kind: str, key: Identity, field: str, value: str | None) -> bool:
        """Return True if the ledger has another value of a record's ``field`` than the file."""
        row = self._rows.get((kind, frozenset(key.items())))
        return row is not None and field in row and row[field] != value

    def read(
        self, db: duckdb.DuckDBPyConnection, store: ObjectStore, delivered: Delivered, numbers: Iterable[str]
    ) -> None:
        """Read the ledger of each portfolio's latest revision."""
        by_revision: dict[int, list[str]] = defaultdict(list)
        for number in numbers:
            if number in delivered.latest:
                by_revision[delivered.latest[number].number].append(number)
        for revision in delivered.revisions:
            for entry in revision.ledger if revision.number in by_revision else ():
                if entry["kind"] in _QUERIES:
                    self._read(db, store, revision, entry, by_revision[revision.number])

    def _read(
        self,
        db: duckdb.DuckDBPyConnection,
        store: ObjectStore,
        revision: Revision,
        entry: Mapping[str, Any],
        numbers: list[str],
    ) -> None:
        own = f"ledger/{revision.feed}/{revision.business_date}/r{revision.number}/"
        key = f"{entry['prefix'] or own}{entry['kind']}-{entry['part']:04d}.parquet"
        kinds, names, query = _QUERIES[entry["kind"]]
        try:
            with store.local_file(key) as path:
                if _sha256(path) != entry["sha256"]:
                    return
                sent = db.execute(
                    f"SELECT * FROM ({query}) q WHERE portfolio_number IN (SELECT unnest($numbers))",
                    {"path": str(path), "numbers": numbers},
                )
                columns = [column[0] for column in sent.description]
                rows = sent.fetchall()
        except ObjectNotFoundError:
            return
        for values in rows:
            row = {name: value or None for name, value in zip(columns, values, strict=True)}
            for kind in kinds:
                self._rows[kind, frozenset((name, row[name]) for name in names)] = row


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
