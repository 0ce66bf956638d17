"""Answers the SDK's requests in process, so that tests need no network."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import ConnectionClosedError
from botocore.parsers import create_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from botocore.awsrequest import AWSPreparedRequest
    from botocore.model import OperationModel

    from devstack.loopback import Answer


class _Body(BytesIO):
    """The body of a response, as botocore reads it."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        """Yield the whole body."""
        yield self.read()


def response(
    request: AWSPreparedRequest, respond: Callable[[Mapping[str, str], bytes], Answer | None]
) -> AWSResponse:
    """Return the response to a request of the SDK.

    Args:
        request: the request that the SDK is about to send.
        respond: the headers and the body of a request -> the answer, or None to break the connection.

    Raises:
        ConnectionClosedError: the connection breaks.
    """
    headers = {
        name: value.decode() if isinstance(value, bytes) else str(value)
        for name, value in request.headers.items()
    }
    body = request.body or b""
    body = body.encode() if isinstance(body, str) else body
    assert isinstance(body, bytes)  # noqa: S101 - the SDK sends no file to these services
    answer = respond(headers, body)
    if answer is None:
        raise ConnectionClosedError(endpoint_url=request.url)
    return AWSResponse(request.url, answer.status, HeadersDict(answer.headers), _Body(answer.content))  # type: ignore[arg-type]


_parser = cache(create_parser)


class _Endpoint:
    """What an SDK client needs of its endpoint: sends nothing, and parses the answer as the SDK does."""

    def __init__(self, respond: Callable[[Mapping[str, str], bytes], Answer | None]) -> None:
        self._respond = respond

    def make_request(
        self, operation: OperationModel, request: Mapping[str, Any]
    ) -> tuple[SimpleNamespace, dict[str, Any]]:
        answer = self._respond(request["headers"], request["body"])
        if answer is None:
            raise ConnectionClosedError(endpoint_url=request["url"])
        received = {
            "headers": HeadersDict(answer.headers),
            "body": answer.content,
            "context": {"operation_name": operation.name},
            "status_code": answer.status,
        }
        parser = _parser(operation.metadata["protocol"])
        return SimpleNamespace(status_code=answer.status), parser.parse(received, operation.output_shape)  # type: ignore[arg-type]

    def close(self) -> None:
        """Do nothing: there is no connection."""


def answered[Client](client: Client, respond: Callable[[Mapping[str, str], bytes], Answer | None]) -> Client:
    """Return a copy of an SDK client, whose requests are answered in process.

    A copy takes a thousandth of the time of a new client, and a call a third of the time of one that the SDK
    signs and prepares for the network.
    """
    copied = object.__new__(type(client))  # `copy` would ask the client for attributes that it forwards
    # The SDK has no other way.
    copied.__dict__ |= client.__dict__ | {"_endpoint": _Endpoint(respond)}
    return copied
