"""Tests the processes of `make playground`: their ports, and that none outlives it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import playground
from devstack.aws import clean_environment
from devstack.host import PROJECT, free_port
from tests.e2e.playground import TIMEOUT, Playground, processes, started_playground, wait_until

LOOPBACK = socket.inet_aton("127.0.0.1")[:: 1 if sys.byteorder == "big" else -1].hex().upper()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Playground]:
    """Return a playground whose embedded AWS runs."""
    with started_playground(tmp_path) as started:
        wait_until(lambda: playground.is_embedded_aws(started.port), lambda: started.output)
        yield started


def emulator_group(parent: int) -> int:
    """Return the process group of the embedded AWS that a process started."""
    (group,) = (
        group for pid, ppid, group, args in processes() if ppid == parent and "devstack.emulator" in args
    )
    return group


def nothing_runs(group: int) -> bool:
    return all(each != group for _, _, each, _ in processes())


def listening_addresses(group: int) -> set[str]:
    """Return the addresses on which the processes of a group listen, as the Linux kernel prints them."""
    sockets = {
        str(link.readlink())
        for pid, _, each, _ in processes()
        if each == group
        for link in Path(f"/proc/{pid}/fd").iterdir()
    }
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_embedded_aws_listens_on_loopback_only(running: Playground) -> None:
    assert listening_addresses(emulator_group(running.pid)) == {LOOPBACK}


class TestPort:
    @staticmethod
    def start_on(port: str | int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the playground
            [sys.executable, "-m", "devstack.playground", "--port", str(port)],
            cwd=PROJECT, env=clean_environment(), timeout=TIMEOUT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def test_of_another_playground_is_an_error_that_says_so(self, running: Playground) -> None:
        second = self.start_on(running.port)

        assert second.returncode == 1
        assert second.stdout.strip() == (
            "✗ Another playground runs on this port. Stop it, or choose another port: "
            f"make playground PORT={running.port + 1}"
        )

    def test_of_another_program_is_an_error_that_says_so(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]

            completed = self.start_on(port)

        assert completed.returncode == 1
        assert f"Port {port} is in use by another program." in completed.stdout
        assert f"make playground PORT={port + 1}" in completed.stdout

    @pytest.mark.parametrize("port", ["0", "-1", "70000", "http"])
    def test_that_does_not_exist_is_an_error_that_says_so(self, port: str) -> None:
        completed = self.start_on(f"{port}")

        assert completed.returncode == 2
        assert "is not a port: use a number from 1 to" in completed.stderr


class TestLeavesNothingRunning:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_after_a_signal(self, running: Playground, tmp_path: Path, number: signal.Signals) -> None:
        group = emulator_group(running.pid)

        os.kill(running.pid, number)

        assert running.parent.wait(timeout=TIMEOUT) == 0
        assert running.output.splitlines()[-1] == "Stopped. All processes have exited."
        assert nothing_runs(group)
        assert [each.name for each in tmp_path.iterdir()] == ["output"]

    def test_after_the_process_itself_was_killed(self, tmp_path: Path) -> None:
        script = "import time; from devstack.aws import local_aws\nwith local_aws({}): time.sleep(3600)"
        port = free_port()
        with subprocess.Popen(  # noqa: S603 - the embedded AWS
            [sys.executable, "-c", script.format(port)],
            cwd=PROJECT, env=clean_environment() | {"TMPDIR": str(tmp_path)},
        ) as process:  # fmt: skip
            try:
                wait_until(lambda: playground.is_embedded_aws(port))
                group = emulator_group(process.pid)
            finally:
                process.kill()

        wait_until(lambda: nothing_runs(group))
        assert not list(tmp_path.iterdir())

    def test_after_the_parent_was_killed(self, running: Playground) -> None:
        pid, group = running.pid, emulator_group(running.pid)

        running.parent.kill()

        wait_until(lambda: nothing_runs(group) and pid not in {each for each, *_ in processes()})
        assert running.output.splitlines()[-1] == "The parent process ended. All processes have exited."
