"""Rehearsal of the deployment: what it resolves, what it refuses, and that its tasks get the templates' variables."""

from __future__ import annotations

from typing import Any

import pytest

from classfeed_dagster_tests.deploy.templates import ENVIRONMENTS
from classfeed_dagster_tests.rehearsal.report import Report
from classfeed_dagster_tests.rehearsal.resolver import Stacks, UnresolvableError
from classfeed_dagster_tests.rehearsal.tasks import image_environment


@pytest.fixture
def stacks() -> Stacks:
    stacks = Stacks("stg", {"AWS::Region": "ap-southeast-2"})
    stacks.provide("foundation", "Queue", "Arn", "arn:queue")
    stacks.provide("foundation", "Queue", "Ref", "https://queue")
    return stacks


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("plain", "plain"),
        ({"Ref": "Queue"}, "https://queue"),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "arn:queue"),
        ({"Fn::Sub": "${AWS::Region}/${Queue.Arn}/${Queue}"}, "ap-southeast-2/arn:queue/https://queue"),
        ({"Fn::Sub": ["${Name}", {"Name": {"Ref": "AWS::Region"}}]}, "ap-southeast-2"),
        ({"Fn::Join": ["", ["a", {"Ref": "Queue"}]]}, "ahttps://queue"),
        ([{"x": {"Ref": "AWS::Region"}}], [{"x": "ap-southeast-2"}]),
    ],
)
def test_resolver_replaces_references(stacks: Stacks, node: Any, value: Any) -> None:
    assert stacks.resolve("foundation", node) == value


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"Ref": "Nothing"}, "nothing provides Ref of Nothing"),
        ({"Fn::GetAtt": ["Queue", "Colour"]}, "nothing provides Colour of Queue"),
        ({"Fn::ImportValue": "other-stack:Export"}, "no stack exports other-stack:Export"),
        ({"Fn::Sub": "${Nothing}"}, "nothing provides Ref of Nothing"),
        ({"Fn::Select": [0, ["a"]]}, "Fn::Select is not supported"),
    ],
)
def test_resolver_refuses_what_names_nothing(stacks: Stacks, node: Any, reason: str) -> None:
    with pytest.raises(UnresolvableError, match=reason):
        stacks.resolve("foundation", node)


def test_resolver_parameter_without_value_is_refused(stacks: Stacks) -> None:
    with pytest.raises(UnresolvableError, match="parameter ImageDigest has no value"):
        stacks.resolve("application", {"Ref": "ImageDigest"})


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_task_imports_are_exported_by_another_stack(env: str) -> None:
    stacks = Stacks(env, {"ImageDigest": "sha256:0", "MigrationDigest": "sha256:0", "AWS::Region": "ap-southeast-2"})
    for part in ("foundation", "broker"):
        for logical in stacks.resources(part, "AWS::SecretsManager::Secret"):
            stacks.provide(part, logical, "Ref", f"arn:{logical}")
    for logical in stacks.resources("foundation", "AWS::RDS::DBInstance"):
        stacks.provide("foundation", logical, "Endpoint.Address", "database")
    for logical in stacks.resources("broker", "AWS::ElastiCache::ReplicationGroup"):
        stacks.provide("broker", logical, "PrimaryEndPoint.Address", "broker")
    for part in ("application", "workers"):
        for logical in stacks.resources(part, "AWS::Logs::LogGroup"):
            stacks.provide(part, logical, "Ref", logical)
        for properties in stacks.resources(part, "AWS::ECS::TaskDefinition").values():
            (container,) = stacks.resolve(part, properties["ContainerDefinitions"])
            assert all(isinstance(item["Value"], str) for item in container["Environment"])
            assert all(item["ValueFrom"].startswith("arn:") for item in container.get("Secrets", []))


def test_image_environment_is_the_dockerfiles() -> None:
    environment = image_environment("abc")
    assert environment["CLASSFEED_CODE_VERSION"] == "abc"
    assert environment["DAGSTER_HOME"] == "/opt/dagster"
    assert environment["PATH"].startswith("/opt/classfeed/bin:")


def test_report_states_failures_and_continues() -> None:
    def broken() -> str:
        raise AssertionError("the reason")

    report = Report()
    assert report.hold("first", "template", lambda: "fine")
    assert not report.hold("second", "template", broken)
    assert report.failed
    assert "| second | template | FAILED: AssertionError: the reason" in report.markdown()
