"""Rehearsal of the deployment: what it resolves, what it refuses, and that its tasks get the templates' variables."""

from __future__ import annotations

import io
from typing import Any

import pytest

from classfeed_dagster.support.alb_identity import identify
from classfeed_dagster.support.reruns import Requester
from classfeed_dagster_tests.fixtures.templates import ENVIRONMENTS
from classfeed_dagster_tests.rehearsal.balancer import Balancer
from classfeed_dagster_tests.rehearsal.network import answer_query
from classfeed_dagster_tests.rehearsal.report import Report
from classfeed_dagster_tests.rehearsal.resolver import Stacks, UnresolvableError
from classfeed_dagster_tests.rehearsal.second_s3 import read_chunks
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


@pytest.mark.parametrize(
    ("name", "kind", "flags", "address"),
    [
        ("code.stg.internal", b"\0\1", 0x8580, b"\x0a\x4d\1\x15"),
        ("CODE.stg.internal", b"\0\1", 0x8580, b"\x0a\x4d\1\x15"),
        ("code.stg.internal", b"\0\x1c", 0x8580, b""),  # no IPv6 address, said at once
        ("nowhere.internal", b"\0\1", 0x8583, b""),
    ],
)
def test_name_server_answers_addresses_and_their_absence(name: str, kind: bytes, flags: int, address: bytes) -> None:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0" + kind + b"\0\1"
    answer = answer_query(query, {"code.stg.internal": "10.77.1.21"})
    assert answer[:4] == b"\x12\x34" + flags.to_bytes(2, "big")
    assert answer.endswith(address)
    assert answer[7] == bool(address)


def test_second_s3_reads_a_body_in_chunks_with_its_trailer() -> None:
    body = io.BytesIO(b"5\r\nhello\r\n6;x=1\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\nnext")
    assert read_chunks(body) == b"hello world"
    assert body.read() == b"next"


def test_balancer_signs_as_the_support_page_expects() -> None:
    stacks = Stacks("prod", {"AWS::AccountId": "444455556666"})
    balancer = Balancer(stacks, {})
    (door,) = [
        {item["Name"]: item["Value"] for item in task["ContainerDefinitions"][0]["Environment"]}
        for task in stacks.resources("application", "AWS::ECS::TaskDefinition").values()
        if task["Family"] == "classfeed-prod-door"
    ]
    header = balancer.sign({"preferred_username": "r.hearsal", "groups": ["classfeed-support"]})
    requester = identify([header], door["CLASSFEED_DOOR_SIGNER"], lambda _key: balancer.public_key.decode())
    assert requester == Requester("r.hearsal", frozenset({"classfeed-support"}))


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
