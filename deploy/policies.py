"""Permissions as plain data: one function a role, which returns the statements of its policy.

A role for each component and environment. Nothing here knows of CDK; a test evaluates these statements, and those of
the committed templates, over a table of actions that must be allowed and of actions that must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from deploy.environments import GITHUB_REPOSITORY, REGION, REPOSITORY, REST_ACCOUNT, Deployment

Statement = dict[str, Any]

# CloudFormation's macro that makes the function which rotates the database's password.
ROTATION_TRANSFORM = "AWS::SecretsManager-2024-09-16"
# Roles of the apps that class trade and class cash replace.
OLD_APPS = "broker-class-exporter-*"
# Written once and never changed: not by a run, not by a person with a role of this project.
LASTING = ("delivered", "transmitted", "acknowledged", "acknowledged-content", "chain", "ledger", "releases", "reruns",
           "owner-numbers")  # fmt: skip
# Pointers, states and what can be made again. What a test day of work touches is put to these policies by
# test_roles_suffice.py; a new prefix shows there.
WORKING = ("landing", "domains", "staged", "verdicts", "references", "quarantine", "reconciliation", "schemas",
           "values", "simulation", "acknowledgements", "shadow", "legacy", "switches", "parity", "heartbeats",
           "toil", "incidents", "raised-incidents", "closed-incidents", "warehouse", "owner-report",
           "notices", "outgoing")  # fmt: skip
# States that sensors keep: incidents, heartbeats, the toil diary, the latest consent event, dates to re-issue.
STATES = ("incidents", "raised-incidents", "closed-incidents", "heartbeats", "toil", "consent-events", "restatements")
# Records about data: keys under which no customer's figures or names are.
RECORDS = ("delivered/*/manifest.json", "delivered/*/portfolios.parquet", "delivered/*/withheld-*.json",
           "shadow/delivered/*/manifest.json", "shadow/delivered/*/portfolios.parquet", "chain/*",
           "shadow/chain/*", "quarantine/*",
           "releases/*", "transmitted/*", "acknowledged/*", "references/*", "verdicts/*",
           "landing/*/snapshot/*.json", "reruns/*", "switches/*", "owner-report/*",
           *(f"{one}/*" for one in STATES))  # fmt: skip


_IMAGES = f"arn:aws:ecr:{REGION}:{REST_ACCOUNT}:repository/{REPOSITORY}"


def _release(deployment: Deployment) -> str:
    # The digest that the environment runs.
    return f"arn:aws:ssm:{deployment.region}:{deployment.account}:parameter/classfeed/{deployment.env}/release"


def _read_flags(deployment: Deployment) -> Statement:
    return _allow("ReadSwitches", ["ssm:GetParameter"], [deployment.parameter(deployment.flags_parameter)])


def _objects(deployment: Deployment, patterns: Iterable[str]) -> list[str]:
    return [f"arn:aws:s3:::{deployment.data_bucket}/{pattern}" for pattern in patterns]


def _allow(sid: str, actions: Iterable[str], resources: Iterable[str], **condition: Any) -> Statement:
    return _statement("Allow", sid, actions, resources, condition)


def _deny(sid: str, actions: Iterable[str], resources: Iterable[str], **condition: Any) -> Statement:
    return _statement("Deny", sid, actions, resources, condition)


def _statement(
    effect: str, sid: str, actions: Iterable[str], resources: Iterable[str], condition: dict[str, Any]
) -> Statement:
    statement: Statement = {"Sid": sid, "Effect": effect, "Action": list(actions), "Resource": list(resources)}
    return statement | ({"Condition": condition} if condition else {})


def _key(deployment: Deployment, *actions: str, service: str = "s3", sid: str = "Key") -> Statement:
    # The key's id is AWS's to choose, so it is named by its alias; and it can be used through one service only.
    return _allow(
        sid,
        [f"kms:{action}" for action in actions],
        [f"arn:aws:kms:{deployment.region}:{deployment.account}:key/*"],
        StringEquals={"kms:ViaService": f"{service}.{deployment.region}.amazonaws.com"},
        **{"ForAnyValue:StringEquals": {"kms:ResourceAliases": [deployment.key_alias]}},
    )


def _list(deployment: Deployment, prefixes: Iterable[str], *, operator: str = "StringLikeIfExists") -> Statement:
    # IfExists: a component that reads a missing object gets that error only if it may list; no prefix is named
    # then. People's roles do without: a missing object is forbidden to them.
    return _allow(
        "List",
        ["s3:ListBucket"],
        [f"arn:aws:s3:::{deployment.data_bucket}"],
        **{operator: {"s3:prefix": [f"{prefix}/*" for prefix in prefixes]}},
    )


def worker(deployment: Deployment) -> list[Statement]:
    """Allow a run, the only role with customers' data, to create permanent objects, never to change them."""
    lasting = _objects(deployment, (f"{prefix}/*" for prefix in LASTING))
    requests = _objects(deployment, ("reruns/*",))
    return [
        _list(deployment, (*LASTING, *WORKING)),
        # Read and write in one statement: the template has to stay below CloudFormation's 51,200 bytes.
        _allow("Work", ["s3:GetObject", "s3:PutObject"], _objects(deployment, (f"{prefix}/*" for prefix in WORKING))),
        _allow("Create", ["s3:GetObject", "s3:PutObject"], [key for key in lasting if key not in requests]),
        _allow("ReadRequests", ["s3:GetObject"], requests),
        # The commit protocol, enforced by S3 too: without If-None-Match nothing can be put there.
        _deny("CreateOnly", ["s3:PutObject"], lasting, Null={"s3:if-none-match": "true"}),
        # The files of an abandoned attempt, whose manifest is void, are hidden behind a marker; their bytes stay.
        _allow("Tidy", ["s3:DeleteObject"], _objects(deployment, ("shadow/*", "delivered/*", "raised-incidents/*"))),
        _deny("NeverUndone", ["s3:DeleteObject"],
              _objects(deployment, ("delivered/*/manifest.json", "delivered/*/withheld-*.json",
                                    "transmitted/*", "chain/*", "ledger/*", "releases/*",
                                    "reruns/*"))),
        _deny(
            "NeverErased",
            ["s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutObjectRetention", "s3:PutObjectAcl"],
            lasting,
        ),
        _allow("Log", ["s3:PutObject"], [f"arn:aws:s3:::{deployment.logs_bucket}/compute-logs/*"]),
        _read_flags(deployment),
        _key(deployment, "Decrypt", "GenerateDataKey"),
    ]  # fmt: skip


