"""Who may do what: a table of actions, evaluated over the policies of the committed templates."""

from __future__ import annotations

from typing import Any

import pytest

from classfeed_dagster_tests.deploy.iam_simulation import allowed
from classfeed_dagster_tests.deploy.templates import ENVIRONMENTS, every_role, only, role, statements

ACCOUNTS = {"dev": "111122223333", "stg": "111122223333", "prod": "444455556666"}
PROD = ACCOUNTS["prod"]
DATA = f"arn:aws:s3:::classfeed-prod-data-{PROD}"
LOGS = f"arn:aws:s3:::classfeed-prod-logs-{PROD}"
DOCUMENT = f"{DATA}/delivered/class_super/2026-03-04/r0/class_super-20260304-r0-p1.xml.gz"
MANIFEST = f"{DATA}/delivered/class_super/2026-03-04/r0/manifest.json"
LANDED = f"{DATA}/landing/2026-03-04/trade/abc.parquet"
IF_ABSENT = {"s3:if-none-match": "*"}
CLUSTER = {"ecs:cluster": f"arn:aws:ecs:ap-southeast-2:{PROD}:cluster/classfeed-prod-cluster"}
TO_ECS = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


def task(name: str) -> str:
    return f"arn:aws:ecs:ap-southeast-2:{PROD}:task-definition/classfeed-prod-{name}:7"


def secret(name: str) -> str:
    return f"arn:aws:secretsmanager:ap-southeast-2:{PROD}:secret:classfeed/prod/{name}-AbC123"


def arn(name: str) -> str:
    return f"arn:aws:iam::{PROD}:role/classfeed-prod-{name}"


