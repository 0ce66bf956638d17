"""An ECR on loopback as a process: the tests' ECR behind a server that is quick enough to measure beside.

It speaks HTTP just as far as the SDK does, in one thread. Its own calls, `Bench.*`, set it up and
read its counters.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from tests.ecr import LIST, READ, WRITE, Ecr, TokenBucket

TAGS = "ListTagsForResource"  # Cloud Custodian asks for the tags of every repository
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TARGET = re.compile(rb"\r\nx-amz-target: *[^\r]*?([A-Za-z]+\.)?([A-Za-z]+)\r", re.IGNORECASE)
# Cloud Custodian asks who it is when it starts.
_IDENTITY = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    b"<Arn>arn:aws:iam::111122223333:root</Arn><UserId>111122223333</UserId><Account>111122223333</Account>"
    b"</GetCallerIdentityResult></GetCallerIdentityResponse>"
)
_END = b"\r\n\r\n"


class BenchEcr(Ecr):
    """The tests' ECR, and what Cloud Custodian calls beyond it."""

    def _perform(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation == TAGS:
            return {"tags": []}
        if "repositoryNames" in request:
            listed = super()._list(maxResults=len(self.policies))["repositories"]
            return {
                "repositories": [one for one in listed if one["repositoryName"] in request["repositoryNames"]]
            }
        return super()._perform(operation, request)


class World:
    """The ECR of the moment, and its latency."""

    def __init__(self) -> None:
        """Begin with an empty one."""
        self.ecr = BenchEcr()
        self.latency = 0.0

    def reset(
        self, repositories: int, policy: dict[str, Any] | None, roles: list[str], latency: float, rate: float
    ) -> dict[str, Any]:
        """Begin anew, with so many repositories of one policy, and so many calls served a second."""
        self.ecr, self.latency = BenchEcr(), latency
        self.ecr.hire(*roles)
        self.ecr.create(*(f"team-{number % 100}/app-{number}" for number in range(repositories)))
        if policy and repositories:
            first, *others = self.ecr.policies
            self.ecr.write(first, policy)
            self.ecr.policies |= dict.fromkeys(others, self.ecr.policies[first])
        if rate:
            bucket = TokenBucket(rate, burst=rate)
            self.ecr.buckets = dict.fromkeys((LIST, READ, WRITE, TAGS), bucket)
        return {}

    def count(self) -> dict[str, Any]:
        """Tell which calls came in, how many were throttled, and how many policies there are."""
        return {
            "calls": dict(self.ecr.calls),
            "throttled": self.ecr.throttled,
            "policies": sum(policy is not None for policy in self.ecr.policies.values()),
        }

    def answer(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer a call, without the latency."""
        if operation == "Reset":
            return 200, self.reset(**request)
        if operation == "Count":
            return 200, self.count()
        answer = self.ecr.answer(operation, request)
        assert answer  # noqa: S101 - nothing was told to break connections
        return answer


class Connection(asyncio.Protocol):
    """One connection, with one call at a time on it."""

    def __init__(self, world: World) -> None:
        """Wait for a call."""
        self._world = world
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go to."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is a stream
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what came in; answer once the call is whole and the latency is over."""
        self._received += data
        head, end, body = self._received.partition(_END)
        length, target = _LENGTH.search(head), _TARGET.search(head + end)
        if not end or not length or len(body) < int(length[1]):
            return
        self._received = b""
        loop = asyncio.get_running_loop()
        ours = target is not None and target[1] == b"Bench."
        loop.call_later(
            0 if ours else self._world.latency, self._answer, target[2].decode() if target else None, body
        )

    def _answer(self, operation: str | None, body: bytes) -> None:
        status, sent = 200, _IDENTITY  # only that call has its name elsewhere
        if operation is not None:
            status, answer = self._world.answer(operation, json.loads(body))
            sent = json.dumps(answer).encode()
        self._transport.write(
            b"HTTP/1.1 %d Told\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (status, b"application/x-amz-json-1.1" if operation else b"text/xml", len(sent), sent)
        )


async def main() -> None:
    """Serve until killed; say on which port."""
    world = World()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(world), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - whoever started it reads it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
