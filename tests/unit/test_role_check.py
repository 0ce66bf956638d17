"""The role check: ECR is asked which roles exist, and no more calls are made than that takes."""

import inspect
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pytest

from devstack.fake_ecr import READ, WRITE, EcrError, FakeEcr, Fault, normalized
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.reconcile.role_check import RoleCheck
from handler.report.report import Report, RepositoriesFailed
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function, cloudtrail_event
from tests.unit.policies import CI, DENY, FOREIGN_POLICY, ROLES, VENDOR, A, B, C, document, grant, push
from tests.unit.virtual_time import limiter_without_waits

ROLES_40 = ROLES[:40]
IMAGE_PUSHED = {
    "detail-type": "ECR Image Action",
    "source": "aws.ecr",
    "account": "111122223333",
    "region": "us-east-1",
    "detail": {"result": "SUCCESS", "action-type": "PUSH", "repository-name": "app"},
}


type Log = Callable[[], list[dict[str, Any]]]


class Calls(NamedTuple):
    reads: int
    writes: int
    checks: int


def calls(ecr: FakeEcr) -> Calls:
    """Count the calls so far: reads and writes in users' repositories, and role checks."""
    users = [operation for operation, name, _ in ecr.call_log if name != ROLE_CHECK_REPOSITORY]
    checks = [operation for operation, name, _ in ecr.call_log if name == ROLE_CHECK_REPOSITORY]
    assert set(checks) <= {WRITE}
    return Calls(users.count(READ), users.count(WRITE), len(checks))


def calls_of(ecr: FakeEcr, function: Function, *names: str) -> Calls:
    """Reconcile, and count the calls of that alone."""
    ecr.call_log.clear()
    function.reconcile(*names)
    return calls(ecr)


def missing(report: Report) -> list[str]:
    listed = cast("list[dict[str, str]]", report.response().get("missing_roles", []))
    return [each["role"] for each in listed]


