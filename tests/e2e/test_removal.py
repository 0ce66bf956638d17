"""Uninstalling, with the commands of docs/deploying.md: policies are as before the installation."""

import json
import re
import shlex
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack import data_plane
from devstack.host import PROJECT
from devstack.target import SamError
from tests.e2e.conftest import Stack, allow_pull, prepared_stack

SWEEP_TIMEOUT = 300  # seconds


def documented_commands(stack: Stack) -> list[list[str]]:
    """Read the commands of the section, with the region of the target."""
    page = (PROJECT / "docs/deploying.md").read_text()
    section = page.partition("\n## Uninstall\n")[2].partition("\n## ")[0].replace("\\\n", " ")
    commands = re.findall(r"^ *\$ (.*)$", section, re.MULTILINE)
    return [shlex.split(command.replace("REGION", stack.aws.region)) for command in commands]


@pytest.fixture
def stack(build: Path, worker_id: str) -> Iterator[Stack]:
    """The stack of a registry, before its deployment."""
    with prepared_stack(build, f"{worker_id}-removal", stack_events=True) as stack:
        yield stack


def run(stack: Stack, command: list[str]) -> str:
    """Run a documented `sam` command; it asks nothing, and finds the build in the temporary folder."""
    _, name, *arguments = command
    template = ["--template-file", str((stack.aws.folder / "build/template.yaml").resolve())]
    unattended = {"deploy": [*template, *stack.aws.deploy_options]}
    assert "--stack-name NAME" in shlex.join(arguments)
    # On AWS, the scope of the tests is their prefix.
    own = {"NAME": stack.aws.stack, "Repositories=*": f"Repositories={stack.target.prefix}*"}
    named = [own.get(each, each) for each in arguments]
    return stack.aws.sam(name, *named, *unattended.get(name, []))


def wait_until_unchanged(stack: Stack, command: list[str], count: int) -> dict[str, Any]:
    """Repeat the documented check until nothing is left to be removed."""
    deadline = time.monotonic() + SWEEP_TIMEOUT
    while True:
        printed = run(stack, command)
        report: dict[str, Any]
        report, _ = json.JSONDecoder().raw_decode(printed, printed.index('{"checked'))
        if report["outcomes"] == {"unchanged": count}:
            return report
        assert time.monotonic() < deadline, report


def policies(stack: Stack, names: Iterable[str]) -> dict[str, list[object]]:
    return {name: stack.statements(name) for name in names}


def test_three_commands_leave_every_policy_as_it_was_before_the_installation(stack: Stack) -> None:
    other = stack.target.create_role("added-by-hand")
    before: dict[str, list[object]] = {
        stack.named("bare/app"): [],
        stack.named("foreign/app"): [stack.foreign],
        stack.named("by-hand/app"): [allow_pull(other)],
        stack.named("both/app"): [stack.foreign, allow_pull(other)],
    }
    for name, statements in before.items():
        stack.create_repository(name, *statements)
    original = policies(stack, before)
    excluded = stack.named("excluded/app")
    scope = f"{stack.target.prefix}*,!{excluded}"
    stack.deploy({"WorkerRoleArns": stack.role, "Repositories": scope})
    stack.wait_until(lambda: all(stack.role in str(each) for each in policies(stack, before).values()))

    # A grant from a time when the scope was wider.
    stack.create_repository(excluded, stack.allow_pull)
    before[excluded] = original[excluded] = []

    build, deploy, check, delete = documented_commands(stack)
    assert build == ["sam", "build"]  # the fixture has built
    assert [command[1] for command in (deploy, check)] == ["deploy", "remote"]
    assert delete[:4] == ["aws", "cloudformation", "delete-stack", "--stack-name"]
    run(stack, deploy)
    report = wait_until_unchanged(stack, check, len(before))

    assert policies(stack, before) == original
    assert report["dry_run"] is False

    # A repository that gets the role again loses it at once.
    repository = stack.named("bare/app")
    stack.set_policy(repository, stack.allow_pull)
    data_plane.push(stack.registry, repository)
    stack.wait_until(lambda: not stack.statements(repository))

    stack.aws.delete()
    with pytest.raises(SamError, match=stack.aws.stack):
        run(stack, check)
    assert policies(stack, before) == original
    assert created_repositories(stack) == [*before]


def created_repositories(stack: Stack) -> list[str]:
    """Return the repositories that remain: those of the test."""
    pages = stack.registry.get_paginator("describe_repositories").paginate()
    names = [each["repositoryName"] for page in pages for each in page["repositories"]]
    return [name for name in names if name.startswith(stack.target.prefix)]
