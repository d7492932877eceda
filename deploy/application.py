"""Resources that each release renews: the tasks and services of one image, and their load balancer."""

from __future__ import annotations

from aws_cdk import CfnCondition, CfnParameter, Duration, Fn, Stack, Token
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_logs as logs
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_servicediscovery as discovery
from constructs import Construct

from classfeed_dagster.support.identity_provider import OIDC_PATHS
from deploy import policies
from deploy.broker import Broker
from deploy.environments import REGION, REPOSITORY, REST_ACCOUNT, Deployment
from deploy.foundation import Foundation

# component: CPU units, MiB, security group, port
SERVICES = {
    "code": (1024, 2048, "code", 4000),
    "viewer": (512, 1024, "web", 3000),
    "operator": (512, 1024, "web", 3000),
    "door": (256, 1024, "door", 8080),
    "daemon": (1024, 2048, "runs", None),
}
# Celery workers, where the environment has some: a stack of its own (deploy/workers.py). CPU, memory and roles are the
# run worker's.
STEPS = "steps"
# The image's roles. The launcher gives the worker's command; the migration has its own.
COMMANDS = {"code": ["code-server"], "worker": ["code-server"]}
# Tasks that run once and end: they need no health check.
ENDING = ("worker", "migrate", "watchdog")
# A Celery worker listens on no port. If it ends, ECS replaces it; if it hangs, Celery gives its step to another.
UNASKED = (*ENDING, STEPS)
ENVIRONMENT_OF_SECRET = {
    "dagster-database": (("DAGSTER_PG_USERNAME", "username"), ("DAGSTER_PG_PASSWORD", "password")),
    "bigsite": (("CLASSFEED_BIGSITE_URL", "url"),),
    "snowflake": (("CLASSFEED_SNOWFLAKE_USER", "user"), ("CLASSFEED_SNOWFLAKE_PRIVATE_KEY", "private_key")),
    "slack": (("CLASSFEED_SLACK_TOKEN", "token"),),
    policies.BROKER: (("CLASSFEED_CELERY_BROKER_PASSWORD", "password"),),
    "pagerduty": (("CLASSFEED_PAGERDUTY_KEY", "key"),),
}
# Paths on the load balancer. Each has its own client at the identity provider, which decides who gets in, and its own
# cookie: being let in as a viewer opens no other door.
PATHS = {"viewer": "/view", "operator": "/operate", "door": "/rerun"}
# AWS services that have an endpoint inside the network; all other traffic uses the egress proxy.
ENDPOINTS = ("api.ecr", "logs", "secretsmanager", "sqs", "ssm", "ec2", "ecs", "kms", "monitoring", "sts", "s3")
# Components that read classfeed's settings. The webservers and the daemon are Dagster's alone.
CONFIGURED = ("code", "worker", STEPS, "door", "watchdog")


