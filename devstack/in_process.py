"""Answers the SDK's requests in process, from its event `before-send`, so that tests need no network."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
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
    sent = HTTPHeaders()
    for name, value in answer.headers.items():
        sent[name] = value
    return AWSResponse(request.url, answer.status, sent, _Body(answer.content))
