"""Celery broker of an environment with workers: Redis over TLS with a generated password."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticache as cache
from aws_cdk import aws_secretsmanager as secrets
from constructs import Construct

from deploy.environments import Deployment
from deploy.foundation import Foundation
from deploy.policies import BROKER

_PORT = 6379


class Broker(Stack):
    """Queue between runs and Celery workers. It contains step names and run ids, no customer's data.

    Attributes:
        secret: its password.
        url: its URL without the password.
    """

    def __init__(self, scope: Construct, deployment: Deployment, foundation: Foundation, **options: object) -> None:
        super().__init__(scope, deployment.name("broker"), **options)
        self.secret = secrets.CfnSecret(
            self, "Secret", name=f"classfeed/{deployment.env}/{BROKER}", kms_key_id=foundation.key.key_arn,
            description=f"classfeed {deployment.env}: Celery broker",
            generate_secret_string=secrets.CfnSecret.GenerateSecretStringProperty(
                secret_string_template="{}", generate_string_key="password", password_length=40,  # noqa: S106
                exclude_punctuation=True,
            ),
        )  # fmt: skip
        group = self._group(deployment, foundation)
        subnets = cache.CfnSubnetGroup(
            self, "Subnets", description="Celery broker", cache_subnet_group_name=deployment.name("broker"),
            subnet_ids=[subnet.subnet_id for subnet in foundation.vpc.isolated_subnets],
        )  # fmt: skip
        parameters = cache.CfnParameterGroup(
            self, "Parameters", cache_parameter_group_family="redis7",
            description="No step is dropped when memory runs out", properties={"maxmemory-policy": "noeviction"},
        )  # fmt: skip
        redis = cache.CfnReplicationGroup(
            self, "Redis", replication_group_id=deployment.name("broker"), engine="redis", engine_version="7.1",
            replication_group_description="Celery broker", cache_node_type="cache.t4g.small", port=_PORT,
            # A second node keeps the queue if the first is lost.
            num_cache_clusters=2, automatic_failover_enabled=True, multi_az_enabled=True,
            transit_encryption_enabled=True, transit_encryption_mode="required", at_rest_encryption_enabled=True,
            kms_key_id=foundation.key.key_arn, snapshot_retention_limit=1, auto_minor_version_upgrade=True,
            auth_token=f"{{{{resolve:secretsmanager:{self.secret.ref}:SecretString:password}}}}",
            cache_subnet_group_name=subnets.ref, cache_parameter_group_name=parameters.ref,
            security_group_ids=[group.attr_group_id],
        )  # fmt: skip
        self.url = f"rediss://{redis.attr_primary_end_point_address}:{_PORT}/0?ssl_cert_reqs=CERT_REQUIRED"

    def _group(self, deployment: Deployment, foundation: Foundation) -> ec2.CfnSecurityGroup:
        runs = foundation.groups["runs"].security_group_id
        group = ec2.CfnSecurityGroup(
            self, "Group", group_description="Celery broker", group_name=deployment.name("broker"),
            vpc_id=foundation.vpc.vpc_id,
            security_group_ingress=[ec2.CfnSecurityGroup.IngressProperty(
                ip_protocol="tcp", from_port=_PORT, to_port=_PORT, source_security_group_id=runs,
                description="runs and workers")],
            # Without a rule of its own, a group may reach everything.
            security_group_egress=[ec2.CfnSecurityGroup.EgressProperty(
                ip_protocol="icmp", from_port=252, to_port=86, cidr_ip="255.255.255.255/32", description="nothing")],
        )  # fmt: skip
        ec2.CfnSecurityGroupEgress(
            self, "RunsToBroker", group_id=runs, destination_security_group_id=group.attr_group_id,
            ip_protocol="tcp", from_port=_PORT, to_port=_PORT, description="runs to broker",
        )  # fmt: skip
        return group
