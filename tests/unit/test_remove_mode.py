"""Mode=remove: the configured roles leave our statements, and everything else stays."""

import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.fake_ecr import APPLIED, DELETE, READ, WRITE, EcrError, FakeEcr, Fault, normalized
from handler.policy.document import render
from handler.policy.plan import Plan, grantees_of, plan_removal
from handler.report.report import Report, RepositoriesFailed
from handler.settings import InvalidSetting
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function, cloudtrail_event
from tests.unit.policies import CI, DENY, FOREIGN_POLICY, PULL, VENDOR, A, B, C, allow, document, grant, push

type Log = Callable[[], list[dict[str, Any]]]

DESCRIBE = {"Action": "ecr:DescribeImages"}
SECURE = {"Bool": {"aws:SecureTransport": "true"}}


@pytest.fixture
def function(ecr: FakeEcr) -> Function:
    return Function(ecr, roles=(A, B), settings={"MODE": "remove"})


def details(report: Report, repository: str = "app") -> dict[str, Any]:
    listed = cast("list[dict[str, Any]]", report.response()["repositories"])
    return next(each for each in listed if each["repository"] == repository)


class TestARepository:
    def test_without_a_policy_before_the_installation_has_none_again(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A, B)))

        report = function.reconcile()

        assert ecr.get_policy("app") is None
        assert details(report) == {
            "repository": "app",
            "outcome": "removed",
            "removed": {"AllowPull": [A, B]},
        }
        assert ecr.calls == {READ: 1, DELETE: 1}

    @pytest.mark.parametrize(
        "before",
        [
            FOREIGN_POLICY,
            document(push(CI), push(VENDOR)),
            document(grant(CI)),
            document(push(CI), grant(CI, VENDOR), DENY),
            document(grant(A) | {"Condition": SECURE}),
            document(allow("AllowPull", [*PULL, "ecr:PutImage"], A)),
            FOREIGN_POLICY | {"Version": "2008-10-17", "Id": "theirs"},
        ],
    )
    def test_has_its_policy_of_before_the_installation_again(
        self, ecr: FakeEcr, function: Function, before: dict[str, Any]
    ) -> None:
        ecr.create_repository("app", policy=before)
        function.reconcile(MODE="enforce")
        assert ecr.get_policy("app") != normalized(before)

        function.reconcile().raise_for_failures()

        assert ecr.get_policy("app") == normalized(before)

    def test_loses_the_roles_from_every_grant_and_numbered_statement(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        statements = (
            grant(A, CI),
            grant(B, sid="AllowPull2"),
            grant(C, sid="AllowDescribeImages") | DESCRIBE,
            grant(A, sid="AllowPullThroughCache") | {"Action": "ecr:BatchImportUpstreamImage"},
        )
        ecr.create_repository("app", policy=document(*statements))

        function.reconcile(DESCRIBE_ROLE_ARNS=C)

        assert ecr.get_policy("app") == normalized(document(grant(CI)))

    def test_that_has_none_of_the_roles_costs_one_read(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(push(CI), grant(VENDOR)))
        ecr.create_repository("bare")

        report = function.reconcile("app", "bare")

        assert report.response()["outcomes"] == {"unchanged": 2}
        assert ecr.calls == {READ: 2}
        assert details(report)["unlisted"] == {"AllowPull": [VENDOR]}

    def test_loses_the_id_of_a_deleted_role_in_our_statement_only(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.rejects_deleted_principals = False
        ecr.create_repository("app", policy=document(push(CI), grant(CI, VENDOR)))
        deleted_id = ecr.delete_role(CI)

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(push(deleted_id), grant(VENDOR)))

    def test_is_not_reported_as_denied_or_lacking_a_grant(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(DENY))
        ecr.delete_role(B)

        report = function.reconcile()

        assert report.response()["outcomes"] == {"unchanged": 1}
        assert "denied" not in report.response()
        report.raise_for_failures()

    def test_out_of_scope_is_left_alone(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(grant(A)))

        function.reconcile(REPOSITORIES="team/*")

        assert ecr.get_policy("app") == normalized(document(grant(A)))


class TestUnlistedPrincipals:
    def test_stay_by_default_and_are_listed_before_anything_is_removed(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A, CI)))

        planned = details(function.reconcile(dry_run=True))

        assert planned["outcome"] == "would_remove"
        assert planned["removed"] == {"AllowPull": [A]}
        assert planned["unlisted"] == {"AllowPull": [CI]}
        assert ecr.get_policy("app") == normalized(document(grant(A, CI)))

    def test_go_with_remove_unlisted_roles(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(push(CI), grant(A, CI), grant(VENDOR, sid="AllowPull2")))

        planned = details(function.reconcile(dry_run=True, REMOVE_UNLISTED_ROLES="true"))
        removed = details(function.reconcile(REMOVE_UNLISTED_ROLES="true"))

        assert planned["removed"] == removed["removed"] == {"AllowPull": sorted([A, CI, VENDOR])}
        assert ecr.get_policy("app") == normalized(document(push(CI)))


