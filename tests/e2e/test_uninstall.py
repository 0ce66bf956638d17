"""Uninstalling, with the commands of docs/revoke-access.md: policies are as before the installation."""

import json
import re
import shlex
import time
from collections.abc import Iterator
from typing import Any

import pytest

from devstack import data_plane
from devstack.aws import REGION, STACK, LocalAws, LocalAwsError, local_aws
from devstack.fake_ecr import normalized
from devstack.host import PROJECT
from tests.e2e.conftest import FOREIGN

PULL = ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"]
SWEEP_TIMEOUT = 30  # seconds


def by_hand(role: str) -> dict[str, object]:
    return {"Sid": "AllowPull", "Effect": "Allow", "Principal": {"AWS": role}, "Action": PULL}


def document(*statements: object) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def documented_commands() -> list[list[str]]:
    """Read the commands of the section, with the region of the embedded AWS."""
    page = (PROJECT / "docs/revoke-access.md").read_text()
    section = page.partition("\n## Uninstall\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^ *\$ (.*)$", section, re.MULTILINE)
    return [shlex.split(command.replace("REGION", REGION)) for command in commands]


@pytest.fixture
def aws() -> Iterator[LocalAws]:
    with local_aws(stack_events=True) as aws:
        aws.build()
        yield aws


def policy(aws: LocalAws, name: str) -> dict[str, Any] | None:
    try:
        text = aws.ecr().get_repository_policy(repositoryName=name)["policyText"]
    except aws.ecr().exceptions.RepositoryPolicyNotFoundException:
        return None
    return normalized(json.loads(text))


def policies(aws: LocalAws, names: tuple[str, ...]) -> dict[str, dict[str, Any] | None]:
    return {name: policy(aws, name) for name in names}


def run(aws: LocalAws, command: list[str]) -> str:
    """Run a documented `sam` command; it asks nothing, and finds the build in the temporary folder."""
    _, name, *arguments = command
    unattended = {
        "deploy": [
            *("--template-file", str(aws.folder / "build/template.yaml"), "--no-confirm-changeset"),
            *("--config-file", str(PROJECT / "samconfig.toml")),
        ],
        "delete": ["--no-prompts"],
    }
    return aws.sam(name, *arguments, *unattended.get(name, []))


def wait_until_unchanged(aws: LocalAws, command: list[str], count: int) -> dict[str, Any]:
    """Repeat the documented check until nothing is left to be removed."""
    deadline = time.monotonic() + SWEEP_TIMEOUT
    while True:
        printed = run(aws, command)
        report: dict[str, Any]
        report, _ = json.JSONDecoder().raw_decode(printed, printed.index('{"checked'))
        if report["outcomes"] == {"unchanged": count}:
            return report
        assert time.monotonic() < deadline, report


def test_three_commands_leave_every_policy_as_it_was_before_the_installation(aws: LocalAws) -> None:
    data_plane.create_role(aws)
    other = data_plane.create_role_alone(aws, "added-by-hand")
    before: dict[str, dict[str, Any] | None] = {
        "bare/app": None,
        "foreign/app": document(FOREIGN),
        "by-hand/app": document(by_hand(other)),
        "both/app": document(FOREIGN, by_hand(other)),
    }
    for name, text in before.items():
        aws.ecr().create_repository(repositoryName=name)
        if text:
            aws.ecr().set_repository_policy(repositoryName=name, policyText=json.dumps(text))
    names = tuple(before)
    original = policies(aws, names)
    aws.deploy({"WorkerRoleArns": data_plane.ROLE_ARN})
    deadline = time.monotonic() + SWEEP_TIMEOUT
    while not all(data_plane.ROLE_ARN in json.dumps(each) for each in policies(aws, names).values()):
        assert time.monotonic() < deadline, aws.log()
        time.sleep(0.2)

    deploy, check, delete = documented_commands()
    assert [command[1] for command in (deploy, check, delete)] == ["deploy", "remote", "delete"]
    run(aws, deploy)
    report = wait_until_unchanged(aws, check, len(names))

    assert policies(aws, names) == original
    assert report["dry_run"] is False

    # A repository that is created, or gets the role again, loses it at once.
    aws.ecr().set_repository_policy(
        repositoryName="bare/app", policyText=json.dumps(document(by_hand(data_plane.ROLE_ARN)))
    )
    deadline = time.monotonic() + SWEEP_TIMEOUT
    while policy(aws, "bare/app"):
        assert time.monotonic() < deadline, aws.log()
        time.sleep(0.2)

    run(aws, delete)
    with pytest.raises(LocalAwsError, match=STACK):
        run(aws, check)
    assert policies(aws, names) == original
    assert [each["repositoryName"] for each in aws.ecr().describe_repositories()["repositories"]] == list(
        names
    )
