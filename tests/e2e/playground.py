"""Runs `make playground` below a shell, and the commands that it prints."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack.aws import LocalAws, at_port, clean_environment
from devstack.host import PROJECT, free_port

TIMEOUT = 90  # seconds


def wait_until(condition: Callable[[], object], describe: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.1)


def processes() -> list[tuple[int, int, int, str]]:
    """Return the pid, the parent's pid, the process group and the command of every process."""
    # Without -ww, ps cuts the command at COLUMNS.
    table = subprocess.run(
        ["/bin/ps", "-A", "-ww", "-o", "pid=,ppid=,pgid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(maxsplit=3) for line in table.splitlines())
    return [(int(pid), int(parent), int(group), args) for pid, parent, group, args in rows]


@dataclass
class Playground:
    """A running playground, its parent process, and what it prints."""

    parent: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def aws(self) -> LocalAws:
        return at_port(self.port, self.folder)

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def pid(self) -> int:
        (pid,) = (pid for pid, parent, _, _ in processes() if parent == self.parent.pid)
        return pid

    def commands(self) -> dict[str, list[str]]:
        """Return the printed commands by the title above them."""
        printed: dict[str, list[str]] = {}
        title = ""
        for line in self.output.partition("What happens")[0].splitlines():
            if line.startswith("    "):
                printed[title].append(line.strip())
            elif line:
                title = line
                printed[title] = []
        return {title: commands for title, commands in printed.items() if commands}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as in a terminal in which the first step was pasted."""
        prepare = self.commands()["Prepare the terminal:"]
        script = "\n".join(["set -e", *prepare, command])
        return subprocess.run(  # noqa: S603 - what the playground printed
            ["/bin/bash", "-c", script], cwd="/", timeout=2 * TIMEOUT,
            capture_output=True, text=True, check=False,
            env=clean_environment()
            | {"AWS_PROFILE": "missing", "AWS_SESSION_TOKEN": "other", "SAM_CLI_POLL_DELAY": "0.2"}
            | {"http_proxy": "http://127.0.0.1:1", "no_proxy": "example.com"},
        )  # fmt: skip

    def wait_for_policy(self, repository: str, *statements: object) -> None:
        wait_until(lambda: policy(self.aws.ecr(), repository) == list(statements), lambda: self.output)

    def wait_for(self, *words: str) -> None:
        """Wait for a line that holds all the words."""
        wait_until(
            lambda: any(all(word in line for word in words) for line in self.output.splitlines()),
            lambda: self.output,
        )


def start(folder: Path, port: int) -> Playground:
    """Start a playground below a shell, which takes the place of make.

    The emulator has a free port for each server that it could start: on a port in use, it starts none.
    """
    command = f"{sys.executable} -m devstack.playground --port {port}; exit $?"
    with (folder / "output").open("w") as output:
        parent = subprocess.Popen(  # noqa: S603 - the playground
            ["/bin/sh", "-c", command], cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=clean_environment() | {"TMPDIR": str(folder), "IOT_MTLS_PORT": str(free_port())},
            start_new_session=True,
        )  # fmt: skip
    return Playground(parent, port, folder)


@contextmanager
def started_playground(folder: Path) -> Iterator[Playground]:
    """Start a playground, and end it with the block, also where a test fails."""
    started = start(folder, free_port())
    try:
        yield started
    finally:
        if started.parent.poll() is None:
            os.killpg(started.parent.pid, signal.SIGTERM)
        started.parent.wait(timeout=TIMEOUT)


def statements(policy: str) -> list[Any]:
    return list(json.loads(policy)["Statement"])


def policy(registry: Any, name: str) -> list[Any]:  # noqa: ANN401 - a client
    try:
        return statements(registry.get_repository_policy(repositoryName=name)["policyText"])
    except registry.exceptions.RepositoryPolicyNotFoundException:
        return []
