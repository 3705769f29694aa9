"""An AWS CDK construct: the lease table, permissions, environment variables and alarms.

    migrations = ColdStartMigrations(
        self, "Migrations", target="orders", environment="production",
        database_url="postgresql://db.example.com:5432/orders", database_secret=secret,
    )
    migrations.add_to(function)

Copy this file into your application.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from constructs import Construct

if TYPE_CHECKING:
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_lambda as lambda_
    from aws_cdk import aws_secretsmanager as secretsmanager
    from aws_cdk import aws_sns as sns

__all__ = ["ColdStartMigrations"]

ADMIN_HANDLER = "lambda_migrate.deploy.admin.handler"


@dataclass(frozen=True)
class _AlarmRule:
    """One alarm of the library's metrics, as in template.yaml."""

    metric: str
    description: str
    statistic: str = "Sum"
    threshold: float = 1
    comparison: cloudwatch.ComparisonOperator = (
        cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
    )
    period_seconds: int = 60
    evaluation_periods: int = 1


_ABOVE = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
_ALARM_RULES = (
    _AlarmRule("MigrationFailed", "A migration failed; code that needs it is not served."),
    _AlarmRule("LeaseTakeover", "A holder died or was frozen during a migration."),
    _AlarmRule("NotReady", "Requests reached code whose schema is not ready."),
    _AlarmRule("LeaseWaitTime", "Instances wait long for another.", "Maximum", 20_000, _ABOVE),
    _AlarmRule("LeaseHeldTime", "A migration takes long.", "Maximum", 300_000, _ABOVE),
    _AlarmRule("ColdStartCheckTime", "The check is slow.", "p90", 1_000, _ABOVE, 300, 3),
)


class ColdStartMigrations(Construct):
    """Everything that a function with ``@migrate_on_cold_start`` needs for one database.

    Args:
        scope: The stack.
        construct_id: The id in the stack.
        target: Key of the database's item in the lease table.
        environment: Name of the environment, such as ``production``; the database keeps it.
        database_url: Host, port and database, without a password.
        database_secret: The secret with user and password of the role that migrates.
        table: An existing lease table; by default one is created, and kept when the stack goes.
        ssl_root_certificate: Where Amazon's bundle lies in the package.
        service: Powertools' service name, and dimension ``service`` of every metric.
        namespace: The CloudWatch namespace of the metrics.
        alarm_topic: Gets every alarm; without one there are no alarms.
        secret_key: Your own KMS key that encrypts the secret, if there is one.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        target: str,
        environment: str,
        database_url: str,
        database_secret: secretsmanager.ISecret,
        table: dynamodb.ITable | None = None,
        ssl_root_certificate: str = "/var/task/global-bundle.pem",
        service: str = "",
        namespace: str = "lambda-migrate",
        alarm_topic: sns.ITopic | None = None,
        secret_key: kms.IKey | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.target = target
        self.table: dynamodb.ITable = table or dynamodb.Table(
            self,
            "LeaseTable",
            partition_key=dynamodb.Attribute(name="target", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            deletion_protection=True,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=RemovalPolicy.RETAIN,
        )
        self._secret = database_secret
        self._secret_key = secret_key
        self._variables = {
            "LAMBDA_MIGRATE_TABLE": self.table.table_name,
            "LAMBDA_MIGRATE_TARGET": target,
            "LAMBDA_MIGRATE_ENVIRONMENT": environment,
            "LAMBDA_MIGRATE_DATABASE_URL": database_url,
            "LAMBDA_MIGRATE_DATABASE_SECRET": database_secret.secret_arn,
            "LAMBDA_MIGRATE_SSLROOTCERT": ssl_root_certificate,
            "POWERTOOLS_SERVICE_NAME": service or target,
            "POWERTOOLS_METRICS_NAMESPACE": namespace,
        }
        if alarm_topic is not None:
            self._create_alarms(alarm_topic, service or target, namespace)

    def add_to(self, function: lambda_.Function, *, mode: str = "migrate") -> None:
        """Give a function the settings and the least permissions.

        Args:
            function: A function whose handler is decorated.
            mode: ``migrate``, or ``require`` for a function that only waits: it may read the
                lease table, and does not get the secret of the role that migrates.
        """
        variables = dict(self._variables, LAMBDA_MIGRATE_MODE=mode)
        if mode == "require":
            del variables["LAMBDA_MIGRATE_DATABASE_SECRET"]
        for name, value in variables.items():
            function.add_environment(name, value)
        self._grant_lease_access(function, [self.target], may_write=mode == "migrate")
        if mode == "migrate":
            self._grant_secret_access(function)

    def add_to_admin_function(self, function: lambda_.Function) -> None:
        """As `add_to`, for a function with the handler `ADMIN_HANDLER`, which runs commands."""
        for name, value in self._variables.items():
            function.add_environment(name, value)
        self._grant_lease_access(function, [self.target, f"{self.target}/requests"], may_write=True)
        self._grant_secret_access(function)

    def _grant_lease_access(
        self, function: lambda_.Function, keys: list[str], *, may_write: bool
    ) -> None:
        writes = ["dynamodb:UpdateItem"] if may_write else []
        function.add_to_role_policy(
            iam.PolicyStatement(
                sid="Lease",
                actions=["dynamodb:GetItem", *writes],
                resources=[self.table.table_arn],
                conditions={"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": keys}},
            )
        )

    def _grant_secret_access(self, function: lambda_.Function) -> None:
        function.add_to_role_policy(
            iam.PolicyStatement(
                sid="MigratorSecret",
                actions=["secretsmanager:GetSecretValue"],
                resources=[self._secret.secret_arn],
            )
        )
        if self._secret_key is not None:
            region = Stack.of(self).region
            service = f"secretsmanager.{region}.amazonaws.com"
            function.add_to_role_policy(
                iam.PolicyStatement(
                    sid="SecretsKey",
                    actions=["kms:Decrypt"],
                    resources=[self._secret_key.key_arn],
                    conditions={"StringEquals": {"kms:ViaService": service}},
                )
            )

    def _create_alarms(self, topic: sns.ITopic, service: str, namespace: str) -> None:
        for rule in _ALARM_RULES:
            alarm = cloudwatch.Metric(
                namespace=namespace,
                metric_name=rule.metric,
                dimensions_map={"service": service, "target": self.target},
                statistic=rule.statistic,
                period=Duration.seconds(rule.period_seconds),
            ).create_alarm(
                self,
                f"{rule.metric}Alarm",
                alarm_description=rule.description,
                evaluation_periods=rule.evaluation_periods,
                threshold=rule.threshold,
                comparison_operator=rule.comparison,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            )
            alarm.add_alarm_action(actions.SnsAction(topic))
            alarm.add_ok_action(actions.SnsAction(topic))
