"""Convergence of sweeps over several invocations, whatever roles, reads and sizes do."""

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from devstack.fake_ecr import ACCOUNT, LIST, READ, REGION, WRITE, FakeEcr, Fault
from handler.ecr.registry import Registry
from handler.events.triggers import FunctionIdentity, parse
from handler.policy.document import render
from handler.reconcile.sweep import Sweep
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.pull_grant import attach_pull
from tests.unit.virtual_time import limiter_without_waits

if TYPE_CHECKING:
    from handler.reconcile.result import Result

WORKERS = [f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "abc"]
RETIRED = [f"arn:aws:iam::222222222222:role/retired-{number}" for number in range(9)]
VENDOR = "arn:aws:iam::444444444444:role/vendor"
OWNER = f"arn:aws:iam::{ACCOUNT}:root"
PULL = ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"]
FUNCTION = FunctionIdentity(ACCOUNT, REGION, caller_arn="the function")
LAMBDA_RETRIES = 2

type Json = dict[str, Any]


def allow(sid: str, action: object, *principals: str) -> Json:
    return {"Sid": sid, "Effect": "Allow", "Principal": {"AWS": list(principals)}, "Action": action}


def document(*statements: Json) -> Json:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def padded(roles: int) -> Json:
    """Build a policy with space for our statement and so many roles."""
    empty = document(allow("", "ecr:PutImage", OWNER))
    space = 10_240 - len(render(attach_pull(empty, WORKERS[:roles])))
    return document(allow("x" * (space - 5), "ecr:PutImage", OWNER))


POLICIES: dict[str, Json | None] = {
    "none": None,
    "foreign": document(allow("Push", "ecr:PutImage", OWNER)),
    "granted": document(allow("AllowPull", PULL, *WORKERS)),
    "retired": document(allow("AllowPull", PULL, RETIRED[0])),
    "granted and retired": document(
        allow("Push", "ecr:PutImage", OWNER), allow("AllowPull", PULL, WORKERS[0], *RETIRED)
    ),
    "space for one": padded(1),
    "space for two": padded(2),
    "vendor": document(allow("Push", "ecr:PutImage", VENDOR)),
}


