"""What every persisted record of delivery shares: a strict typed base, canonical JSON, and the keys of the store."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectStore

_BLOCK = 1 << 20
_AT_A_TIME = 1_000  # members of a list that are made into JSON together
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")
_T = TypeVar("_T")


class Record(BaseModel):
    """A persisted record: immutable, and nothing in it that isn't declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def to_json(record: BaseModel) -> bytes:
    """Canonical JSON of ``record``: keys sorted, UTF-8, no blanks, a newline at the end. Decimals are strings."""
    return b"".join(json_parts(record))


def json_parts(record: BaseModel, exclude: Mapping[str, Any] | None = None) -> Iterator[bytes]:
    """``to_json`` in parts, less what is to ``exclude`` (as in pydantic): its long lists are never plain values whole.

    A manifest may list some hundred thousand portfolios, which as dictionaries take ten times their JSON's memory.
    """
    left_out = exclude or {}
    kind = type(record)
    long = {
        name
        for name in kind.model_fields.keys() - left_out.keys()
        if isinstance(value := getattr(record, name), tuple) and len(value) > _AT_A_TIME
    }
    rest = record.model_dump(mode="json", exclude={**left_out, **dict.fromkeys(long, True)})
    before = b"{"
    for name in sorted(rest.keys() | long):
        yield before + _compact(name) + b":"
        before = b","
        if name not in long:
            yield _compact(rest[name])
            continue
        declared: Any = kind.model_fields[name].annotation
        adapter: TypeAdapter[Any] = TypeAdapter(declared)
        values = getattr(record, name)
        for start in range(0, len(values), _AT_A_TIME):
            part = _compact(adapter.dump_python(values[start : start + _AT_A_TIME], mode="json"))
            yield (b"," if start else b"[") + part[1:-1]
        yield b"]"
    yield (b"{}" if before == b"{" else b"}") + b"\n"


def create_record(store: ObjectStore, key: str, record: BaseModel, metadata: Mapping[str, str] | None = None) -> bool:
    """Store ``to_json`` of a record that may be large, through a file; True if created, False if the key existed."""
    with tempfile.TemporaryDirectory(prefix="classfeed-record-") as folder:
        path = Path(folder) / "record.json"
        with path.open("xb") as target:
            target.writelines(json_parts(record))
        return store.create(key, path, metadata)


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain values: equal values, equal bytes."""
    return _compact(value) + b"\n"


def _compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def from_json(kind: type[_T] | TypeAdapter[_T], data: bytes, location: str) -> _T:
    """The record in ``data``; DamagedRecordError, naming ``location``, if it isn't one."""
    adapter: TypeAdapter[_T] = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        # Where and what kind of fault, never the values: a damaged record may hold anything.
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['type']}" for fault in error.errors()]
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DamagedRecordError(location, f"not a readable record ({'; '.join(faults[:3])}{more})") from None


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_facts(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file, read in blocks."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def stored_facts(store: ObjectStore, key: str) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a stored object; ObjectNotFoundError if there is none."""
    with store.local_file(key) as path:
        return file_facts(path)


def chain_prefix(feed: str) -> str:
    """Under it lie the feed's chain entries, one a position."""
    return f"chain/{feed}/"


def chain_key(feed: str, position: int) -> str:
    """The entry of one position of the chain, from 1 on."""
    return f"{chain_prefix(feed)}{position:08d}.json"


def delivered_prefix(feed: str, day: dt.date | None = None, revision: int | None = None) -> str:
    """Under it lies what was delivered: of the feed, of a date, of a revision."""
    prefix = f"delivered/{feed}/"
    if day is not None:
        prefix += f"{day.isoformat()}/"
        if revision is not None:
            prefix += f"r{revision}/"
    return prefix


def manifest_key(feed: str, day: dt.date, revision: int) -> str:
    """The manifest of a revision: no manifest, no delivery."""
    return f"{delivered_prefix(feed, day, revision)}manifest.json"


def staged_prefix(feed: str, day: dt.date, build_id: str) -> str:
    """Under it lie a build's pages and its record, before they are delivered."""
    return f"staged/{feed}/{day.isoformat()}/{build_id}/"


def build_key(feed: str, day: dt.date, build_id: str) -> str:
    """A build's record."""
    return f"{staged_prefix(feed, day, build_id)}build.json"


def verdict_prefix(feed: str, day: dt.date, build_id: str, check: str) -> str:
    """Under it lie the verdicts of one check over one build, one an evaluation."""
    return f"verdicts/{feed}/{day.isoformat()}/{build_id}/{check}/"


def verdict_key(feed: str, day: dt.date, build_id: str, check: str, evaluation: int = 1) -> str:
    """The verdict of one evaluation of a check over one build, from 1 on."""
    return f"{verdict_prefix(feed, day, build_id, check)}{evaluation:04d}.json"


def quarantine_prefix(feed: str, day: dt.date | None = None) -> str:
    """Under it lie the portfolios held back on a date (or on any), and those released since."""
    return f"quarantine/{feed}/" if day is None else f"quarantine/{feed}/{day.isoformat()}/"


def quarantine_key(feed: str, day: dt.date, number: str) -> str:
    """The quarantine record of a portfolio. A number that can't be part of a key is named by its hash."""
    name = number if _SAFE_NAME.match(number) else f"number-{sha256(number.encode())[:32]}"
    return f"{quarantine_prefix(feed, day)}{name}.json"
