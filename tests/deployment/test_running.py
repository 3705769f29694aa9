"""The package that `sam build` made runs in the stack, and calls only what its roles allow.

The code is the zip that SAM uploads, on a Lambda runtime's own Python; variables, handler and
timeout are read back from the deployed stack; PostgreSQL is real, with TLS and passwords, DynamoDB
and Secrets Manager are moto's, AppConfig our emulator.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import trustme

from lambda_migrate.local.demo.example import get_order, place_order, read_order_id
from lambda_migrate.local.package.build import ROOT
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.local_appconfig import LocalAppConfig
from tests.sandbox import lines
from tests.unit.docs.pages import code_blocks

from .aws import ACCOUNT, REGION, LocalAWS
from .permissions import Request, grants, is_allowed
from .runtime import ARCHITECTURE, Runtime
from .stack import Stack, deploy

HOST = "127.0.0.2"
"""On this machine, but not what the example takes for it: the certificate is verified."""

PASSWORDS = {"orders_migrator": "Migrates-1", "orders_app": "Serves-1"}
SAM = ROOT / ".sam" / "bin" / "sam"
GROUP = (
    f"arn:aws:codedeploy:{REGION}:{ACCOUNT}:deploymentgroup:"
    "ServerlessDeploymentApplication/OrdersFunctionDeploymentGroup"
)
PROFILE = (
    f"arn:aws:appconfig:{REGION}:{ACCOUNT}:application/FlagsApplication/environment/"
    "FlagsEnvironment/configuration/FlagsProfile"
)
ADMIN_COMMANDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {}),
    ("plan", {}),
    ("plan", {"dry_run": True}),
    ("verify", {}),
    ("verify", {"resync": True}),
    ("lease show", {}),
    ("lease release", {"yes": True}),
    ("down", {"steps": 1, "yes": True}),
    ("up", {}),
)


@pytest.fixture(scope="module")
def built(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda would unpack: built by ``sam build``, without a container, and uploaded."""
    assert SAM.is_file(), "make .sam/installed"
    folder = tmp_path_factory.mktemp("aws-sam")
    version = {"PYTHON_VERSION": runtime.version, "ARCHITECTURE": ARCHITECTURE}
    done = sam(["build", "--build-dir", folder], **version)
    assert done.returncode == 0, done.stderr
    with LocalAWS() as aws:
        s3 = aws.service("s3")
        s3.create_bucket(Bucket="packages")
        package = [
            "package",
            "--template-file",
            folder / "template.yaml",
            "--s3-bucket",
            "packages",
        ]
        written = ["--output-template-file", folder / "packaged.yaml"]
        done = sam([*package, *written], **aws.variables())
        assert done.returncode == 0, done.stderr
        # By its content's hash: three functions that were built one by one are one package.
        [uploaded] = s3.list_objects_v2(Bucket="packages")["Contents"]
        content = s3.get_object(Bucket="packages", Key=uploaded["Key"])["Body"].read()
    task = tmp_path_factory.mktemp("task")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(task)
    return task


