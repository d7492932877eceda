"""The contract of bigsite, read: ``contract.yaml`` (Open Data Contract Standard) as a schema and what goes with it."""

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
    """The contract's file isn't one: not the standard's shape, or it lacks what the project needs of it."""


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """Service level of some columns (``table.column``): ``latency`` 2 ``h``, ``frequency`` 1 ``d``."""

    property: str
    value: str
    unit: str
    elements: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Contract:
    """bigsite as agreed. Columns are named ``table.column``, indexes ``table.index``.

    ``personal`` columns may reach documents alone, never a log, an alert, metadata or an error; ``restricted`` ones,
    a part of them, never leave the broker. ``relied_indexes`` are those without which the extraction is too slow.
    """

    version: str
    owner: str
    schema: Schema
    meanings: Mapping[str, str]
    classifications: Mapping[str, str]
    relied_indexes: frozenset[str]
    service_levels: tuple[ServiceLevel, ...]

    @property
    def personal(self) -> frozenset[str]:
        """Columns of personal data, restricted ones included."""
        return frozenset(name for name, kind in self.classifications.items() if kind in ("personal", "restricted"))

    @property
    def restricted(self) -> frozenset[str]:
        """Columns that never leave the broker."""
        return frozenset(name for name, kind in self.classifications.items() if kind == "restricted")

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """The allowed values of every column that has a closed list, sorted."""
        return {
            f"{table.name}.{column.name}": column.values
            for table in self.schema.tables.values()
            for column in table.columns
            if column.values is not None
        }


@cache
def load_contract(path: Path = CONTRACT) -> Contract:
    """The contract in ``path``; ContractError if it isn't ODCS or lacks what every table and column must state."""
    try:
        document = OpenDataContractStandard.model_validate(yaml.load(path.read_bytes(), yaml.CSafeLoader))
    except (pydantic.ValidationError, yaml.YAMLError, TypeError) as error:
        raise ContractError(f"{path.name} is not a contract in the Open Data Contract Standard: {error}") from error
    for stated in ("apiVersion", "kind", "version", "schema_"):
        if not getattr(document, stated):
            raise ContractError(f"{path.name} is not a contract in the standard: it states no {stated.rstrip('_')}")
    tables = document.schema_ or []
    columns = {f"{table.name}.{column.name}": column for table in tables for column in table.properties or ()}
    for name, column in columns.items():
        _check(path, name, column, columns)
    indexes = {table.name: _indexes(path, table) for table in tables}
    return Contract(
        version=document.version or "",
        owner=(document.team.name if isinstance(document.team, Team) else None) or "",
        schema=Schema("contract", {str(table.name): _table(table, indexes[table.name]) for table in tables}),
        meanings={name: column.description or "" for name, column in columns.items()},
        classifications={name: column.classification or "" for name, column in columns.items()},
        relied_indexes=frozenset(
            f"{table}.{index['name']}" for table, found in indexes.items() for index in found if index["reliedOn"]
        ),
        service_levels=tuple(
            ServiceLevel(
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
        what
        for what in ("physicalType", "logicalType", "required", "classification", "description")
        if getattr(column, what) is None
    ]
    if missing:
        raise ContractError(f"{path.name}: {name} doesn't state {', '.join(missing)}")
    if column.classification not in CLASSIFICATIONS:
        raise ContractError(
            f"{path.name}: {name} is classified {column.classification!r}, not one of {CLASSIFICATIONS}"
        )
    for target in _targets(column):
        if target not in columns:
            raise ContractError(f"{path.name}: {name} points at {target}, which the contract doesn't have")


def _targets(column: SchemaProperty) -> Iterable[str]:
    return [str(relationship.to) for relationship in column.relationships or ()]


def _indexes(path: Path, table: SchemaObject) -> list[dict[str, Any]]:
    stated: list[Any] = [found.value for found in table.customProperties or () if found.property == "indexes"]
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
