"""The function in a new process of Lambda: `handler.app`, imported with its environment, on the fake ECR."""

import importlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from botocore import handlers

from devstack.fake_ecr import REGION, FakeEcr, normalized
from tests.environment import REQUIRED, ROLE_CHECK_REPOSITORY

# The account that `sam local` gives to functions. The saved events use it.
SAM_LOCAL_ACCOUNT = "012345678912"


@dataclass
class Process:
    """A process of the function.

    Attributes:
        calls: the calls of the last invocation by operation, without the role checks.
        role_checks: how often the last invocation wrote to the role check's repository.
        remaining_milliseconds: what Lambda answers, each time that the function asks.
    """

    app: ModuleType
    ecr: FakeEcr
    region: str
    remaining_milliseconds: Iterator[int] = field(default_factory=lambda: itertools.repeat(900_000))

    def invoke(self, event: object, account: str = SAM_LOCAL_ACCOUNT) -> dict[str, Any]:
        """Invoke the function as Lambda does."""
        self.ecr.call_log.clear()
        context = SimpleNamespace(
            aws_request_id="11111111-1111-4111-8111-111111111111",
            function_name="ecr-allow-pull",
            invoked_function_arn=f"arn:aws:lambda:{self.region}:{account}:function:ecr-allow-pull",
            memory_limit_in_mb=256,
            get_remaining_time_in_millis=lambda: next(self.remaining_milliseconds),
        )
        report: dict[str, Any] = self.app.lambda_handler(event, context)
        json.dumps(report)  # as Lambda does
        return report

    @property
    def calls(self) -> Counter[str]:
        calls = self.ecr.call_log
        return Counter(operation for operation, name, _ in calls if name != ROLE_CHECK_REPOSITORY)

    @property
    def role_checks(self) -> int:
        return sum(name == ROLE_CHECK_REPOSITORY for _, name, _ in self.ecr.call_log)

    def create(self, *names: str, policy: dict[str, Any] | None = None) -> None:
        """Create repositories with a policy."""
        self.ecr.create_repository(*names, policy=policy)

    def policy(self, name: str) -> dict[str, Any] | None:
        """Return a repository's policy in normalized form."""
        return self.ecr.get_policy(name)

    def has(self, name: str, policy: dict[str, Any]) -> bool:
        """Return whether a repository has a policy, in any form that ECR returns."""
        return self.policy(name) == normalized(policy)


type Start = Callable[..., Process]


def starter(ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Yield a function that starts a process with environment variables, as Lambda does."""

    def start(region: str = REGION, **variables: str) -> Process:
        environment = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
        credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        for variable, value in (REQUIRED | environment | credentials | variables).items():
            monkeypatch.setenv(variable, value)
        sys.modules.pop("handler.app", None)  # another test may have imported it, with other variables
        return Process(importlib.import_module("handler.app"), ecr, region)

    ecr.client()  # all fake ECRs share what is in this client, which must not get the handler
    every_session = [*handlers.BUILTIN_HANDLERS, ("before-send.ecr", ecr.before_send)]
    monkeypatch.setattr(handlers, "BUILTIN_HANDLERS", every_session)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # a session has the handlers of its creation
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield start
    sys.modules.pop("handler.app", None)
