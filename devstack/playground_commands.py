"""The commands that the playground prints for a second terminal."""

from __future__ import annotations

import json
import platform
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from samtranslator.yaml_helper import yaml_parse

from devstack import docker_bridge
from devstack.aws import ACCOUNT, REGION, REGISTRY_OWNER, STACK
from devstack.data_plane import ROLE_ARN, ROLE_NAME
from devstack.host import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from devstack.aws import LocalAws

DEFAULT_PORT = 4570  # events/playground.json has it too
ARCHITECTURE = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
# The account of the saved events, and of functions in `sam local invoke`. The stack is not deployed in it.
SAM_LOCAL_ACCOUNT = "012345678912"
_REPOSITORY = "team/app"
SECOND_ROLE_NAME = f"{ROLE_NAME}-gpu"
_CREATE = f"aws ecr create-repository --repository-name {_REPOSITORY}"
_GET_POLICY = (
    f"aws ecr get-repository-policy --repository-name {_REPOSITORY} --query policyText --output text"
)
_FOREIGN_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "CiMayPush",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "ecr:PutImage",
        }
    ],
}


class Step(NamedTuple):
    """Commands to paste together, and what they do."""

    title: str
    commands: tuple[str, ...]


def prepare(aws: LocalAws) -> None:
    """Write what the commands need next to the build output."""
    build = aws.folder / "build"
    (build / "samconfig.toml").write_text((PROJECT / "samconfig.toml").read_text())
    (build / "local.yaml").write_text(json.dumps(local_template((build / "template.yaml").read_text())))
    environment = (PROJECT / "events/playground.json").read_text()
    _environment_copy(aws).write_text(environment.replace(f":{DEFAULT_PORT}", f":{_port(aws)}"))


def local_template(text: str) -> dict[str, Any]:
    """Return the built template for `sam local invoke`.

    `sam local invoke` sets only the variables that the template declares, so AWS_ENDPOINT_URL is added. The
    function's architecture is that of this machine, so that Docker runs its image.
    """
    template: dict[str, Any] = yaml_parse(text)
    function = template["Resources"]["Function"]["Properties"]
    function["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = ""
    function["Architectures"] = [ARCHITECTURE]
    return template


def steps(aws: LocalAws, *, docker: bool) -> list[Step]:
    """Return the steps to try in the second terminal."""
    template = aws.folder / "build/template.yaml"
    foreign = shlex.quote(json.dumps(_FOREIGN_POLICY, separators=(",", ":")))
    remote_invoke = f"sam remote invoke --stack-name {STACK} --event-file events/rerun-all.json"
    logs = f"sam logs --stack-name {STACK}"
    set_policy = f"aws ecr set-repository-policy --repository-name {_REPOSITORY} --policy-text {foreign}"
    deploy = (
        f"sam deploy --template-file {template} --no-confirm-changeset "
        f"--parameter-overrides WorkerRoleArns={ROLE_ARN},{ROLE_ARN}-gpu"
    )
    planned = [
        Step("Prepare the terminal:", _environment(aws)),
        Step("Create a repository. The repository has no policy yet:", (_CREATE, _GET_POLICY)),
        Step("A few seconds later, the policy contains the grant:", (_GET_POLICY,)),
        Step("Invoke the function yourself, and read its log:", (remote_invoke, logs)),
        Step("Overwrite the policy. A few seconds later, the grant is back:", (set_policy, _GET_POLICY)),
        Step("Add a worker role. The deployment starts a sweep, which adds the role:", (deploy, _GET_POLICY)),
    ]
    return [*planned, _sam_local(aws)] if docker else planned


def _environment(aws: LocalAws) -> tuple[str, ...]:
    return (
        f"cd {shlex.quote(str(PROJECT))}",
        'export PATH="$PWD/.tools/sam/bin:$PWD/.tools/awscli/bin:$PATH" SAM_CLI_TELEMETRY=0',
        f"export AWS_ENDPOINT_URL={aws.endpoint} NO_PROXY=127.0.0.1 AWS_PAGER=",
        f"export AWS_ACCESS_KEY_ID={ACCOUNT} AWS_SECRET_ACCESS_KEY={REGISTRY_OWNER.secret_access_key}",
        f"export AWS_REGION={REGION} AWS_DEFAULT_REGION={REGION}",
        "unset AWS_PROFILE AWS_SESSION_TOKEN",
    )


def _sam_local(aws: LocalAws) -> Step:
    environment = "events/playground.json" if _port(aws) == DEFAULT_PORT else _environment_copy(aws)
    invoke = (
        f"sam local invoke -e events/created-by-api.json --env-vars {environment} "
        f"--template-file {aws.folder / 'build/local.yaml'} --skip-pull-image "
        f"--add-host {docker_bridge.HOST}:host-gateway"
    )
    return Step(
        f"Run the function in Docker, on another registry: account {SAM_LOCAL_ACCOUNT} of the saved events.",
        tuple(
            f"AWS_ACCESS_KEY_ID={SAM_LOCAL_ACCOUNT} {command}" for command in (_CREATE, invoke, _GET_POLICY)
        ),
    )


def _environment_copy(aws: LocalAws) -> Path:
    return aws.folder / "playground.json"


def _port(aws: LocalAws) -> int:
    return int(aws.endpoint.rpartition(":")[2])
