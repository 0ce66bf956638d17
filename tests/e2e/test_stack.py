"""The deployed stack: what users type, what AWS sends, what workers may pull."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from local import worker
from local.aws import ACCOUNT, STACK, LocalAwsError
from tests.e2e.conftest import Stack

PATIENCE = 30  # seconds
FOREIGN = {
    "Sid": "CiMayPush",
    "Effect": "Allow",
    "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
    "Action": "ecr:PutImage",
}
ALLOW_PULL = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": worker.ROLE_ARN},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}


def create(stack: Stack, repository: str, *statements: object) -> None:
    stack.registry.create_repository(repositoryName=repository)
    if statements:
        text = json.dumps({"Version": "2012-10-17", "Statement": statements})
        stack.registry.set_repository_policy(repositoryName=repository, policyText=text)
    worker.push(stack.registry, repository)


def statements_of(stack: Stack, repository: str) -> list[object]:
    text = stack.registry.get_repository_policy(repositoryName=repository)["policyText"]
    statements: list[object] = json.loads(text)["Statement"]
    return statements


def wait_until_pullable(stack: Stack, repository: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (refusal := worker.refusal(stack.node, repository)) is not None:
        assert time.monotonic() < deadline, f"{refusal}\n{stack.aws.log()}"
        time.sleep(0.1)


def invoke(stack: Stack, event: object) -> Any:  # noqa: ANN401 - it is JSON
    response = stack.aws.lambda_().invoke(
        FunctionName=stack.outputs["FunctionName"], Payload=json.dumps(event)
    )
    return json.loads(response["Payload"].read())


@pytest.mark.parametrize("repository", ["made-by-a-call/app", "docker-hub/library/alpine"])
def test_a_new_repository_becomes_pullable_from_the_workers_account(stack: Stack, repository: str) -> None:
    create(stack, repository)
    assert worker.refusal(stack.node, repository) is not None

    wait_until_pullable(stack, repository)

    assert statements_of(stack, repository) == [ALLOW_PULL]


def test_a_statement_that_was_there_first_stays_as_it_was(stack: Stack) -> None:
    create(stack, "with-a-policy/app", FOREIGN)

    wait_until_pullable(stack, "with-a-policy/app")

    assert statements_of(stack, "with-a-policy/app") == [FOREIGN, ALLOW_PULL]


def test_a_worker_needs_its_own_accounts_leave_too(stack: Stack) -> None:
    create(stack, "both-sides/app")
    wait_until_pullable(stack, "both-sides/app")

    with worker.without_its_own_permission(stack.aws):
        assert worker.refusal(stack.node, "both-sides/app") is not None

    assert worker.refusal(stack.node, "both-sides/app") is None


class TestARerunByHand:
    def test_of_all_mends_every_repository(self, stack: Stack) -> None:
        create(stack, "mended/app")
        wait_until_pullable(stack, "mended/app")
        stack.registry.delete_repository_policy(repositoryName="mended/app")

        printed = stack.aws.sam(
            "remote", "invoke", "--stack-name", STACK, "--event-file", "events/rerun-all.json"
        )

        report = json.loads(printed[printed.index("{") :])
        assert {"repository": "mended/app", "outcome": "attached", "added": [worker.ROLE_ARN]} in report[
            "repositories"
        ]
        assert statements_of(stack, "mended/app") == [ALLOW_PULL]

    def test_as_a_dry_run_writes_nothing(self, stack: Stack) -> None:
        create(stack, "looked-at/app")
        wait_until_pullable(stack, "looked-at/app")
        stack.registry.delete_repository_policy(repositoryName="looked-at/app")

        report = invoke(stack, {"repositories": ["looked-at/*"], "dry_run": True})

        assert report["outcomes"] == {"would_attach": 1}
        assert worker.refusal(stack.node, "looked-at/app") is not None

    def test_with_a_wrong_payload_is_refused_and_shown_the_right_form(self, stack: Stack) -> None:
        answer = invoke(stack, {"repository": "team/app"})

        assert '{"repositories": ["team/app", "ml/*"], "dry_run": true}' in answer["errorMessage"]


def test_a_wrong_setting_stops_the_function_with_a_message_that_names_it(stack: Stack) -> None:
    with environment(stack, WORKER_ROLE_ARNS="arn:aws:sts::222222222222:assumed-role/node-group/i-1"):
        answer = invoke(stack, {"repositories": ["*"]})

    assert "WORKER_ROLE_ARNS" in answer["errorMessage"]
    assert "arn:aws:iam::222222222222:role/node-group" in answer["errorMessage"]


@contextmanager
def environment(stack: Stack, **variables: str) -> Iterator[None]:
    functions, name = stack.aws.lambda_(), stack.outputs["FunctionName"]
    before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": before | variables})
    try:
        yield
    finally:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": before})


@pytest.mark.parametrize(
    ("event", "change", "reaches"),
    [
        ("created-by-api", {}, True),
        ("created-by-service", {}, True),
        ("creation-failed", {}, False),
        ("created-by-api", {"source": "aws.codecommit"}, False),
        ("created-by-api", {"detail": {"eventSource": "ecr-public.amazonaws.com"}}, False),
        ("created-by-api", {"detail": {"eventName": "DeleteRepository"}}, False),
        ("created-by-api", {"detail": {"errorCode": None}}, False),
        ("created-by-api", {"detail-type": "ECR Image Action"}, False),
    ],
)
def test_the_rule_lets_through_what_the_function_acts_on(
    stack: Stack,
    rule_pattern: str,
    saved_event: Callable[[str], dict[str, Any]],
    event: str,
    change: dict[str, Any],
    *,
    reaches: bool,
) -> None:
    sent = saved_event(event)
    sent = sent | change | {"detail": sent["detail"] | change.get("detail", {})}

    answer = stack.aws.events().test_event_pattern(EventPattern=rule_pattern, Event=json.dumps(sent))

    assert answer["Result"] is reaches


def test_sam_refuses_to_deploy_a_mode_that_does_not_exist(stack: Stack) -> None:
    with pytest.raises(LocalAwsError, match="Mode"):
        stack.aws.deploy({"WorkerRoleArns": worker.ROLE_ARN, "Mode": "maybe"}, stack="wrong-mode")