class Application(Stack):
    """The stateless half of an environment."""

    def __init__(
        self, scope: Construct, deployment: Deployment, foundation: Foundation, broker: Broker | None,
        **options: object,
    ) -> None:  # fmt: skip
        super().__init__(scope, deployment.name("application"), **options)
        self.deployment, self.foundation, self.broker = deployment, foundation, broker
        self.digest = CfnParameter(
            self, "ImageDigest", type="String", allowed_pattern="sha256:[0-9a-f]{64}",
            description="Digest of the image of every task; the same in staging and production",
        )  # fmt: skip
        self.migration = CfnParameter(
            self, "MigrationDigest", type="String", allowed_pattern="sha256:[0-9a-f]{64}",
            description="Digest of the migration step's image; a release migrates before it renews the services",
        )  # fmt: skip
        services = CfnParameter(
            self, "Services", type="String", default="on", allowed_values=["on", "off"],
            description="off: no service runs, until a first deployment has migrated and passed preflight",
        )  # fmt: skip
        self.services_on = CfnCondition(
            self, "ServicesOn", expression=Fn.condition_equals(services.value_as_string, "on")
        )
        self.cluster = ecs.CfnCluster(
            self, "Cluster", cluster_name=deployment.name("cluster"),
            cluster_settings=[ecs.CfnCluster.ClusterSettingsProperty(name="containerInsights", value="enabled")],
        )  # fmt: skip
        self.namespace = discovery.CfnPrivateDnsNamespace(
            self, "Names", name=f"{deployment.env}.classfeed.internal", vpc=foundation.vpc.vpc_id
        )
        self.definitions = policies.tasks(deployment)
        self.tasks = {name: self.task(self, name, self.digest) for name in self.definitions}
        self.targets = self._balancer()
        self.services = {name: self._service(name) for name in SERVICES}
        for name in SERVICES:
            self.renew_after_rotation(self, name)
        self._watch()
        route53.CfnRecordSet(
            self, "Host", hosted_zone_id=deployment.network.zone, name=deployment.host, type="A",
            alias_target=route53.CfnRecordSet.AliasTargetProperty(
                dns_name=self.balancer.attr_dns_name, hosted_zone_id=self.balancer.attr_canonical_hosted_zone_id
            ),
        )  # fmt: skip

    # Tasks and services.

    def task(self, scope: Stack, name: str, release: CfnParameter) -> ecs.CfnTaskDefinition:
        """Create a component's task definition, with its log group, in a stack."""
        deployment = self.deployment
        roles = "worker" if name == STEPS else name
        _, secrets = self.definitions[roles]
        cpu, memory, _, port = SERVICES.get(name, (512, 1024, "runs", None))
        if name in ("worker", STEPS):
            cpu, memory = deployment.worker_cpu, deployment.worker_memory
        group = logs.CfnLogGroup(
            scope, f"Log{name.title()}", log_group_name=f"/classfeed/{deployment.env}/{name}", retention_in_days=400,
            kms_key_id=self.foundation.key.key_arn,
        )  # fmt: skip
        part = ecs.CfnTaskDefinition
        digest = self.migration if name == "migrate" else release
        container = part.ContainerDefinitionProperty(
            name="run" if name == "worker" else name,
            image=f"{REST_ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{REPOSITORY}@{digest.value_as_string}",
            command=COMMANDS.get(name, [name]),
            essential=True, readonly_root_filesystem=True, user="10001:10001", privileged=False, stop_timeout=110,
            linux_parameters=part.LinuxParametersProperty(
                init_process_enabled=True, capabilities=part.KernelCapabilitiesProperty(drop=["ALL"])
            ),
            mount_points=[part.MountPointProperty(container_path="/tmp", source_volume="scratch", read_only=False)],  # noqa: S108
            environment=[
                part.KeyValuePairProperty(name=k, value=v) for k, v in sorted(self._environment(name).items())
            ],
            secrets=[
                part.SecretProperty(name=variable, value_from=f"{self._secret_arn(secret)}:{field}::")
                for secret in secrets
                for variable, field in ENVIRONMENT_OF_SECRET[secret]
            ],
            health_check=None if name in UNASKED else part.HealthCheckProperty(
                command=["CMD", "health"], interval=30, timeout=10, retries=3, start_period=90
            ),
            port_mappings=[part.PortMappingProperty(container_port=port)] if port else None,
            log_configuration=part.LogConfigurationProperty(
                log_driver="awslogs",
                options={"awslogs-group": group.ref, "awslogs-region": deployment.region,
                         "awslogs-stream-prefix": name, "mode": "non-blocking"},
            ),
        )  # fmt: skip
        return ecs.CfnTaskDefinition(
            scope, f"Task{name.title()}", family=deployment.name(name), cpu=str(cpu), memory=str(memory),
            network_mode="awsvpc", requires_compatibilities=["FARGATE"], task_role_arn=deployment.role(roles),
            execution_role_arn=deployment.role(f"{roles}-start"), container_definitions=[container],
            # 40 GiB: a run keeps a snapshot's files here while it works.
            ephemeral_storage=part.EphemeralStorageProperty(size_in_gib=40) if name in ("worker", STEPS) else None,
            volumes=[part.VolumeProperty(name="scratch")],
            runtime_platform=part.RuntimePlatformProperty(cpu_architecture="X86_64", operating_system_family="LINUX"),
        )  # fmt: skip

    def _secret_arn(self, name: str) -> str:
        if name == "dagster-database":
            return self.foundation.database_secret.ref
        if name == policies.BROKER and self.broker is not None:
            return self.broker.secret.ref
        return self.foundation.secrets[name].ref

    def _environment(self, name: str) -> dict[str, str]:
        deployment = self.deployment
        environment = {
            "AWS_REGION": deployment.region,  # for dagster.yaml
            "AWS_DEFAULT_REGION": deployment.region,  # for boto3, which does not read AWS_REGION
            "CLASSFEED_ENV": deployment.env,
            "CLASSFEED_STORE_URL": f"s3://{deployment.data_bucket}",
            "CLASSFEED_COMPUTE_LOGS_BUCKET": deployment.logs_bucket,
            "CLASSFEED_CODE_SERVER_HOST": f"code.{deployment.env}.classfeed.internal",
            "CLASSFEED_WORKER_TASK_DEFINITION": deployment.name("worker"),
            "DAGSTER_PG_HOST": self.foundation.database.attr_endpoint_address,
            "DAGSTER_PG_DB": "dagster",
            "HTTPS_PROXY": deployment.network.egress_url,
            "NO_PROXY": ",".join(
                [
                    *(f"{endpoint}.{deployment.region}.amazonaws.com" for endpoint in ENDPOINTS),
                    ".classfeed.internal",
                    f".s3.{deployment.region}.amazonaws.com",
                    "169.254.170.2",
                    "127.0.0.1",
                ]
            ),
        }
        if name in CONFIGURED:
            environment |= {f"CLASSFEED_{key}": value for key, value in deployment.settings.items()}
            environment |= {
                "CLASSFEED_COMPONENT": name,
                "CLASSFEED_FLAG_PROVIDER": "ssm",
                "CLASSFEED_FLAGS_PARAMETER": deployment.flags_parameter,
            }
            if deployment.network.collector_url:
                environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = deployment.network.collector_url
        if self.broker is not None and name in ("code", "worker", STEPS):
            environment["CLASSFEED_EXECUTOR"] = "celery"
        if self.broker is not None and name in ("worker", STEPS):
            environment["CLASSFEED_CELERY_BROKER_URL"] = self.broker.url
        if name == "migrate":
            environment["CLASSFEED_COMPONENT"] = name
        if name == "code":
            queue = f"https://sqs.{deployment.region}.amazonaws.com/{deployment.account}/{deployment.name('consent-events')}"
            environment |= {
                "CLASSFEED_CONSENT_QUEUE_URL": queue,
                "CLASSFEED_CONSENT_DEAD_LETTER_URL": f"{queue}-dead",
            }
        if name == "migrate":
            environment |= {
                "CLASSFEED_SMOKE_VIEW": f"http://viewer.{deployment.env}.classfeed.internal:3000/view",
                "CLASSFEED_SMOKE_DOOR": f"http://door.{deployment.env}.classfeed.internal:8080",
            }
        if name == "door":
            environment |= {
                "CLASSFEED_OPERATE_URL": f"http://operator.{deployment.env}.classfeed.internal:3000/operate",
                "CLASSFEED_DOOR_SIGNER": self.balancer_arn,
                "CLASSFEED_IDENTITY_URL": deployment.network.identity_url,
            }
        return environment

    @property
    def balancer_arn(self) -> str:
        """Return the ARN prefix of the load balancer whose signature the support page requires."""
        return (
            f"arn:aws:elasticloadbalancing:{self.deployment.region}:{self.deployment.account}:loadbalancer/app/"
            f"{self.deployment.name('web')}/"
        )

    def _service(self, name: str) -> ecs.CfnService:
        _, _, group, port = SERVICES[name]
        part = ecs.CfnService
        registry = discovery.CfnService(
            self, f"Name{name.title()}", name=name, namespace_id=self.namespace.ref,
            dns_config=discovery.CfnService.DnsConfigProperty(
                dns_records=[discovery.CfnService.DnsRecordProperty(ttl=10, type="A")], routing_policy="MULTIVALUE"
            ),
        )  # fmt: skip
        service = ecs.CfnService(
            self, f"Service{name.title()}", service_name=name, cluster=self.cluster.ref, launch_type="FARGATE",
            task_definition=self.tasks[name].ref, platform_version="1.4.0", enable_execute_command=False,
            # Dagster wants one daemon and one code server; two of a webserver survive the loss of a zone.
            desired_count=Token.as_number(Fn.condition_if("ServicesOn", 2 if name in PATHS else 1, 0)),
            deployment_configuration=part.DeploymentConfigurationProperty(
                deployment_circuit_breaker=part.DeploymentCircuitBreakerProperty(enable=True, rollback=True),
                # Never two daemons at once.
                minimum_healthy_percent=0 if name == "daemon" else 100,
                maximum_percent=100 if name == "daemon" else 200,
            ),
            network_configuration=self.network(group),
            service_registries=[part.ServiceRegistryProperty(registry_arn=registry.attr_arn)],
            load_balancers=[
                part.LoadBalancerProperty(
                    container_name=name, container_port=port, target_group_arn=self.targets[name].ref
                )
            ] if name in PATHS else None,
            propagate_tags="SERVICE",
        )  # fmt: skip
        if name in PATHS:
            service.add_resource_dependency(self.listener)
        return service

    def network(self, group: str) -> ecs.CfnService.NetworkConfigurationProperty:
        """Return the network of a service in a security group."""
        part = ecs.CfnService
        return part.NetworkConfigurationProperty(
            awsvpc_configuration=part.AwsVpcConfigurationProperty(
                assign_public_ip="DISABLED", security_groups=[self.foundation.groups[group].security_group_id],
                subnets=[subnet.subnet_id for subnet in self.foundation.vpc.isolated_subnets],
            )
        )  # fmt: skip

    def _balancer(self) -> dict[str, elb.CfnTargetGroup]:
        deployment, part = self.deployment, elb.CfnListener
        self.balancer = elb.CfnLoadBalancer(
            self, "Balancer", name=deployment.name("web"), scheme="internal", type="application",
            subnets=[subnet.subnet_id for subnet in self.foundation.vpc.isolated_subnets],
            security_groups=[self.foundation.groups["balancer"].security_group_id],
            load_balancer_attributes=[
                elb.CfnLoadBalancer.LoadBalancerAttributeProperty(key=key, value=value)
                for key, value in {
                    "deletion_protection.enabled": "true", "routing.http.drop_invalid_header_fields.enabled": "true",
                    "access_logs.s3.enabled": "true", "access_logs.s3.bucket": deployment.logs_bucket,
                    "access_logs.s3.prefix": "access", "routing.http.desync_mitigation_mode": "strictest",
                }.items()
            ],
        )  # fmt: skip
        certificate = CfnParameter(self, "CertificateArn", type="String", description="ACM certificate of the host")
        self.listener = elb.CfnListener(
            self, "Https", load_balancer_arn=self.balancer.ref, port=443, protocol="HTTPS",
            ssl_policy="ELBSecurityPolicy-TLS13-1-2-2021-06",
            certificates=[part.CertificateProperty(certificate_arn=certificate.value_as_string)],
            default_actions=[part.ActionProperty(
                type="fixed-response",
                fixed_response_config=part.FixedResponseConfigProperty(status_code="404", content_type="text/plain"),
            )],
        )  # fmt: skip
        rule, oidc = elb.CfnListenerRule, deployment.network.identity_url
        targets: dict[str, elb.CfnTargetGroup] = {}
        for number, (name, path) in enumerate(PATHS.items(), start=1):
            targets[name] = elb.CfnTargetGroup(
                self, f"Target{name.title()}", name=deployment.name(name), port=SERVICES[name][3], protocol="HTTP",
                target_type="ip", vpc_id=self.foundation.vpc.vpc_id,
                health_check_path="/health" if name == "door" else f"{path}/server_info",
                health_check_protocol="HTTP", matcher=elb.CfnTargetGroup.MatcherProperty(http_code="200"),
                target_group_attributes=[elb.CfnTargetGroup.TargetGroupAttributeProperty(
                    key="deregistration_delay.timeout_seconds", value="30")],
            )  # fmt: skip
            secret = self.foundation.secrets[f"oidc-{name}"].ref
            field = f"{{{{resolve:secretsmanager:{secret}:SecretString:"
            elb.CfnListenerRule(
                self, f"Rule{name.title()}", listener_arn=self.listener.ref, priority=number * 10,
                conditions=[
                    rule.RuleConditionProperty(field="host-header", host_header_config=rule.HostHeaderConfigProperty(
                        values=[deployment.host])),
                    rule.RuleConditionProperty(field="path-pattern", path_pattern_config=rule.PathPatternConfigProperty(
                        values=[path, f"{path}/*"])),
                ],
                actions=[
                    rule.ActionProperty(
                        type="authenticate-oidc", order=1,
                        authenticate_oidc_config=rule.AuthenticateOidcConfigProperty(
                            issuer=oidc, authorization_endpoint=oidc + OIDC_PATHS["authorization_endpoint"],
                            token_endpoint=oidc + OIDC_PATHS["token_endpoint"],
                            user_info_endpoint=oidc + OIDC_PATHS["userinfo_endpoint"],
                            client_id=f"{field}client_id}}}}", client_secret=f"{field}client_secret}}}}",
                            scope="openid profile groups", session_cookie_name=f"classfeed-{name}",
                            session_timeout=28800,
                            on_unauthenticated_request="authenticate",
                        ),
                    ),
                    rule.ActionProperty(type="forward", order=2, target_group_arn=targets[name].ref),
                ],
            )  # fmt: skip
        return targets

    def renew_after_rotation(self, scope: Stack, name: str) -> None:
        """Let a service start anew after the database's password was rotated: tasks read it when they start."""
        scheduler.CfnSchedule(
            scope, f"Renew{name.title()}", name=self.deployment.name(f"renew-{name}"),
            kms_key_arn=self.foundation.key.key_arn,
            schedule_expression="cron(30 12 ? * SUN#1 *)",  # the rotation's window ends at 12:00 UTC
            flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
            target=scheduler.CfnSchedule.TargetProperty(
                arn="arn:aws:scheduler:::aws-sdk:ecs:updateService", role_arn=self.deployment.role("renew"),
                input=f'{{"Cluster": "{self.deployment.name("cluster")}", "Service": "{name}", '
                '"ForceNewDeployment": true}',
                retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                    maximum_event_age_in_seconds=int(Duration.hours(1).to_seconds()), maximum_retry_attempts=5
                ),
            ),
        )  # fmt: skip

    def _watch(self) -> None:
        """Start the watchdog every five minutes: outside Dagster, so that a dead daemon cannot silence it."""
        part = scheduler.CfnSchedule
        part(
            self, "Watch", name=self.deployment.name("watchdog"), kms_key_arn=self.foundation.key.key_arn,
            schedule_expression="rate(5 minutes)",
            # Before the services are on, there is no heartbeat to look for.
            state=Fn.condition_if("ServicesOn", "ENABLED", "DISABLED").to_string(),
            flexible_time_window=part.FlexibleTimeWindowProperty(mode="OFF"),
            target=part.TargetProperty(
                arn=self.deployment.cluster_arn, role_arn=self.deployment.role("schedule"),
                ecs_parameters=part.EcsParametersProperty(
                    task_definition_arn=self.tasks["watchdog"].ref, launch_type="FARGATE", platform_version="1.4.0",
                    network_configuration=part.NetworkConfigurationProperty(
                        awsvpc_configuration=part.AwsVpcConfigurationProperty(
                            assign_public_ip="DISABLED",
                            security_groups=[self.foundation.groups["runs"].security_group_id],
                            subnets=[subnet.subnet_id for subnet in self.foundation.vpc.isolated_subnets],
                        )
                    ),
                ),
                retry_policy=part.RetryPolicyProperty(maximum_event_age_in_seconds=300, maximum_retry_attempts=2),
            ),
        )  # fmt: skip
