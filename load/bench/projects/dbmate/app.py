import os
import shlex
import subprocess


def handler(event, context):
    command = shlex.split(os.environ["DBMATE"])
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