class SweepMachine(RuleBasedStateMachine):
    """A registry of which the function reconciles everything, in invocations of a few calls each."""

    def __init__(self) -> None:
        super().__init__()
        self.exit_stack = ExitStack()
        self.ecr = FakeEcr()
        self.ecr.create_role(*WORKERS, *RETIRED, VENDOR)
        self.settings = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": ",".join(WORKERS)})
        self.kinds: dict[str, str] = {}
        self.waits = 0.0
        self.last: dict[str, Result] = {}
        patch = self.exit_stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("handler.ecr.retry.time.sleep", self.wait)
        # One repository at a time: with more threads, failures could not be reproduced.
        patch.setattr("handler.reconcile.sweep.MAX_CONCURRENCY", 1)

    def teardown(self) -> None:
        try:
            self.sweep(calls=100, appears=None)
            self.sweep(calls=100_000, appears=None)
        finally:
            self.exit_stack.close()

    def wait(self, seconds: float) -> None:
        self.waits += seconds

    @rule(kind=st.sampled_from(sorted(POLICIES)), count=st.sampled_from([1, 3, 20]))
    def create_repositories(self, kind: str, count: int) -> None:
        if (kind == "vendor" and VENDOR not in self.ecr.roles) or len(self.kinds) + count > 40:
            return
        for role in [*WORKERS, *RETIRED]:
            if role in str(POLICIES[kind]) and role not in self.ecr.roles:
                return
        for _ in range(count):
            name = f"app-{len(self.kinds):03}"
            self.ecr.create_repository(name, policy=POLICIES[kind])
            self.kinds[name] = kind

    @rule(role=st.sampled_from(WORKERS))
    def create_or_delete_role(self, role: str) -> None:
        if role in self.ecr.roles:
            self.ecr.delete_role(role)
        else:
            self.ecr.create_role(role)

    @rule(still_shown=st.booleans())
    def delete_retired_roles_or_vendor(self, *, still_shown: bool) -> None:
        for role in RETIRED:
            if role in self.ecr.roles:
                self.ecr.delete_role(role)
        if still_shown and VENDOR in self.ecr.roles:
            self.ecr.delete_role(VENDOR, still_shown=True)

    @rule(rejected=st.booleans())
    def reject_ids_of_deleted_principals(self, *, rejected: bool) -> None:
        self.ecr.rejects_deleted_principals = rejected

    @rule(reads=st.integers(0, 2))
    def let_reads_lag(self, reads: int) -> None:
        self.ecr.stale_reads = reads

    @rule(operation=st.sampled_from([READ, WRITE, LIST]), count=st.integers(1, 3))
    def throttle(self, operation: str, count: int) -> None:
        self.ecr.inject_faults(operation, *[Fault.THROTTLED] * count)

    @rule(calls=st.sampled_from([30, 100, 100_000]), appears=st.sampled_from([None, *WORKERS]))
    def sweep(self, calls: int, appears: str | None) -> None:
        before = self.ecr.calls.total()
        self.last.clear()
        invocations, last = self.run(calls, appears)

        for name in self.kinds:
            self.check(name)
        assert last == bool(self.lacking())
        if invocations == 1 and not last:
            assert self.ecr.calls.total() - before <= 1 + 2 * len(self.kinds) + 60

    @invariant()
    def no_write_without_a_read_right_before(self) -> None:
        calls: dict[str | None, str] = {}
        for operation, name, _ in self.ecr.call_log:
            assert operation != WRITE or calls[name] == READ
            calls[name] = operation

    # Helpers.

    def run(self, calls: int, appears: str | None) -> tuple[int, bool]:
        """Sweep to the end, with Lambda's retries. Return the invocations, and whether the last failed."""
        payload: Json = {"repositories": ["*"]}
        invocations, retries = 0, 0
        while True:
            invocations += 1
            remaining, failed = self.invoke(payload, calls if retries == 0 else 100_000)
            if appears and appears not in self.ecr.roles:
                self.ecr.create_role(appears)
            if failed:
                retries += 1
                if retries > LAMBDA_RETRIES:
                    return invocations, True
            elif remaining is None:
                return invocations, False
            else:
                payload = remaining

    def invoke(self, payload: Json, calls: int) -> tuple[Json | None, bool]:
        request = parse(json.loads(json.dumps(payload)), FUNCTION)
        registry = Registry(self.ecr.client(), limiter_without_waits())
        started = self.ecr.calls.total()
        sweep = Sweep(
            request, self.settings, registry, lambda: calls * 1.4 - (self.ecr.calls.total() - started)
        )
        report = Report(request, dry_run=False)
        for result in sweep.run():
            report.add(result)
            self.last[result.repository] = result
        report.continued = sweep.remaining is not None
        try:
            report.raise_for_failures()
        except RepositoriesFailed:
            return None, True
        return (sweep.remaining.payload("0e") if sweep.remaining else None), False

    def check(self, name: str) -> None:
        policy = self.ecr.get_policy(name)
        foreign = [one for one in statements(policy) if not one["Sid"].startswith("AllowPull")]
        expected = [one for one in statements(POLICIES[self.kinds[name]]) if one["Sid"] != "AllowPull"]
        assert [one["Sid"] for one in foreign] == [one["Sid"] for one in expected]
        for role in self.lacking_in(name):
            result = self.last[name]
            assert role in result.refused or role in result.reason or self.is_poisoned(name)
            assert role not in self.ecr.roles or role not in result.refused

    def lacking(self) -> list[str]:
        return [role for name in self.kinds for role in self.lacking_in(name)]

    def lacking_in(self, name: str) -> list[str]:
        granted = str(
            [one for one in statements(self.ecr.get_policy(name)) if one["Sid"].startswith("AllowPull")]
        )
        lacking = [role for role in WORKERS if role not in granted]
        existing = [role for role in lacking if role in self.ecr.roles]
        if existing and not self.is_poisoned(name):
            space = 10_240 - len(render(self.ecr.get_policy(name) or document()))
            assert space < 400, f"{name} ({self.kinds[name]}) lacks {existing} and has space"
        return lacking

    def is_poisoned(self, name: str) -> bool:
        return self.kinds[name] == "vendor" and VENDOR not in self.ecr.roles


def statements(policy: Json | None) -> list[Json]:
    found: list[Json] = (policy or {"Statement": []})["Statement"]
    return found


TestSweepMachine = SweepMachine.TestCase
TestSweepMachine.settings = settings(
    max_examples=40, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
