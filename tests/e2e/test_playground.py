"""Tests `make playground`: its commands and output, `sam local invoke` against it, and its cleanup."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from devstack import data_plane, playground
from devstack.activity import Activity
from devstack.aws import LocalAws, at_port, clean_environment
from devstack.host import PROJECT, free_port
from devstack.playground_commands import ARCHITECTURE, SAM_LOCAL_ACCOUNT
from devstack.target import Credentials
from tests.e2e.conftest import ALLOW_PULL, FOREIGN
from tests.environment import DOCKER_REQUIRED

TIMEOUT = 90  # seconds
LOOPBACK = socket.inet_aton("127.0.0.1")[:: 1 if sys.byteorder == "big" else -1].hex().upper()
IMAGE = f"public.ecr.aws/lambda/python:3.13-{ARCHITECTURE}"
FOREIGN_IN_EVENT = FOREIGN | {"Principal": {"AWS": f"arn:aws:iam::{SAM_LOCAL_ACCOUNT}:root"}}
REPOSITORIES = ("team/app", "ml/train", "docker-hub/library/alpine", "ecr-public/docker/library/alpine")
ALL_ATTACHED = {"attached": len(REPOSITORIES)}
# The outcomes of each saved event, and the repositories that get the grant.
EVENTS: dict[str, tuple[dict[str, int], tuple[str, ...]]] = {
    "created-by-api": ({"attached": 1}, ("team/app",)),
    "created-by-service": ({"attached": 1}, ("docker-hub/library/alpine",)),
    "creation-failed": ({}, ()),
    "policy-set": ({"attached": 1}, ("team/app",)),
    "policy-deleted": ({"attached": 1}, ("team/app",)),
    "image-pushed": ({"attached": 1}, ("team/app",)),
    "image-cached": ({"attached": 1}, ("ecr-public/docker/library/alpine",)),
    "image-replicated": ({"attached": 1}, ("team/app",)),
    "deployed": (ALL_ATTACHED, REPOSITORIES),
    "scheduled": (ALL_ATTACHED, REPOSITORIES),
    "rerun-all": (ALL_ATTACHED, REPOSITORIES),
    "rerun-one": ({"attached": 1}, ("team/app",)),
    "dry-run": ({"would_attach": len(REPOSITORIES)}, ()),
}


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


def emulator_group(parent: int) -> int:
    """Return the process group of the embedded AWS that a process started."""
    (group,) = (
        group for pid, ppid, group, args in processes() if ppid == parent and "devstack.emulator" in args
    )
    return group


def nothing_runs(group: int) -> bool:
    return all(each != group for _, _, each, _ in processes())


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
            ["/bin/bash", "-c", script], cwd="/", capture_output=True, text=True, check=False,
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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with started_playground(tmp_path_factory.mktemp("playground")) as started:
        wait_until(
            lambda: "What happens" in started.output or started.parent.poll() is not None,
            lambda: started.output,
        )
        assert started.parent.poll() is None, started.output
        yield started


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


def statements(policy: str) -> list[Any]:
    return list(json.loads(policy)["Statement"])


def test_printed_commands_do_what_the_text_above_them_says(running: Playground) -> None:
    create, attached, invoke, overwrite, add_role, *_ = list(running.commands().values())[1:]

    created, before = (running.run(command) for command in create)
    assert created.returncode == 0, created.stderr
    assert "RepositoryPolicyNotFoundException" in before.stderr
    running.wait_for_policy("team/app", ALLOW_PULL)
    assert statements(running.run(attached[0]).stdout) == [ALLOW_PULL]

    remote, logs = (running.run(command) for command in invoke)
    assert '"outcomes": {"unchanged": 1}' in remote.stdout
    assert "reconciled" in logs.stdout

    assert running.run(overwrite[0]).returncode == 0
    running.wait_for_policy("team/app", FOREIGN, ALLOW_PULL)
    assert statements(running.run(overwrite[1]).stdout) == [FOREIGN, ALLOW_PULL]

    deployed = running.run(add_role[0])
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    second_role = f"{data_plane.ROLE_ARN}-gpu"
    both_roles = ALLOW_PULL | {"Principal": {"AWS": [data_plane.ROLE_ARN, second_role]}}
    running.wait_for_policy("team/app", FOREIGN, both_roles)
    assert statements(running.run(add_role[1]).stdout) == [FOREIGN, both_roles]

    running.wait_for("event", "CreateRepository", "team/app")
    running.wait_for("result", "attached", "team/app", f"+ AllowPull {data_plane.ROLE_ARN}")
    running.wait_for("event", "SetRepositoryPolicy", "team/app", "by the function itself")
    running.wait_for("event", "Stack", "UPDATE_COMPLETE")
    running.wait_for("result", "attached", "team/app", f"+ AllowPull {second_role}")


def test_printed_tour_shows_a_denied_repository_a_plan_a_diagnosis_and_a_missing_role(
    running: Playground,
) -> None:
    commands = running.commands()
    deny, plan, push, diagnose, dry_run, sweep, missing = list(commands.values())[6:13]
    if not policy(running.aws.ecr(), "team/app"):
        running.run(list(commands.values())[1][0])
    assert [running.run(command).returncode for command in deny] == [0, 0]
    running.wait_for("result", "security/vault", "NoPulls")

    planned = running.run(plan[0])
    assert planned.returncode == 3, planned.stdout + planned.stderr
    assert '"NoPulls" denies AllowPull' in planned.stdout

    assert [running.run(command).returncode for command in push] == [0, 0]
    allowed, denied = (running.run(command) for command in diagnose)
    assert allowed.returncode == 0, allowed.stdout + allowed.stderr
    assert denied.returncode == 2
    assert '✗ Denied: statement "NoPulls"' in denied.stdout

    report = running.run(dry_run[0]).stdout
    assert '"denied": 1' in report
    assert '"security/vault"' in report

    assert '"StatusCode": 202' in running.run(sweep[0]).stdout
    queues = running.run(sweep[1])
    assert "DeadLetterQueue" in queues.stdout, queues.stderr

    assert running.run(missing[0]).returncode == 0
    refused = running.run(missing[1])
    assert "-missing" in refused.stdout + refused.stderr
    running.wait_for("role missing", "-missing")


def test_a_failure_is_shown_with_its_reason(running: Playground) -> None:
    too_long = {
        "Sid": "x" * 10_000,
        "Effect": "Deny",
        "Principal": {"AWS": "999999999999"},
        "Action": "ecr:*",
    }
    registry = running.aws.ecr()
    registry.create_repository(repositoryName="full/app")
    text = json.dumps({"Version": "2012-10-17", "Statement": [too_long]})
    registry.set_repository_policy(repositoryName="full/app", policyText=text)

    running.wait_for("result", "failed", "full/app", "10,240")


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


@pytest.fixture(scope="module")
def docker() -> None:
    require_docker()


def require_docker() -> None:
    """Skip, or fail where Docker is required, unless Docker and the image of the runtime are there."""
    if not shutil.which("docker") or not (
        docker_runs("image", "inspect", IMAGE) or docker_runs("pull", IMAGE)
    ):
        missing = f"`sam local invoke` needs Docker and the image {IMAGE}"
        pytest.fail(missing) if os.environ.get(DOCKER_REQUIRED) else pytest.skip(missing)


def docker_runs(*arguments: str) -> bool:
    command = ["docker", *arguments]
    return not subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603 - fixed


@pytest.mark.parametrize(("required", "outcome"), [("", "Skipped"), ("1", "Failed")])
def test_without_docker_its_tests_are_skipped_or_fail_where_docker_is_required(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: str
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(DOCKER_REQUIRED, required)

    with pytest.raises(BaseException, match="needs Docker") as raised:
        require_docker()

    assert raised.type.__name__ == outcome


@pytest.mark.usefixtures("docker")
class TestSamLocalInvoke:
    @pytest.fixture
    def commands(self, running: Playground) -> list[str]:
        (commands,) = (each for title, each in running.commands().items() if "in Docker" in title)
        return commands

    @pytest.fixture
    def repositories(self, running: Playground) -> Iterator[Any]:
        """Create the repositories of the saved events in their account."""
        registry = running.aws.ecr(Credentials(SAM_LOCAL_ACCOUNT))
        for name in REPOSITORIES:
            registry.create_repository(repositoryName=name)
        yield registry
        for name in REPOSITORIES:
            registry.delete_repository(repositoryName=name, force=True)

    def test_printed_commands_attach_the_grant(self, running: Playground, commands: list[str]) -> None:
        outputs = [running.run(command) for command in commands]

        assert [each.returncode for each in outputs] == [0, 0, 0], outputs
        assert statements(outputs[-1].stdout) == [ALLOW_PULL]
        registry = running.aws.ecr(Credentials(SAM_LOCAL_ACCOUNT))
        registry.delete_repository(repositoryName="team/app")

    @pytest.mark.parametrize(
        "event", sorted({path.stem for path in (PROJECT / "events").glob("*.json")} - {"playground"})
    )
    def test_every_saved_event_has_its_outcome(
        self,
        running: Playground,
        commands: list[str],
        repositories: Any,  # noqa: ANN401 - a client
        event: str,
    ) -> None:
        outcomes, granted = EVENTS[event]
        if event == "policy-set":
            text = json.dumps({"Version": "2012-10-17", "Statement": [FOREIGN_IN_EVENT]})
            repositories.set_repository_policy(repositoryName="team/app", policyText=text)

        completed = running.run(commands[1].replace("created-by-api", event))

        report = json.loads(next(line for line in completed.stdout.splitlines() if '"checked"' in line))
        assert report["outcomes"] == outcomes
        for name in REPOSITORIES:
            foreign = [FOREIGN_IN_EVENT] if (event, name) == ("policy-set", "team/app") else []
            assert policy(repositories, name) == [*foreign, *[ALLOW_PULL][: name in granted]]


def policy(registry: Any, name: str) -> list[Any]:  # noqa: ANN401 - a client
    try:
        return statements(registry.get_repository_policy(repositoryName=name)["policyText"])
    except registry.exceptions.RepositoryPolicyNotFoundException:
        return []


def test_a_deleted_stack_ends_the_playground_with_a_message_that_says_so(running: Playground) -> None:
    activity = Mock(Activity)
    activity.poll = lambda: running.aws.logs().filter_log_events(logGroupName="/aws/lambda/deleted")

    with pytest.raises(playground.PlaygroundError, match=r"The stack was deleted"):
        playground.follow(activity)


class TestLeavesNothingRunning:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_after_a_signal(self, tmp_path: Path, number: signal.Signals) -> None:
        with started_playground(tmp_path) as started:
            wait_until(lambda: playground.is_embedded_aws(started.port), lambda: started.output)
            group = emulator_group(started.pid)

            os.kill(started.pid, number)

            assert started.parent.wait(timeout=TIMEOUT) == 0
        assert started.output.splitlines()[-1] == "Stopped. All processes have exited."
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
