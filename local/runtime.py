"""Runs a package in AWS's own runtime client, behind its interface emulator. No Docker; Linux alone."""

import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local.machine import PROJECT, free_port

# The emulator comes with sam.
EMULATOR = (
    PROJECT / ".tools/sam/lib/python3.13/site-packages/samcli/local/rapid"
    f"/aws-lambda-rie-{'arm64' if platform.machine() in {'arm64', 'aarch64'} else 'x86_64'}"
)
INVOCATIONS = "/2015-03-31/functions/function/invocations"
_START_SECONDS = 10.0


@contextmanager
def running(
    python: Path, handler: str, package: Path, environment: Mapping[str, str], log_file: Path
) -> Iterator[int]:
    """Run a package for the time of the block; give the port at which it takes invocations.

    The package's process starts with the first event.

    Args:
        python: the interpreter, in whose environment awslambdaric and boto3 are, as on AWS.
        handler: the handler, as Lambda names it.
        package: the folder of what was built.
        environment: all of the variables, but for the path to the package.
        log_file: what is printed goes there.

    Raises:
        ConnectionRefusedError: the emulator did not start.
    """
    front, back = free_port(), free_port()
    # fmt: off
    command = [
        str(EMULATOR), "--log-level", "error",
        "--runtime-interface-emulator-address", f"127.0.0.1:{front}",
        "--runtime-api-address", f"127.0.0.1:{back}",
        str(python), "-m", "awslambdaric", handler,
    ]
    # fmt: on
    with (
        log_file.open("w") as log,
        subprocess.Popen(  # noqa: S603 - AWS's own emulator
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
            _wait_for(front)
            yield front
        finally:
            # It ends the package's process too.
            emulator.terminate()


def _wait_for(port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
