"""Runs a function package under AWS's Lambda runtime interface emulator, without Docker. Linux only."""

import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from devstack.host import PROJECT, free_port

# SAM CLI ships the emulator.
EMULATOR = (
    PROJECT / ".tools/sam/lib/python3.13/site-packages/samcli/local/rapid"
    f"/aws-lambda-rie-{'arm64' if platform.machine() in {'arm64', 'aarch64'} else 'x86_64'}"
)
INVOCATIONS = "/2015-03-31/functions/function/invocations"
_START_TIMEOUT = 10.0  # seconds


@contextmanager
def running(
    python: Path, handler: str, package: Path, environment: Mapping[str, str], log_file: Path
) -> Iterator[int]:
    """Run a package until the block ends, and yield the port of its invoke endpoint.

    The first event starts the function's process (cold start).

    Args:
        python: an interpreter with awslambdaric and boto3 installed, as on AWS.
        handler: the function's handler, for example `handler.app.lambda_handler`.
        package: the folder of the unpacked package.
        environment: the complete environment, except PYTHONPATH.
        log_file: receives standard output and standard error.

    Raises:
        ConnectionRefusedError: the emulator did not start.
    """
    invoke_port, runtime_api_port = free_port(), free_port()
    # fmt: off
    command = [
        str(EMULATOR), "--log-level", "error",
        "--runtime-interface-emulator-address", f"127.0.0.1:{invoke_port}",
        "--runtime-api-address", f"127.0.0.1:{runtime_api_port}",
        str(python), "-m", "awslambdaric", handler,
    ]
    # fmt: on
    with (
        log_file.open("w") as log,
        subprocess.Popen(  # noqa: S603 - AWS's emulator
            command,
            cwd=package,
            env={**environment, "PYTHONPATH": str(package)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as emulator,
    ):
        try:
            _wait_until_listening(invoke_port)
            yield invoke_port
        finally:
            # The emulator also stops the function's process.
            emulator.terminate()


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