def code(deployment: Deployment) -> list[Statement]:
    """Allow the code server, with schedules and sensors, to read records of events but no customers' data."""
    return [
        _list(deployment, ("delivered", "shadow", "transmitted", "acknowledged", "acknowledgements", "chain",
                           "quarantine", "releases", "landing", "legacy",
                           "reruns", "owner-report", *STATES)),
        _allow("ReadRecords", ["s3:GetObject"], _objects(deployment, RECORDS)),
        _allow("Keep", ["s3:PutObject"], _objects(deployment, (f"{prefix}/*" for prefix in STATES))),
        _allow("KeepSwitches", ["s3:PutObject"], _objects(deployment, ("switches/last-known.json",))),
        _allow("Close", ["s3:DeleteObject"],
            _objects(deployment, ("incidents/*", "raised-incidents/*", "restatements/*"))),
        _allow(
            "Hear",
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"],
            [deployment.queue_arn],
        ),
        _allow("SetAside", ["sqs:SendMessage", "sqs:GetQueueAttributes"], [f"{deployment.queue_arn}-dead"]),
        _key(deployment, "Decrypt", "GenerateDataKey", service="sqs", sid="KeyOfEvents"),
        _read_flags(deployment),
        # The lines that a schedule or sensor writes while it is evaluated are shown with its tick.
        _allow("Log", ["s3:PutObject"], [f"arn:aws:s3:::{deployment.logs_bucket}/compute-logs/*"]),
        _key(deployment, "Decrypt", "GenerateDataKey"),
    ]  # fmt: skip