def sam(command: list[Any], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "SAM_CLI_TELEMETRY": "0", "AWS_REGION": REGION}
    return subprocess.run(
        [SAM, *command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass
class Production:
    """A deployed stack, its database and its code.

    Attributes:
        calls: By function: what it has asked of AWS.
    """

    stack: Stack
    server: LocalPostgreSQL
    runtime: Runtime
    code: Path
    calls: dict[str, list[Request]] = field(default_factory=dict)

    @contextmanager
    def function(self, logical_id: str, **variables: str) -> Iterator[LocalFunction]:
        """Run a function as it is configured; note its calls when it ends."""
        configured = self.stack.function(logical_id)
        document = json.loads(self.stack.template.properties("FlagsVersion")["Content"])
        profile = configured["Environment"]["Variables"]["LAMBDA_MIGRATE_FLAGS"]
        client = f"{logical_id}{len(self.calls)}"
        with LocalAppConfig(profile, document) as appconfig:
            variables = {
                **configured["Environment"]["Variables"],
                **self.stack.aws.variables(access_key=client),
                **appconfig.api(),
                "LAMBDA_MIGRATE_SSLMODE": "verify-full",  # as off this machine
                **variables,
            }
            with LocalFunction(
                configured["Handler"],
                code=self.code,
                variables=variables,
                timeout=configured["Timeout"],
                memory=configured["MemorySize"],
                python=self.runtime.python,
            ) as function:
                yield function
            asked = self._asked(client, appconfig.requests)
        self.calls[logical_id] = self.calls.get(logical_id, []) + asked

    def _asked(self, client: str, of_appconfig: Mapping[str, int]) -> list[Request]:
        table = self.stack.physical["LeaseTable"]
        arns = {table: self.stack.table_arn}
        asked = [
            Request(
                call.action,
                GROUP
                if call.action.startswith("codedeploy:")
                else arns.get(call.resource, call.resource),
                call.key,
            )
            for call in self.stack.aws.calls(client)
        ]
        return asked + [Request(f"appconfig:{operation}", PROFILE) for operation in of_appconfig]

    def query(self, sql: str) -> list[list[Any]]:
        return self.server.execute(sql, database="orders")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, Path]]:
    """The authority's file, and the server's certificate and key."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(str(folder / "bundle.pem"))
    (folder / "server.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(folder / "server.key"))
    return folder / "bundle.pem", (folder / "server.crt", folder / "server.key")


@contextmanager
def production(
    certificate: tuple[Path, tuple[Path, Path]], runtime: Runtime, code: Path, **parameters: str
) -> Iterator[Production]:
    """Everything, from the database to the stack."""
    bundle, tls = certificate
    with ExitStack() as stack:
        server = stack.enter_context(
            LocalPostgreSQL(
                tcp_port=0,
                tls=tls,
                settings={"listen_addresses": HOST},
                hba=("local all all trust", f"hostssl orders all {HOST}/8 scram-sha-256"),
                databases=["orders"],
            )
        )
        server.execute((ROOT / "examples" / "orders" / "roles.sql").read_text(), "orders")
        aws = stack.enter_context(LocalAWS())
        arns = {name: _secret(aws, server, name) for name in PASSWORDS}
        deployed = deploy(
            aws,
            DatabaseHost=HOST,
            DatabasePort=str(server.port),
            MigratorSecretArn=arns["orders_migrator"],
            ApplicationSecretArn=arns["orders_app"],
            SslRootCert=str(bundle),
            **parameters,
        )
        yield Production(deployed, server, runtime, code)


def _secret(aws: LocalAWS, server: LocalPostgreSQL, role: str) -> str:
    server.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORDS[role]}'")
    content = json.dumps({"username": role, "password": PASSWORDS[role]})
    answer = aws.service("secretsmanager").create_secret(Name=role, SecretString=content)
    return str(answer["ARN"])


@dataclass(frozen=True)
class DeploymentResults:
    """What requests and commands to a deployed stack did.

    Attributes:
        production: As it is after that.
        first: Three requests at the same instant, to an empty database.
        outcomes: How their checks ended.
        second: One request to a new environment, later.
        backends: Role and TLS of the connections that served.
        metrics: What the library wrote, in CloudWatch's embedded format.
        admin: Command -> answer.
        hook: What the hook answered.
    """

    production: Production
    first: list[InvocationResult]
    outcomes: list[str]
    second: InvocationResult
    backends: list[list[Any]]
    metrics: list[dict[str, Any]]
    admin: dict[str, dict[str, Any]]
    hook: InvocationResult


@pytest.fixture(scope="module")
def deployment(
    certificate: tuple[Path, tuple[Path, Path]], runtime: Runtime, built: Path
) -> Iterator[DeploymentResults]:
    with production(certificate, runtime, built) as sandbox:
        with sandbox.function("OrdersFunction") as function:
            first = function.storm(3, place_order())
            ended = [
                line["lambda_migrate"]["outcome"]
                for result in first
                for line in lines(function, result.environment_id)
            ]
            [second] = function.storm(1, get_order(read_order_id(first[0])))
            metrics = [each for result in first for each in written(function, result)]
            backends = sandbox.query(
                "SELECT usename, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)"
                " WHERE application_name = 'orders'"
            )
        with sandbox.function("AdminFunction") as function:
            admin = {}
            for command, options in ADMIN_COMMANDS:
                result = function.invoke({"command": command, "options": options}, wait=60)
                assert result.ok, result.error_message
                admin[" ".join([command, *options])] = result.payload
            back = {"command": "down", "options": {"steps": 2, "yes": True}}  # for the hook
            assert function.invoke(back, wait=60).payload["exit_code"] == 0
        with sandbox.function("BeforeTrafficFunction") as function:
            hook = function.invoke(_hook(sandbox.stack.aws))
        yield DeploymentResults(sandbox, first, ended, second, backends, metrics, admin, hook)


def written(function: LocalFunction, result: InvocationResult) -> list[dict[str, Any]]:
    """The metrics of an environment that have our dimensions."""
    found = [
        json.loads(line)
        for line in function.logs(result.environment_id).splitlines()
        if line.startswith('{"') and "CloudWatchMetrics" in line
    ]
    return [each for each in found if "target" in each]


def _hook(aws: LocalAWS) -> dict[str, str]:
    """What CodeDeploy sends for a deployment of ours."""
    codedeploy = aws.service("codedeploy")
    names = {"applicationName": "ServerlessDeploymentApplication"}
    codedeploy.create_application(computePlatform="Lambda", **names)
    names["deploymentGroupName"] = "OrdersFunctionDeploymentGroup"
    role = f"arn:aws:iam::{ACCOUNT}:role/codedeploy"
    codedeploy.create_deployment_group(serviceRoleArn=role, **names)
    content = {"revisionType": "AppSpecContent", "appSpecContent": {"content": "{}"}}
    deployment = codedeploy.create_deployment(revision=content, **names)["deploymentId"]
    return {"DeploymentId": deployment, "LifecycleEventHookExecutionId": "execution-1"}


# --- it works


def test_sam_validates_the_template_and_that_of_the_readme(tmp_path: Path) -> None:
    assert SAM.is_file(), "make .sam/installed"
    [of_readme] = code_blocks(ROOT / "README.md", "yaml")
    (tmp_path / "template.yaml").write_text(of_readme.text)
    for template in (ROOT / "template.yaml", tmp_path / "template.yaml"):
        done = sam(["validate", "--lint", "--template-file", template])
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_request_to_the_built_function_migrates_and_serves(
    deployment: DeploymentResults,
) -> None:
    assert [result.payload["statusCode"] for result in deployment.first] == [201, 201, 201]
    assert sorted(deployment.outcomes) == ["MIGRATED", "WAITED", "WAITED"]
    rows = deployment.production.query("SELECT name, state FROM lambda_migrate.history ORDER BY 1")
    assert len(rows) == 7
    assert {state for _, state in rows} == {"applied"}


def test_a_later_cold_start_reads_one_item_and_serves(deployment: DeploymentResults) -> None:
    assert deployment.second.payload["statusCode"] == 200


def test_the_migrator_owns_what_the_application_serves_over_tls(
    deployment: DeploymentResults,
) -> None:
    owners = deployment.production.query(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'lambda_migrate')"
    )
    assert owners == [["orders_migrator"]]
    assert deployment.backends == [["orders_app", True]] * 4


@pytest.mark.parametrize("command", [" ".join([name, *given]) for name, given in ADMIN_COMMANDS])
def test_the_admin_function_answers(deployment: DeploymentResults, command: str) -> None:
    assert deployment.admin[command]["exit_code"] == 0, deployment.admin[command]


def test_the_hook_migrates_and_lets_traffic_through(deployment: DeploymentResults) -> None:
    assert deployment.hook.ok, deployment.hook.error_message
    assert deployment.hook.payload == {"status": "Succeeded", "reason": "MIGRATED"}


def test_metrics_have_the_names_and_dimensions_of_the_alarms(deployment: DeploymentResults) -> None:
    stack = deployment.production.stack
    alarms = stack.aws.service("cloudwatch").describe_alarms()["MetricAlarms"]
    [place] = {
        (each["Namespace"], *sorted((one["Name"], one["Value"]) for one in each["Dimensions"]))
        for each in alarms
        if "MetricName" in each
    }
    assert deployment.metrics
    for metric in deployment.metrics:
        [directive] = metric["_aws"]["CloudWatchMetrics"]
        [names] = directive["Dimensions"]
        assert (directive["Namespace"], *sorted((name, metric[name]) for name in names)) == place
    watched = {each["MetricName"] for each in alarms if "MetricName" in each}
    seen = {
        each["Name"]
        for one in deployment.metrics
        for each in one["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    }
    assert {"ColdStartCheckTime", "LeaseHeldTime", "LeaseWaitTime"} <= seen & watched


def test_sam_packages_the_bytecode_unchanged(built: Path, runtime: Runtime) -> None:
    """SAM packs the folder in its own way; that it is valid is asked in test_package.py."""
    compiled = list(built.rglob(f"*.cpython-{runtime.version.replace('.', '')}.pyc"))
    assert len(compiled) == len(list(built.rglob("*.py")))
    assert {path.read_bytes()[4:8] for path in compiled} == {b"\1\0\0\0"}, "unchecked-hash"


# --- and it may do what it does, and no more

FUNCTIONS = ("OrdersFunction", "AdminFunction", "BeforeTrafficFunction")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_call_that_a_function_makes_is_allowed(
    deployment: DeploymentResults, function: str
) -> None:
    statements = deployment.production.stack.statements(function)
    made = set(deployment.production.calls[function])
    assert made, "it makes calls"
    assert sorted(each for each in made if not is_allowed(each, statements)) == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_has_an_unused_permission(deployment: DeploymentResults, function: str) -> None:
    granted = set(grants(deployment.production.stack.statements(function)))
    assert sorted(granted - set(deployment.production.calls[function])) == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_statement_has_a_wildcard_in_place_of_a_resource_name(
    deployment: DeploymentResults, function: str
) -> None:
    for statement in deployment.production.stack.statements(function):
        actions, resources = statement["Action"], statement["Resource"]
        assert "*" not in json.dumps(actions)
        everything = [each for each in [resources, *resources] if each == "*"]
        if everything:
            assert statement["Sid"] in {"NetworkInterfaces", "NotForTheFunctionsCode", "Traces"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_functions_code_may_not_change_the_network(
    deployment: DeploymentResults, function: str
) -> None:
    stack = deployment.production.stack
    statements = {each["Sid"]: each for each in stack.statements(function)}
    allowed, denied = statements["NetworkInterfaces"], statements["NotForTheFunctionsCode"]
    assert denied["Effect"] == "Deny"
    assert denied["Action"] == allowed["Action"]
    [(operator, names)] = denied["Condition"].items()
    arn = stack.function(function)["FunctionArn"]
    assert operator == "ArnLike"
    assert any(fnmatchcase(arn, each) for each in names["lambda:SourceFunctionArn"])


def test_the_item_of_another_target_is_not_accessible(deployment: DeploymentResults) -> None:
    table = deployment.production.stack.table_arn
    statements = deployment.production.stack.statements("OrdersFunction")
    assert is_allowed(Request("dynamodb:UpdateItem", table, "orders"), statements)
    for key in ("payments", "orders/requests", ""):
        assert not is_allowed(Request("dynamodb:UpdateItem", table, key), statements)
    for action in ("DeleteItem", "PutItem", "Query", "Scan"):
        assert not is_allowed(Request(f"dynamodb:{action}", table, "orders"), statements)


def test_in_require_mode_a_function_reads_one_item_and_serves_after_a_migration(
    certificate: tuple[Path, tuple[Path, Path]], runtime: Runtime, built: Path
) -> None:
    with production(certificate, runtime, built, Mode="require") as sandbox:
        with sandbox.function("OrdersFunction", LAMBDA_MIGRATE_WAIT_SECONDS="1") as function:
            early = function.invoke(place_order())
        assert early.error_type == "NotReady", early
        with sandbox.function("AdminFunction") as function:
            assert function.invoke({"command": "up", "options": {}}).payload["exit_code"] == 0
        with sandbox.function("OrdersFunction") as function:
            assert function.invoke(place_order()).payload["statusCode"] == 201
        statements = sandbox.stack.statements("OrdersFunction")
        secret = sandbox.stack.parameters["ApplicationSecretArn"]
        assert set(sandbox.calls["OrdersFunction"]) == set(grants(statements))
        assert set(grants(statements)) == {
            Request("dynamodb:GetItem", sandbox.stack.table_arn, "orders"),
            Request("secretsmanager:GetSecretValue", secret),
        }
