"""The saved events: they have every field of a real event, and each field fits the others."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from devstack.host import PROJECT
from handler.events.request import Ignored, InvalidEvent, Request
from handler.events.triggers import FunctionIdentity, correlation_id, parse

type Event = dict[str, Any]

ACCOUNT, REGION = "012345678912", "us-east-1"
FUNCTION = FunctionIdentity(
    ACCOUNT, REGION, f"arn:aws:sts::{ACCOUNT}:assumed-role/ecr-allow-pull-Role/function"
)
EVENTS: dict[str, Event] = {
    path.stem: json.loads(path.read_text()) for path in sorted(PROJECT.glob("events/*.json"))
}
PAGE = (PROJECT / "events/README.md").read_text()
# What the page says of each event: rows name one or more files.
MEANINGS = {
    name: meaning
    for names, meaning in re.findall(r"^\| ((?:`[a-z-]+\.json`(?:, )?)+) \| (.+) \|$", PAGE, re.MULTILINE)
    for name in re.findall(r"`([a-z-]+)\.json`", names)
}
EVENTBRIDGE = "account detail detail-type id region resources source time version"
IDENTITY = "accountId arn principalId sessionContext type"
# "CloudTrail record contents" in the CloudTrail guide. A service event has no request of a caller.
CLOUDTRAIL = """awsRegion eventCategory eventID eventName eventSource eventTime eventType eventVersion
    managementEvent readOnly recipientAccountId requestParameters responseElements sourceIPAddress userAgent
    userIdentity"""
CALL = f"{CLOUDTRAIL} requestID resources"
OF_IMAGES = "image-digest image-tag repository-name"
# The fields of each object, by its place. "Amazon ECR events and EventBridge" in the ECR guide, and examples
# in CloudTrail's guide. Objects that are not listed are free.
FIELDS = {
    "created-by-api": {
        "detail": CALL,
        "detail.userIdentity": IDENTITY,
        "detail.requestParameters": "imageTagMutability repositoryName",
        "detail.responseElements": "repository",
        "detail.responseElements.repository": """createdAt encryptionConfiguration imageScanningConfiguration
            imageTagMutability registryId repositoryArn repositoryName repositoryUri""",
        "detail.resources.0": "ARN accountId",
    },
    "created-by-service": {
        "detail": f"{CLOUDTRAIL} serviceEventDetails",
        "detail.userIdentity": "accountId invokedBy",
        "detail.serviceEventDetails": "repositoryName",
    },
    "creation-failed": {
        "detail": f"{CALL} errorCode errorMessage",
        "detail.userIdentity": IDENTITY,
        "detail.requestParameters": "repositoryName",
        "detail.resources.0": "ARN accountId",
    },
    "policy-set": {
        "detail": CALL,
        "detail.userIdentity": IDENTITY,
        "detail.requestParameters": "force policyText repositoryName",
        "detail.responseElements": "policyText registryId repositoryName",
        "detail.resources.0": "ARN accountId",
    },
    "policy-deleted": {
        "detail": CALL,
        "detail.userIdentity": IDENTITY,
        "detail.requestParameters": "repositoryName",
        "detail.responseElements": "policyText registryId repositoryName",
        "detail.resources.0": "ARN accountId",
    },
    "image-pushed": {"detail": f"{OF_IMAGES} action-type result"},
    "image-cached": {"detail": f"{OF_IMAGES} ecr-repository-prefix sync-status upstream-registry-url"},
    "image-replicated": {"detail": f"{OF_IMAGES} action-type result source-account source-region"},
    "deployed": {
        "detail": "client-request-token stack-id status-details",
        "detail.status-details": "status status-reason",
    },
}
# The places of the repository's name, each of which is enough.
NAMES = {
    "created-by-api": (
        "detail.responseElements.repository.repositoryName",
        "detail.requestParameters.repositoryName",
        "detail.resources.0.ARN",
    ),
    "created-by-service": ("detail.serviceEventDetails.repositoryName",),
    **dict.fromkeys(
        ("policy-set", "policy-deleted"),
        (
            "detail.responseElements.repositoryName",
            "detail.requestParameters.repositoryName",
            "detail.resources.0.ARN",
        ),
    ),
    "image-pushed": ("detail.repository-name",),
    **dict.fromkeys(("image-cached", "image-replicated"), ("detail.repository-name", "resources.0")),
}
TIME = datetime(2026, 1, 15, 10, 0, 1, tzinfo=UTC)
REQUESTS = {
    "created-by-api": Request(("team/app",), may_be_new=True, created_at=TIME),
    "created-by-service": Request(("docker-hub/library/alpine",), may_be_new=True, created_at=TIME),
    "creation-failed": Ignored("the call failed and changed nothing"),
    "policy-set": Request(("team/app",), after_policy_change=True),
    "policy-deleted": Request(("team/app",), after_policy_change=True),
    "image-pushed": Request(("team/app",), may_be_new=True),
    "image-cached": Request(("ecr-public/docker/library/alpine",), may_be_new=True),
    "image-replicated": Request(("team/app",), may_be_new=True),
    "deployed": Request(("*",), with_registry_policy=True),
    "scheduled": Request(("*",), with_registry_policy=True, scheduled=True),
    "rerun-one": Request(("team/app",), with_registry_policy=True),
    "rerun-all": Request(("*",), with_registry_policy=True),
    "dry-run": Request(("*",), with_registry_policy=True, dry_run=True),
}
OF_CLOUDTRAIL = [name for name, event in EVENTS.items() if "CloudTrail" in event.get("detail-type", "")]


def at(event: object, path: str) -> Any:  # noqa: ANN401 - a part of an event
    for key in path.split("."):
        event = event[int(key)] if isinstance(event, list) else event[key]  # type: ignore[index]
    return event


def without(event: object, path: str) -> object:
    """Return a copy without the field or the item at the path."""
    key, _, rest = path.partition(".")
    if isinstance(event, list):
        changed = [without(event[int(key)], rest)] if rest else []
        return [*event[: int(key)], *changed, *event[int(key) + 1 :]]
    assert isinstance(event, dict)
    others = {name: value for name, value in event.items() if name != key}
    return others | {key: without(event[key], rest)} if rest else others


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{path}.{key}".removeprefix("."))
    else:
        yield path, value


def test_the_page_lists_every_saved_event() -> None:
    assert MEANINGS.keys() == REQUESTS.keys() == EVENTS.keys() - {"playground"}
    assert FIELDS.keys() == {name for name, event in EVENTS.items() if "detail" in event}


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"{name}: {text}") for name, text in MEANINGS.items()]
)
def test_an_event_requests_what_the_page_says(name: str) -> None:
    assert parse(EVENTS[name], FUNCTION) == REQUESTS[name]
    assert correlation_id(EVENTS[name]) == EVENTS[name].get("id")


@pytest.mark.parametrize("name", FIELDS)
def test_an_event_has_the_fields_that_aws_documents(name: str) -> None:
    event = EVENTS[name]

    assert event.keys() == {*EVENTBRIDGE.split()}
    for place, fields in FIELDS[name].items():
        assert at(event, place).keys() == {*fields.split()}, place


@pytest.mark.parametrize(
    ("name", "place"), [(name, each) for name, places in NAMES.items() for each in places]
)
def test_an_event_names_the_repository_in_each_place_that_the_function_reads(name: str, place: str) -> None:
    event: object = EVENTS[name]
    for other in set(NAMES[name]) - {place}:
        event = without(event, other)

    assert parse(event, FUNCTION) == REQUESTS[name]
    with pytest.raises(InvalidEvent, match="names no repository"):
        parse(without(event, place), FUNCTION)


@pytest.mark.parametrize("name", FIELDS)
def test_the_account_the_region_and_the_time_are_the_same_everywhere(name: str) -> None:
    values = {
        path: value
        for path, value in leaves(EVENTS[name])
        if isinstance(value, str) and not path.endswith(("source-account", "source-region"))
    }
    text = " ".join(values.values())

    assert (values["account"], values["region"]) == (ACCOUNT, REGION)
    assert {*re.findall(r"(?<![0-9a-f-])[0-9]{12}(?![0-9a-f])", text)} == {ACCOUNT}
    assert {*re.findall(r"\b[a-z]{2}-[a-z]+-[0-9]\b", text)} == {REGION}
    times = {values.get(path, values["time"]) for path in ("time", "detail.eventTime")}
    assert [*map(datetime.fromisoformat, times)] == [TIME]


def test_the_ids_of_all_events_are_different() -> None:
    ids = [
        value
        for event in EVENTS.values()
        for path, value in leaves(event)
        if path in {"id", "detail.eventID", "detail.requestID", "detail.client-request-token"}
    ]

    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(each)) for each in ids)


@pytest.mark.parametrize("name", OF_CLOUDTRAIL)
class TestARecordOfCloudTrail:
    def test_is_of_the_kind_that_the_event_says(self, name: str) -> None:
        event, detail = EVENTS[name], EVENTS[name]["detail"]
        kinds = {
            "AwsApiCall": "AWS API Call via CloudTrail",
            "AwsServiceEvent": "AWS Service Event via CloudTrail",
        }

        assert event["detail-type"] == kinds[detail["eventType"]]
        assert (detail["eventCategory"], detail["managementEvent"], detail["readOnly"]) == (
            "Management",
            True,
            False,
        )
        assert re.fullmatch(r"1\.\d\d", detail["eventVersion"])
        is_of_ecr = (
            detail["userIdentity"].get("invokedBy") == detail["sourceIPAddress"] == "ecr.amazonaws.com"
        )
        assert is_of_ecr == (detail["eventType"] == "AwsServiceEvent")

    def test_has_a_response_only_if_the_call_succeeded(self, name: str) -> None:
        detail = EVENTS[name]["detail"]
        succeeded = "errorCode" not in detail and detail["eventType"] == "AwsApiCall"

        assert (detail["responseElements"] is not None) == succeeded

    def test_is_of_another_caller_than_the_function(self, name: str) -> None:
        assert EVENTS[name]["detail"]["userIdentity"].get("arn") != FUNCTION.caller_arn


def test_the_policy_in_the_response_is_the_policy_of_the_request() -> None:
    detail = EVENTS["policy-set"]["detail"]
    request, response = (detail[each]["policyText"] for each in ("requestParameters", "responseElements"))

    assert (
        json.loads(request)
        == json.loads(response)
        == json.loads(EVENTS["policy-deleted"]["detail"]["responseElements"]["policyText"])
    )
    assert request != response  # ECR formats it


def test_the_new_repository_is_described_as_ecr_describes_it() -> None:
    repository = EVENTS["created-by-api"]["detail"]["responseElements"]["repository"]

    assert repository["repositoryArn"] == f"{FUNCTION.repository_arn_prefix}team/app"
    assert repository["repositoryUri"] == f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/team/app"
    assert repository["createdAt"] == "Jan 15, 2026, 10:00:01 AM"


def test_an_image_comes_from_where_the_page_says() -> None:
    pushed, cached, replicated = (
        EVENTS[f"image-{each}"]["detail"] for each in ("pushed", "cached", "replicated")
    )

    assert (pushed["action-type"], pushed["result"]) == ("PUSH", "SUCCESS")
    assert (replicated["action-type"], replicated["result"]) == ("REPLICATE", "SUCCESS")
    assert (replicated["source-account"], replicated["source-region"]) == ("999999999999", "eu-west-1")
    assert cached["sync-status"] == "SUCCESS"
    assert cached["repository-name"].startswith(f"{cached['ecr-repository-prefix']}/")
    for detail in (pushed, cached, replicated):
        assert re.fullmatch("sha256:[0-9a-f]{64}", detail["image-digest"])


def test_the_deployment_is_an_update_of_the_stack_in_the_resources() -> None:
    event = EVENTS["deployed"]

    assert event["detail"]["status-details"] == {"status": "UPDATE_COMPLETE", "status-reason": ""}
    assert event["resources"] == [event["detail"]["stack-id"]]
    assert event["resources"][0].startswith(
        f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/ecr-allow-pull/"
    )
