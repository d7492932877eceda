"""Asset pages of the UI: types, first sentences, links, numbers, resources, failures, freshness."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from classfeed_dagster.errors import NotReadyError
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.orchestration import asset_keys, local_pages
from classfeed_dagster.orchestration.checks import operations
from classfeed_dagster.orchestration.column_metadata import plain_type
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.metadata_values import code_links, numbers, object_link, without_zeros
from classfeed_dagster.orchestration.resources import shown_resources
from classfeed_dagster.orchestration.run_date import Outcome, error_chain, failure_of
from classfeed_dagster.orchestration.step_context import correlation_id, step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.service_levels import Freshness
from classfeed_dagster.settings import Settings
from classfeed_dagster.tags import CORRELATION_TAG, PARENT_TAG, RETRY_TAG
from classfeed_dagster_tests.fixtures.prepared_desks import (
    DeskAfter,
    Preparation,
    monday_delivered,
    monday_delivered_without_the_first,
)


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Runtime(Settings()))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("decimal128(38, 6)", "decimal(38,6)"),
        ("NUMERIC(20,6)", "decimal(20,6)"),
        ("Money", "decimal(18,2)"),
        ("DECIMAL6", "decimal(20,6)"),
        ("timestamp[us, tz=UTC]", "timestamp UTC"),
        ("Instant", "timestamp UTC"),
        ("date32[day]", "date"),
        ("date | None", "date"),
        ("int64", "bigint"),
        ("bool", "boolean"),
        ("tuple", "list"),
        ("TEXT", "string"),
        ("Identifier", "string"),
        ("Text200", "string"),
        ("str | None", "string"),
        ("VARCHAR(64)", "VARCHAR(64)"),
        ("TIMESTAMP_NTZ", "TIMESTAMP_NTZ"),
    ],
)
def test_plain_type_is_one_that_analysts_know(name: str, shown: str) -> None:
    assert plain_type(name) == shown


def test_first_sentences_in_lists_have_no_markdown(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        description = graph.get(key).description or ""
        first = description.partition("\n\n")[0]
        assert first, key
        assert "**" not in first, key
        assert "`" not in first, key
        table = key.path[-1]
        if key.path[0] in ("bigsite", "landing") and table != "schema":
            assert table not in first.partition(". ")[0], key  # the list shows the name next to the sentence
    repository = definitions.get_repository_def()
    assert all(schedule.description for schedule in repository.schedule_defs)
    assert all(sensor.description for sensor in repository.sensor_defs)


def test_descriptions_have_no_placeholder_that_markdown_hides(definitions: dg.Definitions) -> None:
    graph, repository = definitions.resolve_asset_graph(), definitions.get_repository_def()
    descriptions: dict[object, str | None] = {
        **{key: graph.get(key).description for key in graph.get_all_asset_keys()},
        **{key: graph.get_check_spec(key).description for key in graph.asset_check_keys},
        **{job.name: job.description for job in repository.get_all_jobs()},
    }
    # <date> would be a tag.
    assert [key for key, description in descriptions.items() if "<" in (description or "")] == []


def test_check_descriptions_repeat_no_sentence(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.asset_check_keys:
        sentences = (graph.get_check_spec(key).description or "").split(". ")
        assert len(set(sentences)) == len(sentences), key


def test_numbers_are_exact_in_one_table_and_never_zero() -> None:
    exact = "123456789012345.01"
    output = numbers({"rows": 3, "none": 0, "cash_AUD": Decimal(exact), "cash_USD": "0.00"})
    assert output.keys() == {"rows", "cash_AUD", "exact_sums"}
    assert output["rows"] == 3
    assert isinstance(output["cash_AUD"], dg.FloatMetadataValue)  # the UI plots it
    assert "| cash AUD | 123,456,789,012,345.01 |" in output["exact_sums"].value
    assert "exact_sums" not in numbers({"rows": 1})


def test_object_link_opens_the_console_or_names_the_path() -> None:
    link = object_link("s3://feeds/prod/a b/report.html")
    assert link == dg.MetadataValue.url("https://console.aws.amazon.com/s3/object/feeds?prefix=prod/a%20b/report.html")
    assert object_link("/data/report.html") == dg.MetadataValue.path("/data/report.html")


def test_object_of_the_local_store_links_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_pages, "get_settings", lambda: Settings(store_url=str(tmp_path)))
    link = object_link(str(tmp_path / "delivered" / "a b" / "manifest.json"))
    assert link == dg.MetadataValue.url("/classfeed/store/delivered/a%20b/manifest.json")


@pytest.mark.parametrize(
    ("tags", "own"),
    [
        ({}, True),
        ({CORRELATION_TAG: "a"}, False),
        ({CORRELATION_TAG: "a", PARENT_TAG: "b"}, True),  # a person executed it again: another attempt, new switches
        ({CORRELATION_TAG: "a", PARENT_TAG: "b", RETRY_TAG: "1"}, False),
    ],
)
def test_each_attempt_has_its_own_correlation_id(tags: dict[str, str], own: bool) -> None:
    ids: list[str] = []

    @dg.op
    def report(context: dg.OpExecutionContext) -> None:
        ids.append(correlation_id(context))

    @dg.job
    def attempt() -> None:
        report()

    with dg.DagsterInstance.ephemeral() as instance:
        result = attempt.execute_in_process(instance=instance, tags=tags)
        run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert ids == [run.run_id.replace("-", "") if own else "a"] == [run.tags[CORRELATION_TAG]]


def test_metadata_leaves_out_counts_that_are_zero() -> None:
    counts = {"findings": 0, "rows": 3, "revision": 0, "dagster/row_count": 0, "note": ""}
    assert without_zeros(counts) == {"rows": 3, "revision": 0, "dagster/row_count": 0, "note": ""}


def test_runbook_is_a_link_published_or_local(monkeypatch: pytest.MonkeyPatch) -> None:
    local = "/classfeed/docs/runbook.md#on-time"
    assert asset_keys.runbook("on_time") == f"\n\nRunbook: [docs/runbook.md#on-time]({local})"
    assert asset_keys.runbook_value("on-time") == dg.MetadataValue.url(local)
    monkeypatch.setattr(local_pages, "DOCS", Path("/nowhere"))  # an installed wheel
    assert asset_keys.runbook_value("on-time") == "docs/runbook.md#on-time"
    published = Settings(runbook_url="https://git.broker/classfeed/docs/runbook.md")
    monkeypatch.setattr(local_pages, "get_settings", lambda: published)
    link = "https://git.broker/classfeed/docs/runbook.md#on-time"
    assert asset_keys.runbook("on_time") == f"\n\nRunbook: [docs/runbook.md#on-time]({link})"
    assert asset_keys.runbook_value("on-time") == dg.MetadataValue.url(link)
    code = code_links(object_link)["dagster/code_references"].code_references[0].url
    assert code.startswith("https://git.broker/classfeed/classfeed_dagster/orchestration/metadata_values.py#L")


def test_resources_show_settings_and_hide_secrets(definitions: dg.Definitions) -> None:
    values: dict[str, Any] = {"snowflake_account": "x1", "snowflake_private_key": "PEM-TEXT", "slack_token": "xoxb-1"}
    output = shown_resources(Settings(**values))
    assert (output["warehouse"].private_key, output["slack"].token) == ("set (hidden)", "set (hidden)")  # type: ignore[attr-defined]
    assert not any(secret in repr(output) for secret in ("PEM-TEXT", "xoxb-1"))
    assert shown_resources(Settings())["warehouse"].account == "local stand-in"  # type: ignore[attr-defined]
    listed = definitions.resources or {}
    assert {"object_store", "warehouse", "slack"} <= listed.keys()
    assert all(isinstance(listed[name], dg.ConfigurableResource) for name in output)
    runtime = listed["runtime"]
    assert runtime.description
    assert "lambda" not in runtime.resource_fn.__name__


@pytest.mark.parametrize(
    "tags",
    [{}, {"dagster/asset_partition_range_start": "2023-01-03", "dagster/asset_partition_range_end": "2023-01-05"}],
    ids=["no date", "range"],
)
def test_run_without_a_business_date_says_what_to_do(definitions: dg.Definitions, tags: dict[str, str]) -> None:
    job = definitions.resolve_job_def("class_super_job")
    with pytest.raises(dg.Failure, match="The run has no business date: choose one in the launchpad"):
        job.execute_in_process(tags=tags)


def test_expected_error_is_a_failure_with_its_sentence_first() -> None:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["2026-03-02"]))
    def late(context: dg.AssetExecutionContext) -> None:
        with step(context, "late"):
            raise NotReadyError("bigsite's end of day is not written yet")

    result = dg.materialize([late], partition_key="2026-03-02", raise_on_error=False)
    (event,) = result.get_step_failure_events()
    data = event.step_failure_data
    assert data.user_failure_data is not None
    assert data.user_failure_data.description == "bigsite's end of day is not written yet"
    chain = list(error_chain(data.error))
    assert [name for name, _ in chain] == ["Failure", "NotReadyError"]  # repair still finds the cause
    assert failure_of("late", chain)[1] == "bigsite's end of day is not written yet"


def test_interrupted_step_is_reported_in_a_sentence() -> None:
    chain = [("DagsterExecutionInterruptedError", "")]
    sentence = "landing was interrupted by Ctrl-C or a signal: run the date again"
    assert failure_of("landing", chain) == (Outcome.FAILED, sentence)


@pytest.mark.parametrize("behind", [0, 2])
def test_fresh_follows_business_dates_past_their_deadline(
    monkeypatch: pytest.MonkeyPatch, definitions: dg.Definitions, behind: int
) -> None:
    newest = dt.date(2026, 3, 2) if behind else None
    monkeypatch.setattr(operations, "freshness", lambda *_: Freshness(newest, behind))
    job = definitions.resolve_job_def("operations_report")
    check = next(key for key in job.asset_layer.asset_graph.asset_check_keys if key.name == "fresh")
    assert check.asset_key.path[-1] == "delivery"
    delivery = dg.AssetSpec(dg.AssetKey([FEED.name, "delivery"]))
    new_build = next(
        asset_check
        for asset_check in definitions.asset_checks or ()
        if any(key.name == "fresh" and key.asset_key == delivery.key for key in asset_check.check_keys)
    )
    with dg.DagsterInstance.ephemeral() as instance:
        item = dg.Definitions([delivery], asset_checks=[new_build], resources={"runtime": Runtime(Settings())})
        selection = dg.AssetSelection.checks(new_build)
        ran = dg.Definitions.merge(item, dg.Definitions(jobs=[dg.define_asset_job("fresh_job", selection)]))
        result = ran.resolve_job_def("fresh_job").execute_in_process(instance=instance)
        (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed is (behind == 0)
    date = newest.isoformat() if newest else "none of the last 30"  # an earlier one may be delivered
    assert f"newest date delivered: {date}; dates past their deadline, of the last 30: {behind}" == (
        evaluation.description
    )


@pytest.mark.parametrize(
    ("prepare", "folder"),
    [(monday_delivered, None), (monday_delivered_without_the_first, "/quarantine/class_super/2026-03-02")],
)
def test_quarantine_links_its_folder_where_there_is_one(
    live_desk_after: DeskAfter, prepare: Preparation, folder: str | None
) -> None:
    desk = live_desk_after(prepare)
    event = desk.instance.get_latest_materialization_event(dg.AssetKey(["class_super", "quarantine"]))
    assert event is not None
    assert event.asset_materialization is not None
    link = event.asset_materialization.metadata.get("dagster/uri")
    assert (link is None) == (folder is None)
    assert link is None or str(link.value).endswith(str(folder))
