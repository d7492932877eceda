"""Independent reader of a landed snapshot: verified descriptor and hashes, and views shaped as bigsite's tables.

It shares no code with the snapshot: the descriptor is read as plain JSON, the files by DuckDB.
"""

# ruff: noqa: S608  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords
from classfeed_dagster.retention import Retention
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

if TYPE_CHECKING:
    import duckdb

    from classfeed_dagster.reconciliation.delivered import Revision

_SNAPSHOT_TEXT = re.compile(r"(\d+):(\d+):([\d,]*)\Z")
_EPOCH = 1 << 32  # a row stores the lower half of the transaction's number
_NO_INSTANT = "CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS updated_at"
_AS_THEY_ARE = (
    "trade",
    "security_movement",
    "income",
    "cash_transaction",
    "opening_units",
    "opening_cash",
)
_STATE = ("cash_account", "security", "security_price", "security_code_change")
_FIGURES = {"holding_eod": "units", "cash_balance_eod": "ledger_balance"}
_TABLES = (*_AS_THEY_ARE, "data_sharing_consent", "portfolio", *_STATE, *_FIGURES)


class Landing:
    """One snapshot's files, open as views of schema ``landed`` in DuckDB. ``faults``: their faults by object key.

    ``readable`` is False if a file cannot be read at all; then nothing can be compared with the landing. ``expired``:
    the descriptor's key and the date if a rule of the store's retention removed the files. That is no fault.
    """

    def __init__(
        self, db: duckdb.DuckDBPyConnection, stack: ExitStack, store: ObjectStore, retention: Retention | None = None
    ) -> None:
        self._db = db
        self._stack = stack
        self._store = store
        self.audience = ""  # key under which the snapshot sums openings for the feed
        self.faults: dict[str, str] = {}  # by object key
        self.expired: tuple[str, dt.date] | None = None
        self.readable = True
        self._retention = retention or Retention()

    def open(self, revision: Revision, expected: ExpectedRecords) -> None:
        """Verify a revision's snapshot and create the views in place of an earlier snapshot's.

        A snapshot with refreshes of the feed sums openings under a key of its own, which ``audience`` then is.
        """
        tables = self._begin(revision, expected)
        for name, files in tables.items():
            self._open_table(name, files)
        if self.readable:
            self._views(expected)

    def open_consents(self, revision: Revision, expected: ExpectedRecords) -> bool:
        """Create the views of a snapshot's consents and their portfolios' numbers; return False if one has a fault."""
        tables = self._begin(revision, expected)
        self._open_table("data_sharing_consent", tables.get("data_sharing_consent", ()))
        if self.readable:
            self._view("data_sharing_consent", "SELECT * FROM raw_data_sharing_consent")
            self._view("portfolio", "SELECT DISTINCT portfolio_id, portfolio_number FROM raw_data_sharing_consent")
        return self.readable and not self.faults

    def _begin(self, revision: Revision, expected: ExpectedRecords) -> Mapping[str, Sequence[tuple[str, str]]]:
        self.audience, self._refreshed = expected.audience, f"{expected.audience}-{revision.feed}-"
        self.faults, self.readable, self.expired = {}, True, None
        self._descriptor_key, self._snapshot_at = revision.descriptor_key, revision.snapshot_at
        self._db.execute("DROP SCHEMA IF EXISTS landed CASCADE; CREATE SCHEMA landed")
        return self._descriptor(revision.descriptor_key, revision.descriptor_sha256, expected)

    def _descriptor(self, key: str, sha256: str, expected: ExpectedRecords) -> Mapping[str, Sequence[tuple[str, str]]]:
        # Key and SHA-256 of every file, by table.
        try:
            data = self._store.read(key)
            if hashlib.sha256(data).hexdigest() != sha256:
                self.faults[key] = "its SHA-256 differs from the manifest's: the descriptor was changed"
            descriptor = json.loads(data)
            if str(descriptor["business_date"]) != expected.business_date.isoformat():
                self.faults[key] = f"it is the snapshot of {descriptor['business_date']}"
            refreshed = (str(name) for name in descriptor.get("audiences", ()) if str(name).startswith(self._refreshed))
            self.audience = next(refreshed, expected.audience)
            # A table of one file may be recorded as that file.
            tables = {name: table.get("files", [table]) for name, table in descriptor["tables"].items()}
            names = dict.fromkeys((*_TABLES, *tables))
            return {name: [(str(file["key"]), str(file["sha256"])) for file in tables[name]] for name in names}
        except ObjectNotFoundError:
            self._absent(key)
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            self._unreadable(key)
            return {}

    def _open_table(self, name: str, files: Sequence[tuple[str, str]]) -> None:
        import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

        paths: list[str] = []
        for key, sha256 in files:
            try:
                path = self._stack.enter_context(self._store.local_file(key))
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        self.faults[key] = (
                            "its SHA-256 differs from the descriptor's: the file was changed after landing"
                        )
                # Reading every column finds damage that the file's footer does not show.
                self._db.from_parquet([str(path)]).aggregate("count(COLUMNS(*))").fetchall()
            except ObjectNotFoundError:
                self._absent(key)
            except duckdb.Error:
                self._unreadable(key)
            else:
                paths.append(str(path))
        if self.readable:
            self._db.from_parquet(paths).create_view(f"raw_{name}", replace=True)

    def _absent(self, key: str) -> None:
        expired = self._retention.expired_on(key, self._snapshot_at)
        if expired is None:
            self._unreadable(key)
        else:
            self.expired = (self._descriptor_key, expired)
            self.readable = False

    def _unreadable(self, key: str) -> None:
        self.faults[key] = "it is missing or cannot be read: nothing could be compared with this landing"
        self.readable = False

    def _views(self, expected: ExpectedRecords) -> None:
        for name in _AS_THEY_ARE:
            self._view(name, f"SELECT *{self._absent_facts(name)} FROM raw_{name}")
        self._view("data_sharing_consent", f"SELECT *, {_NO_INSTANT} FROM raw_data_sharing_consent")
        # A removed portfolio has no landed row, only its consents.
        self._view(
            "portfolio",
            f"""SELECT c.portfolio_id, c.portfolio_number, p.* EXCLUDE (portfolio_id), {_NO_INSTANT}
            FROM (SELECT DISTINCT portfolio_id, portfolio_number FROM raw_data_sharing_consent) c
            LEFT JOIN raw_portfolio p ON p.portfolio_id = c.portfolio_id""",
        )
        for name in _STATE:
            self._view(name, f"SELECT *, {_NO_INSTANT} FROM raw_{name}")
        # Rows that only report a missing row have no figures.
        for name, figure in _FIGURES.items():
            self._view(name, f"SELECT *, {expected.day} AS as_at_date FROM raw_{name} WHERE {figure} IS NOT NULL")

    def _absent_facts(self, name: str) -> str:
        # Facts of referenced rows, which older landings lack.
        present = {str(row[0]) for row in self._db.execute(f"DESCRIBE raw_{name}").fetchall()}
        facts = {"related_on": "DATE", "reversed_on": "DATE", "reversed_type": "VARCHAR"}
        return "".join(f", CAST(NULL AS {kind}) AS {fact}" for fact, kind in facts.items() if fact not in present)

    def _view(self, name: str, query: str) -> None:
        self._db.execute(f"CREATE VIEW landed.{name} AS {query}")


