"""The stack, deployed once to an embedded AWS, for all end-to-end tests."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from local import worker
from local.aws import ACCOUNT, STACK, LocalAws, local_aws

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

PATIENCE = 30  # seconds
FOREIGN = {
    "Sid": "CiMayPush",
    "Effect": "Allow",
    "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
    "Action": "ecr:PutImage",
}
ALLOW_PULL = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": worker.ROLE_ARN},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}


@dataclass
class Stack:
    """The deployed stack: the AWS it is in, its outputs, ECR as its owner and as a worker node see it."""

    aws: LocalAws
    outputs: dict[str, str]
    registry: "ECRClient"
    node: "ECRClient"

    def create(self, repository: str, *statements: object) -> None:
        self.registry.create_repository(repositoryName=repository)
        if statements:
            self.set_policy(repository, *statements)

    def set_policy(self, repository: str, *statements: object) -> None:
        text = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.registry.set_repository_policy(repositoryName=repository, policyText=text)

    def statements_of(self, repository: str) -> list[object]:
        try:
            text = self.registry.get_repository_policy(repositoryName=repository)["policyText"]
        except self.registry.exceptions.RepositoryPolicyNotFoundException:
            return []
        statements: list[object] = json.loads(text)["Statement"]
        return statements

    def wait_for(self, repository: str, *statements: object) -> None:
        self.wait_until(lambda: self.statements_of(repository) == list(statements))

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, self.aws.log()
            time.sleep(0.1)

    def invoke(self, event: object) -> Any:  # noqa: ANN401 - it is JSON
        response = self.aws.lambda_().invoke(
            FunctionName=self.outputs["FunctionName"], Payload=json.dumps(event)
        )
        return json.loads(response["Payload"].read())

    def reports(self) -> list[dict[str, Any]]:
        """Give what each invocation logged at its end."""
        return [line for line in self.lines() if line.get("message") == "report"]

    def lines(self) -> list[dict[str, Any]]:
        """Give what the function logged."""
        return [json.loads(line) for line in self.aws.log().splitlines() if line.startswith("{")]

    def rules(self) -> dict[str, str]:
        """Give the name of each of the stack's rules, by its name in the template."""
        resources = self.aws.cloudformation().describe_stack_resources(StackName=STACK)["StackResources"]
        return {
            resource["LogicalResourceId"].removeprefix("Function"): resource["PhysicalResourceId"]
            for resource in resources
            if resource["ResourceType"] == "AWS::Events::Rule"
        }

    @contextmanager
    def only(self, *enabled: str) -> Iterator[None]:
        """Let no other rule fire than these."""
        events = self.aws.events()
        others = [name for logical, name in self.rules().items() if logical not in enabled]
        for name in others:
            events.disable_rule(Name=name)
        try:
            yield
        finally:
            for name in others:
                events.enable_rule(Name=name)

    def send(self, event: dict[str, Any]) -> None:
        """Send an event as AWS does."""
        entry = {
            "Source": event["source"],
            "DetailType": event["detail-type"],
            "Detail": json.dumps(event["detail"]),
            "Resources": event["resources"],
        }
        answer = self.aws.events().put_events(Entries=[entry])  # type: ignore[list-item]
        assert answer["FailedEntryCount"] == 0


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with local_aws() as aws:
        aws.build()
        outputs = aws.deploy({"WorkerRoleArns": worker.ROLE_ARN})
        yield Stack(aws, outputs, aws.ecr(), worker.hire(aws))