# role, action, resource, context, may it?
TABLE: list[tuple[str, str, str, dict[str, str], bool]] = [
    ("worker", "s3:PutObject", DOCUMENT, IF_ABSENT, True),
    ("worker", "s3:PutObject", DOCUMENT, {}, False),
    ("worker", "s3:PutObject", MANIFEST, {}, False),
    ("worker", "s3:PutObject", f"{DATA}/chain/class_super/00000001.json", {}, False),
    ("worker", "s3:PutObject", f"{DATA}/chain/class_super/00000001.json", IF_ABSENT, True),
    ("worker", "s3:PutObject", f"{DATA}/references/2026-03-04/landing.json", {}, True),
    ("worker", "s3:PutObject", f"{DATA}/reruns/class_super/00000001.json", IF_ABSENT, False),
    ("worker", "s3:GetObject", DOCUMENT, {}, True),
    ("worker", "s3:GetObject", LANDED, {}, True),
    ("worker", "s3:DeleteObject", MANIFEST, {}, False),
    ("worker", "s3:DeleteObject", f"{DATA}/releases/x/2026-03-04/consent-jump.json", {}, False),
    ("worker", "s3:DeleteObjectVersion", DOCUMENT, {}, False),
    ("worker", "s3:BypassGovernanceRetention", DOCUMENT, {}, False),
    ("worker", "s3:PutBucketPolicy", DATA, {}, False),
    ("worker", "s3:GetObject", f"arn:aws:s3:::classfeed-prod-archive-{PROD}/delivered/x", {}, False),
    ("worker", "s3:GetObject", "arn:aws:s3:::classfeed-dev-data-111122223333/landing/x", {}, False),
    ("worker", "secretsmanager:GetSecretValue", secret("bigsite"), {}, False),
    ("worker", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("worker-start", "secretsmanager:GetSecretValue", secret("bigsite"), {}, True),
    ("worker-start", "secretsmanager:GetSecretValue", secret("slack"), {}, False),
    ("worker-start", "s3:GetObject", DOCUMENT, {}, False),
    ("code", "s3:GetObject", MANIFEST, {}, True),
    ("code", "s3:GetObject", DOCUMENT, {}, False),
    ("code", "s3:GetObject", LANDED, {}, False),
    ("code", "s3:PutObject", MANIFEST, IF_ABSENT, False),
    ("code", "s3:PutObject", f"{DATA}/incidents/late.json", {}, True),
    ("code", "sqs:ReceiveMessage", f"arn:aws:sqs:ap-southeast-2:{PROD}:classfeed-prod-consent-events", {}, True),
    ("code", "sqs:SendMessage", f"arn:aws:sqs:ap-southeast-2:{PROD}:classfeed-prod-consent-events", {}, False),
    ("code", "sqs:SendMessage", f"arn:aws:sqs:ap-southeast-2:{PROD}:classfeed-prod-consent-events-dead", {}, True),
    ("daemon", "ecs:RunTask", task("worker"), CLUSTER, True),
    ("daemon", "ecs:RunTask", task("worker"), {}, False),
    ("daemon", "ecs:RunTask", task("migrate"), CLUSTER, False),
    ("daemon", "iam:PassRole", arn("worker"), TO_ECS, True),
    ("daemon", "iam:PassRole", arn("worker"), {"iam:PassedToService": "ec2.amazonaws.com"}, False),
    ("daemon", "iam:PassRole", arn("deployer"), TO_ECS, False),
    ("daemon", "s3:GetObject", DOCUMENT, {}, False),
    ("daemon", "s3:GetObject", MANIFEST, {}, False),
    ("daemon-start", "secretsmanager:GetSecretValue", secret("bigsite"), {}, False),
    ("daemon-start", "secretsmanager:GetSecretValue", secret("dagster-database"), {}, True),
    ("viewer", "s3:GetObject", f"{LOGS}/compute-logs/x", {}, True),
    ("viewer", "s3:GetObject", DOCUMENT, {}, False),
    ("viewer", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("operator", "s3:GetObject", DOCUMENT, {}, False),
    ("operator", "s3:GetObject", LANDED, {}, False),
    ("door", "s3:PutObject", f"{DATA}/reruns/class_super/00000001.json", IF_ABSENT, True),
    ("door", "s3:PutObject", f"{DATA}/reruns/class_super/00000001.json", {}, False),
    ("door", "s3:DeleteObject", f"{DATA}/reruns/class_super/00000001.json", {}, False),
    ("door", "s3:GetObject", DOCUMENT, {}, False),
    ("door", "s3:PutObject", f"{DATA}/releases/x.json", IF_ABSENT, False),
    ("door-start", "secretsmanager:GetSecretValue", secret("dagster-database"), {}, False),
    ("support", "s3:GetObject", MANIFEST, {}, True),
    ("support", "s3:GetObject", f"{DATA}/quarantine/class_super/2026-03-04/SW1.json", {}, True),
    ("support", "s3:GetObject", DOCUMENT, {}, False),
    ("support", "s3:GetObject", LANDED, {}, False),
    ("support", "s3:PutObject", f"{DATA}/reruns/class_super/00000001.json", IF_ABSENT, False),
    ("support", "s3:PutObject", f"{DATA}/releases/x.json", IF_ABSENT, False),
    ("support", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("support", "ecs:ExecuteCommand", "*", {}, False),
    ("support", "secretsmanager:GetSecretValue", secret("bigsite"), {}, False),
    ("analyst", "s3:GetObject", f"{DATA}/reconciliation/class_super/2026-03-04/1/report.html", {}, True),
    ("analyst", "s3:GetObject", DOCUMENT, {}, False),
    ("analyst", "s3:GetObject", MANIFEST, {}, False),
    ("analyst", "s3:PutObject", f"{DATA}/reconciliation/x", IF_ABSENT, False),
    ("deployer", "s3:GetObject", DOCUMENT, {}, False),
    ("deployer", "cloudformation:ExecuteChangeSet", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/classfeed-prod-application/1", {}, True),
    ("deployer", "cloudformation:ExecuteChangeSet", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/payroll/1", {}, False),
    ("deployer", "cloudformation:DeleteStack", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/classfeed-prod-foundation/1", {}, False),
    ("deployer", "ecs:RunTask", task("migrate"), CLUSTER, True),
    ("deployer", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("deployer", "secretsmanager:GetSecretValue", secret("dagster-database"), {}, False),
    ("deployer", "secretsmanager:GetSecretValue", secret("release-notes"), {}, True),
    ("deployer", "iam:CreateRole", arn("worker"), {}, False),
    ("deployer", "ecr:PutImage", "arn:aws:ecr:ap-southeast-2:111122223333:repository/classfeed", {}, False),
    ("notes", "secretsmanager:GetSecretValue", secret("release-notes"), {}, True),
    ("notes", "cloudformation:ExecuteChangeSet", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/classfeed-prod-application/1", {}, False),
    ("migrate", "s3:GetObject", DOCUMENT, {}, False),
]  # fmt: skip


@pytest.mark.parametrize(("who", "action", "resource", "context", "may"), TABLE)
def test_each_role_may_do_its_work_and_no_more(
    who: str, action: str, resource: str, context: dict[str, str], may: bool
) -> None:
    assert allowed(statements(role("prod", who)), action, resource, context) is may


def test_nobody_but_the_worker_reads_a_documents_bytes() -> None:
    readers = {name for name, properties in every_role() if allowed(statements(properties), "s3:GetObject", DOCUMENT)}
    assert readers == {"classfeed-prod-worker"}


def test_nobody_reads_another_environment() -> None:
    for name, properties in every_role():
        for env, account in ACCOUNTS.items():
            if f"-{env}-" not in name:
                for key in ("landing/x", "delivered/x/manifest.json", "quarantine/x", "reconciliation/x"):
                    assert not allowed(
                        statements(properties), "s3:GetObject", f"arn:aws:s3:::classfeed-{env}-data-{account}/{key}"
                    ), name


def test_no_policy_allows_everything_of_a_service_and_stars_stand_only_where_nothing_else_can() -> None:
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
def test_every_role_has_the_boundary_and_the_boundary_forbids_other_environments(env: str) -> None:
    boundary = only(f"{env}-application", "AWS::IAM::ManagedPolicy")
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
def test_the_pipeline_takes_a_role_only_from_its_own_workflow_and_environment(env: str) -> None:
    (trust,) = role(env, "deployer")["AssumeRolePolicyDocument"]["Statement"]
    conditions = trust["Condition"]["StringEquals"]
    assert conditions["token.actions.githubusercontent.com:sub"] == f"repo:broker/classfeed:environment:{env}"
    assert conditions["token.actions.githubusercontent.com:aud"] == "sts.amazonaws.com"
    assert conditions["token.actions.githubusercontent.com:job_workflow_ref"].endswith("/deploy.yml@refs/heads/main")


def test_the_evaluator_itself_denies_by_default_and_lets_deny_win() -> None:
    rule: dict[str, Any] = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::b/a?/*"}
    assert allowed([rule], "S3:GetObject", "arn:aws:s3:::b/a1/x")
    assert not allowed([rule], "s3:GetObject", "arn:aws:s3:::b/a12/x")
    assert not allowed([], "s3:GetObject", "x")
    assert not allowed([rule, rule | {"Effect": "Deny"}], "s3:GetObject", "arn:aws:s3:::b/a1/x")
    with pytest.raises(NotImplementedError):
        allowed(
            [rule | {"Condition": {"IpAddress": {"aws:SourceIp": "1.2.3.4"}}}],
            "s3:GetObject",
            "arn:aws:s3:::b/a1/x",
            {"aws:SourceIp": "1.2.3.4"},
        )
