"""Least privilege: the table of actions, evaluated over the policies of the committed templates."""

from __future__ import annotations

from typing import Any

import pytest

from classfeed_dagster_tests.deploy.access_table import ACCOUNTS, DOCUMENT, LANDED, SHADOW, TABLE
from classfeed_dagster_tests.deploy.iam_simulation import UnknownConditionError, allowed
from classfeed_dagster_tests.fixtures.templates import (
    ENVIRONMENTS,
    TEMPLATES,
    every_role,
    only,
    role,
    statements,
    template,
)


@pytest.mark.parametrize(("caller", "action", "resource", "context", "may"), TABLE)
def test_role_is_allowed_its_work_only(
    caller: str, action: str, resource: str, context: dict[str, str], may: bool
) -> None:
    assert allowed(statements(role("prod", caller)), action, resource, context) is may


def test_access_table_covers_every_role() -> None:
    ours = {name.removeprefix("classfeed-prod-") for name, _ in every_role() if name.startswith("classfeed-prod-")}
    evaluated = {person for person, *_ in TABLE}
    # Starting roles differ in their secrets alone; those of the components with the least and the most are evaluated.
    assert {name for name in ours if not name.endswith("-start")} <= evaluated
    for caller in ("worker", "daemon", "viewer", "operator", "deployer", "analyst", "support", "door", "code"):
        assert {may for name, *_, may in TABLE if name == caller} == {True, False}, caller


def test_document_bytes_are_read_by_the_worker_only() -> None:
    for document in (DOCUMENT, SHADOW, LANDED):
        readers = {
            name for name, properties in every_role() if allowed(statements(properties), "s3:GetObject", document)
        }
        assert readers == {"classfeed-prod-worker"}, document


def test_role_never_reads_another_environment() -> None:
    for name, properties in every_role():
        for env, account in ACCOUNTS.items():
            if f"-{env}-" not in name:
                for key in ("landing/x", "delivered/x/manifest.json", "quarantine/x", "reconciliation/x"):
                    assert not allowed(
                        statements(properties), "s3:GetObject", f"arn:aws:s3:::classfeed-{env}-data-{account}/{key}"
                    ), name


def test_policy_wildcards_are_only_the_unavoidable_ones() -> None:
    # Actions that AWS doesn't limit to resources.
    unlimited = {
        "ecr:GetAuthorizationToken", "ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces",
        "cloudwatch:GetMetricData", "cloudwatch:ListMetrics", "cloudwatch:GetDashboard", "cloudwatch:DescribeAlarms",
    }  # fmt: skip
    for name, properties in every_role():
        for statement in statements(properties):
            if statement["Effect"] == "Allow":
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                assert not any("*" in action for action in actions), f"{name}: {actions}"
                if statement["Resource"] in ("*", ["*"]):
                    assert set(actions) <= unlimited, f"{name}: {actions}"


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_role_boundary_forbids_other_environments(env: str) -> None:
    boundary = only(f"{env}-access", "AWS::IAM::ManagedPolicy")
    rules = boundary["PolicyDocument"]["Statement"]
    own = f"arn:aws:s3:::classfeed-{env}-data-{ACCOUNTS[env]}/landing/x"
    assert allowed(rules, "s3:GetObject", own)
    for other in set(ENVIRONMENTS) - {env}:
        assert not allowed(rules, "s3:GetObject", f"arn:aws:s3:::classfeed-{other}-data-{ACCOUNTS[other]}/landing/x")
    for action in (
        "s3:PutBucketPolicy",
        "kms:PutKeyPolicy",
        "iam:CreateUser",
        "iam:AttachRolePolicy",
        "sts:AssumeRole",
    ):
        assert not allowed(rules, action, f"arn:aws:s3:::classfeed-{env}-data-{ACCOUNTS[env]}")
    for name, properties in every_role():
        if name.startswith(f"classfeed-{env}-") and not name.endswith("archivist"):
            assert "PermissionsBoundary" in properties, name


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_pipeline_role_requires_its_workflow_and_environment(env: str) -> None:
    (trust,) = role(env, "deployer")["AssumeRolePolicyDocument"]["Statement"]
    conditions = trust["Condition"]["StringEquals"]
    assert conditions["token.actions.githubusercontent.com:sub"] == f"repo:broker/classfeed:environment:{env}"
    assert conditions["token.actions.githubusercontent.com:aud"] == "sts.amazonaws.com"
    assert conditions["token.actions.githubusercontent.com:job_workflow_ref"].endswith("/deploy.yml@refs/heads/main")


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_pipeline_role_may_expand_every_transform(env: str) -> None:
    for path in sorted(TEMPLATES.glob(f"classfeed-{env}-*.json")):
        transforms = template(path.stem.removeprefix("classfeed-")).get("Transform", [])
        for name in [transforms] if isinstance(transforms, str) else transforms:
            macro = f"arn:aws:cloudformation:ap-southeast-2:aws:transform/{name.removeprefix('AWS::')}"
            assert allowed(statements(role(env, "deployer")), "cloudformation:CreateChangeSet", macro), path.name


def test_evaluator_denies_by_default_and_by_deny() -> None:
    rule: dict[str, Any] = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::b/a?/*"}
    assert allowed([rule], "S3:GetObject", "arn:aws:s3:::b/a1/x")
    assert not allowed([rule], "s3:GetObject", "arn:aws:s3:::b/a12/x")
    assert not allowed([], "s3:GetObject", "x")
    assert not allowed([rule, rule | {"Effect": "Deny"}], "s3:GetObject", "arn:aws:s3:::b/a1/x")
    with pytest.raises(UnknownConditionError, match="IpAddress.*teach _holds"):
        allowed(
            [rule | {"Condition": {"IpAddress": {"aws:SourceIp": "1.2.3.4"}}}],
            "s3:GetObject",
            "arn:aws:s3:::b/a1/x",
            {"aws:SourceIp": "1.2.3.4"},
        )