def daemon(deployment: Deployment) -> list[Statement]:
    """Allow the daemon only to start run workers of this task definition in this cluster."""
    in_cluster = {"ArnEquals": {"ecs:cluster": deployment.cluster_arn}}
    tasks = f"arn:aws:ecs:{deployment.region}:{deployment.account}:task/{deployment.name('cluster')}/*"
    return [
        _allow("StartWorkers", ["ecs:RunTask"], [deployment.task("worker")], **in_cluster),
        _allow("StopAndLookAtWorkers", ["ecs:StopTask", "ecs:DescribeTasks"], [tasks], **in_cluster),
        _allow("NameWorkers", ["ecs:TagResource"], [tasks], StringEquals={"ecs:CreateAction": "RunTask"}),
        # These have no resources to be limited to.
        _allow("Look", ["ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces"], ["*"]),
        _allow(
            "HandTheWorkersRoles",
            ["iam:PassRole"],
            [deployment.role("worker"), deployment.role("worker-start")],
            StringEquals={"iam:PassedToService": "ecs-tasks.amazonaws.com"},
        ),
    ]


def web(deployment: Deployment) -> list[Statement]:
    """Allow a webserver to read compute logs. Its access to Dagster's database comes from its start role."""
    return [
        _allow("ReadLogs", ["s3:GetObject"], [f"arn:aws:s3:::{deployment.logs_bucket}/compute-logs/*"]),
        # Dagster's page "Configuration" shows the run launcher, which reads its task definition.
        _allow("Look", ["ecs:DescribeTaskDefinition"], ["*"]),
        _key(deployment, "Decrypt"),
    ]


def operator(deployment: Deployment) -> list[Statement]:
    """Allow the operators' webserver to stop runs, in addition to a webserver's permissions."""
    in_cluster = {"ArnEquals": {"ecs:cluster": deployment.cluster_arn}}
    tasks = f"arn:aws:ecs:{deployment.region}:{deployment.account}:task/{deployment.name('cluster')}/*"
    return [
        *web(deployment),
        _allow("StopWorkers", ["ecs:StopTask", "ecs:DescribeTasks"], [tasks], **in_cluster),
    ]


def watchdog(deployment: Deployment) -> list[Statement]:
    """Allow the watchdog to read manifests and heartbeats, and to store the state of its incident."""
    states = ("incidents", "raised-incidents", "closed-incidents")
    return [
        _list(deployment, ("delivered", "shadow", "chain", "heartbeats", *states)),
        _allow("ReadRecords", ["s3:GetObject"], _objects(deployment, (
            "delivered/*/manifest.json", "shadow/delivered/*/manifest.json", "chain/*", "heartbeats/*",
            "switches/last-known.json",
            *(f"{prefix}/*" for prefix in states)))),
        _allow("Keep", ["s3:PutObject"], _objects(deployment, (f"{prefix}/*" for prefix in states))),
        _allow("Close", ["s3:DeleteObject"], _objects(deployment, ("incidents/*", "raised-incidents/*"))),
        _read_flags(deployment),
        _key(deployment, "Decrypt", "GenerateDataKey"),
    ]  # fmt: skip


def legacy(deployment: Deployment) -> list[Statement]:
    """Allow the old apps only to store their files for parity."""
    return [
        _allow("PutOldFiles", ["s3:PutObject"], _objects(deployment, ("legacy/*",))),
        _key(deployment, "Decrypt", "GenerateDataKey"),  # S3 decrypts the parts of an upload in parts
    ]


def oncall(deployment: Deployment) -> list[Statement]:
    """Allow engineers on call to turn switches, on record in the parameter's history, and what support sees.

    ``classfeed redrive`` returns consent events from the dead letters to their queue.
    """
    flags = [deployment.parameter(deployment.flags_parameter)]
    return [
        *support(deployment),
        _allow("TurnSwitches", ["ssm:GetParameter", "ssm:GetParameterHistory", "ssm:PutParameter"], flags),
        _allow(
            "TakeDeadLetters",
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
            [f"{deployment.queue_arn}-dead"],
        ),
        _allow("ReturnEvents", ["sqs:SendMessage"], [deployment.queue_arn]),
        _key(deployment, "Decrypt", "GenerateDataKey", service="sqs", sid="KeyOfEvents"),
    ]


