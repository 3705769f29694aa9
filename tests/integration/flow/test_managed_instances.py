"""Lambda Managed Instances: 16 processes of one environment make one check, with real processes.

Lambda's own runtime client forks the processes there (``lambda_multi_concurrent_utils``), so that
all have one parent, as here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.sandbox import COUNTERS, Sandbox, effect, running, sleeps_once, until

PROCESSES = 16

ENVIRONMENT = '''
"""Forks processes that each handle one invocation; prints what each responded."""
import multiprocessing, os, sys
from lambda_migrate import migrate_on_cold_start

class Context:
    aws_request_id = "request"
    def get_remaining_time_in_millis(self):
        return 30_000

def work(number):
    @migrate_on_cold_start
    def handler(event, context):
        return "served"
    sys.stdout.write(f"{number} {handler({}, Context())}\\n")
    sys.stdout.flush()

if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=work, args=(n,)) for n in range(int(sys.argv[1]))]
    for child in children:
        child.start()
    print("pids", *(child.pid for child in children), flush=True)
    for child in children:
        child.join()
'''
MIGRATIONS = {"1_counters": COUNTERS, "2_slow": effect(2, "SELECT pg_sleep(1);")}


class Environment:
    """An execution environment: a process that forks the others.

    Args:
        sandbox: Its database and lease table.
        code: The folder of the code.
        access_key: The lease table counts its requests by this key.
    """

    def __init__(self, sandbox: Sandbox, code: Path, access_key: str) -> None:
        self._sandbox = sandbox
        self._access_key = access_key
        variables = {
            **os.environ,
            **sandbox.variables(),
            **sandbox.dynamodb.variables(access_key=access_key),
            "AWS_LAMBDA_FUNCTION_NAME": "orders",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "lambda-managed-instances",
            "LAMBDA_TASK_ROOT": str(code),
            "TMPDIR": str(code),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(code / "app.py"), str(PROCESSES)],
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.processes: list[int] = []

    def wait(self) -> int:
        """How many processes served."""
        text = self._output.read()
        assert self._process.wait(120) == 0
        return text.count("served")

    def requests(self) -> int:
        return sum(self._sandbox.dynamodb.requests(self._access_key).values())

    def read_process_ids(self) -> list[int]:
        line = self._output.readline().split()
        assert line[0] == "pids"
        return [int(word) for word in line[1:]]


def test_the_processes_of_an_environment_make_one_check(sandbox: Sandbox) -> None:
    code = sandbox.code(MIGRATIONS, handler=ENVIRONMENT)
    first = Environment(sandbox, code, "first-environment")
    assert first.wait() == PROCESSES
    assert sandbox.effects() == {1: 1, 2: 1}
    second = Environment(sandbox, code, "second-environment")
    assert second.wait() == PROCESSES
    assert second.requests() == 1


def test_a_killed_process_leaves_the_check_to_the_next_one(sandbox: Sandbox) -> None:
    code = sandbox.code(
        {"1_counters": COUNTERS, "2_slow": effect(2, sleeps_once(30))}, handler=ENVIRONMENT
    )
    environment = Environment(sandbox, code, "killed-process")
    processes = environment.read_process_ids()
    until(running(sandbox, "pg_sleep"), what="the migration runs")
    holder = sandbox.item().owner
    assert holder is not None
    killed = int(holder.split("/")[1])
    assert killed in processes
    os.kill(killed, signal.SIGKILL)
    assert environment.wait() == PROCESSES - 1
    assert sandbox.effects() == {1: 1, 2: 1}
