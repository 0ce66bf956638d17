"""Tests which events invoke the deployed function, and which repositories it then reconciles."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devstack import data_plane
from devstack.aws import ACCOUNT, STACK
from tests.e2e.conftest import ALLOW_PULL, FOREIGN, Stack

type SavedEvent = Callable[[str], dict[str, Any]]
type Change = dict[str, Any]


class TestEachTrigger:
    def test_repository_created_by_api_call(self, stack: Stack) -> None:
        with stack.only_rules("RepositoryCreated"):
            stack.create_repository("created/app")
            stack.wait_for_statements("created/app", ALLOW_PULL)

    def test_repository_created_by_ecr(self, stack: Stack) -> None:
        with stack.only_rules("RepositoryCreated"):
            stack.create_repository("docker-hub/created/app")
            stack.wait_for_statements("docker-hub/created/app", ALLOW_PULL)

    def test_policy_overwritten(self, stack: Stack) -> None:
        with stack.only_rules("PolicyChanged"):
            stack.create_repository("overwritten/app", ALLOW_PULL)
            stack.set_policy("overwritten/app", FOREIGN)
            stack.wait_for_statements("overwritten/app", FOREIGN, ALLOW_PULL)

    def test_policy_deleted(self, stack: Stack) -> None:
        with stack.only_rules("PolicyChanged"):
            stack.create_repository("deleted/app", ALLOW_PULL)
            stack.registry.delete_repository_policy(repositoryName="deleted/app")
            stack.wait_for_statements("deleted/app", ALLOW_PULL)

    def test_image_pushed_without_a_trail(self, stack: Stack) -> None:
        with stack.only_rules("ImagePushed"):
            stack.create_repository("pushed/app")
            data_plane.push(stack.registry, "pushed/app")
            stack.wait_for_statements("pushed/app", ALLOW_PULL)

    @pytest.mark.parametrize(
        ("event", "repository"),
        [("image-cached", "ecr-public/docker/library/alpine"), ("image-replicated", "team/app")],
    )
    def test_image_cached_or_replicated(
        self, stack: Stack, saved_event: SavedEvent, event: str, repository: str
    ) -> None:
        with stack.only_rules("ImagePushed"):
            stack.create_repository(repository)
            stack.publish_event(saved_event(event))
            stack.wait_for_statements(repository, ALLOW_PULL)

    def test_stack_deployed(self, stack: Stack, saved_event: SavedEvent) -> None:
        with stack.only_rules("StackDeployed"):
            stack.create_repository("older-than-the-stack/app")
            stack.publish_event(with_stack_id(stack, saved_event("deployed")))
            stack.wait_for_statements("older-than-the-stack/app", ALLOW_PULL)

    def test_schedule(self, stack: Stack) -> None:
        scheduler = stack.aws.scheduler()
        (name,) = (schedule["Name"] for schedule in scheduler.list_schedules()["Schedules"])
        schedule = scheduler.get_schedule(Name=name)
        assert schedule["ScheduleExpression"] == "rate(1 day)"
        assert schedule["FlexibleTimeWindow"]["Mode"] == "FLEXIBLE"
        assert schedule["Target"]["DeadLetterConfig"]["Arn"].startswith("arn:aws:sqs:")

        with stack.only_rules():
            stack.create_repository("missed-by-all-events/app")
            soon = datetime.now(UTC) + timedelta(seconds=2)
            scheduler.create_schedule(
                Name="same-target-soon",
                ScheduleExpression=f"at({soon:%Y-%m-%dT%H:%M:%S})",
                FlexibleTimeWindow={"Mode": "OFF"},
                Target=schedule["Target"],
            )
            stack.wait_for_statements("missed-by-all-events/app", ALLOW_PULL)


def test_own_write_does_not_invoke_the_function(stack: Stack) -> None:
    since = time.time()
    stack.create_repository("own-write/app")
    stack.wait_for_statements("own-write/app", ALLOW_PULL)

    stack.wait_for_later_event("later/own-write")

    assert [report["outcomes"] for report in stack.reports(since)] == [{"attached": 1}] * 2


def test_two_stacks_converge_on_the_same_repository(
    stack: Stack,
) -> None:
    other_role = data_plane.create_role_alone(stack.aws, f"{data_plane.ROLE_NAME}-of-another-stack")
    roles = {data_plane.ROLE_ARN, other_role}
    stack.aws.deploy({"WorkerRoleArns": other_role}, stack="second")

    def wait_until_converged(repository: str) -> None:
        stack.wait_until(lambda: granted_roles(stack.statements(repository)) == roles)

    try:
        stack.create_repository("shared/app")
        wait_until_converged("shared/app")
        stack.create_repository("later/shared-1")
        wait_until_converged("later/shared-1")
        before = writes_to(stack, "shared/app")
        stack.create_repository("later/shared-2")
        wait_until_converged("later/shared-2")

        assert granted_roles(stack.statements("shared/app")) == roles
        assert writes_to(stack, "shared/app") == before
    finally:
        stack.aws.cloudformation().delete_stack(StackName="second")
        stack.aws.cloudformation().get_waiter("stack_delete_complete").wait(StackName="second")


def granted_roles(statements: list[Any]) -> set[str]:
    """Return the roles of the only statement, if there are several."""
    match statements:
        case [{"Sid": "AllowPull", "Principal": {"AWS": [*roles]}}]:
            return set(roles)
    return set()


def writes_to(stack: Stack, repository: str) -> int:
    """Count the writes of both stacks. An invocation that writes nothing causes no further event."""
    lines = [*stack.aws.log().splitlines(), *stack.aws.log("second").splitlines()]
    return sum(f'"repository":"{repository}"' in line and '"outcome":"attached"' in line for line in lines)


MATCHING_EVENTS: list[tuple[str, Change, str]] = [
    ("created-by-api", {}, "RepositoryCreated"),
    ("created-by-service", {}, "RepositoryCreated"),
    ("created-by-api", {"eventSource": "replication.ecr.amazonaws.com"}, "RepositoryCreated"),
    ("policy-set", {}, "PolicyChanged"),
    ("policy-deleted", {}, "PolicyChanged"),
    ("policy-set", {"userIdentity": {"accountId": ACCOUNT, "invokedBy": "x.amazonaws.com"}}, "PolicyChanged"),
    (
        "policy-set",
        {"userIdentity": {"type": "Root", "arn": f"arn:aws:iam::{ACCOUNT}:root"}},
        "PolicyChanged",
    ),
    ("policy-set", {"userIdentity": None}, "PolicyChanged"),
    ("image-pushed", {}, "ImagePushed"),
    ("image-cached", {}, "ImagePushed"),
    ("image-replicated", {}, "ImagePushed"),
    ("deployed", {}, "StackDeployed"),
    ("deployed", {"status-details": {"status": "CREATE_COMPLETE"}}, "StackDeployed"),
    ("deployed", {"status-details": {"status": "UPDATE_ROLLBACK_COMPLETE"}}, "StackDeployed"),
]
NON_MATCHING_EVENTS: list[tuple[str, Change]] = [
    ("creation-failed", {}),
    ("created-by-api", {"source": "aws.codecommit", "eventSource": "codecommit.amazonaws.com"}),
    ("created-by-api", {"eventSource": "ecr-public.amazonaws.com"}),
    ("created-by-api", {"eventName": "DeleteRepository"}),
    ("created-by-api", {"errorCode": None}),
    ("policy-set", {"errorCode": "InvalidParameterException"}),
    ("policy-set", {"eventName": "GetRepositoryPolicy"}),
    ("policy-set", {"eventName": "PutRegistryPolicy"}),
    ("policy-set", {"userIdentity": "own"}),
    ("image-pushed", {"action-type": "DELETE"}),
    ("image-pushed", {"result": "FAILURE"}),
    ("image-cached", {"sync-status": "FAILED"}),
    ("image-replicated", {"result": "FAILED"}),
    ("image-pushed", {"detail-type": "ECR Image Scan"}),
    ("deployed", {"status-details": {"status": "UPDATE_IN_PROGRESS"}}),
    ("deployed", {"status-details": {"status": "ROLLBACK_COMPLETE"}}),
    ("deployed", {"stack-id": f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/other/1"}),
]
# What another bus forwards keeps the account and the region where the event happened.
FORWARDED_EVENTS: list[tuple[str, Change]] = [
    (event, {envelope: value})
    for event in ("created-by-api", "created-by-service", "policy-set", "image-pushed", "deployed")
    for envelope, value in (("account", "999999999999"), ("region", "eu-west-1"))
]


@pytest.mark.parametrize(("event", "change", "rule"), MATCHING_EVENTS)
def test_event_matches_only_its_rule(
    stack: Stack, saved_event: SavedEvent, event: str, change: Change, rule: str
) -> None:
    assert matching_rules(stack, with_change(stack, saved_event(event), change)) == [rule]


@pytest.mark.parametrize(("event", "change"), NON_MATCHING_EVENTS + FORWARDED_EVENTS)
def test_non_matching_event_matches_no_rule(
    stack: Stack, saved_event: SavedEvent, event: str, change: Change
) -> None:
    assert matching_rules(stack, with_change(stack, saved_event(event), change)) == []


def test_each_matching_event_causes_exactly_one_invocation(stack: Stack, saved_event: SavedEvent) -> None:
    # An event on a repository that doesn't exist is retried for seconds.
    stack.wait_for_later_event("matching/app")
    since = time.time()

    for event, change in NON_MATCHING_EVENTS:
        stack.publish_event(with_change(stack, renamed(saved_event(event), "matching/app"), change))
    for number, (event, change, _) in enumerate(MATCHING_EVENTS):
        assert len(stack.reports(since)) == number
        stack.publish_event(with_change(stack, renamed(saved_event(event), "matching/app"), change))
        stack.wait_until(lambda: len(stack.reports(since)) > number)  # noqa: B023 - called in the same iteration

    stack.wait_for_later_event("later/matching")
    assert len(stack.reports(since)) == len(MATCHING_EVENTS) + 1


def renamed(event: dict[str, Any], repository: str) -> dict[str, Any]:
    """Return the event with another repository."""
    text = json.dumps(event)
    for name in ("team/app", "ecr-public/docker/library/alpine", "docker-hub/library/alpine"):
        text = text.replace(name, repository)
    result: dict[str, Any] = json.loads(text)
    return result


def with_stack_id(stack: Stack, event: dict[str, Any]) -> dict[str, Any]:
    (described,) = stack.aws.cloudformation().describe_stacks(StackName=STACK)["Stacks"]
    stack_id = described["StackId"]
    return event | {"resources": [stack_id], "detail": event["detail"] | {"stack-id": stack_id}}


def with_change(stack: Stack, event: dict[str, Any], change: Change) -> dict[str, Any]:
    """Return the event with changed fields in its envelope or detail. None removes `userIdentity`."""
    if event["source"] == "aws.cloudformation":
        event = with_stack_id(stack, event)
    if change.get("userIdentity") == "own":
        change = {"userIdentity": {"type": "AssumedRole", "arn": own_identity(stack)}}
    envelope = {key: value for key, value in change.items() if key in event}
    detail = event["detail"] | {key: value for key, value in change.items() if key not in event}
    if change.get("userIdentity", "") is None:
        del detail["userIdentity"]
    return event | {"account": ACCOUNT} | envelope | {"detail": detail}


def own_identity(stack: Stack) -> str:
    name = stack.outputs["FunctionName"]
    role = stack.aws.lambda_().get_function_configuration(FunctionName=name)["Role"].split("/")[-1]
    return f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{name}"


def matching_rules(stack: Stack, event: dict[str, Any]) -> list[str]:
    """Return the logical ids of the stack's rules that match an event."""
    events = stack.aws.events()
    return [
        logical
        for logical, pattern in stack.event_patterns.items()
        if events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"]
    ]
