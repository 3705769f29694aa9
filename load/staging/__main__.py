"""``python -m load.staging``: rehearse a release, and say go or no-go.

Exit codes: 0, go; 1, no-go; 2, wrong usage, or something is not installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.process import ProcessError
from load.staging.checks import read_checks
from load.staging.rehearsal import TEMPLATE, Rehearsal, Wanted, rehearse
from load.staging.release import Release, make_release, of_the_example
from load.staging.report import write
from load.staging.shop import Shop
from load.staging.stack import find, rehearse_stack
from load.staging.verdicts import Limits, Step, decide

__all__ = ["main"]

_EXAMPLE_CHECKS = Path(__file__).parents[2] / "examples" / "orders" / "tests" / "checks.sql"
_OURS = (
    "AWS_ENDPOINT_URL",
    "DATABASE_URL=",
    "LAMBDA_MIGRATE_DATABASE",
    "LAMBDA_MIGRATE_SCHEMA=",
    "LAMBDA_MIGRATE_TABLE=",
    "LAMBDA_MIGRATE_TARGET=",
    "POWERTOOLS_METRICS_NAMESPACE=",
    "POWERTOOLS_SERVICE_NAME=",
)
"""What the function's variables may not be, or begin with: the servers are the rehearsal's own."""

_MARKS = {"passed": "passed", "failed": "FAILED", "not measured": "  ?   "}


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse what was asked for."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    _refuse_contradictions(parser, asked)
    began = time.monotonic()
    try:
        rehearsal = _rehearse_stack(asked) if _is_deployed(asked) else _rehearse(asked)
    except (ConfigurationError, ProcessError) as fault:
        print(fault, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every process has been ended.", file=sys.stderr)
        return 130
    decision = decide(rehearsal.steps)
    page = write(rehearsal, asked.out, seconds=time.monotonic() - began, command=_repeat(asked))
    print(f"{time.monotonic() - began:6.1f} s  {page}")
    for reason in decision.reasons:
        print(f"          {reason}")
    print(decision.word.upper())
    return 0 if decision.go else 1


def _parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(prog="python -m load.staging", description=__doc__)
    shop = parser.add_argument_group("data of the example")
    shop.add_argument("--orders", type=_count, default=1_000_000, help="how many (1,000,000)")
    shop.add_argument("--seed", type=int, default=1, help="the same seed, the same data (1)")
    shop.add_argument(
        "--until", type=_day, default=_today(), help="the day after the last order (today)"
    )
    own = parser.add_argument_group("a release of your own, instead of the example's")
    own.add_argument("--code", type=Path, help="folder of the function that comes")
    own.add_argument("--migrations", type=Path, help="instead: a folder of migrations alone")
    own.add_argument("--old", type=Path, help="the same of what serves today")
    own.add_argument(
        "--from", type=int, dest="through", help="instead: the last migration that it has"
    )
    own.add_argument("--handler", default="app.handler", help="module.function (app.handler)")
    own.add_argument("--event", help="JSON that clients send, or a file that holds it")
    own.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE")
    own.add_argument("--dump", type=Path, help="schema and data, as pg_dump writes them")
    own.add_argument("--data", type=Path, help="data alone, read once the old schema is there")
    stack = parser.add_argument_group("a stack that is deployed, instead of the local Lambda")
    stack.add_argument("--stack", default="", help="of CloudFormation, as template.yaml makes it")
    stack.add_argument("--function", default="", help="NAME or NAME:ALIAS, instead of the stack's")
    stack.add_argument("--admin-function", default="", help="instead of the stack's")
    stack.add_argument(
        "--roll-back-to", type=_count, metavar="VERSION", help="take the schema back, and up again"
    )
    how = parser.add_argument_group("how")
    how.add_argument("-n", type=_number, dest="environments", default=40, help="cold starts (40)")
    how.add_argument("--clients", type=_number, default=6, help="who use the old version (6)")
    how.add_argument(
        "--processes",
        choices=("separate", "forked"),
        default="separate",
        help="forked ones start sooner and take less memory",
    )
    how.add_argument("--checks", type=Path, help="SQL file of questions to the data")
    how.add_argument(
        "--may-change", action="append", default=[], metavar="TABLE.COLUMN", help="may be another"
    )
    how.add_argument("--template", type=Path, default=TEMPLATE, help="whose alarms are looked at")
    how.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE", help="of it")
    how.add_argument("--postgresql", type=int, metavar="MAJOR", help="production's version")
    how.add_argument("--out", type=Path, default=Path("staging-report"))
    borne = parser.add_argument_group("what is borne")
    borne.add_argument(
        "--longest-lock", type=_seconds, default=limits.lock, help="seconds (%(default)g)"
    )
    borne.add_argument(
        "--slowest-request", type=_seconds, default=limits.request, help="seconds (%(default)g)"
    )
    borne.add_argument("--failed-requests", type=_count, default=limits.failed, help="(0)")
    borne.add_argument(
        "--longest-wait", type=_seconds, default=limits.wait, help="seconds (%(default)g)"
    )
    return parser


def _refuse_contradictions(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> None:
    own = asked.code or asked.migrations
    if own and _is_deployed(asked):
        parser.error("--code and --migrations are rehearsed here: leave --stack and --function out")
    if asked.roll_back_to is not None and not _is_deployed(asked):
        parser.error("--roll-back-to goes with --stack or --admin-function")
    if asked.code and asked.migrations:
        parser.error("--code and --migrations: name one of them")
    if own and (asked.old is None) == (asked.through is None):
        parser.error("name what serves today: either --old FOLDER or --from VERSION")
    theirs = [asked.old, asked.through, asked.dump, asked.data, *asked.variable]
    if not own and any(one is not None for one in theirs):
        parser.error("--old, --from, --variable, --dump and --data go with --code")
    if asked.event is not None and not (own or _is_deployed(asked)):
        parser.error("--event goes with --code, or with --stack")
    for option, pairs in (("variable", asked.variable), ("parameter", asked.parameter)):
        for pair in pairs:
            if not pair.partition("=")[1]:
                parser.error(f"--{option} {pair}: write NAME=VALUE")
            if option == "variable" and pair.startswith(_OURS):
                parser.error(f"--variable {pair}: the rehearsal sets that itself")


def _is_deployed(asked: argparse.Namespace) -> bool:
    return bool(asked.stack or asked.function or asked.admin_function)


def _rehearse(asked: argparse.Namespace) -> Rehearsal:
    release, wanted = _release(asked), _wanted(asked)
    print(f"{release.name}: {_data_of(asked)}, {wanted.environments} cold starts", flush=True)
    return rehearse(release, wanted, asked.out, on_step=_tell)


def _rehearse_stack(asked: argparse.Namespace) -> Rehearsal:
    named = find(stack=asked.stack, function=asked.function, admin=asked.admin_function)
    event = json.dumps(_event(asked.event) or {})
    told = ", ".join(filter(None, (named.stack, named.function, named.admin)))
    print(f"{told}: {asked.environments} cold starts", flush=True)
    return rehearse_stack(
        named,
        Wanted(environments=asked.environments, limits=_limits(asked)),
        asked.out,
        event=event,
        roll_back_to=asked.roll_back_to,
        on_step=_tell,
    )


def _release(asked: argparse.Namespace) -> Release:
    new = asked.code or asked.migrations
    if new is None:
        return of_the_example(_shop(asked))
    return make_release(
        new.resolve(),
        old=None if asked.old is None else asked.old.resolve(),
        through=asked.through,
        bare=asked.migrations is not None,
        handler=asked.handler,
        event=_event(asked.event),
        variables=_pairs(asked.variable),
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


def _wanted(asked: argparse.Namespace) -> Wanted:
    is_own = bool(asked.code or asked.migrations)
    checks = asked.checks or (None if is_own else _EXAMPLE_CHECKS)
    return Wanted(
        environments=asked.environments,
        clients=asked.clients,
        processes=asked.processes,
        limits=_limits(asked),
        shop=None if is_own else _shop(asked),
        dump=asked.dump,
        data=asked.data,
        checks=read_checks(checks) if checks else (),
        may_change=frozenset(asked.may_change),
        template=asked.template,
        parameters=_pairs(asked.parameter),
        postgresql=asked.postgresql,
    )


def _shop(asked: argparse.Namespace) -> Shop:
    return Shop(asked.orders, asked.seed, asked.until)


def _limits(asked: argparse.Namespace) -> Limits:
    return Limits(
        asked.longest_lock, asked.slowest_request, asked.failed_requests, asked.longest_wait
    )


def _data_of(asked: argparse.Namespace) -> str:
    if asked.code or asked.migrations:
        return str(asked.dump or asked.data or "no data")
    return f"{asked.orders:,} orders (seed {asked.seed}, until {asked.until})"


def _repeat(asked: argparse.Namespace) -> str:
    """How to see the same again: the data depends on the day, unless it is named."""
    given = [f"--{name} {value}" for name, value in _own_of(asked).items()]
    return " ".join(["python -m load.staging", *given])


def _own_of(asked: argparse.Namespace) -> dict[str, Any]:
    if _is_deployed(asked):
        named = {"stack": asked.stack or None, "function": asked.function or None}
        named |= {"admin-function": asked.admin_function or None, "event": asked.event}
        named |= {"roll-back-to": asked.roll_back_to}
    elif asked.code or asked.migrations:
        named = {"code": asked.code, "migrations": asked.migrations, "old": asked.old}
        named |= {"from": asked.through, "dump": asked.dump, "data": asked.data}
        named |= {"checks": asked.checks}
    else:
        named = {"orders": asked.orders, "seed": asked.seed, "until": asked.until}
    return {name: value for name, value in named.items() if value is not None}


def _tell(step: Step) -> None:
    print(f"{step.seconds:6.1f} s  {step.name}", flush=True)
    widest = max((len(one.what) for one in step.verdicts), default=0)
    for one in step.verdicts:
        print(f"          {_MARKS[one.state]}  {one.what:<{widest}}  {one.found}", flush=True)


# -- what an option may be ------------------------------------------------------------------------


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
