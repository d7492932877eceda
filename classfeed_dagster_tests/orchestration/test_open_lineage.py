"""The lineage graph as OpenLineage: events of the standard's shape that hold together, and the same for people."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import dagster as dg
import jsonschema
import pytest
from typer.testing import CliRunner

from classfeed_dagster.cli import app as cli
from classfeed_dagster.cli.lineage import require_written
from classfeed_dagster.errors import UsageError
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.lineage_exports import (
    DatasetNames,
    column_lines,
    open_lineage_events,
    to_json_lines,
)
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings

AT = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
_FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["_producer", "_schemaURL"],
        "properties": {
            name: {"type": "string", "format": "uri", "minLength": 1} for name in ("_producer", "_schemaURL")
        },
    },
}
_NAMED: dict[str, Any] = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": _FACETS},
    "additionalProperties": False,
}
_INPUT_FIELD = {
    "type": "object",
    "required": ["namespace", "name", "field"],
    "properties": {"transformations": {"type": "array", "items": {"required": ["type"]}}},
}
_DATASET = {
    **_NAMED,
    "properties": {
        **_NAMED["properties"],
        "facets": {
            **_FACETS,
            "properties": {
                "schema": {"properties": {"fields": {"type": "array", "items": {"required": ["name"]}}}},
                "columnLineage": {
                    "required": ["fields"],
                    "properties": {
                        "fields": {
                            "additionalProperties": {
                                "required": ["inputFields"],
                                "properties": {"inputFields": {"type": "array", "items": _INPUT_FIELD}},
                            }
                        }
                    },
                },
            },
        },
    },
}
# What the standard (2-0-2) asks of a JobEvent and of the facets used.
JOB_EVENT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "job"],
    "not": {"required": ["run"]},
    "properties": {
        "eventTime": {"type": "string", "format": "date-time"},
        "job": _NAMED,
        "inputs": {"type": "array", "items": _DATASET},
        "outputs": {"type": "array", "items": _DATASET},
    },
}


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    lines = to_json_lines(open_lineage_events(build_definitions(Runtime(Settings())), "here", AT, Settings()))
    return [json.loads(line) for line in lines]


def test_lineage_event_has_the_standards_shape(events: list[dict[str, Any]]) -> None:
    check = jsonschema.Draft202012Validator(JOB_EVENT, format_checker=jsonschema.FormatChecker())
    for event in events:
        check.validate(event)
        assert event["eventTime"] == "2026-03-02T12:00:00Z"


def test_open_lineage_source_columns_are_fields_of_inputs(events: list[dict[str, Any]]) -> None:
    fields: dict[str, set[str]] = {}
    for event in events:
        for dataset in (*event["inputs"], *event["outputs"]):
            schema = dataset.get("facets", {}).get("schema")
            if schema:
                fields[dataset["name"]] = {field["name"] for field in schema["fields"]}
    columns = 0
    for event in events:
        (created,) = event["outputs"]
        inputs = {dataset["name"] for dataset in event["inputs"]}
        for column, sources in created["facets"].get("columnLineage", {"fields": {}})["fields"].items():
            assert column in fields[created["name"]]
            for source in sources["inputFields"]:
                columns += 1
                assert source["name"] in inputs
                assert source["field"] in fields[source["name"]]
    assert columns > 300


def test_open_lineage_tags_name_personal_fields_tier_and_domain(events: list[dict[str, Any]]) -> None:
    (landed,) = [event["outputs"][0] for event in events if event["job"]["name"] == "landing/portfolio"]
    tags = landed["facets"]["tags"]["tags"]
    of_fields = {tag["field"]: (tag["key"], tag["value"]) for tag in tags if "field" in tag}
    assert of_fields["abn"] == ("personal_data", "personal")
    assert "status" not in of_fields
    own = {tag["key"]: tag["value"] for tag in tags if "field" not in tag}
    assert own == {"tier": "critical", "domain": "landing", "personal_data": "yes"}


@pytest.mark.parametrize(
    ("asset", "expected"),
    [
        ("bigsite/trade", ("postgres://db.broker:6432", "core.bigsite.trade")),
        ("landing/trade", ("s3://feeds", "prod/landing/trade")),
        ("class_super/delivery", ("s3://feeds", "prod/class_super/delivery")),
        ("warehouse/class_super/dim_date", ("snowflake://broker-x1", "CLASSFEED.FEED.DIM_DATE")),
        ("data_team/class_feed_metrics", ("snowflake://broker-x1", "CLASSFEED.FEED.CLASS_FEED_METRICS")),
        ("simulation/customers", ("postgres://db.broker:6432", "core.bigsite.portfolio")),
    ],
)
def test_dataset_names_are_those_of_the_standard(asset: str, expected: tuple[str, str]) -> None:
    settings = Settings(
        bigsite_url="postgresql+psycopg://u:p@db.broker:6432/core",
        store_url="s3://feeds/prod",
        snowflake_account="broker-x1",
    )
    assert DatasetNames(settings).of(dg.AssetKey(asset.split("/"))) == expected


def test_dataset_names_on_a_laptop_are_local() -> None:
    names = DatasetNames(Settings(store_url="/data/store"))
    assert names.of(dg.AssetKey(["bigsite", "trade"])) == ("postgres://localhost:5432", "bigsite.bigsite.trade")
    assert names.of(dg.AssetKey(["landing", "trade"])) == ("file", "/data/store/landing/trade")


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        next(open_lineage_events(build_definitions(Runtime(Settings())), "x", AT.replace(tzinfo=None), Settings()))


def test_lineage_is_printed_one_line_per_column() -> None:
    lines = list(column_lines(build_definitions(Runtime(Settings()))))
    assert (
        "class/investment_holdings.market_value <- landing/holding_eod.units, landing/security_price.close_price"
        in lines
    )
    require_written(" ".join(line.partition(" <- ")[0] for line in lines))  # the shortcut refuses no column that exists
    with pytest.raises(UsageError, match="did you mean units"):
        require_written("investment_holdings.unitz")


def test_lineage_command_prints_text_and_json() -> None:
    result = CliRunner().invoke(cli.app, ["lineage", "investment_holdings.market_value"])
    assert (result.exit_code, result.output.count("\n")) == (0, 1)
    exported = CliRunner().invoke(cli.app, ["lineage", "--openlineage", "--namespace", "abc"])
    assert exported.exit_code == 0
    assert {json.loads(line)["job"]["namespace"] for line in exported.output.splitlines()} == {"abc"}
