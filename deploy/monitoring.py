"""Alarms for the service levels, the dead man's switch, and the budget. Alarms link to the runbook."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import Stack
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_sns as sns
from constructs import Construct

from classfeed_dagster.service_levels.metrics import NAMESPACE
from deploy.application import Application
from deploy.environments import Deployment
from deploy.foundation import Foundation
from deploy.objectives import OBJECTIVES

RUNBOOK = "docs/runbook.md"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm on one of classfeed's own metrics, or on AWS's."""

    name: str
    metric: str
    question: str
    threshold: float
    runbook: str
    dimensions: tuple[tuple[str, str], ...]
    statistic: str = "Maximum"
    period: int = 300
    periods: int = 1
    comparison: str = "GreaterThanThreshold"
    missing: str = "notBreaching"
    namespace: str = NAMESPACE


def of_objectives(deployment: Deployment) -> tuple[Alarm, ...]:
    """Return an alarm for each service level of each feed with alarms."""
    return tuple(
        Alarm(
            f"{objective.name}-{feed.replace('_', '-')}", objective.metric, objective.question, objective.above,
            objective.name, (("env", deployment.env), ("feed", feed)), "Maximum", objective.seconds, objective.periods,
            missing=objective.silence,
        )
        for objective in OBJECTIVES
        for feed in deployment.watched_feeds
    )  # fmt: skip


def of_parts(deployment: Deployment, balancer: str) -> tuple[Alarm, ...]:
    """Return the alarms on the infrastructure. ``balancer``: the load balancer's full name, ``app/NAME/ID``."""
    return (
        Alarm("consent-events-dead", "ApproximateNumberOfMessagesVisible", "Are there unreadable consent events?",
              0, "consent-events-dead", (("QueueName", deployment.name("consent-events-dead")),), namespace="AWS/SQS"),
        Alarm("database-full", "FreeStorageSpace", "Is Dagster's database running out of disk?", 5 * 1024**3,
              "database-full", (("DBInstanceIdentifier", deployment.name("dagster")),), "Minimum", 900, 2,
              "LessThanThreshold", namespace="AWS/RDS"),
        Alarm("daemon-gone", "RunningTaskCount", "Is the daemon running?", 1, "daemon-gone",
              (("ClusterName", deployment.name("cluster")), ("ServiceName", "daemon")), "Minimum", 300, 2,
              "LessThanThreshold", "breaching", "ECS/ContainerInsights"),
        Alarm("web-errors", "HTTPCode_Target_5XX_Count", "Does the UI answer with errors?", 20, "web-errors",
              (("LoadBalancer", balancer),), "Sum", namespace="AWS/ApplicationELB"),
    )  # fmt: skip


class Monitoring(Stack):
    """Alarms and the budget of an environment."""

    def __init__(self, scope: Construct, deployment: Deployment, foundation: Foundation, application: Application,
                 **options: object) -> None:  # fmt: skip
        super().__init__(scope, deployment.name("monitoring"), **options)
        topic = sns.CfnTopic(
            self, "People", topic_name=deployment.name("alarms"), kms_master_key_id=foundation.key.key_arn
        )
        sns.CfnSubscription(self, "OnCall", topic_arn=topic.ref, protocol="email", endpoint=deployment.alarms_to)
        sns.CfnTopicPolicy(
            self, "PeopleMay", topics=[topic.ref],
            policy_document={"Version": "2012-10-17", "Statement": [
                {"Sid": "AlarmsSpeak", "Effect": "Allow", "Action": "sns:Publish", "Resource": topic.ref,
                 "Principal": {"Service": ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]},
                 "Condition": {"StringEquals": {"aws:SourceAccount": deployment.account}}},
                {"Sid": "TlsOnly", "Effect": "Deny", "Action": "sns:Publish", "Resource": topic.ref, "Principal": "*",
                 "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
            ]},
        )  # fmt: skip
        full_name = application.balancer.attr_load_balancer_full_name
        for alarm in (*of_objectives(deployment), *of_parts(deployment, full_name)):
            cloudwatch.CfnAlarm(
                self, "".join(part.title() for part in alarm.name.split("-")),
                alarm_name=deployment.name(alarm.name), namespace=alarm.namespace, metric_name=alarm.metric,
                alarm_description=f"{alarm.question} {RUNBOOK}#{alarm.runbook}",
                dimensions=[cloudwatch.CfnAlarm.DimensionProperty(name=k, value=v) for k, v in alarm.dimensions],
                statistic=alarm.statistic, period=alarm.period, evaluation_periods=alarm.periods,
                threshold=alarm.threshold, comparison_operator=alarm.comparison, treat_missing_data=alarm.missing,
                alarm_actions=[topic.ref], ok_actions=[topic.ref],
            )  # fmt: skip
        budgets.CfnBudget(
            self, "Budget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=deployment.name("monthly"), budget_type="COST", time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=deployment.monthly_budget, unit="USD"),
                cost_filters={"TagKeyValue": [f"user:environment${deployment.env}"]},
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        comparison_operator="GREATER_THAN", notification_type=kind, threshold=share,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=[budgets.CfnBudget.SubscriberProperty(address=topic.ref, subscription_type="SNS")],
                )
                for kind, share in (("ACTUAL", 80), ("FORECASTED", 100))
            ],
        )  # fmt: skip
