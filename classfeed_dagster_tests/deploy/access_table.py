"""The actions that each role may and may not do, evaluated by test_least_privilege.py."""

from __future__ import annotations

ACCOUNTS = {"dev": "111122223333", "stg": "111122223333", "prod": "444455556666"}
PROD = ACCOUNTS["prod"]
DATA = f"arn:aws:s3:::classfeed-prod-data-{PROD}"
LOGS = f"arn:aws:s3:::classfeed-prod-logs-{PROD}"
DOCUMENT = f"{DATA}/delivered/class_super/2026-03-04/r0/class_super-20260304-r0-p1.xml.gz"
SHADOW = f"{DATA}/shadow/delivered/class_cash/2026-03-04/r0/class_cash-20260304-r0-p1.csv.gz"
MANIFEST = f"{DATA}/delivered/class_super/2026-03-04/r0/manifest.json"
LISTED = f"{DATA}/delivered/class_super/2026-03-04/r0/portfolios.parquet"
LANDED = f"{DATA}/landing/2026-03-04/trade/abc.parquet"
IF_ABSENT = {"s3:if-none-match": "*"}
CLUSTER = {"ecs:cluster": f"arn:aws:ecs:ap-southeast-2:{PROD}:cluster/classfeed-prod-cluster"}
TO_ECS = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


KEY = f"arn:aws:kms:ap-southeast-2:{PROD}:key/0a1b"
TRANSFORM = "arn:aws:cloudformation:ap-southeast-2:aws:transform/SecretsManager-2024-09-16"


def key_through(service: str, alias: str = "alias/classfeed-prod-data") -> dict[str, str]:
    """Return the context of a use of the key by an AWS service for the role."""
    return {"kms:ViaService": f"{service}.ap-southeast-2.amazonaws.com", "kms:ResourceAliases": alias}


