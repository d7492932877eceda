"""Lineage in Dagster: every asset's columns with their sources, and no personal data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster import AssetKey

from classfeed_dagster.bigsite.landing import StoredFile, StoredTable
from classfeed_dagster.bigsite.lineage import DERIVED as DERIVED_COLUMNS
from classfeed_dagster.bigsite.lineage import landed_sources
from classfeed_dagster.bigsite.queries import SCHEMAS
from classfeed_dagster.bigsite.tables import metadata
from classfeed_dagster.domains.build import FRAMES
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS
from classfeed_dagster.domains.lineage import DERIVED, shown_frames
from classfeed_dagster.orchestration.column_metadata import type_name
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.metadata_values import MASK, code_links, code_of, previews
from classfeed_dagster.orchestration.step_context import timed
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster_tests.fixtures.desk import Desk

ROOT = Path(__file__).parents[2]

# What produces no table, or only shows one, with the reason.
WITHOUT_COLUMNS = {
    "bigsite/schema": "a description of tables, kept as JSON; its differences are readable text",
    "simulation/customers": "writes into bigsite's tables, which have their own columns",
    "simulation/cleaning": "only deletes",
    "operations/service_levels": "a report: its tables are shown in its metadata and kept nowhere",
    "operations/toil": "a report: its tables are shown in its metadata and kept nowhere",
    "operations/consent_expiry": "a list as JSON for the broker's systems",
    "owner/deliveries": "observations as JSON, a few figures each",
    "owner/costs": "observations as JSON, a few figures each",
    "owner/engineering": "reads what the pipelines recorded",
    "owner/month": "a page and a record of a month",
}
# Columns that are made of no column above, with the reason. By the end of the asset's key; "*": all of them.
_MANIFEST = "said by the manifest of the delivery, not by the document"
_JUDGED = "a judgement on rows: which column it is about stands in the row"
WITHOUT_LINEAGE = {
    "account_balances": {"as_at_date": "the partition"},
    "investment_holdings": {"as_at_date": "the partition"},
    "document": {"*/AsAtDate": "the partition"},
    "delivery": {"*/AsAtDate": "the partition"},
    "quarantine": dict.fromkeys(("kind", "reason", "rules", "waiting_for"), _JUDGED),
    "parity": {"*": _JUDGED},
    "source_reconciliation": {"*": _JUDGED},
    "data_team_reconciliation": {"*": _JUDGED},
    "dim_date": {"*": "the calendar"},
    "dim_portfolio": dict.fromkeys(("RECIPIENT", "VALID_FROM", "VALID_TO", "IS_CURRENT"), _MANIFEST),
    "dim_cash_account": dict.fromkeys(("RECIPIENT", "VALID_FROM", "VALID_TO", "IS_CURRENT"), _MANIFEST),
    "dim_security": dict.fromkeys(("VALID_FROM", "VALID_TO", "IS_CURRENT"), _MANIFEST),
    "fact_movement": dict.fromkeys(("FEED", "BUSINESS_DATE", "MESSAGE_ID", "CORRELATION_ID"), _MANIFEST),
    "fact_holding_daily": dict.fromkeys(("FEED", "BUSINESS_DATE", "MESSAGE_ID", "CORRELATION_ID"), _MANIFEST),
    "fact_cash_balance_daily": dict.fromkeys(("FEED", "BUSINESS_DATE", "MESSAGE_ID", "CORRELATION_ID"), _MANIFEST),
    "fact_delivery": dict.fromkeys(
        ("FEED", "BUSINESS_DATE", "REVISION", "MESSAGE_ID", "SEQUENCE_NUMBER", "CHAIN_POSITION", "CONTENT_DIGEST",
         "RECORD_BYTES", "PAGE_SHA256", "SNAPSHOT_ID", "SNAPSHOT_AT", "CONSENT_CHECKED_AT", "CORRELATION_ID",
         "IS_LATEST"),
        _MANIFEST,
    ),
}  # fmt: skip
# A CSV file has less than the EPI document. Columns that it lacks are empty in its feed's tables, or, of a
# delivery, filled from the manifest. By the asset's whole key.
_DELIVERED = "PORTFOLIO_KEY PORTFOLIO_NUMBER CONSENT_CHANGE EXTRACT_KIND"
_HOLDING = (
    "PORTFOLIO_KEY SECURITY_KEY PORTFOLIO_NUMBER EXCHANGE SECURITY_CODE UNITS SETTLED_UNITS CURRENCY PRICE PRICE_DATE "
    "MARKET_VALUE COST_BASE"
)
_CASH_ACCOUNT = (
    "CASH_ACCOUNT_KEY PORTFOLIO_KEY PORTFOLIO_NUMBER CASH_ACCOUNT_NUMBER CURRENCY BSB ACCOUNT_NAME STATUS OPENED_ON "
    "CLOSED_ON"
)
_PORTFOLIO = (
    "PORTFOLIO_KEY PORTFOLIO_NUMBER RECIPIENT_REFERENCE PORTFOLIO_NAME ENTITY_TYPE ABN STATUS OPENED_ON CLOSED_ON "
    "IS_SHARED"
)
_INCOME = "EX_DATE GROSS_AMOUNT FRANKED_AMOUNT UNFRANKED_AMOUNT FRANKING_CREDIT WITHHOLDING_TAX NET_INCOME"
_TRADE = "UNITS CONFIRMATION_NUMBER PRICE CONSIDERATION BROKERAGE GST OTHER_FEES NET_AMOUNT"
NOT_IN_THE_FILE = {
    "warehouse/class_cash/dim_cash_account": _CASH_ACCOUNT,
    "warehouse/class_cash/dim_portfolio": f"{_PORTFOLIO} HIN",
    "warehouse/class_cash/dim_security": (
        "SECURITY_KEY EXCHANGE SECURITY_CODE ISIN SECURITY_NAME SECURITY_TYPE CURRENCY"
    ),
    "warehouse/class_cash/fact_delivery": _DELIVERED,
    "warehouse/class_cash/fact_holding_daily": _HOLDING,
    "warehouse/class_cash/fact_movement": f"SECURITY_KEY SETTLEMENT_DATE COST_BASE_CHANGE {_TRADE} {_INCOME}",
    "warehouse/class_trade/dim_cash_account": _CASH_ACCOUNT,
    "warehouse/class_trade/dim_portfolio": _PORTFOLIO,
    "warehouse/class_trade/dim_security": "SECURITY_NAME SECURITY_TYPE CURRENCY",
    "warehouse/class_trade/fact_cash_balance_daily": (
        "PORTFOLIO_KEY CASH_ACCOUNT_KEY PORTFOLIO_NUMBER CURRENCY LEDGER_BALANCE AVAILABLE_BALANCE"
    ),
    "warehouse/class_trade/fact_delivery": _DELIVERED,
    "warehouse/class_trade/fact_holding_daily": _HOLDING,
    "warehouse/class_trade/fact_movement": f"RELATES_TO COST_BASE_CHANGE AMOUNT NARRATIVE {_INCOME}",
}


_REVIEWED = ("class_cash", "class_super", "class_trade")


@pytest.fixture(scope="module")
def shown() -> dict[str, dict[str, object]]:
    graph = build_definitions(Runtime(Settings())).resolve_asset_graph()
    return {key.to_user_string(): dict(graph.get(key).metadata) for key in graph.get_all_asset_keys()}


def has_data(key: str) -> bool:
    return key not in WITHOUT_COLUMNS


def explained(key: str, column: str) -> bool:
    """Return True if a column without lineage is listed with a reason."""
    if column in NOT_IN_THE_FILE.get(key, "").split():
        return True
    if key.startswith("warehouse/") and key.split("/")[1] not in _REVIEWED:
        return True  # the columns of another feed's format say what it cannot fill
    listed = WITHOUT_LINEAGE.get(key.rpartition("/")[2], {})
    return "*" in listed or column in listed or f"*/{column.rpartition('/')[2]}" in listed


def columns_of(metadata: dict[str, object]) -> dict[str, object]:
    return {column.name: column for column in metadata["dagster/column_schema"].columns}  # type: ignore[attr-defined]


def test_declared_source_exists() -> None:
    tables = {name.partition(".")[2]: table for name, table in metadata.tables.items()}
    landed = {f"{table}.{name}" for table, schema in SCHEMAS.items() for name in schema.names}
    origins = {source for table in SCHEMAS for names in landed_sources(table).values() for source in names}
    assert [
        source for source in origins if source.partition(".")[2] not in tables[source.partition(".")[0]].columns
    ] == []
    assert DERIVED_COLUMNS.keys() <= landed
    consented = {f"{CONSENTED_PORTFOLIOS.name}.{column.name}" for column in CONSENTED_PORTFOLIOS.columns}
    frames = [frame for domain in FRAMES for frame in shown_frames(domain)]
    assert {source for frame in frames for c in frame.columns for source in c.source} <= {*landed, *consented, DERIVED}


def test_asset_with_data_declares_its_columns(shown: dict[str, dict[str, object]]) -> None:
    for key in filter(has_data, shown):
        assert columns_of(shown[key]), key
        for name, column in columns_of(shown[key]).items():
            assert column.description, (key, name)  # type: ignore[attr-defined]
            assert column.type, (key, name)  # type: ignore[attr-defined]


def test_lineage_exception_is_still_needed(shown: dict[str, dict[str, object]]) -> None:
    assert [key for key in WITHOUT_COLUMNS if key not in shown or "dagster/column_schema" in shown[key]] == []
    for name, columns in WITHOUT_LINEAGE.items():
        listed = {column.rpartition("/")[2] for column in columns} - {"*"}
        for key in (key for key in shown if key.rpartition("/")[2] == name):
            matches = {column.rpartition("/")[2] for column in columns_of(shown[key])}
            assert listed <= matches | {"AsAtDate"}, key
    for key, names in NOT_IN_THE_FILE.items():
        listed = set(names.split())
        assert listed <= columns_of(shown[key]).keys(), key
        lineage = shown[key].get("dagster/column_lineage")
        assert not lineage or not listed & lineage.deps_by_column.keys(), key  # type: ignore[attr-defined]


def test_column_comes_from_columns_of_its_parents(shown: dict[str, dict[str, object]]) -> None:
    graph = build_definitions(Runtime(Settings())).resolve_asset_graph()
    for key in filter(has_data, shown):
        parents = graph.get(AssetKey(key.split("/"))).parent_keys
        if not parents:
            continue  # another team's
        result = shown[key].get("dagster/column_lineage")
        lineage = result.deps_by_column if result else {}  # type: ignore[attr-defined]
        without = columns_of(shown[key]).keys() - lineage.keys()
        assert [name for name in without if not explained(key, name)] == [], key
        for name, deps in lineage.items():
            assert name in columns_of(shown[key])
            for dep in deps:
                assert dep.asset_key in parents, (key, name, dep)
                assert dep.column_name in columns_of(shown[dep.asset_key.to_user_string()]), (key, name, dep)


def test_materialization_leaves_columns_to_the_definition(desk: Desk) -> None:
    desk.two_customers("2026-03-02")
    desk.run("2026-03-02")
    (run,) = desk.instance.get_runs()
    labels = {
        label
        for event in desk.instance.all_logs(run.run_id)
        if event.asset_materialization
        for label in event.asset_materialization.metadata
    }
    assert "seconds" in labels
    assert not labels & {"dagster/column_schema", "dagster/column_lineage"}


def test_asset_links_to_runbook_and_code(shown: dict[str, dict[str, object]]) -> None:
    sections = set(re.findall(r"^#+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    anchors = {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in sections}
    for key in filter(has_data, shown):
        if key.startswith(("bigsite/", "legacy/", "data_team/")):
            continue  # another team's
        file, _, anchor = str(shown[key]["runbook"].value).partition("#")  # type: ignore[attr-defined]
        assert (file, anchor in anchors) == ("/classfeed/docs/runbook.md", True), (key, anchor)
        (reference,) = shown[key]["dagster/code_references"].code_references  # type: ignore[attr-defined]
        assert (
            Path(reference.file_path)
            .read_text()
            .splitlines()[reference.line_number - 1]
            .startswith(("def ", "class ", "@", "    def "))
        ), key


def back_to_bigsite(shown: dict[str, dict[str, object]], key: str, column: str) -> set[str]:
    if key.startswith("data_team/"):
        return {f"{key}.{column}"}
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
        ("warehouse/class_super/fact_holding_daily", "MARKET_VALUE",
         {"holding_eod.units", "security_price.close_price"}),
        ("warehouse/class_super/dim_cash_account", "PORTFOLIO_NUMBER", {"portfolio.portfolio_number"}),
        ("warehouse/class_super/fact_movement", "GST", {"trade.gst"}),
    ],
)  # fmt: skip
def test_delivered_number_is_traced_back_to_bigsite(
    shown: dict[str, dict[str, object]], asset: str, column: str, sources: set[str]
) -> None:
    assert back_to_bigsite(shown, asset, column) == sources


def test_personal_columns_are_marked_in_every_layer(shown: dict[str, dict[str, object]]) -> None:
    for key, column in [
        ("bigsite/member", "email"),
        ("landing/cash_account", "account_number"),
        ("class/account_details", "cash_accounts.account_number"),
        ("class_super/delivery", "EPIDataResponse/AccountBalances/AccountBalance/CashAccountNumber"),
        ("class_trade/document", "D/hin"),
        ("warehouse/class_super/dim_cash_account", "CASH_ACCOUNT_NUMBER"),
        ("warehouse/class_super/fact_movement", "NARRATIVE"),
    ]:
        assert columns_of(shown[key])[column].tags["personal_data"], (key, column)  # type: ignore[attr-defined]
    assert not columns_of(shown["landing/trade"])["units"].tags  # type: ignore[attr-defined]


def _previews(home: Path, environment: Environment) -> dict[str, dg.MarkdownMetadataValue]:
    runtime = Runtime(Settings(home=home).model_copy(update={"env": environment}))
    rows = pl.DataFrame({"portfolio_number": ["SW1"] * 20, "abn": ["51824753556"] * 20, "hin": [None] * 20})
    content = BytesIO()
    rows.write_parquet(content)
    runtime.store.put("rows.parquet", content.getvalue())
    file = StoredFile(key="rows.parquet", sha256="", rows=20, bytes=len(content.getvalue()))
    return previews(runtime, "preview", StoredTable(files=(file,)), {"abn", "hin"})


def test_preview_masks_personal_columns(tmp_path: Path) -> None:
    text = _previews(tmp_path, Environment.STG)["preview"].value
    assert text is not None
    assert "51824753556" not in text
    assert text.count(f"| SW1 | {MASK} |  |") == 8


def test_production_shows_no_rows(tmp_path: Path) -> None:
    assert _previews(tmp_path, Environment.PROD) == {}


def test_types_are_named_as_in_sql() -> None:
    types = (pl.Decimal(18, 2), pl.Datetime("us", "UTC"), pl.List(pl.Int64), pl.String(), pl.Date(), pl.Int64())
    assert [type_name(item) for item in types] == [
        "decimal(18,2)", "timestamp UTC", "list of bigint", "string", "date", "bigint",
    ]  # fmt: skip


def test_code_reference_names_file_and_line() -> None:
    assert code_of(type_name) == "classfeed_dagster/orchestration/column_metadata.py#type_name"


def test_column_without_a_source_is_refused() -> None:
    with pytest.raises((TypeError, ValueError)):
        code_links(len)


def test_step_states_its_duration() -> None:
    def made(rows: int) -> Iterator[dg.MaterializeResult[None]]:
        yield dg.MaterializeResult(metadata={"rows": rows})
        yield dg.MaterializeResult(asset_key="other")

    item, two = timed(made)(5)
    assert item.metadata is not None
    assert two.metadata is not None
    assert (item.metadata["rows"], list(two.metadata)) == (5, ["seconds"])
    first, second = item.metadata["seconds"], two.metadata["seconds"]
    assert isinstance(first, float)
    assert isinstance(second, float)
    assert 0 <= first <= second
