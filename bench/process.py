"""Runs a program to its end and measures it from outside: time, processor time, peak memory, answer."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.places import WORK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_KIB_PER_MIB = 1024


class BenchError(Exception):
    """A contender did not do its job, so that its time means nothing."""


@dataclass(frozen=True)
class Ran:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        cpu: seconds of processor time.
        peak: the most memory that it held, in MiB.
        answer: the last line that it printed.
    """

    seconds: float
    cpu: float
    peak: float
    answer: str


def environment(url: str, **more: str) -> dict[str, str]:
    """Give the environment of a contender: that of Lambda, as far as it matters, and no other."""
    return {
        "PATH": os.defpath,
        "HOME": str(WORK),
        "LANG": "en_US.UTF-8",
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        # The package of a function is read-only: what has no bytecode in it is compiled at each start.
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


def run(command: Sequence[object], env: Mapping[str, str], group: Path | None = None) -> Ran:
    """Run a command to its end, in a control group if one is given by its file of processes.

    Raises:
        BenchError: it failed.
    """
    if group:
        command = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', group, *command]
    with (WORK / "output").open("w+") as output, (WORK / "errors").open("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own contenders
            list(map(str, command)), env=env, cwd=WORK, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise BenchError(f"{command} failed: {errors.read()[-2000:]}")
        answer = (output.readlines() or [""])[-1]
    # Linux counts what this process held when it started the other one, too.
    if usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        raise BenchError("the bench itself holds more memory than what it measures")
    return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / _KIB_PER_MIB, answer)
