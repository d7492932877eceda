"""bigsite's contract: ``contract.yaml`` (Open Data Contract Standard) as a schema with meanings and classifications."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pydantic
import yaml
from open_data_contract_standard.model import OpenDataContractStandard, SchemaObject, SchemaProperty, Team

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.source_contract.schema import ForeignKey, Index, Schema, SchemaColumn, SchemaTable

CONTRACT = Path(__file__).with_name("contract.yaml")
CLASSIFICATIONS = ("public", "internal", "confidential", "personal", "restricted")


class ContractError(ConfigurationError):
    """``contract.yaml`` is not a valid contract: not ODCS, or without something that the project requires."""


@dataclass(frozen=True, slots=True)
class SourceServiceLevel:
    """Service level of some columns (``table.column``): ``latency`` 2 ``h``, ``frequency`` 1 ``d``."""

    property: str
    value: str
    unit: str
    elements: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Contract:
    """bigsite's agreed schema. Columns are named ``table.column``, indexes ``table.index``.

    ``personal`` columns may appear in documents only, never in a log, an alert, metadata or an error. ``restricted``
    columns are personal columns that never leave the broker. Without ``relied_indexes`` the extraction is too slow.
    """

    version: str
    owner: str
    schema: Schema
    tables: Mapping[str, str]  # a table's meaning, by name
    meanings: Mapping[str, str]
    classifications: Mapping[str, str]
    relied_indexes: frozenset[str]
    service_levels: tuple[SourceServiceLevel, ...]

    @property
    def personal(self) -> frozenset[str]:
        """Return the columns of personal data, including the restricted ones."""
        return frozenset(name for name, kind in self.classifications.items() if kind in ("personal", "restricted"))

    @property
    def restricted(self) -> frozenset[str]:
        """Return the columns that never leave the broker."""
        return frozenset(name for name, kind in self.classifications.items() if kind == "restricted")

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """Return the allowed values, sorted, of every column that has a closed list."""
        return {
            f"{table.name}.{column.name}": column.values
            for table in self.schema.tables.values()
            for column in table.columns
            if column.values is not None
        }


@cache
def load_contract(path: Path = CONTRACT) -> Contract:
    """Read the contract in ``path``. ContractError if it is not ODCS or a table or column lacks a required fact."""
    try:
        document = OpenDataContractStandard.model_validate(yaml.load(path.read_bytes(), yaml.CSafeLoader))
    except (pydantic.ValidationError, yaml.YAMLError, TypeError) as error:
        raise ContractError(f"{path.name} is not a contract in the Open Data Contract Standard: {error}") from error
    for stated in ("apiVersion", "kind", "version", "schema_"):
        if not getattr(document, stated):
            raise ContractError(f"{path.name} is not a contract in the standard: it has no {stated.rstrip('_')}")
    tables = document.schema_ or []
    columns = {f"{table.name}.{column.name}": column for table in tables for column in table.properties or ()}
    for name, column in columns.items():
        _check(path, name, column, columns)
    indexes = {table.name: _indexes(path, table) for table in tables}
    return Contract(
        version=document.version or "",
        owner=(document.team.name if isinstance(document.team, Team) else None) or "",
        schema=Schema("contract", {str(table.name): _table(table, indexes[table.name]) for table in tables}),
        tables={str(table.name): table.description or "" for table in tables},
        meanings={name: column.description or "" for name, column in columns.items()},
        classifications={name: column.classification or "" for name, column in columns.items()},
        relied_indexes=frozenset(
            f"{table}.{index['name']}" for table, listed in indexes.items() for index in listed if index["reliedOn"]
        ),
        service_levels=tuple(
            SourceServiceLevel(
                level.property or "",
                str(level.value),
                level.unit or "",
                tuple(element.strip() for element in (level.element or "").split(",")),
                level.description or "",
            )
            for level in document.slaProperties or ()
        ),
    )


def _check(path: Path, name: str, column: SchemaProperty, columns: Mapping[str, Any]) -> None:
    missing = [
        fact
        for fact in ("physicalType", "logicalType", "required", "classification", "description")
        if getattr(column, fact) is None
    ]
    if missing:
        raise ContractError(f"{path.name}: {name} lacks {', '.join(missing)}")
    if column.classification not in CLASSIFICATIONS:
        raise ContractError(
            f"{path.name}: {name} has classification {column.classification!r}: expected one of {CLASSIFICATIONS}"
        )
    for target in _targets(column):
        if target not in columns:
            raise ContractError(f"{path.name}: {name} references {target}, which is not in the contract")


def _targets(column: SchemaProperty) -> Iterable[str]:
    return [str(relationship.to) for relationship in column.relationships or ()]


def _indexes(path: Path, table: SchemaObject) -> list[dict[str, Any]]:
    stated: list[Any] = [custom.value for custom in table.customProperties or () if custom.property == "indexes"]
    indexes: list[dict[str, Any]] = stated[0] if stated else []
    names = {column.name for column in table.properties or ()}
    for index in indexes:
        if not {"name", "columns", "reliedOn"} <= index.keys() or not names.issuperset(index["columns"]):
            raise ContractError(
                f"{path.name}: an index of {table.name} needs name, columns of that table, and reliedOn: {index}"
            )
    return indexes


def _table(table: SchemaObject, indexes: Iterable[Mapping[str, Any]]) -> SchemaTable:
    properties = table.properties or []
    key = sorted((column for column in properties if column.primaryKey), key=lambda c: c.primaryKeyPosition or 0)
    return SchemaTable(
        name=str(table.name),
        columns=tuple(_column(column, position) for position, column in enumerate(properties, start=1)),
        primary_key=tuple(str(column.name) for column in key),
        unique=tuple(sorted((str(column.name),) for column in properties if column.unique)),
        foreign_keys=tuple(
            sorted(
                ForeignKey((str(column.name),), *_split(target)) for column in properties for target in _targets(column)
            )
        ),
        indexes=tuple(sorted(Index(tuple(index["columns"]), index["name"]) for index in indexes)),
        checks=tuple(sorted(check for column in properties for check in _limits(column))),
        kind=table.physicalType or "table",
    )


def _split(target: str) -> tuple[str, tuple[str, ...]]:
    table, _, column = target.rpartition(".")
    return table, (column,)


def _column(column: SchemaProperty, position: int) -> SchemaColumn:
    return SchemaColumn(
        name=str(column.name),
        type=str(column.physicalType),
        nullable=not column.required,
        position=position,
        values=tuple(sorted(str(allowed.value) for allowed in column.enum)) if column.enum else None,
    )


def _limits(column: SchemaProperty) -> Iterable[str]:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    options = column.logicalTypeOptions or {}
    return [f"{column.name} {sign} {options[limit]}" for limit, sign in signs.items() if limit in options]