def door(deployment: Deployment) -> list[Statement]:
    """Allow the support pages to create requests and to read a customer's deliveries and holds, no document."""
    requests = _objects(deployment, ("reruns/*",))
    shown = (
        "*delivered/*/manifest.json",
        "*delivered/*/portfolios.parquet",
        "chain/*",
        "ledger/*/portfolios-*",
        "quarantine/*",
        "reruns/*",
        "notices/*",
        "*delivered/*/withheld-*.json",
        "transmitted/*",
        "acknowledged/*",
    )
    return [
        _list(
            deployment,
            ("delivered", "chain", "ledger", "quarantine", "reruns", "notices", "transmitted", "acknowledged"),
        ),
        _allow("Look", ["s3:GetObject"], _objects(deployment, shown)),
        _read_flags(deployment),
        _allow("Put", ["s3:PutObject"], requests),
        _deny("CreateOnly", ["s3:PutObject"], requests, Null={"s3:if-none-match": "true"}),
        _key(deployment, "Decrypt", "GenerateDataKey"),
    ]


def analyst(deployment: Deployment) -> list[Statement]:
    """Let analysts read reconciliation's and the owner's reports. Breaks name portfolios; documents stay closed."""
    return [
        _list(deployment, ("reconciliation", "owner-report"), operator="StringLike"),
        _allow("ReadReports", ["s3:GetObject"], _objects(deployment, ("reconciliation/*", "owner-report/*"))),
        _allow(
            "ReadFigures",
            ["cloudwatch:GetMetricData", "cloudwatch:ListMetrics", "cloudwatch:GetDashboard"],
            ["*"],
        ),
        _key(deployment, "Decrypt"),
        *_documents_stay_closed(deployment),
    ]


def support(deployment: Deployment) -> list[Statement]:
    """Let class support see what happened, and change nothing: re-runs go through the door, which has its own role."""
    return [
        _list(deployment, ("delivered", "quarantine", "reruns", "reconciliation"), operator="StringLike"),
        _allow(
            "SeeWhatHappened",
            ["s3:GetObject"],
            _objects(deployment, ("delivered/*/manifest.json", "delivered/*/portfolios.parquet", "quarantine/*",
                                  "reruns/*", "reconciliation/*")),
        ),
        _allow(
            "ReadFigures",
            ["cloudwatch:GetMetricData", "cloudwatch:ListMetrics", "cloudwatch:GetDashboard",
             "cloudwatch:DescribeAlarms"],
            ["*"],
        ),
        _key(deployment, "Decrypt"),
        *_documents_stay_closed(deployment),
    ]  # fmt: skip


def deployer(deployment: Deployment) -> list[Statement]:
    """Allow the pipeline to change this environment's stacks through CloudFormation's own role."""
    stacks = f"arn:aws:cloudformation:{deployment.region}:{deployment.account}:stack/{deployment.name('*')}/*"
    return [
        _allow(
            "ChangeStacks",
            [f"cloudformation:{action}" for action in (
                "CreateChangeSet", "DescribeChangeSet", "ExecuteChangeSet", "DeleteChangeSet", "DescribeStacks",
                "DescribeStackEvents", "GetTemplate")],
            [stacks],
        ),
        _allow("ExpandTemplates", ["cloudformation:CreateChangeSet"], [
            f"arn:aws:cloudformation:{deployment.region}:aws:transform/{ROTATION_TRANSFORM.removeprefix('AWS::')}"]),
        _allow(
            "ThroughItsRole",
            ["iam:PassRole"],
            [deployment.role("cloudformation")],
            StringEquals={"iam:PassedToService": "cloudformation.amazonaws.com"},
        ),
        _allow("Migrate", ["ecs:RunTask"], [deployment.task("migrate")],
               ArnEquals={"ecs:cluster": deployment.cluster_arn}),
        _allow(
            "HandTheMigrationItsRoles",
            ["iam:PassRole"],
            [deployment.role("migrate"), deployment.role("migrate-start")],
            StringEquals={"iam:PassedToService": "ecs-tasks.amazonaws.com"},
        ),
        _allow(
            "WatchTheMigrationAndServices",
            ["ecs:DescribeTasks", "ecs:DescribeServices"],
            [f"arn:aws:ecs:{deployment.region}:{deployment.account}:*/{deployment.name('cluster')}/*"],
        ),
        _allow("KeepReleases", ["ssm:GetParameter", "ssm:PutParameter"], [_release(deployment)]),
        _allow("TellSlack", ["secretsmanager:GetSecretValue"], [deployment.secret("release-notes")]),
        _key(deployment, "Decrypt", service="secretsmanager"),
        _allow("Login", ["ecr:GetAuthorizationToken"], ["*"]),
        # The attestation is stored with the image; verifying it reads both.
        _allow("FindTheImage", ["ecr:DescribeImages", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], [_IMAGES]),
        _deny("NeverData", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], _objects(deployment, ("*",))),
    ]  # fmt: skip


