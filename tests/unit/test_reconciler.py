"""Checks when ECR pushes back: real calls to an ECR that behaves as the real one, with what befalls users."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest

from devstack.fake_ecr import APPLIED, LIST, READ, WRITE, FakeEcr, Fault, TokenBucket, normalized
from handler.policy import attach
from handler.policy_document import render
from handler.rate_limiter import RateLimiter
from handler.registry import MAX_CONCURRENCY, Registry, RegistryError
from handler.report import Report, RepositoriesFailed
from handler.request import Request
from handler.settings import Settings
from handler.sweep import Sweep

A, B, C = (f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "abc")
CI = "arn:aws:iam::444444444444:role/ci"
NOT_APPLIED = set(Fault) - APPLIED

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


THEIRS = document(push("arn:aws:iam::444444444444:root"))
DENY: Policy = {"Sid": "NoPulls", "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGet*"}
OUTSIDE = {"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}


@dataclass
class Function:
    """The checks of the function, at an ECR that pushes back."""

    ecr: FakeEcr
    registry: Registry
    roles: tuple[str, ...] = (A,)
    may_be_new: bool = False
    during_backoff: Callable[[], object] = lambda: None
    backoffs: int = 0

    def check(self, *names: str, dry_run: bool = False, seconds: float = 900, **settings: str) -> Report:
        environment = {"WORKER_ROLE_ARNS": ",".join(self.roles)} | settings
        started = time.monotonic()
        request = Request(names or ("app",), dry_run=dry_run, may_be_new=self.may_be_new)
        sweep = Sweep(
            request,
            Settings.from_environment(environment),
            self.registry,
            lambda: seconds - (time.monotonic() - started),
        )
        report = Report(request, dry_run=sweep.dry_run)
        for result in sweep.run():
            report.add(result)
        assert sweep.remaining is None
        return report

    def sleep(self, _: float) -> None:
        self.backoffs += 1
        self.during_backoff()


@pytest.fixture
def ecr() -> Iterator[FakeEcr]:
    with FakeEcr().serving() as ecr:
        ecr.create_role(A, B, C, CI)
        yield ecr


@pytest.fixture
def function(ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function(ecr, Registry(ecr.client(read_timeout=0.2), RateLimiter(sleep=lambda _: None)))
    monkeypatch.setattr("handler.retry.time.sleep", function.sleep)
    return function


def outcome(report: Report) -> str:
    return str(only(report)["outcome"])


def only(report: Report) -> Mapping[str, Any]:
    (details,) = cast("list[dict[str, Any]]", report.answer()["repositories"])
    return details


class TestAnotherWriter:
    def test_who_wrote_before_the_read_is_kept(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=THEIRS)

        assert outcome(function.check()) == "attached"
        assert ecr.get_policy("app") == normalized(document(*THEIRS["Statement"], grant(A)))

    @pytest.mark.parametrize("fault", Fault)
    def test_who_writes_while_we_back_off_is_kept_whatever_befell_our_write(
        self, ecr: FakeEcr, function: Function, fault: Fault
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, fault)
        function.during_backoff = lambda: ecr.set_policy("app", THEIRS)

        assert outcome(function.check()) == "attached"
        assert ecr.get_policy("app") == normalized(document(*THEIRS["Statement"], grant(A)))
        assert function.backoffs == 1

    def test_who_writes_during_each_of_many_backoffs_is_kept_each_time(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, *[Fault.THROTTLED] * 20)
        function.during_backoff = lambda: ecr.set_policy(
            "app", document(push(CI, sid=f"Number{function.backoffs}"))
        )

        function.check()

        assert ecr.get_policy("app") == normalized(document(push(CI, sid="Number20"), grant(A)))

    def test_who_deletes_the_policy_while_we_back_off_is_no_obstacle(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=THEIRS)
        ecr.inject_faults(WRITE, Fault.SERVER_ERROR)
        function.during_backoff = lambda: ecr.delete_policy("app")

        function.check()

        assert ecr.get_policy("app") == normalized(document(grant(A)))

    def test_who_writes_right_after_our_write_is_kept_by_the_next_check(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.run_after(WRITE, lambda: ecr.set_policy("app", THEIRS))

        function.check()
        assert ecr.get_policy("app") == normalized(THEIRS)

        function.check()
        assert ecr.get_policy("app") == normalized(document(*THEIRS["Statement"], grant(A)))

    def test_who_writes_between_the_read_and_the_write_is_lost_for_ecr_has_no_conditional_write(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.run_after(READ, lambda: ecr.set_policy("app", THEIRS))

        function.check()

        assert ecr.get_policy("app") == normalized(document(grant(A)))

    @pytest.mark.parametrize("fault", Fault)
    def test_has_no_call_of_ours_between_a_read_and_its_write(
        self, ecr: FakeEcr, function: Function, fault: Fault
    ) -> None:
        ecr.create_repository("app", policy=THEIRS)
        ecr.inject_faults(WRITE, fault, fault)

        function.check()

        calls = [operation for operation, _, _ in ecr.call_log]
        assert calls.count(WRITE) >= 1
        assert all(calls[place - 1] == READ for place, call in enumerate(calls) if call == WRITE)


class TestAWriteOfWhichTheAnswerIsLost:
    @pytest.mark.parametrize("fault", APPLIED)
    def test_is_reported_and_not_repeated_if_it_was_taken(
        self, ecr: FakeEcr, function: Function, fault: Fault
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, fault)

        report = function.check()

        assert only(report) == {"repository": "app", "outcome": "attached", "added": [A]}
        assert ecr.calls[WRITE] == 1

    @pytest.mark.parametrize("fault", NOT_APPLIED)
    def test_is_repeated_if_it_was_not(self, ecr: FakeEcr, function: Function, fault: Fault) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, fault)

        report = function.check()

        assert only(report) == {"repository": "app", "outcome": "attached", "added": [A]}
        assert ecr.calls == {READ: 2, WRITE: 2}

    def test_is_not_reported_if_it_was_not_taken_and_somebody_else_gave_the_grant(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, Fault.THROTTLED)
        function.during_backoff = lambda: ecr.set_policy("app", document(grant(A)))

        assert outcome(function.check()) == "unchanged"

    def test_hides_no_failure(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, Fault.SERVER_ERROR)

        def overwrite() -> None:
            ecr.set_policy("app", document(push(CI), grant(B)))
            ecr.delete_role(CI)

        function.during_backoff = overwrite

        with pytest.raises(RepositoriesFailed, match="was deleted"):
            function.check().raise_for_failures()

    def test_or_that_came_before_a_failure_is_told_with_it(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(C)
        ecr.create_repository("app", policy=document(DENY))
        ecr.run_after(WRITE, lambda: None, lambda: ecr.inject_faults(READ, *[Fault.SERVER_ERROR] * 6))

        report = function.check()

        told = only(report)
        assert (told["outcome"], told["added"]) == ("failed", [A])
        assert told["denied_by"]


class TestNoWriteHasNoReason:
    @pytest.mark.parametrize(
        "before",
        [
            None,
            THEIRS,
            document(grant(B, CI)),
            document(grant("222222222222")),
            document(push(CI), grant(B), push(CI, B, sid="Push"), grant(C, sid="AllowPull2")),
            document(grant(CI) | {"Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}}),
            document(push("*"), grant("*")),
        ],
    )
    def test_in_whatever_order_and_form_ecr_gives_the_policy_back(
        self, ecr: FakeEcr, function: Function, before: Policy | None
    ) -> None:
        function.roles = (A, B, C)
        ecr.create_repository("app", policy=before)
        function.check()

        for _ in range(20):
            assert outcome(function.check()) == "unchanged"

        assert ecr.calls == {READ: 21, WRITE: 1}

    @pytest.mark.parametrize("role", [A, CI])
    def test_when_a_role_in_our_statement_was_deleted_and_nothing_else_is_missing(
        self, ecr: FakeEcr, function: Function, role: str
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A, B, CI)))
        function.roles = tuple({A, B} - {role})
        ecr.delete_role(role)

        assert outcome(function.check()) == "unchanged"
        assert ecr.calls[WRITE] == 0


class TestARoleThatDoesNotExist:
    @pytest.mark.parametrize("before", [None, THEIRS, document(grant(CI))])
    @pytest.mark.parametrize("missing", [A, B, C])
    def test_locks_out_none_of_the_others(
        self, ecr: FakeEcr, function: Function, missing: str, before: Policy | None
    ) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(missing)
        ecr.create_repository("app", policy=before)

        report = function.check()

        others = {A, B, C} - {missing}
        statements = ecr.get_policy("app")["Statement"]  # type: ignore[index]
        assert others <= set(statements[-1]["Principal"]["AWS"])
        assert set(only(report)["added"]) == others
        with pytest.raises(
            RepositoriesFailed, match=f"refused the worker role {missing} for 1 of 1 .*Create it"
        ):
            report.raise_for_failures()

    def test_is_refused_in_older_words_too(self, ecr: FakeEcr, function: Function) -> None:
        ecr.principal_not_found_message = (
            "Invalid parameter at 'PolicyText': 'Invalid repository policy provided'"
        )
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")

        assert only(function.check())["added"] == [A]

    def test_is_named_and_tried_once_a_sweep_and_not_once_a_repository(
        self,
        ecr: FakeEcr,
        function: Function,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("handler.observability.logger._logger.propagate", True)
        function.roles = (A, B)
        ecr.delete_role(B)
        names = [f"app-{number:03}" for number in range(200)]
        ecr.create_repository(*names, policy=THEIRS)

        with caplog.at_level("INFO"):
            report = function.check(*names)

        answer = report.answer()
        assert answer["outcomes"] == {"attached": 200}
        assert [line.message for line in caplog.records].count("role refused") == 1
        (refused,) = cast("list[dict[str, Any]]", answer["refused_roles"])
        assert (refused["role"], refused["missing_in"]) == (B, 200)
        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        assert str(caught.value).count(B) == 1
        # Those under way at once find it out each for itself: both, the one, the other.
        assert (
            sum(became == "InvalidParameterException" for _, _, became in ecr.call_log) <= 2 * MAX_CONCURRENCY
        )

    def test_is_attached_by_the_next_check_after_it_appears(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")
        function.check()

        ecr.create_role(B)
        report = function.check()

        assert only(report)["added"] == [B]
        assert ecr.get_policy("app") == normalized(document(grant(A, B)))
        report.raise_for_failures()

    def test_fails_each_check_until_then_and_the_log_names_each_repository(
        self,
        ecr: FakeEcr,
        function: Function,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository("app")
        function.check()

        monkeypatch.setattr("handler.observability.logger._logger.propagate", True)
        report = function.check()

        assert outcome(report) == "failed"
        failed = next(line for line in caplog.records if line.message == "reconcile failed")
        assert vars(failed)["repository"] == "app"
        with pytest.raises(RepositoriesFailed, match=B):
            report.raise_for_failures()

    @pytest.mark.parametrize("roles", [(A,), (A, B, C)])
    @pytest.mark.parametrize("before", [None, THEIRS, document(grant(CI))])
    def test_leaves_the_policy_as_it_is_if_all_are_missing_and_each_is_named(
        self, ecr: FakeEcr, function: Function, before: Policy | None, roles: tuple[str, ...]
    ) -> None:
        function.roles = roles
        for role in roles:
            ecr.delete_role(role)
        ecr.create_repository("app", policy=before)

        report = function.check()

        assert ecr.get_policy("app") == (before and normalized(before))
        assert not any(became == "served" for operation, _, became in ecr.call_log if operation == WRITE)
        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        assert all(role in str(caught.value) for role in roles)
        assert "Create it, or take it out of WorkerRoleArns" in str(caught.value)

    def test_lets_nobody_else_be_removed(self, ecr: FakeEcr, function: Function) -> None:
        ecr.delete_role(A)
        ecr.create_repository("app", policy=document(grant(B)))

        function.check(REMOVE_UNLISTED_ROLES="true")

        assert ecr.get_policy("app") == normalized(document(grant(B)))

    def test_is_not_blamed_in_all_of_a_sweep_for_what_one_repository_may_have_caused(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        vendor = "arn:aws:iam::444444444444:role/vendor"
        ecr.create_role(vendor)
        ecr.create_repository("poisoned", policy=document(push(vendor)))
        ecr.delete_role(vendor)
        names = [f"app-{number:02}" for number in range(40)]
        ecr.create_repository(*names)

        report = function.check("poisoned", *names)

        assert report.answer()["outcomes"] == {"failed": 1, "attached": 40}

    @pytest.mark.parametrize("elsewhere", [(), ("first",)])
    def test_is_not_blamed_for_an_account_that_ecr_refuses(
        self, ecr: FakeEcr, function: Function, elsewhere: tuple[str, ...]
    ) -> None:
        names = [f"app-{number:02}" for number in range(60)]
        ecr.create_repository(*elsewhere, *names)
        poisoned = [f"poisoned-{number}" for number in range(40)]
        ecr.create_repository(*poisoned[:20], policy=document(push("555555555555")))
        ecr.create_repository(*poisoned[20:], policy=document(grant("555555555555")))
        ecr.closed_accounts.add("555555555555")

        report = function.check(*elsewhere, *poisoned, *names)

        assert report.answer()["outcomes"] == {"failed": 40, "attached": len(elsewhere) + len(names)}

    def test_is_not_confused_with_a_principal_of_others_that_was_mended_meanwhile(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(push(CI)))
        ecr.delete_role(CI)
        ecr.run_after(WRITE, lambda: None, lambda: ecr.set_policy("app", THEIRS))

        report = function.check()

        assert ecr.get_policy("app") == normalized(document(*THEIRS["Statement"], grant(A, B)))
        report.raise_for_failures()

    def test_is_found_in_a_bounded_number_of_writes_while_another_writer_removes_the_grant_each_time(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(C)
        ecr.create_repository("app")
        ecr.run_after(WRITE, *[lambda: ecr.delete_policy("app")] * 1_000)

        report = function.check("app")

        assert report.answer()["refused_roles"][0]["role"] == C  # type: ignore[index]
        assert ecr.calls[WRITE] < 10

    def test_is_named_also_beside_an_id_that_ecr_takes(self, ecr: FakeEcr, function: Function) -> None:
        ecr.rejects_deleted_principals = False
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(push(CI)))
        ecr.delete_role(CI)
        ecr.delete_role(B)
        function.check()

        with pytest.raises(RepositoriesFailed, match=B):
            function.check().raise_for_failures()

    def test_while_somebody_else_writes_costs_them_nothing(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B, C)
        ecr.delete_role(B)
        ecr.create_repository("app")
        ecr.run_after(
            WRITE,
            lambda: ecr.set_policy("app", document(push(CI, sid="First"))),
            lambda: ecr.set_policy("app", document(push(CI, sid="Second"))),
        )

        function.check()
        function.check()

        assert ecr.get_policy("app") == normalized(document(push(CI, sid="Second"), grant(A, C)))


class TestTheIdOfADeletedRole:
    def test_leaves_our_statement_if_ecr_refuses_it(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(grant(B, CI)))
        gone = ecr.delete_role(B)

        report = function.check()

        assert ecr.get_policy("app") == normalized(document(grant(A, CI)))
        assert only(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": [A],
            "removed": [gone],
        }

    def test_stays_in_our_statement_if_ecr_takes_it(self, ecr: FakeEcr, function: Function) -> None:
        ecr.rejects_deleted_principals = False
        ecr.create_repository("app", policy=document(grant(B)))
        gone = ecr.delete_role(B)

        function.check()

        assert ecr.get_policy("app") == normalized(document(grant(A, gone)))

    def test_stays_if_ecr_takes_it_and_refuses_a_role(self, ecr: FakeEcr, function: Function) -> None:
        ecr.rejects_deleted_principals = False
        function.roles = (A, C)
        ecr.create_repository("app", policy=document(grant(B)))
        gone = ecr.delete_role(B)
        ecr.delete_role(C)

        report = function.check()

        assert ecr.get_policy("app") == normalized(document(grant(A, gone)))
        with pytest.raises(RepositoriesFailed, match=C):
            report.raise_for_failures()

    def test_is_replaced_by_the_new_role_of_the_same_name(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.delete_role(A)
        ecr.create_role(A)

        function.check()

        assert ecr.get_policy("app") == normalized(document(grant(A)))

    def test_leaves_beside_a_role_that_does_not_exist(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, C)
        ecr.create_repository("app", policy=document(grant(B, CI)))
        ecr.delete_role(B)
        ecr.delete_role(C)

        report = function.check()

        assert ecr.get_policy("app") == normalized(document(grant(A, CI)))
        with pytest.raises(RepositoriesFailed, match=C):
            report.raise_for_failures()

    def test_in_a_statement_of_others_is_left_alone_and_named_if_ecr_refuses_it(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(push(CI)))
        gone = ecr.delete_role(CI)
        before = ecr.get_policy("app")

        report = function.check()

        assert ecr.get_policy("app") == before
        with pytest.raises(RepositoriesFailed, match=f'statement "Push" names {gone}'):
            report.raise_for_failures()
        assert "refused_roles" not in report.answer()

    def test_in_a_statement_of_others_is_left_alone_if_ecr_takes_it(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.rejects_deleted_principals = False
        ecr.create_repository("app", policy=document(push(CI)))
        gone = ecr.delete_role(CI)

        function.check()

        assert ecr.get_policy("app") == normalized(document(push(gone), grant(A)))

    def test_of_others_is_named_also_if_only_a_removal_is_refused(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(push(CI), grant(A, B)))
        gone = ecr.delete_role(CI)

        report = function.check(REMOVE_UNLISTED_ROLES="true")

        assert outcome(report) == "failed"
        assert gone in only(report)["reason"]


class TestARepositoryThatIsNotThere:
    def test_yet_is_waited_for_if_it_may_be_new(self, ecr: FakeEcr, function: Function) -> None:
        function.may_be_new = True
        ecr.create_repository("app", not_found_calls=4)

        assert outcome(function.check()) == "attached"

    def test_after_some_tries_is_gone(self, ecr: FakeEcr, function: Function) -> None:
        function.may_be_new = True

        assert only(function.check()) == {"repository": "app", "outcome": "gone"}
        assert ecr.calls[READ] == 6

    def test_is_gone_at_once_if_it_is_not_new(self, ecr: FakeEcr, function: Function) -> None:
        assert outcome(function.check()) == "gone"
        assert ecr.calls[READ] == 1

    def test_any_more_between_read_and_write_is_gone(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.run_before(WRITE, lambda: ecr.delete_repository("app"))

        assert only(function.check()) == {"repository": "app", "outcome": "gone"}


class TestAPolicyThatIsTooLong:
    def test_is_not_sent_and_the_failure_gives_both_sizes(self, ecr: FakeEcr, function: Function) -> None:
        long = document(push("444444444444", sid="x" * 10_000))
        ecr.create_repository("app", policy=long)

        report = function.check()

        assert ecr.calls[WRITE] == 0
        with pytest.raises(RepositoriesFailed, match=r"10,\d{3} characters and ECR allows 10,240: shorten"):
            report.raise_for_failures()

    def test_is_so_only_at_ecrs_own_limit(self, ecr: FakeEcr, function: Function) -> None:
        def padded(characters: int) -> Policy:
            return document(push("arn:aws:iam::444444444444:root", sid="x" * characters))

        room = 10_240 - len(render(attach(json.loads(json.dumps(padded(0))), [A])))
        ecr.create_repository("fits", policy=padded(room - 2))  # a lone principal comes back without its list
        ecr.create_repository("fits-not", policy=padded(room + 3))

        report = function.check("fits", "fits-not")

        assert report.answer()["outcomes"] == {"attached": 1, "failed": 1}


class TestAStatementThatDenies:
    def test_is_named_and_the_grant_is_attached_all_the_same(
        self,
        ecr: FakeEcr,
        function: Function,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("handler.observability.logger._logger.propagate", True)
        ecr.create_repository("app", policy=document(DENY))

        report = function.check()

        assert only(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": [A],
            "denied_by": [{"statement": '"NoPulls"', "roles": [A]}],
        }
        assert ecr.get_policy("app") == normalized(document(DENY, grant(A)))
        assert ("WARNING", "pull denied") in [(line.levelname, line.message) for line in caplog.records]
        report.raise_for_failures()

    def test_on_a_condition_is_said_to_be_conditional(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(DENY | {"Condition": OUTSIDE}))

        (denial,) = only(function.check())["denied_by"]

        assert denial["conditional"] is True

    def test_is_named_also_where_nothing_was_missing_and_among_very_many(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        names = [f"app-{number:03}" for number in range(150)]
        ecr.create_repository(*names, policy=document(grant(A)))
        ecr.create_repository("zzz", policy=document(DENY, grant(A)))

        answer = function.check(*names, "zzz").answer()

        assert answer["outcomes"] == {"unchanged": 151}
        assert answer["denied"] == 1
        listed = cast("list[dict[str, Any]]", answer["repositories"])
        assert [details["repository"] for details in listed] == ["zzz"]


class TestTryingAgain:
    @pytest.mark.parametrize("fault", NOT_APPLIED)
    @pytest.mark.parametrize("operation", [READ, WRITE, LIST])
    def test_follows_any_error_that_may_pass(
        self, ecr: FakeEcr, function: Function, operation: str, fault: Fault
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(operation, fault)

        assert outcome(function.check("*")) == "attached"
        assert function.backoffs == 1

    def test_has_an_end_and_the_failure_says_why(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.SERVER_ERROR] * 6)

        report = function.check()

        assert "GetRepositoryPolicy: ServerException: out of order" in only(report)["reason"]
        assert ecr.calls[READ] == 6

    def test_of_what_was_throttled_has_none_while_there_is_time(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 50)

        assert outcome(function.check()) == "attached"

    def test_of_what_was_throttled_ends_with_the_time_in_an_error_that_says_so(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        ecr.buckets[READ] = TokenBucket(rate=0, burst=0)

        report = function.check(seconds=1)

        with pytest.raises(
            RepositoriesFailed, match=r"app: no attempt succeeded in time: .*ThrottlingException"
        ):
            report.raise_for_failures()

    def test_takes_pauses_that_grow_to_a_limit_and_vary(
        self, ecr: FakeEcr, function: Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ecr.create_repository("app")
        runs: list[list[float]] = [[], []]
        for pauses in runs:
            monkeypatch.setattr("handler.retry.time.sleep", pauses.append)
            ecr.inject_faults(READ, *[Fault.THROTTLED] * 8)
            function.check()

        assert runs[0] != runs[1]
        for pauses in runs:
            assert [0.5 <= pause / min(0.2 * 2**n, 6.4) <= 1 for n, pause in enumerate(pauses)] == [True] * 8


class TestTheTimeOfAnInvocation:
    def test_is_enough_for_an_ecr_that_answers_nothing(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.TIMEOUT] * 100)
        started = time.monotonic()

        report = function.check(seconds=1)

        assert "ECR did not answer" in only(report)["reason"]
        assert time.monotonic() - started < 1

    def test_is_not_slept_away(
        self, ecr: FakeEcr, function: Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 100)
        started = time.monotonic()

        assert outcome(function.check(seconds=2)) == "failed"
        assert time.monotonic() - started < 2

    def test_that_ends_during_a_request_fails_only_the_repository_that_was_not_reconciled(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("fine", "stuck", "also-fine")
        ecr.inject_faults(READ, *[Fault.TIMEOUT] * 100, repository="stuck")

        report = function.check("fine", "stuck", "also-fine", seconds=1)

        assert report.answer()["outcomes"] == {"attached": 2, "failed": 1}
        with pytest.raises(
            RepositoriesFailed, match=r"^1 of 3 repositories failed: stuck: no attempt succeeded"
        ):
            report.raise_for_failures()


def test_the_rate_limiter_is_acquired_before_the_read_and_never_delays_the_write_after_it(
    ecr: FakeEcr,
) -> None:
    recorded: list[str] = []

    class Recorder(RateLimiter):
        def acquire(self) -> None:
            recorded.append("acquire")

        def acquire_nowait(self) -> None:
            recorded.append("acquire_nowait")

        def on_success(self) -> None:
            recorded.append("success")

        def on_throttle(self) -> None:
            recorded.append("throttle")

    ecr.create_repository("app")
    ecr.inject_faults(WRITE, Fault.THROTTLED)

    assert outcome(Function(ecr, Registry(ecr.client(), Recorder())).check()) == "attached"
    assert recorded == [
        *("acquire", "success", "acquire_nowait", "throttle"),
        *("acquire", "success", "acquire_nowait", "success"),
    ]


def test_many_checks_at_once_at_an_ecr_that_throttles_fail_nobody_and_find_its_rate(ecr: FakeEcr) -> None:
    names = [f"app-{number}" for number in range(300)]
    ecr.create_repository(*names, policy=document(grant(A)))
    ecr.buckets[READ] = TokenBucket(rate=60, burst=60)

    report = Function(ecr, Registry(ecr.client())).check(*names)

    assert report.answer()["outcomes"] == {"unchanged": 300}
    assert ecr.throttled < 150


def test_what_ecr_refuses_for_good_is_not_tried_again(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository("app")
    ecr.denied_operations.add(READ)

    assert "AccessDeniedException: not authorized" in only(function.check())["reason"]
    assert ecr.calls[READ] == 1


def test_repositories_that_cannot_be_listed_are_an_error_that_says_why(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.denied_operations.add(LIST)

    with pytest.raises(RegistryError, match="DescribeRepositories: AccessDeniedException: not authorized"):
        function.check("*")


def test_repositories_are_listed_page_by_page_at_the_largest_page_size(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository(*(f"app-{number}" for number in range(1001)), policy=document(grant(A)))

    report = function.check("*")

    assert report.answer()["outcomes"] == {"unchanged": 1001}
    assert ecr.calls[LIST] == 2


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"Statement": 1}'])
def test_a_policy_that_cannot_be_understood_is_not_rewritten(
    ecr: FakeEcr, function: Function, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecr.create_repository("app", policy=THEIRS)
    monkeypatch.setattr(Registry, "get_policy", lambda *_: text)

    assert outcome(function.check()) == "failed"
    assert ecr.calls[WRITE] == 0
