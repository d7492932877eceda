"""Permissions of an environment: its roles and their boundary. A separate stack with its own review.

It needs nothing of the other stacks: buckets, clusters and roles go by the names that ``environments.py`` gives them,
and the key by its alias. So it comes first, and an administrator can make it before the pipeline has a role to use.
"""

from __future__ import annotations

from collections.abc import Iterable

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from deploy import policies
from deploy.environments import Deployment


class Access(Stack):
    """The roles of an environment."""

    def __init__(self, scope: Construct, deployment: Deployment, **options: object) -> None:
        super().__init__(scope, deployment.name("access"), termination_protection=True, **options)
        self.deployment = deployment
        self.boundary = self._boundary()
        self._tasks()
        self._people()
        self._renew()

    def _boundary(self) -> iam.CfnManagedPolicy:
        """Return the boundary of all roles of this environment, which limits any attached policy."""
        deployment = self.deployment
        return iam.CfnManagedPolicy(
            self, "Boundary", managed_policy_name=deployment.name("boundary"),
            policy_document={
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Sid": "Ours", "Effect": "Allow", "Resource": "*",
                        "Action": ["s3:*", "kms:*", "sqs:*", "ecs:*", "ec2:Describe*", "logs:*", "cloudwatch:*",
                                   "ecr:*", "secretsmanager:GetSecretValue", "ssm:*", "cloudformation:*",
                                   "iam:PassRole"],
                    },
                    {
                        "Sid": "OtherEnvironmentsStayClosed", "Effect": "Deny", "Action": ["s3:*"],
                        "NotResource": [f"arn:aws:s3:::classfeed-{deployment.env}-*",
                                        # ECR keeps image layers in AWS's own buckets
                                        f"arn:aws:s3:::prod-{deployment.region}-starport-layer-bucket/*"],
                    },
                    {
                        "Sid": "KeysStayWithTheFoundation", "Effect": "Deny", "Resource": "*",
                        "Action": ["kms:ScheduleKeyDeletion", "kms:PutKeyPolicy", "kms:DisableKey", "s3:DeleteBucket",
                                   "s3:PutBucketPolicy", "s3:PutLifecycleConfiguration", "s3:PutBucketVersioning"],
                    },
                ],
            },
        )  # fmt: skip

    def _role(self, name: str, trust: dict[str, object], statements: Iterable[policies.Statement]) -> None:
        iam.CfnRole(
            self, f"Role{name.title().replace('-', '')}", role_name=self.deployment.name(name),
            permissions_boundary=self.boundary.ref, max_session_duration=3600,
            assume_role_policy_document={"Version": "2012-10-17", "Statement": [trust]},
            policies=[
                iam.CfnRole.PolicyProperty(
                    policy_name="may", policy_document={"Version": "2012-10-17", "Statement": list(statements)}
                )
            ],
        )  # fmt: skip

    def _trust(self, service: str) -> dict[str, object]:
        return {
            "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": f"{service}.amazonaws.com"},
            "Condition": {"StringEquals": {"aws:SourceAccount": self.deployment.account}},
        }  # fmt: skip

    def _tasks(self) -> None:
        for name, (statements, secrets) in policies.tasks(self.deployment).items():
            self._role(name, self._trust("ecs-tasks"), statements(self.deployment))
            self._role(f"{name}-start", self._trust("ecs-tasks"), policies.start(self.deployment, secrets))

    def _people(self) -> None:
        deployment = self.deployment
        sso: dict[str, object] = {
            "Effect": "Allow", "Action": "sts:AssumeRole",
            "Principal": {"AWS": f"arn:aws:iam::{deployment.account}:root"},
        }  # fmt: skip
        for name, statements in policies.PEOPLE.items():
            if name in ("deployer", "notes"):
                environment = f"{deployment.env}-notes" if name == "notes" else ""
                trust: dict[str, object] = policies.github(deployment, environment)
            elif name == "legacy":
                # The old apps run in the same account, under roles whose names begin so.
                trust = sso | {"Condition": {"ArnLike": {"aws:PrincipalArn": (
                    f"arn:aws:iam::{deployment.account}:role/{policies.OLD_APPS}")}}}  # fmt: skip
            else:
                # Only sessions of the identity centre's group of this name.
                trust = sso | {"Condition": {"ArnLike": {"aws:PrincipalArn": (
                    f"arn:aws:iam::{deployment.account}:role/aws-reserved/sso.amazonaws.com/*/"
                    f"AWSReservedSSO_classfeed-{deployment.env}-{name}_*")}}}  # fmt: skip
            self._role(name, trust, statements(deployment))

    def _renew(self) -> None:
        self._role("renew", self._trust("scheduler"), policies.renew(self.deployment))
        self._role("schedule", self._trust("scheduler"), policies.schedule(self.deployment))
