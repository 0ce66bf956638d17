"""The project's path and free ports. Imports only the standard library, so that the benchmark stays small."""

import socket
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
