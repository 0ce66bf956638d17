"""Convergence of sweeps over several invocations, whatever roles, reads, sizes and the role check do."""

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from devstack.fake_ecr import ACCOUNT, LIST, READ, WRITE, Fault
from handler.ecr.registry import Registry
from handler.policy.document import render
from handler.policy.grants import Grant
from handler.policy.plan import plan
from handler.report.report import RepositoriesFailed
from tests.unit.function import Function, Invocation, WatchedEcr
from tests.unit.policies import VENDOR, A, B, C, document, grant, push
from tests.unit.policies import Policy as Json
from tests.unit.virtual_time import limiter_without_waits

if TYPE_CHECKING:
    from handler.reconcile.result import Result

WORKERS = (A, B, C)
RETIRED = [f"arn:aws:iam::222222222222:role/retired-{number}" for number in range(9)]
OWNER = f"arn:aws:iam::{ACCOUNT}:root"
STACKS = (0, 1)
CHECK_REPOSITORIES = [f"ecr-allow-pull-role-check/{n}0000000-0000-4000-8000-000000000000" for n in STACKS]
LAMBDA_RETRIES = 2
ANSWER_HOLDS = 45  # seconds
SECONDS_PER_CALL = 0.25
UNLIMITED = 100_000


def padded(roles: int) -> Json:
    """Build a policy with space for our statement and so many roles."""
    granted = plan(document(push(OWNER, sid="")), [Grant("AllowPull", WORKERS[:roles])]).policy
    space = 10_240 - len(render(granted or {}))
    return document(push(OWNER, sid="x" * (space - 5)))


POLICIES: dict[str, Json | None] = {
    "none": None,
    "foreign": document(push(OWNER)),
    "granted": document(grant(*WORKERS)),
    "retired": document(grant(RETIRED[0])),
    "granted and retired": document(push(OWNER), grant(A, *RETIRED)),
    "space for one": padded(1),
    "space for two": padded(2),
    "vendor": document(push(VENDOR)),
}

stacks = st.sampled_from(STACKS)
# The methods that change something between or during invocations, with their arguments. One rule for all:
# Hypothesis turns rules off, and with many rules, few would be left that sweep.
role_changes = st.one_of(
    st.tuples(st.just("delete_or_create_role"), st.sampled_from(WORKERS)),
    st.tuples(st.just("recreate_role"), st.sampled_from(WORKERS)),
    st.tuples(st.just("delete_or_restore_check_repository"), stacks),
)
changes = st.one_of(
    role_changes,
    st.tuples(st.just("delete_retired_roles_or_vendor"), st.booleans()),
    st.tuples(st.just("reject_ids_of_deleted_principals"), st.booleans()),
    st.tuples(st.just("let_reads_lag"), st.integers(0, 2)),
    st.tuples(st.just("throttle"), st.sampled_from([READ, WRITE, LIST]), st.integers(1, 3)),
)
calls_of_an_invocation = st.sampled_from([30, 100, UNLIMITED])


