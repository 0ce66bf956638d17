"""The cleanup of an acceptance run deletes what has the run's prefix, and nothing else."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from moto import mock_aws

from acceptance.app import main
from acceptance.aws import connect
from acceptance.run import clean_up
from devstack import loopback
from devstack.loopback import Answer

PREFIX = "ecr-allow-pull-acceptance-0a1b2c3d"
OTHERS = ("ecr-allow-pull-acceptance-ffffffff", "ecr-allow-pull", "team")
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
)
REASON = "The following resource(s) failed to delete: [Queue]."


@cache
def client(service: Any) -> Any:  # noqa: ANN401 - the types of some clients are not installed
    return boto3.client(service, region_name="us-east-1")


class CloudFormation:
    """A fake CloudFormation.

    Attributes:
        stacks: the statuses of each stack: the first is that of now, and each reading takes one away.
        undeletable: the stacks whose deletion fails.
        deleted: the stacks that a caller asked to delete.
    """

    def __init__(self) -> None:
        self.stacks = {f"{prefix}-main": ["CREATE_COMPLETE"] for prefix in (PREFIX, *OTHERS)}
        self.undeletable: set[str] = set()
        self.deleted: list[str] = []

    def answer(self, _: Mapping[str, str], body: bytes) -> Answer:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        operation, name = form["Action"], form.get("StackName")
        if operation == "DeleteStack":
            return self._delete(form["StackName"])
        if name and name not in self.stacks:
            message = f"Stack with id {name} does not exist"
            error = f"<Error><Code>ValidationError</Code><Message>{message}</Message></Error>"
            return Answer(400, "text/xml", f"<ErrorResponse>{error}</ErrorResponse>".encode())
        stacks = "".join(self._member(each) for each in ([name] if name else [*self.stacks]))
        return xml(f"<DescribeStacksResult><Stacks>{stacks}</Stacks></DescribeStacksResult>")

    def _delete(self, name: str) -> Answer:
        deletable = ("COMPLETE", "FAILED", "CREATE_IN_PROGRESS", "REVIEW_IN_PROGRESS")
        if not self.stacks[name][0].endswith(deletable):
            error = f"<Error><Code>ValidationError</Code><Message>{self.stacks[name][0]}</Message></Error>"
            return Answer(400, "text/xml", f"<ErrorResponse>{error}</ErrorResponse>".encode())
        self.deleted.append(name)
        end = ["DELETE_FAILED"] if name in self.undeletable else []
        self.stacks[name] = ["DELETE_IN_PROGRESS", *end]
        return xml("")

    def _member(self, name: str) -> str:
        status, *later = self.stacks[name]
        if later:
            self.stacks[name] = later
        elif status == "DELETE_IN_PROGRESS":
            del self.stacks[name]
        return f"<member><StackName>{name}</StackName><StackStatus>{status}</StackStatus><StackStatusReason>{
            REASON if status == 'DELETE_FAILED' else ''
        }</StackStatusReason></member>"


def xml(content: str) -> Answer:
    return Answer(200, "text/xml", f"<Response>{content}</Response>".encode())


@pytest.fixture(autouse=True)
def cloudformation(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudFormation]:
    fake = CloudFormation()
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with mock_aws(), loopback.serving(fake.answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", url)
        yield fake


def create_role(name: str) -> str:
    arn: str = client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    client("iam").put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=POLICY)
    policy = client("iam").create_policy(PolicyName=f"{name}-policy", PolicyDocument=POLICY)["Policy"]
    client("iam").attach_role_policy(RoleName=name, PolicyArn=policy["Arn"])
    return arn


def create_all(prefix: str) -> None:
    client("ecr").create_repository(repositoryName=f"{prefix}/app")
    client("events").put_rule(Name=f"{prefix}-rule", EventPattern='{"source": ["aws.ecr"]}')
    queue = client("sqs").create_queue(QueueName=f"{prefix}-queue")["QueueUrl"]
    arn = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    client("events").put_targets(Rule=f"{prefix}-rule", Targets=[{"Id": "q", "Arn": arn["QueueArn"]}])
    client("sns").create_topic(Name=f"{prefix}-topic")
    client("scheduler").create_schedule(
        Name=f"{prefix}-schedule",
        ScheduleExpression="rate(1 day)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": arn["QueueArn"], "RoleArn": create_role(f"{prefix}-role")},
    )
    client("logs").create_log_group(logGroupName=f"/aws/lambda/{prefix}-main")
    client("s3").create_bucket(Bucket=prefix)
    client("s3").put_bucket_versioning(Bucket=prefix, VersioningConfiguration={"Status": "Enabled"})
    client("s3").put_object(Bucket=prefix, Key="package", Body=b"")
    client("s3").delete_object(Bucket=prefix, Key="package")


def names() -> dict[str, list[str]]:
    """Return the resources of each kind."""
    return {
        "repositories": [
            each["repositoryName"] for each in client("ecr").describe_repositories()["repositories"]
        ],
        "rules": [each["Name"] for each in client("events").list_rules()["Rules"]],
        "queues": client("sqs").list_queues().get("QueueUrls", []),
        "topics": [each["TopicArn"] for each in client("sns").list_topics()["Topics"]],
        "roles": [each["RoleName"] for each in client("iam").list_roles()["Roles"]],
        "schedules": [each["Name"] for each in client("scheduler").list_schedules()["Schedules"]],
        "logs": [each["logGroupName"] for each in client("logs").describe_log_groups()["logGroups"]],
        "buckets": [each["Name"] for each in client("s3").list_buckets()["Buckets"]],
    }


def test_deletes_everything_with_the_prefix_and_nothing_else(cloudformation: CloudFormation) -> None:
    for prefix in (PREFIX, *OTHERS):
        create_all(prefix)
    before = names()

    assert main(["--cleanup", PREFIX]) == 0

    assert {*cloudformation.stacks} == {f"{prefix}-main" for prefix in OTHERS}

    after = names()
    assert {kind: [name for name in found if PREFIX not in name] for kind, found in before.items()} == after
    assert all(len(found) >= len(OTHERS) for found in after.values())


def test_that_finds_nothing_succeeds(cloudformation: CloudFormation) -> None:
    cloudformation.stacks.clear()

    assert main(["--cleanup", PREFIX]) == 0


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "ecr",
        "ecr-allow-pull-acceptance-",
        "ecr-allow-pull-acceptance-0a1b2c3",
        "ecr-allow-pull-acceptance-0A1B2C3D",
        "ecr-allow-pull-acceptance-0a1b2c3d-main",
        "ecr-allow-pull-acceptance-0a1b2c3d\n",
        "*",
    ],
)
def test_of_another_prefix_is_an_error_and_deletes_nothing(
    prefix: str, cloudformation: CloudFormation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cleanup", prefix]) == 2

    assert not cloudformation.deleted
    assert "is not the prefix of an acceptance run" in capsys.readouterr().err


def test_names_what_could_not_be_deleted_with_the_reason_and_deletes_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client("ecr").create_repository(repositoryName=f"{PREFIX}/app")
    create_role(f"{PREFIX}-role")
    # moto, as IAM, deletes no role that an instance profile holds.
    client("iam").create_instance_profile(InstanceProfileName="foreign")
    client("iam").add_role_to_instance_profile(InstanceProfileName="foreign", RoleName=f"{PREFIX}-role")

    assert main(["--cleanup", PREFIX]) == 1

    assert client("iam").list_roles()["Roles"][0]["RoleName"] == f"{PREFIX}-role"
    assert client("ecr").describe_repositories()["repositories"] == []
    error = " ".join(capsys.readouterr().err.split())
    assert f"Not deleted: IAM roles: {PREFIX}-role: AWS refused DeleteRole: DeleteConflict" in error
    assert f"run make acceptance CLEANUP={PREFIX}" in error


@pytest.mark.parametrize("status", ["CREATE_FAILED", "ROLLBACK_IN_PROGRESS", "UPDATE_IN_PROGRESS"])
def test_deletes_a_stack_in_each_status(cloudformation: CloudFormation, status: str) -> None:
    cloudformation.stacks[f"{PREFIX}-main"] = [status, status, "ROLLBACK_COMPLETE"]

    assert main(["--cleanup", PREFIX]) == 0

    assert f"{PREFIX}-main" not in cloudformation.stacks


@pytest.mark.parametrize("status", ["CREATE_IN_PROGRESS", "REVIEW_IN_PROGRESS"])
def test_does_not_wait_for_a_stack_that_an_interrupt_left_in_creation(
    cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr("acceptance.cleanup.STACK_TIMEOUT", 2)
    cloudformation.stacks[f"{PREFIX}-main"] = [status]

    assert main(["--cleanup", PREFIX]) == 0

    assert f"{PREFIX}-main" not in cloudformation.stacks


def test_names_a_stack_that_could_not_be_deleted_with_cloudformations_reason(
    cloudformation: CloudFormation, capsys: pytest.CaptureFixture[str]
) -> None:
    cloudformation.undeletable.add(f"{PREFIX}-main")

    assert main(["--cleanup", PREFIX]) == 1

    assert f"Not deleted: CloudFormation stacks: {PREFIX}-main: {REASON}" in capsys.readouterr().err


def test_of_a_service_that_does_not_answer_says_so_and_deletes_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client("ecr").create_repository(repositoryName=f"{PREFIX}/app")
    with loopback.serving(
        lambda *_: Answer(400, "application/json", b'{"__type": "UnknownOperation"}')
    ) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SCHEDULER", url)

        assert main(["--cleanup", PREFIX]) == 1

    assert client("ecr").describe_repositories()["repositories"] == []
    assert "could not list schedules" in " ".join(capsys.readouterr().err.split())


class Interrupting:
    """An account in which the user stops the run when a client of a service is needed."""

    def __init__(self, service: str) -> None:
        self._aws, self._service = connect(), service

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - that of the account
        return getattr(self._aws, name)

    def listed(self, service: str, *arguments: Any, **parameters: Any) -> Any:  # noqa: ANN401 - same
        if service == self._service:
            raise KeyboardInterrupt
        return self._aws.listed(service, *arguments, **parameters)


def test_that_is_stopped_says_what_may_remain_and_how_to_delete_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    aws: Any = Interrupting("iam")

    leftovers = clean_up(aws, PREFIX)

    assert [each.kind for each in leftovers] == ["IAM roles", "log groups", "S3 buckets"]
    error = capsys.readouterr().err
    assert "IAM roles" in error
    assert f"make acceptance CLEANUP={PREFIX}" in error
