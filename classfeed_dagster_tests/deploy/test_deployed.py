"""The production foundation, deployed into the local AWS emulator as far as that supports it, and its resources."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from classfeed_dagster_tests.fixtures.templates import template

REGION = "ap-southeast-2"
KEY = f"arn:aws:kms:{REGION}:444455556666:key/00000000-0000-0000-0000-000000000000"
# Resources that the emulator supports. The rest is checked in the template alone.
KINDS = {
    "AWS::S3::Bucket", "AWS::SQS::Queue",
    "AWS::IAM::Role", "AWS::EC2::VPC", "AWS::EC2::Subnet",
}  # fmt: skip


def supported(source: dict[str, Any]) -> dict[str, Any]:
    """Return the template without resources that the simulator lacks, and without references to them."""
    clone = copy.deepcopy(source)
    clone.pop("Transform", None)
    clone.pop("Outputs", None)
    clone["Resources"] = {name: item for name, item in clone["Resources"].items() if item["Type"] in KINDS}
    for resource in clone["Resources"].values():
        if resource["Type"] == "AWS::S3::Bucket":
            resource["Properties"].pop("ReplicationConfiguration", None)  # the emulator needs the target first
    # The emulator creates resources in order and does not wait for the key, so the key's ARN is inserted.
    clone["Resources"] = _with_key(clone["Resources"])
    return clone


def _with_key(node: Any) -> Any:
    if isinstance(node, dict):
        of = node.get("Ref") or (node.get("Fn::GetAtt") or [""])[0]
        if isinstance(of, str) and of.startswith("Key") and len(node) == 1:
            return KEY
        return {name: _with_key(value) for name, value in node.items()}
    return [_with_key(child) for child in node] if isinstance(node, list) else node


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    def make(service: str) -> Any:
        return boto3.client(service, region_name=REGION)  # type: ignore[call-overload]  # any service

    name = "classfeed-prod-foundation"
    body = json.dumps(supported(template("prod-foundation")))
    with pytest.MonkeyPatch.context() as environment, mock_aws():
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(variable, "local")
        environment.setenv("AWS_DEFAULT_REGION", REGION)
        make("cloudformation").create_stack(StackName=name, TemplateBody=body)
        (stack,) = make("cloudformation").describe_stacks(StackName=name)["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        yield make


def test_deployed_buckets_have_their_names(client: Any) -> None:
    # The emulator ignores most properties of a bucket. They are asserted on the template.
    names = {bucket["Name"] for bucket in client("s3").list_buckets()["Buckets"]}
    assert {f"classfeed-prod-{label}-444455556666" for label in ("data", "logs", "archive")} <= names


def test_queue_moves_unreadable_messages_to_dead_letters(client: Any) -> None:
    sqs = client("sqs")
    url = sqs.get_queue_url(QueueName="classfeed-prod-consent-events")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "360"
    assert "classfeed-prod-consent-events-dead" in attributes["RedrivePolicy"]


def test_commit_protocol_works_on_the_deployed_bucket(client: Any) -> None:
    from classfeed_dagster.store import open_store

    store = open_store("s3://classfeed-prod-data-444455556666")
    assert store.create("delivered/x/manifest.json", b"{}")
    assert not store.create("delivered/x/manifest.json", b"{1}")
    assert store.read("delivered/x/manifest.json") == b"{}"
