"""Deploys the stack once to the embedded AWS, or to AWS, for all end-to-end tests."""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devstack import data_plane
from devstack.aws import ACCOUNT, clean_environment
from devstack.fake_ecr import normalized
from devstack.target import Aws, sam
from tests.e2e.targets import EMBEDDED, PREFIX, TRAIL, Target, target

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

type Record = Callable[[str, object], None]

PULL_ACTIONS = ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"]
PROMISES = {
    "test_stack",
    "test_triggers",
    "test_operations",
    "test_failures",
    "test_alarms",
    "test_facts",
    "test_removal",
}
SLOWEST = {"test_acceptance", "test_playground", "test_stack"}
SAVED_ACCOUNT = "012345678912"  # of the saved events
FOREIGN = {
    "Sid": "CiMayPush",
    "Effect": "Allow",
    "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
    "Action": "ecr:PutImage",
}


def allow_pull(*roles: str) -> dict[str, Any]:
    """Return the statement AllowPull for roles."""
    principals = roles[0] if len(roles) == 1 else list(roles)
    return {"Sid": "AllowPull", "Effect": "Allow", "Principal": {"AWS": principals}, "Action": PULL_ACTIONS}


ALLOW_PULL = allow_pull(data_plane.ROLE_ARN)


def equal_form(*statements: object) -> list[object]:
    """Return statements in one form of several equal ones: ECR changes the order of principals."""
    found: list[object] = normalized({"Statement": list(statements)})["Statement"]
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """On AWS, only the promises run."""
    return (
        PREFIX is not None
        and collection_path.stem.startswith("test_")
        and collection_path.stem not in PROMISES
    ) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest, because one process runs a module alone."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that its target can't run, for the reason in its marker."""
    for name, applies in (("aws_only", EMBEDDED), ("embedded", PREFIX is not None)):
        if applies and (marker := item.get_closest_marker(name)):
            pytest.skip(marker.args[0])
    if PREFIX is not None and item.get_closest_marker("trail") and not TRAIL:
        pytest.skip("no CloudTrail trail logs write management events in this region")