class TestADryRun:
    def test_shows_what_the_removal_does_and_writes_nothing(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.create_repository("other", policy=document(push(CI), grant(A, B)))

        planned = function.reconcile("app", "other", dry_run=True)
        assert not ecr.calls[WRITE] + ecr.calls[DELETE]
        removed = function.reconcile("app", "other")

        for name in ("app", "other"):
            assert details(planned, name) | {"outcome": "removed"} == details(removed, name)


class TestEvents:
    @pytest.mark.parametrize("event", ["CreateRepository", "SetRepositoryPolicy", "DeleteRepositoryPolicy"])
    def test_remove_too_so_that_nothing_comes_back(
        self, ecr: FakeEcr, function: Function, event: str
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)))

        assert function.invoke(cloudtrail_event(event, "app")).error is None

        assert ecr.get_policy("app") is None

    def test_after_a_policy_change_count_as_drift(
        self, ecr: FakeEcr, function: Function, logged: Log, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)))

        function.invoke(cloudtrail_event("SetRepositoryPolicy", "app"))

        assert [line["message"] for line in logged()] == ["drift corrected", "report"]
        assert '"DriftCorrected":[1' in capsys.readouterr().out


class TestFaults:
    @pytest.mark.parametrize("fault", Fault)
    def test_of_a_deletion_are_retried_after_a_new_read(
        self, ecr: FakeEcr, function: Function, fault: Fault
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.inject_faults(DELETE, fault)

        report = function.reconcile()

        assert ecr.get_policy("app") is None
        assert details(report)["removed"] == {"AllowPull": [A]}
        assert ecr.calls[DELETE] == (1 if fault in APPLIED else 2)
        operations = [operation for operation, _, _ in ecr.call_log]
        assert all(before == READ for before, call in itertools.pairwise(operations) if call == DELETE)

    def test_a_statement_that_another_writer_adds_during_backoff_is_kept(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.inject_faults(DELETE, Fault.THROTTLED)
        function.during_backoff = lambda: ecr.set_policy("app", document(push(CI), grant(A)))

        function.reconcile()

        assert ecr.get_policy("app") == normalized(document(push(CI)))

    def test_a_policy_that_another_caller_deletes_first_is_no_failure(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)))
        ecr.run_before(DELETE, lambda: ecr.delete_policy("app"))

        function.reconcile().raise_for_failures()

        assert ecr.get_policy("app") is None

    def test_a_repository_that_denies_the_function_fails_by_name_while_all_others_are_done(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app-1", "app-2", policy=document(grant(A)))
        ecr.create_repository("denied", policy=document(grant(A)))
        ecr.inject_faults(READ, EcrError("AccessDeniedException", "explicit deny"), repository="denied")

        report = function.reconcile("app-1", "denied", "app-2")

        with pytest.raises(RepositoriesFailed, match=r"^1 of 3 repositories failed: denied: .*explicit deny"):
            report.raise_for_failures()
        assert ecr.get_policy("app-1") is ecr.get_policy("app-2") is None

    def test_a_foreign_principal_that_ecr_rejects_fails_after_one_write_without_a_role_check(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app", policy=document(push(CI), grant(A)))
        deleted_id = ecr.delete_role(CI)

        with pytest.raises(RepositoriesFailed, match=deleted_id):
            function.reconcile().raise_for_failures()

        assert ecr.calls == {READ: 1, WRITE: 1}


@pytest.mark.parametrize("settings", [{"MODE": "Remov"}, {"MODE": "remove", "REPOSITORIES": ""}])
def test_wrong_settings_remove_nothing(settings: dict[str, str], function: Function) -> None:
    with pytest.raises(InvalidSetting):
        function.configured(**settings)


def test_a_sweep_that_continues_removes_everywhere(ecr: FakeEcr, function: Function) -> None:
    names = [f"app-{number:03}" for number in range(120)]
    ecr.create_repository(*names, policy=document(grant(A)))
    function.timeout, function.seconds_per_call = 20, 0.15

    function.run("*")

    assert len(function.answers) > 1
    assert not any(ecr.policies[name] for name in names)


class TestANarrowedScope:
    """Grants stay in repositories that leave the scope; a sweep of all names them."""

    @pytest.mark.parametrize("mode", ["enforce", "plan", "remove"])
    def test_is_reported_with_the_grants_that_are_left(
        self, ecr: FakeEcr, function: Function, logged: Log, mode: str
    ) -> None:
        ecr.create_repository("team/app", policy=document(grant(A, B)))
        ecr.create_repository("left/app", policy=document(push(CI), grant(A, CI)))
        ecr.create_repository("left/other", policy=document(grant(CI)))
        before = ecr.get_policy("left/app")

        report = function.reconcile("*", REPOSITORIES="team/*", REMOVE_UNLISTED_ROLES="true", MODE=mode)

        assert report.response()["out_of_scope_grants"] == 1
        assert details(report, "left/app") == {
            "repository": "left/app",
            "outcome": "out_of_scope",
            "out_of_scope_grants": {"AllowPull": [A]},
        }
        assert "left/other" not in str(report.response())
        assert ecr.get_policy("left/app") == before
        lines = [line for line in logged() if line["message"] == "grants out of scope"]
        assert [(line["level"], line["repository"]) for line in lines] == [("WARNING", "left/app")]

    def test_costs_no_call_without_remove_unlisted_roles(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("left/app", policy=document(grant(A)))

        report = function.reconcile("*", REPOSITORIES="team/*", MODE="enforce")

        assert ecr.calls[READ] == 0
        assert report.response()["checked"] == 0

    def test_costs_no_call_for_other_requests(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("left/app", policy=document(grant(A)))

        function.reconcile("left/*", "left/app", REPOSITORIES="team/*", REMOVE_UNLISTED_ROLES="true")

        assert ecr.calls[READ] == 0

    def test_does_not_look_at_repositories_for_role_checks(self, ecr: FakeEcr, function: Function) -> None:
        ecr.set_policy(ROLE_CHECK_REPOSITORY, document(grant(A)))

        report = function.reconcile("*", REMOVE_UNLISTED_ROLES="true")

        assert "out_of_scope_grants" not in report.response()
        assert ecr.calls[READ] == 0

    def test_does_not_fail_for_a_repository_that_cannot_be_read(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("left/app", policy=document(grant(A)))
        ecr.inject_faults(READ, EcrError("AccessDeniedException", "not yours"), repository="left/app")

        report = function.reconcile("*", REPOSITORIES="team/*", REMOVE_UNLISTED_ROLES="true")

        assert "not yours" in details(report, "left/app")["reason"]
        report.raise_for_failures()


principals = st.sampled_from([A, B, C, CI, VENDOR, "AROAEXAMPLEEXAMPLEEXA", "444444444444"])
statements = st.one_of(
    st.builds(grant, principals, principals, sid=st.sampled_from(["AllowPull", "AllowPull2", "Other"])),
    st.builds(lambda name: grant(name, sid="AllowDescribeImages") | DESCRIBE, principals),
    st.builds(push, principals),
    st.builds(lambda name: grant(name) | {"Condition": SECURE}, principals),
)


@given(listed=st.lists(statements, max_size=5), everything=st.booleans())
def test_a_removal_keeps_foreign_statements_in_order_and_is_done_in_one_step(
    listed: list[dict[str, Any]], *, everything: bool
) -> None:
    before = document(*listed) | {"Id": "theirs"}
    ours = {sid for sid, _ in grantees_of(before)}

    planned = plan_removal(before, {A, B}, remove_unlisted=everything)

    after: dict[str, Any] = planned.policy or document()
    left = {principal for _, principal in grantees_of(planned.policy)}
    assert left.isdisjoint({A, B, "AROAEXAMPLEEXAMPLEEXA"})
    assert not (everything and left)
    foreign = [each for each in listed if not grantees_of(document(each))]
    assert [each for each in after["Statement"] if each in foreign] == foreign
    assert planned.removed == grantees_of(before) - grantees_of(planned.policy)
    assert (planned.policy is None) == (not foreign and not left and bool(ours))
    if planned.policy:
        assert planned.policy["Id"] == "theirs"
        assert plan_removal(planned.policy, {A, B}, remove_unlisted=everything).policy is planned.policy


class TestAPolicyThatIsTooLong:
    """ECR stores account numbers as longer ARNs, so a policy can be too long to be written back."""

    ACCOUNTS = push(*(f"{number:012}" for number in range(1, 321)))

    def test_is_left_alone_and_fails_with_its_length(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", policy=document(grant(A), self.ACCOUNTS))
        before = ecr.get_policy("app")

        reason = details(function.reconcile())["reason"]

        assert reason.startswith("nothing removed: the policy would have 10,")
        assert ecr.get_policy("app") == before
        assert not ecr.calls[WRITE]

    def test_of_exactly_the_limit_is_written(self) -> None:
        short = document(push("444444444444", sid=""))
        padding = 10_240 - len(render(short))
        foreign = push("444444444444", sid="x" * padding)

        assert plan_removal(document(foreign, grant(A)), {A}).policy == document(foreign)
        longer = document(push("444444444444", sid="x" * (padding + 1)), grant(A))
        assert plan_removal(longer, {A}) == Plan(longer, length=10_241)


class TestARepositoryOutOfScope:
    @pytest.fixture(autouse=True)
    def narrowed_scope(self, function: Function) -> None:
        function.settings |= {"REPOSITORIES": "team/*", "REMOVE_UNLISTED_ROLES": "true"}

    def test_that_is_deleted_meanwhile_is_gone(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("left/app", policy=document(grant(A)))
        ecr.run_before(READ, lambda: ecr.delete_repository("left/app"))

        report = function.reconcile("*")

        assert details(report, "left/app") == {"repository": "left/app", "outcome": "gone"}

    def test_that_is_throttled_is_given_up_at_the_deadline_without_a_failure(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("left/app", policy=document(grant(A)))
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 1_000)

        report = function.reconcile("*", timeout=40)

        assert details(report, "left/app")["outcome"] == "out_of_scope"
        report.raise_for_failures()
