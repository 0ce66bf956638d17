"""The function, driven as Lambda drives it, against the fake ECR and on a clock of its own."""

import importlib
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from devstack.fake_ecr import ACCOUNT, REGION, FakeEcr
from handler.ecr.registry import Registry
from handler.events.request import Request
from handler.reconcile.result import Result
from handler.reconcile.role_check import RoleCheck
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.policies import A
from tests.unit.virtual_time import limiter_without_waits

NAME = "ecr-allow-pull"
ROLE_NAME = REQUIRED["ROLE_NAME"]
CALLER = f"arn:aws:sts::{ACCOUNT}:assumed-role/{ROLE_NAME}/{NAME}"


@dataclass
class Invocation:
    """One invocation: its report, the payload of its continuation, and its error."""

    report: Report | None = None
    results: dict[str, Result] = field(default_factory=dict)
    continuation: dict[str, object] | None = None
    answer: dict[str, Any] | None = None
    error: Exception | None = None


@dataclass
class Function:
    """The function with its settings. Its process lives on between the invocations.

    Attributes:
        roles: WORKER_ROLE_ARNS.
        settings: further environment variables.
        timeout: seconds after which an invocation ends.
        now: the clock in seconds; calls, backoff delays and tests move it.
        seconds_per_call: how far a call moves the clock.
        seconds_per_delay: the longest delay that moves the clock.
        during_backoff: runs instead of each delay.
        between: runs between an invocation and its continuation.
        answers: the responses of the invocations.
    """

    ecr: FakeEcr
    roles: Iterable[str] = (A,)
    settings: dict[str, str] = field(default_factory=dict)
    registry: Registry | None = None
    timeout: float = 900.0
    now: float = 1_000.0
    seconds_per_call: float = 0.0
    seconds_per_delay: float = 900.0
    during_backoff: Callable[[], object] = lambda: None
    between: Callable[[], object] = lambda: None
    backoffs: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)
    payload: dict[str, object] = field(default_factory=dict)
    _role_checks: dict[Settings, RoleCheck] = field(default_factory=dict)

    def reconcile(
        self, *repositories: str, dry_run: bool = False, timeout: float | None = None, **settings: str
    ) -> Report:
        """Reconcile by a payload in one invocation; return its report, whether or not repositories failed."""
        payload = {"repositories": list(repositories or ("app",)), "dry_run": dry_run}
        invocation = self.invoke(payload, timeout=timeout, **settings)
        if invocation.error and not isinstance(invocation.error, RepositoriesFailed):
            raise invocation.error
        assert invocation.continuation is None
        assert invocation.report
        return invocation.report

    def run(self, *repositories: str) -> dict[str, Any]:
        """Run a sweep to its end; return the last response, or raise as the last invocation does."""
        self.payload = {"repositories": list(repositories or ("*",))}
        while True:
            invocation = self.invoke(self.payload)
            if invocation.report:
                self.answers.append(invocation.report.response())
            if invocation.error:
                raise invocation.error
            if not invocation.continuation:
                return self.answers[-1]
            self.payload = invocation.continuation
            self.between()

    def invoke(self, event: object, *, timeout: float | None = None, **settings: str) -> Invocation:
        """Invoke the function once; an error is part of the result."""
        with patch.dict("os.environ", {"AWS_DEFAULT_REGION": REGION}):
            app = importlib.import_module("handler.app")
        invocation = Invocation()
        self.registry = self.registry or Registry(self.ecr.client(), limiter_without_waits())
        configured = self.configured(**settings)

        class Recorded(Report):
            def __init__(self, request: Request, *, dry_run: bool) -> None:
                super().__init__(request, dry_run=dry_run)
                invocation.report = self

            def add(self, result: Result) -> None:
                super().add(result)
                invocation.results[result.repository] = result

        def continue_sweep(request: Request, _: str, correlation_id: str) -> None:
            invocation.continuation = json.loads(json.dumps(request.payload(correlation_id)))

        started, limit = self.elapsed(), self.timeout if timeout is None else timeout
        context = SimpleNamespace(
            aws_request_id="11111111-1111-4111-8111-111111111111",
            function_name=NAME,
            invoked_function_arn=f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{NAME}",
            memory_limit_in_mb=1024,
            get_remaining_time_in_millis=lambda: 1000 * (limit - (self.elapsed() - started)),
        )
        with ExitStack() as stack:
            stack.enter_context(patch.dict("os.environ", {"AWS_REGION": REGION}))
            stack.enter_context(patch("handler.ecr.retry.time.sleep", self.sleep))
            stack.enter_context(
                patch.multiple(
                    app,
                    registry=self.registry,
                    settings=configured,
                    Report=Recorded,
                    continue_in_new_invocation=continue_sweep,
                    _role_check=self._role_check,
                )
            )
            try:
                invocation.answer = app.lambda_handler(json.loads(json.dumps(event)), context)
            except Exception as error:  # noqa: BLE001 - the caller decides
                invocation.error = error
        return invocation

    def configured(self, **settings: str) -> Settings:
        """Return the settings of the function, with these changed."""
        variables = {"WORKER_ROLE_ARNS": ",".join(self.roles)} | self.settings | settings
        return Settings.from_environment(REQUIRED | variables)

    def start_new_process(self) -> None:
        """Forget what the process remembers between invocations."""
        self._role_checks.clear()

    def elapsed(self) -> float:
        """Return the time by the clock."""
        return self.now + self.ecr.calls.total() * self.seconds_per_call

    def sleep(self, seconds: float) -> None:
        """Wait for the backoff delay, on the clock."""
        self.backoffs += 1
        self.now += min(seconds, self.seconds_per_delay)
        self.during_backoff()

    def _role_check(self, settings: Settings, account_principal: str) -> RoleCheck:
        assert self.registry
        if settings not in self._role_checks:
            self._role_checks[settings] = RoleCheck(self.registry, settings, account_principal, self.elapsed)
        return self._role_checks[settings]


def cloudtrail_event(
    name: str, repository: str, *, by: str = "arn:aws:iam::111122223333:role/ci", **detail: object
) -> dict[str, object]:
    """Return the event of a call by another caller."""
    return {
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.ecr",
        "account": ACCOUNT,
        "region": REGION,
        "detail": {
            "eventSource": "ecr.amazonaws.com",
            "eventName": name,
            "userIdentity": {"arn": by},
            "requestParameters": {"repositoryName": repository},
        }
        | detail,
    }