@dataclass
class Stack:
    """The deployed stack, its outputs, and ECR clients of the registry's owner and of a worker node."""

    target: Target
    outputs: dict[str, str]
    role: str
    registry: "ECRClient"
    worker: "ECRClient"
    _settled: float = 0.0  # the time when the last change takes effect

    @property
    def aws(self) -> Aws:
        return self.target.aws

    @property
    def allow_pull(self) -> Any:  # noqa: ANN401 - JSON
        (statement,) = equal_form(allow_pull(self.role))
        return statement

    @property
    def foreign(self) -> dict[str, Any]:
        owner = f"arn:{self.aws.partition}:iam::{self.aws.account}:root"
        return FOREIGN | {"Principal": {"AWS": owner}}

    def deploy(self, parameters: Mapping[str, str], name: str | None = None) -> dict[str, str]:
        """Deploy a new stack, by default this one, and return its outputs."""
        return self.target.deploy(parameters, name or self.aws.stack)

    def named(self, repository: str) -> str:
        """Return the name of a repository in the scope of the stack."""
        return f"{self.target.prefix}{repository}"

    def settle(self) -> None:
        """Wait until all changes have taken effect."""
        time.sleep(max(0.0, self._settled - time.monotonic()))

    def changed(self) -> None:
        """Remember that a rule, a role or the function has changed."""
        self._settled = time.monotonic() + self.target.settling

    def create_repository(self, repository: str, *statements: object) -> None:
        self.settle()
        self.registry.create_repository(repositoryName=repository)
        if statements:
            self.set_policy(repository, *statements)

    def set_policy(self, repository: str, *statements: object) -> None:
        text = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.registry.set_repository_policy(repositoryName=repository, policyText=text)

    def statements(self, repository: str) -> list[object]:
        """Return the statements of a policy, in one form of several equal ones."""
        try:
            text = self.registry.get_repository_policy(repositoryName=repository)["policyText"]
        except self.registry.exceptions.RepositoryPolicyNotFoundException:
            return []
        return equal_form(*json.loads(text)["Statement"])

    def wait_for_statements(self, repository: str, *statements: object) -> None:
        self.wait_until(lambda: self.statements(repository) == equal_form(*statements))

    def wait_until(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        deadline = time.monotonic() + (timeout or self.target.timeout)
        while not condition():
            assert time.monotonic() < deadline, self.aws.log()
            time.sleep(0.1 if self.aws.endpoint else 2)

    @contextmanager
    def only_rules(self, *enabled: str) -> Iterator[None]:
        """Disable all other rules until the block ends."""
        events = self.aws.events()
        others = [name for logical, name in self.rules.items() if logical not in enabled]
        for name in others:
            events.disable_rule(Name=name)
        self.changed()
        try:
            yield
        finally:
            for name in others:
                events.enable_rule(Name=name)
            self.changed()

    @contextmanager
    def long_sweep(self, name: str) -> Iterator[list[str]]:
        """Create more repositories than a sweep reconciles before its timeout, and delete them at the end.

        The embedded AWS answers slowly for such repositories. On AWS, the function is slow.
        """
        names = [self.named(f"{name}/slow/app-{number:03}") for number in range(200)]
        for each in names:
            self.create_repository(each)
        try:
            with self.configuration(**self.target.long_sweep):
                yield names
        finally:
            for each in names:
                self.registry.delete_repository(repositoryName=each, force=True)

    @contextmanager
    def environment(self, **variables: str) -> Iterator[None]:
        """Change variables of the function's environment until the block ends."""
        before = self._read_configuration()["Environment"]["Variables"]
        with self.configuration(Environment={"Variables": before | variables}):
            yield

    @contextmanager
    def configuration(self, **changes: Any) -> Iterator[None]:  # noqa: ANN401 - as in the API
        """Change the function's configuration until the block ends."""
        before = self._read_configuration()
        self._configure(changes)
        try:
            yield
        finally:
            self._configure({key: before[key] for key in changes})

    def _configure(self, changes: dict[str, Any]) -> None:
        functions, name = self.aws.lambda_(), self.outputs["FunctionName"]
        functions.update_function_configuration(FunctionName=name, **changes)
        functions.get_waiter("function_updated_v2").wait(FunctionName=name)

    def _read_configuration(self) -> dict[str, Any]:
        name = self.outputs["FunctionName"]
        return {**self.aws.lambda_().get_function_configuration(FunctionName=name)}

    def wait_for_later_event(self, repository: str) -> None:
        """Create a repository, and wait for its grant. All events of the calls before came earlier."""
        since = time.time()
        self.create_repository(repository)
        self.wait_for_statements(repository, self.allow_pull)
        self.wait_until(lambda: self._has_report_on(repository, since))

    def _has_report_on(self, repository: str, since: float) -> bool:
        lines = self.log_lines(since)
        requests = {line["function_request_id"] for line in lines if line.get("repository") == repository}
        return any(
            line.get("message") == "report" and line["function_request_id"] in requests for line in lines
        )

    def invoke(self, event: object) -> Any:  # noqa: ANN401 - JSON
        self.settle()
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
        return self.resources("AWS::Events::Rule")

    def resources(self, kind: str) -> dict[str, str]:
        """Return the names of the stack's resources of one type by logical id."""
        found = self.aws.cloudformation().describe_stack_resources(StackName=self.aws.stack)
        return {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for each in found["StackResources"]
            if each["ResourceType"] == kind
        }

    @cached_property
    def event_patterns(self) -> dict[str, str]:
        """The event patterns of the stack's rules by logical id."""
        events = self.aws.events()
        return {
            logical: events.describe_rule(Name=name)["EventPattern"] for logical, name in self.rules.items()
        }

    def matching_rules(self, event: dict[str, Any]) -> list[str]:
        """Return the logical ids of the stack's rules that match an event."""
        events, text = self.aws.events(), json.dumps(event)
        return [
            logical
            for logical, pattern in self.event_patterns.items()
            if events.test_event_pattern(EventPattern=pattern, Event=text)["Result"]
        ]

    def publish_event(self, event: dict[str, Any]) -> None:
        """Publish an event as AWS does. A saved event becomes one of this account."""
        event = json.loads(json.dumps(event).replace(SAVED_ACCOUNT, self.aws.account))
        entry = {
            "Source": event["source"],
            "DetailType": event["detail-type"],
            "Detail": json.dumps(event["detail"]),
            "Resources": event["resources"],
        }
        response = self.aws.events().put_events(Entries=[entry])  # type: ignore[list-item]
        assert response["FailedEntryCount"] == 0


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the output of `sam build`, which all test processes share."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder if worker_id == "master" else folder.parent
    output = shared / "build"
    with (shared / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (output / "template.yaml").exists():
            sam(["build", "--build-dir", str(output)], clean_environment())
            shutil.make_archive(str(output / "package"), "zip", output / "Function")
    return output


@contextmanager
def prepared_stack(build: Path, name: str, *, stack_events: bool = False) -> Iterator[Stack]:
    """Start a target, and return its stack before the deployment."""
    with target(name, stack_events=stack_events) as where:
        role, worker = where.worker()
        (where.aws.folder / "build").symlink_to(build)
        yield Stack(where, {}, role, where.aws.ecr(), worker)


@pytest.fixture(scope="session")
def stack(build: Path, worker_id: str) -> Iterator[Stack]:
    with prepared_stack(build, worker_id) as stack:
        scope = f"{stack.target.prefix}*"
        stack.outputs = stack.deploy({"WorkerRoleArns": stack.role, "Repositories": scope})
        yield stack


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Return a function that records a fact for the report of `make acceptance`."""
    return lambda name, value: record_property(f"fact:{name}", json.dumps(value))
