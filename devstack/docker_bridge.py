"""Makes a loopback port of this machine reachable from Docker containers, as host.docker.internal."""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "host.docker.internal"
_DOCKER_TIMEOUT = 10  # seconds
_CHUNK = 65_536  # bytes


@contextmanager
def reachable_from_containers(port: int) -> Iterator[bool]:
    """Forward the port from Docker's bridge until the block ends. Yield False if Docker isn't running.

    On Linux, a container reaches the host by the address of the bridge. Only containers and this machine can
    reach that address. Docker Desktop has no bridge on the host, and forwards to loopback itself.

    Raises:
        OSError: another program uses the port of the bridge.
    """
    gateway = _bridge_address()
    if gateway is None:
        yield False
        return
    try:
        server = _Server((gateway, port), _forwarder(port))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        yield True  # Docker Desktop
        return
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield True
        finally:
            server.shutdown()
            thread.join()


def _bridge_address() -> str | None:
    command = ["docker", "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"]
    try:
        completed = subprocess.run(  # noqa: S603 - fixed arguments
            command, capture_output=True, text=True, timeout=_DOCKER_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    config = json.loads(completed.stdout)[0]
    # Docker names the gateway once a container has run. The gateway is the first address of the subnet.
    first_address = next(ipaddress.ip_network(config["Subnet"]).hosts())
    return str(config.get("Gateway") or first_address)


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def _forwarder(port: int) -> type[BaseRequestHandler]:
    class Forwarder(BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as target:
                back = threading.Thread(target=_copy, args=(target, self.request), daemon=True)
                back.start()
                _copy(self.request, target)
                back.join()

    return Forwarder


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