class TestTheNumberOfCalls:
    def test_of_a_new_repository_is_a_read_and_a_write_and_of_a_settled_one_a_read(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = ROLES_40
        ecr.create_repository("app")

        assert calls_of(ecr, function) == (1, 1, 0)
        assert calls_of(ecr, function) == (1, 0, 0)

    def test_for_one_missing_role_among_granted_ones_is_one_check_that_holds_for_45_seconds(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = ROLES_40
        ecr.create_repository("app", policy=document(grant(*ROLES_40[:-1])))
        ecr.delete_role(ROLES_40[-1])

        assert calls_of(ecr, function) == (2, 1, 1)
        function.now += 44
        assert calls_of(ecr, function) == (1, 0, 0)
        function.now += 2
        assert calls_of(ecr, function) == (2, 1, 1)

    def test_does_not_depend_on_how_long_lambda_freezes_the_process(self) -> None:
        # Only the clock of the day is sure to go on meanwhile.
        assert inspect.signature(RoleCheck).parameters["clock"].default is time.time

    def test_for_ten_missing_roles_is_one_check_for_each_role(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = ROLES_40
        ecr.create_repository("app")
        for role in ROLES_40[::4]:
            ecr.delete_role(role)

        assert calls_of(ecr, function) == (2, 2, 40)
        assert ecr.get_policy("app") == normalized(
            document(grant(*(role for role in ROLES_40 if role in ecr.roles)))
        )

    def test_if_all_roles_are_missing_is_one_check_for_each_role_and_one_control(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = ROLES_40
        ecr.create_repository("app")
        for role in ROLES_40:
            ecr.delete_role(role)

        assert calls_of(ecr, function) == (2, 1, 40 + 1)

    def test_if_a_foreign_principal_is_rejected_is_one_check_for_each_role(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = ROLES[:10]
        ecr.create_repository("app", policy=document(push(VENDOR)))
        ecr.delete_role(VENDOR)

        assert calls_of(ecr, function) == (1, 1, 10)
        assert calls_of(ecr, function) == (1, 1, 0)

    def test_if_a_role_is_deleted_during_a_sweep_is_little_more_than_a_read_and_a_write_each(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        names = [f"app-{number:02}" for number in range(60)]
        function.roles = ROLES[:10]
        ecr.create_repository(*names)
        ecr.run_after(WRITE, *[lambda: None] * 29, lambda: ecr.delete_role(ROLES[4]))

        report = function.reconcile(*names)

        assert missing(report) == [ROLES[4]]
        assert sum(calls(ecr)) <= 2.2 * 60 + 2 * MAX_CONCURRENCY

    def test_of_a_sweep_with_a_rejected_foreign_principal_is_a_read_and_a_write_each(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        poisoned = [f"poisoned-{number:02}" for number in range(30)]
        names = [f"app-{number:03}" for number in range(200)]
        ecr.create_repository(*poisoned, policy=document(push(VENDOR)))
        ecr.create_repository(*names)
        ecr.delete_role(VENDOR)

        reads, writes, checks = calls_of(ecr, function, *poisoned, *names)

        assert (reads, writes) == (230, 230)
        assert checks == 1

    def test_of_a_sweep_of_settled_repositories_with_a_missing_role_is_a_read_each(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        names = [f"app-{number:03}" for number in range(200)]
        function.roles = (A, B)
        ecr.create_repository(*names, policy=document(grant(A)))
        ecr.delete_role(B)

        reads, writes, checks = calls_of(ecr, function, *names)

        assert reads <= 200 + MAX_CONCURRENCY
        assert writes <= MAX_CONCURRENCY
        assert checks == 1


class TestAMissingRole:
    @pytest.mark.parametrize(
        "event",
        [
            IMAGE_PUSHED,
            cloudtrail_event("CreateRepository", "app"),
            cloudtrail_event("SetRepositoryPolicy", "app"),
            cloudtrail_event("DeleteRepositoryPolicy", "app"),
            {"repositories": ["app"]},
            {"repositories": ["*"]},
            {"repositories": ["app"], "dry_run": True},
        ],
    )
    @pytest.mark.parametrize("mode", ["enforce", "plan"])
    @pytest.mark.parametrize("granted", [(A,), ()])
    def test_is_named_on_the_first_event_by_the_report_the_error_and_the_log(
        self,
        ecr: FakeEcr,
        function: Function,
        logged: Log,
        event: object,
        mode: str,
        granted: tuple[str, ...],
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(grant(*granted)) if granted else None)
        ecr.delete_role(B)

        invocation = function.invoke(event, MODE=mode)

        assert invocation.report
        assert missing(invocation.report) == [B]
        assert f"The role {B} is missing in 1 of 1 repositories: it does not exist" in str(invocation.error)
        assert [line["role"] for line in logged() if line["message"] == "role missing"] == [B]

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_leaves_a_repository_incomplete_with_a_reason(
        self, ecr: FakeEcr, function: Function, *, dry_run: bool
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app")
        ecr.delete_role(B)

        (details,) = cast(
            "list[dict[str, Any]]", function.reconcile(dry_run=dry_run).response()["repositories"]
        )

        assert details["outcome"] == "incomplete"
        assert details["added"] == {"AllowPull": [A]}
        assert details["missing_roles"] == [B]
        assert details["reason"].startswith(f"missing: {B}: it does not exist, or was created less than")

    def test_is_found_in_a_dry_run_without_a_write_in_users_repositories(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app")
        ecr.delete_role(B)

        function.reconcile(dry_run=True)

        assert calls(ecr) == (1, 0, 2)
        assert ecr.get_policy("app") is None

    def test_that_comes_into_being_is_granted_by_lambdas_first_retry(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app")
        ecr.delete_role(B)
        function.reconcile()

        ecr.create_role(B)
        function.now += 60
        function.reconcile().raise_for_failures()

        assert ecr.get_policy("app") == normalized(document(grant(A, B)))

    def test_of_which_the_policy_shows_the_arn_is_not_called_missing(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        """The role was created again, and another system granted it, while the answer still holds."""
        function.roles = (A, B)
        ecr.create_repository("app")
        ecr.delete_role(B)
        function.reconcile()
        ecr.create_role(B)
        ecr.set_policy("app", document(grant(A, B)))

        report = function.reconcile()

        assert report.response()["outcomes"] == {"unchanged": 1}

    def test_without_space_does_not_take_the_space_of_another(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B, C)
        used = len('{"Version":"2012-10-17","Statement":[]}') + 2 * len(str(document(grant(A)))) // 2
        ecr.create_repository("app", policy=document(push("444444444444", sid="x" * (10_240 - used - 290))))
        ecr.delete_role(A)
        ecr.delete_role(B)

        report = function.reconcile()

        (details,) = cast("list[dict[str, Any]]", report.response()["repositories"])
        assert details["missing_roles"] == [A, B]
        assert details["added"] == {"AllowPull": [C]}


class TestAPolicyWithoutSpaceForARole:
    @pytest.fixture(autouse=True)
    def policy_with_space_for_a_short_role(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_role(short := "arn:aws:iam::444444444444:role/s")
        used = len(json.dumps(document(push("444444444444", sid=""), grant(short)), separators=(",", ":")))
        ecr.create_repository("app", policy=document(push("444444444444", sid="x" * (10_240 - used - 35))))
        function.roles = (A, short)

    def reason(self, function: Function, *, dry_run: bool = False) -> str:
        (details,) = cast(
            "list[dict[str, Any]]", function.reconcile(dry_run=dry_run).response()["repositories"]
        )
        assert details["outcome"] == "incomplete"
        assert details["added"] == {"AllowPull": ["arn:aws:iam::444444444444:role/s"]}
        return str(details["reason"])

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_is_no_reason_if_the_role_is_missing(
        self, ecr: FakeEcr, function: Function, *, dry_run: bool
    ) -> None:
        ecr.delete_role(A)

        assert self.reason(function, dry_run=dry_run).startswith(f"missing: {A}: it does not exist")

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_is_the_reason_if_the_role_exists(self, function: Function, *, dry_run: bool) -> None:
        assert self.reason(function, dry_run=dry_run).startswith(
            f"no space for {A}: the policy would have 10,"
        )

    def test_costs_one_check_for_that_role(self, ecr: FakeEcr, function: Function) -> None:
        assert calls_of(ecr, function) == (1, 1, 1)
        assert calls_of(ecr, function) == (1, 0, 0)

    def test_gains_the_other_roles_even_if_the_check_fails(self, ecr: FakeEcr, function: Function) -> None:
        ecr.delete_repository(ROLE_CHECK_REPOSITORY)

        (details,) = cast("list[dict[str, Any]]", function.reconcile().response()["repositories"])

        assert details["added"] == {"AllowPull": ["arn:aws:iam::444444444444:role/s"]}
        assert details["reason"].startswith("the role check failed")


class TestACheckThatFails:
    @pytest.fixture(autouse=True)
    def missing_role(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.create_repository("app")
        ecr.delete_role(B)

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_because_its_repository_is_gone_names_the_command_that_restores_it_and_no_role(
        self, ecr: FakeEcr, function: Function, *, dry_run: bool
    ) -> None:
        ecr.delete_repository(ROLE_CHECK_REPOSITORY)

        report = function.reconcile(dry_run=dry_run)

        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        assert f"aws ecr create-repository --repository-name {ROLE_CHECK_REPOSITORY}" in str(caught.value)
        assert B not in str(report.response())

    def test_for_a_permission_gives_that_reason_and_names_no_role(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        denied = EcrError("AccessDeniedException", "not authorized to perform: ecr:SetRepositoryPolicy")
        ecr.inject_faults(WRITE, *[denied] * 9, repository=ROLE_CHECK_REPOSITORY)

        report = function.reconcile()

        with pytest.raises(RepositoriesFailed, match=r"the role check failed: .*AccessDeniedException"):
            report.raise_for_failures()
        assert B not in str(report.response())

    def test_because_ecr_accepts_no_policy_there_calls_no_role_missing(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        rejected = EcrError("InvalidParameterException", "Principal not found")
        ecr.inject_faults(WRITE, *[rejected] * 9, repository=ROLE_CHECK_REPOSITORY)

        report = function.reconcile()

        with pytest.raises(RepositoriesFailed, match="ECR accepts no policy in the role check's repository"):
            report.raise_for_failures()
        assert B not in str(report.response())

    def test_because_ecr_accepts_no_policy_there_does_not_stop_repositories_without_a_rejection(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        rejected = EcrError("InvalidParameterException", "Principal not found")
        ecr.inject_faults(WRITE, *[rejected] * 99, repository=ROLE_CHECK_REPOSITORY)
        ecr.create_role(B)
        ecr.create_repository("poisoned", policy=document(push(VENDOR)))
        ecr.delete_role(VENDOR)
        names = [f"app-{number:02}" for number in range(60)]
        ecr.create_repository(*names)

        report = function.reconcile("poisoned", *names)

        assert report.response()["outcomes"] == {"failed": 1, "attached": 60}
        assert missing(report) == []

    def test_is_not_repeated_for_each_repository_of_a_sweep(self, ecr: FakeEcr, function: Function) -> None:
        names = [f"app-{number:02}" for number in range(60)]
        ecr.create_repository(*names)
        ecr.delete_repository(ROLE_CHECK_REPOSITORY)

        assert calls_of(ecr, function, *names) == (60, 60, 1)

    @pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.SERVER_ERROR, Fault.RESET])
    def test_for_a_moment_is_repeated(self, ecr: FakeEcr, function: Function, fault: Fault) -> None:
        ecr.inject_faults(WRITE, fault, fault, repository=ROLE_CHECK_REPOSITORY)

        report = function.reconcile()

        assert [
            each["role"] for each in cast("list[dict[str, str]]", report.response()["missing_roles"])
        ] == [B]

    def test_until_the_deadline_interrupts_the_repository_and_starts_no_further_call(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.seconds_per_call = 1
        ecr.inject_faults(WRITE, *[Fault.THROTTLED] * 99, repository=ROLE_CHECK_REPOSITORY)

        report = function.reconcile(timeout=20)

        with pytest.raises(RepositoriesFailed, match=r"no attempt succeeded in time: .*ThrottlingException"):
            report.raise_for_failures()
        assert function.elapsed() < 1_000 + 20

    def test_takes_an_ordinary_permit_of_the_rate_limiter(self, ecr: FakeEcr, function: Function) -> None:
        limiter = limiter_without_waits()
        writes = itertools.count()
        acquire = limiter.acquire_for_write
        limiter.acquire_for_write = lambda: (next(writes), acquire())[1]  # type: ignore[method-assign]
        function.registry = Registry(ecr.client(), limiter)

        function.reconcile()

        assert calls(ecr) == (2, 2, 2)
        assert next(writes) == 2


class TestARepositoryForRoleChecks:
    """Of this stack or another: it is outside every scope."""

    OTHER = "ecr-allow-pull-role-check/11111111-1111-4111-8111-111111111111"

    @pytest.mark.parametrize("name", [ROLE_CHECK_REPOSITORY, OTHER])
    @pytest.mark.parametrize("event", ["CreateRepository", "SetRepositoryPolicy", "DeleteRepositoryPolicy"])
    def test_is_not_reconciled_for_an_event(
        self, ecr: FakeEcr, function: Function, name: str, event: str
    ) -> None:
        ecr.create_repository(self.OTHER)

        invocation = function.invoke(cloudtrail_event(event, name))

        assert invocation.answer
        assert invocation.answer["outcomes"] == {"out_of_scope": 1}
        assert not ecr.calls

    def test_is_not_reconciled_by_its_name_or_a_pattern(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(self.OTHER, "app")

        report = function.reconcile(self.OTHER, "*", "ecr-allow-pull-role-check/*")

        assert report.response()["outcomes"] == {"out_of_scope": 1, "attached": 1}
        assert ecr.get_policy(self.OTHER) is None


class TestARecreatedRole:
    def test_is_granted_again_and_counts_as_drift(
        self, ecr: FakeEcr, function: Function, logged: Log, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.delete_role(A)
        ecr.create_role(A)

        report = function.reconcile()

        assert ecr.get_policy("app") == normalized(document(grant(A)))
        assert report.response()["recreated"] == [{"role": A, "repositories": 1}]
        assert '"DriftCorrected":[1' in capsys.readouterr().out
        assert [line["message"] for line in logged()] == ["drift corrected", "report"]

    def test_is_not_reported_if_more_roles_are_added_than_ids_leave(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.delete_role(A)
        ecr.create_role(A)

        report = function.reconcile()

        assert report.response()["outcomes"] == {"attached": 1}
        assert "recreated" not in report.response()

    def test_is_not_reported_for_a_deleted_user_or_another_grant(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        user = "arn:aws:iam::444444444444:user/someone"
        ecr.create_role(user)
        describe = grant(CI, sid="AllowDescribeImages") | {"Action": "ecr:DescribeImages"}
        ecr.create_repository("app", policy=document(grant(user), describe))
        ecr.delete_role(user)
        ecr.delete_role(CI)

        report = function.reconcile()

        assert "recreated" not in report.response()
        assert report.response()["outcomes"] == {"attached": 1}


class TestTwoStacksWithEqualSettings:
    @pytest.mark.parametrize("mode", ["enforce", "plan"])
    @pytest.mark.parametrize("remove_unlisted", ["true", "false"])
    def test_and_a_missing_role_write_nothing_that_changes_nothing(
        self, ecr: FakeEcr, mode: str, remove_unlisted: str
    ) -> None:
        """Each write of a stack is an event for the other, and Lambda retries each failure twice."""
        settings = {"MODE": mode, "REMOVE_UNLISTED_ROLES": remove_unlisted}
        ecr.create_repository("app", policy=document(DENY, grant(CI)))
        ecr.delete_role(B)
        stacks = [Function(ecr, roles=(A, B), settings=settings) for _ in range(2)]
        events = [(stack, cloudtrail_event("CreateRepository", "app")) for stack in stacks]
        invocations = 0
        while events:
            stack, event = events.pop(0)
            for _ in range(3):
                invocations += 1
                before = ecr.get_policy("app")
                written = len(served_writes(ecr))
                invocation = stack.invoke(event)
                if len(served_writes(ecr)) > written:
                    assert ecr.get_policy("app") != before
                    (other,) = (each for each in stacks if each is not stack)
                    events.append((other, cloudtrail_event("SetRepositoryPolicy", "app")))
                if not invocation.error:
                    break
                for each in stacks:
                    each.now += 60

        assert invocations <= 9
        assert len(served_writes(ecr)) == (1 if mode == "enforce" else 0)


def served_writes(ecr: FakeEcr) -> list[str | None]:
    return [
        name
        for operation, name, became in ecr.call_log
        if operation == WRITE and became == "served" and name != ROLE_CHECK_REPOSITORY
    ]


def test_a_rejected_foreign_principal_is_named_with_its_statement_and_id(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository("app", policy=document(push(VENDOR)))
    deleted_id = ecr.delete_role(VENDOR)

    with pytest.raises(RepositoriesFailed, match=f'statement "Push" names {deleted_id}'):
        function.reconcile().raise_for_failures()
    assert ecr.calls[WRITE] == 1 + 1


def test_a_policy_that_ecr_itself_finds_too_long_fails_with_that_reason(
    ecr: FakeEcr, function: Function
) -> None:
    """ECR may count otherwise than the function does."""
    ecr.create_repository("app", policy=FOREIGN_POLICY)
    ecr.inject_faults(WRITE, EcrError("InvalidParameterException", "'PolicyText' length must be <= 10240"))

    with pytest.raises(RepositoriesFailed, match="'PolicyText' length must be <= 10240"):
        function.reconcile().raise_for_failures()
    assert calls(ecr) == (1, 1, 0)


def test_a_missing_role_does_not_hide_a_rejected_foreign_principal(ecr: FakeEcr, function: Function) -> None:
    function.roles = (A, B)
    ecr.create_repository("app", policy=document(push(VENDOR)))
    deleted_id = ecr.delete_role(VENDOR)
    ecr.delete_role(B)

    report = function.reconcile()

    assert missing(report) == [B]
    with pytest.raises(RepositoriesFailed, match=f'statement "Push" names {deleted_id}'):
        report.raise_for_failures()
    assert calls(ecr) == (2, 2, 2)


def test_a_missing_role_without_space_does_not_cost_its_grant_the_last_principals(
    ecr: FakeEcr, function: Function
) -> None:
    """The dry run of the same policy says so too."""
    ecr.create_role(short := "arn:aws:iam::444444444444:role/s")
    used = len(json.dumps(document(push("444444444444", sid=""), grant(short)), separators=(",", ":")))
    filler = push("444444444444", sid="x" * (10_240 - used - 35))
    ecr.create_repository("app", policy=document(filler, grant(short)))
    ecr.delete_role(A)
    before = ecr.get_policy("app")

    planned = function.reconcile(dry_run=True, REMOVE_UNLISTED_ROLES="true").response()
    function.start_new_process()
    written = function.reconcile(REMOVE_UNLISTED_ROLES="true").response()

    assert ecr.get_policy("app") == before
    assert planned["not_removed"] == written["not_removed"]
    assert [each["role"] for each in cast("list[dict[str, str]]", written["missing_roles"])] == [A]


def test_the_id_of_a_deleted_role_is_not_reported_as_access_that_stays(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository("app", policy=document(grant(CI)))
    ecr.delete_role(CI)
    ecr.delete_role(A)

    assert "not_removed" not in function.reconcile(REMOVE_UNLISTED_ROLES="true").response()
