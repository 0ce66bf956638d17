"""The function, driven as Lambda drives it, against the fake ECR and on a clock of its own."""

import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from devstack.fake_ecr import ACCOUNT, READ, REGION, WRITE, FakeEcr, normalized
from handler.ecr.registry import Registry
from handler.events.request import Request
from handler.policy.scope import ROLE_CHECK_PREFIX
from handler.reconcile.result import Result
from handler.reconcile.role_check import RoleCheck
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Mode, Settings
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
        longest_invocation: the seconds that the longest invocation took.
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
    longest_invocation: float = 0.0
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

    def run(self, *repositories: str, dry_run: bool = False) -> dict[str, Any]:
        """Run a sweep to its end; return the last response, or raise as the last invocation does."""
        self.payload = {"repositories": list(repositories or ("*",)), "dry_run": dry_run}
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
        invocation = Invocation()
        self.registry = self.registry or Registry(self.ecr.client(), limiter_without_waits())
        configured = self.configured(**settings)

        class Recorded(Report):
            def __init__(self, request: Request, *, dry_run: bool, mode: Mode) -> None:
                super().__init__(request, dry_run=dry_run, mode=mode)
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
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_REGION", REGION)
            patch.setenv("AWS_DEFAULT_REGION", REGION)  # for the import
            patch.setattr("time.sleep", self.sleep)
            app = importlib.import_module("handler.app")
            patch.setattr(app, "registry", self.registry)
            patch.setattr(app, "settings", configured)
            patch.setattr(app, "Report", Recorded)
            patch.setattr(app, "continue_in_new_invocation", continue_sweep)
            patch.setattr(app, "_role_check", self._role_check)
            try:
                invocation.answer = app.lambda_handler(json.loads(json.dumps(event)), context)
            except Exception as error:  # noqa: BLE001 - the caller decides
                invocation.error = error
        self.longest_invocation = max(self.longest_invocation, self.elapsed() - started)
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


@dataclass
class WatchedEcr(FakeEcr):
    """A fake ECR that notes the writes in users' repositories, and which of them are wrong.

    Each caller makes one call at a time.

    Attributes:
        caller: who makes the calls now.
        writes: the caller and the repository of each write that was applied.
        wrong_writes: those that change nothing, or do not directly follow the read of the same repository.
    """

    caller: str = ""
    writes: list[tuple[str, str]] = field(default_factory=list)
    wrong_writes: list[str] = field(default_factory=list)
    _last_call: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    _last_read: dict[str, Any] = field(default_factory=dict)

    def handle_call(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Handle a call, and note a write without its read."""
        name = request.get("repositoryName")
        last_call = self._last_call.get(self.caller)
        if operation == WRITE and not _is_for_role_checks(name) and last_call != (READ, name):
            self.wrong_writes.append(f"{self.caller} wrote {name} after {last_call}")
        self._last_call[self.caller] = operation, name
        return super().handle_call(operation, request)

    def note_delay(self) -> None:
        """Note that the caller waits before its next call."""
        self._last_call[self.caller] = "a delay", None

    def _execute(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("repositoryName", "")
        before = self.policies.get(name)
        response = super()._execute(operation, request)
        if operation == WRITE and not _is_for_role_checks(name):
            self.writes.append((self.caller, name))
            # A stale read, or another caller's write between the read and this write, excuses the caller:
            # ECR has no conditional write. Each write stores a new object.
            is_current = before is self._last_read.get(self.caller)
            if before and is_current and normalized(before) == normalized(self.policies[name] or {}):
                self.wrong_writes.append(f"{self.caller} wrote {name}, which changed nothing: {before}")
        return response

    def _readable(self, name: str) -> Any:  # noqa: ANN401 - JSON
        self._last_read[self.caller] = policy = super()._readable(name)
        return policy


def _is_for_role_checks(name: str | None) -> bool:
    return name is not None and name.startswith(ROLE_CHECK_PREFIX)


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
