"""The fake ECR that notes wrong writes does note them: otherwise, the convergence tests could not fail."""

import json

import pytest

from tests.unit.function import WatchedEcr
from tests.unit.policies import A, B, document, grant


@pytest.fixture
def ecr() -> WatchedEcr:
    ecr = WatchedEcr(caller="us")
    ecr.create_role(A, B)
    ecr.create_repository("app", "other", policy=document(grant(A)))
    return ecr


def read(ecr: WatchedEcr, name: str) -> None:
    ecr.client().get_repository_policy(repositoryName=name)


def write(ecr: WatchedEcr, name: str, *roles: str) -> None:
    text = json.dumps(document(grant(*roles)))
    ecr.client().set_repository_policy(repositoryName=name, policyText=text)


def test_a_write_that_changes_what_was_read_is_right(ecr: WatchedEcr) -> None:
    read(ecr, "app")
    write(ecr, "app", A, B)

    assert ecr.writes == [("us", "app")]
    assert ecr.wrong_writes == []


def test_a_write_that_changes_nothing_is_wrong(ecr: WatchedEcr) -> None:
    read(ecr, "app")
    write(ecr, "app", A)

    (wrong,) = ecr.wrong_writes
    assert wrong.startswith("us wrote app, which changed nothing")


@pytest.mark.parametrize("before", ["", "other"])
def test_a_write_that_does_not_follow_its_read_is_wrong(ecr: WatchedEcr, before: str) -> None:
    read(ecr, "app")
    if before:
        read(ecr, before)
    else:
        ecr.note_delay()
    write(ecr, "app", A, B)

    (wrong,) = ecr.wrong_writes
    assert wrong.startswith("us wrote app after ")
