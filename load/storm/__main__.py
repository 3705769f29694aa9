"""``python -m load.storm``: cold-start storms with real runtimes, judged and reported.

Exit codes: 0, every verdict passed; 1, one failed; 2, wrong usage, or something is not installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.process import ProcessError
from lambda_migrate.local.servers.dynamodb import install_dynalite
from load.storm.evidence import Evidence, gather_evidence
from load.storm.host import Host, serve
from load.storm.packages import Package, package_of
from load.storm.report import write, write_index
from load.storm.scenarios import SCENARIOS, STANDARD, Scenario, make
from load.storm.testbed import open_testbed
from load.storm.verdicts import Verdict, verdicts

__all__ = ["drive", "main", "run_locust", "run_storm"]

_LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
_LOCUST_SECONDS = 1_800.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the storms that the arguments name."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.environments is not None and options.environments < 1:
        parser.error(f"-n {options.environments}: write a number from 1")
    scenarios = _select(options)
    try:
        if any(scenario.engine == "dynalite" for scenario in scenarios):
            install_dynalite(report=lambda _: None)
        return _run_all(scenarios, options.out)
    except (ConfigurationError, ProcessError) as fault:
        print(fault, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every process has been ended.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load.storm", description=__doc__)
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"{', '.join(SCENARIOS)} (the standard set)",
    )
    parser.add_argument("-n", type=int, dest="environments", help="cold starts of each storm")
    parser.add_argument("--engine", choices=("moto", "dynalite", "dynamodb-local"))
    parser.add_argument("--processes", choices=("separate", "forked"))
    parser.add_argument("--out", type=Path, default=Path("storm-report"))
    return parser


def _select(options: argparse.Namespace) -> list[Scenario]:
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown:
        _parser().error(f"no such scenario: {', '.join(unknown)}")
    names = options.scenarios or SCENARIOS
    standard = [entry for entry in STANDARD if entry[0] in names]
    own = any((options.environments, options.engine, options.processes))
    if options.scenarios and own:  # once each, instead of the several sizes of the standard set
        standard = list({entry[0]: entry for entry in reversed(standard)}.values())[::-1]
    return [
        make(
            name,
            options.environments or n,
            engine=options.engine or engine,
            processes=options.processes or processes,
        )
        for name, n, engine, processes in standard
    ]


def _run_all(scenarios: Sequence[Scenario], out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    began = time.monotonic()
    for scenario in scenarios:
        print(
            f"{time.monotonic() - began:6.1f} s  {scenario.name}, {scenario.engine} ...", flush=True
        )
        evidence = run_storm(scenario, package_of(scenario.kind), out / scenario.name)
        found = verdicts(evidence)
        write(evidence, found, out / scenario.name)
        write_index(out)
        _print_verdicts(found)
        failed += sum(one.state == "failed" for one in found)
    print(f"{time.monotonic() - began:6.1f} s  {len(scenarios)} storms; {out / 'index.html'}")
    print(f"FAILED: {failed} verdicts" if failed else "All passed.")
    return 1 if failed else 0


def _print_verdicts(found: Sequence[Verdict]) -> None:
    widest = max(len(one.what) for one in found)
    for one in found:
        mark = {"passed": "passed", "failed": "FAILED", "not measured": "  ?   "}[one.state]
        print(f"          {mark}  {one.what:<{widest}}  {one.found}")


def run_storm(scenario: Scenario, package: Package, out: Path) -> Evidence:
    """Run one storm on servers of its own.

    Args:
        scenario: The storm.
        package: What is deployed.
        out: The folder for Locust's report.

    Raises:
        ConfigurationError: Something is not installed.
        ProcessError: A server did not start, or Locust failed.
    """
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="lm-storm-") as home,
        open_testbed(scenario, package, Path(home)) as testbed,
    ):
        host = Host(testbed)
        host.prepare()
        with serve(host) as url:
            drive(scenario, url, out)
        return gather_evidence(host, locust=out / "locust", seconds=time.monotonic() - began)


def drive(scenario: Scenario, url: str, out: Path) -> None:
    """Let Locust run the scenario's shape against ``url``; see `run_locust`."""
    run_locust(
        *("--storm", scenario.shape, "-n", str(scenario.environments), "--control", url),
        *("--waves", str(len(scenario.waves)), "--clients", str(scenario.clients)),
        *("--warm", str(scenario.warm), "--stop-timeout", "5"),
        out=out,
    )


def run_locust(*options: str, out: Path) -> None:
    """Run the locustfile to its end, with its reports in ``out``.

    Raises:
        ProcessError: Locust itself failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--only-summary"),
        *("--csv", str(out / "locust"), "--html", str(out / "locust.html")),
        *("--exit-code-on-error", "0", "--loglevel", "WARNING", *options),
    ]
    log = out / "locust.log"
    with log.open("w") as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_LOCUST_SECONDS,
            check=False,
            cwd=_LOCUSTFILE.parents[1],
        )
    if done.returncode != 0:
        raise ProcessError(f"Locust failed ({done.returncode}):\n{log.read_text()[-2000:]}")


if __name__ == "__main__":
    raise SystemExit(main())
