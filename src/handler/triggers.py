"""Any event -> the repositories that it asks to check. Pure."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from handler.request import InvalidEvent, Json, Request, from_payload
from handler.scope import is_repository_name

_REPOSITORY_ARN = re.compile(r"arn:[^:]+:ecr:(?P<region>[^:]*):(?P<account>[^:]*):repository/(?P<name>.+)")

_EVENT_ID = re.compile(r"[0-9a-fA-F-]{1,64}")
_CLOUDTRAIL = ("AWS API Call via CloudTrail", "AWS Service Event via CloudTrail")
# What each event says of itself when an image has arrived.
_ARRIVALS: dict[str, Json] = {
    "ECR Image Action": {"result": "SUCCESS", "action-type": "PUSH"},
    "ECR Pull Through Cache Action": {"sync-status": "SUCCESS"},
    "ECR Replication Action": {"result": "SUCCESS"},
}
_DEPLOYED = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


@dataclass(frozen=True, slots=True)
class Home:
    """Where the function is, and who it is: the session of its role, as CloudTrail names callers."""

    account: str
    region: str
    identity: str


def parse(event: object, home: Home) -> Request:
    """Read an EventBridge event, or a payload written by hand.

    An event only names repositories: neither it nor a payload can name a principal.

    Raises:
        InvalidEvent: it is neither, it is wrong, or it comes from another account or region.
    """
    if isinstance(event, dict) and "detail-type" in event:
        return _from_eventbridge(event, home)
    return from_payload(event)


def event_id(event: object) -> str:
    """Give the id of an EventBridge event, or nothing for a payload."""
    told = event.get("id") if isinstance(event, dict) and "detail-type" in event else None
    return told if isinstance(told, str) and _EVENT_ID.fullmatch(told) else ""


def _from_eventbridge(event: Json, home: Home) -> Request:
    detail = event.get("detail")
    if not isinstance(detail, dict):
        raise InvalidEvent('the EventBridge event has no "detail" object')
    read = _reader(event, detail)
    if read is None:
        return Request(ignored="not an event that this function acts on")
    came_from = (event.get("account"), event.get("region"))
    if came_from != (home.account, home.region):
        raise InvalidEvent(
            f"the event comes from account {came_from[0]}, region {came_from[1]}, and this function keeps "
            f"the registry of account {home.account}, region {home.region}: deploy the stack there as well"
        )
    return read(event, detail, home)


def _reader(event: Json, detail: Json) -> Callable[[Json, Json, Home], Request] | None:
    kind = str(event["detail-type"])
    match event.get("source"):
        # CodeCommit and ECR Public also have a CreateRepository; its event differs in these sources only.
        case "aws.ecr" if kind in _CLOUDTRAIL and detail.get("eventSource") == "ecr.amazonaws.com":
            return _CALLS.get(str(detail.get("eventName")))
        case "aws.ecr" if kind in _ARRIVALS:
            return _from_arrival
        case "aws.cloudformation" if kind == "CloudFormation Stack Status Change":
            return _from_deployment
    return None


def _from_creation(event: Json, detail: Json, home: Home) -> Request:
    if "errorCode" in detail:
        return Request(ignored="the call failed and created nothing")
    name = _repository_name(_names_in_record(detail, home))
    return Request((name,), may_be_new=True, created_at=_time(event.get("time")))


def _from_policy_change(_: Json, detail: Json, home: Home) -> Request:
    if "errorCode" in detail:
        return Request(ignored="the call failed and changed nothing")
    # Its rule lets these not through either. But a write that led to a write would never end.
    if _object(detail.get("userIdentity")).get("arn") == home.identity:
        return Request(ignored="the function's own write")
    return Request((_repository_name(_names_in_record(detail, home)),), healing=True)


def _from_arrival(event: Json, detail: Json, home: Home) -> Request:
    if not _ARRIVALS[str(event["detail-type"])].items() <= detail.items():
        return Request(ignored="no image has arrived")
    return Request((_repository_name(_names_in_arrival(event, detail, home)),), may_be_new=True)


def _from_deployment(_: Json, detail: Json, __: Home) -> Request:
    if _object(detail.get("status-details")).get("status") not in _DEPLOYED:
        return Request(ignored="no deployment that is complete")
    return Request(("*",))


_CALLS = {
    "CreateRepository": _from_creation,
    "SetRepositoryPolicy": _from_policy_change,
    "DeleteRepositoryPolicy": _from_policy_change,
}


def _repository_name(candidates: Iterator[str]) -> str:
    name = next(candidates, None)
    if name is None:
        raise InvalidEvent("the event names no repository")
    if not is_repository_name(name):
        raise InvalidEvent(f"the event names {name!r}, which is no name that an ECR repository can have")
    return name


def _names_in_record(detail: Json, home: Home) -> Iterator[str]:
    """Find the repository's name where CloudTrail may put it, the surest place first.

    A call by API has it in the response; what ECR does by itself has it in `serviceEventDetails`.
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
        yield from _names_in_arn(resource.get("ARN", resource.get("arn")), home)


def _names_in_arrival(event: Json, detail: Json, home: Home) -> Iterator[str]:
    if isinstance(name := detail.get("repository-name"), str):
        yield name
    for arn in _list(event.get("resources")):
        yield from _names_in_arn(arn, home)


def _names_in_arn(arn: object, home: Home) -> Iterator[str]:
    match = _REPOSITORY_ARN.fullmatch(arn) if isinstance(arn, str) else None
    if match and (match["account"], match["region"]) == (home.account, home.region):
        yield match["name"]


def _time(value: object) -> datetime | None:
    try:
        told = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return told if told and told.tzinfo else None


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
