"""Convergence: after any sequence of events, a sweep leaves the last foreign policy plus the grant."""

import json
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devstack.fake_ecr import ACCOUNT, LIST, READ, REGION, WRITE, EcrError, FakeEcr, Fault, normalized
from handler.ecr.registry import Registry, RegistryError
from handler.events.triggers import FunctionIdentity, parse
from handler.reconcile.sweep import Sweep
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.virtual_time import limiter_without_waits

WORKERS = [f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "ab"]
OTHER_PRINCIPALS = [f"arn:aws:iam::444444444444:role/{name}" for name in ("ci", "vendor")]
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
OURSELVES = f"arn:aws:sts::{ACCOUNT}:assumed-role/role/function"
FUNCTION = FunctionIdentity(ACCOUNT, REGION, OURSELVES)

type Json = dict[str, Any]


def allow(sid: str, action: object, *principals: str, **more: object) -> Json:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": list(principals)},
        "Action": action,
    } | more


repositories = st.sampled_from(["app", "team/app", "ml/train"])
statements = st.sampled_from(
    [
        allow("Push", "ecr:PutImage", OTHER_PRINCIPALS[0]),
        allow("Push", "ecr:PutImage", OTHER_PRINCIPALS[1], "444444444444"),
        allow("AllowPull", PULL, OTHER_PRINCIPALS[0]),
        allow("AllowPull", PULL, WORKERS[0], OTHER_PRINCIPALS[1]),
        allow("AllowPull", PULL, OTHER_PRINCIPALS[1], Condition={"Bool": {"aws:SecureTransport": "true"}}),
        allow("AllowPull2", [*PULL, "ecr:PutImage"], OTHER_PRINCIPALS[1]),
        {"Effect": "Deny", "Principal": "*", "Action": "ecr:DeleteRepository"},
        {
            "Sid": "Lambda",
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "ecr:*",
        },
    ]
)
policies = st.builds(
    lambda listed: {"Version": "2012-10-17", "Statement": listed},
    st.lists(statements, min_size=1, max_size=3),
)
faults = st.sampled_from(sorted(set(Fault) - {Fault.TIMEOUT, Fault.TIMEOUT_BUT_APPLIED}, key=str))


