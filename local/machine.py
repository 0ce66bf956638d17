"""This machine: where the project lies, and a free port. Imports next to nothing, which the bench needs."""

import socket
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
