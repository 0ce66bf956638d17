"""The playground, `make playground`: the deployed stack on an embedded AWS, to try until Ctrl-C.

Prints commands for a second terminal, then one line for each event and each result.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.text import Text

from devstack import data_plane
from devstack.activity import Activity
from devstack.aws import ACCOUNT, LocalAwsError, local_aws
from devstack.docker_bridge import reachable_from_containers
from devstack.playground_commands import (
    ARCHITECTURE,
    DEFAULT_PORT,
    SAM_LOCAL_ACCOUNT,
    SECOND_ROLE_NAME,
    prepare,
    role_check_repository,
    steps,
)
from devstack.target import Credentials, SamError

if TYPE_CHECKING:
    from types import FrameType

    from devstack.aws import LocalAws

# Longer than in the demo, so that a person sees the policy before the grant.
CLOUDTRAIL_DELAY = 8.0  # seconds
_PARENT = os.getppid()
_LAST_PORT = 65_535

console = Console(highlight=False, soft_wrap=True)


class PlaygroundError(Exception):
    """The playground can't start; the message is for the user."""


def main() -> int:
    """Run the playground until Ctrl-C, and return the exit code."""
    port = _parser().parse_args().port
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        run(port)
    except KeyboardInterrupt:
        console.print("\nStopped. All processes have exited.")
        return 0
    except (PlaygroundError, LocalAwsError, SamError) as error:
        console.print("\n[bold red]✗[/]", Text(str(error)))
        return 1
    return 0


def run(port: int) -> None:
    """Deploy the stack, print the commands, and show what happens until the parent process ends.

    Raises:
        PlaygroundError: the port is in use, or the embedded AWS stopped.
        LocalAwsError: the embedded AWS did not start.
        SamError: the deployment failed.
        KeyboardInterrupt: the user stopped the playground.
    """
    check_port(port)
    with ExitStack() as stack:
        with console.status("Starting the embedded AWS"):
            aws = stack.enter_context(local_aws(port, cloudtrail_delay=CLOUDTRAIL_DELAY, stack_events=True))
            docker = stack.enter_context(reachable_from_containers(port))
        with console.status("sam build"):
            aws.build()
        with console.status("sam deploy"):
            data_plane.create_role(aws)
            data_plane.create_role_alone(aws, SECOND_ROLE_NAME)
            outputs = aws.deploy({"WorkerRoleArns": data_plane.ROLE_ARN, "Architecture": ARCHITECTURE})
        prepare(aws)
        # A deployed stack has one. `sam local invoke` deploys nothing.
        aws.ecr(Credentials(SAM_LOCAL_ACCOUNT)).create_repository(repositoryName=role_check_repository())
        activity = Activity(aws, outputs["FunctionName"])
        print_commands(aws, docker=docker, sweep=outputs["SweepCommand"])
        follow(activity)
    console.print("\nThe parent process ended. All processes have exited.")


def check_port(port: int) -> None:
    """Check that the port is free.

    Raises:
        PlaygroundError: names what uses the port, if known, and another port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            problem = "Another playground runs on this port"
            if not is_embedded_aws(port):
                in_use = error.errno == errno.EADDRINUSE
                problem = f"Port {port} is in use by another program" if in_use else f"Port {port}: {error}"
            raise PlaygroundError(
                f"{problem}. Stop it, or choose another port: make playground PORT={port + 1}"
            ) from None


def print_commands(aws: LocalAws, *, docker: bool, sweep: str) -> None:
    """Print the commands for the second terminal."""
    console.print(
        f"\n[bold]The stack is deployed to an embedded AWS, account {ACCOUNT}, at {aws.endpoint}.[/]\n"
        "Paste these commands into a second terminal, step by step, and watch here. To stop, press Ctrl-C."
    )
    for step in steps(aws, docker=docker, sweep=sweep):
        console.print(f"\n[bold]{step.title}[/]")
        for command in step.commands:
            console.print("   ", Text(command))
    if not docker:
        console.print("\n[dim]For `sam local invoke`, start Docker, then start the playground again.[/]")
    console.rule("What happens", align="left")


def follow(activity: Activity) -> None:
    """Show events and results until the parent process ends.

    Raises:
        PlaygroundError: the embedded AWS stopped, or the stack was deleted.
    """
    while os.getppid() == _PARENT:
        try:
            for line in activity.poll():
                console.print(line)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and "ResourceNotFound" in error.response["Error"]["Code"]:
                raise PlaygroundError("The stack was deleted. Start the playground again.") from None
            raise PlaygroundError(f"The embedded AWS stopped: {error}") from None


def is_embedded_aws(port: int) -> bool:
    """Return whether an embedded AWS answers on the port."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=1).close()
    except OSError:
        return False
    return True


def _stop(*_: int | FrameType | None) -> None:
    # A second signal must not interrupt the cleanup.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="playground", description="Runs the stack on an embedded AWS.")
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help="the loopback port of the embedded AWS"
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 1 to {_LAST_PORT - 1}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
