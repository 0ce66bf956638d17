"""Answers the SDK's requests in process, so that tests need no network."""

from __future__ import annotations

from copy import copy
from io import BytesIO
from typing import TYPE_CHECKING

from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import ConnectionClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from botocore.awsrequest import AWSPreparedRequest

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


class _Session:
    """What an SDK client needs of an HTTP session."""

    def __init__(self, respond: Callable[[Mapping[str, str], bytes], Answer | None]) -> None:
        self._respond = respond

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        return response(request, self._respond)

    def close(self) -> None:
        """Do nothing: there is no connection."""


def answered[Client](client: Client, respond: Callable[[Mapping[str, str], bytes], Answer | None]) -> Client:
    """Return a copy of an SDK client, whose requests are answered in process.

    A copy takes a thousandth of the time of a new client.
    """
    endpoint = copy(client._endpoint)  # type: ignore[attr-defined] # noqa: SLF001 - the SDK has no other way
    endpoint.http_session = _Session(respond)
    copied = object.__new__(type(client))  # `copy` would ask the client for attributes that it forwards
    copied.__dict__ |= client.__dict__ | {"_endpoint": endpoint}
    return copied
