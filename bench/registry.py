"""The ECR to measure against: starts `bench.server`, sets it up, reads its counters."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from bench.places import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
GRANTED = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "AllowPull",
            "Effect": "Allow",
            "Principal": {"AWS": ROLE},
            "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
        }
    ],
}
_CONNECTIONS = 4  # saturate the server, which has one thread


@dataclass(frozen=True)
class Count:
    """What came in since the registry was set up.

    Attributes:
        calls: how many calls.
        throttled: how many of them were throttled.
        policies: how many repositories have a policy.
    """

    calls: int
    throttled: int
    policies: int


class Registry:
    """A registry in a process of its own."""

    def __init__(self, port: int) -> None:
        """Stand on a server that runs."""
        self._port = port
        self.url = f"http://127.0.0.1:{port}"

    def reset(self, repositories: int, *, granted: bool, latency: float = 0, rate: float = 0) -> None:
        """Begin anew, with repositories that all have the grant or no policy.

        Args:
            repositories: how many.
            granted: whether they have the grant.
            latency: seconds that each call takes.
            rate: how many calls are served a second; 0 for any number.
        """
        self._call(
            "Reset",
            repositories=repositories,
            policy=GRANTED if granted else None,
            roles=[ROLE],
            latency=latency,
            rate=rate,
        )

    def count(self) -> Count:
        """Read the counters."""
        told = self._call("Count")
        return Count(sum(told["calls"].values()), told["throttled"], told["policies"])

    def ceiling(self, seconds: float = 2) -> float:
        """Measure how many calls a second the server can answer at most."""
        self.reset(1, granted=True)
        body = b'{"repositoryName": "team-0/app-0"}'
        request = (
            b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonEC2ContainerRegistry_V20150921.GetRepositoryPolicy\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        over = time.monotonic() + seconds

        def ask() -> None:
            with socket.create_connection(("127.0.0.1", self._port)) as connection:
                while time.monotonic() < over:
                    connection.sendall(request)
                    connection.recv(65536)

        threads = [threading.Thread(target=ask) for _ in range(_CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.count().calls / seconds

    def _call(self, operation: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - it is JSON
        connection = HTTPConnection("127.0.0.1", self._port)
        connection.request("POST", "/", json.dumps(request), {"X-Amz-Target": f"Bench.{operation}"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return answer


@contextmanager
def registry() -> Iterator[Registry]:
    """Run a registry for a while."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.server"], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout  # noqa: S101 - it was asked for
        try:
            yield Registry(int(server.stdout.readline()))
        finally:
            server.kill()
