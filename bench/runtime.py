"""Starts a package under AWS's own Lambda runtime and times what it answers."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from bench.places import RUNTIME_PYTHON, TOOLS, WORK
from bench.process import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bench.contenders import Contender

_EMULATOR = next(TOOLS.glob("sam/lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"), None)
_PATH = "/2015-03-31/functions/function/invocations"
_STARTS_WITHIN = 10.0  # seconds
_ANSWERS_WITHIN = 60  # seconds


class Runtime:
    """The runtime interface emulator in front of one package, not started before the first event."""

    def __init__(self, port: int) -> None:
        """Stand on an emulator that runs."""
        self._port = port

    def invoke(self, event: Mapping[str, object]) -> float:
        """Send an event; give the seconds until its answer.

        Raises:
            BenchError: the answer is an error.
        """
        connection = HTTPConnection("127.0.0.1", self._port, timeout=2 * _ANSWERS_WITHIN)
        connection.connect()
        sent = json.dumps(event)
        began = time.perf_counter()
        connection.request("POST", _PATH, sent)
        answer = json.loads(connection.getresponse().read())
        seconds = time.perf_counter() - began
        connection.close()
        if isinstance(answer, dict) and "errorType" in answer:
            raise BenchError(f"an event failed: {answer}")
        return seconds


@contextmanager
def runtime(contender: Contender, environment: Mapping[str, str]) -> Iterator[Runtime]:
    """Run a package for a while. Its process starts with the first event."""
    if _EMULATOR is None:
        raise BenchError("aws-lambda-rie was not found: `make sam` brings it")
    front, back = _free_port(), _free_port()
    command: list[str | Path] = [
        _EMULATOR,
        *("--log-level", "error"),
        *("--runtime-interface-emulator-address", f"127.0.0.1:{front}"),
        *("--runtime-api-address", f"127.0.0.1:{back}"),
        *(RUNTIME_PYTHON, "-m", "awslambdaric", contender.handler),
    ]
    # boto3 is the runtime's own, as on AWS: behind the package, and with its bytecode.
    env = {
        **environment,
        "PYTHONPATH": str(contender.folder),
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(_ANSWERS_WITHIN),
    }
    with (WORK / "runtime.log").open("w") as log:
        emulator = subprocess.Popen(  # noqa: S603 - AWS's own emulator
            command,
            env=env,
            cwd=contender.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(front)
        yield Runtime(front)
    finally:
        emulator.terminate()
        emulator.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