def _read_schedules(deployment: Deployment) -> Statement:
    # The role of a schedule decrypts its input: EventBridge Scheduler has no permission of its own for the key. What is
    # encrypted for one schedule is named by its encryption context.
    schedules = f"arn:aws:scheduler:{deployment.region}:{deployment.account}:schedule/default/{deployment.name('*')}"
    return _allow(
        "ReadSchedules",
        ["kms:Decrypt"],
        [f"arn:aws:kms:{deployment.region}:{deployment.account}:key/*"],
        ArnLike={"kms:EncryptionContext:aws:scheduler:schedule:arn": schedules},
    )


def schedule(deployment: Deployment) -> list[Statement]:
    """Let EventBridge Scheduler start the watchdog's task, and no other."""
    return [
        _read_schedules(deployment),
        _allow("StartWatchdog", ["ecs:RunTask"], [deployment.task("watchdog")],
               ArnEquals={"ecs:cluster": deployment.cluster_arn}),
        _allow(
            "HandTheWatchdogItsRoles",
            ["iam:PassRole"],
            [deployment.role("watchdog"), deployment.role("watchdog-start")],
            StringEquals={"iam:PassedToService": "ecs-tasks.amazonaws.com"},
        ),
    ]  # fmt: skip


def renew(deployment: Deployment) -> list[Statement]:
    """Let EventBridge Scheduler start services anew after the database's password was rotated."""
    services = f"arn:aws:ecs:{deployment.region}:{deployment.account}:service/{deployment.name('cluster')}/*"
    return [_read_schedules(deployment), _allow("Renew", ["ecs:UpdateService"], [services])]


def nothing(deployment: Deployment) -> list[Statement]:
    """Allow nothing: the migration step uses only Dagster's database, which needs no permission of AWS."""
    return [_deny("NeverData", ["s3:*"], _objects(deployment, ("*",)))]


def start(deployment: Deployment, secrets: Iterable[str]) -> list[Statement]:
    """Allow ECS to start a task: its image, log and secrets. The task itself does not have this role."""
    return [
        _allow("Login", ["ecr:GetAuthorizationToken"], ["*"]),
        _allow(
            "Image",
            ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"],
            [_IMAGES],
        ),
        _allow(
            "Log",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [f"arn:aws:logs:{deployment.region}:{deployment.account}:log-group:/classfeed/{deployment.env}/*"],
        ),
        _allow("Secrets", ["secretsmanager:GetSecretValue"], [deployment.secret(secret) for secret in secrets]),
        _key(deployment, "Decrypt", service="secretsmanager"),
    ]


def _documents_stay_closed(deployment: Deployment) -> list[Statement]:
    # Whatever is allowed above or attached later: only the worker reads the bytes of a document or snapshot.
    documents = (
        f"{prefix}/*.{ending}" for prefix in ("delivered", "shadow") for ending in ("xml", "xml.gz", "csv", "csv.gz")
    )
    patterns = (*documents, "staged/*", "outgoing/*", "landing/*", "domains/*", "legacy/*")
    return [_deny("DocumentsStayClosed", ["s3:GetObject", "s3:GetObjectVersion"], _objects(deployment, patterns))]


