"""Where each column of bigsite ends up: the domains' columns that it fills, and the elements of every document.

Put together from the declarations alone: the frames' ``source``, the EPI mapping, the CSV layouts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from classfeed_dagster.bigsite.drift import Export, Exports
from classfeed_dagster.documents.class_cash import LAYOUT as CLASS_CASH
from classfeed_dagster.documents.class_trade import LAYOUT as CLASS_TRADE
from classfeed_dagster.documents.csv_mapping import BALANCE, DETAIL, CsvLayout
from classfeed_dagster.documents.epi_mapping import element_lineage
from classfeed_dagster.domains import columns
from classfeed_dagster.domains.columns import Frame

LAYOUTS = (CLASS_TRADE, CLASS_CASH)
_FRAMES = {frame.name: frame for frame in vars(columns).values() if isinstance(frame, Frame)}
_DERIVED = "derived"
# Which ledger the letter of a transaction id stands for, in the order in which the column names them.
_LEDGERS = dict(
    zip(
        "TSIC",
        (source.partition(".")[0] for source in columns.MOVEMENT_TRANSACTIONS.column("transaction_id").source),
        strict=True,
    )
)


@cache
def column_exports() -> Exports:
    """The exports of every column of bigsite (``table.column``) that a domain uses, in a stable order."""
    found: dict[str, set[Export]] = {}
    reached: set[tuple[str, str]] = set()
    for frame, column, source, element in (*_epi(), *(line for layout in LAYOUTS for line in _csv(layout))):
        found.setdefault(source, set()).add(Export(f"{frame}.{column}", element))
        reached.add((frame, column))
    for domain in _FRAMES.values():
        for made in domain.columns:
            for source in made.source if (domain.name, made.name) not in reached else ():
                found.setdefault(source, set()).add(Export(f"{domain.name}.{made.name}"))
    return {source: tuple(sorted(exports)) for source, exports in sorted(found.items()) if source != _DERIVED}


def _epi() -> Iterator[tuple[str, str, str, str]]:
    for path, frame, column in element_lineage():
        for source in _FRAMES[frame].column(column).source:
            yield frame, column, source, path


def _csv(layout: CsvLayout) -> Iterator[tuple[str, str, str, str]]:
    others = {table for letter, table in _LEDGERS.items() if letter not in layout.ledgers}
    for letter, fields in layout.columns.items():
        for field in fields:
            for column in field.source.meta.root_names():
                frame = _frame_of(letter, column)
                for source in frame.column(column).source:
                    if source.partition(".")[0] not in others:
                        yield frame.name, column, source, f"{layout.name}.csv/{letter}/{field.name}"


def _frame_of(letter: str, column: str) -> Frame:
    # Details are movements with the portfolio's HIN beside them; balances are balances.
    if letter == BALANCE:
        return columns.ACCOUNT_BALANCES
    movements = columns.MOVEMENT_TRANSACTIONS
    assert letter == DETAIL  # noqa: S101  # the layouts have no other lines with columns
    return movements if column in movements.schema else columns.ACCOUNTS
