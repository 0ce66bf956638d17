"""The benchmark's registry: the fake ECR in its own process, with a reset, counters and Custodian's calls."""

from __future__ import annotations

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import TYPE_CHECKING, Any, NamedTuple

from devstack.fake_ecr import LIST, READ, WRITE, FakeEcr, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.results import Limit

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
_STATEMENT = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}
_GRANTED = {"Version": "2012-10-17", "Statement": [_STATEMENT]}
_LIST_TAGS = "ListTagsForResource"  # Cloud Custodian calls it for every repository
# Cloud Custodian calls STS at its start. STS calls have no X-Amz-Target.
_CALLER_IDENTITY = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    b"<Arn>arn:aws:iam::111122223333:root</Arn><UserId>111122223333</UserId><Account>111122223333</Account>"
    b"</GetCallerIdentityResult></GetCallerIdentityResponse>"
)
_CONNECTIONS = 4  # saturate the server


class Count(NamedTuple):
    """The number of calls and throttled calls since the reset, and of repositories with a policy."""

    calls: int
    throttled: int
    policies: int


class BenchEcr(FakeEcr):
    """The fake ECR of the benchmark."""

    def start(self) -> None:
        """Start serving."""
        self._exit_stack = ExitStack()
        self._exit_stack.enter_context(self.serving())

    def stop(self) -> None:
        """Stop serving."""
        self._exit_stack.close()

    def endpoint(self) -> str:
        """Return the endpoint URL."""
        return self.url

    def reset(
        self, repositories: int, *, granted: bool, latency: float = 0, limit: Limit | None = None
    ) -> None:
        """Replace all repositories, and reset the counters.

        Args:
            repositories: the number of repositories.
            granted: whether all repositories have the grant. Otherwise they have no policy.
            latency: the duration of each call in seconds.
            limit: the rate limit, if there is one.
        """
        self.policies, self.roles, self.call_log = {}, {}, []
        self.calls, self.throttled, self.latency = Counter(), 0, latency
        self.buckets = _buckets(limit, repositories) if limit else {}
        self.create_role(ROLE)
        self.create_repository(*(f"team-{number % 100}/app-{number}" for number in range(repositories)))
        if granted and repositories:
            first, *others = self.policies
            self.set_policy(first, _GRANTED)
            self.policies |= dict.fromkeys(others, self.policies[first])

    def count(self) -> Count:
        """Read the counters."""
        policies = sum(policy is not None for policy in self.policies.values())
        return Count(self.calls.total(), self.throttled, policies)

    def handle_request(self, target: str, body: bytes) -> tuple[int, bytes] | None:
        """Handle a call to ECR or STS."""
        return super().handle_request(target, body) if target else (200, _CALLER_IDENTITY)

    def _execute(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation == _LIST_TAGS:
            return {"tags": []}
        if "repositoryNames" in request:
            names = self.policies.keys() & request["repositoryNames"]
            return {"repositories": [self._repository(name) for name in names]}
        return super()._execute(operation, request)


class ChangingBucket(TokenBucket):
    """A token bucket with half the rate for the second third of a number of calls."""

    def __init__(self, rate: float, burst: float, calls: int) -> None:
        """Start with a full bucket, and change the rate within so many served calls."""
        super().__init__(rate, burst)
        self._full_rate, self._calls, self._served = rate, calls, 0

    def take(self) -> bool:
        """Take a token. Return False if the bucket is empty."""
        taken = super().take()
        self._served += taken
        in_second_third = self._calls <= 3 * self._served < 2 * self._calls
        self.rate = self._full_rate / 2 if in_second_third else self._full_rate
        return taken


def _buckets(limit: Limit, repositories: int) -> dict[str, TokenBucket]:
    def bucket() -> TokenBucket:
        if limit.changes:
            return ChangingBucket(limit.rate, limit.burst, repositories)
        return TokenBucket(limit.rate, limit.burst)

    shared = bucket()
    operations = (LIST, READ, WRITE, _LIST_TAGS)
    return {operation: bucket() if limit.separate else shared for operation in operations}


class _Manager(BaseManager):
    """Starts the registry's process."""


_Manager.register("BenchEcr", BenchEcr)


@contextmanager
def registry() -> Iterator[BenchEcr]:
    """Run the registry until the block ends, and yield a proxy of it."""
    with _Manager(ctx=get_context("spawn")) as manager:
        ecr: BenchEcr = manager.BenchEcr()  # type: ignore[attr-defined]
        ecr.start()
        try:
            yield ecr
        finally:
            ecr.stop()


def capacity(ecr: BenchEcr, seconds: float = 2) -> float:
    """Measure the maximum number of calls a second that the registry can answer."""
    ecr.reset(1, granted=True)
    host, port = ecr.endpoint().removeprefix("http://").split(":")
    body = b'{"repositoryName": "team-0/app-0"}'
    headers = b"X-Amz-Target: Version.GetRepositoryPolicy\r\nContent-Length: %d" % len(body)
    deadline = time.monotonic() + seconds

    def send_calls(_: int) -> None:
        with socket.create_connection((host, int(port))) as connection:
            while time.monotonic() < deadline:
                connection.sendall(b"POST / HTTP/1.1\r\n%b\r\n\r\n%b" % (headers, body))
                connection.recv(65536)

    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        list(threads.map(send_calls, range(_CONNECTIONS)))
    return ecr.count().calls / seconds
