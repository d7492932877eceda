"""The ledger's files: their one schema, their names, and reading them back.

Every delivery has three kinds of file: records, positions and portfolios, each in numbered parts. The
manifest names every part by its SHA-256. A part is Parquet with exact decimals; it holds no names and no free text.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field, NonNegativeInt

from classfeed_dagster.domains.columns import Column, Frame
from classfeed_dagster.domains.ledger_rows import LEDGER_RECORDS, OF_NAMED_ROWS, UNITS_SUM
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, dated_prefix, is_none, sha256_of

Kind = Literal["records", "positions", "portfolios", "identities", "stated"]

UNITS_POSITION, CASH_POSITION = "UNITS", "CASH"


def _column(
    name: str, dtype: pl.DataType, description: str, *, nullable: bool = False, personal: bool = False
) -> Column:
    return Column(name, dtype, description, ("derived",), nullable=nullable, personal=personal)


RECORDS = dataclasses.replace(
    LEDGER_RECORDS, columns=tuple(column for column in LEDGER_RECORDS.columns if column.name not in OF_NAMED_ROWS)
)
STATED = Frame(
    "ledger_stated",
    "One row a holding or balance that the delivery states. Staged only: the positions carry it.",
    (
        *LEDGER_RECORDS.columns[:2],
        _column("kind", pl.String(), "UNITS of a security or CASH of an account"),
        _column("key_id", pl.Int64(), "bigsite's key of the security or the cash account"),
        _column("known_as", pl.String(), "EXCHANGE:CODE, or BSB/number/currency", personal=True),
        _column("stated", UNITS_SUM, "units or balance as the delivery states them", nullable=True),
        _column("unsent", UNITS_SUM, "part of it recorded after the cut-off; null: not known", nullable=True),
    ),
    ("portfolio_id", "kind", "key_id"),
)
POSITIONS = Frame(
    "ledger_positions",
    "Running sums of what was sent, one row a portfolio, security or account, and date on which it counts.",
    (
        *LEDGER_RECORDS.columns[:2],
        _column("kind", pl.String(), "UNITS of a security or CASH of an account"),
        _column("key_id", pl.Int64(), "bigsite's key of the security or the cash account"),
        _column("known_as", pl.String(), "EXCHANGE:CODE, or BSB/number/currency", nullable=True, personal=True),
        _column(
            "counts_on",
            pl.Date(),
            "null: dated on or before the business date; else the later date that the records carry",
            nullable=True,
        ),
        _column("sent", UNITS_SUM, "sum of units or amount of all records sent up to and including the date"),
        _column("stated", UNITS_SUM, "units or balance as the date's delivery states them", nullable=True),
        _column("unsent", UNITS_SUM, "part of it recorded after the cut-off; null: not known", nullable=True),
    ),
    ("portfolio_id", "kind", "key_id", "counts_on"),
)
PORTFOLIOS = Frame(
    "ledger_portfolios",
    "One row a portfolio in the delivery.",
    (
        *LEDGER_RECORDS.columns[:2],
        _column("recipient_reference", pl.String(), "recipient's code for the fund"),
        _column("change", pl.String(), "NEW, CURRENT or REMOVED"),
        _column("extract", pl.String(), "FULL, DELTA or NONE"),
        _column("history_from", pl.Date(), "first day of the shared history; null: all of it", nullable=True),
        _column("digest", pl.String(), "SHA-256 of the portfolio's content for the date"),
        _column("consent_ids", pl.List(pl.Int64()), "consents under which the data is disclosed"),
    ),
    ("portfolio_number",),
)
IDENTITIES = Frame(
    "ledger_identities",
    "Every number under which a portfolio or cash account was ever sent, one row a key and number.",
    (
        _column("kind", pl.String(), "PORTFOLIO or ACCOUNT"),
        _column("key_id", pl.Int64(), "bigsite's key of the portfolio or the cash account"),
        _column("portfolio_id", pl.Int64(), "bigsite's key of the portfolio"),
        _column("known_as", pl.String(), "portfolio number, or BSB/number/currency", personal=True),
        _column("first_sent_on", pl.Date(), "business date on which it was first sent under the number"),
    ),
    ("kind", "key_id", "first_sent_on", "known_as"),
)
FRAMES: dict[str, Frame] = {
    "identities": IDENTITIES,
    "records": RECORDS,
    "positions": POSITIONS,
    "portfolios": PORTFOLIOS,
    "stated": STATED,
}


class LedgerFile(StoredRecord):
    """One part of a delivery's ledger."""

    kind: Kind = Field(description="records, positions, portfolios or identities")
    part: NonNegativeInt = Field(description="number of the part, from 0")
    sha256: Sha256 = Field(description="of the file's bytes")
    bytes: NonNegativeInt = Field(description="size of the file")
    rows: NonNegativeInt = Field(description="rows in the file")
    prefix: str | None = Field(
        default=None, description="its key, if an earlier delivery wrote the same file", exclude_if=is_none
    )

    @property
    def name(self) -> str:
        """File name: ``<kind>-<part>.parquet``."""
        return f"{self.kind}-{self.part:04d}.parquet"


