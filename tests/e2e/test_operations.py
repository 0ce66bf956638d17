"""Tests the operation of the deployed stack: permissions, failures and metrics."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from devstack import data_plane
from devstack.aws import ACCOUNT, STACK
from scripts.permissions_page import Permission, permissions
from tests.e2e.conftest import ALLOW_PULL, Stack

# The permissions that the embedded AWS enforces, with the pattern of a payload that needs each. Each has a
# repository of its own, which no late event of another test can name.
ENFORCED = {
    "ecr:DescribeRepositories": "describe/*",
    "ecr:GetRepositoryPolicy": "get/app",
    "ecr:SetRepositoryPolicy": "set/app",
    "ecr:GetRegistryPolicy": "registry/app",
}


@pytest.mark.parametrize("permission", [*permissions()], ids=lambda one: f"{one.logical_id}-{one.action}")
def test_each_permission_is_needed_and_the_error_names_a_missing_one(
    stack: Stack, permission: Permission
) -> None:
    action = permission.action
    if action == "ecr:DeleteRepositoryPolicy":
        pytest.skip("only a stack in remove mode has it: test_uninstall.py")
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
        stack.many_repositories("continued"),
        without_permission(stack, "lambda:InvokeFunction"),
        stack.timeout(2),
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

    def test_can_call_neither_ecr_nor_the_function_because_of_the_condition(self, stack: Stack) -> None:
        repository = "same-role/app"
        text = json.dumps({"Version": "2012-10-17", "Statement": [ALLOW_PULL]})
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
            with without_conditions(stack):
                without_the_condition = self.call(stack, function, "ecr", "set_repository_policy", write)

        for answer in answers:
            assert "not authorized" in answer or "AccessDenied" in answer
        assert without_the_condition == "allowed"
        assert stack.statements(repository) == [ALLOW_PULL]


@contextmanager
def other_function(stack: Stack, code: str) -> Iterator[str]:
    """Create another function under the role of the stack's function, until the block ends."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("other.py", code)
    functions, name = stack.aws.lambda_(), "other-function"
    functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="other.call",
        Role=stack.aws.iam().get_role(RoleName=role_name(stack))["Role"]["Arn"],
        Code={"ZipFile": archive.getvalue()},
        Timeout=30,
    )
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


class TestFailedEvent:
    def test_is_retried_then_sent_to_the_dead_letter_queue_and_fixed_by_a_sweep(self, stack: Stack) -> None:
        too_long = {
            "Sid": "x" * 10_000,
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::444444444444:root"},
            "Action": "ecr:PutImage",
        }
        # The embedded AWS retries asynchronous invocations, but not those of a rule.
        with stack.only_rules():
            stack.create_repository("too-long/app", too_long)
            invoke_async(stack, {"repositories": ["too-long/app"]})
            stack.wait_until(lambda: bool(dead_letters(stack)))

        (message,) = dead_letters(stack)
        assert message["requestPayload"] == {"repositories": ["too-long/app"]}
        assert message["requestContext"]["approximateInvokeCount"] == 3
        assert "shorten the other statements" in message["responsePayload"]["errorMessage"]

        with stack.only_rules():
            stack.registry.delete_repository_policy(repositoryName="too-long/app")
            assert "failed" not in stack.invoke({"repositories": ["*"]})["outcomes"]
        assert stack.statements("too-long/app") == [ALLOW_PULL]

    def test_with_invalid_input_is_retried_then_sent_to_the_dead_letter_queue(self, stack: Stack) -> None:
        event = {
            "source": "aws.ecr",
            "detail-type": "ECR Image Action",
            "id": "0e",
            "detail": {},
            "region": "x",
        }

        def messages() -> list[dict[str, Any]]:
            return [each for each in dead_letters(stack) if each["requestPayload"] == event]

        since = time.time()
        invoke_async(stack, event)
        stack.wait_until(lambda: bool(messages()))

        (message,) = messages()
        assert message["requestContext"]["approximateInvokeCount"] == 3
        assert "the event comes from account None, region x" in message["responsePayload"]["errorMessage"]
        lines = [line for line in stack.log_lines(since) if line.get("correlation_id") == "0e"]
        assert [line["message"] for line in lines] == ["invalid input"] * 3


