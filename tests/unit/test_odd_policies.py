"""Odd documents and errors instead of a policy, for each place that reads one: the outcome is defined.

One repository's policy stops no other repository, and the error names the repository and what to do.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from devstack.fake_ecr import READ, READ_REGISTRY, WRITE, EcrError, FakeEcr, normalized
from handler.ecr.retry import MAX_FAILURES
from handler.report.report import RepositoriesFailed
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function, Invocation
from tests.unit.policies import CI, A, document, grant, push

PUSH = push(f"arn:aws:iam::444444444444:role/{CI[-2:]}")
NOT_JSON = "the policy cannot be parsed, or not written back, as JSON"
TEXT = "für später 🚀"
NO_OBJECT = "the policy is not a JSON object"
NO_STATEMENT = '"Statement" in the policy is neither an object nor a list of objects'
TWICE = "the policy has an object with the same key twice"
UNKNOWN = "the policy has unknown elements: only Version, Id and Statement are known"
NUMBER = "the policy holds a number that cannot be written back unchanged"
INVALID = {
    "not JSON": ("Sign in", NOT_JSON),
    "cut off": ('{"Statement": [', NOT_JSON),
    "two documents": ("{}{}", NOT_JSON),
    "byte order mark": ("\ufeff" + json.dumps(document(PUSH)), NOT_JSON),
    "lone surrogate": ('{"Statement": {"Sid": "\\ud800"}}', NOT_JSON),
    "nested deeply": ('{"Statement": ' + "[" * 90_000 + "]" * 90_000 + "}", NOT_JSON),
    "not a number": ('{"Statement": {"Condition": NaN}}', NOT_JSON),
    "large exponent": ('{"Statement": {"Condition": 1e999}}', NUMBER),
    "other number": ('{"Statement": {"Condition": 1.10}}', NUMBER),
    "list": ("[]", NO_OBJECT),
    "null": ("null", NO_OBJECT),
    "string": ('"text"', NO_OBJECT),
    "number": ("7", NO_OBJECT),
    "no statement": ("{}", NO_STATEMENT),
    "null as statement": ('{"Statement": null}', NO_STATEMENT),
    "string as statement": ('{"Statement": "all"}', NO_STATEMENT),
    "number in statements": ('{"Statement": [{}, 7]}', NO_STATEMENT),
    "list in statements": ('{"Statement": [[{}]]}', NO_STATEMENT),
    "key twice": ('{"Statement": [], "Statement": []}', TWICE),
    "key twice inside": ('{"Statement": {"Sid": "a", "Sid": "b"}}', TWICE),
    "unknown element": ('{"Statement": [], "Extra": 1}', UNKNOWN),
    "wrong case": ('{"statement": []}', UNKNOWN),
}
# The repositories of which each has one of these policies.
PROBLEMS = {f"odd-{number:02}": problem for number, (_, problem) in enumerate(INVALID.values())}
# Each with the statements that stay.
VALID: dict[str, tuple[str, list[Any]]] = {
    "empty": ("", []),
    "blank": (" \n\t", []),
    "no statements": ('{"Statement": []}', []),
    "one statement as an object": (json.dumps({"Version": "2012-10-17", "Statement": PUSH}), [PUSH]),
    "not ASCII": (json.dumps(document(PUSH | {"Sid": TEXT}), ensure_ascii=False), [PUSH | {"Sid": TEXT}]),
    "escaped": (json.dumps(document(PUSH | {"Sid": TEXT})), [PUSH | {"Sid": TEXT}]),
    "blank around": ("\n " + json.dumps(document(PUSH), indent=8) + " \n", [PUSH]),
}


def body(text: str) -> bytes:
    """Return the response with a policy's text."""
    return json.dumps({"repositoryName": "odd", "policyText": text}).encode()


