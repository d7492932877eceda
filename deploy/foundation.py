"""Resources that outlive releases: network, key, buckets, queue, secrets, Dagster's database. Retained on deletion."""

from __future__ import annotations

from aws_cdk import CfnTag, Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_route53resolver as resolver
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secrets
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from classfeed_dagster.retention import retention_days
from deploy.environments import ZONES, Deployment
from deploy.policies import LASTING, ROTATION_TRANSFORM, SECRETS

# The longest a sensor may take over a message; the queue hides it six times as long before another may try.
MESSAGE_SECONDS = 60
MAX_RECEIVES = 5
ARCHIVED = (*LASTING, "closed-incidents")


class Foundation(Stack):
    """The stateful half of an environment."""

    def __init__(self, scope: Construct, deployment: Deployment, **options: object) -> None:
        super().__init__(scope, deployment.name("foundation"), termination_protection=True, **options)
        self.deployment = deployment
        self.key = self._key()
        self.vpc = self._network()
        self.groups = self._groups()
        self.logs_bucket = self._logs_bucket()
        self.data_bucket = self._data_bucket()
        self.queue = self._queue()
        self.secrets = {name: self._secret(name) for name in SECRETS if name != "dagster-database"}
        self.database = self._database()
        # Its value is the operators': a change of the stack leaves it alone.
        ssm.CfnParameter(
            self, "Flags", name=deployment.flags_parameter, type="String", value="{}",
            description="Switches of the feeds; see docs/cutover.md",
        )  # fmt: skip

    def _key(self) -> kms.Key:
        key = kms.Key(
            self, "Key", description=f"classfeed {self.deployment.env}: stored data", enable_key_rotation=True,
            removal_policy=RemovalPolicy.RETAIN, pending_window=Duration.days(30),
        )  # fmt: skip
        kms.CfnAlias(self, "KeyAlias", alias_name=self.deployment.key_alias, target_key_id=key.key_id)
        key.grant_encrypt_decrypt(iam.ServicePrincipal(f"logs.{self.region}.amazonaws.com"))
        for service in ("cloudwatch", "budgets"):  # they publish to the alarms' topic
            key.grant_encrypt_decrypt(iam.ServicePrincipal(f"{service}.amazonaws.com"))
        return key

    def _network(self) -> ec2.Vpc:
        vpc = ec2.Vpc(
            self, "Network", vpc_name=self.deployment.name("network"), availability_zones=list(ZONES),
            ip_addresses=ec2.IpAddresses.cidr(self.deployment.cidr),
            # Nothing has a public address: no internet gateway, no NAT. The load balancer is reached over the VPN, and
            # Slack and Snowflake through endpoints and the broker's egress proxy.
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(name="private", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=22),
            ],
        )  # fmt: skip
        group = logs.LogGroup(
            self, "FlowLog", log_group_name=f"/classfeed/{self.deployment.env}/network", encryption_key=self.key,
            retention=logs.RetentionDays.ONE_YEAR, removal_policy=RemovalPolicy.RETAIN,
        )  # fmt: skip
        vpc.add_flow_log("Flow", destination=ec2.FlowLogDestination.to_cloud_watch_logs(group))
        vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        self._connect(vpc)
        return vpc

    def _connect(self, vpc: ec2.Vpc) -> None:
        """Connect the VPC with the broker's network: routes, and the names that are resolved there."""
        network = self.deployment.network
        attachment = ec2.CfnTransitGatewayVpcAttachment(
            self, "Attachment", transit_gateway_id=network.transit_gateway, vpc_id=vpc.vpc_id,
            subnet_ids=[subnet.subnet_id for subnet in vpc.isolated_subnets],
        )  # fmt: skip
        for number, subnet in enumerate(vpc.isolated_subnets, start=1):
            route = ec2.CfnRoute(
                self, f"Broker{number}", route_table_id=subnet.route_table.route_table_id,
                destination_cidr_block=network.broker_cidr, transit_gateway_id=network.transit_gateway,
            )  # fmt: skip
            route.add_resource_dependency(attachment)
        resolver.CfnResolverRuleAssociation(
            self, "BrokerNames", resolver_rule_id=network.resolver_rule, vpc_id=vpc.vpc_id
        )

    def _groups(self) -> dict[str, ec2.SecurityGroup]:
        """Create a security group for each kind of resource, with only the connections that it needs."""
        groups = {
            name: ec2.SecurityGroup(
                self, f"{name.title()}Group", vpc=self.vpc, allow_all_outbound=False, description=description,
                security_group_name=self.deployment.name(name),
            )
            for name, description in {
                "balancer": "load balancer",
                "web": "webservers",
                "door": "support door",
                "code": "code server",
                "runs": "daemon and run workers",
                "database": "Dagster database",
                "endpoints": "AWS APIs inside the network",
            }.items()
        }  # fmt: skip
        allowed = [
            ("balancer", "web", 3000), ("balancer", "door", 8080), ("door", "web", 3000), ("web", "web", 3000),
            ("web", "door", 8080),  # the smoke test
            ("web", "code", 4000),
            ("runs", "code", 4000), ("web", "database", 5432), ("code", "database", 5432), ("runs", "database", 5432),
            *((one, "endpoints", 443) for one in ("web", "door", "code", "runs")),
        ]  # fmt: skip
        for source, target, port in allowed:
            groups[source].connections.allow_to(groups[target], ec2.Port.tcp(port), f"{source} to {target}")
        network = self.deployment.network
        broker, identity = ec2.Peer.ipv4(network.broker_cidr), ec2.Peer.ipv4(network.identity_cidr)
        proxy = ec2.Port.tcp(network.egress_port)
        storage = ec2.Peer.prefix_list("pl-6ca54005")
        groups["balancer"].add_ingress_rule(broker, ec2.Port.tcp(443), "the broker's own network")
        # A load balancer exchanges codes for tokens itself, and uses no proxy.
        # The support door asks the provider the same way in its preflight.
        for name in ("balancer", "door"):
            groups[name].add_egress_rule(identity, ec2.Port.tcp(443), "identity provider")
        for name in ("code", "runs", "web", "door"):
            # Snowflake, Slack, PagerDuty; the load balancer's public keys, which the support door asks for.
            groups[name].add_egress_rule(broker, proxy, "egress proxy")
            groups[name].add_egress_rule(storage, ec2.Port.tcp(443), "S3 through its gateway endpoint")
        for name in ("code", "runs", "door"):
            groups[name].add_egress_rule(broker, ec2.Port.tcp(5432), "bigsite")
        for service in (
            "ecr.api",
            "ecr.dkr",
            "logs",
            "secretsmanager",
            "sqs",
            "ssm",
            "ec2",
            "ecs",
            "kms",
            "monitoring",
            "sts",
        ):
            ec2.InterfaceVpcEndpoint(
                self, f"Endpoint{service.replace('.', '').title()}", vpc=self.vpc, private_dns_enabled=True, open=False,
                service=ec2.InterfaceVpcEndpointService(f"com.amazonaws.{self.region}.{service}", 443),
                security_groups=[groups["endpoints"]],
            )  # fmt: skip
        return groups

    def _logs_bucket(self) -> s3.Bucket:
        bucket = s3.Bucket(
            self, "Logs", bucket_name=self.deployment.logs_bucket, versioned=True, enforce_ssl=True,
            minimum_tls_version=1.2, block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,  # the load balancer can write to no other
            removal_policy=RemovalPolicy.RETAIN, object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[
                s3.LifecycleRule(id="compute-logs", prefix="compute-logs/", expiration=Duration.days(90)),
                s3.LifecycleRule(id="access", prefix="access/", expiration=Duration.days(400)),
                s3.LifecycleRule(
                    id="old-versions", noncurrent_version_expiration=Duration.days(30),
                    abort_incomplete_multipart_upload_after=Duration.days(2),
                ),
            ],
        )  # fmt: skip
        bucket.add_to_resource_policy(iam.PolicyStatement(
            sid="BalancerLogs", actions=["s3:PutObject"], resources=[f"{bucket.bucket_arn}/access/*"],
            principals=[iam.ServicePrincipal("logdelivery.elasticloadbalancing.amazonaws.com")],
            conditions={"StringEquals": {"aws:SourceAccount": self.account}},
        ))  # fmt: skip
        return bucket

    def _data_bucket(self) -> s3.Bucket:
        rules = [
            s3.LifecycleRule(
                id=prefix.replace("/", "-"), prefix=f"{prefix}/", expiration=Duration.days(days),
                noncurrent_version_expiration=Duration.days(7),
            )
            for prefix, days in retention_days(simulated=self.deployment.simulated).items()
        ]  # fmt: skip
        rules.append(s3.LifecycleRule(id="uploads", abort_incomplete_multipart_upload_after=Duration.days(2)))
        bucket = s3.Bucket(
            self, "Data", bucket_name=self.deployment.data_bucket, versioned=True, enforce_ssl=True,
            minimum_tls_version=1.2, block_public_access=s3.BlockPublicAccess.BLOCK_ALL, bucket_key_enabled=True,
            encryption=s3.BucketEncryption.KMS, encryption_key=self.key, removal_policy=RemovalPolicy.RETAIN,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED, server_access_logs_bucket=self.logs_bucket,
            server_access_logs_prefix="access/data/", lifecycle_rules=rules,
        )  # fmt: skip
        if self.deployment.delivered_years:
            self._archive(bucket)
        return bucket

    def _archive(self, data: s3.Bucket) -> None:
        """Replicate permanent objects at once into a bucket from which no account, not even the owner's, can delete.

        Object lock's default retention covers a whole bucket, and landing must be removed after 90 days.
        """
        archive = s3.Bucket(
            self, "Archive", bucket_name=f"{self.deployment.name('archive')}-{self.account}", versioned=True,
            enforce_ssl=True, minimum_tls_version=1.2, block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.KMS, encryption_key=self.key, bucket_key_enabled=True,
            removal_policy=RemovalPolicy.RETAIN, object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            server_access_logs_bucket=self.logs_bucket, server_access_logs_prefix="access/archive/",
            object_lock_enabled=True,
            object_lock_default_retention=s3.ObjectLockRetention.compliance(
                Duration.days(365 * self.deployment.delivered_years + 2)
            ),
            lifecycle_rules=[
                s3.LifecycleRule(id="uploads", abort_incomplete_multipart_upload_after=Duration.days(2)),
                s3.LifecycleRule(id="cold", transitions=[
                    s3.Transition(storage_class=s3.StorageClass.GLACIER_INSTANT_RETRIEVAL,
                                  transition_after=Duration.days(90)),
                ]),
            ],
        )  # fmt: skip
        role = iam.Role(
            self, "Archivist", role_name=self.deployment.name("archivist"),
            assumed_by=iam.ServicePrincipal("s3.amazonaws.com"),
        )  # fmt: skip
        source = f"arn:aws:s3:::{self.deployment.data_bucket}"
        for actions, resources in (
            (["s3:GetReplicationConfiguration", "s3:ListBucket"], [source]),
            (
                ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging"],
                [f"{source}/{prefix}/*" for prefix in ARCHIVED],
            ),
            (["s3:ReplicateObject", "s3:ReplicateTags"], [f"{archive.bucket_arn}/*"]),
            (["kms:Decrypt", "kms:GenerateDataKey"], [self.key.key_arn]),
        ):
            role.add_to_policy(iam.PolicyStatement(actions=actions, resources=resources))
        lasting = data.node.default_child
        assert isinstance(lasting, s3.CfnBucket)  # noqa: S101 - for the type checker
        part = s3.CfnBucket
        lasting.replication_configuration = part.ReplicationConfigurationProperty(
            role=role.role_arn,
            rules=[
                part.ReplicationRuleProperty(
                    id=prefix, priority=number, status="Enabled",
                    filter=part.ReplicationRuleFilterProperty(prefix=f"{prefix}/"),
                    delete_marker_replication=part.DeleteMarkerReplicationProperty(status="Disabled"),
                    source_selection_criteria=part.SourceSelectionCriteriaProperty(
                        sse_kms_encrypted_objects=part.SseKmsEncryptedObjectsProperty(status="Enabled"),
                    ),
                    destination=part.ReplicationDestinationProperty(
                        bucket=archive.bucket_arn,
                        encryption_configuration=part.EncryptionConfigurationProperty(
                            replica_kms_key_id=self.key.key_arn
                        ),
                    ),
                )
                for number, prefix in enumerate(ARCHIVED, start=1)
            ],
        )  # fmt: skip

    def _queue(self) -> sqs.Queue:
        dead = sqs.Queue(
            self, "ConsentEventsDead", queue_name=self.deployment.name("consent-events-dead"), enforce_ssl=True,
            retention_period=Duration.days(14), encryption=sqs.QueueEncryption.KMS, encryption_master_key=self.key,
        )  # fmt: skip
        return sqs.Queue(
            self, "ConsentEvents", queue_name=self.deployment.name("consent-events"), enforce_ssl=True,
            visibility_timeout=Duration.seconds(6 * MESSAGE_SECONDS), retention_period=Duration.days(4),
            encryption=sqs.QueueEncryption.KMS, encryption_master_key=self.key,
            dead_letter_queue=sqs.DeadLetterQueue(max_receive_count=MAX_RECEIVES, queue=dead),
        )  # fmt: skip

    def _secret(self, name: str) -> secrets.CfnSecret:
        # Made empty of meaning; a person puts the value in once, and no file or job ever holds it.
        return secrets.CfnSecret(
            self, f"Secret{name.title().replace('-', '')}", name=f"classfeed/{self.deployment.env}/{name}",
            kms_key_id=self.key.key_arn, description=f"classfeed {self.deployment.env}: {name}",
            generate_secret_string=secrets.CfnSecret.GenerateSecretStringProperty(
                secret_string_template='{"set": "by hand"}',  # noqa: S106
                generate_string_key="value", password_length=40,
            ),
        )  # fmt: skip

    def _database(self) -> rds.CfnDBInstance:
        deployment = self.deployment
        secret = secrets.CfnSecret(
            self, "DatabaseSecret", name=f"classfeed/{deployment.env}/dagster-database", kms_key_id=self.key.key_arn,
            description=f"classfeed {deployment.env}: Dagster's database, rotated every 30 days",
            generate_secret_string=secrets.CfnSecret.GenerateSecretStringProperty(
                secret_string_template='{"username": "dagster"}',  # noqa: S106
                generate_string_key="password", password_length=40,
                exclude_punctuation=True,
            ),
        )  # fmt: skip
        subnets = rds.CfnDBSubnetGroup(
            self, "DatabaseSubnets", db_subnet_group_description="Dagster's database",
            db_subnet_group_name=deployment.name("database"),
            subnet_ids=[subnet.subnet_id for subnet in self.vpc.isolated_subnets],
        )  # fmt: skip
        parameters = rds.CfnDBParameterGroup(
            self, "DatabaseParameters", family="postgres17", description="TLS only; slow statements are logged",
            parameters={"rds.force_ssl": "1", "log_min_duration_statement": "1000", "log_statement": "ddl"},
        )  # fmt: skip
        reference = f"{{{{resolve:secretsmanager:{secret.ref}:SecretString:"
        watcher = iam.Role(
            self, "DatabaseWatcher", role_name=deployment.name("database-watcher"),
            assumed_by=iam.ServicePrincipal("monitoring.rds.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonRDSEnhancedMonitoringRole")
            ],
        )  # fmt: skip
        database = rds.CfnDBInstance(
            self, "Database", db_instance_identifier=deployment.name("dagster"), engine="postgres",
            engine_version="17.6", db_instance_class=deployment.database_class, db_name="dagster",
            allocated_storage="50", max_allocated_storage=500, storage_type="gp3", storage_encrypted=True,
            kms_key_id=self.key.key_arn, multi_az=deployment.database_multi_az, publicly_accessible=False,
            master_username=f"{reference}username}}}}", master_user_password=f"{reference}password}}}}",
            db_subnet_group_name=subnets.ref, db_parameter_group_name=parameters.ref,
            vpc_security_groups=[self.groups["database"].security_group_id], port="5432",
            backup_retention_period=35, copy_tags_to_snapshot=True, deletion_protection=True,
            auto_minor_version_upgrade=True, enable_performance_insights=True,
            performance_insights_kms_key_id=self.key.key_arn, enable_iam_database_authentication=True,
            enable_cloudwatch_logs_exports=["postgresql", "upgrade"], monitoring_interval=60,
            monitoring_role_arn=watcher.role_arn,
            tags=[CfnTag(key="classfeed", value=deployment.env)],
        )  # fmt: skip
        database.apply_removal_policy(RemovalPolicy.SNAPSHOT)
        attachment = secrets.CfnSecretTargetAttachment(
            self, "DatabaseSecretAttachment", secret_id=secret.ref, target_id=database.ref,
            target_type="AWS::RDS::DBInstance",
        )  # fmt: skip
        self.add_transform(ROTATION_TRANSFORM)
        rotation = secrets.CfnRotationSchedule(
            self, "DatabaseRotation", secret_id=secret.ref, rotate_immediately_on_update=False,
            # Sunday night in Sydney: no business date is due until Tuesday morning.
            rotation_rules=secrets.CfnRotationSchedule.RotationRulesProperty(
                schedule_expression="cron(0 10 ? * SUN#1 *)", duration="2h",
            ),
            hosted_rotation_lambda=secrets.CfnRotationSchedule.HostedRotationLambdaProperty(
                rotation_type="PostgreSQLSingleUser", rotation_lambda_name=deployment.name("rotate-database"),
                kms_key_arn=self.key.key_arn, vpc_security_group_ids=self.groups["web"].security_group_id,
                vpc_subnet_ids=",".join(subnet.subnet_id for subnet in self.vpc.isolated_subnets),
            ),
        )  # fmt: skip
        rotation.add_resource_dependency(attachment)
        self.database_secret = secret
        return database
