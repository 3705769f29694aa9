"""``python -m load.storm``: cold-start storms with real runtimes, checked and reported.

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
from load.storm.packages import package_of
from load.storm.report import write_report
from load.storm.scenarios import SCENARIOS, STANDARD_SET, Scenario, make_scenario
from load.storm.testbed import Testbed, open_testbed
from load.storm.verdicts import verdicts

__all__ = ["main", "run_locust", "run_on_testbed"]

_LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
_LOCUST_SECONDS = 1_800.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the storms that the arguments name."""
    scenarios, out = _parse(arguments)
    try:
        if any(scenario.engine == "dynalite" for scenario in scenarios):
            install_dynalite(report=lambda _: None)
        return _run_all(scenarios, out)
    except (ConfigurationError, ProcessError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; every process has been ended.", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> tuple[list[Scenario], Path]:
    parser = argparse.ArgumentParser(prog="python -m load.storm", description=__doc__)
    names = ", ".join(SCENARIOS)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"{names} (default: the standard set)"
    )
    parser.add_argument("-n", type=int, dest="environments", help="cold starts of each storm")
    parser.add_argument("--engine", choices=("moto", "dynalite", "dynamodb-local"))
    parser.add_argument("--processes", choices=("separate", "forked"))
    parser.add_argument("--out", type=Path, default=Path("storm-report"))
    options = parser.parse_args(arguments)
    if options.environments is not None and options.environments < 1:
        parser.error(f"-n {options.environments}: write a number from 1")
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {names}")
    entries = [entry for entry in STANDARD_SET if entry[0] in (options.scenarios or SCENARIOS)]
    if options.scenarios and (options.environments or options.engine or options.processes):
        # Once each, instead of the several sizes of the standard set.
        entries = [next(e for e in entries if e[0] == name) for name in options.scenarios]
    scenarios = [
        make_scenario(
            name,
            options.environments or n,
            engine=options.engine or engine,
            processes=options.processes or processes,
        )
        for name, n, engine, processes in entries
    ]
    return scenarios, options.out


def _run_all(scenarios: Sequence[Scenario], out: Path) -> int:
    failed = 0
    for scenario in scenarios:
        print(f"{scenario.name}, {scenario.engine} ...", flush=True)
        evidence = _run_storm(scenario, out / scenario.name)
        results = verdicts(evidence)
        write_report(evidence, results, out / scenario.name)
        for one in results:
            state = "FAILED" if one.state == "failed" else one.state
            print(f"  {state:<12}  {one.what}: {one.found}")
        failed += sum(one.state == "failed" for one in results)
    print(f"{len(scenarios)} storms; {out}/*/report.md")
    print(f"FAILED: {failed} verdicts" if failed else "All passed.")
    return 1 if failed else 0


def _run_storm(scenario: Scenario, out: Path) -> Evidence:
    with (
        tempfile.TemporaryDirectory(prefix="lm-storm-") as home,
        open_testbed(scenario, package_of(scenario.kind), Path(home)) as testbed,
    ):
        return run_on_testbed(testbed, out)


def run_on_testbed(testbed: Testbed, out: Path) -> Evidence:
    """Run the storm of a testbed.

    Raises:
        ProcessError: Locust failed.
    """
    began = time.monotonic()
    scenario, host = testbed.scenario, Host(testbed)
    host.prepare()
    with serve(host) as url:
        run_locust(
            *("--storm", scenario.shape, "-n", str(scenario.environments), "--control", url),
            *("--waves", str(len(scenario.waves)), "--clients", str(scenario.clients)),
            *("--warm", str(scenario.warm), "--stop-timeout", "5"),
            out=out,
        )
    return gather_evidence(host, locust=out / "locust", seconds=time.monotonic() - began)


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