class OddEcr(FakeEcr):
    """A fake ECR in which some repositories have a text as their policy, until a policy is written."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    def handle_request(self, target: str, content: bytes) -> tuple[int, bytes] | None:
        name = json.loads(content).get("repositoryName")
        if target.endswith(READ) and name in self.texts and not self.policies[name]:
            return 200, body(self.texts[name])
        return super().handle_request(target, content)


@pytest.fixture
def ecr() -> OddEcr:
    ecr = OddEcr()
    ecr.create_role(A, *PUSH["Principal"]["AWS"])
    ecr.create_repository(ROLE_CHECK_REPOSITORY, "fine", "odd")
    return ecr


def failure(invocation: Invocation) -> str:
    assert isinstance(invocation.error, RepositoriesFailed)
    return str(invocation.error)


def outcomes(invocation: Invocation) -> dict[str, str]:
    return {name: result.outcome.value for name, result in invocation.results.items()}


class TestInvalidPoliciesOfRepositories:
    @pytest.fixture(autouse=True)
    def repositories(self, ecr: OddEcr) -> None:
        ecr.delete_repository("odd")
        ecr.create_repository(*PROBLEMS)
        ecr.texts.update(zip(PROBLEMS, (text for text, _ in INVALID.values()), strict=True))

    @pytest.mark.parametrize(
        ("settings", "dry_run", "fine"),
        [
            ({}, False, "attached"),
            ({}, True, "would_attach"),
            ({"MODE": "plan"}, False, "would_attach"),
            ({"MODE": "remove"}, False, "unchanged"),
            ({"REMOVE_UNLISTED_ROLES": "true"}, False, "attached"),
        ],
    )
    def test_fail_each_of_them_and_no_other_with_its_name_the_problem_and_the_fix(
        self,
        ecr: OddEcr,
        function: Function,
        logged: Callable[[], list[dict[str, Any]]],
        settings: dict[str, str],
        fine: str,
        *,
        dry_run: bool,
    ) -> None:
        payload = {"repositories": ["*"], "dry_run": dry_run}

        invocation = function.invoke(payload, timeout=None, **settings)

        assert outcomes(invocation) == dict.fromkeys(PROBLEMS, "failed") | {"fine": fine}
        lines = [line for line in logged() if line["message"] == "reconcile failed"]
        assert {line["repository"]: line["reason"] for line in lines} == {
            name: f"{problem}. Ask the owner to correct the policy" for name, problem in PROBLEMS.items()
        }
        assert f"{len(PROBLEMS)} of {len(PROBLEMS) + 1} repositories failed: odd-00: {NOT_JSON}. " in (
            failure(invocation)
        )
        assert not [name for operation, name, _ in ecr.call_log if operation == WRITE and name in PROBLEMS]

    def test_out_of_scope_are_reported_by_name_and_are_no_failure(
        self, ecr: OddEcr, function: Function
    ) -> None:
        invocation = function.invoke(
            {"repositories": ["*"]}, timeout=None, REPOSITORIES="*,!odd*", REMOVE_UNLISTED_ROLES="true"
        )

        assert invocation.error is None
        assert ecr.get_policy("fine")
        assert outcomes(invocation) == dict.fromkeys(PROBLEMS, "out_of_scope") | {"fine": "attached"}
        assert {
            name: result.reason for name, result in invocation.results.items() if result.reason
        } == PROBLEMS


def test_an_invalid_policy_of_the_registry_is_a_note_and_stops_nothing(
    ecr: OddEcr, function: Function
) -> None:
    ecr.inject_bodies(READ_REGISTRY, *(body(text) for text, _ in INVALID.values()))

    reports = [function.run("fine") for _ in INVALID]

    assert [report["registry_policy"] for report in reports] == [
        {"status": "unknown", "note": problem} for _, problem in INVALID.values()
    ]
    assert [report["outcomes"] for report in reports] == [{"attached": 1}] + [{"unchanged": 1}] * (
        len(reports) - 1
    )


def test_an_odd_but_valid_policy_of_the_registry_says_nothing_of_the_pull(
    ecr: OddEcr, function: Function
) -> None:
    ecr.inject_bodies(READ_REGISTRY, *(body(text) for text, _ in VALID.values()))

    assert [function.run("fine")["registry_policy"] for _ in VALID] == [{"status": "silent"}] * len(VALID)


@pytest.mark.parametrize(("text", "statements"), VALID.values(), ids=VALID.keys())
def test_an_odd_but_valid_policy_of_a_repository_gains_the_grant_and_keeps_its_statements(
    ecr: OddEcr, function: Function, text: str, statements: list[Any]
) -> None:
    ecr.texts["odd"] = text

    assert function.run("odd")["outcomes"] == {"attached": 1}
    stored = ecr.get_policy("odd")
    assert stored
    assert stored["Statement"] == normalized(document(*statements, grant(A)))["Statement"]


def test_a_policy_that_is_already_too_long_fails_that_repository_with_the_length(
    ecr: OddEcr, function: Function
) -> None:
    ecr.texts["odd"] = json.dumps(document(push(CI, sid="x" * 1_000_000)))

    invocation = function.invoke({"repositories": ["*"]})

    assert outcomes(invocation) == {"odd": "failed", "fine": "attached"}
    assert f"odd: no space for {A}: the policy would have 1,00" in failure(invocation)
    assert "ECR allows 10,240: shorten the other statements" in failure(invocation)


ERRORS = {
    "no permission": EcrError("AccessDeniedException", "not authorized to perform"),
    "no policy permission": EcrError("InvalidParameterException", "Invalid parameter"),
    "validation": EcrError("ValidationException", "too short"),
    "unknown": EcrError("SomethingNewException", "unheard of", status=418),
    "no message": EcrError("SomethingNewException", ""),
}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())


class TestAnErrorOfTheRead:
    @errors
    def test_fails_that_repository_alone_at_once_with_its_name_the_call_and_ecrs_reason(
        self, ecr: OddEcr, function: Function, error: EcrError
    ) -> None:
        ecr.inject_faults(READ, error, repository="odd")

        invocation = function.invoke({"repositories": ["*"]})

        reason = f"ECR refused {READ}: {error.code}: {error.message or 'no message'}"
        assert failure(invocation) == f"1 of 2 repositories failed: odd: {reason}"
        assert outcomes(invocation) == {"odd": "failed", "fine": "attached"}
        assert function.backoffs == 0

    def test_that_may_pass_is_retried_up_to_a_number(self, ecr: OddEcr, function: Function) -> None:
        busy = EcrError("ServerException", "out of order", status=500)
        ecr.inject_faults(READ, *[busy] * MAX_FAILURES, repository="odd")

        invocation = function.invoke({"repositories": ["*"]})

        assert failure(invocation).endswith(f"odd: ECR refused {READ}: ServerException: out of order")
        assert outcomes(invocation) == {"odd": "failed", "fine": "attached"}
        assert function.backoffs == MAX_FAILURES - 1

    def test_that_there_is_no_policy_is_no_error(self, ecr: OddEcr, function: Function) -> None:
        ecr.inject_faults(READ, EcrError("RepositoryPolicyNotFoundException", "none"), repository="odd")

        assert function.run("*")["outcomes"] == {"attached": 2}

    def test_that_there_is_no_repository_is_no_failure(self, ecr: OddEcr, function: Function) -> None:
        ecr.inject_faults(READ, EcrError("RepositoryNotFoundException", "none"), repository="odd")

        assert function.run("*")["outcomes"] == {"attached": 1, "gone": 1}

    @errors
    def test_out_of_scope_is_reported_and_is_no_failure(
        self, ecr: OddEcr, function: Function, error: EcrError
    ) -> None:
        ecr.inject_faults(READ, error, repository="odd")

        invocation = function.invoke(
            {"repositories": ["*"]}, timeout=None, REPOSITORIES="*,!odd", REMOVE_UNLISTED_ROLES="true"
        )

        assert invocation.error is None
        assert outcomes(invocation) == {"odd": "out_of_scope", "fine": "attached"}
        assert error.code in invocation.results["odd"].reason

    @errors
    def test_of_the_registrys_policy_is_a_note(
        self, ecr: OddEcr, function: Function, error: EcrError
    ) -> None:
        ecr.inject_faults(READ_REGISTRY, error)

        report = function.run("*")

        reason = f"ECR refused {READ_REGISTRY}: {error.code}: {error.message or 'no message'}"
        assert report["registry_policy"] == {"status": "unknown", "note": reason}
        assert report["outcomes"] == {"attached": 2}

    def test_that_the_registry_has_no_policy_is_no_error(self, ecr: OddEcr, function: Function) -> None:
        ecr.inject_faults(READ_REGISTRY, EcrError("RegistryPolicyNotFoundException", "none"))

        assert function.run("*")["registry_policy"] == {"status": "silent"}