class SweepMachine(RuleBasedStateMachine):
    """A registry of which two stacks reconcile everything, in invocations of a few calls each."""

    def __init__(self) -> None:
        super().__init__()
        self.exit_stack = ExitStack()
        logging.disable()  # takes less time
        self.exit_stack.callback(logging.disable, logging.NOTSET)
        self.ecr = WatchedEcr()
        self.ecr.create_role(*WORKERS, *RETIRED, VENDOR)
        self.ecr.create_repository(*CHECK_REPOSITORIES)
        client = self.ecr.client()
        self.stacks = [
            Function(
                self.ecr,
                WORKERS,
                {"ROLE_NAME": f"stack-{number}", "ROLE_CHECK_REPOSITORY": CHECK_REPOSITORIES[number]},
                Registry(client, limiter_without_waits()),
                seconds_per_call=SECONDS_PER_CALL,
                seconds_per_delay=0,
                during_backoff=self.ecr.note_delay,
            )
            for number in STACKS
        ]
        self.kinds: dict[str, str] = {}
        self.last: dict[str, Result] = {}
        self.has_changed = False
        self.running: list[int] = []
        self.last_running = 0
        self.created_at: dict[str, float] = {}
        patch = self.exit_stack.enter_context(pytest.MonkeyPatch.context())
        # One repository at a time: with more threads, failures could not be reproduced.
        patch.setattr("handler.reconcile.sweep.MAX_CONCURRENCY", 1)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.exit_stack.close()

    def settle(self) -> None:
        """Stop every outside change, and check that the first sweep does everything."""
        self.ecr.clear_faults()
        for stack in STACKS:
            if CHECK_REPOSITORIES[stack] not in self.ecr.policies:
                self.delete_or_restore_check_repository(stack)
        written = len(self.ecr.writes)
        self.sweep(0, calls=100, between=None)
        names = [name for _, name in self.ecr.writes[written:]]
        # A write of which the next read does not know yet may come again, with the next retry of Lambda.
        assert len(names) <= len(set(names)) * (1 if self.ecr.stale_reads == 0 else 1 + LAMBDA_RETRIES)

        self.ecr.stale_reads = 0
        for stack in reversed(STACKS):
            self.sweep(stack, calls=UNLIMITED, between=None)
        written = len(self.ecr.writes)
        for stack in STACKS:
            self.sweep(stack, calls=UNLIMITED, between=None)
        assert len(self.ecr.writes) == written
        assert self.ecr.wrong_writes == []

    @initialize(kinds=st.lists(st.sampled_from(sorted(POLICIES)), min_size=2, max_size=4))
    def create(self, kinds: list[str]) -> None:
        for kind in kinds:
            self.create_repositories(kind, 3)

    @rule(kind=st.sampled_from(sorted(POLICIES)), count=st.sampled_from([1, 3, 15]))
    def create_repositories(self, kind: str, count: int) -> None:
        if (kind == "vendor" and VENDOR not in self.ecr.roles) or len(self.kinds) + count > 30:
            return
        for role in [*WORKERS, *RETIRED]:
            if role in str(POLICIES[kind]) and role not in self.ecr.roles:
                return
        for _ in range(count):
            name = f"app-{len(self.kinds):03}"
            self.ecr.create_repository(name, policy=POLICIES[kind])
            self.kinds[name] = kind

    @rule(change=changes)
    def change(self, change: tuple[Any, ...]) -> None:
        method, *arguments = change
        getattr(self, method)(*arguments)

    @rule(
        stack=stacks,
        calls=calls_of_an_invocation,
        between=st.one_of(st.none(), role_changes, st.just(("let_the_other_stack_sweep", UNLIMITED))),
    )
    def sweep(self, stack: int, calls: int, between: tuple[Any, ...] | None) -> None:
        """Sweep, with one change after the first invocation."""
        self.pass_time(60)
        before = self.ecr.calls.total()
        self.has_changed = False
        self.last.clear()
        invocations, failed = self.sweep_to_the_end(stack, calls, between)

        if self.has_changed:
            return
        for name in self.kinds:
            self.check(stack, name)
        assert failed == bool(self.lacking())
        if invocations == 1 and not failed:
            # The listing, the registry's policy, a read and a write each, and what is throttled or checked.
            assert self.ecr.calls.total() - before <= 2 + 2 * len(self.kinds) + 60

    @rule(
        stack=stacks,
        calls=calls_of_an_invocation,
        change=st.one_of(role_changes, st.just(("let_the_other_stack_sweep", UNLIMITED))),
        moment=st.sampled_from(["before", "after"]),
        operation=st.sampled_from([READ, WRITE]),
        at=st.integers(0, 30),
    )
    def sweep_with_a_change(
        self, stack: int, calls: int, change: tuple[Any, ...], moment: str, operation: str, at: int
    ) -> None:
        """Sweep, with one change right before or after one of the calls."""
        hook = self.ecr.run_before if moment == "before" else self.ecr.run_after
        hook(operation, *[lambda: None] * at, lambda: self.change(change))
        self.sweep(stack, calls, between=None)

    @invariant()
    def every_write_changes_something_and_directly_follows_its_read(self) -> None:
        assert self.ecr.wrong_writes == []

    # Changes.

    def delete_or_create_role(self, role: str) -> None:
        self.has_changed = True
        if role in self.ecr.roles:
            self.ecr.delete_role(role)
        else:
            self.ecr.create_role(role)
            self.created_at[role] = max(function.elapsed() for function in self.stacks)

    def recreate_role(self, role: str) -> None:
        self.delete_or_create_role(role)
        self.delete_or_create_role(role)

    def delete_or_restore_check_repository(self, stack: int) -> None:
        self.has_changed = True
        name = CHECK_REPOSITORIES[stack]
        if name in self.ecr.policies:
            self.ecr.delete_repository(name)
        else:
            self.ecr.create_repository(name)

    def delete_retired_roles_or_vendor(self, still_shown: bool) -> None:  # noqa: FBT001 - a drawn argument
        for role in RETIRED:
            if role in self.ecr.roles:
                self.ecr.delete_role(role)
        if still_shown and VENDOR in self.ecr.roles:
            self.ecr.delete_role(VENDOR, still_shown=True)

    def reject_ids_of_deleted_principals(self, rejected: bool) -> None:  # noqa: FBT001 - a drawn argument
        self.ecr.rejects_deleted_principals = rejected

    def let_reads_lag(self, reads: int) -> None:
        self.ecr.stale_reads = reads

    def throttle(self, operation: str, count: int) -> None:
        self.ecr.inject_faults(operation, *[Fault.THROTTLED] * count)

    def let_the_other_stack_sweep(self, calls: int) -> None:
        if len(self.running) < 2:
            # Not the one that runs now: a stack makes the calls of one invocation at a time.
            running = self.running[-1] if self.running else self.last_running
            self.invoke(1 - running, {"repositories": ["*"]}, calls)

    # Helpers.

    def pass_time(self, seconds: float) -> None:
        for function in self.stacks:
            function.now += seconds

    def sweep_to_the_end(self, stack: int, calls: int, between: tuple[Any, ...] | None) -> tuple[int, bool]:
        """Sweep, with Lambda's retries. Return the number of invocations, and whether the last failed."""
        payload: dict[str, object] = {"repositories": ["*"]}
        invocations, retries = 0, 0
        while True:
            invocations += 1
            invocation = self.invoke(stack, payload, calls if retries == 0 else UNLIMITED)
            self.last |= invocation.results
            if between and invocations == 1:
                self.change_between_invocations(between)
            if invocation.error:
                retries += 1
                if retries > LAMBDA_RETRIES:
                    return invocations, True
                self.pass_time(60 * retries)
            elif invocation.continuation is None:
                return invocations, False
            else:
                payload = invocation.continuation

    def change_between_invocations(self, change: tuple[Any, ...]) -> None:
        appears = change[0] == "delete_or_create_role" and change[1] not in self.ecr.roles
        had_changed = self.has_changed
        self.change(change)
        if appears:  # the end of the sweep must grant the role
            self.has_changed = had_changed
            self.pass_time(60)

    def invoke(self, stack: int, payload: dict[str, object], calls: int) -> Invocation:
        caller, self.ecr.caller = self.ecr.caller, f"stack-{stack}"
        self.running.append(stack)
        self.last_running = stack
        started = self.stacks[stack].elapsed()
        invocation = self.stacks[stack].invoke(payload, timeout=calls * 1.4 * SECONDS_PER_CALL)
        self.ecr.caller = caller
        self.running.pop()
        assert isinstance(invocation.error, RepositoriesFailed | None), invocation.error
        assert "a bug of this function" not in str(invocation.error)
        assert invocation.results.keys() <= self.kinds.keys()
        for result in invocation.results.values():
            for role in set(result.missing_roles) & self.ecr.roles.keys():
                assert self.created_at[role] >= started - ANSWER_HOLDS
        return invocation

    def check(self, stack: int, name: str) -> None:
        policy = self.ecr.get_policy(name)
        foreign = [one for one in statements(policy) if not one["Sid"].startswith("AllowPull")]
        expected = [one for one in statements(POLICIES[self.kinds[name]]) if one["Sid"] != "AllowPull"]
        assert [one["Sid"] for one in foreign] == [one["Sid"] for one in expected]
        for role in self.lacking_in(name):
            result = self.last[name]
            if CHECK_REPOSITORIES[stack] in self.ecr.policies:
                assert role in result.reason or self.is_poisoned(name)
                assert role not in self.ecr.roles or role not in result.missing_roles
                assert role not in self.ecr.roles or self.is_poisoned(name) or self.is_full(name)
            else:
                command = f"aws ecr create-repository --repository-name {CHECK_REPOSITORIES[stack]}"
                assert command in result.error or (self.is_full(name) and role in result.error)
                assert not result.missing_roles

    def lacking(self) -> list[str]:
        return [role for name in self.kinds for role in self.lacking_in(name)]

    def lacking_in(self, name: str) -> list[str]:
        granted = str(
            [one for one in statements(self.ecr.get_policy(name)) if one["Sid"].startswith("AllowPull")]
        )
        return [role for role in WORKERS if role not in granted]

    def is_full(self, name: str) -> bool:
        return 10_240 - len(render(self.ecr.get_policy(name) or document())) < 400

    def is_poisoned(self, name: str) -> bool:
        return self.kinds[name] == "vendor" and VENDOR not in self.ecr.roles


def statements(policy: Json | None) -> list[Json]:
    found: list[Json] = (policy or {"Statement": []})["Statement"]
    return found


TestSweepMachine = SweepMachine.TestCase
TestSweepMachine.settings = settings(
    max_examples=10,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
