"""Checks when ECR pushes back: real calls to an ECR that behaves as the real one, with what befalls users."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest

from handler.check import Roles
from handler.pace import Pace
from handler.policy import attach, render
from handler.reconcile import OutOfTime, reconcile
from handler.registry import SIDE_BY_SIDE, Registry, RegistryError
from handler.report import ChecksFailed, Report
from handler.request import Request
from handler.settings import Settings
from tests.ecr import LIST, READ, TAKEN, WRITE, Ecr, Fault, TokenBucket, in_one_form

A, B, C = (f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "abc")
CI = "arn:aws:iam::444444444444:role/ci"
NOT_TAKEN = set(Fault) - TAKEN

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

    ecr: Ecr
    registry: Registry
    roles: tuple[str, ...] = (A,)
    may_be_new: bool = False
    during_back_off: Callable[[], object] = lambda: None
    back_offs: int = 0

    def check(self, *names: str, dry_run: bool = False, seconds: float = 900, **settings: str) -> Report:
        environment = {"WORKER_ROLE_ARNS": ",".join(self.roles)} | settings
        begun = time.monotonic()
        report, rest = reconcile(
            Request(names or ("app",), dry_run=dry_run, may_be_new=self.may_be_new),
            Settings.from_environment(environment),
            self.registry,
            lambda: seconds - (time.monotonic() - begun),
        )
        assert rest is None
        return report

    def sleep(self, _: float) -> None:
        self.back_offs += 1
        self.during_back_off()


@pytest.fixture
def ecr() -> Iterator[Ecr]:
    with Ecr().serving() as ecr:
        ecr.hire(A, B, C, CI)
        yield ecr


@pytest.fixture
def function(ecr: Ecr, monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function(ecr, Registry(ecr.client(read_timeout=0.2), Pace(sleep=lambda _: None)))
    monkeypatch.setattr("handler.reconcile.time.sleep", function.sleep)
    return function


def outcome(report: Report) -> str:
    return str(only(report)["outcome"])


def only(report: Report) -> Mapping[str, Any]:
    (details,) = cast("list[dict[str, Any]]", report.answer()["repositories"])
    return details


class TestAnotherWriter:
    def test_who_wrote_before_the_read_is_kept(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app", policy=THEIRS)

        assert outcome(function.check()) == "attached"
        assert ecr.policy("app") == in_one_form(document(*THEIRS["Statement"], grant(A)))

    @pytest.mark.parametrize("fault", Fault)
    def test_who_writes_while_we_back_off_is_kept_whatever_befell_our_write(
        self, ecr: Ecr, function: Function, fault: Fault
    ) -> None:
        ecr.create("app")
        ecr.fails(WRITE, fault)
        function.during_back_off = lambda: ecr.write("app", THEIRS)

        assert outcome(function.check()) == "attached"
        assert ecr.policy("app") == in_one_form(document(*THEIRS["Statement"], grant(A)))
        assert function.back_offs == 1

    def test_who_writes_during_each_of_many_back_offs_is_kept_each_time(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("app")
        ecr.fails(WRITE, *[Fault.THROTTLED] * 20)
        function.during_back_off = lambda: ecr.write(
            "app", document(push(CI, sid=f"Number{function.back_offs}"))
        )

        function.check()

        assert ecr.policy("app") == in_one_form(document(push(CI, sid="Number20"), grant(A)))

    def test_who_deletes_the_policy_while_we_back_off_is_no_obstacle(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("app", policy=THEIRS)
        ecr.fails(WRITE, Fault.SERVER_ERROR)
        function.during_back_off = lambda: ecr.unset("app")

        function.check()

        assert ecr.policy("app") == in_one_form(document(grant(A)))

    def test_who_writes_right_after_our_write_is_kept_by_the_next_check(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("app")
        ecr.after(WRITE, lambda: ecr.write("app", THEIRS))

        function.check()
        assert ecr.policy("app") == in_one_form(THEIRS)

        function.check()
        assert ecr.policy("app") == in_one_form(document(*THEIRS["Statement"], grant(A)))

    def test_who_writes_between_the_read_and_the_write_is_lost_for_ecr_has_no_conditional_write(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("app")
        ecr.after(READ, lambda: ecr.write("app", THEIRS))

        function.check()

        assert ecr.policy("app") == in_one_form(document(grant(A)))

    @pytest.mark.parametrize("fault", Fault)
    def test_has_no_call_of_ours_between_a_read_and_its_write(
        self, ecr: Ecr, function: Function, fault: Fault
    ) -> None:
        ecr.create("app", policy=THEIRS)
        ecr.fails(WRITE, fault, fault)

        function.check()

        calls = [operation for operation, _, _ in ecr.log]
        assert calls.count(WRITE) >= 1
        assert all(calls[place - 1] == READ for place, call in enumerate(calls) if call == WRITE)


class TestAWriteOfWhichTheAnswerIsLost:
    @pytest.mark.parametrize("fault", TAKEN)
    def test_is_reported_and_not_repeated_if_it_was_taken(
        self, ecr: Ecr, function: Function, fault: Fault
    ) -> None:
        ecr.create("app")
        ecr.fails(WRITE, fault)

        report = function.check()

        assert only(report) == {"repository": "app", "outcome": "attached", "added": [A]}
        assert ecr.calls[WRITE] == 1

    @pytest.mark.parametrize("fault", NOT_TAKEN)
    def test_is_repeated_if_it_was_not(self, ecr: Ecr, function: Function, fault: Fault) -> None:
        ecr.create("app")
        ecr.fails(WRITE, fault)

        report = function.check()

        assert only(report) == {"repository": "app", "outcome": "attached", "added": [A]}
        assert ecr.calls == {READ: 2, WRITE: 2}

    def test_is_not_reported_if_it_was_not_taken_and_somebody_else_gave_the_grant(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("app")
        ecr.fails(WRITE, Fault.THROTTLED)
        function.during_back_off = lambda: ecr.write("app", document(grant(A)))

        assert outcome(function.check()) == "unchanged"

    def test_hides_no_failure(self, ecr: Ecr, function: Function) -> None:
        function.roles = (A, B)
        ecr.create("app")
        ecr.fails(WRITE, Fault.SERVER_ERROR)

        def overwrite() -> None:
            ecr.write("app", document(push(CI), grant(B)))
            ecr.dismiss(CI)

        function.during_back_off = overwrite

        with pytest.raises(ChecksFailed, match="was deleted"):
            function.check().close()

    def test_or_that_came_before_a_failure_is_told_with_it(self, ecr: Ecr, function: Function) -> None:
        function.roles = (A, B, C)
        ecr.dismiss(C)
        ecr.create("app", policy=document(DENY))
        ecr.after(WRITE, lambda: None, lambda: ecr.fails(READ, *[Fault.SERVER_ERROR] * 6))

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
        self, ecr: Ecr, function: Function, before: Policy | None
    ) -> None:
        function.roles = (A, B, C)
        ecr.create("app", policy=before)
        function.check()

        for _ in range(20):
            assert outcome(function.check()) == "unchanged"

        assert ecr.calls == {READ: 21, WRITE: 1}

    @pytest.mark.parametrize("role", [A, CI])
    def test_when_a_role_in_our_statement_was_deleted_and_nothing_else_is_missing(
        self, ecr: Ecr, function: Function, role: str
    ) -> None:
        ecr.create("app", policy=document(grant(A, B, CI)))
        function.roles = tuple({A, B} - {role})
        ecr.dismiss(role)

        assert outcome(function.check()) == "unchanged"
        assert ecr.calls[WRITE] == 0


class TestARoleThatDoesNotExist:
    @pytest.mark.parametrize("before", [None, THEIRS, document(grant(CI))])
    @pytest.mark.parametrize("missing", [A, B, C])
    def test_locks_out_none_of_the_others(
        self, ecr: Ecr, function: Function, missing: str, before: Policy | None
    ) -> None:
        function.roles = (A, B, C)
        ecr.dismiss(missing)
        ecr.create("app", policy=before)

        report = function.check()

        others = {A, B, C} - {missing}
        statements = ecr.policy("app")["Statement"]  # type: ignore[index]
        assert others <= set(statements[-1]["Principal"]["AWS"])
        assert set(only(report)["added"]) == others
        with pytest.raises(ChecksFailed, match=f"refused the worker role {missing} for 1 of 1 .*Create it"):
            report.close()

    def test_is_refused_in_older_words_too(self, ecr: Ecr, function: Function) -> None:
        ecr.says = "Invalid parameter at 'PolicyText': 'Invalid repository policy provided'"
        function.roles = (A, B)
        ecr.dismiss(B)
        ecr.create("app")

        assert only(function.check())["added"] == [A]

    def test_is_named_and_tried_once_a_sweep_and_not_once_a_repository(
        self, ecr: Ecr, function: Function, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("handler.report.logger._logger.propagate", True)
        function.roles = (A, B)
        ecr.dismiss(B)
        names = [f"app-{number:03}" for number in range(200)]
        ecr.create(*names, policy=THEIRS)

        with caplog.at_level("INFO"):
            report = function.check(*names)

        answer = report.answer()
        assert answer["outcomes"] == {"attached": 200}
        assert [line.message for line in caplog.records].count("role refused") == 1
        (refused,) = cast("list[dict[str, Any]]", answer["refused_roles"])
        assert (refused["role"], refused["missing_in"]) == (B, 200)
        with pytest.raises(ChecksFailed) as caught:
            report.close()
        assert str(caught.value).count(B) == 1
        # Those under way at once find it out each for itself: both, the one, the other.
        assert sum(became == "InvalidParameterException" for _, _, became in ecr.log) <= 2 * SIDE_BY_SIDE

    def test_is_attached_by_the_next_check_after_it_appears(self, ecr: Ecr, function: Function) -> None:
        function.roles = (A, B)
        ecr.dismiss(B)
        ecr.create("app")
        function.check()

        ecr.hire(B)
        report = function.check()

        assert only(report)["added"] == [B]
        assert ecr.policy("app") == in_one_form(document(grant(A, B)))
        report.close()

    def test_fails_each_check_until_then_and_the_log_names_each_repository(
        self, ecr: Ecr, function: Function, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        function.roles = (A, B)
        ecr.dismiss(B)
        ecr.create("app")
        function.check()

        monkeypatch.setattr("handler.report.logger._logger.propagate", True)
        report = function.check()

        assert outcome(report) == "failed"
        failed = next(line for line in caplog.records if line.message == "check failed")
        assert vars(failed)["repository"] == "app"
        with pytest.raises(ChecksFailed, match=B):
            report.close()

    @pytest.mark.parametrize("roles", [(A,), (A, B, C)])
    @pytest.mark.parametrize("before", [None, THEIRS, document(grant(CI))])
    def test_leaves_the_policy_as_it_is_if_all_are_missing_and_each_is_named(
        self, ecr: Ecr, function: Function, before: Policy | None, roles: tuple[str, ...]
    ) -> None:
        function.roles = roles
        for role in roles:
            ecr.dismiss(role)
        ecr.create("app", policy=before)

        report = function.check()

        assert ecr.policy("app") == (before and in_one_form(before))
        assert not any(became == "served" for operation, _, became in ecr.log if operation == WRITE)
        with pytest.raises(ChecksFailed) as caught:
            report.close()
        assert all(role in str(caught.value) for role in roles)
        assert "Create it, or take it out of WorkerRoleArns" in str(caught.value)

    def test_lets_nobody_else_be_removed(self, ecr: Ecr, function: Function) -> None:
        ecr.dismiss(A)
        ecr.create("app", policy=document(grant(B)))

        function.check(REMOVE_UNLISTED_ROLES="true")

        assert ecr.policy("app") == in_one_form(document(grant(B)))

    def test_is_not_blamed_in_all_of_a_sweep_for_what_one_repository_may_have_caused(
        self, ecr: Ecr, function: Function
    ) -> None:
        vendor = "arn:aws:iam::444444444444:role/vendor"
        ecr.hire(vendor)
        ecr.create("poisoned", policy=document(push(vendor)))
        ecr.dismiss(vendor)
        names = [f"app-{number:02}" for number in range(40)]
        ecr.create(*names)

        report = function.check("poisoned", *names)

        assert report.answer()["outcomes"] == {"failed": 1, "attached": 40}

    @pytest.mark.parametrize("elsewhere", [(), ("first",)])
    def test_is_not_blamed_for_an_account_that_ecr_refuses(
        self, ecr: Ecr, function: Function, elsewhere: tuple[str, ...]
    ) -> None:
        names = [f"app-{number:02}" for number in range(60)]
        ecr.create(*elsewhere, *names)
        poisoned = [f"poisoned-{number}" for number in range(40)]
        ecr.create(*poisoned[:20], policy=document(push("555555555555")))
        ecr.create(*poisoned[20:], policy=document(grant("555555555555")))
        ecr.closed_accounts.add("555555555555")

        report = function.check(*elsewhere, *poisoned, *names)

        assert report.answer()["outcomes"] == {"failed": 40, "attached": len(elsewhere) + len(names)}

    def test_is_not_confused_with_a_principal_of_others_that_was_mended_meanwhile(
        self, ecr: Ecr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.create("app", policy=document(push(CI)))
        ecr.dismiss(CI)
        ecr.after(WRITE, lambda: None, lambda: ecr.write("app", THEIRS))

        report = function.check()

        assert ecr.policy("app") == in_one_form(document(*THEIRS["Statement"], grant(A, B)))
        report.close()

    def test_while_somebody_else_takes_the_grant_away_again_and_again_is_a_check_with_an_end(
        self, ecr: Ecr, function: Function
    ) -> None:
        function.roles = (A, B, C)
        ecr.dismiss(C)
        ecr.create("app", "other")
        ecr.after(WRITE, *[lambda: ecr.unset("app")] * 1_000)
        ecr.create("other", policy=document(grant(A, B)))

        report = function.check("app")

        assert "others change the repository's policy" in only(report)["reason"]
        assert ecr.calls[WRITE] < 30

    def test_is_named_also_beside_an_id_that_ecr_takes(self, ecr: Ecr, function: Function) -> None:
        ecr.refuses_ids = False
        function.roles = (A, B)
        ecr.create("app", policy=document(push(CI)))
        ecr.dismiss(CI)
        ecr.dismiss(B)
        function.check()

        with pytest.raises(ChecksFailed, match=B):
            function.check().close()

    def test_while_somebody_else_writes_costs_them_nothing(self, ecr: Ecr, function: Function) -> None:
        function.roles = (A, B, C)
        ecr.dismiss(B)
        ecr.create("app")
        ecr.after(
            WRITE,
            lambda: ecr.write("app", document(push(CI, sid="First"))),
            lambda: ecr.write("app", document(push(CI, sid="Second"))),
        )

        function.check()
        function.check()

        assert ecr.policy("app") == in_one_form(document(push(CI, sid="Second"), grant(A, C)))

    def test_is_known_as_such_after_three_repositories_unless_ecr_has_accepted_it(self) -> None:
        roles = Roles()
        roles.refuse(A)
        roles.refuse(A)
        assert roles.known_as_refused() == set()

        roles.refuse(A)
        assert roles.known_as_refused() == {A}

        roles.accepted.add(A)
        assert roles.known_as_refused() == set()


class TestTheIdOfADeletedRole:
    def test_leaves_our_statement_if_ecr_refuses_it(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app", policy=document(grant(B, CI)))
        gone = ecr.dismiss(B)

        report = function.check()

        assert ecr.policy("app") == in_one_form(document(grant(A, CI)))
        assert only(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": [A],
            "removed": [gone],
        }

    def test_stays_in_our_statement_if_ecr_takes_it(self, ecr: Ecr, function: Function) -> None:
        ecr.refuses_ids = False
        ecr.create("app", policy=document(grant(B)))
        gone = ecr.dismiss(B)

        function.check()

        assert ecr.policy("app") == in_one_form(document(grant(A, gone)))

    def test_stays_if_ecr_takes_it_and_refuses_a_role(self, ecr: Ecr, function: Function) -> None:
        ecr.refuses_ids = False
        function.roles = (A, C)
        ecr.create("app", policy=document(grant(B)))
        gone = ecr.dismiss(B)
        ecr.dismiss(C)

        report = function.check()

        assert ecr.policy("app") == in_one_form(document(grant(A, gone)))
        with pytest.raises(ChecksFailed, match=C):
            report.close()

    def test_is_replaced_by_the_new_role_of_the_same_name(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app", policy=document(grant(A)))
        ecr.dismiss(A)
        ecr.hire(A)

        function.check()

        assert ecr.policy("app") == in_one_form(document(grant(A)))

    def test_leaves_beside_a_role_that_does_not_exist(self, ecr: Ecr, function: Function) -> None:
        function.roles = (A, C)
        ecr.create("app", policy=document(grant(B, CI)))
        ecr.dismiss(B)
        ecr.dismiss(C)

        report = function.check()

        assert ecr.policy("app") == in_one_form(document(grant(A, CI)))
        with pytest.raises(ChecksFailed, match=C):
            report.close()

    def test_in_a_statement_of_others_is_left_alone_and_named_if_ecr_refuses_it(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("app", policy=document(push(CI)))
        gone = ecr.dismiss(CI)
        before = ecr.policy("app")

        report = function.check()

        assert ecr.policy("app") == before
        with pytest.raises(ChecksFailed, match=f'statement "Push" names {gone}'):
            report.close()
        assert "refused_roles" not in report.answer()

    def test_in_a_statement_of_others_is_left_alone_if_ecr_takes_it(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.refuses_ids = False
        ecr.create("app", policy=document(push(CI)))
        gone = ecr.dismiss(CI)

        function.check()

        assert ecr.policy("app") == in_one_form(document(push(gone), grant(A)))

    def test_of_others_is_named_also_if_only_a_removal_is_refused(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app", policy=document(push(CI), grant(A, B)))
        gone = ecr.dismiss(CI)

        report = function.check(REMOVE_UNLISTED_ROLES="true")

        assert outcome(report) == "failed"
        assert gone in only(report)["reason"]


class TestARepositoryThatIsNotThere:
    def test_yet_is_waited_for_if_it_may_be_new(self, ecr: Ecr, function: Function) -> None:
        function.may_be_new = True
        ecr.create("app", unseen_for=4)

        assert outcome(function.check()) == "attached"

    def test_after_some_tries_is_gone(self, ecr: Ecr, function: Function) -> None:
        function.may_be_new = True

        assert only(function.check()) == {"repository": "app", "outcome": "gone"}
        assert ecr.calls[READ] == 6

    def test_is_gone_at_once_if_it_is_not_new(self, ecr: Ecr, function: Function) -> None:
        assert outcome(function.check()) == "gone"
        assert ecr.calls[READ] == 1

    def test_any_more_between_read_and_write_is_gone(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app")
        ecr.before(WRITE, lambda: ecr.delete("app"))

        assert only(function.check()) == {"repository": "app", "outcome": "gone"}


class TestAPolicyThatIsTooLong:
    def test_is_not_sent_and_the_failure_gives_both_sizes(self, ecr: Ecr, function: Function) -> None:
        long = document(push("444444444444", sid="x" * 10_000))
        ecr.create("app", policy=long)

        report = function.check()

        assert ecr.calls[WRITE] == 0
        with pytest.raises(ChecksFailed, match=r"10,\d{3} characters and ECR allows 10,240: shorten"):
            report.close()

    def test_is_so_only_at_ecrs_own_limit(self, ecr: Ecr, function: Function) -> None:
        def padded(characters: int) -> Policy:
            return document(push("arn:aws:iam::444444444444:root", sid="x" * characters))

        room = 10_240 - len(render(attach(json.loads(json.dumps(padded(0))), [A])))
        ecr.create("fits", policy=padded(room - 2))  # a lone principal comes back without its list
        ecr.create("fits-not", policy=padded(room + 3))

        report = function.check("fits", "fits-not")

        assert report.answer()["outcomes"] == {"attached": 1, "failed": 1}


class TestAStatementThatDenies:
    def test_is_named_and_the_grant_is_attached_all_the_same(
        self, ecr: Ecr, function: Function, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("handler.report.logger._logger.propagate", True)
        ecr.create("app", policy=document(DENY))

        report = function.check()

        assert only(report) == {
            "repository": "app",
            "outcome": "attached",
            "added": [A],
            "denied_by": [{"statement": '"NoPulls"', "roles": [A]}],
        }
        assert ecr.policy("app") == in_one_form(document(DENY, grant(A)))
        assert ("WARNING", "pull denied") in [(line.levelname, line.message) for line in caplog.records]
        report.close()

    def test_on_a_condition_is_said_to_be_conditional(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app", policy=document(DENY | {"Condition": OUTSIDE}))

        (denial,) = only(function.check())["denied_by"]

        assert denial["conditional"] is True

    def test_is_named_also_where_nothing_was_missing_and_among_very_many(
        self, ecr: Ecr, function: Function
    ) -> None:
        names = [f"app-{number:03}" for number in range(150)]
        ecr.create(*names, policy=document(grant(A)))
        ecr.create("zzz", policy=document(DENY, grant(A)))

        answer = function.check(*names, "zzz").answer()

        assert answer["outcomes"] == {"unchanged": 151}
        assert answer["denied"] == 1
        listed = cast("list[dict[str, Any]]", answer["repositories"])
        assert [details["repository"] for details in listed] == ["zzz"]


class TestTryingAgain:
    @pytest.mark.parametrize("fault", NOT_TAKEN)
    @pytest.mark.parametrize("operation", [READ, WRITE, LIST])
    def test_follows_any_error_that_may_pass(
        self, ecr: Ecr, function: Function, operation: str, fault: Fault
    ) -> None:
        ecr.create("app")
        ecr.fails(operation, fault)

        assert outcome(function.check("*")) == "attached"
        assert function.back_offs == 1

    def test_has_an_end_and_the_failure_says_why(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app")
        ecr.fails(READ, *[Fault.SERVER_ERROR] * 6)

        report = function.check()

        assert "GetRepositoryPolicy: ServerException: out of order" in only(report)["reason"]
        assert ecr.calls[READ] == 6

    def test_of_what_was_throttled_has_none_while_there_is_time(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app")
        ecr.fails(READ, *[Fault.THROTTLED] * 50)

        assert outcome(function.check()) == "attached"

    def test_of_what_was_throttled_ends_with_the_time_in_an_error_that_says_so(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("app")
        ecr.buckets[READ] = TokenBucket(rate=0, burst=0)

        with pytest.raises(OutOfTime, match=r"a single check did.*ThrottlingException"):
            function.check(seconds=1)

    def test_takes_pauses_that_grow_to_a_limit_and_vary(
        self, ecr: Ecr, function: Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ecr.create("app")
        runs: list[list[float]] = [[], []]
        for pauses in runs:
            monkeypatch.setattr("handler.reconcile.time.sleep", pauses.append)
            ecr.fails(READ, *[Fault.THROTTLED] * 8)
            function.check()

        assert runs[0] != runs[1]
        for pauses in runs:
            assert [0.5 <= pause / min(0.2 * 2**n, 6.4) <= 1 for n, pause in enumerate(pauses)] == [True] * 8


class TestTheTimeOfAnInvocation:
    def test_is_enough_for_an_ecr_that_answers_nothing(self, ecr: Ecr, function: Function) -> None:
        ecr.create("app")
        ecr.fails(READ, *[Fault.TIMEOUT] * 100)
        begun = time.monotonic()

        with pytest.raises(OutOfTime, match="ECR did not answer"):
            function.check(seconds=1)

        assert time.monotonic() - begun < 1

    def test_is_not_slept_away(self, ecr: Ecr, function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        ecr.create("app")
        ecr.fails(READ, *[Fault.THROTTLED] * 100)
        begun = time.monotonic()

        with pytest.raises(OutOfTime):
            function.check(seconds=2)

        assert time.monotonic() - begun < 2

    def test_that_ends_amid_a_sweep_leaves_the_checks_that_came_to_no_end_to_the_next(
        self, ecr: Ecr, function: Function
    ) -> None:
        ecr.create("fine", "stuck", "fine-too")
        ecr.fails(READ, *[Fault.TIMEOUT] * 100, repository="stuck")
        begun = time.monotonic()

        report, rest = reconcile(
            Request(("fine", "stuck", "fine-too")),
            Settings.from_environment({"WORKER_ROLE_ARNS": A}),
            function.registry,
            lambda: 1 - (time.monotonic() - begun),
        )

        assert report.answer()["outcomes"] == {"attached": 2}
        assert rest is not None
        assert rest.repositories == ("stuck",)


def test_a_check_waits_for_its_slot_before_the_read_and_never_between_read_and_write(ecr: Ecr) -> None:
    noted: list[str] = []

    class Noted(Pace):
        def wait(self) -> None:
            noted.append("wait")

        def owe(self) -> None:
            noted.append("owe")

        def served(self) -> None:
            noted.append("served")

        def throttled(self) -> None:
            noted.append("throttled")

    ecr.create("app")
    ecr.fails(WRITE, Fault.THROTTLED)

    assert outcome(Function(ecr, Registry(ecr.client(), Noted())).check()) == "attached"
    assert noted == ["wait", "served", "owe", "throttled", "wait", "served", "owe", "served"]


def test_many_checks_at_once_at_an_ecr_that_throttles_fail_nobody_and_find_its_rate(ecr: Ecr) -> None:
    names = [f"app-{number}" for number in range(300)]
    ecr.create(*names, policy=document(grant(A)))
    ecr.buckets[READ] = TokenBucket(rate=60, burst=60)

    report = Function(ecr, Registry(ecr.client())).check(*names)

    assert report.answer()["outcomes"] == {"unchanged": 300}
    assert ecr.throttled < 150


def test_what_ecr_refuses_for_good_is_not_tried_again(ecr: Ecr, function: Function) -> None:
    ecr.create("app")
    ecr.forbids.add(READ)

    assert "AccessDeniedException: not authorized" in only(function.check())["reason"]
    assert ecr.calls[READ] == 1


def test_repositories_that_cannot_be_listed_are_an_error_that_says_why(ecr: Ecr, function: Function) -> None:
    ecr.forbids.add(LIST)

    with pytest.raises(RegistryError, match="DescribeRepositories: AccessDeniedException: not authorized"):
        function.check("*")


def test_repositories_are_listed_page_by_page_at_the_largest_page_size(ecr: Ecr, function: Function) -> None:
    ecr.create(*(f"app-{number}" for number in range(1001)), policy=document(grant(A)))

    report = function.check("*")

    assert report.answer()["outcomes"] == {"unchanged": 1001}
    assert ecr.calls[LIST] == 2


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"Statement": 1}'])
def test_a_policy_that_cannot_be_understood_is_not_rewritten(
    ecr: Ecr, function: Function, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecr.create("app", policy=THEIRS)
    monkeypatch.setattr(Registry, "policy_text", lambda *_: text)

    assert outcome(function.check()) == "failed"
    assert ecr.calls[WRITE] == 0
