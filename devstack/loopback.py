"""An HTTP server on loopback, for the fakes of AWS's services. Imports only the standard library."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Answer(NamedTuple):
    """The response to a request."""

    status: int
    content_type: str
    content: bytes
    request_id: str = "00000000-0000-4000-8000-000000000000"

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, as AWS sends them."""
        return {
            "x-amzn-RequestId": self.request_id,
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.content)),
        }


@contextmanager
def serving(respond: Callable[[Mapping[str, str], bytes], Answer | None]) -> Iterator[str]:
    """Serve on a free loopback port until the block ends, and yield the endpoint.

    Args:
        respond: the headers and the body of a request -> the answer, or None to break the connection.
    """
    with _Server(("127.0.0.1", 0), _request_handler(respond)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


def _request_handler(
    respond: Callable[[Mapping[str, str], bytes], Answer | None],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # send each response in one piece

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = respond(dict(self.headers.items()), body)
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
