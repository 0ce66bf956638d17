"""The reconciler, called through the real SDK against a fake ECR with faults and concurrent writers."""

import time
from collections.abc import Mapping
from typing import Any, cast

import pytest

from devstack.fake_ecr import APPLIED, LIST, READ, WRITE, FakeEcr, Fault, TokenBucket, normalized
from handler.ecr.errors import RegistryError
from handler.ecr.rate_limiter import Permit, RateLimiter
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.policy.document import render
from handler.policy.grants import PULL, Grant
from handler.policy.plan import plan
from handler.report.report import Report, RepositoriesFailed
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function, cloudtrail_event
from tests.unit.policies import CI, DENY, FOREIGN_POLICY, A, B, C, Policy, document, grant, push
from tests.unit.test_role_check import Log, calls
from tests.unit.virtual_time import limiter_without_waits

DESCRIBE = {"Sid": "AllowDescribeImages", "Action": ["ecr:DescribeImages"]}
OLDER_MESSAGE = "Invalid parameter at 'PolicyText': 'Invalid repository policy provided'"
OUTSIDE = {"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}
NOT_APPLIED = [fault for fault in Fault if fault not in APPLIED]
CREATED = cloudtrail_event("CreateRepository", "app")


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
        function.seconds_per_delay = 1
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

    @pytest.mark.parametrize("missing", [(), (B,)])
    @pytest.mark.parametrize("fault", Fault)
    def test_every_write_of_ours_directly_follows_its_read(
        self, ecr: FakeEcr, function: Function, fault: Fault, missing: tuple[str, ...]
    ) -> None:
        function.roles = (A, B)
        for role in missing:
            ecr.delete_role(role)
        ecr.create_repository("app", policy=FOREIGN_POLICY)
        ecr.inject_faults(WRITE, fault, fault, repository="app")

        function.reconcile()

        sent = [(operation, name) for operation, name, _ in ecr.call_log]
        writes = [number for number, call in enumerate(sent) if call == (WRITE, "app")]
        assert len(writes) >= 1 + len(missing)
        assert all(sent[number - 1] == (READ, "app") for number in writes)


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
        assert calls(ecr) == (2, 1, 0)

    @pytest.mark.parametrize("fault", [Fault.RESET_BUT_APPLIED, Fault.TIMEOUT_BUT_APPLIED])
    def test_over_the_network_is_not_repeated_either(self, fault: Fault) -> None:
        with FakeEcr().serving() as ecr:
            ecr.create_role(A)
            ecr.create_repository("app")
            ecr.inject_faults(WRITE, fault)
            registry = Registry(ecr.client(read_timeout=0.3), limiter_without_waits())

            assert outcome(Function(ecr, registry=registry).reconcile()) == "attached"
            assert calls(ecr) == (2, 1, 0)

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
        assert calls(ecr) == (2, 2, 0)

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

    def test_is_not_reported_as_a_change_if_the_next_read_fails_too(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(DENY))
        ecr.inject_faults(WRITE, Fault.SERVER_ERROR_BUT_APPLIED)
        ecr.run_after(WRITE, lambda: ecr.inject_faults(READ, *[Fault.SERVER_ERROR] * 5))

        details = repository_details(function.reconcile())

        assert details["outcome"] == "failed"
        assert "GetRepositoryPolicy: ServerException: out of order" in details["reason"]
        assert "added" not in details
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

        assert calls(ecr) == (21, 1, 0)

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
        with pytest.raises(RepositoriesFailed, match=f"The role {missing} is missing in 1 of 1 .*Create it"):
            report.raise_for_failures()

    def test_is_recognized_by_the_older_error_message(self, ecr: FakeEcr, function: Function) -> None:
        ecr.principal_not_found_message = OLDER_MESSAGE
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")

        details = repository_details(function.reconcile())

        assert details["added"] == {"AllowPull": [A]}
        assert details["missing_roles"] == [B]

    @pytest.mark.parametrize("message", [None, OLDER_MESSAGE])
    def test_is_not_named_as_a_cause_if_each_role_exists(
        self, ecr: FakeEcr, function: Function, message: str | None
    ) -> None:
        ecr.principal_not_found_message = message or ecr.principal_not_found_message
        ecr.create_repository("app", policy=document(push("555555555555")))
        ecr.closed_accounts.add("555555555555")

        details = repository_details(function.reconcile())

        assert details["outcome"] == "failed"
        assert "missing_roles" not in details
        assert A not in details["reason"]
        assert details["reason"].endswith(
            "Find the principal in the repository's policy that no longer exists, or the part of a foreign "
            "statement that ECR does not accept"
        )
        assert ("a principal does not exist, or ECR does not accept another part" in details["reason"]) == (
            message == OLDER_MESSAGE
        )

    def test_is_logged_once_per_sweep_and_rejected_once_per_repository_in_flight(
        self, ecr: FakeEcr, function: Function, logged: Log
    ) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        names = [f"app-{number:03}" for number in range(200)]
        ecr.create_repository(*names, policy=FOREIGN_POLICY)

        report = function.reconcile(*names)

        answer = report.response()
        assert answer["outcomes"] == {"incomplete": 200}
        assert [line["message"] for line in logged()].count("role missing") == 1
        (missing,) = cast("list[dict[str, Any]]", answer["missing_roles"])
        assert (missing["role"], missing["repositories"]) == (B, 200)
        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        assert str(caught.value).count(B) == 1
        # That of each reconciliation in flight, and that of the role check.
        rejected = [name for _, name, became in ecr.call_log if became == "InvalidParameterException"]
        assert len(rejected) <= MAX_CONCURRENCY + 1
        assert rejected.count(ROLE_CHECK_REPOSITORY) == 1

    def test_fails_every_reconciliation_until_its_creation_and_the_log_names_the_repository(
        self, ecr: FakeEcr, function: Function, logged: Log
    ) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")
        function.reconcile()
        written = ecr.calls[WRITE]

        report = function.reconcile()

        assert repository_details(report)["outcome"] == "incomplete"
        assert repository_details(report)["missing_roles"] == [B]
        assert "added" not in repository_details(report)
        assert ecr.calls[WRITE] == written
        failed = [line for line in logged() if line["message"] == "reconcile failed"]
        assert [line["repository"] for line in failed] == ["app", "app"]
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

        assert outcome(report) == "failed"
        assert ecr.get_policy("app") == (before and normalized(before))
        assert (WRITE, "app", "served") not in ecr.call_log
        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        assert all(role in str(caught.value) for role in roles)
        assert "Create it, or take it out of WorkerRoleArns" in str(caught.value)

    @pytest.mark.parametrize("foreign", [(), (push(CI),)])
    def test_prevents_the_removal_of_unlisted_roles_if_no_listed_role_exists(
        self, ecr: FakeEcr, function: Function, foreign: tuple[Policy, ...]
    ) -> None:
        ecr.delete_role(A)
        before = document(*foreign, grant(B))
        ecr.create_repository("app", policy=before)

        details = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))

        assert ecr.get_policy("app") == normalized(before)
        assert details["outcome"] == "failed"
        assert details["missing_roles"] == [A]
        assert details["unlisted"] == {"AllowPull": [B]}
        assert details["not_removed"] == ["AllowPull"]

    def test_prevents_no_removal_if_unlisted_roles_are_not_to_be_removed(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.delete_role(A)
        ecr.create_repository("app", policy=document(grant(B)))

        report = function.reconcile()

        assert repository_details(report)["missing_roles"] == [A]
        assert repository_details(report)["unlisted"] == {"AllowPull": [B]}
        assert "not_removed" not in repository_details(report)
        assert "not_removed" not in report.response()

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

    def test_prevents_removals_only_for_a_grant_without_an_existing_role(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.delete_role(C)
        ecr.create_repository("app", policy=document(grant(A, B), grant(B) | DESCRIBE))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true", DESCRIBE_ROLE_ARNS=C)

        assert repository_details(report)["removed"] == {"AllowPull": [B]}
        assert repository_details(report)["not_removed"] == ["AllowDescribeImages"]

    def test_prevents_the_removal_of_the_only_statement_even_if_its_grant_has_no_configured_roles(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.delete_role(A)
        ecr.create_repository("app", policy=document(grant(B) | DESCRIBE))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert ecr.get_policy("app") == normalized(document(grant(B) | DESCRIBE))
        assert repository_details(report)["not_removed"] == ["AllowDescribeImages"]

    def test_does_not_prevent_the_removal_of_unlisted_roles_if_another_listed_role_exists(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, C)
        ecr.delete_role(C)
        ecr.create_repository("app", policy=document(grant(A, B)))

        report = function.reconcile(REMOVE_UNLISTED_ROLES="true")

        assert ecr.get_policy("app") == normalized(document(grant(A)))
        assert repository_details(report)["outcome"] == "incomplete"
        assert repository_details(report)["removed"] == {"AllowPull": [B]}
        assert repository_details(report)["missing_roles"] == [C]

    @pytest.mark.parametrize("missing", [(), (C,)])
    def test_is_no_reason_to_keep_unlisted_roles_if_a_configured_role_exists(
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
        ecr.create_repository("poisoned", policy=document(push(CI)))
        ecr.delete_role(CI)
        names = [f"app-{number:02}" for number in range(40)]
        ecr.create_repository(*names)

        report = function.reconcile("poisoned", *names)

        assert report.response()["outcomes"] == {"failed": 1, "attached": 40}
        assert "missing_roles" not in report.response()

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
        assert "missing_roles" not in report.response()

    def test_is_not_assumed_if_a_foreign_statement_is_fixed_during_reconciliation(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(push(CI)))
        ecr.delete_role(CI)
        ecr.run_after(WRITE, lambda: None, lambda: ecr.set_policy("app", FOREIGN_POLICY))

        report = function.reconcile()

        assert "missing_roles" not in report.response()
        assert "was deleted" in repository_details(report)["reason"]

        function.reconcile().raise_for_failures()

        assert ecr.get_policy("app") == normalized(document(*FOREIGN_POLICY["Statement"], grant(A, B)))

    def test_is_found_in_two_reads_and_two_writes_under_continuous_concurrent_writes(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(C)
        ecr.create_repository("app")
        ecr.run_after(WRITE, *[lambda: ecr.delete_policy("app")] * 1_000)

        report = function.reconcile("app")

        assert repository_details(report)["missing_roles"] == [C]
        assert calls(ecr) == (2, 2, 3)

    def test_is_named_even_if_ecr_accepts_the_id_of_a_deleted_role(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.rejects_deleted_principals = False
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(push(CI)))
        ecr.delete_role(CI)
        ecr.delete_role(B)

        for _ in range(2):
            with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing"):
                function.reconcile().raise_for_failures()

    def test_does_not_undo_concurrent_writes(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(B)
        ecr.create_repository("app")
        first, second = (document(push(CI, sid=sid)) for sid in ("First", "Second"))
        of_the_checks = [lambda: None] * 3
        ecr.run_after(
            WRITE,
            lambda: ecr.set_policy("app", first),
            *of_the_checks,
            lambda: ecr.set_policy("app", second),
        )

        added = repository_details(function.reconcile())["added"]
        assert added == {"AllowPull": [A, C]}
        assert ecr.get_policy("app") == normalized(second)

        function.reconcile()
        assert ecr.get_policy("app") == normalized(document(push(CI, sid="Second"), grant(A, C)))


class TestTheIdOfADeletedRole:
    @pytest.mark.parametrize("rejected", [True, False])
    def test_leaves_our_statement_with_the_next_write_whether_or_not_ecr_accepts_it(
        self, ecr: FakeEcr, function: Function, *, rejected: bool
    ) -> None:
        ecr.rejects_deleted_principals = rejected
        ecr.create_repository("app", policy=document(grant(B, CI)))
        deleted_id = ecr.delete_role(B)

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A, CI)))
        assert repository_details(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": {"AllowPull": [A]},
            "removed": {"AllowPull": [deleted_id]},
            "recreated": [A],
            "unlisted": {"AllowPull": [CI]},
        }
        assert calls(ecr) == (1, 1, 0)

    @pytest.mark.parametrize("rejected", [True, False])
    def test_leaves_our_statement_even_if_a_role_is_missing(
        self, ecr: FakeEcr, function: Function, *, rejected: bool
    ) -> None:
        ecr.rejects_deleted_principals = rejected
        function.roles = (A, C)
        ecr.create_repository("app", policy=document(grant(B, CI)))
        ecr.delete_role(B)
        ecr.delete_role(C)

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A, CI)))
        assert outcome(report) == "incomplete"
        with pytest.raises(RepositoriesFailed, match=C):
            report.raise_for_failures()

    @pytest.mark.parametrize("foreign", [(), (push(CI),)])
    def test_stays_if_every_configured_role_is_missing(
        self, ecr: FakeEcr, function: Function, foreign: tuple[Policy, ...]
    ) -> None:
        ecr.create_repository("app", policy=document(*foreign, grant(B)))
        deleted_id = ecr.delete_role(B)
        ecr.delete_role(A)

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(*foreign, grant(deleted_id)))
        assert repository_details(report)["missing_roles"] == [A]
        assert "removed" not in repository_details(report)

    def test_makes_space_for_a_role(self, ecr: FakeEcr, function: Function) -> None:
        ecr.rejects_deleted_principals = False
        account = "arn:aws:iam::444444444444:root"
        with_id = plan(document(push(account, sid="")), [Grant(PULL, (ecr.roles[CI], A))]).policy
        others = push(account, sid="x" * (10_240 - len(render(with_id or {})) + 5))
        ecr.create_repository("app", policy=document(grant(CI), others))
        gone = ecr.delete_role(CI)

        assert outcome(function.reconcile()) == "attached"
        assert gone not in str(ecr.get_policy("app"))

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
        assert "missing_roles" not in report.response()

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
        ecr.create_repository("app", not_found_calls=4)

        assert function.invoke(CREATED).results["app"].outcome == "attached"

    def test_is_reported_as_gone_after_the_last_retry(self, ecr: FakeEcr, function: Function) -> None:
        report = function.invoke(CREATED).report

        assert report
        assert repository_details(report) == {"repository": "app", "outcome": "gone"}
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

        assert (WRITE, "app") not in [(operation, name) for operation, name, _ in ecr.call_log]
        sizes = r"10,\d{3} characters and ECR allows 10,240: shorten"
        with pytest.raises(RepositoriesFailed, match=f"no space for {A}: the policy would have {sizes}"):
            report.raise_for_failures()

    def padded(self, spare: int) -> Policy:
        """Return a policy that leaves space for one role and so many characters."""
        account = "arn:aws:iam::444444444444:root"
        granted = plan(document(push(account, sid="")), [Grant(PULL, (A,))]).policy
        return document(push(account, sid="x" * (10_240 - len(render(granted or {})) - spare)))

    def test_is_measured_against_the_exact_limit_of_ecr(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("fits", policy=self.padded(2))  # ECR returns a list of one as a string
        ecr.create_repository("fits-not", policy=self.padded(-3))

        report = function.reconcile("fits", "fits-not")

        assert report.response()["outcomes"] == {"attached": 1, "failed": 1}

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_has_space_for_an_existing_role_instead_of_missing_ones(
        self, ecr: FakeEcr, function: Function, *, dry_run: bool
    ) -> None:
        function.roles = (A, B, C)
        ecr.create_repository("app", policy=self.padded(10))
        ecr.delete_role(A)
        ecr.delete_role(B)

        details = repository_details(function.reconcile(dry_run=dry_run))

        assert details["outcome"] == "incomplete"
        assert details["added"] == {"AllowPull": [C]}
        assert details["missing_roles"] == [A, B]
        assert "no space" not in details["reason"]
        assert calls(ecr) == ((1, 0, 3) if dry_run else (2, 2, 3))

    def test_has_space_for_the_first_roles_in_their_order(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (B, A, C)
        ecr.create_repository("app", policy=self.padded(10))

        details = repository_details(function.reconcile())

        assert details["outcome"] == "incomplete"
        assert details["added"] == {"AllowPull": [B]}
        assert details["reason"].startswith(f"no space for {A}, {C}: the policy would have 10,")


class TestADenyStatement:
    def test_is_reported_and_the_grant_is_attached_anyway(
        self, ecr: FakeEcr, function: Function, logged: Log
    ) -> None:
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
        assert ("WARNING", "pull denied") in [(line["level"], line["message"]) for line in logged()]
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
        function.seconds_per_delay = 1

        assert outcome(function.reconcile()) == "attached"

    def test_of_throttled_calls_end_at_the_deadline_with_an_error(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.buckets[READ] = TokenBucket(rate=0, burst=0)

        report = function.reconcile(timeout=1)

        with pytest.raises(
            RepositoriesFailed, match=r"app: no attempt succeeded in time: .*ThrottlingException"
        ):
            report.raise_for_failures()

    @pytest.mark.parametrize("operation", [READ, WRITE])
    @pytest.mark.parametrize(
        "event",
        [
            {"repositories": ["app"]},
            {"repositories": ["app"], "dry_run": False},
            cloudtrail_event("CreateRepository", "app"),
            cloudtrail_event("SetRepositoryPolicy", "app"),
        ],
    )
    def test_of_throttled_calls_for_one_repository_end_after_a_minute_because_lambda_retries_the_event(
        self, ecr: FakeEcr, function: Function, event: object, operation: str
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(operation, *[Fault.THROTTLED] * 10_000)
        started = function.elapsed()

        invocation = function.invoke(event)

        assert 50 < function.elapsed() - started < 70
        assert isinstance(invocation.error, RepositoriesFailed)
        assert "app: no attempt succeeded in time: " in str(invocation.error)
        assert invocation.continuation is None

    @pytest.mark.parametrize("repositories", [["app", "other"], ["app*"]])
    def test_of_throttled_calls_for_several_repositories_take_the_time_of_the_invocation(
        self, ecr: FakeEcr, function: Function, repositories: list[str]
    ) -> None:
        ecr.create_repository("app", "other")
        ecr.inject_faults(WRITE, *[Fault.THROTTLED] * 10_000)
        started = function.elapsed()

        invocation = function.invoke({"repositories": repositories})

        assert 700 < function.elapsed() - started < 900
        assert isinstance(invocation.error, RepositoriesFailed)

    def test_of_throttled_calls_end_sooner_if_the_invocation_has_less_than_a_minute(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 10_000)
        started = function.elapsed()

        function.invoke({"repositories": ["app"]}, timeout=40)

        assert 20 < function.elapsed() - started < 40

    def test_use_exponential_backoff_with_a_maximum_and_jitter(
        self, ecr: FakeEcr, function: Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ecr.create_repository("app")
        runs: list[list[float]] = [[], []]
        for delays in runs:
            monkeypatch.setattr(function, "sleep", delays.append)
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


def test_a_grant_that_another_caller_removes_during_the_role_check_is_attached_again(
    ecr: FakeEcr, function: Function
) -> None:
    function.roles = (A, B, C)
    ecr.delete_role(C)
    ecr.create_repository("app", policy=document(grant(A)))
    ecr.run_before(READ, lambda: None, lambda: ecr.set_policy("app", FOREIGN_POLICY))

    details = repository_details(function.reconcile())

    assert details["outcome"] == "incomplete"
    assert details["added"] == {"AllowPull": [A, B]}
    assert ecr.get_policy("app") == normalized(document(*FOREIGN_POLICY["Statement"], grant(A, B)))


def test_a_deadline_that_passes_before_each_role_was_checked_is_named_as_the_reason(
    ecr: FakeEcr, function: Function
) -> None:
    function.roles = (A, B)
    ecr.delete_role(B)
    ecr.create_repository("app")
    ecr.run_before(WRITE, lambda: setattr(function, "now", function.now + 100))

    details = repository_details(function.reconcile(timeout=100))

    assert details["outcome"] == "failed"
    assert details["reason"] == (
        f"no attempt succeeded in time: there was no time to check whether {A} exists"
    )
    assert calls(ecr) == (1, 1, 0)


class TestARoleThatIsDeletedAfterTheCheck:
    def test_is_named_by_lambdas_first_retry_and_locks_nobody_else_out(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (B, A, C)
        ecr.delete_role(B)
        ecr.create_repository("app", policy=FOREIGN_POLICY)
        first_write, check_of_a = [lambda: None] * 2
        ecr.run_after(WRITE, first_write, check_of_a, lambda: ecr.delete_role(A))

        details = repository_details(function.reconcile())
        assert details["outcome"] == "failed"
        assert details["missing_roles"] == [B]
        assert "Principal not found" in details["reason"]

        function.now += 60
        details = repository_details(function.reconcile())
        assert details["outcome"] == "incomplete"
        assert details["missing_roles"] == [B, A]
        assert ecr.get_policy("app") == normalized(document(*FOREIGN_POLICY["Statement"], grant(C)))


class TestADryRun:
    def test_shows_the_removals_although_a_role_does_not_fit(self, ecr: FakeEcr, function: Function) -> None:
        long = f"arn:aws:iam::222222222222:role/{'path/' * 90}long"
        ecr.create_role(long)
        function.roles = (A, long)
        others = push(*(f"arn:aws:iam::{number:012}:root" for number in range(1, 290)))
        ecr.create_repository("app", policy=document(grant(CI), others))

        planned = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true", dry_run=True))
        written = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))

        assert written["outcome"] == "incomplete"
        assert f"no space for {long}" in written["reason"]
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
    assert details["reason"].startswith(f"no space for {long}: the policy would have")


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

    details = repository_details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))

    assert details["outcome"] == "incomplete"
    assert details["unlisted"] == {"AllowPull": [CI]}
    assert details["reason"].startswith("nothing removed: the policy would have ")
    assert "characters and ECR allows 10,240" in details["reason"]
    assert "Find the principal" not in details["reason"]
    assert ecr.calls[WRITE] == 0


class TestTheDeadline:
    def test_is_met_if_ecr_never_responds(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.RESET] * 100)
        function.seconds_per_call = 0.3
        started = function.elapsed()

        report = function.reconcile(timeout=2)

        assert "ECR did not answer" in repository_details(report)["reason"]
        assert function.elapsed() - started < 2

    def test_is_not_exceeded_by_backoff_delays(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 100)
        started = function.elapsed()

        assert outcome(function.reconcile(timeout=2)) == "failed"
        assert function.elapsed() - started == pytest.approx(1.5)  # a quarter of the time is reserved

    def test_during_a_request_fails_only_the_repository_in_flight(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("fine", "also-fine", "stuck")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 100, repository="stuck")

        report = function.reconcile("fine", "also-fine", "stuck", timeout=2)

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

    function = Function(ecr, registry=Registry(ecr.client(), Recorder()))
    assert function.invoke(CREATED).results["app"].outcome == "attached"
    assert recorded == [
        *("acquire", "read served", "acquire for write", "write throttled"),
        *("acquire", "read served", "acquire for write", "write served"),
    ]


def test_concurrent_reconciliations_adapt_to_throttling_and_all_succeed(
    ecr: FakeEcr, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function, "sleep", time.sleep)  # the rate limit counts in real time
    function.registry = Registry(ecr.client())
    names = [f"app-{number}" for number in range(300)]
    ecr.create_repository(*names, policy=document(grant(A)))
    ecr.buckets[READ] = TokenBucket(rate=200, burst=60)

    report = function.reconcile(*names)

    assert report.response()["outcomes"] == {"unchanged": 300}
    assert ecr.throttled < 90, ecr.throttled


def test_a_permanent_error_is_not_retried(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository("app")
    ecr.denied_operations.add(READ)

    assert "AccessDeniedException: not authorized" in repository_details(function.reconcile())["reason"]
    assert ecr.calls[READ] == 1


def test_a_failed_listing_raises_an_error_with_the_reason(ecr: FakeEcr, function: Function) -> None:
    ecr.denied_operations.add(LIST)

    with pytest.raises(RegistryError, match="DescribeRepositories: AccessDeniedException: not authorized"):
        function.reconcile("*")


def test_repositories_are_listed_with_the_largest_page_size(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository(*(f"app-{number}" for number in range(1001)), policy=document(grant(A)))

    report = function.reconcile("*")

    assert report.response()["outcomes"] == {"unchanged": 1001}
    assert ecr.calls[LIST] == 2


@pytest.mark.parametrize(
    "text",
    [
        *("no JSON", "[]", '{"Statement": 1}'),
        *(f'{{"Statement": {{"Condition": {number}}}}}' for number in ("1e99999999", "1.10", "1E2", "-0")),
    ],
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
