"""The SDK clients as the function creates them, against endpoints that are silent, busy or absent."""

import io
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from devstack.fake_ecr import FakeEcr
from handler.ecr.errors import Unavailable
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.events.request import MAX_FAILED_NAMES, Continuation, Request
from handler.reconcile.continuation import ContinuationFailed, continue_in_new_invocation
from handler.reconcile.sweep import Sweep
from tests.unit.function import Function

FASTER = 200


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(variable, "us-east-1")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "x")


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the timeouts of every socket in seconds, and let them pass faster."""
    recorded: list[float] = []
    set_timeout = socket.socket.settimeout

    def record(self: socket.socket, seconds: float | None) -> None:
        if seconds:
            recorded.append(seconds)
            seconds /= FASTER
        set_timeout(self, seconds)

    monkeypatch.setattr(socket.socket, "settimeout", record)
    return recorded


@contextmanager
def silent_endpoint() -> Iterator[str]:
    """Accept connections, and never respond."""
    with socket.create_server(("127.0.0.1", 0), backlog=10) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def busy_endpoint(calls: list[str]) -> Iterator[str]:
    """Answer every call with 503."""

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append(self.path)
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def absent_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def read() -> None:
    Registry.connect().get_policy("team/app")


def write() -> None:
    Registry.connect().set_policy("team/app", "{}")


def check() -> None:
    Registry.connect().check_policy("role-check", "{}")


def list_repositories() -> None:
    Registry.connect().list_repositories()


def continue_sweep() -> None:
    continue_in_new_invocation(Request(("*",)), "ecr-allow-pull", "0e")


CALLS = [
    (read, Unavailable, 1),
    (write, Unavailable, 1),
    (check, Unavailable, 1),
    (list_repositories, Unavailable, 1),
    (continue_sweep, ContinuationFailed, 2),
]


@pytest.mark.parametrize(("call", "error", "attempts"), CALLS)
def test_a_silent_endpoint_fails_each_attempt_after_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
    timeouts: list[float],
    call: Callable[[], None],
    error: type[Exception],
    attempts: int,
) -> None:
    with silent_endpoint() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(error, match="timeout"):
            call()

    assert set(timeouts) == {3, 10}  # to connect, and to read
    assert timeouts.count(3) == attempts


@pytest.mark.parametrize(("call", "error", "attempts"), CALLS)
def test_a_busy_endpoint_is_asked_again_only_to_continue_a_sweep(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], None], error: type[Exception], attempts: int
) -> None:
    calls: list[str] = []
    with busy_endpoint(calls) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(error, match="503"):
            call()

    assert len(calls) == attempts


@pytest.mark.parametrize(("call", "error"), [(call, error) for call, error, _ in CALLS])
def test_an_absent_endpoint_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], None], error: type[Exception]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", absent_endpoint())

    with pytest.raises(error, match="Could not connect to the endpoint"):
        call()


def test_concurrent_calls_keep_their_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a pool of that size, urllib3 opens a new connection for most calls."""
    warnings = io.StringIO()
    monkeypatch.setattr(logging.getLogger("urllib3"), "handlers", [logging.StreamHandler(warnings)])
    all_at_once = threading.Barrier(MAX_CONCURRENCY, timeout=30)
    with FakeEcr(latency=0.05).serving() as ecr:
        ecr.create_repository("team/app")
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        registry = Registry.connect()

        def read_twice(_: int) -> None:
            for _ in range(2):
                all_at_once.wait()
                registry.get_policy("team/app")

        with ThreadPoolExecutor(MAX_CONCURRENCY) as threads:
            list(threads.map(read_twice, range(MAX_CONCURRENCY)))

    assert warnings.getvalue() == ""


def test_the_largest_continuation_fits_into_an_asynchronous_invocation() -> None:
    """Lambda accepts 1 MB: a page of names, the failed names, and a token."""
    longest_name = "x" * 256
    continuation = Continuation(token="x" * 4_000, failed=(longest_name,) * MAX_FAILED_NAMES)
    request = Request((longest_name,) * 1_000, continuation=continuation)

    assert len(json.dumps(request.payload("0e"))) < 1_000_000


def test_the_time_reserved_before_the_timeout_covers_a_role_check_a_write_and_the_continuation() -> None:
    ecr = FakeEcr()

    sweep = Sweep(Request(("*",)), Function(ecr).configured(), Registry(ecr.client()), None, lambda: 900.0)

    reserved = 900 - sweep._deadline.remaining()  # noqa: SLF001 - the promise
    calls_in_a_row = 1 + 1 + 1 + 2  # the last check, the read, the write, and the attempts to continue
    assert calls_in_a_row * (3 + 10) < reserved < 900 / 4
