"""The deployed stack as those see it who approve and run it: permissions, failures, metrics."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from local import permissions
from local.aws import STACK
from tests.e2e.conftest import ALLOW_PULL, Stack

GIVEN = re.findall(r"^\| (the \w+) \| `(\S+)` \|", permissions.page(), re.MULTILINE)
ENFORCED = {
    "ecr:DescribeRepositories": {"repositories": ["allowed/*"]},
    "ecr:GetRepositoryPolicy": {"repositories": ["allowed/app"]},
    "ecr:SetRepositoryPolicy": {"repositories": ["allowed/app"]},
}


@pytest.mark.parametrize(("who", "action"), GIVEN)
def test_without_any_one_permission_something_breaks_and_the_error_says_what(
    stack: Stack, who: str, action: str
) -> None:
    if who != "the function" or action not in {*ENFORCED, "lambda:InvokeFunction"}:
        pytest.skip(f"the embedded AWS does not enforce {action} for {who}")
    if action == "lambda:InvokeFunction":
        error = error_of_a_hand_over_without_permission(stack)
    else:
        with stack.only():
            if "allowed/app" not in {each["repositoryName"] for each in repositories(stack)}:
                stack.create("allowed/app")
            with without(stack, action):
                error = stack.invoke(ENFORCED[action])["errorMessage"]
            assert "errorMessage" not in stack.invoke(ENFORCED[action])
            stack.registry.delete_repository(repositoryName="allowed/app")

    assert action.partition(":")[2].removesuffix("Function") in error
    assert "not authorized" in error or "AccessDenied" in error


def error_of_a_hand_over_without_permission(stack: Stack) -> str:
    names = [f"handed/app-{number:04}" for number in range(800)]
    functions, function = stack.aws.lambda_(), stack.outputs["FunctionName"]
    with stack.only(), without(stack, "lambda:InvokeFunction"):
        for name in names:
            stack.create(name)
        functions.update_function_configuration(FunctionName=function, Timeout=2)
        try:
            answer = stack.invoke({"repositories": ["handed/*"]})
            return str(answer.get("errorMessage", answer))
        finally:
            functions.update_function_configuration(FunctionName=function, Timeout=900)
            for name in names:
                stack.registry.delete_repository(repositoryName=name, force=True)


class TestAFailure:
    def test_is_tried_again_and_then_kept_in_the_queue_and_a_sweep_is_the_repair(self, stack: Stack) -> None:
        too_long = {
            "Sid": "x" * 10_000,
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::444444444444:root"},
            "Action": "ecr:PutImage",
        }
        # The embedded AWS tries again what Lambda was asked for, but not what a rule asked for.
        with stack.only():
            stack.create("too-long/app", too_long)
            send(stack, {"repositories": ["too-long/app"]})
            stack.wait_until(lambda: bool(failures(stack)))

        (kept,) = failures(stack)
        assert kept["requestPayload"] == {"repositories": ["too-long/app"]}
        assert kept["requestContext"]["approximateInvokeCount"] == 3
        assert "shorten the other statements" in kept["responsePayload"]["errorMessage"]

        with stack.only():
            stack.registry.delete_repository_policy(repositoryName="too-long/app")
            assert "failed" not in stack.invoke({"repositories": ["*"]})["outcomes"]
        assert stack.statements_of("too-long/app") == [ALLOW_PULL]

    def test_of_a_wrong_event_is_not_tried_again(self, stack: Stack) -> None:
        event = {
            "source": "aws.ecr",
            "detail-type": "ECR Image Action",
            "id": "0e",
            "detail": {},
            "region": "x",
        }
        send(stack, event)

        stack.wait_until(lambda: any(line.get("correlation_id") == "0e" for line in stack.lines()))

        rejected = [line for line in stack.lines() if line.get("correlation_id") == "0e"]
        assert [line["message"] for line in rejected] == ["rejected"]


def test_a_creation_is_measured_until_it_can_be_pulled(stack: Stack) -> None:
    stack.create("measured/app")
    stack.wait_for("measured/app", ALLOW_PULL)

    def measured() -> list[dict[str, Any]]:
        return [line for line in stack.lines() if "SecondsToPullable" in line]

    stack.wait_until(lambda: bool(measured()))
    line = measured()[-1]
    assert line["service"] == STACK
    assert 0 < line["SecondsToPullable"][0] < 30
    (definition,) = line["_aws"]["CloudWatchMetrics"]
    assert definition["Namespace"] == "EcrAllowPull"
    assert definition["Dimensions"] == [["service"]]


def send(stack: Stack, event: object) -> None:
    stack.aws.lambda_().invoke(
        FunctionName=stack.outputs["FunctionName"], InvocationType="Event", Payload=json.dumps(event)
    )


@contextmanager
def without(stack: Stack, action: str) -> Iterator[None]:
    """Take a permission from the function's role for a while."""
    iam, role = stack.aws.iam(), role_of(stack)
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = cast("Any", iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
        document = json.loads(document) if isinstance(document, str) else document
        for statement in document["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if action in actions:
                rest = [other for other in actions if other != action] or ["ecr:GetAuthorizationToken"]
                less = document | {"Statement": [statement | {"Action": rest}]}
                iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(less))
                try:
                    yield
                finally:
                    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))
                return
    raise AssertionError(f"the role has no {action}")


def role_of(stack: Stack) -> str:
    found = stack.aws.cloudformation().describe_stack_resource(StackName=STACK, LogicalResourceId="Role")
    return found["StackResourceDetail"]["PhysicalResourceId"]


def repositories(stack: Stack) -> list[Any]:
    return list(stack.registry.describe_repositories()["repositories"])


def failures(stack: Stack) -> list[dict[str, Any]]:
    received = stack.aws.sqs().receive_message(
        QueueUrl=stack.outputs["FailuresQueueUrl"], MaxNumberOfMessages=10, VisibilityTimeout=0
    )
    return [json.loads(message["Body"]) for message in received.get("Messages", [])]
