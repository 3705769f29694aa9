"""``python -m load.staging``: validate the release of the example, and decide go or no-go.

Exit codes: 0, go; 1, no-go; 2, wrong usage, or something is not installed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.demo.example import find_example
from lambda_migrate.local.runtime.process import ProcessError
from load.staging.generated_orders import GeneratedOrders, GeneratedOrdersPackage
from load.staging.report import format_step, write_report
from load.staging.validation import Options, open_validation
from load.staging.verdicts import Decision, Limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate the release with the options that the arguments name."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _make_parser().parse_args(arguments)
    # The data depends on the day, so the command that repeats the run names it.
    until = [] if "--until" in arguments else ["--until", str(options.until)]
    command = shlex.join(["python", "-m", "load.staging", *arguments, *until])
    try:
        decision = _validate(options, command)
    except (ConfigurationError, ProcessError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every process has been ended.", file=sys.stderr)
        return 130
    print(options.out / "report.md")
    for reason in decision.reasons:
        print(f"          {reason}")
    print(decision.label.upper())
    return 1 if decision.reasons else 0


def _make_parser() -> argparse.ArgumentParser:
    limits = Limits()
    today = datetime.now(timezone.utc).date()
    parser = argparse.ArgumentParser(prog="python -m load.staging", description=__doc__)
    add = parser.add_argument
    add("--orders", type=_count, default=1_000_000, help="orders in the tables (1,000,000)")
    add("--seed", type=int, default=1, help="seed of the data (1)")
    add("--until", type=_day, default=today, help="day after the last order (today)")
    add("-n", type=_number, dest="environments", default=40, help="cold starts (40)")
    add("--clients", type=_number, default=6, help="clients of the old version (6)")
    add("--out", type=Path, default=Path("staging-report"), help="report folder (%(default)s)")
    accepted = parser.add_argument_group("limits")
    for name, kind, default, unit in (
        ("--longest-lock", _seconds, limits.lock_seconds, "seconds"),
        ("--slowest-request", _seconds, limits.request_seconds, "seconds"),
        ("--failed-requests", _count, limits.failed_requests, "number"),
        ("--longest-wait", _seconds, limits.wait_seconds, "seconds"),
    ):
        accepted.add_argument(name, type=kind, default=default, help=f"{unit} ({default:g})")
    return parser


def _validate(options: argparse.Namespace, command: str) -> Decision:
    generated = GeneratedOrders(options.orders, options.seed, options.until)
    limits = Limits(
        options.longest_lock,
        options.slowest_request,
        options.failed_requests,
        options.longest_wait,
    )
    run = Options(options.environments, options.clients, limits)
    print(
        f"examples/orders, version 1 to 2: {options.orders:,} orders (seed {options.seed}, until "
        f"{options.until}), {run.environments} cold starts",
        flush=True,
    )
    steps = []
    package = GeneratedOrdersPackage(find_example(), generated=generated)
    with open_validation(package, run, options.out) as validation:
        for step in validation.run():
            print(format_step(step), flush=True)
            steps.append(step)
    return write_report(steps, validation.storms, limits, options.out, command=command)


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
