"""Records what this AWS does where AWS's documentation is silent. The code survives every answer."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError

from devstack import data_plane
from tests.e2e.conftest import Record, Stack, equal_form

LIMIT = 10_240  # characters, by the API model
READS = 20
EVENTS = {"CreateRepository", "SetRepositoryPolicy", "DeleteRepositoryPolicy", "ECR Image Action"}


@pytest.fixture(autouse=True)
def no_rules(stack: Stack) -> Iterator[None]:
    with stack.only_rules():
        yield


@pytest.fixture
def repository(stack: Stack, no_rules: None) -> Iterator[str]:  # noqa: ARG001 - first
    """Create a repository, and delete it at the end: the function does not accept every policy in it."""
    name = stack.named("facts/app")
    stack.create_repository(name)
    yield name
    stack.registry.delete_repository(repositoryName=name, force=True)


def refusal(stack: Stack, repository: str, text: str) -> dict[str, str] | None:
    """Set a policy, and return ECR's error, or None."""
    try:
        stack.registry.set_repository_policy(repositoryName=repository, policyText=text)
    except ClientError as error:
        return {"code": error.response["Error"]["Code"], "message": error.response["Error"]["Message"]}
    return None


def policy(*statements: object, **members: object) -> str:
    document = {"Version": "2012-10-17", **members, "Statement": statements}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def stored(stack: Stack, repository: str) -> str:
    return stack.registry.get_repository_policy(repositoryName=repository)["policyText"]


def test_missing_principal_is_refused(stack: Stack, repository: str, record: Record) -> None:
    statement = stack.allow_pull | {"Principal": {"AWS": stack.target.arn("never-created")}}

    error = refusal(stack, repository, policy(statement))

    record("missing_principal", error)
    assert error


def test_principal_with_another_path_is_refused(stack: Stack, repository: str) -> None:
    role = stack.target.create_role("with-path")
    other = role.replace(":role/", ":role/another-path/")

    assert refusal(stack, repository, policy(stack.allow_pull | {"Principal": {"AWS": role}})) is None
    assert refusal(stack, repository, policy(stack.allow_pull | {"Principal": {"AWS": other}}))


def test_policy_with_the_id_of_a_deleted_principal_can_be_read(
    stack: Stack, repository: str, record: Record
) -> None:
    role = stack.target.create_role("deleted")
    stack.set_policy(repository, stack.allow_pull | {"Principal": {"AWS": role}})
    stack.target.delete_role("deleted")

    text = stored(stack, repository)
    (principal,) = [json.loads(text)["Statement"][0]["Principal"]["AWS"]]
    error = refusal(stack, repository, text)

    kind = "arn" if str(principal).startswith("arn:") else "unique id"
    record("deleted_principal_id", {"stored_as": kind, "accepted": error is None, **(error or {})})
    assert principal


def test_recreated_role_has_access_after_the_policy_is_written_again(
    stack: Stack, repository: str, record: Record
) -> None:
    arn = stack.target.create_role("of-a-node")
    statement = stack.allow_pull | {"Principal": {"AWS": arn}}
    stack.set_policy(repository, statement)
    data_plane.push(stack.registry, repository)
    stack.target.delete_role("of-a-node")
    assert stack.target.create_role("of-a-node") == arn
    node = stack.target.client(arn)

    error = data_plane.pull_error(node, repository, stack.aws.account)
    record("recreated_role", {"access": error is None})
    stack.set_policy(repository, statement)

    assert arn in stored(stack, repository)


def test_policy_comes_back_with_the_same_meaning(stack: Stack, repository: str, record: Record) -> None:
    roles = [stack.role, stack.target.create_role("a-second")]
    account = stack.foreign | {"Principal": {"AWS": stack.aws.account}, "Sid": "Account"}
    sent = policy(stack.allow_pull | {"Principal": {"AWS": roles}}, account, Id="Facts")
    assert refusal(stack, repository, sent) is None

    text = stored(stack, repository)
    found = json.loads(text)
    pull, by_account = found["Statement"]
    record(
        "policy_form",
        {
            "pretty_printed": "\n" in text,
            "key_order": list(pull),
            "single_action": "list" if isinstance(by_account["Action"], list) else "string",
            "principal_order_kept": pull["Principal"]["AWS"] == roles,
            "account_id_as": "arn" if "arn:" in json.dumps(by_account["Principal"]) else "id",
            "id_kept": found.get("Id") == "Facts",
            "version": found["Version"],
        },
    )
    assert equal_form(pull) == equal_form(stack.allow_pull | {"Principal": {"AWS": roles}})


