"""Drills of a lost lease table, a restored database and a moved database."""

from __future__ import annotations

from contextlib import ExitStack

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from tests.drills.drill import Drill
from tests.drills.service import V1, V2, Deployments, code, copy_database
from tests.stage import Stage


def test_a_lost_table(own_stage: Stage) -> None:
    stage = own_stage
    current = code(stage, V2)
    with ExitStack() as stack:
        function = Deployments(stack, stage).deploy(current)
        assert function.invoke().ok
        assert isinstance(stage.dynamodb, LocalDynamoDB)
        stage.dynamodb.restart()
        assert function.invoke().payload["statusCode"] == 200, "a warm instance still serves"
        assert not function.storm(1)[0].ok
        drill = Drill("lost-table.md", stage, current)
        drill.functions = [function]
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps()
        assert drill.is_over()
        drill.require_all_blocks_ran()
        assert function.storm(2)[0].payload["statusCode"] == 200
        assert stage.item().fence > 1


PAGE = "restored-database.md"


def test_a_restored_database(stage: Stage) -> None:
    old, current = code(stage, V1), code(stage, V2, reads="id, status")
    url = stage.postgresql.url
    backup, restored = f"{stage.name}_backup", f"{stage.name}_restored"
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        assert deployments.deploy(old, environment="production").invoke().ok
        copy_database(stage, backup)
        assert deployments.deploy(current, environment="production").invoke().ok

        # In place.
        stage.postgresql.drop_database(stage.name)
        stage.postgresql.execute(f'CREATE DATABASE "{stage.name}" TEMPLATE "{backup}"')
        wrong = deployments.deploy(current, environment="production").invoke()
        assert wrong.error_type == "DatabaseError", "it is served, but its column is missing"

        def deploy(_command: str) -> None:
            replaced = deployments.deploy(current, environment="production")
            assert replaced.invoke().payload["statusCode"] == 200

        in_place = Drill(
            PAGE,
            stage,
            current,
            replacements={"sam": deploy},
            LAMBDA_MIGRATE_ENVIRONMENT="production",
        )
        in_place.check_symptoms()
        assert not in_place.is_over()
        in_place.run_steps("Steps: in place")
        assert in_place.is_over()

        # Elsewhere: the same backup, at another address.
        stage.postgresql.execute(f'CREATE DATABASE "{restored}" TEMPLATE "{backup}"')
        elsewhere = Drill(
            PAGE,
            stage,
            current,
            NEW_DATABASE_URL=url(restored),
            LAMBDA_MIGRATE_ENVIRONMENT="production",
        )
        assert not elsewhere.is_over()
        elsewhere.run_steps("Steps: elsewhere")
        assert elsewhere.is_over()
        moved = deployments.deploy(
            current, database=restored, database_url=url(restored), environment="production"
        )
        assert moved.invoke().payload["statusCode"] == 200

        # The same backup as a copy for staging.
        copy = Drill(PAGE, stage, current, COPY_DATABASE_URL=url(backup))
        copy.run_steps("Steps: a copy of production for staging")
        elsewhere.require_all_blocks_ran(in_place, copy)


def test_an_address_that_was_changed_to_another_database(stage: Stage) -> None:
    """The same steps as after a restore in place; a changed secret has the same effect."""
    old, current = code(stage, V1), code(stage, V2, reads="id, status")
    other = f"{stage.name}_other"
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        assert deployments.deploy(current).invoke().ok
        stage.postgresql.execute(f'CREATE DATABASE "{other}"')
        url = stage.postgresql.url(other)
        first = deployments.deploy(old, database=other, target=other, database_url=url)
        assert first.invoke().ok
        stage.postgresql.drop_database(stage.name)
        stage.postgresql.execute(f'ALTER DATABASE "{other}" RENAME TO "{stage.name}"')
        wrong = deployments.deploy(current).invoke()
        assert wrong.error_type == "DatabaseError", "it is served, but its column is missing"

        def deploy(_command: str) -> None:
            assert deployments.deploy(current).invoke().payload["statusCode"] == 200

        drill = Drill(PAGE, stage, current, replacements={"sam": deploy})
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps("Steps: in place")
        assert drill.is_over()
        assert len(stage.item().databases) == 1, "the address moved"


def test_moving_a_target_to_another_database(stage: Stage) -> None:
    current = code(stage, V2, reads="id, status")
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        with_old_address = deployments.deploy(current)
        assert with_old_address.invoke().ok
        new = f"{stage.name}_new"
        url = copy_database(stage, new)

        def deploy(_command: str) -> None:
            assert with_old_address.storm(1)[0].payload["statusCode"] == 200
            moved = deployments.deploy(current, database=new, database_url=url)
            drill.functions = [moved]
            assert moved.invoke().payload["statusCode"] == 200

        drill = Drill(
            "move-target.md", stage, current, replacements={"sam": deploy}, NEW_DATABASE_URL=url
        )
        drill.check_symptoms()
        assert not drill.is_over()
        drill.run_steps()
        assert drill.functions[0].storm(1)[0].payload["statusCode"] == 200
        assert drill.is_over()
        drill.require_all_blocks_ran()
