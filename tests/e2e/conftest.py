"""Deploys the stack once to an embedded AWS, for all end-to-end tests."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from devstack import data_plane
from devstack.aws import ACCOUNT, STACK, LocalAws, local_aws

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

TIMEOUT = 30  # seconds
SAVED_ACCOUNT = "012345678912"  # of the saved events
FOREIGN = {
    "Sid": "CiMayPush",
    "Effect": "Allow",
    "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
    "Action": "ecr:PutImage",
}
ALLOW_PULL = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": data_plane.ROLE_ARN},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}


@dataclass
class Stack:
    """The deployed stack, its outputs, and ECR clients of the registry's owner and of a worker node."""

    aws: LocalAws
    outputs: dict[str, str]
    registry: "ECRClient"
    worker: "ECRClient"

    def create_repository(self, repository: str, *statements: object) -> None:
        self.registry.create_repository(repositoryName=repository)
        if statements:
            self.set_policy(repository, *statements)

    def set_policy(self, repository: str, *statements: object) -> None:
        text = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.registry.set_repository_policy(repositoryName=repository, policyText=text)

    def statements(self, repository: str) -> list[object]:
        try:
            text = self.registry.get_repository_policy(repositoryName=repository)["policyText"]
        except self.registry.exceptions.RepositoryPolicyNotFoundException:
            return []
        statements: list[object] = json.loads(text)["Statement"]
        return statements

    def wait_for_statements(self, repository: str, *statements: object) -> None:
        self.wait_until(lambda: self.statements(repository) == list(statements))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, self.aws.log()
            time.sleep(0.1)

    @contextmanager
    def many_repositories(self, prefix: str) -> Iterator[list[str]]:
        """Create more repositories than a sweep reconciles in two seconds, and delete them at the end."""
        names = [f"{prefix}/app-{number:04}" for number in range(800)]
        for name in names:
            self.create_repository(name)
        try:
            yield names
        finally:
            for name in names:
                self.registry.delete_repository(repositoryName=name, force=True)

    @contextmanager
    def timeout(self, seconds: int) -> Iterator[None]:
        """Change the function's timeout until the block ends."""
        with self._configuration(Timeout=seconds):
            yield

    @contextmanager
    def environment(self, **variables: str) -> Iterator[None]:
        """Change variables of the function's environment until the block ends."""
        before = self._read_configuration()["Environment"]["Variables"]
        with self._configuration(Environment={"Variables": before | variables}):
            yield

    @contextmanager
    def _configuration(self, **changes: Any) -> Iterator[None]:  # noqa: ANN401 - as in the API
        functions, name, before = self.aws.lambda_(), self.outputs["FunctionName"], self._read_configuration()
        functions.update_function_configuration(FunctionName=name, **changes)
        try:
            yield
        finally:
            functions.update_function_configuration(
                FunctionName=name, **{key: before[key] for key in changes}
            )

    def _read_configuration(self) -> dict[str, Any]:
        name = self.outputs["FunctionName"]
        return {**self.aws.lambda_().get_function_configuration(FunctionName=name)}

    def wait_for_later_event(self, repository: str) -> None:
        """Create a repository, and wait for its grant. All events of the calls before came earlier."""
        since = time.time()
        self.create_repository(repository)
        self.wait_for_statements(repository, ALLOW_PULL)
        self.wait_until(lambda: self._has_report_on(repository, since))

    def _has_report_on(self, repository: str, since: float) -> bool:
        lines = self.log_lines(since)
        requests = {line["function_request_id"] for line in lines if line.get("repository") == repository}
        return any(
            line.get("message") == "report" and line["function_request_id"] in requests for line in lines
        )

    def invoke(self, event: object) -> Any:  # noqa: ANN401 - JSON
        response = self.aws.lambda_().invoke(
            FunctionName=self.outputs["FunctionName"], Payload=json.dumps(event)
        )
        return json.loads(response["Payload"].read())

    def reports(self, since: float) -> list[dict[str, Any]]:
        """Return each invocation's report from the log since a Unix time in seconds."""
        return [line for line in self.log_lines(since) if line.get("message") == "report"]

    def log_lines(self, since: float) -> list[dict[str, Any]]:
        """Return the function's log lines in JSON since a Unix time in seconds."""
        return [json.loads(line) for line in self.aws.log(since=since).splitlines() if line.startswith("{")]

    @cached_property
    def rules(self) -> dict[str, str]:
        """The names of the stack's rules by logical id."""
        resources = self.aws.cloudformation().describe_stack_resources(StackName=STACK)["StackResources"]
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in resources
            if resource["ResourceType"] == "AWS::Events::Rule"
        }

    @cached_property
    def event_patterns(self) -> dict[str, str]:
        """The event patterns of the stack's rules by logical id."""
        events = self.aws.events()
        return {
            logical: events.describe_rule(Name=name)["EventPattern"] for logical, name in self.rules.items()
        }

    @contextmanager
    def only_rules(self, *enabled: str) -> Iterator[None]:
        """Disable all other rules until the block ends."""
        events = self.aws.events()
        others = [name for logical, name in self.rules.items() if logical not in enabled]
        for name in others:
            events.disable_rule(Name=name)
        try:
            yield
        finally:
            for name in others:
                events.enable_rule(Name=name)

    def publish_event(self, event: dict[str, Any]) -> None:
        """Publish an event as AWS does. A saved event becomes one of this account."""
        event = json.loads(json.dumps(event).replace(SAVED_ACCOUNT, ACCOUNT))
        entry = {
            "Source": event["source"],
            "DetailType": event["detail-type"],
            "Detail": json.dumps(event["detail"]),
            "Resources": event["resources"],
        }
        response = self.aws.events().put_events(Entries=[entry])  # type: ignore[list-item]
        assert response["FailedEntryCount"] == 0


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with local_aws() as aws:
        aws.build()
        outputs = aws.deploy({"WorkerRoleArns": data_plane.ROLE_ARN})
        yield Stack(aws, outputs, aws.ecr(), data_plane.create_role(aws))
