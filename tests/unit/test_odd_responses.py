"""Responses with status 200 that are not ECR's, as a proxy may send them: ECR is unavailable."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from devstack.fake_ecr import DELETE, LIST, READ, READ_REGISTRY, WRITE, FakeEcr, normalized
from handler.ecr.errors import RegistryError
from handler.ecr.retry import MAX_FAILURES
from handler.report.report import RepositoriesFailed
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function
from tests.unit.policies import A, B, document, grant

ODD = [
    b"<!DOCTYPE html><html><body>Sign in</body></html>",
    b"",
    b"[]",
    b'"text"',
    b"7",
    b"null",
    b"{}",
    b'{"message": "try later"}',
    b'{"policyText": null, "repositories": null}',
]

pytestmark = pytest.mark.parametrize("body", ODD)


@pytest.mark.parametrize("operation", [READ, WRITE, LIST])
def test_are_retried(ecr: FakeEcr, function: Function, operation: str, body: bytes) -> None:
    ecr.create_repository("app")
    ecr.inject_bodies(operation, *[body] * (MAX_FAILURES - 1))

    report = function.run("app*")

    assert report["outcomes"] == {"attached": 1}
    assert ecr.get_policy("app") == normalized(document(grant(A)))
    assert function.backoffs == MAX_FAILURES - 1


@pytest.mark.parametrize("operation", [READ, WRITE])
def test_that_stay_fail_the_repository_by_its_name(
    ecr: FakeEcr,
    function: Function,
    logged: Callable[[], list[dict[str, Any]]],
    operation: str,
    body: bytes,
) -> None:
    ecr.create_repository("app")
    ecr.inject_bodies(operation, *[body] * MAX_FAILURES)

    with pytest.raises(
        RepositoriesFailed, match=r"^1 of 1 repositories failed: app: ECR's response"
    ) as caught:
        function.run("app")

    assert f"to {operation} " in str(caught.value)
    assert function.answers[0]["outcomes"] == {"failed": 1}
    assert "added" not in function.answers[0]["repositories"][0]
    assert ecr.policies["app"] is None
    assert "internal error" not in [line["message"] for line in logged()]


def test_that_stay_fail_a_removal_by_its_name(ecr: FakeEcr, function: Function, body: bytes) -> None:
    ecr.create_repository("app", policy=document(grant(A)))
    function.settings["MODE"] = "remove"
    ecr.inject_bodies(DELETE, *[body] * MAX_FAILURES)

    with pytest.raises(RepositoriesFailed, match=f"app: ECR's response to {DELETE} "):
        function.run("app")

    assert function.answers[0]["outcomes"] == {"failed": 1}
    assert ecr.policies["app"]


def test_to_a_removal_are_retried(ecr: FakeEcr, function: Function, body: bytes) -> None:
    ecr.create_repository("app", policy=document(grant(A)))
    function.settings["MODE"] = "remove"
    ecr.inject_bodies(DELETE, body)

    assert function.run("app")["outcomes"] == {"removed": 1}
    assert ecr.policies["app"] is None


def test_that_stay_fail_a_listing(ecr: FakeEcr, function: Function, body: bytes) -> None:
    ecr.create_repository("app")
    ecr.inject_bodies(LIST, *[body] * MAX_FAILURES)

    with pytest.raises(RegistryError, match=f"^ECR's response to {LIST} "):
        function.run()


def test_to_a_role_check_say_nothing_of_the_role(ecr: FakeEcr, function: Function, body: bytes) -> None:
    function.roles = (A, B)
    ecr.delete_role(B)
    ecr.create_repository("app")
    # The write that is rejected for the missing role comes first.
    ecr.run_after(WRITE, lambda: ecr.inject_bodies(WRITE, body))

    with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing in 1 of 1 repositories"):
        function.run("app")

    assert ecr.get_policy("app") == normalized(document(grant(A)))
    assert ecr.policies[ROLE_CHECK_REPOSITORY]


def test_to_a_read_of_the_registrys_policy_are_a_note(ecr: FakeEcr, function: Function, body: bytes) -> None:
    ecr.create_repository("app")
    ecr.inject_bodies(READ_REGISTRY, body)

    report = function.run()

    assert report["outcomes"] == {"attached": 1}
    assert report["registry_policy"]["status"] == "unknown"
    assert report["registry_policy"]["note"].startswith(f"ECR's response to {READ_REGISTRY} ")
    assert json.dumps(report)
