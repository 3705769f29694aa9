"""Drills: a lease table lost, a database set back, a database that moves."""

from __future__ import annotations

from contextlib import ExitStack

from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from tests.drills.play import Play
from tests.drills.service import V1, V2, Deployments, code, copy_database
from tests.stage import Stage


def test_a_lost_table(own_stage: Stage) -> None:
    stage = own_stage
    current = code(stage, V2)
    with ExitStack() as stack:
        function = Deployments(stack, stage).of(current)
        assert function.invoke().ok
        assert isinstance(stage.dynamodb, LocalDynamoDB)
        stage.dynamodb.restart()
        assert function.invoke().payload["statusCode"] == 200, "a warm instance goes on"
        assert not function.storm(1)[0].ok
        play = Play("lost-table.md", stage, current)
        play.functions = [function]
        play.see()
        assert not play.is_over()
        play.do()
        assert play.is_over()
        play.finish()
        assert function.storm(2)[0].payload["statusCode"] == 200
        assert stage.item().fence > 1


PAGE = "restored-database.md"


def test_a_restored_database(stage: Stage) -> None:
    old, current = code(stage, V1), code(stage, V2, reads="id, status")
    url = stage.postgresql.url
    backup, restored = f"{stage.name}_backup", f"{stage.name}_restored"
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        assert deployments.of(old, environment="production").invoke().ok
        copy_database(stage, backup)
        assert deployments.of(current, environment="production").invoke().ok

        # In place.
        stage.postgresql.drop_database(stage.name)
        stage.postgresql.execute(f'CREATE DATABASE "{stage.name}" TEMPLATE "{backup}"')
        wrong = deployments.of(current, environment="production").invoke()
        assert wrong.error_type == "DatabaseError", "it is served, and its column is not there"

        def deploy(_command: str) -> None:
            replaced = deployments.of(current, environment="production")
            assert replaced.invoke().payload["statusCode"] == 200

        in_place = Play(
            PAGE, stage, current, stand_ins={"sam": deploy}, LAMBDA_MIGRATE_ENVIRONMENT="production"
        )
        in_place.see()
        assert not in_place.is_over()
        in_place.do("Steps: in place")
        assert in_place.is_over()

        # Elsewhere: the same backup, at another address.
        stage.postgresql.execute(f'CREATE DATABASE "{restored}" TEMPLATE "{backup}"')
        elsewhere = Play(
            PAGE,
            stage,
            current,
            NEW_DATABASE_URL=url(restored),
            LAMBDA_MIGRATE_ENVIRONMENT="production",
        )
        assert not elsewhere.is_over()
        elsewhere.do("Steps: elsewhere")
        assert elsewhere.is_over()
        moved = deployments.of(
            current, database=restored, database_url=url(restored), environment="production"
        )
        assert moved.invoke().payload["statusCode"] == 200

        # The same backup once more, as what staging works on from now on.
        copy = Play(PAGE, stage, current, COPY_DATABASE_URL=url(backup))
        copy.do("Steps: a copy of production for staging")
        elsewhere.finish(in_place, copy)


def test_an_address_that_was_changed_to_another_database(stage: Stage) -> None:
    """As a secret does that names another one: the same steps as after a restore in place."""
    old, current = code(stage, V1), code(stage, V2, reads="id, status")
    other = f"{stage.name}_other"
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        assert deployments.of(current).invoke().ok
        stage.postgresql.execute(f'CREATE DATABASE "{other}"')
        url = stage.postgresql.url(other)
        first = deployments.of(old, database=other, target=other, database_url=url)
        assert first.invoke().ok
        stage.postgresql.drop_database(stage.name)
        stage.postgresql.execute(f'ALTER DATABASE "{other}" RENAME TO "{stage.name}"')
        wrong = deployments.of(current).invoke()
        assert wrong.error_type == "DatabaseError", "it is served, and its column is not there"

        def deploy(_command: str) -> None:
            assert deployments.of(current).invoke().payload["statusCode"] == 200

        play = Play(PAGE, stage, current, stand_ins={"sam": deploy})
        play.see()
        assert not play.is_over()
        play.do("Steps: in place")
        assert play.is_over()
        assert len(stage.item().databases) == 1, "the address moved, and left nothing behind"


def test_moving_a_target_to_another_database(stage: Stage) -> None:
    current = code(stage, V2, reads="id, status")
    with ExitStack() as stack:
        deployments = Deployments(stack, stage)
        with_old_address = deployments.of(current)
        assert with_old_address.invoke().ok
        new = f"{stage.name}_new"
        url = copy_database(stage, new)

        def deploy(_command: str) -> None:
            assert with_old_address.storm(1)[0].payload["statusCode"] == 200
            moved = deployments.of(current, database=new, database_url=url)
            play.functions = [moved]
            assert moved.invoke().payload["statusCode"] == 200

        play = Play(
            "move-target.md", stage, current, stand_ins={"sam": deploy}, NEW_DATABASE_URL=url
        )
        play.see()
        assert not play.is_over()
        play.do()
        assert play.functions[0].storm(1)[0].payload["statusCode"] == 200
        assert play.is_over()
        play.finish()
