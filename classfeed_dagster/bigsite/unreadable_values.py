"""Values that bigsite can store but a feed cannot hold: NaN, infinity, years beyond 9999.

A row with such a value is not landed. The snapshot lists it, and its portfolios are held back.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

MAX_VALUES = 10_000  # more are a fault of the whole source

_DATE_FORM = r"^\d{4}-\d{2}-\d{2}$"
_INSTANT_FORM = r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d{1,6})?[+-]\d{2}(:\d{2}){0,2}$"
# Column that identifies a row for a person; ledgers have ``<table>_id``.
_KEYS = {
    "holding_eod": "security_id",
    "opening_units": "security_id",
    "opening_cash": "cash_account_id",
    "cash_balance_eod": "cash_account_id",
    "repeated_confirmation": "confirmation_number",
    "security_code_change": "security_id",
    "security_price": "security_id",
}


class UnreadableValue(BaseModel, frozen=True):
    """One value that cannot be landed.

    Attributes:
        table: the landed table
        key: the row's identifier in bigsite, as ``<column> <value>``
        column: the landed column
        problem: the fault of the value, without the value
        portfolio_id: the portfolio concerned; None for reference data
        security_id: the security concerned, for reference data
    """

    table: str
    key: str
    column: str
    problem: str
    portfolio_id: int | None = None
    security_id: int | None = None

    @property
    def reason(self) -> str:
        """Return one sentence with table, row, column, problem and remedy."""
        return f"{self.table}.{self.column} of the row with {self.key} {self.problem}: correct the row in bigsite"


# Receives each unreadable value: see ``readable_rows``.
Report = Callable[[UnreadableValue], None]


def parse_rows(block: bytes, schema: pa.Schema) -> pa.Table:
    """Return the rows of a block of COPY's CSV, typed as ``schema``; ArrowInvalid if a value has another form."""
    import pyarrow.csv as pa_csv  # imported here: commands that read no rows do not need it

    return pa_csv.read_csv(
        io.BytesIO(block),
        read_options=pa_csv.ReadOptions(column_names=schema.names, block_size=len(block)),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=schema,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def readable_rows(table: str, block: bytes, schema: pa.Schema, report: Report) -> pa.Table:
    """Return the rows of a block whose values all have their column's form, and report the other values.

    Zeros beyond a decimal's scale, which a column widened by bigsite has, are no other value.
    """
    import pyarrow.compute as pc

    texts = parse_rows(block, pa.schema([pa.field(name, pa.string()) for name in schema.names]))
    for at, field in enumerate(schema):
        if isinstance(field.type, pa.Decimal128Type):
            surplus = rf"(\.\d{{{field.type.scale}}})0+$"
            texts = texts.set_column(
                at, field.name, pc.replace_substring_regex(texts.column(at), pattern=surplus, replacement=r"\1")
            )
    try:
        return _parsed(texts, schema)
    except pa.ArrowInvalid:
        return _parsed(texts.filter(_readable(table, texts, schema, report)), schema)


def _readable(table: str, texts: pa.Table, schema: pa.Schema, report: Report) -> pa.BooleanArray:
    import pyarrow.compute as pc

    readable = np.ones(texts.num_rows, dtype=bool)
    for field in schema:
        form = _form(field.type)
        if form is None:
            continue
        matches: Any = pc.match_substring_regex(texts.column(field.name), form)
        obeys = np.array([match is not False for match in matches.to_pylist()], dtype=bool)  # null has every form
        for row in texts.filter(pa.array(~obeys)).to_pylist():
            report(_unreadable(table, field, row))
        readable &= obeys
    return pa.array(readable)


def _parsed(texts: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow.csv as pa_csv

    target = io.BytesIO()
    pa_csv.write_csv(texts, target, pa_csv.WriteOptions(include_header=False))
    return parse_rows(target.getvalue(), schema) if target.tell() else pa.Table.from_batches([], schema=schema)


def _form(dtype: pa.DataType) -> str | None:
    if isinstance(dtype, pa.Decimal128Type):
        return rf"^-?\d{{1,{dtype.precision - dtype.scale}}}(\.\d{{1,{dtype.scale}}})?$"
    if pa.types.is_date(dtype):
        return _DATE_FORM
    return _INSTANT_FORM if pa.types.is_timestamp(dtype) else None


def _unreadable(table: str, field: pa.Field[Any], row: dict[str, str | None]) -> UnreadableValue:
    key = _KEYS.get(table, f"{table}_id")
    portfolio, security = row.get("portfolio_id"), row.get("security_id")
    return UnreadableValue(
        table=table,
        key=f"{key} {row[key]}",
        column=field.name,
        problem=_problem(field.type, row[field.name] or ""),
        portfolio_id=None if portfolio is None else int(portfolio),
        security_id=int(security) if portfolio is None and security is not None else None,
    )


def _problem(dtype: pa.DataType, text: str) -> str:
    if "infinity" in text.lower():
        return "is infinite"
    if text == "NaN":
        return "is not a number"
    if isinstance(dtype, pa.Decimal128Type):
        if len(text.partition(".")[2]) > dtype.scale:
            return f"has more than {dtype.scale} decimals"
        return f"has more than {dtype.precision - dtype.scale} digits before the decimal point"
    return "lies outside the years 0001 to 9999"
