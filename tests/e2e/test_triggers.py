"""What makes the deployed function check which repositories, and what does not."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local import worker
from local.aws import ACCOUNT, CLOUDTRAIL_DELAY, STACK
from tests.e2e.conftest import ALLOW_PULL, FOREIGN, Stack

type SavedEvent = Callable[[str], dict[str, Any]]
type Change = dict[str, Any]


class TestEachTriggerAlone:
    def test_created_by_a_call(self, stack: Stack) -> None:
        with stack.only("RepositoryCreated"):
            stack.create("created/app")
            stack.wait_for("created/app", ALLOW_PULL)

    def test_created_by_ecr_itself(self, stack: Stack) -> None:
        with stack.only("RepositoryCreated"):
            stack.create("docker-hub/created/app")
            stack.wait_for("docker-hub/created/app", ALLOW_PULL)

    def test_policy_overwritten(self, stack: Stack) -> None:
        with stack.only("PolicyChanged"):
            stack.create("overwritten/app", ALLOW_PULL)
            stack.set_policy("overwritten/app", FOREIGN)
            stack.wait_for("overwritten/app", FOREIGN, ALLOW_PULL)

    def test_policy_deleted(self, stack: Stack) -> None:
        with stack.only("PolicyChanged"):
            stack.create("deleted/app", ALLOW_PULL)
            stack.registry.delete_repository_policy(repositoryName="deleted/app")
            stack.wait_for("deleted/app", ALLOW_PULL)

    def test_image_pushed_where_there_is_no_trail(self, stack: Stack) -> None:
        with stack.only("ImageArrived"):
            stack.create("pushed/app")
            worker.push(stack.registry, "pushed/app")
            stack.wait_for("pushed/app", ALLOW_PULL)

    @pytest.mark.parametrize(
        ("event", "repository"),
        [("image-cached", "ecr-public/docker/library/alpine"), ("image-replicated", "team/app")],
    )
    def test_image_arrived_otherwise(
        self, stack: Stack, saved_event: SavedEvent, event: str, repository: str
    ) -> None:
        with stack.only("ImageArrived"):
            stack.create(repository)
            stack.send(saved_event(event))
            stack.wait_for(repository, ALLOW_PULL)

    def test_deployed(self, stack: Stack, saved_event: SavedEvent) -> None:
        with stack.only("Deployed"):
            stack.create("older-than-the-stack/app")
            stack.send(of_this_stack(stack, saved_event("deployed")))
            stack.wait_for("older-than-the-stack/app", ALLOW_PULL)

    def test_schedule(self, stack: Stack) -> None:
        scheduler = stack.aws.scheduler()
        (name,) = (schedule["Name"] for schedule in scheduler.list_schedules()["Schedules"])
        schedule = scheduler.get_schedule(Name=name)
        assert schedule["ScheduleExpression"] == "rate(1 day)"
        assert schedule["FlexibleTimeWindow"]["Mode"] == "FLEXIBLE"
        assert schedule["Target"]["DeadLetterConfig"]["Arn"].startswith("arn:aws:sqs:")

        with stack.only():
            stack.create("missed-by-all-events/app")
            soon = datetime.now(UTC) + timedelta(seconds=2)
            scheduler.create_schedule(
                Name="the-same-but-soon",
                ScheduleExpression=f"at({soon:%Y-%m-%dT%H:%M:%S})",
                FlexibleTimeWindow={"Mode": "OFF"},
                Target=schedule["Target"],
            )
            stack.wait_for("missed-by-all-events/app", ALLOW_PULL)


def test_the_functions_own_write_does_not_invoke_it(stack: Stack) -> None:
    before = len(stack.reports())
    stack.create("quiet/app")
    stack.wait_for("quiet/app", ALLOW_PULL)

    time.sleep(CLOUDTRAIL_DELAY + 1)

    assert [report["outcomes"] for report in stack.reports()[before:]] == [{"attached": 1}]


def test_two_stacks_that_start_on_the_same_repository_both_get_their_role_in_and_then_rest(
    stack: Stack,
) -> None:
    other_role = f"{worker.ROLE_ARN}-of-another-stack"
    stack.aws.deploy({"WorkerRoleArns": other_role}, stack="second")

    def settled() -> bool:
        match stack.statements_of("shared/app"):
            case [{"Sid": "AllowPull", "Principal": {"AWS": [*roles]}}]:
                return set(roles) == {worker.ROLE_ARN, other_role}
        return False

    try:
        stack.create("shared/app")
        stack.wait_until(settled)
        time.sleep(2 * CLOUDTRAIL_DELAY + 1)
        quiet = len(stack.reports()), stack.aws.log("second").count('"message":"report"')
        time.sleep(2 * CLOUDTRAIL_DELAY + 1)

        assert settled()
        assert quiet == (len(stack.reports()), stack.aws.log("second").count('"message":"report"'))
    finally:
        stack.aws.cloudformation().delete_stack(StackName="second")
        stack.aws.cloudformation().get_waiter("stack_delete_complete").wait(StackName="second")


OURS: list[tuple[str, Change, str]] = [
    ("created-by-api", {}, "RepositoryCreated"),
    ("created-by-service", {}, "RepositoryCreated"),
    ("policy-set", {}, "PolicyChanged"),
    ("policy-deleted", {}, "PolicyChanged"),
    ("policy-set", {"userIdentity": {"accountId": ACCOUNT, "invokedBy": "x.amazonaws.com"}}, "PolicyChanged"),
    (
        "policy-set",
        {"userIdentity": {"type": "Root", "arn": f"arn:aws:iam::{ACCOUNT}:root"}},
        "PolicyChanged",
    ),
    ("policy-set", {"userIdentity": None}, "PolicyChanged"),
    ("image-pushed", {}, "ImageArrived"),
    ("image-cached", {}, "ImageArrived"),
    ("image-replicated", {}, "ImageArrived"),
    ("deployed", {}, "Deployed"),
    ("deployed", {"status-details": {"status": "CREATE_COMPLETE"}}, "Deployed"),
]
LOOK_ALIKES: list[tuple[str, Change]] = [
    ("creation-failed", {}),
    ("created-by-api", {"source": "aws.codecommit", "eventSource": "codecommit.amazonaws.com"}),
    ("created-by-api", {"eventSource": "ecr-public.amazonaws.com"}),
    ("created-by-api", {"eventName": "DeleteRepository"}),
    ("created-by-api", {"errorCode": None}),
    ("policy-set", {"errorCode": "InvalidParameterException"}),
    ("policy-set", {"eventName": "GetRepositoryPolicy"}),
    ("policy-set", {"eventName": "PutRegistryPolicy"}),
    ("policy-set", {"userIdentity": "our own"}),
    ("image-pushed", {"action-type": "DELETE"}),
    ("image-pushed", {"result": "FAILURE"}),
    ("image-cached", {"sync-status": "FAILED"}),
    ("image-replicated", {"result": "FAILED"}),
    ("image-pushed", {"detail-type": "ECR Image Scan"}),
    ("deployed", {"status-details": {"status": "UPDATE_IN_PROGRESS"}}),
    ("deployed", {"status-details": {"status": "UPDATE_ROLLBACK_COMPLETE"}}),
    ("deployed", {"stack-id": f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/other/1"}),
]


@pytest.mark.parametrize(("event", "change", "rule"), OURS)
def test_an_event_reaches_its_rule_and_no_other(
    stack: Stack, saved_event: SavedEvent, event: str, change: Change, rule: str
) -> None:
    assert reached(stack, changed(stack, saved_event(event), change)) == [rule]


@pytest.mark.parametrize(("event", "change"), LOOK_ALIKES)
def test_a_look_alike_reaches_no_rule(
    stack: Stack, saved_event: SavedEvent, event: str, change: Change
) -> None:
    assert reached(stack, changed(stack, saved_event(event), change)) == []


def test_from_each_event_exactly_one_invocation_follows(stack: Stack, saved_event: SavedEvent) -> None:
    before = len(stack.reports())

    for event, change in LOOK_ALIKES:
        stack.send(changed(stack, saved_event(event), change))
    for number, (event, change, _) in enumerate(OURS):
        assert len(stack.reports()) - before == number
        stack.send(changed(stack, saved_event(event), change))
        stack.wait_until(lambda: len(stack.reports()) - before > number)  # noqa: B023 - called at once

    time.sleep(CLOUDTRAIL_DELAY + 1)
    assert len(stack.reports()) - before == len(OURS)


def of_this_stack(stack: Stack, event: dict[str, Any]) -> dict[str, Any]:
    (described,) = stack.aws.cloudformation().describe_stacks(StackName=STACK)["Stacks"]
    stack_id = described["StackId"]
    return event | {"resources": [stack_id], "detail": event["detail"] | {"stack-id": stack_id}}


def changed(stack: Stack, event: dict[str, Any], change: Change) -> dict[str, Any]:
    """Give the event with something else in its envelope or its detail; None takes out."""
    if event["source"] == "aws.cloudformation":
        event = of_this_stack(stack, event)
    if change.get("userIdentity") == "our own":
        change = {"userIdentity": {"type": "AssumedRole", "arn": own_identity(stack)}}
    envelope = {key: value for key, value in change.items() if key in event}
    detail = event["detail"] | {key: value for key, value in change.items() if key not in event}
    if change.get("userIdentity", "") is None:
        del detail["userIdentity"]
    return event | envelope | {"account": ACCOUNT, "detail": detail}


def own_identity(stack: Stack) -> str:
    name = stack.outputs["FunctionName"]
    role = stack.aws.lambda_().get_function_configuration(FunctionName=name)["Role"].split("/")[-1]
    return f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{name}"


def reached(stack: Stack, event: dict[str, Any]) -> list[str]:
    """Tell which rules of the stack let an event through."""
    events = stack.aws.events()
    return [
        logical
        for logical, name in stack.rules().items()
        if events.test_event_pattern(
            EventPattern=events.describe_rule(Name=name)["EventPattern"], Event=json.dumps(event)
        )["Result"]
    ]
