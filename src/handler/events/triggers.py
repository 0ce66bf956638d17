"""The triggers: an EventBridge event or a payload becomes a request."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from handler.events.request import Ignored, InvalidEvent, Json, Request, from_payload, shown
from handler.policy.scope import is_repository_name

_REPOSITORY_ARN = re.compile(r"arn:[^:]+:ecr:(?P<region>[^:]*):(?P<account>[^:]*):repository/(?P<name>.+)")

_ID = re.compile(r"[0-9a-fA-F-]{1,64}")
_EVENT_SOURCES = ("ecr.amazonaws.com", "replication.ecr.amazonaws.com")
_CLOUDTRAIL = ("AWS API Call via CloudTrail", "AWS Service Event via CloudTrail")
# The events of ECR itself that say that an image was pushed, and what their detail holds then.
_IMAGE_EVENTS: dict[str, Json] = {
    "ECR Image Action": {"result": "SUCCESS", "action-type": "PUSH"},
    "ECR Pull Through Cache Action": {"sync-status": "SUCCESS"},
    "ECR Replication Action": {"result": "SUCCESS"},
}
# A deployment that rolls back may have changed policies meanwhile.
_DEPLOYED_STATUSES = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")


type _Parser = Callable[[Json, Json, FunctionIdentity], Request | Ignored]


@dataclass(frozen=True, slots=True)
class FunctionIdentity:
    """The account and region of the function, and the ARN by which CloudTrail records it as a caller."""

    account: str
    region: str
    caller_arn: str
    partition: str = "aws"

    @property
    def repository_arn_prefix(self) -> str:
        """The ARN of a repository, without its name."""
        return f"arn:{self.partition}:ecr:{self.region}:{self.account}:repository/"


def parse(event: object, function: FunctionIdentity) -> Request | Ignored:
    """Parse an EventBridge event, or a payload written by a person.

    An event only names repositories. Neither an event nor a payload can name a principal.

    Raises:
        InvalidEvent: it is neither, it is wrong, or it comes from another account or region.
    """
    if isinstance(event, dict) and "detail-type" in event:
        return _from_eventbridge(event, function)
    return from_payload(event)


def correlation_id(event: object) -> str | None:
    """Return the id of an EventBridge event, or of the invocation that started the sweep that continues."""
    if not isinstance(event, dict):
        return None
    is_eventbridge = "detail-type" in event
    value = event.get("id") if is_eventbridge else _object(event.get("continuation")).get("correlation_id")
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _from_eventbridge(event: Json, function: FunctionIdentity) -> Request | Ignored:
    detail = event.get("detail")
    if not isinstance(detail, dict):
        raise InvalidEvent('the EventBridge event has no "detail" object')
    to_request = _parser_of(event, detail)
    if to_request is None:
        return Ignored("not an event that this function acts on")
    if "errorCode" in detail:
        return Ignored("the call failed and changed nothing")
    account, region = event.get("account"), event.get("region")
    if (account, region) != (function.account, function.region):
        raise InvalidEvent(
            f"the event comes from account {shown(account)}, region {shown(region)}, and this function "
            f"manages the registry of account {function.account}, region {function.region}: deploy the stack "
            "there too"
        )
    if _registries(event, detail) - {function.account}:
        return Ignored("a call on another account's registry")
    return to_request(event, detail, function)


def _parser_of(event: Json, detail: Json) -> _Parser | None:
    detail_type = str(event["detail-type"])
    match event.get("source"):
        # CodeCommit and ECR Public have a CreateRepository too, so both sources are checked.
        case "aws.ecr" if detail_type in _CLOUDTRAIL and detail.get("eventSource") in _EVENT_SOURCES:
            return _CALLS.get(str(detail.get("eventName")))
        case "aws.ecr" if detail_type in _IMAGE_EVENTS:
            return _from_image
        case "aws.cloudformation" if detail_type == "CloudFormation Stack Status Change":
            return _from_deployment
    return None


def _from_creation(event: Json, detail: Json, function: FunctionIdentity) -> Request | Ignored:
    name = _repository_name(_names_in_record(detail, function))
    return Request((name,), may_be_new=True, created_at=_time(event.get("time")))


def _from_policy_change(_: Json, detail: Json, function: FunctionIdentity) -> Request | Ignored:
    # The rule filters these out too. But a write that caused another write would never end.
    if _object(detail.get("userIdentity")).get("arn") == function.caller_arn:
        return Ignored("the function's own write")
    return Request((_repository_name(_names_in_record(detail, function)),), after_policy_change=True)


def _from_image(event: Json, detail: Json, function: FunctionIdentity) -> Request | Ignored:
    if not _IMAGE_EVENTS[str(event["detail-type"])].items() <= detail.items():
        return Ignored("no image was pushed")
    return Request((_repository_name(_names_in_image_event(event, detail, function)),), may_be_new=True)


def _from_deployment(_: Json, detail: Json, __: FunctionIdentity) -> Request | Ignored:
    if _object(detail.get("status-details")).get("status") not in _DEPLOYED_STATUSES:
        return Ignored("not a completed deployment")
    return Request(("*",), with_registry_policy=True)


_CALLS = {
    "CreateRepository": _from_creation,
    "SetRepositoryPolicy": _from_policy_change,
    "DeleteRepositoryPolicy": _from_policy_change,
}


def _registries(event: Json, detail: Json) -> set[str]:
    """Return the accounts of the registries that an event names.

    CloudTrail records a call on another account's registry in the caller's account too.
    """
    response, request = _object(detail.get("responseElements")), _object(detail.get("requestParameters"))
    places = (response, _object(response.get("repository")), request)
    resources = (_object(each) for each in _list(detail.get("resources")))
    arns = [each.get("ARN", each.get("arn")) for each in resources] + _list(event.get("resources"))
    matches = [_REPOSITORY_ARN.fullmatch(arn) for arn in arns if isinstance(arn, str)]
    named = {str(place["registryId"]) for place in places if place.get("registryId")}
    return named | {match["account"] for match in matches if match}


def _repository_name(candidates: Iterator[str]) -> str:
    name = next(candidates, None)
    if name is None:
        raise InvalidEvent("the event names no repository")
    if not is_repository_name(name):
        raise InvalidEvent(f"the event names {shown(name)!r}, which is not a valid name of an ECR repository")
    return name


def _names_in_record(detail: Json, function: FunctionIdentity) -> Iterator[str]:
    """Yield the repository's name from each place where CloudTrail may put it, the most reliable first.

    An API call has it in the response; an action of ECR itself has it in `serviceEventDetails`.
    """
    response = _object(detail.get("responseElements"))
    places = (
        _object(response.get("repository")),
        response,
        _object(detail.get("serviceEventDetails")),
        _object(detail.get("requestParameters")),
    )
    for place in places:
        if isinstance(name := place.get("repositoryName"), str):
            yield name
    for resource in map(_object, _list(detail.get("resources"))):
        yield from _names_in_arn(resource.get("ARN", resource.get("arn")), function)


def _names_in_image_event(event: Json, detail: Json, function: FunctionIdentity) -> Iterator[str]:
    if isinstance(name := detail.get("repository-name"), str):
        yield name
    for arn in _list(event.get("resources")):
        yield from _names_in_arn(arn, function)


def _names_in_arn(arn: object, function: FunctionIdentity) -> Iterator[str]:
    match = _REPOSITORY_ARN.fullmatch(arn) if isinstance(arn, str) else None
    if match and (match["account"], match["region"]) == (function.account, function.region):
        yield match["name"]


def _time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time and time.tzinfo else None


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
