"""Starts a package under AWS's own Lambda runtime and times what it answers."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from bench.places import RUNTIME_PYTHON, WORK
from bench.process import BenchError
from local.runtime import INVOCATIONS, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.contenders import Contender

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
        connection.request("POST", INVOCATIONS, sent)
        answer = json.loads(connection.getresponse().read())
        seconds = time.perf_counter() - began
        connection.close()
        if isinstance(answer, dict) and "errorType" in answer:
            raise BenchError(f"an event failed: {answer}")
        return seconds


@contextmanager
def runtime(contender: Contender, environment: Mapping[str, str]) -> Iterator[Runtime]:
    """Run a package for a while. Its process starts with the first event."""
    variables = {**environment, "AWS_LAMBDA_FUNCTION_TIMEOUT": str(_ANSWERS_WITHIN)}
    # boto3 is the runtime's own, as on AWS: behind the package, and with its bytecode.
    with running(
        RUNTIME_PYTHON, contender.handler, contender.folder, variables, WORK / "runtime.log"
    ) as port:
        yield Runtime(port)
