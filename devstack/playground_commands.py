"""The commands that the playground prints for a second terminal."""

from __future__ import annotations

import json
import platform
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from samtranslator.yaml_helper import yaml_parse

from devstack import data_plane, docker_bridge
from devstack.aws import ACCOUNT, REGION, REGISTRY_OWNER, STACK
from devstack.data_plane import DATA_PLANE_ACCOUNT, ROLE_ARN, ROLE_NAME, TAG
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
_DENIED_REPOSITORY = "security/vault"
_DENY_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Sid": "NoPulls", "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"}],
}
_MISSING_ROLE = f"{ROLE_ARN}-missing"
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


# Makes version 1, the only one on PyPI, accept commands for version 2. Version 1 has no --cli-binary-format,
# and ignores AWS_ENDPOINT_URL for SQS.
_AWS_CLI_1 = """#!/bin/sh
count=$#
skip=
while [ "$count" -gt 0 ]; do
    word=$1 count=$((count - 1))
    shift
    if [ "$skip" ]; then
        skip=
    elif [ "$word" = --cli-binary-format ]; then
        skip=1
    else
        set -- "$@" "$word"
    fi
done
exec {aws} --endpoint-url "$AWS_ENDPOINT_URL" "$@"
"""
# One profile for each side, as the commands of the project expect it.
_PROFILES = {"registry": ACCOUNT, "data-plane": DATA_PLANE_ACCOUNT}


class Step(NamedTuple):
    """Commands to paste together, and what they do."""

    title: str
    commands: tuple[str, ...]


def role_check_repository() -> str:
    """Return the repository for role checks that `sam local invoke` gives to the function."""
    variables = json.loads((PROJECT / "events/playground.json").read_text())["Function"]
    return str(variables["ROLE_CHECK_REPOSITORY"])


def prepare(aws: LocalAws) -> None:
    """Write what the commands need next to the build output."""
    build = aws.folder / "build"
    (build / "samconfig.toml").write_text((PROJECT / "samconfig.toml").read_text())
    (build / "local.yaml").write_text(json.dumps(local_template((build / "template.yaml").read_text())))
    environment = (PROJECT / "events/playground.json").read_text()
    _environment_copy(aws).write_text(environment.replace(f":{DEFAULT_PORT}", f":{_port(aws)}"))
    secret = REGISTRY_OWNER.secret_access_key
    (aws.folder / "manifest.json").write_text(data_plane.manifest())
    program = aws.folder / "bin/aws"
    program.parent.mkdir()
    program.write_text(_AWS_CLI_1.format(aws=PROJECT / ".tools/awscli/bin/aws"))
    program.chmod(0o755)
    _configuration(aws).write_text(
        "".join(
            f"[profile {name}]\naws_access_key_id = {account}\naws_secret_access_key = {secret}\n"
            for name, account in _PROFILES.items()
        )
    )


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


def steps(aws: LocalAws, *, docker: bool, sweep: str) -> list[Step]:
    """Return the steps to try in the second terminal; `sweep` is the stack's output `SweepCommand`."""
    template = aws.folder / "build/template.yaml"
    foreign = shlex.quote(json.dumps(_FOREIGN_POLICY, separators=(",", ":")))
    remote_invoke = f"sam remote invoke --stack-name {STACK} --event-file events/rerun-all.json"
    logs = f"sam logs --stack-name {STACK}"
    set_policy = f"aws ecr set-repository-policy --repository-name {_REPOSITORY} --policy-text {foreign}"
    deploy = (
        f"sam deploy --template-file {template} --no-confirm-changeset "
        f"--parameter-overrides WorkerRoleArns={ROLE_ARN},{ROLE_ARN}-gpu"
    )
    create_denied = f"aws ecr create-repository --repository-name {_DENIED_REPOSITORY}"
    deny = (
        f"aws ecr set-repository-policy --repository-name {_DENIED_REPOSITORY} "
        f"--policy-text {shlex.quote(json.dumps(_DENY_POLICY, separators=(',', ':')))}"
    )
    dry_run = f"sam remote invoke --stack-name {STACK} --event-file events/dry-run.json"
    missing = deploy.replace(f"{ROLE_ARN}-gpu", _MISSING_ROLE)
    planned = [
        Step("Prepare the terminal:", _environment(aws)),
        Step("Create a repository. The repository has no policy yet:", (_CREATE, _GET_POLICY)),
        Step("A few seconds later, the policy contains the grant:", (_GET_POLICY,)),
        Step("Invoke the function yourself, and read its log:", (remote_invoke, logs)),
        Step("Overwrite the policy. A few seconds later, the grant is back:", (set_policy, _GET_POLICY)),
        Step("Add a worker role. The deployment starts a sweep, which adds the role:", (deploy, _GET_POLICY)),
        Step(
            "Create a repository whose policy denies pulls. The function attaches its grant:",
            (create_denied, deny),
        ),
        Step("Plan from your terminal. The plan names the statement that denies the pull:", (_plan(),)),
        Step("Push an image:", (_push(aws, _REPOSITORY), _push(aws, _DENIED_REPOSITORY))),
        Step("Diagnose a pull from both sides:", (_diagnose(_REPOSITORY), _diagnose(_DENIED_REPOSITORY))),
        Step("Start a dry run in the function. The report names the denied repository:", (dry_run,)),
        Step(
            "Run the sweep of the stack's output SweepCommand, and read the dead-letter queue:",
            (sweep, f"aws sqs list-queues --endpoint-url {aws.endpoint}"),
        ),
        Step(
            "Add a missing role. Like AWS, the embedded AWS rejects it, and the dry run names it:",
            (missing, dry_run),
        ),
    ]
    return [*planned, _sam_local(aws)] if docker else planned


def _environment(aws: LocalAws) -> tuple[str, ...]:
    return (
        f"cd {shlex.quote(str(PROJECT))}",
        # The playground's AWS CLI comes first: another one may be a version manager's shim that fails here.
        f'export PATH="{aws.folder / "bin"}:$PWD/.tools/sam/bin:$PATH" SAM_CLI_TELEMETRY=0',
        # `sam local invoke` calls the container at localhost. In the second terminal, a proxy may be set.
        f"export AWS_ENDPOINT_URL={aws.endpoint} AWS_PAGER=",
        "export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost",
        f"export AWS_ACCESS_KEY_ID={ACCOUNT} AWS_SECRET_ACCESS_KEY={REGISTRY_OWNER.secret_access_key}",
        f"export AWS_REGION={REGION} AWS_DEFAULT_REGION={REGION}",
        f"export AWS_CONFIG_FILE={_configuration(aws)} AWS_SHARED_CREDENTIALS_FILE=/dev/null",
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


def _plan() -> str:
    return f"./ecr-allow-pull plan --profile registry --worker-role {ROLE_ARN}"


def _diagnose(repository: str) -> str:
    image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{repository}:{TAG}"
    return f"./ecr-allow-pull diagnose {image} --role {ROLE_ARN} --profile registry --role-profile data-plane"


def _push(aws: LocalAws, repository: str) -> str:
    manifest = f"file://{aws.folder / 'manifest.json'}"
    return (
        f"aws ecr put-image --repository-name {repository} --image-tag {TAG} --image-manifest {manifest} "
        "--query image.imageId"
    )


def _configuration(aws: LocalAws) -> Path:
    return aws.folder / "config"


def _environment_copy(aws: LocalAws) -> Path:
    return aws.folder / "playground.json"


def _port(aws: LocalAws) -> int:
    return int(aws.endpoint.rpartition(":")[2])
