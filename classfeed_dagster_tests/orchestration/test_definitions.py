"""Dagster definitions load with no service reachable, and their shape changes only on purpose."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from classfeed_dagster.feeds.examples import bgl
from classfeed_dagster.orchestration.assets.landing import POOL
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster_tests.fixtures.definitions_snapshot import RECORDED, SNAPSHOT, describe

ROOT = Path(__file__).parents[2]
NOTHING_REACHABLE = {
    "CLASSFEED_BIGSITE_URL": "postgresql://nobody@127.0.0.1:1/bigsite",
    "CLASSFEED_STORE_URL": "s3://no-such-bucket/x",
    "CLASSFEED_S3_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def test_definitions_equal_the_recorded_snapshot() -> None:
    assert describe(build_definitions(Runtime(Settings()), RECORDED)) == SNAPSHOT.read_text(), (
        "the asset graph changed: if on purpose, run python -m classfeed_dagster_tests.fixtures.definitions_snapshot"
    )


def test_further_feed_has_the_shape_of_class_super() -> None:
    lines = describe(build_definitions(Runtime(Settings()), (*RECORDED, bgl.FEED))).splitlines()
    own = r"(/(quarantine|document|delivery|source_reconciliation)\b|_job|_morning|_reconciliation)"

    def shape(feed: str) -> set[str]:
        heads = [line.partition(" <-")[0] for line in lines]
        return {head.replace(feed, "*") for head in heads if re.search(rf"\b{feed}{own}", head)}

    assert shape("bgl") <= shape("class_super")
    assert shape("class_super") - shape("bgl") == {"check */document:one_live_feed blocking"}


def test_definitions_are_valid_without_services(tmp_path: Path) -> None:
    environment = {**os.environ, **NOTHING_REACHABLE, "DAGSTER_HOME": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("dagster")), "definitions", "validate"]
    command += ["-m", "classfeed_dagster.definitions"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def test_definitions_import_is_light_and_silent() -> None:
    script = (
        "import sys, classfeed_dagster.definitions;"
        "print([name for name in ('snowflake.connector', 'dagster_snowflake', 'moto') if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", script], capture_output=True, text=True, check=False
    )
    assert (process.stdout.strip(), process.stderr) == ("[]", "")


def test_asset_and_check_have_a_description() -> None:
    definitions = build_definitions(Runtime(Settings()))
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.group_name != "default", key
    for check in graph.asset_check_keys:
        description = graph.get(check).description
        assert description, check
        assert "docs/runbook.md#" in description, check


@pytest.mark.parametrize("settings", ["dagster.yaml", "deploy/dagster.yaml"])
def test_snapshots_read_at_once_are_limited_for_any_workers(settings: str) -> None:
    job = build_definitions(Runtime(Settings())).resolve_job_def("class_super_job")
    pools = {node.name: node.definition.pools for node in job.nodes if node.definition.pools}
    assert pools == {"landing": {POOL}}
    concurrency = yaml.safe_load((ROOT / settings).read_text())["concurrency"]
    # By step: by run, a run would hold its place from its first step to its last.
    assert concurrency["pools"]["granularity"] == "op"
    assert 1 <= concurrency["pools"]["default_limit"] <= 2


def test_asset_states_tier_domain_and_personal_data() -> None:
    graph = build_definitions(Runtime(Settings())).resolve_asset_graph()
    tags = {key.to_user_string(): graph.get(key).tags for key in graph.get_all_asset_keys()}
    for name, own in tags.items():
        assert own["classfeed/tier"] in ("critical", "supporting"), name
        assert own["classfeed/domain"], name
    assert tags["landing/portfolio"]["classfeed/personal_data"] == "yes"
    assert tags["landing/security_price"]["classfeed/personal_data"] == "no"
    assert {tags[name]["classfeed/tier"] for name in ("class_super/delivery", "landing/trade")} == {"critical"}
    assert tags["operations/toil"]["classfeed/tier"] == "supporting"


def test_code_version_follows_the_packages_of_the_content() -> None:
    graph = build_definitions(Runtime(Settings(code_version="another"))).resolve_asset_graph()
    again = build_definitions(Runtime(Settings(executor="multiprocess"))).resolve_asset_graph()
    versions = {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()}
    assert versions == {key.to_user_string(): again.get(key).code_version for key in again.get_all_asset_keys()}
    assert versions["class/account_details"] == versions["class/account_balances"] != versions["landing/trade"]
    assert versions["class_super/document"] == versions["class_super/delivery"] is not None
    assert versions["bigsite/trade"] is None  # not ours