class ConvergenceMachine(RuleBasedStateMachine):
    """An ECR with concurrent writers and faults, and a function that receives some of the events."""

    def __init__(self) -> None:
        super().__init__()
        self.exit_stack = ExitStack()
        self.ecr = self.exit_stack.enter_context(FakeEcr().serving())
        self.ecr.create_role(*WORKERS, *OTHER_PRINCIPALS)
        self.registry = Registry(self.ecr.client(), limiter_without_waits())
        self.settings = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": ",".join(WORKERS)})
        self.last_foreign_policies: dict[str, Json | None] = {}
        self.events: list[Json] = []
        self.during_backoff: list[tuple[str, Json]] = []
        patch = self.exit_stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("handler.ecr.retry.time.sleep", lambda _: self.backoff())
        # One repository at a time: with more threads, failures could not be reproduced.
        patch.setattr("handler.reconcile.sweep.MAX_CONCURRENCY", 1)

    # Other writers.

    @rule(name=repositories, not_found_calls=st.integers(0, 3))
    def create(self, name: str, not_found_calls: int) -> None:
        if name not in self.ecr.policies:
            self.ecr.create_repository(name, not_found_calls=not_found_calls)
            self.last_foreign_policies[name] = None
            self.publish_event(
                "CreateRepository", name, responseElements={"repository": {"repositoryName": name}}
            )

    @rule(name=repositories)
    def delete(self, name: str) -> None:
        if name in self.ecr.policies:
            self.ecr.delete_repository(name)
            del self.last_foreign_policies[name]

    @rule(name=repositories, policy=policies)
    def write(self, name: str, policy: Json) -> None:
        if name in self.ecr.policies:
            with suppress(EcrError):
                self.ecr.set_policy(name, policy)
                self.last_foreign_policies[name] = self.ecr.policies[name]
                self.publish_event("SetRepositoryPolicy", name)

    @rule(name=repositories)
    def delete_policy(self, name: str) -> None:
        if name in self.ecr.policies:
            self.ecr.delete_policy(name)
            self.last_foreign_policies[name] = None
            self.publish_event("DeleteRepositoryPolicy", name)

    @rule(name=repositories, policy=policies)
    def write_during_the_next_backoff(self, name: str, policy: Json) -> None:
        self.during_backoff.append((name, policy))

    @rule(name=repositories, policy=policies)
    def write_right_after_our_next_write(self, name: str, policy: Json) -> None:
        self.ecr.run_after(WRITE, lambda: self.write(name, policy))

    @rule(role=st.sampled_from(WORKERS))
    def delete_or_create_role(self, role: str) -> None:
        if role in self.ecr.roles:
            self.ecr.delete_role(role)
        else:
            self.ecr.create_role(role)

    @rule(principal=st.sampled_from(OTHER_PRINCIPALS))
    def delete_another_principal(self, principal: str) -> None:
        # From here on, ECR accepts ids of deleted principals. Otherwise the final sweep could not write.
        if principal in self.ecr.roles:
            self.ecr.rejects_deleted_principals = False
            self.ecr.delete_role(principal)

    @rule(operation=st.sampled_from([READ, WRITE, LIST]), injected=st.lists(faults, min_size=1, max_size=7))
    def inject_faults(self, operation: str, injected: list[Fault]) -> None:
        self.ecr.inject_faults(operation, *injected)

    # The function.

    @precondition(lambda self: self.events)
    @rule(data=st.data(), times=st.integers(0, 2), redelivered=st.booleans())
    def deliver(self, data: st.DataObject, times: int, *, redelivered: bool) -> None:
        event = data.draw(st.sampled_from(self.events))
        if not redelivered:
            self.events.remove(event)
        for _ in range(times):
            self.invoke(event)

    @rule()
    def sweep(self) -> None:
        self.invoke({"repositories": ["*"]})

    @invariant()
    def every_write_of_ours_directly_follows_its_read(self) -> None:
        calls: dict[str | None, str] = {}
        for operation, name, _ in self.ecr.call_log:
            if operation == WRITE:
                assert calls[name] == READ
            calls[name] = operation

    def teardown(self) -> None:
        try:
            self.ecr.clear_faults()
            self.during_backoff.clear()
            self.ecr.create_role(*(role for role in WORKERS if role not in self.ecr.roles))
            self.invoke({"repositories": ["*"]})
            for name, policy in self.last_foreign_policies.items():
                self.assert_policy_is_kept_and_grant_is_attached(name, policy)
            written = self.ecr.calls[WRITE]
            self.invoke({"repositories": ["*"]})
            assert self.ecr.calls[WRITE] == written
        finally:
            self.exit_stack.close()

    def assert_policy_is_kept_and_grant_is_attached(self, name: str, foreign_policy: Json | None) -> None:
        expected = normalized(
            self.ecr.with_principal_arns(foreign_policy or {"Version": "2012-10-17", "Statement": []})
        )
        present = self.ecr.get_policy(name)
        assert present is not None
        assert present["Version"] == expected["Version"]
        assert [one for one in present["Statement"] if not is_plain(one)] == [
            one for one in expected["Statement"] if not is_plain(one)
        ]
        # ECR shows a deleted principal as an id. The function may remove such an id from our statement.
        assert (
            principals_of_plain_statements(present) & self.ecr.roles.keys()
            == (principals_of_plain_statements(expected) | set(WORKERS)) & self.ecr.roles.keys()
        )

    # Helpers.

    def invoke(self, event: Json) -> None:
        written = len(self.ecr.call_log)
        ours = event.get("detail", {}).get("userIdentity") == {"arn": OURSELVES}
        with suppress(RegistryError, RepositoriesFailed):
            request = parse(json.loads(json.dumps(event)), FUNCTION)
            sweep = Sweep(request, self.settings, self.registry, lambda: 900.0)
            report = Report(request, dry_run=False)
            for result in sweep.run():
                report.add(result)
            assert sweep.remaining is None
            report.raise_for_failures()
        assert not (ours and self.ecr.call_log[written:])
        for operation, name, status in self.ecr.call_log[written:]:
            if operation == WRITE and status == "served":
                self.publish_event("SetRepositoryPolicy", name, by=OURSELVES)

    def backoff(self) -> None:
        if self.during_backoff:
            self.write(*self.during_backoff.pop())

    def publish_event(
        self, name: str, repository: str | None, by: str = "another caller", **detail: object
    ) -> None:
        self.events.append(
            {
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
        )


def is_plain(statement: Json) -> bool:
    return (
        statement["Effect"] == "Allow"
        and sorted(statement["Action"]) == PULL
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
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
