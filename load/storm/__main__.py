"""``python -m load.storm``: cold-start storms with real runtimes, checked and reported.

Exit codes: 0, every verdict passed; 1, one failed; 2, wrong usage, or something is not installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeAPI
from lambda_migrate.local.runtime.process import ProcessError
from lambda_migrate.local.servers.dynamodb import install_dynalite
from load.storm.evidence import StormEvidence, collect_evidence
from load.storm.scenarios import SCENARIOS, STANDARD_SET, Scenario, make_package, make_scenario
from load.storm.testbed import StormFunction, Testbed, open_testbed
from load.storm.verdicts import verdicts, write_report

_LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
_LOCUST_TIMEOUT_SECONDS = 1_800.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the storms that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m load.storm", description=__doc__)
    names = ", ".join(SCENARIOS)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"{names} (default: the standard set)"
    )
    parser.add_argument("-n", type=at_least(1), help="cold starts of each storm")
    parser.add_argument("--out", type=Path, default=Path("storm-report"))
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {names}")
    if options.n is None:
        sizes = [each for each in STANDARD_SET if each[0] in (options.scenarios or SCENARIOS)]
    else:
        sizes = [(name, options.n) for name in options.scenarios or SCENARIOS]
    scenarios = [make_scenario(name, n) for name, n in sizes]
    return run_program(lambda: _run_scenarios(scenarios, options.out))


def at_least(minimum: int, number_type: type[float] = int) -> Callable[[str], float]:
    """The type of an option: a number that is not less."""

    def read_number(text: str) -> float:
        value = number_type(text.replace(",", ""))
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"{text}: write {minimum} or more")
        return value

    return read_number


def run_program(run: Callable[[], int]) -> int:
    """The exit code of a program: 2 if something is not installed, or did not start."""
    try:
        return run()
    except (ConfigurationError, ProcessError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every process has been ended.", file=sys.stderr)
        return 130


def _run_scenarios(scenarios: Sequence[Scenario], out: Path) -> int:
    install_dynalite(report=lambda _: None)
    failed = 0
    for scenario in scenarios:
        print(f"{scenario.name} ...", flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="lm-storm-") as home,
            open_testbed(scenario, make_package(scenario.kind), Path(home)) as testbed,
        ):
            evidence = run_on_testbed(testbed, out / scenario.name)
        results = verdicts(evidence)
        write_report(evidence, results, out / scenario.name)
        for one in results:
            state = "FAILED" if one.state == "failed" else one.state
            print(f"  {state:<12}  {one.name}: {one.measured}")
        failed += sum(one.state == "failed" for one in results)
    print(f"{len(scenarios)} storms; {out}/*/report.md")
    print(f"FAILED: {failed} verdicts" if failed else "All passed.")
    return 1 if failed else 0


def run_on_testbed(testbed: Testbed, out: Path) -> StormEvidence:
    """Run the storm of a testbed, with Locust's reports in ``out``."""
    began = time.monotonic()
    scenario, function = testbed.scenario, StormFunction(testbed)
    function.prepare()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "locust.log"
    with InvokeAPI([cast(LocalFunction, function)]) as api, log.open("w") as output:
        command = [
            *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless"),
            *("--csv", str(out / "locust"), "--html", str(out / "locust.html"), "--only-summary"),
            *("--exit-code-on-error", "0", "--loglevel", "WARNING", "--stop-timeout", "5"),
            *("--storm", scenario.shape, "-n", str(scenario.environments), "--local"),
            *("--function", function.name),
            *("--clients", str(scenario.clients), "--warm", str(scenario.warm)),
        ]
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_LOCUST_TIMEOUT_SECONDS,
            check=False,
            cwd=_LOCUSTFILE.parents[1],
            env={**os.environ, **api.variables(), "NO_PROXY": "127.0.0.1"},
        )
    if done.returncode != 0:
        raise ProcessError(f"Locust failed ({done.returncode}):\n{log.read_text()[-2000:]}")
    return collect_evidence(function, prefix=out / "locust", seconds=time.monotonic() - began)


if __name__ == "__main__":
    raise SystemExit(main())