def notes(deployment: Deployment) -> list[Statement]:
    """Allow the pipelines' notes to Slack, and the record of their durations, coverage, mutation score and tickets."""
    numbers = _objects(deployment, (f"owner-numbers/*/{source}/*" for source in ("pipeline", "mutation", "forge")))
    return [
        _allow("KeepNumbers", ["s3:PutObject"], numbers),
        _deny("CreateOnly", ["s3:PutObject"], numbers, Null={"s3:if-none-match": "true"}),
        _key(deployment, "GenerateDataKey", sid="KeyOfNumbers"),
        _allow("TellSlack", ["secretsmanager:GetSecretValue"], [deployment.secret("release-notes")]),
        _allow("Releases", ["ssm:GetParameter"], [_release(deployment)]),
        _allow("FindTheImage", ["ecr:DescribeImages"], [_IMAGES]),
        _key(deployment, "Decrypt", service="secretsmanager"),
    ]


def github(deployment: Deployment | None = None, environment: str = "") -> Statement:
    """Trust exactly one environment's job of exactly one workflow to assume the deployer's role.

    Without an environment: the build's job on main, which may push an image and nothing else.
    """
    account = REST_ACCOUNT if deployment is None else deployment.account
    subject = "ref:refs/heads/main" if deployment is None else f"environment:{environment or deployment.env}"
    workflows = ["pipeline.yml" if deployment is None else "deploy.yml"]
    if environment.endswith("-notes"):
        workflows += ["nightly.yml", "pipeline.yml"]  # a red night notifies the channel; both record their numbers
    host = "token.actions.githubusercontent.com"
    references = [f"{GITHUB_REPOSITORY}/.github/workflows/{workflow}@refs/heads/main" for workflow in workflows]
    return {
        "Effect": "Allow",
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Principal": {"Federated": f"arn:aws:iam::{account}:oidc-provider/{host}"},
        "Condition": {
            "StringEquals": {
                f"{host}:aud": "sts.amazonaws.com",
                f"{host}:sub": f"repo:{GITHUB_REPOSITORY}:{subject}",
                f"{host}:job_workflow_ref": references[0] if len(references) == 1 else references,
            }
        },
    }


def builder() -> list[Statement]:
    """Allow the pipeline's role to push the image. It can change no environment."""
    return [
        _allow("Login", ["ecr:GetAuthorizationToken"], ["*"]),
        _allow(
            "Push",
            ["ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart",
             "ecr:CompleteLayerUpload", "ecr:PutImage", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer",
             "ecr:DescribeImages", "ecr:DescribeImageScanFindings"],
            [_IMAGES],
        ),
    ]  # fmt: skip


# Components that run as tasks: the role of the task, and the secrets that ECS puts into it.
TASKS: dict[str, tuple[Callable[[Deployment], list[Statement]], tuple[str, ...]]] = {
    "code": (code, ("dagster-database", "bigsite", "slack", "pagerduty")),
    "viewer": (web, ("dagster-database",)),
    "operator": (operator, ("dagster-database",)),
    "daemon": (daemon, ("dagster-database",)),
    "door": (door, ("bigsite",)),
    "worker": (worker, ("dagster-database", "bigsite", "snowflake")),
    "migrate": (nothing, ("dagster-database",)),
    "watchdog": (watchdog, ("slack", "pagerduty")),
}
# The broker's password, in addition, where workers execute the steps of runs.
BROKER = "broker"


def tasks(deployment: Deployment) -> dict[str, tuple[Callable[[Deployment], list[Statement]], tuple[str, ...]]]:
    """Return the components of an environment with their roles' statements and their secrets.

    Celery workers are no component of their own here: they have the run worker's roles.
    """
    if not deployment.workers:
        return TASKS
    statements, secrets = TASKS["worker"]
    return TASKS | {"worker": (statements, (*secrets, BROKER))}


# Roles that people and the pipeline assume.
PEOPLE: dict[str, Callable[[Deployment], list[Statement]]] = {
    "analyst": analyst,
    "support": support,
    "oncall": oncall,
    "legacy": legacy,
    "deployer": deployer,
    "notes": notes,
}
SECRETS = ("dagster-database", "bigsite", "snowflake", "slack", "pagerduty", "release-notes", "oidc-viewer",
           "oidc-operator", "oidc-door")  # fmt: skip