@dataclass(frozen=True, slots=True)
class TransactionSnapshot:
    """Transactions visible to one reading of bigsite: all before ``end`` except those in progress.

    A snapshot's descriptor stores ``pg_current_snapshot()``. A row whose inserting transaction (``xmin``) had not
    committed by then was not visible, whatever its ``recorded_at``. Without that record no row counts as invisible.
    """

    end: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str | None) -> TransactionSnapshot | None:
        """Parse PostgreSQL's text of a snapshot; None if it is not one."""
        match = _SNAPSHOT_TEXT.match(text or "")
        if match is None:
            return None
        listed = frozenset(int(number) for number in match[3].split(",") if number)
        return cls(int(match[2]), listed)

    def saw(self, xmin: int) -> bool:
        """Return True if a row inserted by the transaction ``xmin`` (32 bits) was committed by then."""
        number = (self.end & ~(_EPOCH - 1)) | xmin
        if number - self.end > _EPOCH // 2:
            number -= _EPOCH
        elif self.end - number > _EPOCH // 2:
            number += _EPOCH
        return number < self.end and number not in self.in_progress


class SnapshotReader:
    """Reader of the transactions visible to landed snapshots, from each descriptor once."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: dict[str, TransactionSnapshot | None] = {}

    def of(self, descriptor_key: str) -> TransactionSnapshot | None:
        """Return a snapshot's visible transactions; None if its descriptor is missing or does not state them."""
        if descriptor_key not in self._known:
            try:
                text = json.loads(self._store.read(descriptor_key)).get("visible_transactions")
            except (ObjectNotFoundError, ValueError, AttributeError):
                text = None
            self._known[descriptor_key] = TransactionSnapshot.parse(text)
        return self._known[descriptor_key]