class LedgerFiles(StoredRecord):
    """The ledger of one delivery."""

    schema_version: Literal[1] = Field(default=1, description="version of the files' form")
    files: tuple[LedgerFile, ...] = Field(description="every part, by kind and number")

    def of(self, kind: Kind) -> tuple[LedgerFile, ...]:
        """Return the parts of one kind, in order."""
        return tuple(file for file in self.files if file.kind == kind)


class StagedLedger(StoredRecord):
    """The ledger of a staged build: rows of the included portfolios, without regard to earlier dates."""

    prefix: str = Field(description="where the staged files lie")
    files: tuple[LedgerFile, ...]

    def parts(self, part: int, kinds: tuple[Kind, ...]) -> tuple[LedgerFile, ...]:
        """Return one part's files of some kinds."""
        return tuple(file for file in self.files if file.part == part and file.kind in kinds)


def ledger_prefix(feed: str, day: dt.date | None = None, revision: int | None = None) -> str:
    """Return the prefix of a feed's ledger files: all, those of a date, or those of a revision."""
    return dated_prefix("ledger", feed, day, revision)


@contextmanager
def _opened(store: ObjectStore, prefix: str, file: LedgerFile) -> Iterator[Path]:
    key = (file.prefix or prefix) + file.name
    try:
        with store.local_file(key) as path:
            if sha256_of(path) != file.sha256:
                raise DamagedRecordError(store.location(key), "it isn't the ledger file that the manifest names")
            yield path
    except ObjectNotFoundError:
        raise DamagedRecordError(store.location(key), "a ledger file that the manifest names is missing") from None


def read_parts(
    store: ObjectStore,
    prefix: str,
    files: Iterable[LedgerFile],
    columns: list[str] | None = None,
    where: pl.Expr | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield the parts below ``prefix``, whole or only some ``columns`` and the rows ``where`` is true.

    DamagedRecordError unless they are as named. Rows that are left out take no memory.
    """
    for file in files:
        with _opened(store, prefix, file) as path:
            if where is None:
                yield pl.read_parquet(path, columns=columns, glob=False)
            else:
                rows = pl.scan_parquet(path, glob=False).filter(where)
                yield rows.select(pl.all() if columns is None else columns).collect()


@contextmanager
def open_rows(
    store: ObjectStore, prefix: str, files: Iterable[LedgerFile], kind: Kind, columns: Sequence[str] | None = None
) -> Iterator[Callable[[str, pl.Series], pl.DataFrame]]:
    """Open parts of one kind below ``prefix``; the yielded function returns the rows with some values of a column.

    Row groups whose statistics exclude the values are not read, so that memory is bounded by the rows returned. Errors
    as of ``read_parts``.
    """
    with ExitStack() as stack:
        paths = [stack.enter_context(_opened(store, prefix, file)) for file in files]
        names = list(FRAMES[kind].schema if columns is None else columns)

        def rows(column: str, values: pl.Series) -> pl.DataFrame:
            if not paths or values.is_empty():
                return FRAMES[kind].empty().select(names)
            within = pl.col(column).is_between(pl.lit(values.min()), pl.lit(values.max()))
            found = pl.scan_parquet(paths, glob=False).filter(within, pl.col(column).is_in(values.implode()))
            return found.select(names).collect()

        yield rows


def read_kind(
    store: ObjectStore,
    prefix: str,
    ledger: LedgerFiles,
    kind: Kind,
    columns: list[str] | None = None,
    where: pl.Expr | None = None,
) -> pl.DataFrame:
    """Return all parts of one kind together, as ``read_parts`` does."""
    empty = FRAMES[kind].empty()
    parts = read_parts(store, prefix, ledger.of(kind), columns, where)
    return pl.concat([empty if columns is None else empty.select(columns), *parts])


def stated_rows(balances: pl.DataFrame | None, holdings: pl.DataFrame | None) -> pl.DataFrame:
    """Return balances and holdings of the domains in the form of STATED."""
    shared = ("portfolio_id", "portfolio_number")
    values = (pl.col("stated").cast(UNITS_SUM), pl.col("unsent").cast(UNITS_SUM))
    parts = [STATED.empty()]
    if balances is not None:
        parts.append(
            balances.select(
                *shared,
                pl.lit(CASH_POSITION).alias("kind"),
                pl.col("cash_account_id").alias("key_id"),
                account_name().alias("known_as"),
                *values,
            )
        )
    if holdings is not None:
        parts.append(
            holdings.select(
                *shared,
                pl.lit(UNITS_POSITION).alias("kind"),
                pl.col("security_id").alias("key_id"),
                security_name().alias("known_as"),
                *values,
            )
        )
    return STATED.conform(pl.concat(parts))


def account_name() -> pl.Expr:
    """Return the expression of an account's identifier at the recipient: BSB/number/currency."""
    return pl.format("{}/{}/{}", pl.col("bsb").fill_null(""), pl.col("account_number"), pl.col("currency"))


def security_name() -> pl.Expr:
    """Return the expression of a security's identifier at the recipient: EXCHANGE:CODE."""
    return pl.format("{}:{}", pl.col("exchange"), pl.col("security_code"))
