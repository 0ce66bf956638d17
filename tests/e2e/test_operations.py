"""Tests the permissions of the deployed stack, its metrics and a second deployment."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from scripts.permissions_page import Permission, permissions
from tests.e2e.conftest import Record, Stack

# The permissions that the embedded AWS enforces, with the pattern of a payload that needs each. Each has a
# repository of its own, which no late event of another test can name.
ENFORCED = {
    "ecr:DescribeRepositories": "describe/*",
    "ecr:GetRepositoryPolicy": "get/app",
    "ecr:SetRepositoryPolicy": "set/app",
    "ecr:GetRegistryPolicy": "registry/app",
}


@pytest.mark.embedded("a change of a permission takes effect after a time that AWS does not promise")
@pytest.mark.parametrize("permission", [*permissions()], ids=lambda one: f"{one.logical_id}-{one.action}")
def test_each_permission_is_needed_and_the_error_names_a_missing_one(
    stack: Stack, permission: Permission
) -> None:
    action = permission.action
    if action == "ecr:DeleteRepositoryPolicy":
        pytest.skip("only a stack in remove mode has it: test_removal.py")
    if action == "cloudwatch:GetMetricData":
        pytest.skip(
            "without it, nothing fails: only the warning about missed creation events is less certain"
        )
    if permission.principal != "function" or action not in {*ENFORCED, "lambda:InvokeFunction"}:
        pytest.skip(f"the embedded AWS doesn't enforce {action} for the {permission.principal}")
    if action == "lambda:InvokeFunction":
        error = continuation_error_without_permission(stack)
    else:
        payload = {"repositories": [ENFORCED[action]]}
        with stack.only_rules():
            stack.create_repository(ENFORCED[action].replace("*", "app"))
            with without_permission(stack, action):
                response = stack.invoke(payload)
                # Without the registry's policy, everything else is done.
                error = response.get("errorMessage") or response["registry_policy"]["note"]
            assert "errorMessage" not in stack.invoke(payload)

    assert action.partition(":")[2].removesuffix("Function") in error
    assert "not authorized" in error or "AccessDenied" in error


def continuation_error_without_permission(stack: Stack) -> str:
    with (
        stack.only_rules(),
        without_permission(stack, "lambda:InvokeFunction"),
        stack.long_sweep("continued"),
    ):
        response = stack.invoke({"repositories": ["continued/*"]})
    return str(response.get("errorMessage", response))


class TestAnotherFunctionUnderTheSameRole:
    """Whoever may pass the role to a function gets none of the role's permissions on ECR and the function."""

    CODE = """
import boto3

def call(event, context):
    client = boto3.client(event["service"])
    try:
        getattr(client, event["method"])(**event["parameters"])
    except client.exceptions.ClientError as error:
        return str(error)
    return "allowed"
"""

    def call(self, stack: Stack, function: str, service: str, method: str, parameters: dict[str, str]) -> str:
        event = {"service": service, "method": method, "parameters": parameters}
        response = stack.aws.lambda_().invoke(FunctionName=function, Payload=json.dumps(event))
        return str(json.loads(response["Payload"].read()))

    def test_can_call_neither_ecr_nor_the_function_because_of_the_condition(
        self, stack: Stack, record: Record
    ) -> None:
        repository = stack.named("same-role/app")
        text = json.dumps({"Version": "2012-10-17", "Statement": [stack.allow_pull]})
        write = {"repositoryName": repository, "policyText": text}
        calls: list[tuple[str, str, dict[str, str]]] = [
            ("ecr", "describe_repositories", {}),
            ("ecr", "get_registry_policy", {}),
            ("ecr", "get_repository_policy", {"repositoryName": repository}),
            ("ecr", "set_repository_policy", write),
            ("lambda", "invoke", {"FunctionName": stack.outputs["FunctionName"], "Payload": "{}"}),
        ]
        with stack.only_rules(), other_function(stack, self.CODE) as function:
            stack.create_repository(repository)
            answers = [self.call(stack, function, *each) for each in calls]
            denied = ["not authorized" in answer or "AccessDenied" in answer for answer in answers]
            record("source_function_arn", {"denied": all(denied)})
            with without_conditions(stack):
                stack.wait_until(
                    lambda: self.call(stack, function, "ecr", "set_repository_policy", write) == "allowed"
                )

        assert all(denied), answers
        assert stack.statements(repository) == [stack.allow_pull]


