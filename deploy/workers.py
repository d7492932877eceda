"""Celery workers of an environment: a service that executes the steps of other tasks' runs."""

from __future__ import annotations

from aws_cdk import CfnCondition, CfnParameter, Fn, Stack, Token
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from deploy.application import STEPS, Application


class Workers(Stack):
    """Service of the workers. A release renews it after the application, with the same image."""

    def __init__(self, scope: Construct, application: Application, **options: object) -> None:
        deployment = application.deployment
        super().__init__(scope, deployment.name("workers"), **options)
        digest = CfnParameter(
            self, "ImageDigest", type="String", allowed_pattern="sha256:[0-9a-f]{64}",
            description="the application's image, by digest",
        )  # fmt: skip
        services = CfnParameter(self, "Services", type="String", default="on", allowed_values=["on", "off"])
        CfnCondition(self, "ServicesOn", expression=Fn.condition_equals(services.value_as_string, "on"))
        part = ecs.CfnService
        ecs.CfnService(
            self, "ServiceSteps", service_name=STEPS, cluster=application.cluster.ref, launch_type="FARGATE",
            task_definition=application.task(self, STEPS, digest).ref, platform_version="1.4.0",
            enable_execute_command=False, network_configuration=application.network("runs"), propagate_tags="SERVICE",
            desired_count=Token.as_number(Fn.condition_if("ServicesOn", deployment.workers, 0)),
            deployment_configuration=part.DeploymentConfigurationProperty(
                deployment_circuit_breaker=part.DeploymentCircuitBreakerProperty(enable=True, rollback=True),
                minimum_healthy_percent=0, maximum_percent=100,  # two versions never take steps of one run
            ),
        )  # fmt: skip
        application.renew_after_rotation(self, STEPS)
