"""A change of bigsite's contract requires a version, and a weaker contract a reviewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.source_contract.contract import CONTRACT, ContractError, load_contract
from classfeed_dagster.source_contract.contract_lock import (
    LOCK,
    Bump,
    adopt,
    lock_of,
    lowered,
    open_points,
    read_lock,
    required_bump,
    severities,
)


def test_checked_out_contract_is_adopted() -> None:
    assert open_points(column_exports()) == [], "raise the contract's version and run: classfeed schema adopt --by NAME"


class Draft:
    """Copy of contract and lock, to be changed."""

    def __init__(self, folder: Path) -> None:
        self.contract, self.lock = folder / "contract.yaml", folder / "contract.lock.json"
        self.document: Any = yaml.safe_load(CONTRACT.read_text())
        self.lock.write_bytes(LOCK.read_bytes())

    def column(self, table: str, name: str) -> dict[str, Any]:
        (matches,) = [item for item in self.table(table)["properties"] if item["name"] == name]
        assert isinstance(matches, dict)
        return matches

    def table(self, name: str) -> dict[str, Any]:
        (matches,) = [item for item in self.document["schema"] if item["name"] == name]
        assert isinstance(matches, dict)
        return matches

    def save(self, version: str | None = None) -> Draft:
        if version:
            self.document["version"] = version
        self.contract.write_text(yaml.safe_dump(self.document, sort_keys=False))
        load_contract.cache_clear()
        return self

    def bump(self) -> Bump:
        return required_bump(read_lock(self.lock), load_contract(self.contract), column_exports(), self.contract)

    def adopt(self, by: str = "Ada", reviewed_by: str | None = None) -> None:
        adopt(column_exports(), by, reviewed_by, self.contract, self.lock)

    def points(self) -> list[str]:
        return open_points(column_exports(), self.contract, self.lock)


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Draft(tmp_path)


def test_contract_layout_and_comments_are_no_change(draft: Draft) -> None:
    assert draft.save().bump() is Bump.NONE
    assert draft.points() == []


def test_contract_change_of_words_needs_a_patch_version(draft: Draft) -> None:
    draft.column("trade", "gst")["description"] = "part of it that is tax"
    assert draft.save().bump() is Bump.PATCH
    with pytest.raises(ContractError, match="at least 1.0.1"):
        draft.adopt()
    draft.save("1.0.1").adopt()
    assert draft.points() == []


def test_contract_addition_needs_a_minor_version(draft: Draft) -> None:
    draft.table("trade")["properties"].append(
        {"name": "venue", "physicalType": "VARCHAR(4)", "logicalType": "string", "required": False,
         "classification": "internal", "description": "where it was executed"}
    )  # fmt: skip
    assert draft.save("1.0.1").bump() is Bump.MINOR
    assert any("at least 1.1.0" in point for point in draft.points())
    draft.save("1.1.0").adopt()


def test_contract_change_of_a_read_column_needs_a_major_version(draft: Draft) -> None:
    draft.column("trade", "gst")["required"] = False
    assert draft.save("1.9.9").bump() is Bump.MAJOR
    with pytest.raises(ContractError, match="at least 2.0.0"):
        draft.adopt()
    draft.save("2.0.0").adopt()
    assert read_lock(draft.lock).version == "2.0.0"


@pytest.mark.parametrize("reviewer", [None, "ada"])
def test_contract_weakening_needs_a_second_person(draft: Draft, reviewer: str | None) -> None:
    draft.column("member", "email")["classification"] = "internal"
    draft.save("1.1.0")
    assert any("member.email from restricted to internal" in point for point in draft.points())
    with pytest.raises(ContractError, match="a reviewer"):
        draft.adopt("Ada", reviewer)
    draft.adopt("Ada", "Grace")
    (review,) = read_lock(draft.lock).reviews
    assert (review.adopted_by, review.reviewed_by, review.version) == ("Ada", "Grace", "1.1.0")
    assert draft.points() == []


def test_contract_weakening_is_severity_classification_or_index() -> None:
    lock, contract = lock_of(load_contract()), load_contract()
    assert lowered(lock, contract) == ()
    softer = {**severities(), "REMOVED_COLUMN": "NOTE"}
    assert lowered(lock, contract, softer) == ("removed column from blocking to note",)
    harder = {**severities(), "ADDED_TABLE": "WARNING"}
    assert lowered(lock, contract, harder) == ()
    fewer = {kind: severity for kind, severity in severities().items() if kind != "LOST_INDEX"}
    assert lowered(lock, contract, fewer) == ("lost index is no longer reported",)
    more = lock.model_copy(update={"relied_indexes": (*lock.relied_indexes, "trade.gone")})
    assert lowered(more, contract) == ("trade.gone is no longer relied on",)


def test_severity_changed_in_code_needs_adoption() -> None:
    lock = lock_of(load_contract()).model_copy(update={"severities": {**severities(), "ADDED_TABLE": "BLOCKING"}})
    assert required_bump(lock, load_contract(), column_exports()) is Bump.MINOR


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_invalid_lock_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "contract.lock.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ContractError, match="not a contract lock"):
        read_lock(path)


def test_version_has_three_numbers(draft: Draft) -> None:
    draft.column("trade", "gst")["description"] = "tax"
    draft.save("2")
    with pytest.raises(ContractError, match="three numbers"):
        draft.adopt()
