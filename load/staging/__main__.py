"""``python -m load.staging``: validate the release of the example, and decide go or no-go.

Exit codes: 0, go; 1, no-go; 2, wrong usage, or something is not installed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from lambda_migrate.local.demo.example import find_example
from load.staging.generated_orders import GeneratedOrders, GeneratedOrdersPackage
from load.staging.validation import open_validation
from load.staging.verdicts import Limits, format_step, write_report
from load.storm.__main__ import at_least, run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate the release with the options that the arguments name."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _make_parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "load.staging", *arguments])
    return run_program(lambda: _run_validation(options, command))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load.staging", description=__doc__)
    add = parser.add_argument
    add("--orders", type=at_least(0), default=1_000_000, help="orders in the tables (1,000,000)")
    add("--seed", type=int, default=1, help="seed of the data (1)")
    add("-n", type=at_least(1), dest="environments", default=40, help="cold starts (40)")
    add("--clients", type=at_least(1), default=6, help="clients of the old version (6)")
    add("--out", type=Path, default=Path("staging-report"), help="report folder (%(default)s)")
    group = parser.add_argument_group("limits")
    for field in fields(Limits):
        unit, kind = ("number", int) if field.type == "int" else ("seconds", float)
        option, text = f"--{field.name.replace('_', '-')}", f"{unit} ({field.default:g})"
        group.add_argument(option, type=at_least(0, kind), default=field.default, help=text)
    return parser


def _run_validation(options: argparse.Namespace, command: str) -> int:
    orders = GeneratedOrders(options.orders, options.seed)
    package = GeneratedOrdersPackage(find_example(), generated_orders=orders)
    sizes = {"environments": options.environments, "clients": options.clients}
    limits = Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})
    print(
        f"examples/orders, version 1 to 2: {options.orders:,} orders (seed {options.seed}), "
        f"{options.environments} cold starts",
        flush=True,
    )
    steps = []
    with open_validation(package, options.out, **sizes, limits=limits) as validation:
        for step in validation.run():
            print(format_step(step), flush=True)
            steps.append(step)
    decision = write_report(steps, validation.storms, limits, options.out, command=command)
    print(options.out / "report.md")
    for reason in decision.reasons:
        print(f"          {reason}")
    print(decision.label.upper())
    return 1 if decision.reasons else 0


if __name__ == "__main__":
    raise SystemExit(main())
