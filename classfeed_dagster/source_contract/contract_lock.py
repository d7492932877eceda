"""Adoption of contract changes: the lock of the last adopted contract, and the version that a change requires.

``contract.lock.json`` holds the last adopted contract. A contract that differs needs a higher version: major if a
column changed that a feed reads, minor if something was added or weakened, patch for wording. A change that lowers a
severity, a classification or the reliance on an index needs a reviewer. A test compares contract and lock.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from classfeed_dagster.source_contract.contract import CLASSIFICATIONS, CONTRACT, Contract, ContractError, load_contract
from classfeed_dagster.source_contract.drift import DriftKind, Exports, Severity, compare
from classfeed_dagster.source_contract.schema import Schema

LOCK = CONTRACT.with_name("contract.lock.json")


class Bump(enum.IntEnum):
    """Least part of the version that a change must raise."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


class Review(BaseModel, frozen=True):
    """Approval of a lower severity: author and reviewer."""

    version: str
    lowered: tuple[str, ...]
    adopted_by: str
    reviewed_by: str


class Lock(BaseModel, frozen=True):
    """The contract as it was adopted last."""

    version: str
    sha256: str  # of the contract's content, independent of layout and comments
    tables: dict[str, Any]  # its schema
    classifications: dict[str, str]
    relied_indexes: tuple[str, ...]
    severities: dict[str, str]  # of each kind of difference
    reviews: tuple[Review, ...] = ()

    @property
    def schema_agreed(self) -> Schema:
        """Return the locked tables as a schema."""
        return Schema.from_json(json.dumps(self.tables).encode())


def severities() -> dict[str, str]:
    """Return the current severity of each kind of difference."""
    return {kind.name: kind.severity.name for kind in DriftKind}


def read_lock(path: Path = LOCK) -> Lock:
    """Read the last adopted contract. ContractError if the file is not a lock."""
    try:
        return Lock.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ContractError(f"{path.name} is not a contract lock ({type(error).__name__}): restore it") from None


def required_bump(lock: Lock, contract: Contract, exports: Exports, path: Path = CONTRACT) -> Bump:
    """Return the part by which the contract's version must exceed the lock's."""
    agreed = replace(contract, schema=lock.schema_agreed, relied_indexes=frozenset(lock.relied_indexes))
    differences = compare(agreed, contract.schema, exports)
    if any(difference.severity is Severity.BLOCKING for difference in differences):
        return Bump.MAJOR
    if differences or lowered(lock, contract):
        return Bump.MINOR
    return Bump.PATCH if _digest(path) != lock.sha256 or lock.severities != severities() else Bump.NONE


def lowered(lock: Lock, contract: Contract, now: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the severities that are lower than agreed, as text. ``now``: current severities (default: the code's)."""
    current = severities() if now is None else now
    texts = [
        f"{kind.lower().replace('_', ' ')} from {was.lower()} to {current[kind].lower()}"
        for kind, was in lock.severities.items()
        if kind in current and Severity[current[kind]] < Severity[was]
    ]
    texts += [
        f"{kind.lower().replace('_', ' ')} is no longer reported" for kind in lock.severities if kind not in current
    ]
    rank = CLASSIFICATIONS.index
    texts += [
        f"{column} from {was} to {contract.classifications[column]}"
        for column, was in lock.classifications.items()
        if column in contract.classifications and rank(contract.classifications[column]) < rank(was)
    ]
    texts += [f"{index} is no longer relied on" for index in sorted({*lock.relied_indexes} - contract.relied_indexes)]
    return tuple(texts)


def open_points(exports: Exports, path: Path = CONTRACT, lock_path: Path = LOCK) -> list[str]:
    """Return the reasons why the contract is not adopted as it is; empty if it is."""
    lock, contract = read_lock(lock_path), load_contract(path)
    bump = required_bump(lock, contract, exports, path)
    if bump is Bump.NONE and contract.version == lock.version:
        return []
    points = [f"{path.name} differs from the adopted version {lock.version}: run classfeed schema adopt --by NAME"]
    least = _raised(lock.version, bump)
    if _parts(contract.version) < _parts(least):
        points.append(f"its version is {contract.version} and must be at least {least}: the change is {bump.name}")
    points += [f"less severe than agreed, needs --reviewed-by: {text}" for text in lowered(lock, contract)]
    return points


def adopt(
    exports: Exports, by: str, reviewed_by: str | None = None, path: Path = CONTRACT, lock_path: Path = LOCK
) -> Lock:
    """Lock the contract as it is. ContractError if its version is too low or a reviewer is missing."""
    lock, contract = read_lock(lock_path), load_contract(path)
    least = _raised(lock.version, required_bump(lock, contract, exports, path))
    if _parts(contract.version) < _parts(least):
        raise ContractError(f"{path.name} has version {contract.version}: raise it to at least {least} for this change")
    weaker = lowered(lock, contract)
    reviews = lock.reviews
    if weaker:
        if not reviewed_by or reviewed_by.casefold() == by.casefold():
            raise ContractError(f"{'; '.join(weaker)}: this needs a reviewer (--reviewed-by) other than {by}")
        reviews += (Review(version=contract.version, lowered=weaker, adopted_by=by, reviewed_by=reviewed_by),)
    locked = lock_of(contract, path, reviews)
    lock_path.write_text(locked.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return locked


def lock_of(contract: Contract, path: Path = CONTRACT, reviews: tuple[Review, ...] = ()) -> Lock:
    """Return the locked part of a contract."""
    return Lock(
        version=contract.version,
        sha256=_digest(path),
        tables=json.loads(contract.schema.to_json()),
        classifications=dict(sorted(contract.classifications.items())),
        relied_indexes=tuple(sorted(contract.relied_indexes)),
        severities=severities(),
        reviews=reviews,
    )


def _digest(path: Path) -> str:
    content = yaml.load(path.read_bytes(), yaml.CSafeLoader)
    content.pop("version", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _parts(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    if len(parts) != len(Bump) - 1 or not all(part.isdecimal() for part in parts):
        raise ContractError(f"{version!r} is not a version of three numbers, e.g. 1.2.0")
    return tuple(map(int, parts))


def _raised(version: str, bump: Bump) -> str:
    major, minor, patch = _parts(version)
    raised = {
        Bump.NONE: (major, minor, patch),
        Bump.PATCH: (major, minor, patch + 1),
        Bump.MINOR: (major, minor + 1, 0),
        Bump.MAJOR: (major + 1, 0, 0),
    }
    return ".".join(map(str, raised[bump]))
