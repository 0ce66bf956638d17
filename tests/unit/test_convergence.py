"""Whatever happens, in any order: a last check finds the last policy of others plus the grant, no more."""

import json
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devstack.fake_ecr import ACCOUNT, LIST, READ, REGION, WRITE, EcrError, FakeEcr, Fault, normalized
from handler.rate_limiter import RateLimiter
from handler.registry import Registry, RegistryError
from handler.report import Report, RepositoriesFailed
from handler.settings import Settings
from handler.sweep import Sweep
from handler.triggers import FunctionIdentity, parse

WORKERS = [f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "ab"]
STRANGERS = [f"arn:aws:iam::444444444444:role/{name}" for name in ("ci", "vendor")]
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
        allow("Push", "ecr:PutImage", STRANGERS[0]),
        allow("Push", "ecr:PutImage", STRANGERS[1], "444444444444"),
        allow("AllowPull", PULL, STRANGERS[0]),
        allow("AllowPull", PULL, WORKERS[0], STRANGERS[1]),
        allow("AllowPull", PULL, STRANGERS[1], Condition={"Bool": {"aws:SecureTransport": "true"}}),
        allow("AllowPull2", [*PULL, "ecr:PutImage"], STRANGERS[1]),
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


class AnyOrder(RuleBasedStateMachine):
    """An ECR with other writers and faults, and a function that hears of some of it."""

    def __init__(self) -> None:
        super().__init__()
        self.exits = ExitStack()
        self.ecr = self.exits.enter_context(FakeEcr().serving())
        self.ecr.create_role(*WORKERS, *STRANGERS)
        self.registry = Registry(self.ecr.client(), RateLimiter(sleep=lambda _: None))
        self.settings = Settings.from_environment({"WORKER_ROLE_ARNS": ",".join(WORKERS)})
        self.last_of_others: dict[str, Json | None] = {}
        self.events: list[Json] = []
        self.during_backoff: list[tuple[str, Json]] = []
        patch = self.exits.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("handler.retry.time.sleep", lambda _: self.backoff())
        # One at a time: whom a fault meets must not be left to the threads, or no failure could be repeated.
        patch.setattr("handler.sweep.MAX_CONCURRENCY", 1)

    # Others.

    @rule(name=repositories, not_found_calls=st.integers(0, 3))
    def create(self, name: str, not_found_calls: int) -> None:
        if name not in self.ecr.policies:
            self.ecr.create_repository(name, not_found_calls=not_found_calls)
            self.last_of_others[name] = None
            self.publish_event(
                "CreateRepository", name, responseElements={"repository": {"repositoryName": name}}
            )

    @rule(name=repositories)
    def delete(self, name: str) -> None:
        if name in self.ecr.policies:
            self.ecr.delete_repository(name)
            del self.last_of_others[name]

    @rule(name=repositories, policy=policies)
    def write(self, name: str, policy: Json) -> None:
        if name in self.ecr.policies:
            with suppress(EcrError):
                self.ecr.set_policy(name, policy)
                self.last_of_others[name] = self.ecr.policies[name]
                self.publish_event("SetRepositoryPolicy", name)

    @rule(name=repositories)
    def unset(self, name: str) -> None:
        if name in self.ecr.policies:
            self.ecr.delete_policy(name)
            self.last_of_others[name] = None
            self.publish_event("DeleteRepositoryPolicy", name)

    @rule(name=repositories, policy=policies)
    def write_during_the_next_backoff(self, name: str, policy: Json) -> None:
        self.during_backoff.append((name, policy))

    @rule(name=repositories, policy=policies)
    def write_right_after_our_next_write(self, name: str, policy: Json) -> None:
        self.ecr.run_after(WRITE, lambda: self.write(name, policy))

    @rule(role=st.sampled_from(WORKERS))
    def dismiss_or_hire(self, role: str) -> None:
        if role in self.ecr.roles:
            self.ecr.delete_role(role)
        else:
            self.ecr.create_role(role)

    @rule(stranger=st.sampled_from(STRANGERS))
    def dismiss_a_stranger(self, stranger: str) -> None:
        # From here on ECR takes policies with ids of the deleted: else the last check could not write.
        if stranger in self.ecr.roles:
            self.ecr.rejects_deleted_principals = False
            self.ecr.delete_role(stranger)

    @rule(operation=st.sampled_from([READ, WRITE, LIST]), befalls=st.lists(faults, min_size=1, max_size=7))
    def fail(self, operation: str, befalls: list[Fault]) -> None:
        self.ecr.inject_faults(operation, *befalls)

    # The function.

    @precondition(lambda self: self.events)
    @rule(data=st.data(), times=st.integers(0, 2), again_later=st.booleans())
    def deliver(self, data: st.DataObject, times: int, *, again_later: bool) -> None:
        event = data.draw(st.sampled_from(self.events))
        if not again_later:
            self.events.remove(event)
        for _ in range(times):
            self.invoke(event)

    @rule()
    def sweep(self) -> None:
        self.invoke({"repositories": ["*"]})

    @invariant()
    def every_write_of_ours_follows_directly_on_its_read(self) -> None:
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
            for name, policy in self.last_of_others.items():
                self.holds_this_and_the_grant(name, policy)
            written = self.ecr.calls[WRITE]
            self.invoke({"repositories": ["*"]})
            assert self.ecr.calls[WRITE] == written
        finally:
            self.exits.close()

    def holds_this_and_the_grant(self, name: str, last: Json | None) -> None:
        expected = normalized(
            self.ecr.with_principal_arns(last or {"Version": "2012-10-17", "Statement": []})
        )
        present = self.ecr.get_policy(name)
        assert present is not None
        assert present["Version"] == expected["Version"]
        assert [one for one in present["Statement"] if not is_plain(one)] == [
            one for one in expected["Statement"] if not is_plain(one)
        ]
        # What ECR shows as an id is deleted, and may leave our statement.
        assert (
            whom_plain_statements_name(present) & self.ecr.roles.keys()
            == (whom_plain_statements_name(expected) | set(WORKERS)) & self.ecr.roles.keys()
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
        for operation, name, became in self.ecr.call_log[written:]:
            if operation == WRITE and became == "served":
                self.publish_event("SetRepositoryPolicy", name, by=OURSELVES)

    def backoff(self) -> None:
        if self.during_backoff:
            self.write(*self.during_backoff.pop())

    def publish_event(
        self, name: str, repository: str | None, by: str = "somebody", **detail: object
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


def whom_plain_statements_name(policy: Json) -> set[str]:
    named: set[str] = set()
    for statement in filter(is_plain, policy["Statement"]):
        principals = statement["Principal"]["AWS"]
        named |= {principals} if isinstance(principals, str) else set(principals)
    return named


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
