"""The registry during network failures, with real sockets and the real client."""

import json
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from devstack.fake_ecr import FakeEcr
from handler.ecr.errors import (
    THROTTLES,
    TRANSIENT,
    PolicyRejected,
    RegistryError,
    Throttled,
    Unavailable,
    translate,
)
from handler.ecr.registry import Registry


def registry(endpoint: str) -> Registry:
    client = boto3.client(
        "ecr",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",  # noqa: S106 - a dummy key
        endpoint_url=endpoint,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=0.2),
    )
    return Registry(client)


def client_error(code: str, status: int) -> ClientError:
    metadata = {
        "RequestId": "1",
        "HTTPStatusCode": status,
        "HTTPHeaders": {},
        "RetryAttempts": 0,
        "HostId": "",
    }
    error = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": metadata}
    return ClientError(cast("Any", error), "GetRepositoryPolicy")


def close_at_once(_: socket.socket) -> None:
    pass


def never_respond(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.recv(65536)


def respond_with_503(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("'Principal not found'", "'Principal not found'"),
        (
            "'Invalid repository policy provided'",
            (
                "'Invalid repository policy provided': a principal does not exist, or ECR does not accept "
                "another part of the policy"
            ),
        ),
    ],
)
def test_a_rejected_policy_gives_every_cause_that_ecrs_message_can_have(message: str, reason: str) -> None:
    with FakeEcr().serving() as ecr:
        ecr.principal_not_found_message = f"Invalid parameter at 'PolicyText': {message}"
        ecr.create_repository("team/app")
        principal = {"AWS": "arn:aws:iam::222222222222:role/missing"}
        statement = {"Effect": "Allow", "Principal": principal, "Action": "ecr:BatchGetImage"}

        with pytest.raises(PolicyRejected) as caught:
            registry(ecr.url).set_policy("team/app", json.dumps({"Statement": [statement]}))

    assert str(caught.value).endswith(f"Invalid parameter at 'PolicyText': {reason}")


@pytest.mark.parametrize("serve", [close_at_once, never_respond, respond_with_503])
def test_an_ecr_that_does_not_respond_is_unavailable(serve: Callable[[socket.socket], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                serve(connection)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable):
            registry(f"http://127.0.0.1:{server.getsockname()[1]}").get_policy("team/app")
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_an_unreachable_ecr_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(Unavailable, match="ECR did not answer"):
        registry(f"http://127.0.0.1:{port}").get_policy("team/app")


def test_an_invalid_call_is_a_permanent_error() -> None:
    with pytest.raises(RegistryError, match="ECR could not be called") as caught:
        registry("http://127.0.0.1:1").get_policy("")

    assert not isinstance(caught.value, Unavailable)


class TestTheErrorsOfTheStandardRetryMode:
    """botocore may add some with an upgrade: then one of these tests fails."""

    throttles = frozenset(vars(ThrottledRetryableChecker)["_THROTTLED_ERROR_CODES"])
    transient = frozenset(vars(TransientRetryableChecker)["_TRANSIENT_ERROR_CODES"])
    status_codes = vars(TransientRetryableChecker)["_TRANSIENT_STATUS_CODES"]

    def test_are_the_throttles_except_for_one_that_ecrs_api_guide_adds(self) -> None:
        assert THROTTLES - self.throttles == {"ThrottleException"}
        assert self.throttles <= THROTTLES

    def test_are_the_transient_errors_except_for_one_that_is_a_throttle(self) -> None:
        assert self.transient - THROTTLES == TRANSIENT
        assert self.transient & THROTTLES == {"PriorRequestNotComplete"}

    @pytest.mark.parametrize("status", [408, 429, *status_codes])
    def test_and_its_status_codes_are_retried_whatever_the_code(self, status: int) -> None:
        assert isinstance(translate(client_error("Unknown", status)), Unavailable)

    @pytest.mark.parametrize("code", sorted(THROTTLES | TRANSIENT))
    def test_are_retried_and_only_throttles_slow_the_calls_down(self, code: str) -> None:
        translated = translate(client_error(code, 400))

        assert isinstance(translated, Unavailable)
        assert isinstance(translated, Throttled) == (
            code not in {"RequestTimeout", "RequestTimeoutException"}
        )

    @pytest.mark.parametrize("status", [400, 403, 404])
    def test_are_no_others(self, status: int) -> None:
        assert not isinstance(translate(client_error("Unknown", status)), Unavailable)
