"""The event patterns of the deployed rules, against the saved events and against events that look like them.

The end-to-end tests ask the embedded AWS the same questions.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from moto.events.models import EventPattern

from tests.unit.cloudformation import ACCOUNT, REGION, STACK, STACK_UUID, deployed

type Event = dict[str, Any]
type SavedEvent = Callable[[str], Event]
type RulesOfVariant = Callable[[str, tuple[str, ...], object], list[str]]

RULES = {
    "RepositoryCreated": ["created-by-api", "created-by-service"],
    "PolicyChanged": ["policy-set", "policy-deleted"],
    "ImagePushed": ["image-pushed", "image-cached", "image-replicated"],
    "StackDeployed": ["deployed"],
}
MATCHING = [(rule, event) for rule, events in RULES.items() for event in events]
STACK_ID = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{STACK}/{STACK_UUID}"
REPOSITORY_NAME = ("detail", "requestParameters", "repositoryName")
EVENT_SOURCE = ("detail", "eventSource")
OWN_CALLER = "arn:aws:sts::111122223333:assumed-role/<Role>/<Function>"


@pytest.fixture(scope="module")
def matching(processed_template: dict[str, Any]) -> Callable[[Event], list[str]]:
    patterns = {
        name: EventPattern.load(json.dumps(properties["EventPattern"]))
        for name, properties in deployed(processed_template).items()
        if "EventPattern" in properties
    }
    assert patterns.keys() == RULES.keys()

    def match(event: Event) -> list[str]:
        return [name for name, pattern in patterns.items() if pattern.matches_event(event)]  # type: ignore[arg-type]

    return match


def changed(event: Event, *path: str, to: object) -> Event:
    """Return the event with another value at the path; without it if that is None."""
    first, *others = path
    if others:
        return event | {first: changed(event[first], *others, to=to)}
    return {key: value for key, value in event.items() if key != first} if to is None else event | {first: to}


def from_this_stack(event: Event) -> Event:
    event = event | {"account": ACCOUNT, "region": REGION}
    return changed(event, "detail", "stack-id", to=STACK_ID) if "stack-id" in event["detail"] else event


@pytest.fixture
def rules_of_variant(matching: Callable[[Event], list[str]], saved_event: SavedEvent) -> RulesOfVariant:
    """Return a function that returns the rules of a saved event with another value at a path."""

    def rules(name: str, path: tuple[str, ...], value: object) -> list[str]:
        return matching(changed(from_this_stack(saved_event(name)), *path, to=value))

    return rules


@pytest.mark.parametrize(("rule", "name"), MATCHING)
def test_a_saved_event_matches_its_rule_only(
    matching: Callable[[Event], list[str]], saved_event: SavedEvent, rule: str, name: str
) -> None:
    assert matching(from_this_stack(saved_event(name))) == [rule]


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        *(
            (name, EVENT_SOURCE, "replication.ecr.amazonaws.com")
            for name in ("created-by-api", "created-by-service", "policy-set", "policy-deleted")
        ),
        ("policy-set", ("detail", "userIdentity"), {"type": "Root", "arn": f"arn:aws:iam::{ACCOUNT}:root"}),
        ("policy-set", ("detail", "userIdentity", "arn"), None),
        ("policy-set", ("detail", "userIdentity"), None),
        *(
            ("policy-set", REPOSITORY_NAME, name)
            for name in (
                *("app", "ecr-allow-pull-role-check", "ecr-allow-pull-role-checks/app"),
                "team/ecr-allow-pull-role-check/app",
            )
        ),
        ("policy-set", REPOSITORY_NAME, None),
        ("policy-set", ("detail", "requestParameters"), None),
        ("policy-deleted", ("detail", "requestParameters"), None),
        ("deployed", ("detail", "status-details", "status"), "CREATE_COMPLETE"),
        ("deployed", ("detail", "status-details", "status"), "UPDATE_COMPLETE"),
        ("deployed", ("detail", "status-details", "status"), "UPDATE_ROLLBACK_COMPLETE"),
    ],
)
def test_a_variant_of_a_saved_event_matches_too(
    rules_of_variant: RulesOfVariant, name: str, path: tuple[str, ...], value: object
) -> None:
    (rule,) = (rule for rule, events in RULES.items() if name in events)

    assert rules_of_variant(name, path, value) == [rule]


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        *((name, ("account",), "999999999999") for _, name in MATCHING),
        *((name, ("region",), "ap-south-1") for _, name in MATCHING),
        *((name, ("source",), "custom") for _, name in MATCHING),
        *((name, ("detail-type",), "another type") for _, name in MATCHING),
        ("created-by-api", EVENT_SOURCE, "ecr-public.amazonaws.com"),
        ("created-by-service", EVENT_SOURCE, "scan.ecr.amazonaws.com"),
        ("created-by-api", ("detail", "eventName"), "DeleteRepository"),
        ("created-by-api", ("detail", "errorCode"), "AccessDenied"),
        ("policy-set", EVENT_SOURCE, "ecr-public.amazonaws.com"),
        ("policy-set", EVENT_SOURCE, None),
        ("policy-set", ("detail", "eventName"), "PutRegistryPolicy"),
        ("policy-set", ("detail", "errorCode"), "InvalidParameterException"),
        ("policy-set", ("detail", "userIdentity", "arn"), OWN_CALLER),
        # The role checks of other stacks, and of this one.
        ("policy-set", REPOSITORY_NAME, "ecr-allow-pull-role-check/00000000-0000-4000-8000-000000000000"),
        ("policy-set", REPOSITORY_NAME, f"ecr-allow-pull-role-check/{STACK_UUID}"),
        ("policy-deleted", REPOSITORY_NAME, f"ecr-allow-pull-role-check/{STACK_UUID}"),
        ("image-pushed", ("detail", "action-type"), "DELETE"),
        ("image-pushed", ("detail", "result"), "FAILURE"),
        ("image-cached", ("detail", "sync-status"), "FAILED"),
        ("image-replicated", ("detail", "result"), "FAILED"),
        ("deployed", ("detail", "status-details", "status"), "UPDATE_IN_PROGRESS"),
        ("deployed", ("detail", "status-details", "status"), "ROLLBACK_COMPLETE"),
        ("deployed", ("detail", "status-details", "status"), "DELETE_COMPLETE"),
        ("deployed", ("detail", "stack-id"), f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/other/1"),
    ],
)
def test_an_event_that_asks_for_nothing_matches_no_rule(
    rules_of_variant: RulesOfVariant, name: str, path: tuple[str, ...], value: object
) -> None:
    assert rules_of_variant(name, path, value) == []


def test_a_failed_creation_matches_no_rule(
    matching: Callable[[Event], list[str]], saved_event: SavedEvent
) -> None:
    assert matching(from_this_stack(saved_event("creation-failed"))) == []