def key_for_schedule(name: str) -> dict[str, str]:
    """Return the context in which EventBridge Scheduler decrypts a schedule's input."""
    schedule = f"arn:aws:scheduler:ap-southeast-2:{PROD}:schedule/default/{name}"
    return {"kms:EncryptionContext:aws:scheduler:schedule:arn": schedule}


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
    ("worker", "s3:GetObject", f"{DATA}/reruns/class_super/00000001.json", {}, True),
    ("worker", "s3:GetObject", f"{DATA}/payroll/2026-03.csv", {}, False),
    ("worker", "s3:PutObject", f"{DATA}/payroll/2026-03.csv", IF_ABSENT, False),
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
    ("worker", "s3:PutObject", f"{DATA}/owner-numbers/2026-03/cost/x.json", {}, False),
    ("worker", "s3:PutObject", f"{DATA}/owner-numbers/2026-03/cost/x.json", IF_ABSENT, True),
    ("code", "s3:GetObject", f"{DATA}/owner-report/current.json", {}, True),
    ("code", "s3:GetObject", MANIFEST, {}, True),
    ("code", "s3:GetObject", LISTED, {}, True),
    ("code", "s3:GetObject", f"{DATA}/shadow/delivered/class_cash/2026-03-04/r0/portfolios.parquet", {}, True),
    ("code", "s3:GetObject", DOCUMENT, {}, False),
    ("code", "s3:GetObject", LANDED, {}, False),
    ("code", "s3:GetObject", SHADOW, {}, False),
    ("code", "s3:GetObject", f"{DATA}/shadow/delivered/class_cash/2026-03-04/r0/manifest.json", {}, True),
    ("code", "s3:GetObject", f"{DATA}/legacy/class_cash/2026-03-04.csv", {}, False),
    ("code", "s3:PutObject", MANIFEST, IF_ABSENT, False),
    ("code", "s3:PutObject", f"{DATA}/incidents/late.json", {}, True),
    ("code", "sqs:ReceiveMessage", f"arn:aws:sqs:ap-southeast-2:{PROD}:classfeed-prod-consent-events", {}, True),
    ("code", "sqs:SendMessage", f"arn:aws:sqs:ap-southeast-2:{PROD}:classfeed-prod-consent-events", {}, False),
    ("code", "sqs:SendMessage", f"arn:aws:sqs:ap-southeast-2:{PROD}:classfeed-prod-consent-events-dead", {}, True),
    ("code", "kms:Decrypt", KEY, key_through("sqs"), True),
    ("code", "kms:GenerateDataKey", KEY, key_through("sqs"), True),
    ("code", "kms:Decrypt", KEY, key_through("sqs", "alias/classfeed-stg-data"), False),
    ("code", "kms:Decrypt", KEY, key_through("secretsmanager"), False),
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
    ("viewer", "ecs:DescribeTaskDefinition", "*", {}, True),
    ("viewer", "s3:GetObject", DOCUMENT, {}, False),
    ("viewer", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("operator", "s3:GetObject", f"{LOGS}/compute-logs/x", {}, True),
    ("operator", "s3:GetObject", DOCUMENT, {}, False),
    ("operator", "s3:GetObject", LANDED, {}, False),
    ("operator", "ecs:StopTask", f"arn:aws:ecs:ap-southeast-2:{PROD}:task/classfeed-prod-cluster/abc", CLUSTER, True),
    ("operator", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("watchdog", "s3:GetObject", MANIFEST, {}, True),
    ("watchdog", "s3:GetObject", LISTED, {}, False),
    ("watchdog", "s3:GetObject", DOCUMENT, {}, False),
    ("watchdog", "s3:PutObject", f"{DATA}/incidents/watchdog.json", {}, True),
    ("watchdog", "s3:PutObject", MANIFEST, IF_ABSENT, False),
    ("legacy", "s3:PutObject", f"{DATA}/legacy/class_cash/2026-03-04/cash.csv", {}, True),
    ("legacy", "s3:PutObject", DOCUMENT, IF_ABSENT, False),
    ("legacy", "s3:GetObject", f"{DATA}/legacy/class_cash/2026-03-04/cash.csv", {}, False),
    ("oncall", "kms:Decrypt", KEY, key_through("sqs"), True),
    ("oncall", "sqs:ReceiveMessage", f"arn:aws:sqs:ap-southeast-2:{PROD}:classfeed-prod-consent-events", {}, False),
    ("legacy", "kms:Decrypt", KEY, key_through("s3"), True),
    ("oncall", "ssm:PutParameter", f"arn:aws:ssm:ap-southeast-2:{PROD}:parameter/classfeed/prod/flags", {}, True),
    ("oncall", "ssm:PutParameter", f"arn:aws:ssm:ap-southeast-2:{PROD}:parameter/classfeed/prod/release", {}, False),
    ("oncall", "s3:GetObject", DOCUMENT, {}, False),
    ("worker", "ssm:GetParameter", f"arn:aws:ssm:ap-southeast-2:{PROD}:parameter/classfeed/prod/flags", {}, True),
    ("worker", "ssm:PutParameter", f"arn:aws:ssm:ap-southeast-2:{PROD}:parameter/classfeed/prod/flags", {}, False),
    ("schedule", "ecs:RunTask", task("watchdog"), CLUSTER, True),
    ("schedule", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("schedule", "kms:Decrypt", KEY, key_for_schedule("classfeed-prod-watchdog"), True),
    ("schedule", "kms:Decrypt", KEY, key_for_schedule("payroll"), False),
    ("schedule", "kms:Decrypt", KEY, key_through("s3"), False),
    ("door", "s3:PutObject", f"{DATA}/reruns/class_super/00000001.json", IF_ABSENT, True),
    ("door", "s3:PutObject", f"{DATA}/reruns/class_super/00000001.json", {}, False),
    ("door", "s3:DeleteObject", f"{DATA}/reruns/class_super/00000001.json", {}, False),
    ("door", "s3:GetObject", DOCUMENT, {}, False),
    ("door", "s3:GetObject", f"{DATA}/ledger/class_super/2026-03-04/r0/portfolios-0000.parquet", {}, True),
    ("door", "s3:GetObject", f"{DATA}/ledger/class_super/2026-03-04/r0/records-0000.parquet", {}, False),
    ("door", "s3:GetObject", f"{DATA}/transmitted/class_super/2026-03-04/r0/x.json", {}, True),
    ("door", "s3:GetObject", f"{DATA}/acknowledged/class_super/2026-03-04/x.json", {}, True),
    ("door", "s3:GetObject", f"{DATA}/acknowledged-content/class_super/x", {}, False),
    ("door", "s3:GetObject", f"{DATA}/landing/2026-03-04/trade/x.parquet", {}, False),
    ("door", "s3:PutObject", f"{DATA}/releases/x.json", IF_ABSENT, False),
    ("door-start", "secretsmanager:GetSecretValue", secret("dagster-database"), {}, False),
    ("support", "s3:ListBucket", DATA, {"s3:prefix": "quarantine/class_super/"}, True),
    ("support", "s3:ListBucket", DATA, {"s3:prefix": "landing/"}, False),
    ("support", "s3:ListBucket", DATA, {}, False),
    ("support", "s3:GetObject", MANIFEST, {}, True),
    ("support", "s3:GetObject", LISTED, {}, True),
    ("support", "s3:GetObject", f"{DATA}/quarantine/class_super/2026-03-04/SW1.json", {}, True),
    ("support", "s3:GetObject", DOCUMENT, {}, False),
    ("support", "s3:GetObject", LANDED, {}, False),
    ("support", "s3:PutObject", f"{DATA}/reruns/class_super/00000001.json", IF_ABSENT, False),
    ("support", "s3:PutObject", f"{DATA}/releases/x.json", IF_ABSENT, False),
    ("support", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("support", "ecs:ExecuteCommand", "*", {}, False),
    ("support", "secretsmanager:GetSecretValue", secret("bigsite"), {}, False),
    ("analyst", "s3:GetObject", f"{DATA}/reconciliation/class_super/2026-03-04/1/report.html", {}, True),
    ("analyst", "s3:GetObject", f"{DATA}/owner-report/2026-03.html", {}, True),
    ("analyst", "s3:GetObject", DOCUMENT, {}, False),
    ("analyst", "s3:GetObject", MANIFEST, {}, False),
    ("analyst", "s3:PutObject", f"{DATA}/reconciliation/x", IF_ABSENT, False),
    ("deployer", "s3:GetObject", DOCUMENT, {}, False),
    ("deployer", "cloudformation:ExecuteChangeSet", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/classfeed-prod-application/1", {}, True),
    ("deployer", "cloudformation:ExecuteChangeSet", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/payroll/1", {}, False),
    ("deployer", "cloudformation:CreateChangeSet", TRANSFORM, {}, True),
    ("deployer", "cloudformation:CreateChangeSet", "arn:aws:cloudformation:ap-southeast-2:aws:transform/Include", {}, False),
    ("deployer", "cloudformation:DeleteStack", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/classfeed-prod-foundation/1", {}, False),
    ("deployer", "ecs:RunTask", task("migrate"), CLUSTER, True),
    ("deployer", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("deployer", "secretsmanager:GetSecretValue", secret("dagster-database"), {}, False),
    ("deployer", "secretsmanager:GetSecretValue", secret("release-notes"), {}, True),
    ("deployer", "iam:CreateRole", arn("worker"), {}, False),
    ("deployer", "ecr:PutImage", "arn:aws:ecr:ap-southeast-2:111122223333:repository/classfeed", {}, False),
    ("notes", "secretsmanager:GetSecretValue", secret("release-notes"), {}, True),
    ("notes", "s3:PutObject", f"{DATA}/owner-numbers/2026-03/pipeline/7-1.json", IF_ABSENT, True),
    ("notes", "s3:PutObject", f"{DATA}/owner-numbers/2026-03/pipeline/7-1.json", {}, False),
    ("notes", "s3:PutObject", f"{DATA}/owner-numbers/2026-03/cost/x.json", IF_ABSENT, False),
    ("notes", "s3:PutObject", MANIFEST, IF_ABSENT, False),
    ("notes", "s3:GetObject", DOCUMENT, {}, False),
    ("notes", "cloudformation:ExecuteChangeSet", f"arn:aws:cloudformation:ap-southeast-2:{PROD}:stack/classfeed-prod-application/1", {}, False),
    ("notes", "ssm:PutParameter", f"arn:aws:ssm:ap-southeast-2:{PROD}:parameter/classfeed/prod/release", {}, False),
    ("migrate", "s3:GetObject", DOCUMENT, {}, False),
    ("renew", "ecs:UpdateService", f"arn:aws:ecs:ap-southeast-2:{PROD}:service/classfeed-prod-cluster/code", {}, True),
    ("renew", "ecs:RunTask", task("worker"), CLUSTER, False),
    ("renew", "kms:Decrypt", KEY, key_for_schedule("classfeed-prod-renew-code"), True),
]  # fmt: skip
