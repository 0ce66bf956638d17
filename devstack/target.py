"""An AWS, embedded or real: its clients, `sam`, and the deployed stack."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path  # noqa: TC003 - a dataclass field
from typing import TYPE_CHECKING, Any, cast

from devstack.host import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import boto3
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient

SAM = PROJECT / ".tools/sam/bin"


class SamError(Exception):
    """A `sam` command failed."""


@dataclass(frozen=True)
class Credentials:
    """Credentials of a principal. On the embedded AWS, an account id as access key means its root user."""

    access_key_id: str
    secret_access_key: str = "test"  # noqa: S105 - the embedded AWS accepts only this value
    session_token: str | None = None


def _once[**P, T](create: Callable[P, T]) -> Callable[P, T]:
    """Create each client once: that takes longer than most calls."""
    return cast("Callable[P, T]", cache(create))


def sam(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a `sam` command in the project's folder, and return its output.

    Raises:
        SamError: the command failed. The message contains its output.
    """
    path = f"{SAM}{os.pathsep}{os.environ['PATH']}"
    completed = subprocess.run(  # noqa: S603 - the project's SAM CLI with trusted arguments
        [str(SAM / "sam"), *arguments], cwd=PROJECT, stdin=subprocess.DEVNULL, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**environment, "PATH": path, "SAM_CLI_TELEMETRY": "0"},
    )  # fmt: skip
    if completed.returncode:
        raise SamError(f"sam {' '.join(arguments)} failed:\n{completed.stdout}")
    return completed.stdout


@dataclass(frozen=True)
class Aws(ABC):
    """An account and region of an AWS, the name of the stack in it, and a folder for build output."""

    account: str
    region: str
    stack: str
    folder: Path

    @abstractmethod
    def session(self, credentials: Credentials | None = None) -> boto3.Session:
        """Return a session of the registry's owner, or of other credentials."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the environment for commands that call this AWS as the registry's owner."""

    @property
    def endpoint(self) -> str | None:
        """The endpoint of every service, or None for AWS's own."""
        return None

    @property
    def partition(self) -> str:
        """The partition of the region, as in ARNs."""
        return self.session().get_partition_for_region(self.region)

    @property
    def deploy_options(self) -> tuple[str, ...]:
        """The options of `sam deploy`, except template, stack and parameters."""
        return ("--config-file", str(PROJECT / "samconfig.toml"), "--no-confirm-changeset")

    def build(self) -> None:
        """Build the function with `sam build`.

        Raises:
            SamError: `sam build` failed. The message contains its output.
        """
        self.sam("build", "--build-dir", str(self.folder / "build"))

    def deploy(self, parameters: Mapping[str, str], stack: str | None = None) -> dict[str, str]:
        """Deploy the build output with `sam deploy`, and return the stack's outputs.

        Raises:
            SamError: `sam deploy` failed. The message contains its output.
        """
        overrides = [f'{name}="{value}"' for name, value in parameters.items()]
        # Resolved, because the template names files relative to itself.
        template, stack = str((self.folder / "build/template.yaml").resolve()), stack or self.stack
        self.sam(
            "deploy", "--template-file", template, "--stack-name", stack, *self.deploy_options,
            "--parameter-overrides", *overrides,
        )  # fmt: skip
        return self.outputs(stack)

    def outputs(self, stack: str) -> dict[str, str]:
        """Return the outputs of a deployed stack."""
        (described,) = self.cloudformation().describe_stacks(StackName=stack)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}

    def delete(self, stack: str | None = None) -> None:
        """Delete a stack, and wait until it is gone."""
        self.cloudformation().delete_stack(StackName=stack or self.stack)
        self.cloudformation().get_waiter("stack_delete_complete").wait(StackName=stack or self.stack)

    def log(self, stack: str | None = None, *, since: float = 0.0) -> str:
        """Return the function's log since a Unix time in seconds."""
        pages = (
            self.logs()
            .get_paginator("filter_log_events")
            .paginate(logGroupName=f"/aws/lambda/{stack or self.stack}", startTime=int(since * 1000))
        )
        return "".join(event["message"].rstrip() + "\n" for page in pages for event in page["events"])

    def sam(self, *arguments: str) -> str:
        """Run a `sam` command that calls this AWS, and return its output.

        Raises:
            SamError: the command failed. The message contains its output.
        """
        delay = {"SAM_CLI_POLL_DELAY": "0.2"} if self.endpoint else {}  # seconds; 5 by default
        return sam(arguments, self.environment() | delay)

    @_once
    def cloudformation(self) -> CloudFormationClient:
        """Return a CloudFormation client."""
        return self.session().client("cloudformation", endpoint_url=self.endpoint)

    @_once
    def ecr(self, credentials: Credentials | None = None) -> ECRClient:
        """Return an ECR client."""
        return self.session(credentials).client("ecr", endpoint_url=self.endpoint)

    @_once
    def events(self) -> EventBridgeClient:
        """Return an EventBridge client. The embedded AWS accepts events with an `aws.*` source."""
        return self.session().client("events", endpoint_url=self.endpoint)

    @_once
    def iam(self, credentials: Credentials | None = None) -> IAMClient:
        """Return an IAM client."""
        return self.session(credentials).client("iam", endpoint_url=self.endpoint)

    @_once
    def lambda_(self) -> LambdaClient:
        """Return a Lambda client."""
        return self.session().client("lambda", endpoint_url=self.endpoint)

    @_once
    def logs(self) -> CloudWatchLogsClient:
        """Return a CloudWatch Logs client."""
        return self.session().client("logs", endpoint_url=self.endpoint)

    @_once
    def scheduler(self) -> EventBridgeSchedulerClient:
        """Return an EventBridge Scheduler client."""
        return self.session().client("scheduler", endpoint_url=self.endpoint)

    @_once
    def sqs(self) -> SQSClient:
        """Return an SQS client."""
        return self.session().client("sqs", endpoint_url=self.endpoint)

    @_once
    def sts(self, credentials: Credentials | None = None) -> STSClient:
        """Return an STS client."""
        return self.session(credentials).client("sts", endpoint_url=self.endpoint)

    def client(self, service: str) -> Any:  # noqa: ANN401 - the types of these clients are not installed
        """Return a client of another service."""
        session: Any = self.session()
        return session.client(service, endpoint_url=self.endpoint)