def test_policy_near_the_limit_of_its_length_is_kept(stack: Stack, repository: str, record: Record) -> None:
    def with_value(value: str) -> str:
        condition = {"StringNotEquals": {"aws:PrincipalTag/team": value}}
        return policy(stack.allow_pull | {"Condition": condition})

    def accepted(text: str) -> bool:
        return refusal(stack, repository, text) is None

    unused = LIMIT - len(with_value(""))
    longest = with_value("x" * unused)
    error = refusal(stack, repository, with_value("x" * (unused + 1)))
    # Twice as many bytes as characters, and less than half of the limit after the blanks.
    two_bytes = accepted(with_value("é" * (unused - 100)))
    blanks = accepted(with_value("") + " " * LIMIT)
    record(
        "policy_length",
        {
            "counts": "characters" if two_bytes else "bytes",
            "of": "compact" if blanks else "sent",
            "longest_accepted": LIMIT if accepted(longest) else None,
            **(error or {}),
        },
    )
    assert accepted(with_value("x" * (unused // 2)))


def test_written_policy_is_read_within_seconds(stack: Stack, repository: str, record: Record) -> None:
    stale, slowest, throttled = 0, 0.0, 0
    for number in range(READS):
        sid = f"Write{number}"
        stack.set_policy(repository, stack.foreign | {"Sid": sid})
        since = time.monotonic()
        response = stack.registry.get_repository_policy(repositoryName=repository)
        late = sid not in response["policyText"]
        throttled += response["ResponseMetadata"]["RetryAttempts"] > 0
        stack.wait_until(lambda sid=sid: sid in stored(stack, repository))  # type: ignore[misc]
        stale, slowest = stale + late, max(slowest, time.monotonic() - since if late else 0.0)

    record("throttling", {"calls_throttled": throttled})
    record("read_lag", {"reads": READS, "stale": stale, "max_seconds": round(slowest, 1)})
    assert json.loads(stored(stack, repository))["Statement"][0]["Sid"] == f"Write{READS - 1}"


def test_new_repository_is_found_within_seconds(stack: Stack, record: Record) -> None:
    name = stack.named("facts/found")
    stack.create_repository(name)
    first = refusal(stack, name, policy(stack.allow_pull))

    record("repository_not_found_after_create", first is not None)
    stack.wait_until(lambda: refusal(stack, name, policy(stack.allow_pull)) is None)


@pytest.mark.trail
def test_events_have_the_form_that_the_rules_match(stack: Stack, record: Record) -> None:
    name = stack.named("facts/events")
    with captured_events(stack) as events:
        stack.create_repository(name, stack.foreign)
        stack.registry.delete_repository_policy(repositoryName=name)
        data_plane.push(stack.registry, name)

        def by_name() -> dict[str, dict[str, Any]]:
            return {each["detail"].get("eventName", each["detail-type"]): each for each in events(name)}

        stack.wait_until(lambda: by_name().keys() >= EVENTS)
        found = {kind: event for kind, event in by_name().items() if kind in EVENTS}

    for kind, event in found.items():
        action = event["detail"].get("action-type", kind)
        record(f"event:{event['detail-type']}:{action}", event)
    rules = {rule for event in found.values() for rule in stack.matching_rules(event)}
    assert rules == {"RepositoryCreated", "PolicyChanged", "ImagePushed"}


@contextmanager
def captured_events(stack: Stack) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Send all events of ECR to a queue, and yield a function that returns those of a repository."""
    events, sqs, name = stack.aws.events(), stack.aws.sqs(), f"{stack.aws.stack}-events"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name=name, EventPattern=json.dumps({"source": ["aws.ecr"]}))
    allow = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
    }
    sqs.set_queue_attributes(
        QueueUrl=url, Attributes={"Policy": json.dumps({"Version": "2012-10-17", "Statement": [allow]})}
    )
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": queue}])
    stack.changed()
    found: list[dict[str, Any]] = []

    def of(repository: str) -> list[dict[str, Any]]:
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            found.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [each for each in found if repository in json.dumps(each)]

    try:
        yield of
    finally:
        events.remove_targets(Rule=name, Ids=["queue"])
        events.delete_rule(Name=name)
        sqs.delete_queue(QueueUrl=url)
