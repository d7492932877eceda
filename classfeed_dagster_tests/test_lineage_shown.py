"""What analysts see of lineage in Dagster: every asset's columns, where each comes from, and no personal data shown."""

from __future__ import annotations

import polars as pl
import pytest
from dagster import AssetKey

from classfeed_dagster.bigsite.lineage import unknown_sources as unknown_in_bigsite
from classfeed_dagster.definitions import build_definitions
from classfeed_dagster.domains import lineage as domain_lineage
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.seam import MASK, code_of, preview, type_name
from classfeed_dagster.settings import Settings

DATA = ("bigsite", "landing", "class")  # with the feeds' documents and deliveries: what has columns


@pytest.fixture(scope="module")
def shown() -> dict[str, dict[str, object]]:
    graph = build_definitions(Runtime(Settings())).resolve_asset_graph()
    return {key.to_user_string(): dict(graph.get(key).metadata) for key in graph.get_all_asset_keys()}


def has_data(key: str) -> bool:
    return (key.split("/")[0] in DATA and key != "bigsite/schema") or key.endswith(("/document", "/delivery"))


def columns_of(metadata: dict[str, object]) -> dict[str, object]:
    return {column.name: column for column in metadata["dagster/column_schema"].columns}  # type: ignore[attr-defined]


def test_every_declared_source_exists() -> None:
    assert unknown_in_bigsite() == []
    assert domain_lineage.unknown_sources() == []


def test_every_asset_that_holds_data_says_what_its_columns_are(shown: dict[str, dict[str, object]]) -> None:
    for key in filter(has_data, shown):
        for name, column in columns_of(shown[key]).items():
            assert column.description, (key, name)  # type: ignore[attr-defined]
            assert column.type, (key, name)  # type: ignore[attr-defined]


def test_every_column_comes_from_columns_that_its_parents_have(shown: dict[str, dict[str, object]]) -> None:
    graph = build_definitions(Runtime(Settings())).resolve_asset_graph()
    for key in filter(has_data, shown):
        if key.startswith("bigsite/"):
            continue
        lineage = shown[key]["dagster/column_lineage"].deps_by_column  # type: ignore[attr-defined]
        without = columns_of(shown[key]).keys() - lineage.keys()
        assert {name.rpartition("/")[2] for name in without} <= {"as_at_date", "AsAtDate"}, key
        parents = graph.get(AssetKey(key.split("/"))).parent_keys
        for name, deps in lineage.items():
            assert name in columns_of(shown[key])
            for dep in deps:
                assert dep.asset_key in parents, (key, name, dep)
                assert dep.column_name in columns_of(shown[dep.asset_key.to_user_string()]), (key, name, dep)


def back_to_bigsite(shown: dict[str, dict[str, object]], key: str, column: str) -> set[str]:
    if key.startswith("bigsite/"):
        return {f"{key.removeprefix('bigsite/')}.{column}"}
    deps = shown[key]["dagster/column_lineage"].deps_by_column[column]  # type: ignore[attr-defined]
    return {
        source for dep in deps for source in back_to_bigsite(shown, dep.asset_key.to_user_string(), dep.column_name)
    }


@pytest.mark.parametrize(
    ("asset", "column", "sources"),
    [
        ("class_super/delivery", "EPIDataResponse/MovementTransactions/MovementTransaction/Gst", {"trade.gst"}),
        ("class_super/delivery", "EPIDataResponse/InvestmentHoldings/InvestmentHolding/MarketValue",
         {"holding_eod.units", "security_price.close_price"}),
        ("class_super/document", "EPIDataResponse/AccountDetails/Account/CashAccount/Bsb", {"cash_account.bsb"}),
        ("class_cash/delivery", "B/ledger_balance", {"cash_balance_eod.ledger_balance"}),
    ],
)  # fmt: skip
def test_a_number_of_the_recipient_leads_back_to_bigsite(
    shown: dict[str, dict[str, object]], asset: str, column: str, sources: set[str]
) -> None:
    assert back_to_bigsite(shown, asset, column) == sources


def test_personal_data_is_marked_all_the_way(shown: dict[str, dict[str, object]]) -> None:
    for key, column in [
        ("bigsite/member", "email"),
        ("landing/cash_account", "account_number"),
        ("class/account_details", "cash_accounts.account_number"),
        ("class_super/delivery", "EPIDataResponse/AccountBalances/AccountBalance/CashAccountNumber"),
        ("class_trade/document", "D/hin"),
    ]:
        assert columns_of(shown[key])[column].tags["personal_data"], (key, column)  # type: ignore[attr-defined]
    assert not columns_of(shown["landing/trade"])["units"].tags  # type: ignore[attr-defined]


def test_a_preview_masks_what_is_personal() -> None:
    rows = pl.DataFrame({"portfolio_number": ["SW1"] * 20, "abn": ["51824753556"] * 20, "hin": [None] * 20})
    text = preview(rows, {"abn", "hin"}).value
    assert text is not None
    assert "51824753556" not in text
    assert text.count(f"| SW1 | {MASK} |  |") == 8


def test_types_are_named_as_in_sql() -> None:
    types = (pl.Decimal(18, 2), pl.Datetime("us", "UTC"), pl.List(pl.Int64), pl.String(), pl.Date(), pl.Int64())
    assert [type_name(one) for one in types] == [
        "decimal(18,2)", "timestamp UTC", "list of bigint", "string", "date", "bigint",
    ]  # fmt: skip


def test_code_is_named_where_it_is() -> None:
    assert code_of(type_name) == "classfeed_dagster/seam.py#type_name"
