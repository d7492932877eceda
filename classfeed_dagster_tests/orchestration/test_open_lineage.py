"""The lineage graph as OpenLineage: events of the standard's shape that hold together, and the same for people."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from classfeed_dagster.cli import app as cli
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.open_lineage import column_lines, open_lineage_events, to_json_lines
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
    lines = to_json_lines(open_lineage_events(build_definitions(Runtime(Settings())), "here", AT))
    return [json.loads(line) for line in lines]


def test_every_event_has_the_standards_shape(events: list[dict[str, Any]]) -> None:
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
        (made,) = event["outputs"]
        inputs = {dataset["name"] for dataset in event["inputs"]}
        for column, sources in made["facets"].get("columnLineage", {"fields": {}})["fields"].items():
            assert column in fields[made["name"]]
            for source in sources["inputFields"]:
                columns += 1
                assert source["name"] in inputs
                assert source["field"] in fields[source["name"]]
    assert columns > 300


def test_personal_data_is_said_in_the_fields_description(events: list[dict[str, Any]]) -> None:
    (landed,) = [event["outputs"][0] for event in events if event["job"]["name"] == "landing/portfolio"]
    described = {field["name"]: field["description"] for field in landed["facets"]["schema"]["fields"]}
    assert described["abn"].endswith("(personal data: personal)")
    assert "personal data" not in described["status"]


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        next(open_lineage_events(build_definitions(Runtime(Settings())), "x", AT.replace(tzinfo=None)))


def test_people_get_a_line_a_column() -> None:
    lines = list(column_lines(build_definitions(Runtime(Settings()))))
    assert (
        "class/investment_holdings.market_value <- landing/holding_eod.units, landing/security_price.close_price"
        in lines
    )


def test_the_command_hands_out_both() -> None:
    asked = CliRunner().invoke(cli.app, ["lineage", "investment_holdings.market_value"])
    assert (asked.exit_code, asked.output.count("\n")) == (0, 1)
    exported = CliRunner().invoke(cli.app, ["lineage", "--openlineage", "--namespace", "abc"])
    assert exported.exit_code == 0
    assert {json.loads(line)["job"]["namespace"] for line in exported.output.splitlines()} == {"abc"}
