"""Tests `make playground`: its commands and output, and `sam local invoke` against it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from devstack import data_plane, playground
from devstack.activity import Activity
from devstack.host import PROJECT
from devstack.playground_commands import ARCHITECTURE, SAM_LOCAL_ACCOUNT, role_check_repository
from devstack.target import Credentials
from tests.e2e.conftest import ALLOW_PULL, FOREIGN
from tests.e2e.playground import Playground, policy, started_playground, statements, wait_until
from tests.environment import DOCKER_REQUIRED

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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with started_playground(tmp_path_factory.mktemp("playground")) as started:
        wait_until(
            lambda: "What happens" in started.output or started.parent.poll() is not None,
            lambda: started.output,
        )
        assert started.parent.poll() is None, started.output
        yield started


def test_printed_commands_do_what_the_text_above_them_says(running: Playground) -> None:
    create, attached, invoke, overwrite, add_role, *_ = list(running.commands().values())[1:]

    created, before = (running.run(command) for command in create)
    assert created.returncode == 0, created.stderr
    # On a busy machine, the grant can be there before the second command.
    assert "RepositoryPolicyNotFoundException" in before.stderr or statements(before.stdout) == [ALLOW_PULL]
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


def test_the_function_of_sam_local_has_a_repository_for_role_checks(running: Playground) -> None:
    registry = running.aws.ecr(Credentials(SAM_LOCAL_ACCOUNT))

    (repository,) = registry.describe_repositories()["repositories"]

    assert repository["repositoryName"] == role_check_repository()


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

        reports = [json.loads(line) for line in completed.stdout.splitlines() if '"checked"' in line]
        assert reports, completed.stdout + completed.stderr
        assert reports[-1].get("outcomes", {}) == outcomes  # an ignored event has none
        for name in REPOSITORIES:
            foreign = [FOREIGN_IN_EVENT] if (event, name) == ("policy-set", "team/app") else []
            assert policy(repositories, name) == [*foreign, *[ALLOW_PULL][: name in granted]]


def test_a_deleted_stack_ends_the_playground_with_a_message_that_says_so(running: Playground) -> None:
    activity = Mock(Activity)
    activity.poll = lambda: running.aws.logs().filter_log_events(logGroupName="/aws/lambda/deleted")

    with pytest.raises(playground.PlaygroundError, match=r"The stack was deleted"):
        playground.follow(activity)
