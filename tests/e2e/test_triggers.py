"""Tests which events invoke the deployed function, and which repositories it then reconciles."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devstack import data_plane
from devstack.aws import ACCOUNT
from tests.e2e.conftest import Record, Stack, equal_form

type SavedEvent = Callable[[str], dict[str, Any]]
type Change = dict[str, Any]


class TestEachTrigger:
    @pytest.mark.trail
    def test_repository_created_by_api_call(self, stack: Stack, record: Record) -> None:
        repository = stack.named("created/app")
        with stack.only_rules("RepositoryCreated"):
            stack.create_repository(repository)
            since = time.monotonic()
            stack.wait_for_statements(repository, stack.allow_pull)
            record("delay:created", round(time.monotonic() - since, 1))

    @pytest.mark.embedded("needs a pull-through cache")
    def test_repository_created_by_ecr(self, stack: Stack) -> None:
        with stack.only_rules("RepositoryCreated"):
            stack.create_repository("docker-hub/created/app")
            stack.wait_for_statements("docker-hub/created/app", stack.allow_pull)

    @pytest.mark.trail
    def test_policy_overwritten(self, stack: Stack, record: Record) -> None:
        repository = stack.named("overwritten/app")
        with stack.only_rules("PolicyChanged"):
            stack.create_repository(repository, stack.allow_pull)
            stack.set_policy(repository, stack.foreign)
            since = time.monotonic()
            stack.wait_for_statements(repository, stack.foreign, stack.allow_pull)
            record("delay:policy_changed", round(time.monotonic() - since, 1))

    @pytest.mark.trail
    def test_policy_deleted(self, stack: Stack) -> None:
        repository = stack.named("deleted/app")
        with stack.only_rules("PolicyChanged"):
            stack.create_repository(repository, stack.allow_pull)
            stack.registry.delete_repository_policy(repositoryName=repository)
            stack.wait_for_statements(repository, stack.allow_pull)

    def test_image_pushed_without_a_trail(self, stack: Stack, record: Record) -> None:
        repository = stack.named("pushed/app")
        with stack.only_rules("ImagePushed"):
            stack.create_repository(repository)
            data_plane.push(stack.registry, repository)
            since = time.monotonic()
            stack.wait_for_statements(repository, stack.allow_pull)
            record("delay:pushed", round(time.monotonic() - since, 1))

    @pytest.mark.embedded("AWS accepts no event with its own source")
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
            stack.wait_for_statements(repository, stack.allow_pull)

    @pytest.mark.embedded(
        "AWS accepts no event with its own source; on AWS, test_removal.py shows this trigger"
    )
    def test_stack_deployed(self, stack: Stack, saved_event: SavedEvent) -> None:
        with stack.only_rules("StackDeployed"):
            stack.create_repository("older-than-the-stack/app")
            stack.publish_event(with_stack_id(stack, saved_event("deployed")))
            stack.wait_for_statements("older-than-the-stack/app", stack.allow_pull)

    def test_schedule(self, stack: Stack) -> None:
        scheduler, repository = stack.aws.scheduler(), stack.named("missed-by-all-events/app")
        schedules = scheduler.list_schedules(NamePrefix=stack.aws.stack)["Schedules"]
        (name,) = (each["Name"] for each in schedules)
        schedule = scheduler.get_schedule(Name=name)
        assert schedule["ScheduleExpression"] == "rate(1 day)"
        assert schedule["FlexibleTimeWindow"]["Mode"] == "FLEXIBLE"
        assert schedule["Target"]["DeadLetterConfig"]["Arn"].startswith("arn:aws:sqs:")

        with stack.only_rules():
            stack.create_repository(repository)
            soon = datetime.now(UTC) + timedelta(seconds=2 + stack.target.settling)
            scheduler.create_schedule(
                Name=f"{stack.aws.stack}-soon",
                ScheduleExpression=f"at({soon:%Y-%m-%dT%H:%M:%S})",
                FlexibleTimeWindow={"Mode": "OFF"},
                ActionAfterCompletion="DELETE",
                Target=schedule["Target"],
            )
            stack.wait_for_statements(repository, stack.allow_pull)


@pytest.mark.trail
def test_own_write_does_not_invoke_the_function(stack: Stack) -> None:
    stack.wait_for_later_event(stack.named("earlier/own-write"))
    since, repository = time.time(), stack.named("own-write/app")
    stack.create_repository(repository)
    stack.wait_for_statements(repository, stack.allow_pull)

    stack.wait_for_later_event(stack.named("later/own-write"))
    # On AWS, events can change their order: the event of the own write would come within this time.
    time.sleep(8 * stack.target.settling)

    outcomes = [report["outcomes"] for report in stack.reports(since)]
    in_scope = [each for each in outcomes if "out_of_scope" not in each]  # of others
    assert in_scope == [{"attached": 1}] * 2


@pytest.mark.trail
def test_settled_policy_is_not_written_again(stack: Stack) -> None:
    repository = stack.named("settled/app")
    stack.create_repository(repository, stack.foreign, stack.allow_pull)
    stack.settle()

    report = stack.invoke({"repositories": [repository]})

    assert report["outcomes"] == {"unchanged": 1}
    assert stack.statements(repository) == equal_form(stack.foreign, stack.allow_pull)


@pytest.mark.embedded("needs a second stack for the same repositories")
def test_two_stacks_converge_on_the_same_repository(
    stack: Stack,
) -> None:
    other_role = stack.target.create_role(f"{data_plane.ROLE_NAME}-of-another-stack")
    roles = {data_plane.ROLE_ARN, other_role}
    stack.deploy({"WorkerRoleArns": other_role}, "second")

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
        stack.aws.delete("second")


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
    assert stack.matching_rules(with_change(stack, saved_event(event), change)) == [rule]


@pytest.mark.parametrize(("event", "change"), NON_MATCHING_EVENTS + FORWARDED_EVENTS)
def test_non_matching_event_matches_no_rule(
    stack: Stack, saved_event: SavedEvent, event: str, change: Change
) -> None:
    assert stack.matching_rules(with_change(stack, saved_event(event), change)) == []


@pytest.mark.embedded("AWS accepts no event with its own source")
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
    (described,) = stack.aws.cloudformation().describe_stacks(StackName=stack.aws.stack)["Stacks"]
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
    own = {"account": stack.aws.account, "region": stack.aws.region}
    changed: dict[str, Any] = json.loads(
        json.dumps(event | own | envelope | {"detail": detail}).replace(ACCOUNT, stack.aws.account)
    )
    return changed


def own_identity(stack: Stack) -> str:
    name = stack.outputs["FunctionName"]
    role = stack.aws.lambda_().get_function_configuration(FunctionName=name)["Role"].split("/")[-1]
    return f"arn:{stack.aws.partition}:sts::{stack.aws.account}:assumed-role/{role}/{name}"
