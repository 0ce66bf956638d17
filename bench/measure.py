"""Measures a process (duration, CPU time, peak memory) and a Lambda invocation (duration)."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from bench.paths import WORK
from devstack.lambda_runtime import INVOCATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

INVOCATION_TIMEOUT = 60  # seconds
_KIB_PER_MIB = 1024


class BenchError(Exception):
    """An implementation failed, so its measurements are invalid."""


@dataclass(frozen=True)
class Usage:
    """A process's duration and CPU time in seconds, peak memory in MiB, and last line of output."""

    seconds: float
    cpu: float
    peak: float
    output: str


def environment(url: str, **variables: str) -> dict[str, str]:
    """Return the complete environment of an implementation, similar to Lambda's."""
    return {
        "PATH": os.defpath,
        "HOME": str(WORK),
        "LANG": "en_US.UTF-8",
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(INVOCATION_TIMEOUT),
        # Lambda's package folder is read-only: modules without bytecode are compiled at each cold start.
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }


def run(command: Sequence[object], env: Mapping[str, str], cgroup: Path | None = None) -> Usage:
    """Run a command, optionally in the control group of a `cgroup.procs` file.

    Raises:
        BenchError: the command failed, or its peak memory is unknown.
    """
    if cgroup:
        command = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', cgroup, *command]
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - the benchmark's implementations
            list(map(str, command)), env=env, cwd=WORK, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise BenchError(f"{command} failed: {errors.read()[-2000:]}")
        last_line = (output.readlines() or [""])[-1]
    # Linux includes the parent's memory at the time of the fork in the child's peak.
    if usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        raise BenchError("the benchmark uses more memory than the measured process")
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / _KIB_PER_MIB, last_line)


def invoke(port: int, event: Mapping[str, object]) -> float:
    """Invoke the function on a port of the runtime interface emulator, and return the seconds.

    Raises:
        BenchError: the response is an error.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=2 * INVOCATION_TIMEOUT)
    connection.connect()
    payload = json.dumps(event)
    start = time.perf_counter()
    connection.request("POST", INVOCATIONS, payload)
    response = json.loads(connection.getresponse().read())
    seconds = time.perf_counter() - start
    connection.close()
    if isinstance(response, dict) and "errorType" in response:
        raise BenchError(f"an event failed: {response}")
    return seconds