class TestAlarms:
    """The embedded AWS makes no metrics of log lines, and evaluates no metric math: see test_alarms.py."""

    TEXT = "Runbook: https://wiki.example.com/ecr#reconcilefailed"

    def test_notify_an_existing_topic_when_they_fire_and_clear(self, stack: Stack) -> None:
        cloudwatch, queue = stack.aws.client("cloudwatch"), Queue(stack)
        parameters = {
            "WorkerRoleArns": data_plane.ROLE_ARN,
            "AlarmEmail": "rota@example.com",
            "AlarmTopicArn": queue.topic,
            "RunbookUrl": "https://wiki.example.com/ecr",
        }
        with deployed(stack, parameters, "alarms") as outputs:
            alarms = {
                each["AlarmName"].removeprefix("alarms-").partition("-")[0]: each
                for each in cloudwatch.describe_alarms(AlarmNamePrefix="alarms-")["MetricAlarms"]
            }
            assert alarms.keys() == ALARMS
            receivers = [outputs["AlarmTopicArn"], queue.topic]
            assert all(each["AlarmActions"] == receivers for each in alarms.values())

            dimensions = alarms["ReconcileFailed"]["Dimensions"]
            assert dimensions == [{"Name": "service", "Value": "alarms"}]
            datum = {"MetricName": "Failed", "Dimensions": dimensions, "Value": 1}
            cloudwatch.put_metric_data(Namespace="EcrAllowPull", MetricData=[datum])
            fired = queue.wait_for("ReconcileFailed")
            # What the runbook does to test the chain.
            for state in ("ALARM", "OK"):
                cloudwatch.set_alarm_state(
                    AlarmName=alarms["SweepMissing"]["AlarmName"], StateValue=state, StateReason="a test"
                )
            states = [queue.wait_for("SweepMissing")["NewStateValue"] for _ in range(2)]

        assert fired["NewStateValue"] == "ALARM"
        assert fired["AlarmDescription"].startswith("Pods with the named role can't pull")
        assert fired["AlarmDescription"].endswith(self.TEXT)
        assert sorted(states) == ["ALARM", "OK"]

    def test_are_without_receivers_by_default(self, stack: Stack) -> None:
        alarms = stack.aws.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{STACK}-")["MetricAlarms"]

        assert len(alarms) == len(ALARMS)
        assert all(not each["AlarmActions"] and not each["OKActions"] for each in alarms)

    def test_except_that_for_missing_sweeps_exist_with_a_weekly_schedule(self, stack: Stack) -> None:
        parameters = {"WorkerRoleArns": data_plane.ROLE_ARN, "SweepSchedule": '"cron(0 3 ? * MON *)"'}
        with deployed(stack, parameters, "weekly"):
            cloudwatch = stack.aws.client("cloudwatch")
            alarms = cloudwatch.describe_alarms(AlarmNamePrefix="weekly-")["MetricAlarms"]

        assert len(alarms) == len(ALARMS) - 1
        assert not any("SweepMissing" in each["AlarmName"] for each in alarms)


ALARMS = {
    *("ReconcileFailed", "PullDenied", "CreationEventsMissed", "SweepMissing", "ContinuousDrift"),
    *("RecurringDrift", "DeadLetterQueueMessageSent", "EventsLost", "FunctionThrottled"),
}


@contextmanager
def deployed(stack: Stack, parameters: dict[str, str], name: str) -> Iterator[dict[str, str]]:
    """Deploy another stack until the block ends, which gets no events."""
    with stack.only_rules():
        yield stack.aws.deploy(parameters | {"SweepOnDeploy": "false"}, stack=name)
    stack.aws.cloudformation().delete_stack(StackName=name)
    stack.aws.cloudformation().get_waiter("stack_delete_complete").wait(StackName=name)


class Queue:
    """A queue that gets the messages of a topic of its own, as a chat or a pager would."""

    def __init__(self, stack: Stack) -> None:
        self._stack, sns = stack, stack.aws.client("sns")
        self.topic: str = sns.create_topic(Name="on-call")["TopicArn"]
        arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:on-call"
        allow = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        sqs = stack.aws.sqs()
        self._url = sqs.create_queue(QueueName="on-call", Attributes={"Policy": policy})["QueueUrl"]
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)

    def wait_for(self, alarm: str) -> dict[str, Any]:
        """Return the next notification of an alarm, and drop those of others."""
        found: list[dict[str, Any]] = []

        def receive() -> bool:
            for message in self._stack.aws.sqs().receive_message(QueueUrl=self._url).get("Messages", []):
                self._stack.aws.sqs().delete_message(
                    QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"]
                )
                notification = json.loads(json.loads(message["Body"])["Message"])
                if alarm in notification["AlarmName"]:
                    found.append(notification)
            return bool(found)

        self._stack.wait_until(receive)
        return found[0]


def test_a_second_deployment_without_changes_succeeds(stack: Stack) -> None:
    """A pipeline deploys again and again. Without `fail_on_empty_changeset`, SAM exits with 1."""
    parameters = {"WorkerRoleArns": data_plane.ROLE_ARN}
    before = stack.aws.cloudformation().describe_stacks(StackName=STACK)["Stacks"][0]

    assert stack.aws.deploy(parameters) == stack.outputs

    after = stack.aws.cloudformation().describe_stacks(StackName=STACK)["Stacks"][0]
    assert after.get("LastUpdatedTime") == before.get("LastUpdatedTime")


def test_time_from_creation_to_grant_is_a_metric(stack: Stack) -> None:
    since = time.time()
    stack.create_repository("measured/app")
    stack.wait_for_statements("measured/app", ALLOW_PULL)

    def metric_lines() -> list[dict[str, Any]]:
        return [line for line in stack.log_lines(since) if "SecondsToGrant" in line]

    stack.wait_until(lambda: bool(metric_lines()))
    line = metric_lines()[-1]
    assert line["service"] == STACK
    assert 0 < line["SecondsToGrant"][0] < 30
    (definition,) = line["_aws"]["CloudWatchMetrics"]
    assert definition["Namespace"] == "EcrAllowPull"
    assert definition["Dimensions"] == [["service"]]


def invoke_async(stack: Stack, event: object) -> None:
    stack.aws.lambda_().invoke(
        FunctionName=stack.outputs["FunctionName"], InvocationType="Event", Payload=json.dumps(event)
    )


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
    found = stack.aws.cloudformation().describe_stack_resource(StackName=STACK, LogicalResourceId="Role")
    return found["StackResourceDetail"]["PhysicalResourceId"]


def dead_letters(stack: Stack) -> list[dict[str, Any]]:
    received = stack.aws.sqs().receive_message(
        QueueUrl=stack.outputs["DeadLetterQueueUrl"], MaxNumberOfMessages=10, VisibilityTimeout=0
    )
    return [json.loads(message["Body"]) for message in received.get("Messages", [])]
