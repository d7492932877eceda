"""Contracts with recipients: derived from the declarations, committed, versioned by their change policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from open_data_contract_standard.model import OpenDataContractStandard

from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.class_cash import FEED as CASH
from classfeed_dagster.feeds.class_trade import FEED as TRADE
from classfeed_dagster.feeds.examples import EXAMPLES
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.outgoing_contract import (
    ContractVersionError,
    contract_of,
    recipient_page,
    require_version,
    sorted_fields,
    to_yaml,
)

ALL = (*FEEDS, *EXAMPLES)


@pytest.mark.parametrize("feed", ALL, ids=[feed.name for feed in ALL])
def test_contract_states_every_field_of_the_format(feed: Feed) -> None:
    contract = OpenDataContractStandard.from_string(to_yaml(contract_of(feed)))
    fields = dict(sorted_fields(contract))
    assert list(fields) == [column.name for column in feed.format.columns]
    assert {name for name, field in fields.items() if field.required} == {
        column.name for column in feed.format.columns if not column.optional
    }
    assert {objective.property: objective.value for objective in contract.slaProperties or ()}["deadline"] == "09:00"
    text = "\n".join(recipient_page(contract))
    listed, record = [], ""
    for line in text.splitlines():
        record = f"{line[3:]}/" if line.startswith("## ") else record
        listed += [record + line.split("`")[1]] if line.startswith("- `") else []
    assert listed == list(fields)
    assert "raises the major version" in text
    assert "team:data-feeds" in text


def test_change_needs_the_version_of_its_policy() -> None:
    before = contract_of(CASH)
    fewer = replace(CASH, format=TRADE.format)
    with pytest.raises(ContractVersionError, match="raise the major version"):
        require_version(before, contract_of(replace(fewer, contract_version="1.1.0")))
    require_version(before, contract_of(replace(fewer, contract_version="2.0.0")))
    partial = before.model_copy(deep=True)
    assert partial.schema_ is not None
    assert partial.schema_[0].properties is not None
    added = partial.schema_[0].properties.pop()
    with pytest.raises(ContractVersionError, match=f"{added.name} added: raise the minor version"):
        require_version(partial, before)
    require_version(partial, contract_of(replace(CASH, contract_version="1.1.0")))
    with pytest.raises(ContractVersionError, match="is below 1.0.0"):
        require_version(before, contract_of(replace(CASH, contract_version="0.9.0")))
