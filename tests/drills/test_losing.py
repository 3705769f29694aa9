"""Drills of a lost lease table, a restored database and a moved database."""

from __future__ import annotations

from contextlib import ExitStack

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from tests.drills.drill import Drill
from tests.drills.service import V1, V2, Deployments, code, copy_database
from tests.sandbox import Sandbox


def test_a_lost_table(own_sandbox: Sandbox) -> None:
    sandbox = own_sandbox
    current = code(sandbox, V2)
    with ExitStack() as stack:
        function = Deployments(stack, sandbox).deploy(current)
        assert function.invoke().ok
        assert isinstance(sandbox.dynamodb, LocalDynamoDB)
        sandbox.dynamodb.restart()
        assert function.invoke().payload["statusCode"] == 200, "a warm instance still serves"
        assert not function.storm(1)[0].ok
        drill = Drill("lost-table.md", sandbox, current)
        drill.functions = [function]
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps()
        assert drill.is_over()
        drill.require_all_blocks_ran()
        assert function.storm(2)[0].payload["statusCode"] == 200
        assert sandbox.item().fence > 1


PAGE = "restored-database.md"


def test_a_restored_database(sandbox: Sandbox) -> None:
    old, current = code(sandbox, V1), code(sandbox, V2, reads="id, status")
    url = sandbox.postgresql.url
    backup, restored = f"{sandbox.name}_backup", f"{sandbox.name}_restored"
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        assert deployments.deploy(old, environment="production").invoke().ok
        copy_database(sandbox, backup)
        assert deployments.deploy(current, environment="production").invoke().ok

        # In place.
        sandbox.postgresql.drop_database(sandbox.name)
        sandbox.postgresql.execute(f'CREATE DATABASE "{sandbox.name}" TEMPLATE "{backup}"')
        wrong = deployments.deploy(current, environment="production").invoke()
        assert wrong.error_type == "DatabaseError", "it is served, but its column is missing"

        def deploy() -> None:
            replaced = deployments.deploy(current, environment="production")
            assert replaced.invoke().payload["statusCode"] == 200

        in_place = Drill(
            PAGE,
            sandbox,
            current,
            deploy=deploy,
            LAMBDA_MIGRATE_ENVIRONMENT="production",
        )
        in_place.check_symptoms()
        assert not in_place.is_over("in place")
        in_place.run_steps("Steps: in place")
        assert in_place.is_over("in place")

        # Elsewhere: the same backup, at another address.
        sandbox.postgresql.execute(f'CREATE DATABASE "{restored}" TEMPLATE "{backup}"')
        elsewhere = Drill(
            PAGE,
            sandbox,
            current,
            NEW_DATABASE_URL=url(restored),
            LAMBDA_MIGRATE_ENVIRONMENT="production",
        )
        assert not elsewhere.is_over("elsewhere")
        elsewhere.run_steps("Steps: elsewhere")
        assert elsewhere.is_over("elsewhere")
        moved = deployments.deploy(
            current, database=restored, database_url=url(restored), environment="production"
        )
        assert moved.invoke().payload["statusCode"] == 200

        # The same backup as a copy for staging.
        copy = Drill(PAGE, sandbox, current, COPY_DATABASE_URL=url(backup))
        assert not copy.is_over("a copy of production for staging")
        copy.run_steps("Steps: a copy of production for staging")
        assert copy.is_over("a copy of production for staging")
        elsewhere.require_all_blocks_ran(in_place, copy)


def test_an_address_that_was_changed_to_another_database(sandbox: Sandbox) -> None:
    """The same steps as after a restore in place; a changed secret has the same effect."""
    old, current = code(sandbox, V1), code(sandbox, V2, reads="id, status")
    other = f"{sandbox.name}_other"
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        assert deployments.deploy(current).invoke().ok
        sandbox.postgresql.execute(f'CREATE DATABASE "{other}"')
        url = sandbox.postgresql.url(other)
        first = deployments.deploy(old, database=other, target=other, database_url=url)
        assert first.invoke().ok
        sandbox.postgresql.drop_database(sandbox.name)
        sandbox.postgresql.execute(f'ALTER DATABASE "{other}" RENAME TO "{sandbox.name}"')
        wrong = deployments.deploy(current).invoke()
        assert wrong.error_type == "DatabaseError", "it is served, but its column is missing"

        def deploy() -> None:
            assert deployments.deploy(current).invoke().payload["statusCode"] == 200

        drill = Drill(PAGE, sandbox, current, deploy=deploy)
        drill.check_symptoms()
        assert not drill.is_over("in place")
        drill.run_steps("Steps: in place")
        assert drill.is_over("in place")
        assert len(sandbox.item().databases) == 1, "the address moved"


def test_moving_a_target_to_another_database(sandbox: Sandbox) -> None:
    current = code(sandbox, V2, reads="id, status")
    with ExitStack() as stack:
        deployments = Deployments(stack, sandbox)
        with_old_address = deployments.deploy(current)
        assert with_old_address.invoke().ok
        new = f"{sandbox.name}_new"
        url = copy_database(sandbox, new)

        def deploy() -> None:
            assert with_old_address.storm(1)[0].payload["statusCode"] == 200
            moved = deployments.deploy(current, database=new, database_url=url)
            drill.functions = [moved]
            assert moved.invoke().payload["statusCode"] == 200

        drill = Drill("move-target.md", sandbox, current, deploy=deploy, NEW_DATABASE_URL=url)
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps()
        assert drill.functions[0].storm(1)[0].payload["statusCode"] == 200
        assert drill.is_over()
        drill.require_all_blocks_ran()
