"""The real tools migrate a database, `adopt` adopts it, and the tool accepts the result.

`make .tools/installed` installs the tools.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_database
from tests.sandbox import ROOT

from . import cases
from .frame import THREE, Project, ToolCase, check_adoption

TOOLS = ROOT / ".tools" / "node_modules"
PLAIN_INDEX = THREE.replace(" CONCURRENTLY", "")


def npm_tool(name: str) -> str:
    """The program of an npm package."""
    return str(TOOLS / ".bin" / name)


PRISMA_CONFIG = """
import { PrismaPg } from '@prisma/adapter-pg'
import pg from 'pg'

// The adapter does not know PostgreSQL's type `name`, which Prisma's own queries return.
const addFields = pg.Result.prototype.addFields
pg.Result.prototype.addFields = function (fields) {
  for (const field of fields) if (field.dataTypeID === 19) field.dataTypeID = 25
  return addFields.call(this, fields)
}

// The engine waits at most 10 s for its lock, and never clears that timer.
const startTimer = globalThis.setTimeout
globalThis.setTimeout = (act, delay, ...rest) => {
  const timer = startTimer(act, delay, ...rest)
  return delay === 10_000 ? timer.unref() : timer
}

export default {
  schema: 'prisma/schema.prisma',
  experimental: { adapter: true },
  engine: 'js',
  adapter: async () =>
    new PrismaPg({ connectionString: process.env.DATABASE_URL, idleTimeoutMillis: 1 }),
}
"""
KNEX_MIGRATION = """
const { readFileSync } = require('node:fs')
const { basename } = require('node:path')
const run = (direction) => (knex) =>
  knex.raw(readFileSync(`${__dirname}/sql/${basename(__filename, '.js')}.${direction}.sql`, 'utf8'))
exports.config = { transaction: false }
exports.up = run('up')
exports.down = run('down')
"""


@dataclass(frozen=True, kw_only=True)
class RealTool:
    """A tool that runs here.

    Attributes:
        case: Its project.
        versions: The second and the third version, as `ready_when` names them.
        apply: The command that applies all files.
        apply_two: The command that applies two migrations; "" if that is `apply` without the
            files of the third.
        extra: Files besides, or instead of, those of the case.
        variables: Environment variables.
    """

    case: ToolCase
    versions: tuple[str, str]
    apply: tuple[str, ...]
    apply_two: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        return {**self.case.files, **self.extra}

    def is_third(self, path: str) -> bool:
        return "index" in path and not self.apply_two


def _yoyo(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "yoyo", *arguments)


_KNEX_FILES = {path: KNEX_MIGRATION.lstrip() for path in cases.KNEX.files if path.endswith(".js")}
_NODE_PG_FILES = {
    path: text.replace(THREE, PLAIN_INDEX) for path, text in cases.NODE_PG_MIGRATE.files.items()
}
_SQITCH_CONFIG = "[core]\n\tengine = pg\n[user]\n\tname = Ada\n\temail = ada@example.com\n"

REAL_TOOLS = (
    RealTool(
        case=cases.DBMATE,
        versions=("0002", "0003"),
        apply=(npm_tool("dbmate"), "--no-dump-schema", "up"),
    ),
    RealTool(
        case=cases.PRISMA,
        versions=("20240102000000_status", "20240103000000_index"),
        apply=(npm_tool("prisma"), "migrate", "deploy"),
        extra={
            "prisma.config.mjs": PRISMA_CONFIG.lstrip(),
            "prisma/schema.prisma": 'datasource db {\n  provider = "postgresql"\n'
            '  url      = env("DATABASE_URL")\n}\n',
        },
        # With the engine in the config, these are not used; the CLI would download them.
        variables={
            "PRISMA_QUERY_ENGINE_LIBRARY": os.devnull,
            "PRISMA_SCHEMA_ENGINE_BINARY": os.devnull,
            "CHECKPOINT_DISABLE": "1",
        },
    ),
    RealTool(
        case=cases.KNEX,
        versions=("20240102000000_status", "20240103000000_index"),
        apply=(npm_tool("knex"), "migrate:latest"),
        extra={
            **_KNEX_FILES,
            "knexfile.js": "module.exports = { client: 'pg', "
            "connection: process.env.DATABASE_URL }\n",
        },
    ),
    RealTool(
        case=cases.NODE_PG_MIGRATE,
        versions=("1700000000001_status", "1700000000002_index"),
        apply=(npm_tool("node-pg-migrate"), "up"),
        extra=_NODE_PG_FILES,
    ),
    RealTool(
        case=cases.DRIZZLE,
        versions=("1700000000001", "1700000000002"),
        apply=(npm_tool("drizzle-kit"), "migrate"),
        extra={
            "drizzle.config.js": "module.exports = { dialect: 'postgresql', out: './drizzle', "
            "dbCredentials: { url: process.env.DATABASE_URL } }\n",
        },
    ),
    RealTool(
        case=cases.YOYO,
        versions=("20240101_02_aaaaa-status", "20240103_01_zzzzz-index"),
        apply=_yoyo("apply", "--batch", "--no-config-file", "migrations"),
    ),
    RealTool(
        case=cases.GRAPHILE_MIGRATE,
        versions=("000002", "000003"),
        apply=(npm_tool("graphile-migrate"), "migrate"),
        extra={
            ".gmrc.js": "const url = process.env.DATABASE_URL\n"
            "module.exports = { connectionString: url, rootConnectionString: `${url}_root` }\n"
        },
    ),
    RealTool(
        case=cases.SQITCH,
        versions=("status", "index"),
        apply=("sqitch", "deploy"),
        apply_two=("sqitch", "deploy", "--to", "status"),
        extra={"sqitch.conf": _SQITCH_CONFIG},
    ),
)


def drizzle_journal(files: Mapping[str, str], count: int) -> dict[str, str]:
    """Drizzle's journal with the first entries."""
    path = "drizzle/meta/_journal.json"
    if path not in files:
        return {}
    journal = json.loads(files[path])
    return {path: json.dumps({**journal, "entries": journal["entries"][:count]})}