@contextmanager
def other_function(stack: Stack, code: str) -> Iterator[str]:
    """Create another function under the role of the stack's function, until the block ends."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("other.py", code)
    functions, name = stack.aws.lambda_(), f"{stack.aws.stack}-other"
    functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="other.call",
        Role=stack.aws.iam().get_role(RoleName=role_name(stack))["Role"]["Arn"],
        Code={"ZipFile": archive.getvalue()},
        Timeout=30,
    )
    functions.get_waiter("function_active_v2").wait(FunctionName=name)
    try:
        yield name
    finally:
        functions.delete_function(FunctionName=name)


@contextmanager
def without_conditions(stack: Stack) -> Iterator[None]:
    """Remove the conditions on the permissions of the function's role until the block ends."""
    iam, role, name = stack.aws.iam(), role_name(stack), "CallsFromFunctionCode"
    document = cast("Any", iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
    document = json.loads(document) if isinstance(document, str) else document
    statements = [
        {key: value for key, value in one.items() if key != "Condition"} for one in document["Statement"]
    ]
    reduced = json.dumps(document | {"Statement": statements})
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=reduced)
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))


def test_a_second_deployment_without_changes_succeeds(stack: Stack) -> None:
    """A pipeline deploys again and again. Without `fail_on_empty_changeset`, SAM exits with 1."""
    parameters = {"WorkerRoleArns": stack.role, "Repositories": f"{stack.target.prefix}*"}
    outputs = stack.aws.deploy(parameters)
    before = stack.aws.cloudformation().describe_stacks(StackName=stack.aws.stack)["Stacks"][0]

    assert stack.aws.deploy(parameters) == outputs == stack.outputs

    after = stack.aws.cloudformation().describe_stacks(StackName=stack.aws.stack)["Stacks"][0]
    assert after.get("LastUpdatedTime") == before.get("LastUpdatedTime")


@pytest.mark.trail
def test_time_from_creation_to_grant_is_a_metric(stack: Stack) -> None:
    stack.settle()
    since, repository = time.time(), stack.named("measured/app")
    stack.create_repository(repository)
    stack.wait_for_statements(repository, stack.allow_pull)

    def metric_lines() -> list[dict[str, Any]]:
        return [line for line in stack.log_lines(since) if "SecondsToGrant" in line]

    stack.wait_until(lambda: bool(metric_lines()))
    line = metric_lines()[-1]
    assert line["service"] == stack.aws.stack
    assert 0 < line["SecondsToGrant"][0] < stack.target.timeout
    (definition,) = line["_aws"]["CloudWatchMetrics"]
    assert definition["Namespace"] == "EcrAllowPull"
    assert definition["Dimensions"] == [["service"]]


@contextmanager
def without_permission(stack: Stack, action: str) -> Iterator[None]:
    """Remove a permission from the function's role until the block ends."""
    iam, role = stack.aws.iam(), role_name(stack)
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = cast("Any", iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
        document = json.loads(document) if isinstance(document, str) else document
        for statement in document["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if action in actions:
                others = [other for other in actions if other != action] or ["ecr:GetAuthorizationToken"]
                kept = [one for one in document["Statement"] if one is not statement]
                reduced = document | {"Statement": [statement | {"Action": others}, *kept]}
                iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(reduced))
                try:
                    yield
                finally:
                    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))
                return
    raise AssertionError(f"the role has no {action}")


def role_name(stack: Stack) -> str:
    return stack.resources("AWS::IAM::Role")["Role"]
