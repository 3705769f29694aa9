"""``python -m load.staging``: validate a release, and decide go or no-go.

Exit codes: 0, go; 1, no-go; 2, wrong usage, or something is not installed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.process import ProcessError
from load.staging.checks import read_checks
from load.staging.data import ShopData
from load.staging.release import Release, example_release, make_release
from load.staging.report import write
from load.staging.stack import find_stack, validate_stack
from load.staging.steps import StepResult
from load.staging.validation import TEMPLATE, Options, Validation, validate
from load.staging.verdicts import Limits, decide

__all__ = ["main"]

_EXAMPLE_CHECKS = Path(__file__).parents[2] / "examples" / "orders" / "tests" / "checks.sql"
_RESERVED = (
    "AWS_ENDPOINT_URL",
    "DATABASE_URL=",
    "LAMBDA_MIGRATE_DATABASE",
    "LAMBDA_MIGRATE_SCHEMA=",
    "LAMBDA_MIGRATE_TABLE=",
    "LAMBDA_MIGRATE_TARGET=",
    "POWERTOOLS_METRICS_NAMESPACE=",
    "POWERTOOLS_SERVICE_NAME=",
)
"""Variables that are set here, and so may not be given, or prefixes of them."""

_MARKS = {"passed": "passed", "failed": "FAILED", "not measured": "  ?   "}


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate the release or stack that the arguments name."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    command = _repeat(arguments, options)
    _refuse_contradictions(parser, options)
    began = time.monotonic()
    try:
        found = _validate_stack(options) if _is_deployed(options) else _validate(options)
    except (ConfigurationError, ProcessError) as fault:
        print(fault, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every process has been ended.", file=sys.stderr)
        return 130
    decision = decide(found.steps)
    seconds = time.monotonic() - began
    page = write(found, options.out, seconds=seconds, command=command)
    print(f"{seconds:6.1f} s  {page}")
    for reason in decision.reasons:
        print(f"          {reason}")
    print(decision.word.upper())
    return 0 if decision.go else 1


def _parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(prog="python -m load.staging", description=__doc__)
    shop = parser.add_argument_group("data of the example")
    shop.add_argument("--orders", type=_count, default=1_000_000, help="how many (1,000,000)")
    shop.add_argument("--seed", type=int, default=1, help="seed of the data (1)")
    shop.add_argument(
        "--until", type=_day, default=_today(), help="the day after the last order (today)"
    )
    own = parser.add_argument_group("a release of your own, instead of the example's")
    own.add_argument("--code", type=Path, help="folder of the new function")
    own.add_argument("--migrations", type=Path, help="folder of migrations, instead of --code")
    own.add_argument("--old", type=Path, help="the same of the version that serves today")
    own.add_argument(
        "--from",
        type=int,
        dest="through",
        help="its last migration, instead of --old",
    )
    own.add_argument("--handler", default="app.handler", help="module.function (app.handler)")
    own.add_argument("--event", help="JSON that clients send, or a file with it")
    own.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE")
    own.add_argument("--dump", type=Path, help="dump of schema and data by pg_dump")
    own.add_argument("--data", type=Path, help="dump of data alone")
    stack = parser.add_argument_group("a stack that is deployed, instead of the local Lambda")
    stack.add_argument("--stack", default="", help="CloudFormation stack of template.yaml")
    stack.add_argument("--function", default="", help="NAME or NAME:ALIAS, instead of the stack's")
    stack.add_argument("--admin-function", default="", help="instead of the stack's")
    stack.add_argument(
        "--roll-back-to",
        type=_count,
        metavar="VERSION",
        help="roll back to it, then migrate up",
    )
    how = parser.add_argument_group("how")
    how.add_argument("-n", type=_number, dest="environments", default=40, help="cold starts (40)")
    how.add_argument("--clients", type=_number, default=6, help="clients of the old version (6)")
    how.add_argument(
        "--processes",
        choices=("separate", "forked"),
        default="separate",
        help="forked ones start faster and need less memory (separate)",
    )
    how.add_argument("--checks", type=Path, help="SQL file of checks of the data")
    how.add_argument(
        "--may-change",
        action="append",
        default=[],
        metavar="TABLE.COLUMN",
        help="may be changed",
    )
    how.add_argument("--template", type=Path, default=TEMPLATE, help="with the alarms")
    how.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the template",
    )
    how.add_argument("--postgresql", type=int, metavar="MAJOR", help="version (the newest)")
    how.add_argument("--out", type=Path, default=Path("staging-report"))
    limits_ = parser.add_argument_group("limits")
    limits_.add_argument(
        "--longest-lock", type=_seconds, default=limits.lock, help="seconds (%(default)g)"
    )
    limits_.add_argument(
        "--slowest-request", type=_seconds, default=limits.request, help="seconds (%(default)g)"
    )
    limits_.add_argument("--failed-requests", type=_count, default=limits.failed, help="(0)")
    limits_.add_argument(
        "--longest-wait", type=_seconds, default=limits.wait, help="seconds (%(default)g)"
    )
    return parser


def _refuse_contradictions(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    own = options.code or options.migrations
    if own and _is_deployed(options):
        parser.error("--code and --migrations run locally: leave --stack and --function out")
    if options.roll_back_to is not None and not _is_deployed(options):
        parser.error("--roll-back-to goes with --stack or --admin-function")
    if options.code and options.migrations:
        parser.error("--code and --migrations: name one of them")
    if own and (options.old is None) == (options.through is None):
        parser.error("name what serves today: either --old FOLDER or --from VERSION")
    theirs = [options.old, options.through, options.dump, options.data, *options.variable]
    if not own and any(one is not None for one in theirs):
        parser.error("--old, --from, --variable, --dump and --data go with --code")
    if options.event is not None and not (own or _is_deployed(options)):
        parser.error("--event goes with --code, or with --stack")
    for option, pairs in (("variable", options.variable), ("parameter", options.parameter)):
        for pair in pairs:
            if not pair.partition("=")[1]:
                parser.error(f"--{option} {pair}: write NAME=VALUE")
            if option == "variable" and pair.startswith(_RESERVED):
                parser.error(f"--variable {pair}: it is set by the validation itself")


def _is_deployed(options: argparse.Namespace) -> bool:
    return bool(options.stack or options.function or options.admin_function)


def _validate(options: argparse.Namespace) -> Validation:
    release, how = _release(options), _how(options)
    print(f"{release.name}: {_data_of(options)}, {how.environments} cold starts", flush=True)
    return validate(release, how, options.out, on_step=_print_step)


def _validate_stack(options: argparse.Namespace) -> Validation:
    stack = find_stack(stack=options.stack, function=options.function, admin=options.admin_function)
    named = ", ".join(filter(None, (stack.name, stack.function, stack.admin)))
    print(f"{named}: {options.environments} cold starts", flush=True)
    return validate_stack(
        stack,
        Options(environments=options.environments, limits=_limits(options)),
        options.out,
        event=json.dumps(_event(options.event) or {}),
        roll_back_to=options.roll_back_to,
        on_step=_print_step,
    )


def _release(options: argparse.Namespace) -> Release:
    new = options.code or options.migrations
    if new is None:
        return example_release(_shop(options))
    return make_release(
        new.resolve(),
        old=None if options.old is None else options.old.resolve(),
        through=options.through,
        bare=options.migrations is not None,
        handler=options.handler,
        event=_event(options.event),
        variables=_pairs(options.variable),
    )


def _pairs(given: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in given)}


def _event(text: str | None) -> Any:
    if text is None:
        return None
    path = Path(text)
    try:
        return json.loads(path.read_text() if not text.lstrip().startswith("{") else text)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--event {text}: {error}; write JSON, or name a file") from error


def _how(options: argparse.Namespace) -> Options:
    is_own = bool(options.code or options.migrations)
    checks = options.checks or (None if is_own else _EXAMPLE_CHECKS)
    return Options(
        environments=options.environments,
        clients=options.clients,
        processes=options.processes,
        limits=_limits(options),
        shop=None if is_own else _shop(options),
        dump=options.dump,
        data=options.data,
        checks=read_checks(checks) if checks else (),
        may_change=frozenset(options.may_change),
        template=options.template,
        parameters=_pairs(options.parameter),
        postgresql=options.postgresql,
    )


def _shop(options: argparse.Namespace) -> ShopData:
    return ShopData(options.orders, options.seed, options.until)


def _limits(options: argparse.Namespace) -> Limits:
    return Limits(
        options.longest_lock, options.slowest_request, options.failed_requests, options.longest_wait
    )


def _data_of(options: argparse.Namespace) -> str:
    if options.code or options.migrations:
        return str(options.dump or options.data or "no data")
    return f"{options.orders:,} orders (seed {options.seed}, until {options.until})"


def _repeat(arguments: Sequence[str], options: argparse.Namespace) -> str:
    """The command that repeats this run; the data depends on the day, so that is named."""
    until = [] if "--until" in arguments else ["--until", str(options.until)]
    return shlex.join(["python", "-m", "load.staging", *arguments, *until])


def _print_step(step: StepResult) -> None:
    print(f"{step.seconds:6.1f} s  {step.name}", flush=True)
    widest = max((len(one.what) for one in step.verdicts), default=0)
    for one in step.verdicts:
        print(f"          {_MARKS[one.state]}  {one.what:<{widest}}  {one.found}", flush=True)


# -- types of options ------------------------------------------------------------------------


def _count(text: str) -> int:
    value = int(text.replace(",", "").replace("_", ""))
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: write a number from 0")
    return value


def _number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: write a number from 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: write seconds, more than 0")
    return value


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: write a day as 2026-01-31") from None


def _today() -> date:
    return datetime.now(timezone.utc).date()


if __name__ == "__main__":
    raise SystemExit(main())
