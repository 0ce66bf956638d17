"""Convergence: after any sequence of events, a sweep leaves the last foreign policy plus the grant.

Two stacks with equal settings manage the same registry. Each receives the events of the other's writes.
"""

import logging
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from devstack.fake_ecr import ACCOUNT, LIST, READ, WRITE, EcrError, Fault, normalized
from handler.ecr.errors import RegistryError
from handler.ecr.registry import Registry
from handler.report.report import RepositoriesFailed
from tests.unit.function import NAME, Function, Invocation, WatchedEcr, cloudtrail_event
from tests.unit.policies import CI, PULL, VENDOR, A, B, allow, document, push
from tests.unit.policies import Policy as Json
from tests.unit.virtual_time import limiter_without_waits

WORKERS = (A, B)
STACKS = (0, 1)
CHECK_REPOSITORIES = [f"ecr-allow-pull-role-check/{n}0000000-0000-4000-8000-000000000000" for n in STACKS]
CALLERS = [f"arn:aws:sts::{ACCOUNT}:assumed-role/stack-{n}/{NAME}" for n in STACKS]
EVERYTHING: dict[str, object] = {"repositories": ["*"]}
ANSWER_HOLDS = 45  # seconds
RETRIES = 2

repositories = st.sampled_from(["app", "team/app", "ml/train"])
statements = st.sampled_from(
    [
        push(CI),
        push(VENDOR, "444444444444"),
        allow("AllowPull", PULL, CI),
        allow("AllowPull", PULL, A, VENDOR),
        allow("AllowPull", PULL, VENDOR) | {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
        allow("AllowPull2", [*PULL, "ecr:PutImage"], VENDOR),
        {"Effect": "Deny", "Principal": "*", "Action": "ecr:DeleteRepository"},
        {
            "Sid": "Lambda",
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "ecr:*",
        },
    ]
)
policies = st.lists(statements, min_size=1, max_size=3).map(lambda listed: document(*listed))
faults = st.sampled_from(sorted(Fault, key=str))
stacks = st.sampled_from(STACKS)
roles = st.sampled_from(WORKERS)
operations = st.sampled_from([READ, WRITE])
moments = st.sampled_from(["before", "after"])
calls_before = st.integers(0, 3)
role_changes = st.one_of(
    st.tuples(st.just("delete_or_create_role"), roles),
    st.tuples(st.just("recreate_role"), roles),
    st.tuples(st.just("delete_or_restore_check_repository"), stacks),
)
# The methods that change something, with their arguments. One rule for all: Hypothesis turns rules off, and
# with many rules, few would be left that invoke the function.
changes = st.one_of(
    role_changes,
    st.tuples(st.just("create"), repositories, st.integers(0, 3)),
    st.tuples(st.just("delete"), repositories),
    st.tuples(st.just("write"), repositories, policies),
    st.tuples(st.just("write"), repositories, policies),
    st.tuples(st.just("delete_policy"), repositories),
    st.tuples(st.just("delete_another_principal"), st.sampled_from([CI, VENDOR])),
)


@dataclass(frozen=True)
class Delivery:
    """An event on its way to a stack; Lambda retries it twice, after one and after two more minutes."""

    stack: int
    event: dict[str, object]
    attempt: int = 0
    due: float = 0.0


class ConvergenceMachine(RuleBasedStateMachine):
    """An ECR with concurrent writers and faults, and two stacks that receive some of the events."""

    def __init__(self) -> None:
        super().__init__()
        self.exit_stack = ExitStack()
        logging.disable()  # takes less time
        self.exit_stack.callback(logging.disable, logging.NOTSET)
        self.ecr = WatchedEcr()
        self.ecr.create_role(*WORKERS, CI, VENDOR)
        self.ecr.create_repository(*CHECK_REPOSITORIES)
        self.stacks: list[Function] = []
        self.last_foreign_policies: dict[str, Json | None] = {}
        self.deliveries: list[Delivery] = []
        self.during_backoff: list[tuple[str, Json]] = []
        self.running: list[int] = []
        self.published = 0
        self.now = 1_000.0
        self.recreated_at: dict[str, float] = {}
        self.check_gone_since: dict[int, float] = {}
        patch = self.exit_stack.enter_context(pytest.MonkeyPatch.context())
        # One repository at a time: with more threads, failures could not be reproduced.
        patch.setattr("handler.reconcile.sweep.MAX_CONCURRENCY", 1)

    @initialize(
        remove_unlisted=st.booleans(),
        existing=st.dictionaries(repositories, st.one_of(st.none(), policies), min_size=1),
    )
    def deploy(self, *, remove_unlisted: bool, existing: dict[str, Json | None]) -> None:
        client = self.ecr.client()
        for number in STACKS:
            variables = {
                "ROLE_NAME": f"stack-{number}",
                "ROLE_CHECK_REPOSITORY": CHECK_REPOSITORIES[number],
                "REMOVE_UNLISTED_ROLES": str(remove_unlisted).lower(),
            }
            registry = Registry(client, limiter_without_waits())
            self.stacks.append(Function(self.ecr, WORKERS, variables, registry, during_backoff=self.backoff))
        self.remove_unlisted = remove_unlisted
        for name, policy in existing.items():
            self.create(name, not_found_calls=0)
            if policy:
                self.write(name, policy)

    # Other writers.

    def create(self, name: str, not_found_calls: int) -> None:
        if name not in self.ecr.policies:
            self.ecr.create_repository(name, not_found_calls=not_found_calls)
            self.last_foreign_policies[name] = None
            self.publish("CreateRepository", name, responseElements={"repository": {"repositoryName": name}})

    def delete(self, name: str) -> None:
        if name in self.ecr.policies:
            self.ecr.delete_repository(name)
            del self.last_foreign_policies[name]

    def write(self, name: str, policy: Json) -> None:
        # The other stack may run between a read and the write that follows on it. What a third writes then
        # is lost: ECR has no conditional write.
        if name in self.ecr.policies and len(self.running) < 2:
            with suppress(EcrError):
                self.ecr.set_policy(name, policy)
                self.last_foreign_policies[name] = self.ecr.policies[name]
                self.publish("SetRepositoryPolicy", name)

    def delete_policy(self, name: str) -> None:
        if name in self.ecr.policies:
            self.ecr.delete_policy(name)
            self.last_foreign_policies[name] = None
            self.publish("DeleteRepositoryPolicy", name)

    def delete_another_principal(self, principal: str) -> None:
        # From here on, ECR accepts ids of deleted principals. Otherwise the final sweep could not write.
        if principal in self.ecr.roles:
            self.ecr.rejects_deleted_principals = False
            self.ecr.delete_role(principal)

    # Roles, and the repositories in which they are checked.

    def delete_or_create_role(self, role: str) -> None:
        if role in self.ecr.roles:
            self.ecr.delete_role(role)
        else:
            self.ecr.create_role(role)
            self.recreated_at[role] = self.clock()

    def recreate_role(self, role: str) -> None:
        self.delete_or_create_role(role)
        self.delete_or_create_role(role)

    def delete_or_restore_check_repository(self, stack: int) -> None:
        name = CHECK_REPOSITORIES[stack]
        if name in self.ecr.policies:
            self.ecr.delete_repository(name)
            self.check_gone_since[stack] = self.clock()
        else:
            self.ecr.create_repository(name)
            del self.check_gone_since[stack]

    # Rules.

    @rule(change=changes)
    def change(self, change: tuple[Any, ...]) -> None:
        method, *arguments = change
        getattr(self, method)(*arguments)

    @rule(
        change=st.one_of(role_changes, st.just(("let_the_other_stack_sweep",))),
        moment=moments,
        operation=operations,
        calls=calls_before,
        stack=stacks,
    )
    def change_roles_during_a_sweep(
        self, change: tuple[Any, ...], moment: str, operation: str, calls: int, stack: int
    ) -> None:
        hook = self.ecr.run_before if moment == "before" else self.ecr.run_after
        hook(operation, *[lambda: None] * calls, lambda: self.change(change))
        self.deliver(Delivery(stack, EVERYTHING))

    def let_the_other_stack_sweep(self) -> None:
        if len(self.running) == 1:
            self.invoke(1 - self.running[0], EVERYTHING)

    @rule(name=repositories, policy=policies)
    def write_during_the_next_backoff(self, name: str, policy: Json) -> None:
        self.during_backoff.append((name, policy))

    @rule(name=repositories, policy=policies, stack=stacks)
    def write_right_after_a_write_of_a_sweep(self, name: str, policy: Json, stack: int) -> None:
        self.ecr.run_after(WRITE, lambda: self.write(name, policy))
        self.deliver(Delivery(stack, EVERYTHING))

    @rule(operation=st.sampled_from([READ, WRITE, LIST]), injected=st.lists(faults, min_size=1, max_size=7))
    def inject_faults(self, operation: str, injected: list[Fault]) -> None:
        self.ecr.inject_faults(operation, *injected)

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), times=st.integers(0, 2), redelivered=st.booleans())
    def deliver_an_event(self, data: st.DataObject, times: int, *, redelivered: bool) -> None:
        delivery = data.draw(st.sampled_from(self.deliveries))
        if not redelivered:
            self.deliveries.remove(delivery)
        for _ in range(times):
            self.deliver(delivery)

    @rule(stack=stacks, seconds=st.sampled_from([0, 30, 60]))
    def sweep(self, stack: int, seconds: int) -> None:
        self.now += seconds
        self.deliver(Delivery(stack, EVERYTHING))

    @invariant()
    def every_write_changes_something_and_directly_follows_its_read(self) -> None:
        assert self.ecr.wrong_writes == []

    def teardown(self) -> None:
        try:
            if self.stacks:
                self.settle()
        finally:
            self.exit_stack.close()

    def settle(self) -> None:
        """Stop every outside change, deliver what is left, sweep, and check what became of the policies."""
        self.ecr.clear_faults()
        self.during_backoff.clear()
        for stack in tuple(self.check_gone_since):
            self.delete_or_restore_check_repository(stack)
        self.now += 60
        written = len(self.ecr.writes)
        waiting = sum(not is_ignored(delivery) for delivery in self.deliveries)

        invocations = self.deliver_everything()
        for stack in STACKS:
            self.deliver(Delivery(stack, EVERYTHING))
        invocations += self.deliver_everything()

        # The first to come to a repository does everything, and each write is an event for the other stack.
        written_names = [name for _, name in self.ecr.writes[written:]]
        assert len(written_names) == len(set(written_names))
        assert invocations <= (1 + RETRIES) * (waiting + len(written_names) + len(STACKS))
        for name, policy in self.last_foreign_policies.items():
            self.assert_policy_is_kept_and_grant_is_attached(name, policy)

        written = len(self.ecr.writes)
        for stack in STACKS:
            last = self.invoke(stack, EVERYTHING)
            incomplete = self.last_foreign_policies and set(WORKERS) - self.ecr.roles.keys()
            assert bool(last.error) == bool(incomplete)
        assert len(self.ecr.writes) == written
        assert self.ecr.wrong_writes == []

    def assert_policy_is_kept_and_grant_is_attached(self, name: str, foreign_policy: Json | None) -> None:
        expected = normalized(
            self.ecr.with_principal_arns(foreign_policy or {"Version": "2012-10-17", "Statement": []})
        )
        present = self.ecr.get_policy(name) or {"Version": "2012-10-17", "Statement": []}
        assert present["Version"] == expected["Version"]
        assert [one for one in present["Statement"] if not is_plain(one)] == [
            one for one in expected["Statement"] if not is_plain(one)
        ]
        # ECR shows a deleted principal as an id. The function may remove such an id from our statement.
        existing = self.ecr.roles.keys()
        granted = principals_of_plain_statements(present) & existing
        workers, others = existing & set(WORKERS), principals_of_plain_statements(expected) & existing
        if not self.remove_unlisted:
            assert granted == workers | others
        elif workers:
            assert granted == workers
        else:
            assert granted <= others

    # Helpers.

    def clock(self) -> float:
        return max([self.now, *(self.stacks[stack].now for stack in self.running)])

    def deliver_everything(self) -> int:
        """Deliver all events; return the number of invocations."""
        invocations = 0
        while self.deliveries:
            delivery = self.deliveries.pop(0)
            if is_ignored(delivery):
                continue  # to save time: the rule delivers some
            self.deliver(delivery)
            invocations += 1
            assert invocations < 1_000
        return invocations

    def deliver(self, delivery: Delivery) -> None:
        self.now = max(self.now, delivery.due)
        called = self.ecr.calls.total()
        invocation = self.invoke(delivery.stack, delivery.event)
        if is_ignored(delivery):
            assert not invocation.error
            assert self.ecr.calls.total() == called
        if invocation.error and delivery.attempt < RETRIES:
            attempt = delivery.attempt + 1
            self.deliveries.append(replace(delivery, attempt=attempt, due=self.now + 60 * attempt))

    def invoke(self, stack: int, event: object) -> Invocation:
        function, caller = self.stacks[stack], self.ecr.caller
        started = function.now = self.clock()
        called = len(self.ecr.call_log)
        self.running.append(stack)
        self.ecr.caller = CALLERS[stack]
        try:
            invocation = function.invoke(event)
        finally:
            self.ecr.caller = caller
            self.running.pop()
        self.now = max(self.now, function.now)
        for by, name in self.ecr.writes[self.published :]:
            self.publish("SetRepositoryPolicy", name, by=by)
        self.published = len(self.ecr.writes)
        if any(name == CHECK_REPOSITORIES[stack] for _, name, _ in self.ecr.call_log[called:]):
            self.publish("SetRepositoryPolicy", CHECK_REPOSITORIES[stack], by=CALLERS[stack])
        assert invocation.continuation is None
        assert isinstance(invocation.error, RegistryError | RepositoriesFailed | None)
        assert "a bug of this function" not in str(invocation.error)
        self.assert_no_role_is_called_missing_wrongly(stack, invocation, started)
        return invocation

    def assert_no_role_is_called_missing_wrongly(
        self, stack: int, invocation: Invocation, started: float
    ) -> None:
        missing = {role for result in invocation.results.values() for role in result.missing_roles}
        for role in missing & self.ecr.roles.keys():
            assert self.recreated_at[role] >= started - ANSWER_HOLDS
        if self.check_gone_since.get(stack, started) < started - ANSWER_HOLDS:
            assert not missing
            for result in invocation.results.values():
                if "role check failed" in result.error and "NotFound" in result.error:
                    assert f"aws ecr create-repository --repository-name {CHECK_REPOSITORIES[stack]}" in (
                        result.error
                    )

    def backoff(self) -> None:
        self.ecr.note_delay()
        if self.during_backoff:
            self.write(*self.during_backoff.pop())

    def publish(self, name: str, repository: str, by: str = "another caller", **detail: object) -> None:
        event = cloudtrail_event(name, repository, by=by, **detail)
        self.deliveries += [Delivery(stack, event) for stack in STACKS]


def is_ignored(delivery: Delivery) -> bool:
    """Return whether an event is that of the stack's own write, or of a role check of any stack."""
    detail: Any = delivery.event.get("detail")
    return detail is not None and (
        detail["userIdentity"] == {"arn": CALLERS[delivery.stack]}
        or detail["requestParameters"]["repositoryName"] in CHECK_REPOSITORIES
    )


def is_plain(statement: Json) -> bool:
    return (
        statement["Effect"] == "Allow"
        and sorted(statement["Action"]) == sorted(PULL)
        and "Condition" not in statement
    )


def principals_of_plain_statements(policy: Json) -> set[str]:
    named: set[str] = set()
    for statement in filter(is_plain, policy["Statement"]):
        principals = statement["Principal"]["AWS"]
        named |= {principals} if isinstance(principals, str) else set(principals)
    return named


TestConvergence = ConvergenceMachine.TestCase
TestConvergence.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
