"""Reads the role's side of a pull from IAM, with credentials of the role's account."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from cli.access import Decision, Role
from cli.diagnose.facts import OPTIONAL, TOKEN, RoleFacts, Simulated, Unknown
from cli.diagnose.reads import code_of, read
from cli.diagnose.simulation import interpret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_iam import IAMClient

    from cli.aws import Aws

_NO_ENTITY = "NoSuchEntity"


def read_role(aws: Aws, role: Role, actions: Sequence[str], repository_arn: str) -> tuple[Role, RoleFacts]:
    """Read the role, and let IAM simulate its policies; return the role with what is known of it.

    Raises:
        CliError: a response is not from AWS.
        ClientError: AWS refuses a call for another reason than a missing permission.
        BotoCoreError: AWS cannot be called.
    """
    iam = aws.iam()
    found = read(lambda: _find(iam, role))
    if isinstance(found, Role):
        role = replace(role, unique_id=found.unique_id, has_boundary=found.has_boundary)
    arn = found.arn if isinstance(found, Role) else found
    if arn is None or (isinstance(arn, str) and arn != role.arn):
        return role, RoleFacts(arn)
    simulated = read(lambda: _simulate(iam, role, actions, repository_arn))
    return role, RoleFacts(arn, simulated)


def command(role: Role, actions: Sequence[str], profile: str = "") -> str:
    """Return the command of the AWS CLI that shows the role's side."""
    words = ["aws", "iam", "simulate-principal-policy", "--policy-source-arn", role.arn, "--action-names"]
    query = ["--query", "EvaluationResults[].[EvalActionName,EvalDecision]", "--output", "text"]
    return shlex.join([*words, TOKEN, *actions, *query, *(["--profile", profile] if profile else [])])


def _find(iam: IAMClient, role: Role) -> Role | None:
    try:
        found = iam.get_role(RoleName=role.name)["Role"]
    except ClientError as error:
        if code_of(error) == _NO_ENTITY:
            return None
        raise
    return replace(
        role, arn=found["Arn"], unique_id=found["RoleId"], has_boundary="PermissionsBoundary" in found
    )


def _simulate(
    iam: IAMClient, role: Role, actions: Sequence[str], repository_arn: str
) -> Mapping[str, Simulated] | Unknown:
    pull = _simulated(iam, role, [*actions, OPTIONAL], [repository_arn])
    token = _simulated(iam, role, [TOKEN], ["*"])
    lacking = [action for action, each in pull.items() if each.decision is Decision.NOT_ALLOWED]
    if lacking and f":{role.account}:" not in repository_arn:
        # Without details, `implicitDeny` may only say that the simulation has no repository policy.
        anywhere = _simulated(iam, role, lacking, ["*"])
        pull |= {action: each for action, each in anywhere.items() if each.decision is Decision.ALLOWED}
    return pull | token


def _simulated(
    iam: IAMClient, role: Role, actions: Sequence[str], resources: Sequence[str]
) -> dict[str, Simulated]:
    pages = iam.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=role.arn, ActionNames=list(actions), ResourceArns=list(resources)
    )
    return {
        result["EvalActionName"]: interpret(result) for page in pages for result in page["EvaluationResults"]
    }
