"""The registry's policy: what it means for the grants, and what the report says on it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from devstack.fake_ecr import ACCOUNT, READ_REGISTRY, REGION, FakeEcr, Fault
from handler.ecr.registry import Registry
from handler.events.request import Request
from handler.policy.grants import ACTIONS, DESCRIBE_IMAGES, PULL, PULL_THROUGH_CACHE, Grant
from handler.policy.registry_policy import RegistryPolicy, Status, evaluate
from handler.reconcile.sweep import read_registry_policy
from handler.report.report import Report
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.virtual_time import limiter_without_waits

A, B = (f"arn:aws:iam::22222222222{n}:role/unionai-acme-flyteworker-node-group" for n in (2, 3))
PREFIX = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/"
EVERY_REPOSITORY = f"{PREFIX}*"
OF_THE_ORGANIZATION = {"StringEquals": {"aws:PrincipalOrgID": "o-exampleorgid"}}
GRANTS = (Grant(PULL, (A, B)), Grant(DESCRIBE_IMAGES, (B,)), Grant(PULL_THROUGH_CACHE, ()))

type Json = dict[str, Any]


def allow(**elements: object) -> Json:
    statement: Json = {
        "Sid": "Pull",
        "Effect": "Allow",
        "Principal": {"AWS": [A, B]},
        "Action": list(ACTIONS[PULL]),
        "Resource": EVERY_REPOSITORY,
    }
    return statement | elements


def deny(**elements: object) -> Json:
    return allow(Sid="No", Effect="Deny", Action="ecr:*") | elements


def evaluated(*statements: Json) -> RegistryPolicy:
    return evaluate({"Version": "2012-10-17", "Statement": list(statements)}, GRANTS, PREFIX)


class TestStatus:
    @pytest.mark.parametrize(
        "statement",
        [
            allow(),
            allow(Principal="*"),
            allow(Principal={"AWS": ["222222222222", "arn:aws:iam::222222222223:root"]}),
            allow(Action="ecr:*"),
            allow(Resource="*"),
            allow(Resource=["arn:aws:s3:::bucket", f"arn:aws:ecr:*:{ACCOUNT}:repository/*"]),
        ],
    )
    def test_allows_if_every_worker_role_may_pull_from_every_repository(self, statement: Json) -> None:
        assert evaluated(statement).status is Status.ALLOWS

    def test_allows_if_several_statements_do_so_together(self) -> None:
        first, *others = ACTIONS[PULL]

        policy = evaluated(
            allow(Action=first),
            allow(Action=others, Principal={"AWS": A}),
            allow(Action=others, Principal={"AWS": B}),
        )

        assert policy.status is Status.ALLOWS

    @pytest.mark.parametrize(
        "statement",
        [
            allow(Resource=f"{PREFIX}team/*"),
            allow(Resource=f"{PREFIX}?"),
            allow(Resource="arn:aws:ecr:eu-west-1:111122223333:repository/*"),
            allow(Action="ecr:BatchGetImage"),
            allow(Action="ecr:ReplicateImage"),
            allow(Principal={"AWS": "444444444444"}),
            allow(Principal={"Service": "lambda.amazonaws.com"}),
        ],
    )
    def test_is_silent_if_no_role_may_pull_from_every_repository(self, statement: Json) -> None:
        assert evaluated(statement).status is Status.SILENT
        assert evaluate(None, GRANTS, PREFIX).status is Status.SILENT

    def test_names_the_roles_if_some_may(self) -> None:
        policy = evaluated(allow(Principal={"AWS": A}))

        assert (policy.status, policy.allowed) == (Status.ALLOWS_SOME_ROLES, (A,))

    def test_is_conditional_if_a_condition_decides(self) -> None:
        assert evaluated(allow(Condition=OF_THE_ORGANIZATION)).status is Status.CONDITIONAL
        assert evaluated(allow(), deny(Condition=OF_THE_ORGANIZATION)).status is Status.CONDITIONAL
        assert evaluated(allow(), allow(Condition=OF_THE_ORGANIZATION)).status is Status.ALLOWS

    def test_is_conditional_if_a_statement_denies_the_pull_from_some_repositories(self) -> None:
        policy = evaluated(allow(), deny(Resource=f"{PREFIX}team/*"))

        assert policy.status is Status.CONDITIONAL
        assert [(denial.grant, denial.conditional) for denial in policy.denied_by] == [
            (grant.sid, True) for grant in GRANTS[:2]
        ]

    def test_denies_if_a_statement_denies_a_role_the_pull(self) -> None:
        policy = evaluated(allow(), deny(Principal={"AWS": B}))

        assert policy.status is Status.DENIES
        assert {(denial.statement, denial.grant, denial.roles) for denial in policy.denied_by} == {
            ('"No"', PULL, (B,)),
            ('"No"', DESCRIBE_IMAGES, (B,)),
        }

    def test_is_not_affected_by_a_denial_that_refuses_no_pull(self) -> None:
        assert evaluated(allow(), deny(Action="ecr:DescribeImages")).status is Status.ALLOWS


def read_from(ecr: FakeEcr, **variables: str) -> RegistryPolicy:
    settings = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": f"{A},{B}"} | variables)
    return read_registry_policy(Registry(ecr.client(), limiter_without_waits()), settings, PREFIX)


class TestReading:
    def test_evaluates_what_ecr_returns(self, ecr: FakeEcr) -> None:
        ecr.registry_policy = {"Version": "2012-10-17", "Statement": [allow()]}

        assert read_from(ecr).status is Status.ALLOWS
        assert ecr.calls == {READ_REGISTRY: 1}

    def test_evaluates_the_grants_of_some_repositories_too(self, ecr: FakeEcr) -> None:
        ecr.registry_policy = {
            "Version": "2012-10-17",
            "Statement": [deny(Action=[*ACTIONS[PULL_THROUGH_CACHE]])],
        }

        policy = read_from(ecr, PULL_THROUGH_CACHE_REPOSITORIES="docker-hub/*")

        assert {denial.grant for denial in policy.denied_by} == {PULL_THROUGH_CACHE}

    def test_without_a_policy_is_silent(self, ecr: FakeEcr) -> None:
        assert read_from(ecr) == RegistryPolicy(Status.SILENT)

    def test_without_permission_is_a_note(self, ecr: FakeEcr) -> None:
        ecr.denied_operations.add(READ_REGISTRY)

        policy = read_from(ecr)

        assert policy.status is Status.UNKNOWN
        assert "GetRegistryPolicy: AccessDeniedException" in policy.note

    def test_that_fails_is_a_note(self, ecr: FakeEcr) -> None:
        ecr.inject_faults(READ_REGISTRY, Fault.SERVER_ERROR)

        assert read_from(ecr).status is Status.UNKNOWN

    def test_of_an_invalid_policy_is_a_note(self, ecr: FakeEcr) -> None:
        ecr.registry_policy = {"Version": "2012-10-17", "Statement": 1}

        policy = read_from(ecr)

        assert policy.status is Status.UNKNOWN
        assert policy.note.startswith('"Statement" in the policy is neither')

    def test_with_a_bug_is_a_note_without_the_text_of_the_error(
        self, ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "handler.reconcile.sweep.evaluate", lambda *_: {"Sid": "Push"}["part of a policy"]
        )

        assert read_from(ecr) == RegistryPolicy(
            Status.UNKNOWN, note="unexpected KeyError, a bug of this function"
        )


class TestTheReport:
    def details(self, policy: RegistryPolicy) -> Mapping[str, object]:
        report = Report(Request(("*",)), dry_run=False)
        report.add_registry_policy(policy)
        details = report.response()["registry_policy"]
        assert isinstance(details, dict)
        return details

    def test_says_that_the_function_is_not_needed(self) -> None:
        details = self.details(evaluated(allow()))

        assert details["status"] == "allows"
        assert details["allowed"] == [A, B]
        assert "you need this function only for other grants" in str(details["note"])

    def test_names_the_statement_that_denies_and_counts_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = Report(Request(("*",)), dry_run=False)
        report.add_registry_policy(evaluated(deny(Action="ecr:BatchGetImage")))
        report.publish()

        assert report.response()["registry_policy"]["denied_by"] == [  # type: ignore[index]
            {"statement": '"No"', "grant": PULL, "roles": [A, B], "actions": ["ecr:BatchGetImage"]}
        ]
        assert '"PullsDenied":[1.0]' in capsys.readouterr().out

    def test_is_silent_if_the_policy_is(self) -> None:
        assert self.details(RegistryPolicy(Status.SILENT)) == {"status": "silent"}

    @pytest.mark.parametrize(
        ("statement", "lines"),
        [
            (deny(Action="ecr:BatchGetImage"), [("WARNING", "pull denied", "denies")]),
            (deny(Action="ecr:DescribeImages"), [("WARNING", "grant denied", "silent")]),
            (allow(), []),
        ],
    )
    def test_logs_a_denial_with_what_it_means(
        self,
        logged: Callable[[], list[dict[str, Any]]],
        statement: Json,
        lines: list[tuple[str, str, str]],
    ) -> None:
        Report(Request(("*",)), dry_run=False).add_registry_policy(evaluated(statement))

        assert [(line["level"], line["message"], line["status"]) for line in logged()] == lines