def run(project: Project, tool: RealTool, command: tuple[str, ...], database: str = "") -> None:
    url = project.sandbox.postgresql.tcp_url(database or project.sandbox.name)
    arguments = list(command)
    if "yoyo" in command:
        arguments += ["--database", url.replace("postgresql:", "postgresql+psycopg:")]
    if command[0] == "sqitch":
        arguments += ["--target", url.replace("postgresql:", "db:pg:")]
    if command[0].endswith("dbmate"):
        url += "?sslmode=disable"
    project.run(*arguments, **{**tool.variables, "DATABASE_URL": url, "PGSSLMODE": "disable"})


def list_applied(project: Project, tool: RealTool) -> list[bool]:
    """Whether a function that requires the second or the third version would be served."""
    required = ",".join(f"{tool.case.tool}:{version}" for version in tool.versions)
    settings = Settings.load(
        {"LAMBDA_MIGRATE_DATABASE_URL": project.sandbox.url},
        mode="require",
        ready_when=required,
    )
    assert settings.ready_when is not None
    inspection = make_database(settings).inspect_requirements(
        settings.ready_when.entries, Deadline.after(10)
    )
    return [each.is_applied for each in inspection.results]


@pytest.mark.parametrize("tool", REAL_TOOLS, ids=lambda tool: tool.case.tool)
def test_a_real_tools_database_is_adopted_and_the_tool_accepts_the_result(
    project: Project, tool: RealTool
) -> None:
    (project.folder / "node_modules").symlink_to(TOOLS)
    first = {path: text for path, text in tool.files.items() if not tool.is_third(path)}
    project.write({**first, **drizzle_journal(first, 2)})
    run(project, tool, tool.apply_two or tool.apply)
    assert list_applied(project, tool) == [True, False]
    project.write(tool.files)
    case = tool.case
    options = ["--keep-theirs"] if case.third else []
    check_adoption(project, case.tool, case.table, case.adopted, *options)
    code, document = project.call("up")
    assert (code, document["applied"]) == (0, [case.adopted[2].removesuffix(".sql")]), document
    assert project.call("verify")[0] == 0
    if case.third:
        theirs = project.rows(case.table)
        run(project, tool, tool.apply)
        assert project.rows(case.table) == theirs, "the tool has nothing to do"
    by_tool = f"{project.sandbox.name}_by_tool"
    project.sandbox.postgresql.create_database(by_tool)
    run(project, tool, tool.apply, by_tool)
    assert project.schema() == project.schema(by_tool)
