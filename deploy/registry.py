"""The image registry, in one account for all environments, and the role that may push into it."""

from __future__ import annotations

import json

from aws_cdk import Stack
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from deploy import policies
from deploy.environments import DEPLOYMENTS, REPOSITORY

_HOST = "token.actions.githubusercontent.com"


class Registry(Stack):
    """One repository: an image is pushed once, and what runs anywhere is that digest."""

    def __init__(self, scope: Construct, **options: object) -> None:
        super().__init__(scope, "classfeed-registry", termination_protection=True, **options)
        key = kms.Key(self, "Key", description="classfeed: images", enable_key_rotation=True)
        accounts = sorted({deployment.account for deployment in DEPLOYMENTS})
        ecr.CfnRepository(
            self, "Images", repository_name=REPOSITORY, image_tag_mutability="IMMUTABLE",
            image_scanning_configuration=ecr.CfnRepository.ImageScanningConfigurationProperty(scan_on_push=True),
            encryption_configuration=ecr.CfnRepository.EncryptionConfigurationProperty(
                encryption_type="KMS", kms_key=key.key_arn
            ),
            lifecycle_policy=ecr.CfnRepository.LifecyclePolicyProperty(
                # Enough to roll back over half a year of releases. A build pushes several images, and one has a tag.
                # ECR keeps the others as long as the tagged one refers to them.
                lifecycle_policy_text=json.dumps({"rules": [
                    {"rulePriority": 1, "description": "keep the last 200 builds", "action": {"type": "expire"},
                     "selection": {"tagStatus": "tagged", "tagPatternList": ["*"],
                                   "countType": "imageCountMoreThan", "countNumber": 200}},
                    {"rulePriority": 2, "description": "parts of no build", "action": {"type": "expire"},
                     "selection": {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days",
                                   "countNumber": 400}},
                ]}),
            ),
            repository_policy_text={
                "Version": "2012-10-17",
                "Statement": [{
                    "Sid": "EnvironmentsPull", "Effect": "Allow",
                    "Principal": {"AWS": [f"arn:aws:iam::{account}:root" for account in accounts]},
                    "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability",
                               "ecr:DescribeImages"],
                }],
            },
        )  # fmt: skip
        iam.CfnOIDCProvider(self, "GitHub", url=f"https://{_HOST}", client_id_list=["sts.amazonaws.com"])
        iam.CfnRole(
            self, "Builder", role_name="classfeed-builder", max_session_duration=3600,
            assume_role_policy_document={"Version": "2012-10-17", "Statement": [policies.github()]},
            policies=[iam.CfnRole.PolicyProperty(
                policy_name="may", policy_document={"Version": "2012-10-17", "Statement": policies.builder()})],
        )  # fmt: skip
