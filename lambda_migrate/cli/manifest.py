"""`manifest`: name the folders of a Django project's migrations."""

from __future__ import annotations

from rich.text import Text

from lambda_migrate.cli.invocation import CommandInvocation
from lambda_migrate.cli.options import add_local_command
from lambda_migrate.commands.result import EXIT_DONE
from lambda_migrate.errors import ConfigurationError


@add_local_command(
    "manifest",
    "Write the file that lists a Django project's migration modules; run it when you build the "
    "package.",
    common_options=("format", "timeout"),
    examples=("manifest",),
)
def _write_manifest(invocation: CommandInvocation) -> int:
    from lambda_migrate.sources.django_files import write_manifest
    from lambda_migrate.wiring import make_tool_project

    settings = invocation.settings
    if settings.source != "django":
        raise ConfigurationError(
            f"`manifest` is for Django, and LAMBDA_MIGRATE_SOURCE is {settings.source}: set it to "
            "django"
        )
    project = make_tool_project(settings)
    modules, folders = project.read_modules(invocation.deadline)
    write_manifest(settings.django_manifest, modules, root=project.root, folders=folders)
    count = f"{len(modules)} app{'' if len(modules) == 1 else 's'} with migrations"
    invocation.terminal.show_result(
        {"path": settings.django_manifest, "modules": dict(sorted(modules.items()))},
        Text.assemble("wrote ", (settings.django_manifest, "bold"), f": {count}"),
        "deploy it with the code, and write it again when INSTALLED_APPS or MIGRATION_MODULES "
        "changes",
    )
    return EXIT_DONE
