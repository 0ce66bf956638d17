"""The reconciler, called through the real SDK against a fake ECR with faults and concurrent writers."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest
from handler.reconcile.planner import Planner
from handler.reconcile.policy_writer import SweepContext

from devstack.fake_ecr import APPLIED, LIST, READ, WRITE, FakeEcr, Fault, TokenBucket, normalized
from handler.ecr.rate_limiter import Permit, RateLimiter
from handler.ecr.registry import MAX_CONCURRENCY, Registry, RegistryError
from handler.ecr.retry import Deadline
from handler.events.request import Request
from handler.policy.document import render
from handler.policy.grants import Entry
from handler.reconcile.reconciler import reconcile
from handler.reconcile.result import Outcome
from handler.reconcile.sweep import Sweep
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.pull_grant import attach_pull
from tests.unit.virtual_time import limiter_without_waits

A, B, C = (f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "abc")
CI = "arn:aws:iam::444444444444:role/ci"
NOT_APPLIED = [fault for fault in Fault if fault not in APPLIED]

type Policy = dict[str, Any]


def grant(*roles: str, sid: str = "AllowPull") -> Policy:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": list(roles)},
        "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
    }


def push(*principals: str, sid: str = "Push") -> Policy:
    return {"Sid": sid, "Effect": "Allow", "Principal": {"AWS": list(principals)}, "Action": "ecr:PutImage"}


def document(*statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}


FOREIGN_POLICY = document(push("arn:aws:iam::444444444444:root"))
DENY: Policy = {"Sid": "NoPulls", "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGet*"}
OUTSIDE = {"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}


@dataclass
class Function:
    """The function, connected to the fake ECR."""

    ecr: FakeEcr
    registry: Registry
    roles: tuple[str, ...] = (A,)
    may_be_new: bool = False
    during_backoff: Callable[[], object] = lambda: None
    backoffs: int = 0
    clock: float = 0.0  # seconds, which only backoff delays and tests advance

    def settings(self, **settings: str) -> Settings:
        return Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": ",".join(self.roles)} | settings)

    def context(self) -> SweepContext:
        return SweepContext(self.settings(), self.registry, Deadline(lambda: 900, 0))

    def reconcile(self, *names: str, dry_run: bool = False, seconds: float = 900, **settings: str) -> Report:
        started = self.clock
        request = Request(names or ("app",), dry_run=dry_run, may_be_new=self.may_be_new)
        sweep = Sweep(
            request,
            self.settings(**settings),
            self.registry,
            lambda: seconds - (self.clock - started),
        )
        report = Report(request, dry_run=sweep.dry_run)
        for result in sweep.run():
            report.add(result)
        assert sweep.remaining is None
        return report

    def sleep(self, seconds: float) -> None:
        self.backoffs += 1
        self.clock += seconds
        self.during_backoff()

    def let_calls_take(self, seconds: float, ecr: FakeEcr) -> None:
        """Let each of the next hundred reads take so many seconds by the clock."""

        def advance() -> None:
            self.clock += seconds

        ecr.run_before(READ, *[advance] * 100)


@pytest.fixture
def ecr() -> Iterator[FakeEcr]:
    with FakeEcr().serving() as ecr:
        ecr.create_role(A, B, C, CI)
        yield ecr


@pytest.fixture
def function(ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function(ecr, Registry(ecr.client(read_timeout=0.3), limiter_without_waits()))
    monkeypatch.setattr("handler.ecr.retry.time.sleep", function.sleep)
    return function


def outcome(report: Report) -> str:
    return str(repository_details(report)["outcome"])


def repository_details(report: Report) -> Mapping[str, Any]:
    (details,) = cast("list[dict[str, Any]]", report.response()["repositories"])
    return details


class TestConcurrentWriters:
    def test_a_write_before_our_read_is_kept(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=FOREIGN_POLICY)

        assert outcome(function.reconcile()) == "attached"
        assert ecr.get_policy("app") == normalized(document(*FOREIGN_POLICY["Statement"], grant(A)))

    @pytest.mark.parametrize("fault", Fault)
    def test_a_write_during_backoff_is_kept(self, ecr: FakeEcr, function: Function, fault: Fault) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, fault)
        function.during_backoff = lambda: ecr.set_policy("app", FOREIGN_POLICY)

        assert outcome(function.reconcile()) == "attached"
        assert ecr.get_policy("app") == normalized(document(*FOREIGN_POLICY["Statement"], grant(A)))
        assert function.backoffs == 1

    def test_the_last_of_many_writes_during_backoff_is_kept(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, *[Fault.THROTTLED] * 20)
        function.during_backoff = lambda: ecr.set_policy(
            "app", document(push(CI, sid=f"Number{function.backoffs}"))
        )

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(push(CI, sid="Number20"), grant(A)))

    def test_a_policy_deleted_during_backoff_is_not_restored(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=FOREIGN_POLICY)
        ecr.inject_faults(WRITE, Fault.SERVER_ERROR)
        function.during_backoff = lambda: ecr.delete_policy("app")

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A)))

    def test_a_write_right_after_ours_is_kept_by_the_next_reconciliation(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.run_after(WRITE, lambda: ecr.set_policy("app", FOREIGN_POLICY))

        function.reconcile()
        assert ecr.get_policy("app") == normalized(FOREIGN_POLICY)

        function.reconcile()
        assert ecr.get_policy("app") == normalized(document(*FOREIGN_POLICY["Statement"], grant(A)))

    def test_a_write_between_our_read_and_our_write_is_lost_because_ecr_has_no_conditional_write(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.run_after(READ, lambda: ecr.set_policy("app", FOREIGN_POLICY))

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A)))

    @pytest.mark.parametrize("fault", Fault)
    def test_every_write_of_ours_directly_follows_its_read(
        self, ecr: FakeEcr, function: Function, fault: Fault
    ) -> None:
        ecr.create_repository("app", policy=FOREIGN_POLICY)
        ecr.inject_faults(WRITE, fault, fault)

        function.reconcile()

        calls = [operation for operation, _, _ in ecr.call_log]
        assert calls.count(WRITE) >= 1
        assert all(calls[index - 1] == READ for index, call in enumerate(calls) if call == WRITE)


class TestAWriteWithALostResponse:
    @pytest.mark.parametrize("fault", sorted(APPLIED, key=str))
    def test_is_reported_and_not_repeated_if_ecr_applied_it(
        self, ecr: FakeEcr, function: Function, fault: Fault
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, fault)

        report = function.reconcile()

        assert repository_details(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": {"AllowPull": [A]},
        }
        assert ecr.calls[WRITE] == 1

    @pytest.mark.parametrize("fault", NOT_APPLIED)
    def test_is_repeated_if_ecr_did_not_apply_it(
        self, ecr: FakeEcr, function: Function, fault: Fault
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, fault)

        report = function.reconcile()

        assert repository_details(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": {"AllowPull": [A]},
        }
        assert ecr.calls == {READ: 2, WRITE: 2}

    def test_is_not_reported_if_another_writer_added_the_grant(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, Fault.THROTTLED)
        function.during_backoff = lambda: ecr.set_policy("app", document(grant(A)))

        assert outcome(function.reconcile()) == "unchanged"

    def test_does_not_hide_a_failure(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, Fault.SERVER_ERROR)

        def overwrite() -> None:
            ecr.set_policy("app", document(push(CI), grant(B)))
            ecr.delete_role(CI)

        function.during_backoff = overwrite

        with pytest.raises(RepositoriesFailed, match="was deleted"):
            function.reconcile().raise_for_failures()

    def test_is_reported_together_with_a_later_failure(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(C)
        ecr.create_repository("app", policy=document(DENY))
        ecr.run_after(WRITE, lambda: None, lambda: ecr.inject_faults(READ, *[Fault.SERVER_ERROR] * 6))

        report = function.reconcile()

        details = repository_details(report)
        assert (details["outcome"], details["added"]) == ("failed", {"AllowPull": [A]})
        assert details["denied_by"]


class TestIdempotence:
    @pytest.mark.parametrize(
        "before",
        [
            None,
            FOREIGN_POLICY,
            document(grant(B, CI)),
            document(grant("222222222222")),
            document(push(CI), grant(B), push(CI, B, sid="Push"), grant(C, sid="AllowPull2")),
            document(grant(CI) | {"Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}}),
            document(push("*"), grant("*")),
        ],
    )
    def test_a_granted_policy_is_not_rewritten_in_any_order_or_form_that_ecr_returns(
        self, ecr: FakeEcr, function: Function, before: Policy | None
    ) -> None:
        function.roles = (A, B, C)
        ecr.create_repository("app", policy=before)
        function.reconcile()

        for _ in range(20):
            assert outcome(function.reconcile()) == "unchanged"

        assert ecr.calls == {READ: 21, WRITE: 1}

    @pytest.mark.parametrize("role", [A, CI])
    def test_a_deleted_role_in_our_statement_causes_no_write(
        self, ecr: FakeEcr, function: Function, role: str
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A, B, CI)))
        function.roles = tuple({A, B} - {role})
        ecr.delete_role(role)

        assert outcome(function.reconcile()) == "unchanged"
        assert ecr.calls[WRITE] == 0


class TestAMissingRole:
    @pytest.mark.parametrize("before", [None, FOREIGN_POLICY, document(grant(CI))])
    @pytest.mark.parametrize("missing", [A, B, C])
    def test_does_not_lock_out_the_other_roles(
        self, ecr: FakeEcr, function: Function, missing: str, before: Policy | None
    ) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(missing)
        ecr.create_repository("app", policy=before)

        report = function.reconcile()

        others = {A, B, C} - {missing}
        statements = ecr.get_policy("app")["Statement"]  # type: ignore[index]
        assert others <= set(statements[-1]["Principal"]["AWS"])
        assert set(repository_details(report)["added"]["AllowPull"]) == others
        with pytest.raises(RepositoriesFailed, match=f"refused the role {missing} for 1 of 1 .*Create it"):
            report.raise_for_failures()

    def test_is_recognized_by_the_older_error_message(self, ecr: FakeEcr, function: Function) -> None:
        ecr.principal_not_found_message = (
            "Invalid parameter at 'PolicyText': 'Invalid repository policy provided'"
        )
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")

        assert repository_details(function.reconcile())["added"] == {"AllowPull": [A]}

    def test_is_one_of_the_causes_that_are_named_for_the_older_error_message(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.principal_not_found_message = (
            "Invalid parameter at 'PolicyText': 'Invalid repository policy provided'"
        )
        ecr.create_repository("app", policy=FOREIGN_POLICY)
        ecr.delete_role(A)

        details = repository_details(function.reconcile())

        assert "a principal does not exist, or ECR does not accept another part" in details["reason"]
        assert f"Does the role {A} exist?" in details["reason"]
        assert "or the part of a foreign statement that ECR does not accept" in details["reason"]

    def test_is_reported_and_tried_once_per_sweep_not_once_per_repository(
        self,
        ecr: FakeEcr,
        function: Function,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("handler.telemetry.logger._logger.propagate", True)
        function.roles = (A, B)
        ecr.delete_role(B)
        names = [f"app-{number:03}" for number in range(200)]
        ecr.create_repository(*names, policy=FOREIGN_POLICY)

        with caplog.at_level("INFO"):
            report = function.reconcile(*names)

        answer = report.response()
        assert answer["outcomes"] == {"attached": 200}
        assert [line.message for line in caplog.records].count("role refused") == 1
        (refused,) = cast("list[dict[str, Any]]", answer["refused_roles"])
        assert (refused["role"], refused["missing_in"]) == (B, 200)
        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        assert str(caught.value).count(B) == 1
        # Each reconciliation in flight is rejected twice at most: with both roles, then with B alone.
        assert (
            sum(status == "InvalidParameterException" for _, _, status in ecr.call_log) <= 2 * MAX_CONCURRENCY
        )

    def test_is_granted_by_the_next_reconciliation_after_its_creation(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")
        function.reconcile()

        ecr.create_role(B)
        report = function.reconcile()

        assert repository_details(report)["added"] == {"AllowPull": [B]}
        assert ecr.get_policy("app") == normalized(document(grant(A, B)))
        report.raise_for_failures()

    def test_fails_every_reconciliation_until_its_creation_and_the_log_names_the_repository(
        self,
        ecr: FakeEcr,
        function: Function,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")
        function.reconcile()

        monkeypatch.setattr("handler.telemetry.logger._logger.propagate", True)
        report = function.reconcile()

        assert outcome(report) == "failed"
        failed = next(line for line in caplog.records if line.message == "reconcile failed")
        assert vars(failed)["repository"] == "app"
        with pytest.raises(RepositoriesFailed, match=B):
            report.raise_for_failures()

    @pytest.mark.parametrize("roles", [(A,), (A, B, C)])
    @pytest.mark.parametrize("before", [None, FOREIGN_POLICY, document(grant(CI))])
    def test_leaves_the_policy_unchanged_and_is_named_if_all_roles_are_missing(
        self, ecr: FakeEcr, function: Function, before: Policy | None, roles: tuple[str, ...]
    ) -> None:
        function.roles = roles
        for role in roles:
            ecr.delete_role(role)
        ecr.create_repository("app", policy=before)

        report = function.reconcile()

        assert ecr.get_policy("app") == (before and normalized(before))
        assert not any(status == "served" for operation, _, status in ecr.call_log if operation == WRITE)
        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        assert all(role in str(caught.value) for role in roles)
        assert "Create it, or take it out of WorkerRoleArns" in str(caught.value)

    def test_prevents_the_removal_of_unlisted_roles_if_no_listed_role_exists(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.delete_role(A)
        ecr.create_repository("app", policy=document(grant(B)))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert ecr.get_policy("app") == normalized(document(grant(B)))
        assert repository_details(report)["unlisted"] == {"AllowPull": [B]}
        assert repository_details(report)["not_removed"] == ["AllowPull"]

    def test_is_a_failure_also_where_nothing_else_is_to_be_done(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        context = function.context()
        context.knowledge.record_missing([B])
        ecr.create_repository("app", policy=document(grant(A)))

        result = reconcile("app", context)

        assert (result.outcome, result.refused, ecr.calls[WRITE]) == (Outcome.FAILED, (B,), 0)

    def test_prevents_no_removal_if_unlisted_roles_are_not_to_be_removed(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        context = function.context()
        context.knowledge.record_missing([A])
        ecr.create_repository("app", policy=document(grant(B)))

        result = reconcile("app", context)

        assert result.refused == (A,)
        assert result.unlisted == {Entry("AllowPull", B)}
        assert result.not_removed == ()

    def test_is_reported_as_the_reason_why_nothing_was_removed(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, C)
        ecr.delete_role(A)
        ecr.delete_role(C)
        ecr.create_repository("app-1", "app-2", policy=document(grant(B)))
        ecr.create_repository("app-3")

        report = function.reconcile("app-1", "app-2", "app-3", REMOVE_UNLISTED_ROLES="true")

        sentence = "nothing was removed in 2 repositories, because none of the configured roles exists"
        assert report.response()["not_removed"] == [
            {"grant": "AllowPull", "repositories": 2, "reason": sentence}
        ]
        with pytest.raises(RepositoriesFailed, match=f"AllowPull: {sentence}"):
            report.raise_for_failures()

    def test_is_proved_in_the_only_repository_if_it_prevents_a_removal(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.delete_role(A)
        ecr.create_repository("app", policy=document(push(CI), grant(B)))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert ecr.get_policy("app") == normalized(document(push(CI), grant(B)))
        assert repository_details(report)["refused"] == [A]
        assert repository_details(report)["not_removed"] == ["AllowPull"]

    def test_is_named_for_the_grant_without_an_existing_role_only(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        describe = {"Sid": "AllowDescribeImages", "Action": ["ecr:DescribeImages"]}
        ecr.delete_role(C)
        ecr.create_repository("app", policy=document(grant(A, B), grant(B) | describe))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true", DESCRIBE_ROLE_ARNS=C)

        assert repository_details(report)["removed"] == {"AllowPull": [B]}
        assert repository_details(report)["not_removed"] == ["AllowDescribeImages"]

    def test_is_named_for_the_only_statement_if_its_grant_has_no_configured_roles(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        describe = {"Sid": "AllowDescribeImages", "Action": ["ecr:DescribeImages"]}
        ecr.delete_role(A)
        ecr.create_repository("app", policy=document(grant(B) | describe))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert ecr.get_policy("app") == normalized(document(grant(B) | describe))
        assert repository_details(report)["not_removed"] == ["AllowDescribeImages"]

    def test_does_not_prevent_the_removal_of_unlisted_roles_in_the_only_repository(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, C)
        ecr.delete_role(C)
        ecr.create_repository("app", policy=document(grant(A, B)))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert ecr.get_policy("app") == normalized(document(grant(A)))
        assert repository_details(report)["removed"] == {"AllowPull": [B]}
        assert repository_details(report)["refused"] == [C]

    @pytest.mark.parametrize("missing", [(), (C,)])
    def test_is_not_reported_if_a_configured_role_exists(
        self, ecr: FakeEcr, function: Function, missing: tuple[str, ...]
    ) -> None:
        function.roles = (A, C)
        for role in missing:
            ecr.delete_role(role)
        ecr.create_repository("app", policy=document(grant(B)))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert repository_details(report)["removed"] == {"AllowPull": [B]}
        assert "unlisted" not in repository_details(report)
        assert "not_removed" not in report.response()

    def test_is_not_assumed_for_the_whole_sweep_after_a_rejection_in_one_repository(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        vendor = "arn:aws:iam::444444444444:role/vendor"
        ecr.create_role(vendor)
        ecr.create_repository("poisoned", policy=document(push(vendor)))
        ecr.delete_role(vendor)
        names = [f"app-{number:02}" for number in range(40)]
        ecr.create_repository(*names)

        report = function.reconcile("poisoned", *names)

        assert report.response()["outcomes"] == {"failed": 1, "attached": 40}

    @pytest.mark.parametrize("preceding", [(), ("first",)])
    def test_is_not_assumed_if_ecr_rejects_an_account(
        self, ecr: FakeEcr, function: Function, preceding: tuple[str, ...]
    ) -> None:
        names = [f"app-{number:02}" for number in range(60)]
        ecr.create_repository(*preceding, *names)
        poisoned = [f"poisoned-{number}" for number in range(40)]
        ecr.create_repository(*poisoned[:20], policy=document(push("555555555555")))
        ecr.create_repository(*poisoned[20:], policy=document(grant("555555555555")))
        ecr.closed_accounts.add("555555555555")

        report = function.reconcile(*preceding, *poisoned, *names)

        assert report.response()["outcomes"] == {"failed": 40, "attached": len(preceding) + len(names)}

    def test_is_not_assumed_if_a_foreign_statement_is_fixed_during_reconciliation(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(push(CI)))
        ecr.delete_role(CI)
        ecr.run_after(WRITE, lambda: None, lambda: ecr.set_policy("app", FOREIGN_POLICY))

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(*FOREIGN_POLICY["Statement"], grant(A, B)))
        report.raise_for_failures()

    def test_is_found_in_a_bounded_number_of_writes_under_continuous_concurrent_writes(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(C)
        ecr.create_repository("app")
        ecr.run_after(WRITE, *[lambda: ecr.delete_policy("app")] * 1_000)

        report = function.reconcile("app")

        assert report.response()["refused_roles"][0]["role"] == C  # type: ignore[index]
        assert ecr.calls[WRITE] < 10

    def test_is_named_even_if_ecr_accepts_the_id_of_a_deleted_role(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.rejects_deleted_principals = False
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(push(CI)))
        ecr.delete_role(CI)
        ecr.delete_role(B)
        function.reconcile()

        with pytest.raises(RepositoriesFailed, match=B):
            function.reconcile().raise_for_failures()

    def test_does_not_undo_concurrent_writes(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(B)
        ecr.create_repository("app")
        ecr.run_after(
            WRITE,
            lambda: ecr.set_policy("app", document(push(CI, sid="First"))),
            lambda: ecr.set_policy("app", document(push(CI, sid="Second"))),
        )

        function.reconcile()
        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(push(CI, sid="Second"), grant(A, C)))


class TestTheIdOfADeletedRole:
    def test_is_removed_from_our_statement_if_ecr_rejects_it(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(grant(B, CI)))
        deleted_id = ecr.delete_role(B)

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A, CI)))
        assert repository_details(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": {"AllowPull": [A]},
            "removed": {"AllowPull": [deleted_id]},
            "unlisted": {"AllowPull": [CI]},
        }

    def test_stays_in_our_statement_if_ecr_accepts_it(self, ecr: FakeEcr, function: Function) -> None:
        ecr.rejects_deleted_principals = False
        ecr.create_repository("app", policy=document(grant(B)))
        deleted_id = ecr.delete_role(B)

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A, deleted_id)))

    def test_stays_in_our_statement_if_ecr_accepts_it_but_rejects_a_role(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.rejects_deleted_principals = False
        function.roles = (A, C)
        ecr.create_repository("app", policy=document(grant(B)))
        deleted_id = ecr.delete_role(B)
        ecr.delete_role(C)

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A, deleted_id)))
        with pytest.raises(RepositoriesFailed, match=C):
            report.raise_for_failures()

    def test_is_replaced_by_a_new_role_of_the_same_name(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.delete_role(A)
        ecr.create_role(A)

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A)))

    def test_is_removed_from_our_statement_even_if_a_role_is_missing(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, C)
        ecr.create_repository("app", policy=document(grant(B, CI)))
        ecr.delete_role(B)
        ecr.delete_role(C)

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A, CI)))
        with pytest.raises(RepositoriesFailed, match=C):
            report.raise_for_failures()

    def test_in_a_foreign_statement_is_kept_and_named_if_ecr_rejects_it(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(push(CI)))
        deleted_id = ecr.delete_role(CI)
        before = ecr.get_policy("app")

        report = function.reconcile()

        assert ecr.get_policy("app") == before
        with pytest.raises(RepositoriesFailed, match=f'statement "Push" names {deleted_id}'):
            report.raise_for_failures()
        assert "refused_roles" not in report.response()

    def test_in_a_foreign_statement_is_kept_if_ecr_accepts_it(self, ecr: FakeEcr, function: Function) -> None:
        ecr.rejects_deleted_principals = False
        ecr.create_repository("app", policy=document(push(CI)))
        deleted_id = ecr.delete_role(CI)

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(push(deleted_id), grant(A)))

    def test_in_a_foreign_statement_is_named_if_ecr_rejects_a_removal(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(push(CI), grant(A, B)))
        deleted_id = ecr.delete_role(CI)

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert outcome(report) == "failed"
        assert deleted_id in repository_details(report)["reason"]


class TestAMissingRepository:
    def test_is_retried_if_it_may_be_new(self, ecr: FakeEcr, function: Function) -> None:
        function.may_be_new = True
        ecr.create_repository("app", not_found_calls=4)

        assert outcome(function.reconcile()) == "attached"

    def test_is_reported_as_gone_after_the_last_retry(self, ecr: FakeEcr, function: Function) -> None:
        function.may_be_new = True

        assert repository_details(function.reconcile()) == {"repository": "app", "outcome": "gone"}
        assert ecr.calls[READ] == 6

    def test_is_reported_as_gone_without_a_retry_if_it_is_not_new(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        assert outcome(function.reconcile()) == "gone"
        assert ecr.calls[READ] == 1

    def test_deleted_between_read_and_write_is_reported_as_gone(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.run_before(WRITE, lambda: ecr.delete_repository("app"))

        assert repository_details(function.reconcile()) == {"repository": "app", "outcome": "gone"}


class TestAPolicyOverTheSizeLimit:
    def test_is_not_sent_and_the_failure_gives_both_sizes(self, ecr: FakeEcr, function: Function) -> None:
        long = document(push("444444444444", sid="x" * 10_000))
        ecr.create_repository("app", policy=long)

        report = function.reconcile()

        assert ecr.calls[WRITE] == 0
        with pytest.raises(RepositoriesFailed, match=r"10,\d{3} characters and ECR allows 10,240: shorten"):
            report.raise_for_failures()

    def test_is_measured_against_the_exact_limit_of_ecr(self, ecr: FakeEcr, function: Function) -> None:
        def padded(characters: int) -> Policy:
            return document(push("arn:aws:iam::444444444444:root", sid="x" * characters))

        padding = 10_240 - len(render(attach_pull(json.loads(json.dumps(padded(0))), [A])))
        ecr.create_repository("fits", policy=padded(padding - 2))  # ECR returns a list of one as a string
        ecr.create_repository("fits-not", policy=padded(padding + 3))

        report = function.reconcile("fits", "fits-not")

        assert report.response()["outcomes"] == {"attached": 1, "failed": 1}


class TestADenyStatement:
    def test_is_reported_and_the_grant_is_attached_anyway(
        self,
        ecr: FakeEcr,
        function: Function,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("handler.telemetry.logger._logger.propagate", True)
        ecr.create_repository("app", policy=document(DENY))

        report = function.reconcile()

        assert repository_details(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": {"AllowPull": [A]},
            "denied_by": [
                {
                    "statement": '"NoPulls"',
                    "grant": "AllowPull",
                    "roles": [A],
                    "actions": ["ecr:BatchGetImage"],
                }
            ],
        }
        assert ecr.get_policy("app") == normalized(document(DENY, grant(A)))
        assert ("WARNING", "pull denied") in [(line.levelname, line.message) for line in caplog.records]
        report.raise_for_failures()

    def test_with_a_condition_is_reported_as_conditional(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(DENY | {"Condition": OUTSIDE}))

        (denial,) = repository_details(function.reconcile())["denied_by"]

        assert denial["conditional"] is True

    def test_is_reported_for_an_unchanged_repository_among_many(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        names = [f"app-{number:03}" for number in range(150)]
        ecr.create_repository(*names, policy=document(grant(A)))
        ecr.create_repository("zzz", policy=document(DENY, grant(A)))

        answer = function.reconcile(*names, "zzz").response()

        assert answer["outcomes"] == {"unchanged": 151}
        assert answer["denied"] == 1
        listed = cast("list[dict[str, Any]]", answer["repositories"])
        assert [details["repository"] for details in listed] == ["zzz"]


class TestRetries:
    @pytest.mark.parametrize("fault", NOT_APPLIED)
    @pytest.mark.parametrize("operation", [READ, WRITE, LIST])
    def test_follow_every_temporary_error(
        self, ecr: FakeEcr, function: Function, operation: str, fault: Fault
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(operation, fault)

        assert outcome(function.reconcile("*")) == "attached"
        assert function.backoffs == 1

    def test_are_limited_and_the_failure_gives_the_reason(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.SERVER_ERROR] * 6)

        report = function.reconcile()

        assert "GetRepositoryPolicy: ServerException: out of order" in repository_details(report)["reason"]
        assert ecr.calls[READ] == 6

    def test_of_throttled_calls_are_not_limited_before_the_deadline(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 50)

        assert outcome(function.reconcile()) == "attached"

    def test_of_throttled_calls_end_at_the_deadline_with_an_error(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.buckets[READ] = TokenBucket(rate=0, burst=0)

        report = function.reconcile(seconds=1)

        with pytest.raises(
            RepositoriesFailed, match=r"app: no attempt succeeded in time: .*ThrottlingException"
        ):
            report.raise_for_failures()

    def test_use_exponential_backoff_with_a_maximum_and_jitter(
        self, ecr: FakeEcr, function: Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ecr.create_repository("app")
        runs: list[list[float]] = [[], []]
        for delays in runs:
            monkeypatch.setattr("handler.ecr.retry.time.sleep", delays.append)
            ecr.inject_faults(READ, *[Fault.THROTTLED] * 8)
            function.reconcile()

        assert runs[0] != runs[1]
        for delays in runs:
            assert [0.5 <= delay / min(0.2 * 2**n, 6.4) <= 1 for n, delay in enumerate(delays)] == [True] * 8


def test_unlisted_principals_that_cannot_be_removed_are_reported_with_the_cause(
    ecr: FakeEcr, function: Function
) -> None:
    """ECR rejects the policy without them too, because a foreign statement names a deleted principal."""
    ecr.create_repository("app", policy=document(push(CI), grant(B)))
    ecr.delete_role(CI)

    details = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))

    assert details["outcome"] == "failed"
    assert details["reason"].startswith("ECR refused SetRepositoryPolicy: InvalidParameterException: ")
    assert "A principal in a foreign statement was deleted" in details["reason"]


def test_a_grant_that_another_caller_removes_while_roles_are_tried_one_by_one_is_reported(
    ecr: FakeEcr, function: Function
) -> None:
    function.roles = (A, B, "arn:aws:iam::222222222222:role/missing")
    ecr.create_repository("app", policy=document(grant(A)))
    ecr.run_before(READ, lambda: None, lambda: ecr.set_policy("app", FOREIGN_POLICY))

    details = repository_details(function.reconcile())

    assert details["outcome"] == "failed"
    assert f"another caller removed the grant of {A} meanwhile" in details["reason"]


def test_a_role_that_another_thread_proves_missing_while_roles_are_tried_one_by_one_is_skipped(
    ecr: FakeEcr, function: Function
) -> None:
    missing = tuple(f"arn:aws:iam::222222222222:role/missing-{number}" for number in range(2))
    function.roles = (*missing, C)
    context = function.context()
    ecr.create_repository("app")
    ecr.run_before(WRITE, lambda: None, lambda: context.knowledge.record_missing([missing[1]]))

    result = reconcile("app", context)

    assert result.added == {Entry("AllowPull", C)}
    assert set(result.refused) == set(missing)
    assert ecr.calls[WRITE] == 4  # all roles, the first missing one, C, and the first one again


def test_a_deadline_that_passes_before_each_role_was_tried_is_named_as_the_reason(
    ecr: FakeEcr, function: Function
) -> None:
    function.roles = (A, B)
    ecr.delete_role(B)
    ecr.create_repository("app")
    ecr.run_before(WRITE, lambda: setattr(function, "clock", 100.0))

    details = repository_details(function.reconcile(seconds=100))

    assert details["outcome"] == "failed"
    assert details["reason"] == (
        "no attempt succeeded in time: ECR rejects one of several roles, and there was no time to try each"
    )


class TestARoleThatIsDeletedAfterEcrAcceptedIt:
    def test_is_no_proof_that_another_role_is_missing(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (B, A, C)
        ecr.delete_role(B)
        ecr.create_repository("app", policy=FOREIGN_POLICY)
        ecr.create_repository("second")
        all_roles, only_b = [lambda: None] * 2
        ecr.run_after(WRITE, all_roles, only_b, lambda: ecr.delete_role(A))

        report = function.reconcile("app")
        assert C in str(ecr.get_policy("app"))
        assert repository_details(report)["refused"] == [B]
        assert f"another caller removed the grant of {A} meanwhile" in repository_details(report)["reason"]


class TestADryRun:
    def test_shows_the_removals_although_a_role_does_not_fit(self, ecr: FakeEcr, function: Function) -> None:
        long = f"arn:aws:iam::222222222222:role/{'path/' * 90}long"
        ecr.create_role(long)
        function.roles = (A, long)
        others = push(*(f"arn:aws:iam::{number:012}:root" for number in range(1, 290)))
        ecr.create_repository("app", policy=document(grant(CI), others))

        planned = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true", dry_run=True))
        written = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))

        assert f"No space for {long}" in written["reason"]
        assert written["removed"] == {"AllowPull": [CI]}
        assert planned == written


def test_unlisted_principals_are_removed_although_another_role_does_not_fit(
    ecr: FakeEcr, function: Function
) -> None:
    long = f"arn:aws:iam::222222222222:role/{'path/' * 90}long"
    ecr.create_role(long)
    function.roles = (A, long)
    others = push(*(f"arn:aws:iam::{number:012}:root" for number in range(1, 290)))
    ecr.create_repository("app", policy=document(grant(A, CI), others))

    details = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))

    assert details["removed"] == {"AllowPull": [CI]}
    assert details["reason"].startswith(f"No space for {long}: the policy would have")


def test_the_id_of_a_deleted_role_stays_in_other_repositories_if_it_was_only_too_long_for_one(
    ecr: FakeEcr, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.reconcile.sweep.MAX_CONCURRENCY", 1)  # one after the other
    ecr.rejects_deleted_principals = False
    account = "arn:aws:iam::444444444444:root"
    with_id = attach_pull(document(push(account, sid="")), [ecr.roles[CI], A])
    others = push(account, sid="x" * (10_240 - len(render(with_id)) + 5))
    ecr.create_repository("too-long", policy=document(grant(CI), others))
    ecr.create_repository("app", policy=document(grant(CI)))
    gone = ecr.delete_role(CI)

    report = function.reconcile("too-long", "app")

    assert report.response()["outcomes"] == {"attached": 2}
    assert gone not in str(ecr.get_policy("too-long"))
    assert gone in str(ecr.get_policy("app"))


def test_worker_roles_import_images_only_into_the_selected_repositories(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository("cache/app", "app")

    function.reconcile("cache/app", "app", PULL_THROUGH_CACHE_REPOSITORIES="cache/*")

    assert "ecr:BatchImportUpstreamImage" in str(ecr.get_policy("cache/app"))
    assert "ecr:BatchImportUpstreamImage" not in str(ecr.get_policy("app"))


def test_a_removal_that_leaves_the_policy_too_long_is_reported_with_the_length_alone(
    ecr: FakeEcr, function: Function
) -> None:
    accounts = push(*(f"{number:012}" for number in range(1, 321)))  # ECR stores them as longer ARNs
    ecr.create_repository("app", policy=document(grant(A, CI), accounts))

    reason = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))["reason"]

    assert "characters and ECR allows" in reason
    assert "Find the principal" not in reason


def test_the_write_for_a_proof_keeps_a_policy_that_would_lose_its_last_statement() -> None:
    only_ours = document(grant("AROAEXAMPLEOFADELETED"))

    assert Planner((), remove_unlisted=False).plan_without_new_roles(only_ours, ()) is only_ours


class TestTheDeadline:
    def test_is_met_if_ecr_never_responds(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.RESET] * 100)
        function.let_calls_take(0.3, ecr)

        report = function.reconcile(seconds=2)

        assert "ECR did not answer" in repository_details(report)["reason"]
        assert function.clock < 2

    def test_is_not_exceeded_by_backoff_delays(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 100)

        assert outcome(function.reconcile(seconds=2)) == "failed"
        assert function.clock == pytest.approx(1.5)  # a quarter of the time is reserved

    def test_during_a_request_fails_only_the_repository_in_flight(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("fine", "stuck", "also-fine")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 100, repository="stuck")

        report = function.reconcile("fine", "stuck", "also-fine", seconds=2)

        assert report.response()["outcomes"] == {"attached": 2, "failed": 1}
        with pytest.raises(
            RepositoriesFailed, match=r"^1 of 3 repositories failed: stuck: no attempt succeeded"
        ):
            report.raise_for_failures()


def test_each_call_has_a_permit_for_a_read_or_a_write_and_reports_its_result(ecr: FakeEcr) -> None:
    recorded: list[str] = []

    class Recorder(RateLimiter):
        def acquire(self) -> Permit:
            recorded.append("acquire")
            return super().acquire()

        def acquire_for_write(self) -> Permit:
            recorded.append("acquire for write")
            return super().acquire_for_write()

        def on_success(self, permit: Permit) -> None:
            recorded.append("write served" if permit.write else "read served")

        def on_throttle(self, permit: Permit) -> None:
            recorded.append("write throttled" if permit.write else "read throttled")

    ecr.create_repository("app")
    ecr.inject_faults(WRITE, Fault.THROTTLED)

    assert outcome(Function(ecr, Registry(ecr.client(), Recorder())).reconcile()) == "attached"
    assert recorded == [
        *("acquire", "read served", "acquire for write", "write throttled"),
        *("acquire", "read served", "acquire for write", "write served"),
    ]


def test_concurrent_reconciliations_adapt_to_throttling_and_all_succeed(ecr: FakeEcr) -> None:
    names = [f"app-{number}" for number in range(300)]
    ecr.create_repository(*names, policy=document(grant(A)))
    ecr.buckets[READ] = TokenBucket(rate=60, burst=60)

    report = Function(ecr, Registry(ecr.client())).reconcile(*names)

    assert report.response()["outcomes"] == {"unchanged": 300}
    assert ecr.throttled < 150


def test_a_permanent_error_is_not_retried(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository("app")
    ecr.denied_operations.add(READ)

    assert "AccessDeniedException: not authorized" in repository_details(function.reconcile())["reason"]
    assert ecr.calls[READ] == 1


def test_a_failed_listing_raises_an_error_with_the_reason(ecr: FakeEcr, function: Function) -> None:
    ecr.denied_operations.add(LIST)

    with pytest.raises(RegistryError, match="DescribeRepositories: AccessDeniedException: not authorized"):
        function.reconcile("*")


def test_repositories_are_listed_with_the_largest_page_size(ecr: FakeEcr) -> None:
    ecr.create_repository(*(f"app-{number}" for number in range(1001)), policy=document(grant(A)))

    report = Function(ecr, Registry(ecr.client(), limiter_without_waits())).reconcile("*")

    assert report.response()["outcomes"] == {"unchanged": 1001}
    assert ecr.calls[LIST] == 2


@pytest.mark.parametrize(
    "text", ["no JSON", "[]", '{"Statement": 1}', '{"Statement": {"Condition": 1e99999999999999999999}}']
)
def test_an_invalid_policy_is_not_rewritten(
    ecr: FakeEcr, function: Function, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecr.create_repository("app", policy=FOREIGN_POLICY)
    monkeypatch.setattr(Registry, "get_policy", lambda *_: text)

    details = repository_details(function.reconcile())

    assert details["outcome"] == "failed"
    assert details["reason"].startswith(("the policy ", '"Statement" in the policy '))
    assert ecr.calls[WRITE] == 0
