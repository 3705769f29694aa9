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
from dataclasses import asdict
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.process import ProcessError
from load.staging.checks import read_checks
from load.staging.generated_orders import GeneratedOrders
from load.staging.release import Release, example_release, make_release
from load.staging.report import format_step, write_report
from load.staging.steps import StepResult
from load.staging.validation import Options, Validation, validate
from load.staging.verdicts import Limits, decide

__all__ = ["main"]

_EXAMPLE_CHECKS = Path(__file__).parents[2] / "examples" / "orders" / "tests" / "checks.sql"


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate the release that the arguments name."""
    parser = _make_parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    _refuse_contradictions(parser, options)
    began = time.monotonic()
    try:
        found = _validate(options)
    except (ConfigurationError, ProcessError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every process has been ended.", file=sys.stderr)
        return 130
    # The data depends on the day, so the command that repeats the run names it.
    until = [] if "--until" in arguments else ["--until", str(options.until)]
    command = shlex.join(["python", "-m", "load.staging", *arguments, *until])
    seconds = time.monotonic() - began
    report = write_report(found, options.out, seconds=seconds, command=command)
    decision = decide(found.steps)
    print(f"{seconds:6.1f} s  {report}")
    for reason in decision.reasons:
        print(f"          {reason}")
    print(decision.label.upper())
    return 1 if decision.reasons else 0


def _make_parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(prog="python -m load.staging", description=__doc__)
    example = parser.add_argument_group("data of the example")
    example.add_argument("--orders", type=_count, default=1_000_000, help="number (1,000,000)")
    example.add_argument("--seed", type=int, default=1, help="seed of the data (1)")
    today = datetime.now(timezone.utc).date()
    example.add_argument(
        "--until", type=_day, default=today, help="day after the last order (today)"
    )
    own = parser.add_argument_group("a release of your own, instead of the example's")
    own.add_argument("--code", type=Path, help="folder of the new function")
    own.add_argument("--old", type=Path, help="the same of the function that serves today")
    own.add_argument(
        "--from", type=int, dest="last_version", help="its last migration, instead of --old"
    )
    own.add_argument("--event", help="JSON that clients send, or a file with it")
    own.add_argument("--dump", type=Path, help="dump by pg_dump")
    run = parser.add_argument_group("how")
    run.add_argument("-n", type=_number, dest="environments", default=40, help="cold starts (40)")
    run.add_argument("--clients", type=_number, default=6, help="clients of the old version (6)")
    run.add_argument(
        "--processes",
        choices=("separate", "forked"),
        default="separate",
        help="forked ones start faster and need less memory (separate)",
    )
    run.add_argument("--checks", type=Path, help="SQL file of checks of the data")
    run.add_argument(
        "--may-change",
        action="append",
        default=[],
        metavar="TABLE.COLUMN",
        help="column that the release changes on purpose",
    )
    run.add_argument("--out", type=Path, default=Path("staging-report"), help="report folder")
    accepted = parser.add_argument_group("limits")
    for name, kind, default, text in (
        ("--longest-lock", _seconds, limits.lock_seconds, "seconds"),
        ("--slowest-request", _seconds, limits.request_seconds, "seconds"),
        ("--failed-requests", _count, limits.failed_requests, "number"),
        ("--longest-wait", _seconds, limits.wait_seconds, "seconds"),
    ):
        accepted.add_argument(name, type=kind, default=default, help=f"{text} ({default:g})")
    return parser


def _refuse_contradictions(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.code and (options.old is None) == (options.last_version is None):
        parser.error("name what serves today: either --old FOLDER or --from VERSION")
    for_own = [options.old, options.last_version, options.dump, options.event]
    if not options.code and any(value is not None for value in for_own):
        parser.error("--old, --from, --dump and --event go with --code")


def _validate(options: argparse.Namespace) -> Validation:
    if options.code is None:
        generated = GeneratedOrders(options.orders, options.seed, options.until)
        release: Release = example_release(generated)
        data = f"{options.orders:,} orders (seed {options.seed}, until {options.until})"
    else:
        generated, data = None, str(options.dump or "no data")
        release = make_release(
            options.code.resolve(),
            old=options.old and options.old.resolve(),
            last_version=options.last_version,
            client_event=_read_event(options.event),
        )
    checks = options.checks or (None if options.code else _EXAMPLE_CHECKS)
    run = Options(
        environments=options.environments,
        clients=options.clients,
        processes=options.processes,
        limits=Limits(
            options.longest_lock,
            options.slowest_request,
            options.failed_requests,
            options.longest_wait,
        ),
        generated=generated,
        dump=options.dump,
        checks=read_checks(checks) if checks else (),
        may_change=frozenset(options.may_change),
    )
    print(f"{release.name}: {data}, {run.environments} cold starts", flush=True)
    return validate(release, run, options.out, on_step=_print_step)


def _read_event(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--event {text}: {error}; write JSON, or name a file") from error


def _print_step(step: StepResult) -> None:
    verdicts = [asdict(one) for one in step.verdicts]
    print(format_step(step.name, step.seconds, verdicts), flush=True)


# -- types of options ------------------------------------------------------------------------


def _count(text: str) -> int:
    value = int(text.replace(",", ""))
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


if __name__ == "__main__":
    raise SystemExit(main())
