"""A stack with one function behind the construct: ``cdk synth --app "python app.py"``."""

from __future__ import annotations

from pathlib import Path

from aws_cdk import App, Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns
from lambda_migrate_cdk import ADMIN_HANDLER, ColdStartMigrations


class OrdersStack(Stack):
    """The API, the admin function, and what both need to migrate."""

    def __init__(self, app: App, stack_id: str, *, code: str) -> None:
        super().__init__(app, stack_id)
        vpc = ec2.Vpc(self, "Vpc", max_azs=2)
        vpc.add_gateway_endpoint("DynamoDB", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB)
        secret = secretsmanager.Secret(self, "Migrator")
        migrations = ColdStartMigrations(
            self,
            "Migrations",
            target="orders",
            environment="production",
            database_url="postgresql://db.example.com:5432/orders",
            database_secret=secret,
            alarm_topic=sns.Topic(self, "Alarms"),
        )
        for name, handler in (("Api", "app.handler"), ("Admin", ADMIN_HANDLER)):
            function = lambda_.Function(
                self,
                name,
                runtime=lambda_.Runtime.PYTHON_3_13,
                handler=handler,
                code=lambda_.Code.from_asset(code),
                timeout=Duration.seconds(29 if name == "Api" else 900),
                memory_size=512,
                vpc=vpc,
            )
            if name == "Api":
                migrations.add_to(function)
            else:
                migrations.add_to_admin_function(function)


if __name__ == "__main__":
    application = App()
    OrdersStack(application, "Orders", code=str(Path(__file__).parents[1] / "orders"))
    application.synth()
